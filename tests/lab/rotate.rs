//! S27: the root is rotated while three real agents run, A -> A+B -> B, by the commands that are documented. One agent is
//! away for a step and one misses the last ones, is refused by all, and catches up by `starling-trust/1`.

use std::time::Duration;

use crate::agent::{Host, Mesh, eventually, starling_in, three};

/// Runs `starling trust …` in the operator's folder: exit code and all that was said.
fn desk(mesh: &Mesh, args: &[&str]) -> (i32, String) {
    let output = starling_in(&mesh.path("op"), &[&["trust"], args].concat());
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code().unwrap_or(-1), text(&output.stdout) + &text(&output.stderr))
}

/// One step of the rotation by way of a host.
fn step(mesh: &Mesh, host: &Host, args: &[&str]) -> (i32, String) {
    let config = host.config.display().to_string();
    desk(mesh, &[&["rotate", "--config-dir", &config], args].concat())
}

fn bundle(host: &Host) -> Option<u64> {
    host.api("/v1/trust")?["bundleSequence"].as_u64()
}

/// The root that a member's certificate leads to, as `host` knows it.
fn root(host: &Host, member: &str) -> Option<String> {
    let list = host.api("/v1/members")?;
    let found = list["items"].as_array()?.iter().find(|one| one["name"] == member)?.clone();
    found["certificate"]["root"].as_str().map(str::to_owned)
}

fn all_alive(hosts: &[Host]) -> bool {
    hosts.iter().all(|host| host.sees_alive(hosts.len()))
}

/// Who was held dead here since the agent's start.
fn deaths(host: &Host) -> Vec<String> {
    let events = host.api("/v1/events?kind=membership").expect("events");
    let items = events["items"].as_array().expect("a list");
    assert!(!items.is_empty(), "{}: members came, at least", host.name());
    let dead = items.iter().filter(|event| event["type"] == "failed");
    dead.map(|event| event["node"].as_str().unwrap_or_default().to_owned()).collect()
}

/// Nobody was held dead but this one, at any host.
fn assert_no_deaths(hosts: &[Host], but: &str) {
    for host in hosts {
        let dead = deaths(host);
        assert!(dead.iter().all(|name| name == but), "{}: {dead:?}", host.name());
    }
}

#[test]
fn a_root_is_rotated_while_all_run_and_nobody_is_refused() {
    let mesh = Mesh::new(81);
    let mut hosts = three(&mesh, "fast", |_| String::new());
    // A member is alive a little sooner than its certificate is known.
    let (old, _) = eventually("vm-2 shows its root", Duration::from_secs(10), || root(&hosts[0], "vm-2"));
    let (exit, told) = step(&mesh, &hosts[0], &["--begin", "--wait"]);
    assert!(
        exit == 0 && told.contains("bundle sequence 2 holds both roots") && told.contains("signed 3 new"),
        "{told}"
    );
    assert!(told.contains("in use on 3/3"), "{told}");
    println!("rotate: {told}");
    let (exit, told) = step(&mesh, &hosts[1], &["--begin"]);
    assert!(exit == 5 && told.contains("a rotation is under way"), "{told}");

    // One is behind: away since before the step, it reports nothing newer.
    let (exit, told) = step(&mesh, &hosts[1], &["--finish"]);
    assert!(
        exit == 5 && told.contains("ST0607") && told.contains("vm-1, vm-2, vm-3"),
        "they show the old chain: {told}"
    );
    hosts[2].kill();
    assert_eq!(desk(&mesh, &["issue", "operator", "bob", "--roles", "config"]).0, 0);
    let config = hosts[0].config.display().to_string();
    let (exit, told) = desk(&mesh, &["update", "--config-dir", &config]);
    assert_eq!(exit, 0, "{told}");
    let uses = |host: &Host, sequence: u64| bundle(host) == Some(sequence);
    eventually("both use it", Duration::from_secs(10), || hosts[..2].iter().all(|host| uses(host, 3)).then_some(()));
    let (exit, told) = eventually("only who is away is behind", Duration::from_secs(10), || {
        Some(step(&mesh, &hosts[1], &["--switch"])).filter(|(_, told)| told.contains("waits for vm-3"))
    })
    .0;
    assert!(exit == 5 && told.contains("ST0607"), "{told}");
    let (_, told) = step(&mesh, &hosts[1], &["--status"]);
    assert!(told.contains("behind") && told.contains("2 of 3 members are ready; --switch waits for vm-3"), "{told}");
    println!("rotate: {told}");
    hosts[2].start(Some(mesh.address(1, 7740)));
    eventually("all are back", Duration::from_secs(20), || (all_alive(&hosts) && uses(&hosts[2], 3)).then_some(()));

    let (exit, told) = eventually("all are ready", Duration::from_secs(10), || {
        Some(step(&mesh, &hosts[1], &["--switch", "--wait"])).filter(|(exit, _)| *exit == 0)
    })
    .0;
    assert!(exit == 0 && told.contains("in use on 3/3"), "{told}");
    println!("rotate: {told}");
    let (_, took) = eventually("all show the new chain", Duration::from_secs(10), || {
        let new = |member: &str| hosts.iter().all(|host| root(host, member).is_some_and(|root| root != old));
        ["vm-1", "vm-2", "vm-3"].into_iter().all(new).then_some(())
    });
    println!("rotate: all showed the new chain {} ms after the switch", took.as_millis());
    let (_, told) = step(&mesh, &hosts[0], &["--status"]);
    assert!(told.contains("3 of 3 members are ready; next:  starling trust rotate --finish"), "{told}");
    let (exit, told) = step(&mesh, &hosts[0], &["--finish", "--wait"]);
    assert!(exit == 0 && told.contains("holds root") && told.contains("in use on 3/3"), "{told}");
    println!("rotate: {told}");
    std::thread::sleep(Duration::from_secs(3));
    assert!(all_alive(&hosts), "connections that stood go on");
    assert_no_deaths(&hosts[..2], "vm-3");

    // A restart shows the new chain, and finds the others by it.
    hosts[1].terminate(Duration::from_secs(10));
    hosts[1].start(Some(mesh.address(3, 7740)));
    eventually("who was restarted is back", Duration::from_secs(20), || all_alive(&hosts).then_some(()));
    let (exit, told) = desk(&mesh, &["issue", "node", "vm-9"]);
    assert!(exit == 0, "nodes are issued under the new root: {told}");
    let log = hosts.iter().map(Host::log).collect::<String>();
    assert!(!log.contains("panicked") && !log.contains("peer refused"), "nobody alive was refused");
}

