//! Twenty-five real agents on one host: they form through one seed, three of them are killed at once, one is stopped for
//! two seconds, one starts again.
//!
//! The figures that are promised hold for a release build on a quiet machine:
//! `STARLING_BIN=target/release/starling cargo test --release -p starling-tests --test lab -- --nocapture mesh25`.
//! A debug build on shared cores gets more time, and prints the same figures.

use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::agent::{Host, Mesh, eventually, starling_ok};

const AGENTS: u8 = 25;
/// From the start of the 24 others to the moment when all 25 see 25 alive.
const JOIN_MAX: Duration = if cfg!(debug_assertions) { Duration::from_secs(20) } else { Duration::from_secs(2) };
/// How long three killed agents may take to be failed everywhere: `lan` waits at least 5.6 s at 25 members, and at most
/// 33.5 s without a confirmation.
const DEATH_MAX: Duration = if cfg!(debug_assertions) { Duration::from_secs(60) } else { Duration::from_secs(40) };
/// A restarted agent answers old packets with a reset; the others dial it at once.
const RESTART_MAX: Duration = if cfg!(debug_assertions) { Duration::from_secs(10) } else { Duration::from_secs(2) };

fn hosts(mesh: &Mesh) -> Vec<Host> {
    (1..=AGENTS).map(|number| mesh.host(number, "lan", "")).collect()
}

fn form(mesh: &Mesh, hosts: &mut [Host]) -> Duration {
    hosts[0].start(None);
    eventually("the seed is ready", Duration::from_secs(20), || hosts[0].ready().then_some(()));
    let started = Instant::now();
    for host in hosts.iter_mut().skip(1) {
        host.start(Some(mesh.address(1, 7740)));
    }
    eventually("all see all", Duration::from_secs(60), || {
        hosts.iter().all(|host| host.sees_alive(usize::from(AGENTS))).then_some(())
    });
    started.elapsed()
}

/// Sum of a family's samples whose line holds `label`.
fn metric(host: &Host, family: &str, label: &str) -> f64 {
    let address = host.at(7741);
    let text = crate::http::get(address, &address.to_string(), "/metrics").unwrap().body;
    let lines = text.lines().filter(|line| line.starts_with(family) && line.contains(label));
    lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).fold(0.0, |sum, value| sum + value)
}

