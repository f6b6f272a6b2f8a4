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

use crate::agent::{Host, Mesh, eventually, starling_in, three};

/// A document that every agent can read.
pub(crate) const ROUTE: &str = "apiVersion: starling/v1\nkind: HTTPRoute\nmetadata: {name: orders}\nspec:\n  \
    parentRefs: [{kind: Service, name: orders}]\n  rules: [{backendRefs: [{name: orders}]}]\n";

/// An operator at its desk: the key, and the bundle that names it.
pub(crate) struct Operator {
    pub(crate) key: OperatorKey,
    pub(crate) bundle: TrustBundle,
}

impl Operator {
    pub(crate) fn of(mesh: &Mesh) -> Self {
        let key = fs::read_to_string(mesh.path("op/operator/alice.key")).unwrap();
        let bundle = fs::read(mesh.path("op/trust/bundle.trust")).unwrap();
        Self { key: OperatorKey::from_pem(&key).unwrap(), bundle: TrustBundle::parse(&bundle).unwrap() }
    }

    fn form(&self, statement: OperatorStatement, format: &str, id: &str, body: &[u8]) -> Value {
        let signature = self.key.sign(statement, &self.bundle.mesh_id, body);
        json!({"format": format, "payload": BASE64.encode(body), "keyId": id, "signature": BASE64.encode(signature)})
    }

    fn document(&self, generation: u64, text: &str) -> Value {
        self.document_as("k1", generation, text)
    }

    /// The same, of a key of another number.
    pub(crate) fn document_as(&self, id: &str, generation: u64, text: &str) -> Value {
        let document = Document {
            schema: 1,
            key: DocumentKey::parse("HTTPRoute", "default", "orders").unwrap(),
            signer: id.parse().unwrap(),
            generation: Generation::new(generation).unwrap(),
            signed_at: 1_795_014_000_000,
            deleted: false,
            batch: None,
        };
        self.form(OperatorStatement::Document, "starling-document/1", id, &document.to_body(text).unwrap())
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
        self.form(OperatorStatement::Revocation, "starling-revocation/1", "k1", &revocation.to_body().unwrap())
    }
}

