//! What operators sign, in a mesh of real agents: documents reach all and survive them all, a revocation ends a node's
//! connections and keeps it out, a forgery is refused.

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Value, json};
use starling_identity::{OperatorKey, OperatorStatement, TrustBundle};
use starling_model::{Document, DocumentKey, Generation, NodeName, Revocation};

use crate::agent::{Host, Mesh, eventually, three};

/// An operator at its desk: the key, and the bundle that names it.
struct Operator {
    key: OperatorKey,
    bundle: TrustBundle,
}

impl Operator {
    fn of(mesh: &Mesh) -> Self {
        let key = fs::read_to_string(mesh.path("op/operator/alice.key")).unwrap();
        let bundle = fs::read(mesh.path("op/trust/bundle.trust")).unwrap();
        Self { key: OperatorKey::from_pem(&key).unwrap(), bundle: TrustBundle::parse(&bundle).unwrap() }
    }

    fn form(&self, statement: OperatorStatement, format: &str, body: &[u8]) -> Value {
        let signature = self.key.sign(statement, &self.bundle.mesh_id, body);
        json!({"format": format, "payload": BASE64.encode(body), "keyId": "k1", "signature": BASE64.encode(signature)})
    }

    fn document(&self, generation: u64, text: &str) -> Value {
        let document = Document {
            schema: 1,
            key: DocumentKey::parse("HTTPRoute", "default", "orders").unwrap(),
            signer: "k1".parse().unwrap(),
            generation: Generation::new(generation).unwrap(),
            signed_at: 1_795_014_000_000,
            deleted: false,
            batch: None,
        };
        self.form(OperatorStatement::Document, "starling-document/1", &document.to_body(text).unwrap())
    }

    fn revocation(&self, node: &str) -> Value {
        let revocation = Revocation {
            schema: 1,
            node: NodeName::new(node).unwrap(),
            signer: "k1".parse().unwrap(),
            number: 1,
            signed_at: 1_795_014_000_000,
            kept: Vec::new(),
            reason: "compromised".to_owned(),
        };
        self.form(OperatorStatement::Revocation, "starling-revocation/1", &revocation.to_body().unwrap())
    }
}

/// `PUT path` on the agent's socket: status and body.
fn put(host: &Host, path: &str, body: &Value) -> (u16, Value) {
    let body = body.to_string();
    let mut stream = UnixStream::connect(host.config.join("api.sock")).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(15))).unwrap();
    let head = format!(
        "PUT {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).unwrap();
    stream.write_all(body.as_bytes()).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
    let json = answer.find('{').and_then(|at| serde_json::from_str(&answer[at..=answer.rfind('}')?]).ok());
    (status, json.unwrap_or_default())
}

fn generation(host: &Host) -> Option<u64> {
    host.api("/v1/config/httproute/default/orders")?["generation"].as_u64()
}

#[test]
fn documents_reach_all_and_survive_them_all() {
    let mesh = Mesh::new(76);
    let alice = Operator::of(&mesh);
    let mut hosts = three(&mesh, "lan", |_| String::new());
    let path = "/v1/config/httproute/default/orders";
    let text = "kind: HTTPRoute\nmetadata: {name: orders}\n";
    let (status, answer) = put(&hosts[0], path, &alice.document(1, text));
    assert_eq!(status, 200, "{answer}");
    let (_, took) = eventually("all hold generation 1", Duration::from_secs(10), || {
        hosts.iter().all(|host| generation(host) == Some(1)).then_some(())
    });
    println!("operators: a document was at all of 3 after {} ms", took.as_millis());
    let held = hosts[2].api(path).unwrap();
    assert_eq!(held["source"], text);
    assert_eq!(held["signer"], json!({"keyId": "k1", "name": "alice"}));

    // An older generation, another content, a forged signature, another document than the path says.
    assert_eq!(put(&hosts[1], path, &alice.document(2, text)).0, 200);
    eventually("all hold generation 2", Duration::from_secs(10), || {
        hosts.iter().all(|host| generation(host) == Some(2)).then_some(())
    });
    let (status, problem) = put(&hosts[2], path, &alice.document(1, text));
    assert_eq!((status, &problem["code"]), (409, &json!("ST0412")), "{problem}");
    let (status, problem) = put(&hosts[2], path, &alice.document(2, "kind: HTTPRoute\n"));
    assert_eq!((status, &problem["code"]), (409, &json!("ST0413")), "{problem}");
    let mut forged = alice.document(3, text);
    forged["signature"] = json!(BASE64.encode([7; 64]));
    let (status, problem) = put(&hosts[2], path, &forged);
    assert_eq!((status, &problem["code"]), (403, &json!("ST0411")), "{problem}");
    assert_eq!(put(&hosts[2], "/v1/config/httproute/default/web", &alice.document(3, text)).0, 400);
    assert_eq!(generation(&hosts[0]), Some(2), "nothing of what was refused is kept");

    // All die at once; what was acknowledged is there again, and all agree.
    hosts.iter_mut().for_each(Host::kill);
    for host in &mut hosts {
        let seed = (host.number != 1).then(|| mesh.address(1, 7740));
        host.start(seed);
    }
    eventually("all hold generation 2 again, and agree", Duration::from_secs(30), || {
        let agree = |host: &Host| host.api("/v1/status").is_some_and(|s| s["view"]["agreement"]["same"] == 3);
        hosts.iter().all(|host| generation(host) == Some(2) && agree(host)).then_some(())
    });
}

#[test]
fn a_revoked_node_is_cut_off_and_stays_out() {
    let mesh = Mesh::new(77);
    let alice = Operator::of(&mesh);
    let mut hosts = three(&mesh, "fast", |_| String::new());
    let (status, answer) = put(&hosts[0], "/v1/trust", &json!({"revocation": alice.revocation("vm-3")}));
    assert_eq!(status, 200, "{answer}");
    let (_, took) = eventually("both others know", Duration::from_secs(10), || {
        let knows = |host: &Host| host.api("/v1/trust").is_some_and(|trust| trust["revocations"][0]["node"] == "vm-3");
        hosts[..2].iter().all(knows).then_some(())
    });
    println!("operators: a revocation was at both others after {} ms", took.as_millis());
    eventually("the revoked node is failed", Duration::from_secs(30), || {
        hosts[..2].iter().all(|host| host.members("failed") == ["vm-3"]).then_some(())
    });

    // Neither its own restart nor theirs lets it in again.
    hosts[2].kill();
    hosts[2].start(Some(mesh.address(1, 7740)));
    hosts[0].kill();
    hosts[0].start(Some(mesh.address(2, 7740)));
    eventually("the first is back", Duration::from_secs(20), || {
        hosts[..2].iter().all(|host| host.members("alive") == ["vm-1", "vm-2"]).then_some(())
    });
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(hosts[0].members("alive"), ["vm-1", "vm-2"]);
    assert_eq!(hosts[1].members("alive"), ["vm-1", "vm-2"]);
    let log = hosts[1].log() + &hosts[0].log();
    assert!(log.contains("ST0624"), "the refusal is told with its code");
    assert!(
        log.lines().filter(|line| line.contains("refused") && line.contains("vm-3")).count() < 20,
        "and not too often"
    );
}
