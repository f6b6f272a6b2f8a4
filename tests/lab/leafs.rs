//! Requests go on while every leaf is made anew again and again, and connections grow old: neither is an event for anybody.
//!
//! By default 100,000 requests at 2,000 a second, with a leaf every 5 s at each of three agents and connections that are
//! left after 3 s, give or take a fifth. A million, as in docs/measurements/identity.md:
//! `STARLING_LAB_REQUESTS=1000000 STARLING_BIN=target/release/starling cargo test --workspace --test lab -- --nocapture leafs`.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::agent::{Host, Mesh, eventually, start_all_with};
use crate::http::{Backend, get};
use crate::steady::Steady;

const PER_SECOND: u32 = 2_000;
/// Sessions that are held, opened one after the other while leafs change: each generation of connections carries some.
const SESSIONS: usize = 100;
const SESSION_PAUSE: Duration = Duration::from_millis(400);

/// A server that says back what it hears, as a database session would: one connection for as long as its client wants.
pub(crate) fn echo(address: &str) -> SocketAddr {
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

fn say(stream: &mut TcpStream, word: u64) -> std::io::Result<()> {
    let (word, mut answer) = (word.to_le_bytes(), [0; 8]);
    stream.write_all(&word)?;
    stream.read_exact(&mut answer)?;
    if word == answer { Ok(()) } else { Err(std::io::Error::other("another answer")) }
}

/// Sessions that speak in turn until they are told to end; how many there are, and how many answers came.
fn sessions(address: SocketAddr, ends: Arc<AtomicBool>) -> JoinHandle<Result<(usize, u64), String>> {
    thread::spawn(move || {
        let (mut held, mut answers, mut opened) = (Vec::new(), 0_u64, Instant::now());
        while !ends.load(Ordering::Relaxed) {
            if held.len() < SESSIONS && (held.is_empty() || opened.elapsed() >= SESSION_PAUSE) {
                let stream = TcpStream::connect(address).map_err(|error| error.to_string())?;
                stream.set_read_timeout(Some(Duration::from_secs(10))).map_err(|error| error.to_string())?;
                held.push(stream);
                opened = Instant::now();
            }
            for (number, stream) in held.iter_mut().enumerate() {
                say(stream, answers).map_err(|error| format!("session {number} after {answers} answers: {error}"))?;
                answers += 1;
            }
            thread::sleep(Duration::from_millis(100));
        }
        Ok((held.len(), answers))
    })
}

/// Sum of a family's samples at a host whose labels hold `label`.
pub(crate) fn counted(host: &Host, family: &str, label: &str) -> u64 {
    let address = host.at(7741);
    let text = get(address, &address.to_string(), "/metrics").map(|answer| answer.body).unwrap_or_default();
    let lines = text.lines().filter(|line| line.strip_prefix(family).is_some_and(|rest| rest.starts_with(['{', ' '])));
    lines.filter(|line| line.contains(label)).filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).sum()
}

pub(crate) fn leafs_made(host: &Host) -> u64 {
    counted(host, "starling_identity_cert_refreshes_total", "result=\"success\"")
}

/// Connections of traffic that were left to their present streams.
pub(crate) fn retired(host: &Host, reason: &str) -> u64 {
    counted(host, "starling_tls_connections_retired_total", &format!("reason=\"{reason}\""))
}

#[test]
fn no_request_fails_while_leafs_are_made_anew_and_connections_grow_old() {
    let wanted = std::env::var("STARLING_LAB_REQUESTS").ok().and_then(|text| text.parse().ok());
    let requests: u64 = wanted.unwrap_or(100_000);
    let mesh = Mesh::new(164);
    let upstream = "[[upstream]]\nservice = \"echo\"\nlisten = \"127.164.0.1:9001\"\n";
    let mut hosts = [1, 2, 3].map(|n| mesh.host(n, "lan", if n == 1 { upstream } else { "" }));
    start_all_with(&mesh, &mut hosts, &["--rekey-interval", "5s", "--connection-age", "3s"]);
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
        say(&mut stream, 1).ok()
    });
    let ends = Arc::new(AtomicBool::new(false));
    let held = sessions(SocketAddr::from(([127, 164, 0, 1], 9001)), Arc::clone(&ends));
    let before = hosts.each_ref().map(leafs_made);
    let load = Steady::start(hosts[0].at(7780), "web.mesh.internal", PER_SECOND, requests);
    // A machine that cannot send as many gets more time, not fewer requests.
    eventually("all requests are sent", Duration::from_secs(60 + requests / 300), || {
        thread::sleep(Duration::from_millis(200));
        (load.sent() >= requests).then_some(())
    });
    let seen = load.finish();
    println!("leafs: {}", seen.line());
    let made: Vec<u64> = hosts.iter().zip(before).map(|(host, before)| leafs_made(host) - before).collect();
    ends.store(true, Ordering::Relaxed);
    let (sessions, answers) = held.join().expect("the sessions' thread").expect("sessions live through all of it");
    let left = |reason| hosts.iter().map(|host| retired(host, reason)).sum::<u64>();
    let (old, shown) = (left("age"), left("leaf"));
    println!(
        "leafs: {made:?} leafs made, {shown} connections left for a new leaf and {old} for their age; {sessions} sessions with {answers} answers, none cut"
    );
    assert!(seen.failures.is_empty(), "{:?}", seen.failures);
    let opened = SESSIONS.min(usize::try_from(seen.took.as_secs()).unwrap_or(SESSIONS));
    assert!(seen.requests == requests && sessions >= opened, "{} {sessions}", seen.requests);
    let least = seen.took.as_secs() / 10;
    assert!(made.iter().all(|made| *made >= least) && shown >= 2 * least && old >= least, "{made:?} {shown} {old}");
    assert!(hosts.iter().all(|host| host.sees_alive(3)), "and nobody was doubted for it");
    let log: String = hosts.iter().map(Host::log).collect();
    assert!(!log.contains("peer refused") && !log.contains("panicked"), "{log}");
    assert!(!log.contains("too many"), "no connection was cut for a bound");
}