/// `PUT path` on the agent's socket: status and body.
pub(crate) fn put(host: &Host, path: &str, body: &Value) -> (u16, Value) {
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

pub(crate) fn generation(host: &Host) -> Option<u64> {
    host.api("/v1/config/httproute/default/orders")?["generation"].as_u64()
}

#[test]
fn documents_reach_all_and_survive_them_all() {
    let mesh = Mesh::new(76);
    let alice = Operator::of(&mesh);
    let mut hosts = three(&mesh, "lan", |_| String::new());
    let path = "/v1/config/httproute/default/orders";
    let text = ROUTE;
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
    let (status, problem) = put(&hosts[2], path, &alice.document(2, &format!("# again\n{ROUTE}")));
    assert_eq!((status, &problem["code"]), (409, &json!("ST0413")), "{problem}");
    let mut forged = alice.document(3, text);
    forged["signature"] = json!(BASE64.encode([7; 64]));
    let (status, problem) = put(&hosts[2], path, &forged);
    assert_eq!((status, &problem["code"]), (403, &json!("ST0411")), "{problem}");
    assert_eq!(put(&hosts[2], "/v1/config/httproute/default/web", &alice.document(3, text)).0, 400);
    assert_eq!(generation(&hosts[0]), Some(2), "nothing of what was refused is kept");

    // The history holds both, the events say who and which, and all use the same.
    let first = hosts[1].api(&format!("{path}?generation=1")).unwrap();
    assert_eq!((&first["source"], &first["history"][0]["generation"]), (&json!(text), &json!(2)), "{first}");
    let events = |kind: &str| hosts[2].api(&format!("/v1/events?kind={kind}")).unwrap()["items"].to_string();
    let told = events("config");
    for part in [
        "generation 1 → 2 in use, signed by k1 \\\"alice\\\"",
        "generation 1 by k1 \\\"alice\\\" refused",
        "ST0413",
        "ST0411",
    ] {
        assert!(told.contains(part), "{part} in {told}");
    }
    eventually("all are known to use generation 2", Duration::from_secs(10), || {
        let told = hosts[0].api("/v1/config/convergence")?;
        let all = json!({"alive": 3, "same": 3});
        (told["inUse"] == all && told["items"][0]["inUse"] == all && told["items"][0]["generation"] == 2).then_some(())
    });

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

/// `starling trust revoke` at the operator's desk, by way of the first agent: exit code, standard output and error.
fn revoke(mesh: &Mesh, host: &Host, args: &[&str]) -> (i32, String, String) {
    let config = host.config.display().to_string();
    let all = [&["trust", "revoke", "node"], args, &["--config-dir", &config]].concat();
    let output = starling_in(&mesh.path("op"), &all);
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code().unwrap_or(-1), text(&output.stdout), text(&output.stderr))
}

#[test]
fn an_operator_revokes_a_node_by_the_command_line() {
    let mesh = Mesh::new(78);
    let hosts = three(&mesh, "fast", |_| String::new());
    let line = "revocation 1   node vm-3   all its issuing keys   signed by k1 \"alice\"\n";

    // What is wrong is said before anything is signed or sent.
    let (exit, _, error) = revoke(&mesh, &hosts[0], &["vm-33"]);
    assert!(exit == 4 && error.contains("no node vm-33 is known") && error.contains("did you mean vm-3"), "{error}");
    let (exit, _, error) = revoke(&mesh, &hosts[0], &["vm-3", "--key", "operator/issuer.key"]);
    assert!(exit == 5 && error.contains("operator/issuer.key"), "{error}");
    let (exit, _, error) = revoke(&mesh, &hosts[0], &["vm-3", "--dir", "/nowhere"]);
    assert!(exit == 4 && error.contains("this is no operator folder"), "{error}");
    let (exit, told, error) = revoke(&mesh, &hosts[0], &["vm-3", "--dry-run"]);
    assert!(
        exit == 0 && told.starts_with(line) && told.contains("it is alive at") && told.contains("nothing was sent"),
        "{told}{error}"
    );
    assert_eq!(hosts[0].api("/v1/trust").unwrap()["revocations"], json!([]));
    assert_eq!(hosts[0].members("alive"), ["vm-1", "vm-2", "vm-3"]);

    let (exit, told, error) = revoke(&mesh, &hosts[0], &["vm-3", "--reason", "compromised", "--wait"]);
    assert!(exit == 0 && told.starts_with(line) && told.contains("accepted by vm-1; in use on "), "{told}{error}");
    println!("operators: {told}");
    // It counts there; what the API shows follows within a window.
    eventually("the other member shows it", Duration::from_secs(1), || {
        let held = hosts[1].api("/v1/trust").unwrap();
        (held["revocations"][0]["node"] == json!("vm-3") && held["revocations"][0]["reason"] == json!("compromised"))
            .then_some(())
    });
    eventually("the revoked node is failed", Duration::from_secs(30), || {
        hosts[..2].iter().all(|host| host.members("failed") == ["vm-3"]).then_some(())
    });
    eventually("its attempts are told", Duration::from_secs(30), || {
        let told = |host: &Host| host.api("/v1/events?kind=identity&node=vm-3").map(|page| page["items"].to_string());
        let all = told(&hosts[0])? + &told(&hosts[1])?;
        (all.contains("revocation 1 in force") && all.contains("refused: revoked (ST0624)")).then_some(())
    });

    // Again: the next number takes its place.
    let (exit, told, error) = revoke(&mesh, &hosts[1], &["vm-3"]);
    assert!(exit == 0 && told.starts_with("revocation 2 ") && error.contains("is revoked already"), "{told}{error}");
}
