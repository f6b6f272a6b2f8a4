//! A slip in a selector is no outage: agents whose traffic would lose its last endpoint keep what they have, and say so.

use std::time::Duration;

use crate::agent::{Host, Mesh, eventually, three};
use crate::apply::Desk;
use crate::http::Backend;

fn front(label: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: front}}\nspec: {{selector: {{service: {label}}}, \
         ports: [{{name: main, port: 80, appProtocol: http}}]}}\n"
    )
}

fn held_back(host: &Host) -> Option<String> {
    let status = host.api("/v1/status")?;
    let problems = status["problems"].as_array()?.clone();
    let told = problems.into_iter().find(|problem| problem["code"] == "ST0414")?;
    told["detail"].as_str().map(str::to_owned)
}

#[test]
fn a_document_that_would_empty_a_used_service_is_held_back_until_it_does_not() {
    let mesh = Mesh::new(117);
    let alice = Desk::of(&mesh, "alice");
    let hosts = three(&mesh, "lan", |_| String::new());
    let orders = Backend::start("127.117.0.2:0", "orders");
    hosts[1].announce("orders-1", "orders", "http", orders.address, "");
    alice.write("front.yaml", &front("orders"));
    let (exit, out, error) = alice.signed(&hosts[0], &["apply", "-f", "front.yaml", "--wait"]);
    assert_eq!(exit, 0, "{out}{error}");
    let asks = |host: &Host| host.request("front", "/").map(|answer| answer.status).ok();
    eventually("front is served", Duration::from_secs(10), || (asks(&hosts[0]) == Some(200)).then_some(()));

    // Only the first host has traffic, so only it holds the slip back.
    alice.write("front.yaml", &front("odrers"));
    let (exit, _, error) = alice.signed(&hosts[0], &["apply", "-f", "front.yaml", "--wait", "--timeout", "3s"]);
    assert_eq!(exit, 6, "{error}");
    assert!(error.contains("vm-1 still on generation 1"), "{error}");
    let want = "Service default/front is held back: it would take the last endpoint from service default/front, which \
                has traffic; generation 1 stays in use here";
    eventually("it says why", Duration::from_secs(5), || (held_back(&hosts[0]).as_deref() == Some(want)).then_some(()));
    assert_eq!(held_back(&hosts[2]), None);
    assert_eq!((asks(&hosts[0]), asks(&hosts[2])), (Some(200), Some(503)), "without traffic nothing was lost");
    let (exit, out, _) = alice.run(&hosts[0], &["get", "service", "front"]);
    assert!(exit == 0 && out.contains("held back here: it would take the last endpoint"), "{out}");
    let (_, out, _) = alice.run(&hosts[0], &["events", "--kind", "config"]);
    assert!(out.contains("held back: it would take the last endpoint from service default/front"), "{out}");

    // An endpoint that fits the slip ends it, without another word of the operator.
    hosts[2].announce("odrers-1", "odrers", "http", orders.address, "");
    eventually("it is used now", Duration::from_secs(20), || {
        (held_back(&hosts[0]).is_none() && asks(&hosts[0]) == Some(200)).then_some(())
    });
    let all = hosts[0].api("/v1/config/convergence").unwrap();
    assert_eq!(all["items"][0]["inUse"]["same"], all["items"][0]["inUse"]["alive"], "{all}");
}