#[test]
fn who_missed_the_last_steps_and_is_refused_by_all_catches_up() {
    let mesh = Mesh::new(82);
    let mut hosts = three(&mesh, "fast", |_| String::new());
    hosts[2].kill();
    for args in [&["--begin"][..], &["--switch", "--force"], &["--finish", "--force"]] {
        let (exit, told) = step(&mesh, &hosts[0], args);
        assert_eq!(exit, 0, "{args:?}: {told}");
        let sequence = desk_sequence(&mesh);
        eventually("both use it", Duration::from_secs(10), || {
            hosts[..2].iter().all(|host| bundle(host) == Some(sequence)).then_some(())
        });
    }
    eventually("both are alive to each other", Duration::from_secs(20), || {
        hosts[..2].iter().all(|host| host.members("alive").len() == 2).then_some(())
    });
    assert_eq!(bundle(&hosts[0]), Some(4));
    assert_eq!(deaths(&hosts[0]), ["vm-3"], "the one that was killed, which shows that deaths are seen here");
    // Its bundle knows the old root only, and its certificate is under it.
    hosts[2].start(Some(mesh.address(1, 7740)));
    let (_, took) =
        eventually("it uses the chain", Duration::from_secs(30), || (bundle(&hosts[2]) == Some(4)).then_some(()));
    println!("rotate: who was refused by all used the newest bundle {} ms after its start", took.as_millis());
    let (_, took) = eventually("it is alive to all", Duration::from_secs(30), || all_alive(&hosts).then_some(()));
    println!("rotate: and was alive to all {} ms later", took.as_millis());
    assert_no_deaths(&hosts[..2], "vm-3");
    let log = hosts.iter().map(Host::log).collect::<String>();
    assert!(!log.contains("panicked"));
    // What it got survives a restart.
    hosts[2].terminate(Duration::from_secs(10));
    hosts[2].start(Some(mesh.address(2, 7740)));
    eventually("it is back", Duration::from_secs(20), || all_alive(&hosts).then_some(()));
    assert_eq!(bundle(&hosts[2]), Some(4));
}

fn desk_sequence(mesh: &Mesh) -> u64 {
    let file = std::fs::read(mesh.path("op/trust/bundle.trust")).expect("the desk has a bundle");
    starling_identity::TrustBundle::parse(&file).expect("a bundle").sequence
}
