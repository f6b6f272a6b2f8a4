//! The documents of the manual at work: three real agents, requests that follow them, changes under load.

use std::fs;
use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::agent::{Host, Mesh, eventually, three};
use crate::apply::Desk;
use crate::http::{Backend, Load};

const SERVICE: &str = "apiVersion: starling/v1\nkind: Service\nmetadata: {name: orders, namespace: default, labels: {team: shop}}\n\
spec:\n  ports: [{name: http, port: 80, protocol: http}]\n  subsets: {stable: {version: v1}, canary: {version: v2}}\n";

/// The manual's canary, with these weights.
fn canary(stable: u32, canary: u32) -> String {
    format!(
        "apiVersion: starling/v1\nkind: HTTPRoute\nmetadata: {{name: orders-canary}}\nspec:\n  \
         parentRefs: [{{kind: Service, name: orders}}]\n  rules:\n    - name: default\n      timeouts: {{request: 2s}}\n      \
         retry: {{attempts: 2, codes: [502, 503, 504]}}\n      backendRefs:\n        \
         - {{name: orders, subset: stable, weight: {stable}}}\n        - {{name: orders, subset: canary, weight: {canary}}}\n"
    )
}

fn announce(host: &Host, name: &str, version: &str, address: SocketAddr) {
    let text = format!(
        "[[instance]]\nservice = \"orders\"\nname = \"{name}\"\nport = \"http\"\nprotocol = \"http\"\naddress = \"{address}\"\n\
         labels = {{ version = \"{version}\" }}\n"
    );
    let path = host.config.join("services.d").join(format!("{name}.toml"));
    fs::write(path.with_extension("tmp"), text).unwrap();
    fs::rename(path.with_extension("tmp"), path).unwrap();
}

fn served(backend: &Backend) -> u64 {
    backend.served.load(Ordering::Relaxed)
}

/// Requests until both together had so many more; the share of the second.
fn share(backends: &[Backend; 2], requests: u64) -> f64 {
    let before = backends.each_ref().map(served);
    let since = || [0, 1].map(|at| served(&backends[at]) - before[at]);
    eventually("enough requests", Duration::from_secs(60), || (since().iter().sum::<u64>() >= requests).then_some(()));
    let [first, second] = since();
    second as f64 / (first + second) as f64
}

#[test]
fn a_canary_gets_its_share_is_moved_and_rolled_back_under_load_without_an_error() {
    let mesh = Mesh::new(98);
    let alice = Desk::of(&mesh, "alice");
    let hosts = three(&mesh, "lan", |_| String::new());
    let backends = [Backend::start("127.98.0.2:0", "v1"), Backend::start("127.98.0.3:0", "v2")];
    announce(&hosts[1], "orders-v1", "v1", backends[0].address);
    announce(&hosts[2], "orders-v2", "v2", backends[1].address);
    eventually("both instances answer", Duration::from_secs(10), || {
        hosts[0].request("orders", "/").ok()?;
        backends.iter().all(|backend| served(backend) > 0).then_some(())
    });
    let apply = |stable: u32, new: u32| {
        alice.write("canary.yaml", &format!("{SERVICE}---\n{}", canary(stable, new)));
        let (exit, out, error) = alice.signed(&hosts[0], &["apply", "-f", "canary.yaml", "--wait"]);
        assert_eq!(exit, 0, "{out}{error}");
        println!("{stable}/{new}: {}", out.lines().last().unwrap_or_default());
    };
    apply(90, 10);
    let load = Load::start(hosts[0].at(7780), "orders.mesh.internal", 8, Duration::from_millis(1));
    let ten = share(&backends, 10_000);
    println!("canary of 10 %: {:.2} %", ten * 100.0);
    apply(50, 50);
    let half = share(&backends, 4_000);
    println!("canary of 50 %: {:.2} %", half * 100.0);
    // Back, by the text of the first generation.
    let (exit, text, _) =
        alice.run(&hosts[1], &["get", "httproute", "orders-canary", "--generation", "1", "-o", "yaml"]);
    assert_eq!(exit, 0);
    alice.write("before.yaml", &text);
    assert_eq!(alice.signed(&hosts[0], &["apply", "-f", "before.yaml", "--wait"]).0, 0);
    let back = share(&backends, 3_000);
    println!("rolled back: {:.2} %", back * 100.0);
    let report = load.finish();
    let failures = report.failures();
    println!("{} of {} requests failed", failures.len(), report.samples.len());
    assert!(
        (ten - 0.10).abs() < 0.03 && (half - 0.50).abs() < 0.03 && (back - 0.10).abs() < 0.03,
        "{ten} {half} {back}"
    );
    assert!(failures.is_empty(), "{failures:?}");
}

#[test]
fn blue_and_green_change_places_by_one_apply() {
    let mesh = Mesh::new(99);
    let alice = Desk::of(&mesh, "alice");
    let hosts = three(&mesh, "lan", |_| String::new());
    let backends = [Backend::start("127.99.0.2:0", "blue"), Backend::start("127.99.0.3:0", "green")];
    announce(&hosts[1], "orders-v1", "v1", backends[0].address);
    announce(&hosts[2], "orders-v2", "v2", backends[1].address);
    let apply = |stable: u32, new: u32| {
        alice.write("all.yaml", &format!("{SERVICE}---\n{}", canary(stable, new)));
        let (exit, out, error) = alice.signed(&hosts[1], &["apply", "-f", "all.yaml", "--wait"]);
        assert_eq!(exit, 0, "{out}{error}");
    };
    let only = |want: usize, what: &str| {
        eventually(what, Duration::from_secs(10), || {
            let before = backends.each_ref().map(served);
            for _ in 0..20 {
                hosts[0].request("orders", "/").ok().filter(|answer| answer.status == 200)?;
            }
            let after = backends.each_ref().map(served);
            (after[want] - before[want] == 20 && after[1 - want] == before[1 - want]).then_some(())
        });
    };
    apply(1, 0);
    only(0, "all go to blue");
    apply(0, 1);
    only(1, "all go to green");
    // Without the documents all instances of the service take requests again.
    let (exit, _, error) = alice.signed(&hosts[0], &["delete", "httproute", "orders-canary", "--yes", "--wait"]);
    assert_eq!(exit, 0, "{error}");
    eventually("both answer", Duration::from_secs(10), || {
        let before = backends.each_ref().map(served);
        (0..40).for_each(|_| drop(hosts[0].request("orders", "/")));
        let after = backends.each_ref().map(served);
        (after[0] > before[0] && after[1] > before[1]).then_some(())
    });
}