#[test]
fn mesh25_forms_notices_deaths_and_a_restart_and_forgives_a_pause() {
    let mesh = Mesh::new(75);
    let mut hosts = hosts(&mesh);
    let took = form(&mesh, &mut hosts);
    println!("mesh25: 25 agents see 25 alive {} ms after the start of 24", took.as_millis());
    assert!(took <= JOIN_MAX, "{took:?}");

    // Stopped for two seconds: nobody may be evicted.
    let stopped = Pid::from_raw(i32::try_from(hosts[12].pid()).unwrap());
    kill(stopped, Signal::SIGSTOP).unwrap();
    let until = Instant::now() + Duration::from_secs(2);
    while Instant::now() < until {
        std::thread::sleep(Duration::from_millis(50));
    }
    kill(stopped, Signal::SIGCONT).unwrap();
    eventually("everybody is alive again", Duration::from_secs(40), || {
        hosts.iter().all(|host| host.sees_alive(usize::from(AGENTS))).then_some(())
    });
    let total = |label: &str| -> f64 {
        hosts.iter().map(|host| metric(host, "starling_gossip_state_changes_total", label)).sum()
    };
    let (suspicions, evictions) = (total("to=\"suspect\""), total("to=\"failed\""));
    println!("mesh25: SIGSTOP of one for 2 s: {suspicions} suspicions over all views, {evictions} evictions");
    assert!(evictions.abs() < f64::EPSILON, "{evictions} evictions");

    // One starts again: its old life is over at once.
    let epoch = |host: &Host| {
        let member = host.api("/v1/members/vm-20")?;
        (member["state"] == "alive").then(|| member["bootEpoch"].as_str().map(str::to_owned)).flatten()
    };
    let before = epoch(&hosts[0]).unwrap();
    hosts[19].kill();
    let started = Instant::now();
    hosts[19].start(Some(mesh.address(1, 7740)));
    eventually("everybody knows the new life", Duration::from_secs(60), || {
        let others = hosts.iter().filter(|host| host.number != 20);
        others.into_iter().all(|host| epoch(host).is_some_and(|now| now != before)).then_some(())
    });
    let took = started.elapsed();
    println!("mesh25: a restarted agent is known in its new life everywhere after {} ms", took.as_millis());
    assert!(took <= RESTART_MAX, "{took:?}");
    eventually("the restarted one sees all", Duration::from_secs(20), || {
        hosts[19].sees_alive(usize::from(AGENTS)).then_some(())
    });

    // Three at once.
    let killed = ["vm-5", "vm-11", "vm-23"];
    let began = Instant::now();
    for host in hosts.iter_mut().filter(|host| killed.contains(&host.name().as_str())) {
        host.kill();
    }
    let alive: Vec<&Host> = hosts.iter().filter(|host| !killed.contains(&host.name().as_str())).collect();
    let mut seen = vec![None; alive.len()];
    eventually("all others hold the three failed", DEATH_MAX, || {
        for (host, at) in alive.iter().zip(seen.iter_mut()).filter(|(_, at)| at.is_none()) {
            let failed = host.members("failed");
            *at = killed.iter().all(|name| failed.iter().any(|held| held == name)).then(|| began.elapsed());
        }
        seen.iter().all(Option::is_some).then_some(())
    });
    for (host, at) in alive.iter().zip(&seen) {
        println!("mesh25: {} holds all three failed after {} ms", host.name(), at.unwrap().as_millis());
    }
    let rest = usize::from(AGENTS) - killed.len();
    assert!(alive.iter().all(|host| host.sees_alive(rest)), "somebody else was evicted");
    // The figure that was zero after the pause counts.
    let deaths: f64 =
        alive.iter().map(|host| metric(host, "starling_gossip_state_changes_total", "to=\"failed\"")).sum();
    assert!(deaths >= 3.0 * f64::from(u8::try_from(rest).unwrap()), "{deaths}");

    // Why?
    let dir = mesh.path("op");
    let socket = alive[0].socket();
    let story = starling_ok(&dir, &["--address", &socket, "events", "--node", killed[0]]);
    println!("{story}");
    for part in ["suspect → failed after", "own probe without an answer in", "doubted by"] {
        assert!(story.contains(part), "the story lacks {part:?}:\n{story}");
    }
    let lines = starling_ok(&dir, &["--address", &socket, "events", "--node", killed[0], "-o", "jsonl"]);
    let steps: Vec<String> = lines
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap())
        .filter_map(|event| event["type"].as_str().map(str::to_owned))
        .collect();
    let position = |step: &str| steps.iter().position(|held| held == step);
    assert!(position("suspected") < position("failed") && position("suspected").is_some(), "{steps:?}");

    // Round trips.
    let pong = starling_ok(&dir, &["--address", &socket, "ping", "vm-2", "-c", "2", "-i", "10ms", "--size", "1162"]);
    println!("{pong}");
    assert!(pong.starts_with("pong from vm-2 (127.75.0.2:7740) via QUIC in "), "{pong}");
    assert!(pong.contains("path MTU ") && pong.contains("2 sent, 2 received, min/avg/max "), "{pong}");
    assert!(starling_ok(&dir, &["--address", &socket, "ping", "vm-1", "-c", "1"]).contains("via itself"));
    let unknown = alive[0].cli(&["ping", "vm-99", "-c", "1"]);
    assert_eq!(unknown.status.code(), Some(4), "{unknown:?}");
    let dead = alive[0].cli(&["ping", killed[0], "-c", "1"]);
    assert_eq!(dead.status.code(), Some(1), "{dead:?}");
    assert!(String::from_utf8_lossy(&dead.stdout).contains("1 sent, 0 received"), "{dead:?}");
}

/// Documents applied one after the other; the ninety-ninth of a hundred says how long one takes to be in use everywhere.
const APPLIES: usize = 100;
/// Half a second is promised, at p99 and with a release build (`STARLING_BIN`) on a machine that has nothing else to do.
const APPLY_MAX: Duration = Duration::from_millis(500);
const APPLY_DEBUG_MAX: Duration = Duration::from_secs(5);

#[test]
fn mesh25_uses_a_document_everywhere_within_half_a_second() {
    let mesh = Mesh::new(102);
    let alice = crate::apply::Desk::of(&mesh, "alice");
    let mut hosts = hosts(&mesh);
    form(&mesh, &mut hosts);
    // Fewer and slower where the agents are of a debug build.
    let release = std::env::var_os("STARLING_BIN").is_some();
    let (applies, most) = if release { (APPLIES, APPLY_MAX) } else { (APPLIES / 10, APPLY_DEBUG_MAX) };
    let mut took = Vec::new();
    for at in 0..applies {
        alice.write(
            "orders.yaml",
            &format!(
                "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: orders}}\nspec:\n  \
                 parentRefs: [{{group: \"\", kind: Service, name: orders}}]\n  \
                 rules: [{{backendRefs: [{{name: orders, weight: {}}}]}}]\n",
                at + 1
            ),
        );
        let (exit, out, error) = alice.signed(&hosts[at % hosts.len()], &["apply", "-f", "orders.yaml", "--wait"]);
        assert_eq!(exit, 0, "{out}{error}");
        let (_, after) = out.split_once("in use on 25/25 alive members after ").expect("all of them");
        took.push(after.split(' ').next().unwrap().parse::<f64>().unwrap());
        let generation =
            |host: &Host| host.api("/v1/config/httproute/default/orders").map(|one| one["generation"].clone());
        assert!(hosts.iter().all(|host| generation(host) == Some((at + 1).into())), "--wait means all");
    }
    took.sort_by(f64::total_cmp);
    let part = |of: usize| took[(took.len() * of).div_ceil(100).saturating_sub(1)];
    println!("mesh25: a document is in use on 25 agents after {} s at p50, {} s at p99", part(50), part(99));
    assert!(part(99) <= most.as_secs_f64(), "{took:?}");
}
