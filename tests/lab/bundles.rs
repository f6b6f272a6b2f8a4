//! Trust bundles in a mesh of real agents: updates by the API and by the command line, a laggard, a fork, operators that
//! come and go.

use std::path::Path;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::json;
use starling_identity::{OperatorKey, TrustBundle, UnixTime, create_trust_domain};

use crate::agent::{Host, Mesh, eventually, starling_in, three};
use crate::operators::{Operator, ROUTE, generation, put};

/// S27, as far as no root changes: an update of the trust bundle reaches all, who was away catches up, what is in force
/// survives a restart, and of two chains that two operators signed side by side one is in force everywhere.
#[test]
fn the_trust_bundle_is_updated_by_gossip_and_a_fork_ends_in_one_chain() {
    let mesh = Mesh::new(79);
    let alice = Operator::of(&mesh);
    let mut hosts = three(&mesh, "fast", |_| String::new());
    let update = |host: &Host, bundle: &TrustBundle| {
        let form = json!({"format": "starling-bundle/1", "payload": BASE64.encode(bundle.to_file())});
        put(host, "/v1/trust", &json!({"bundle": form}))
    };
    let uses = |host: &Host, sequence: u64| {
        let trust = host.api("/v1/trust");
        trust.is_some_and(|trust| trust["bundleSequence"] == sequence)
    };
    let named = |name: &str| {
        let name = name.to_owned();
        move |bundle: &mut TrustBundle| bundle.operators[0].name = name
    };

    // A second operator, while one agent is away.
    hosts[2].kill();
    let bob = create_trust_domain(&alice.bundle.trust_domain, "bob", false, UnixTime(1_795_014_000)).unwrap();
    let bob = OperatorKey::from_pem(&bob.operator_key_pem).unwrap();
    let second = alice.key.update(&alice.bundle, |bundle| {
        let roles = bundle.operators[0].roles;
        bundle.operators.push(starling_identity::Operator { id: 2, name: "bob".to_owned(), key: bob.public(), roles });
    });
    let second = second.unwrap();
    let (status, answer) = update(&hosts[0], &second);
    assert_eq!((status, &answer["bundleSequence"]), (200, &json!(2)), "{answer}");
    let (_, took) = eventually("the other uses it", Duration::from_secs(10), || uses(&hosts[1], 2).then_some(()));
    println!("operators: an update of the trust bundle was at the other after {} ms", took.as_millis());
    hosts[2].start(Some(mesh.address(2, 7740)));
    let (_, took) = eventually("who was away uses it", Duration::from_secs(20), || uses(&hosts[2], 2).then_some(()));
    println!("operators: who was away used it {} ms after its start", took.as_millis());

    // What nobody signed who may, and what follows nothing.
    let mut forged = second.to_file();
    let at = forged.len() / 2;
    forged[at] = if forged[at] == b'A' { b'B' } else { b'A' };
    let form = json!({"format": "starling-bundle/1", "payload": BASE64.encode(&forged)});
    let (status, problem) = put(&hosts[0], "/v1/trust", &json!({"bundle": form}));
    assert_eq!((status, &problem["code"]), (422, &json!("ST0613")), "{problem}");
    assert_eq!(put(&hosts[0], "/v1/trust", &json!({})).0, 400);

    // Two operators, each with a part of the mesh: alice one update, bob two.
    hosts[..2].iter_mut().for_each(Host::kill);
    let alices = alice.key.update(&second, named("alicia")).unwrap();
    assert_eq!(update(&hosts[2], &alices).0, 200);
    hosts[2].kill();
    hosts[0].start(None);
    hosts[1].start(Some(mesh.address(1, 7740)));
    eventually("it survived the restart", Duration::from_secs(20), || {
        hosts[..2].iter().all(|host| uses(host, 2) && host.sees_alive(2)).then_some(())
    });
    let bobs = bob.update(&second, named("alix")).unwrap();
    assert_eq!(update(&hosts[0], &bobs).0, 200);
    let fourth = bob.update(&bobs, named("alexandra")).unwrap();
    assert_eq!(update(&hosts[0], &fourth).0, 200);
    hosts[2].start(Some(mesh.address(1, 7740)));
    let (_, took) = eventually("one chain, and all agree", Duration::from_secs(30), || {
        let agree = |host: &Host| host.api("/v1/status").is_some_and(|s| s["view"]["agreement"]["same"] == 3);
        hosts.iter().all(|host| uses(host, 4) && agree(host) && host.sees_alive(3)).then_some(())
    });
    println!("operators: the fork had ended {} ms after the start of who was alone", took.as_millis());
    let told = hosts[2].api("/v1/events?kind=identity").unwrap()["items"].to_string();
    assert!(told.contains("ST0605") && told.contains("k1 \\\"alice\\\"") && told.contains("k2 \\\"bob\\\""), "{told}");
    let log = hosts.iter().map(Host::log).collect::<String>();
    assert!(!log.contains("panicked") && !log.contains("peer refused"), "nobody alive was refused");
}

