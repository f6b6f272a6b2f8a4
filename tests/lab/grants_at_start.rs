//! An agent that starts does not know yet who is granted what: until it does, its own choice of endpoints takes nobody, and
//! no request reaches what is not granted, at no moment of many restarts under load.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::agent::{Host, Mesh, eventually, three};
use crate::apply::Desk;
use crate::http::{Backend, Client};

const GRANT: &str = "apiVersion: starling/v1\nkind: ServiceGrant\nmetadata: {name: orders-hosts}\n\
spec: {nodes: [{node: vm-2}], services: [{service: orders}]}\n";

/// Clients that ask again and again, also while nobody listens.
struct Hammer {
    clients: Vec<thread::JoinHandle<()>>,
    stop: Arc<AtomicBool>,
    good: Arc<AtomicU64>,
    refused: Arc<AtomicU64>,
}

impl Hammer {
    fn start(host: &Host) -> Self {
        let (stop, good, refused) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default(), Arc::default());
        let client = |_| {
            let (stop, good, refused, address) =
                (Arc::clone(&stop), Arc::clone(&good), Arc::<AtomicU64>::clone(&refused), host.at(7780));
            thread::spawn(move || {
                let mut client = None;
                while !stop.load(Ordering::Relaxed) {
                    client = client.or_else(|| Client::connect(address).ok());
                    match client.as_mut().map(|client| client.get("orders.mesh.internal", "/")) {
                        Some(Ok(answer)) if answer.status == 200 => drop(good.fetch_add(1, Ordering::Relaxed)),
                        Some(Ok(_)) => drop(refused.fetch_add(1, Ordering::Relaxed)),
                        Some(Err(_)) | None => client = None,
                    }
                    // Nobody listens for most of a restart; the moment after it is what counts.
                    thread::sleep(Duration::from_micros(if client.is_some() { 100 } else { 300 }));
                }
            })
        };
        Self { clients: (0..4).map(client).collect(), stop, good, refused }
    }

    fn good(&self) -> u64 {
        self.good.load(Ordering::Relaxed)
    }
}

impl Drop for Hammer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for client in self.clients.drain(..) {
            let _ = client.join();
        }
    }
}

#[test]
fn an_agent_that_starts_sends_nothing_to_what_is_not_granted() {
    let mesh = Mesh::new(167);
    let alice = Desk::of(&mesh, "alice");
    let mut hosts = three(&mesh, "lan", |_| String::new());
    let (granted, stolen) = (Backend::start("127.167.0.2:0", "granted"), Backend::start("127.167.0.3:0", "stolen"));
    alice.write("grant.yaml", GRANT);
    let (exit, out, told) = alice.signed(&hosts[0], &["apply", "-f", "grant.yaml", "--wait"]);
    assert_eq!(exit, 0, "{out}{told}");
    hosts[1].announce("orders-2", "orders", "http", granted.address, "");
    hosts[2].announce("orders-3", "orders", "http", stolen.address, "");
    let known = |host: &Host| {
        let told = host.api("/v1/services/default/orders")?;
        let is_refused = |one: &serde_json::Value| one["node"] == "vm-3" && one["health"] == "ungranted";
        told["endpoints"].as_array().filter(|all| all.len() == 2)?.iter().any(is_refused).then_some(())
    };
    eventually("both instances are known, one as ungranted", Duration::from_secs(10), || known(&hosts[0]));
    let hammer = Hammer::start(&hosts[0]);
    let mut worst = Duration::ZERO;
    // With what the store holds; then as after the loss of its state, when it must ask a peer.
    for (round, forgets) in [false, false, false, false, false, true, true, true].into_iter().enumerate() {
        eventually("requests are answered", Duration::from_secs(10), || (hammer.good() > 100).then_some(()));
        hosts[0].kill();
        if forgets {
            fs::remove_dir_all(hosts[0].config.join("state/state")).expect("the store's folder");
        }
        let (began, before) = (Instant::now(), hammer.good());
        hosts[0].start(Some(mesh.address(2, 7740)));
        eventually("requests are answered again", Duration::from_secs(20), || {
            (hammer.good() > before + 100).then_some(())
        });
        worst = worst.max(began.elapsed());
        eventually("it knows both again", Duration::from_secs(10), || known(&hosts[0]));
        assert_eq!(stolen.served.load(Ordering::Relaxed), 0, "round {round}: an ungranted instance got a request");
    }
    println!(
        "restarts: {} requests over 8 starts of their agent, {} of them refused by it, 0 to the instance that is not granted; 100 answers {} ms after the start at the latest",
        hammer.good(),
        hammer.refused.load(Ordering::Relaxed),
        worst.as_millis()
    );
    assert!(granted.served.load(Ordering::Relaxed) >= hammer.good(), "the others were answered by the granted one");
    // The instance does answer, once it may.
    drop(hammer);
    let (exit, out, told) = alice.signed(&hosts[0], &["delete", "servicegrant", "orders-hosts", "--yes", "--wait"]);
    assert_eq!(exit, 0, "{out}{told}");
    eventually("it gets its share", Duration::from_secs(5), || {
        hosts[0].request("orders", "/").ok()?;
        (stolen.served.load(Ordering::Relaxed) > 0).then_some(())
    });
}
