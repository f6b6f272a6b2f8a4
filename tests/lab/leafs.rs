//! Requests go on while every leaf is made anew again and again: a new certificate is no event for anybody.
//!
//! By default 10,000 requests with a leaf each second; `STARLING_REQUESTS=1000000 cargo test --workspace --test lab -- leafs`
//! sends as many as one likes while leafs are made every 5 s.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::agent::{Host, Mesh, eventually, start_all_with};
use crate::http::{Backend, Load, get};

const CLIENTS: usize = 8;
/// Eight clients that rest this long send some 2,000 requests a second.
const PAUSE: Duration = Duration::from_millis(4);

/// A server that says back what it hears, as a database session would: one connection for as long as its client wants.
fn echo(address: &str) -> SocketAddr {
    let listener = TcpListener::bind(address).expect("an address");
    let address = listener.local_addr().expect("an address");
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            thread::spawn(move || {
                let mut buffer = [0; 64];
                while let Ok(length @ 1..) = stream.read(&mut buffer) {
                    if stream.write_all(&buffer[..length]).is_err() {
                        return;
                    }
                }
            });
        }
    });
    address
}

/// One session that speaks every 50 ms until it is told to end; how many answers came on its only connection.
fn session(address: SocketAddr, ends: Arc<AtomicBool>) -> JoinHandle<std::io::Result<u64>> {
    thread::spawn(move || {
        let mut stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        let mut answers = 0_u64;
        while !ends.load(Ordering::Relaxed) {
            let (word, mut answer) = (answers.to_le_bytes(), [0; 8]);
            stream.write_all(&word)?;
            stream.read_exact(&mut answer)?;
            assert_eq!(word, answer);
            answers += 1;
            thread::sleep(Duration::from_millis(50));
        }
        Ok(answers)
    })
}

fn leafs_made(host: &Host) -> u64 {
    let address = host.at(7741);
    let text = get(address, &address.to_string(), "/metrics").map(|answer| answer.body).unwrap_or_default();
    let line = text.lines().find(|line| line.starts_with("starling_identity_cert_refreshes_total{result=\"success\"}"));
    line.and_then(|line| line.rsplit(' ').next()?.parse().ok()).unwrap_or(0)
}

#[test]
fn no_request_fails_while_leafs_are_made_anew() {
    let wanted: Option<usize> = std::env::var("STARLING_REQUESTS").ok().and_then(|text| text.parse().ok());
    let (requests, interval) = wanted.map_or((10_000, "1s"), |requests| (requests, "5s"));
    let mesh = Mesh::new(164);
    let upstream = "[[upstream]]\nservice = \"echo\"\nlisten = \"127.164.0.1:9001\"\n";
    let mut hosts = [1, 2, 3].map(|n| mesh.host(n, "lan", if n == 1 { upstream } else { "" }));
    start_all_with(&mesh, &mut hosts, &["--rekey-interval", interval]);
    let backends = [Backend::start("127.164.0.2:0", "web"), Backend::start("127.164.0.3:0", "web")];
    hosts[1].announce("web-2", "web", "http", backends[0].address, "");
    hosts[2].announce("web-3", "web", "http", backends[1].address, "");
    hosts[1].announce("echo-1", "echo", "tcp", echo("127.164.0.2:0"), "");
    eventually("both answer", Duration::from_secs(10), || {
        hosts[0].request("web", "/").ok()?;
        let served = |backend: &Backend| backend.served.load(Ordering::Relaxed) > 0;
        backends.iter().all(served).then_some(())
    });
    eventually("a session is answered", Duration::from_secs(10), || {
        let mut stream = TcpStream::connect("127.164.0.1:9001").ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(1))).ok()?;
        stream.write_all(b"x").ok()?;
        stream.read_exact(&mut [0; 1]).ok()
    });
    let ends = Arc::new(AtomicBool::new(false));
    let held = session(SocketAddr::from(([127, 164, 0, 1], 9001)), Arc::clone(&ends));
    let before = hosts.each_ref().map(leafs_made);
    let began = Instant::now();
    let load = Load::start(hosts[0].at(7780), "web.mesh.internal", CLIENTS, PAUSE);
    let served = || backends.iter().map(|one| one.served.load(Ordering::Relaxed)).sum::<u64>();
    let (start, least) = (served(), if wanted.is_some() { 3 } else { 5 });
    let made = || hosts.iter().zip(before).map(|(host, before)| leafs_made(host) - before).min().unwrap_or(0);
    eventually("enough requests and leafs", Duration::from_secs(60 + requests as u64 / 500), || {
        thread::sleep(Duration::from_millis(200));
        (served() - start >= requests as u64 && made() >= least).then_some(())
    });
    let (took, made) = (began.elapsed(), made());
    let report = load.finish();
    ends.store(true, Ordering::Relaxed);
    let answers = held.join().expect("the session's thread").expect("one session lives through all leafs");
    assert!(answers > 20, "{answers}");
    let failures = report.failures();
    println!(
        "leafs: {} requests in {:.1} s, {} of them failed; at least {made} leafs of each node",
        report.samples.len(),
        took.as_secs_f64(),
        failures.len()
    );
    assert!(failures.is_empty(), "{failures:?}");
    assert!(hosts.iter().all(|host| host.sees_alive(3)), "and nobody was doubted for it");
    let log: String = hosts.iter().map(Host::log).collect();
    assert!(!log.contains("peer refused") && !log.contains("panicked"), "{log}");
}