/// An operator gets a key, uses it, and loses it, by the commands that are documented.
#[test]
fn operators_come_and_go_by_the_command_line() {
    let mesh = Mesh::new(80);
    let hosts = three(&mesh, "lan", |_| String::new());
    let config = hosts[1].config.display().to_string();
    let desk = |args: &[&str]| {
        let output = starling_in(&mesh.path("op"), args);
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (output.status.code().unwrap_or(-1), text(&output.stdout) + &text(&output.stderr))
    };
    let (exit, told) = desk(&["trust", "issue", "operator", "bob", "--roles", "config"]);
    assert!(exit == 0 && told.contains("k2 \"bob\"   roles config") && told.contains("sequence 2"), "{told}");
    let (exit, told) = desk(&["trust", "update", "--wait", "--config-dir", &config]);
    assert!(exit == 0 && told.starts_with("trust bundle 2 in force on vm-2; in use on 3/3"), "{told}");
    println!("operators: {told}");

    let key = |name: &str| std::fs::read_to_string(mesh.path("op/operator").join(format!("{name}.key"))).unwrap();
    let bundle = TrustBundle::parse(&std::fs::read(Path::new(&mesh.path("op/trust/bundle.trust"))).unwrap()).unwrap();
    let bob = Operator { key: OperatorKey::from_pem(&key("bob")).unwrap(), bundle };
    let path = "/v1/config/httproute/default/orders";
    let text = ROUTE;
    let (status, answer) = put(&hosts[0], path, &bob.document_as("k2", 1, text));
    assert_eq!(status, 200, "{answer}");
    eventually("bob's document is everywhere", Duration::from_secs(10), || {
        hosts.iter().all(|host| generation(host) == Some(1)).then_some(())
    });

    let (exit, told) = desk(&["trust", "revoke", "operator", "k3", "--config-dir", &config]);
    assert!(exit == 4 && told.contains("k2 \"bob\""), "{told}");
    let (exit, told) = desk(&["trust", "revoke", "operator", "k2", "--wait", "--config-dir", &config]);
    assert!(exit == 0 && told.contains("k2 \"bob\" signs no more") && told.contains("trust bundle 3"), "{told}");
    println!("operators: {told}");
    eventually("what bob signed has no force", Duration::from_secs(10), || {
        hosts.iter().all(|host| generation(host).is_none()).then_some(())
    });
    let (status, problem) = put(&hosts[2], path, &bob.document_as("k2", 2, text));
    assert_eq!((status, &problem["code"]), (403, &json!("ST0411")), "{problem}");
    let (exit, told) = desk(&["trust", "update", "--config-dir", &config]);
    assert!(exit == 0 && told.starts_with("trust bundle 3 in force"), "a second time changes nothing: {told}");
    for name in ["carol", "dave"] {
        assert_eq!(desk(&["trust", "issue", "operator", name, "--roles", "admin"]).0, 0);
    }
    let (exit, told) = desk(&["trust", "update", "--wait", "--config-dir", &config]);
    assert!(exit == 0 && told.starts_with("trust bundle 5 in force"), "both go over: {told}");
}
