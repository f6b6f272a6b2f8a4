//! Agents die, come back and leave, under load.

use std::time::Duration;

use crate::agent::{Mesh, eventually, three};
use crate::http::{Backend, Load};

#[test]
fn killing_the_agent_of_half_the_instances_costs_under_one_percent_and_nothing_after_a_second() {
    let mesh = Mesh::new(41);
    let mut hosts = three(&mesh, "lan", |_| String::new());
    let backends = [Backend::start("127.41.0.2:0", "on-vm-2"), Backend::start("127.41.0.3:0", "on-vm-3")];
    for (host, backend) in hosts[1..].iter().zip(&backends) {
        host.announce("orders-1", "orders", "http", backend.address, "");
    }
    eventually("both instances are used", Duration::from_secs(10), || {
        let service = hosts[0].api("/v1/services/default/orders")?;
        let healthy = service["endpoints"].as_array()?.iter().filter(|e| e["health"] == "healthy").count();
        (healthy == 2).then_some(())
    });
    let load = Load::start(hosts[0].at(7780), "orders.mesh.internal", 16, Duration::from_millis(10));
    eventually("load reaches both", Duration::from_secs(5), || {
        backends.iter().all(|b| b.served.load(std::sync::atomic::Ordering::Relaxed) > 50).then_some(())
    });
    hosts[2].kill();
    let killed = load.started.elapsed();
    let (_, took) = eventually("vm-3 is failed at both others", Duration::from_secs(20), || {
        hosts[..2].iter().all(|h| h.members("failed").contains(&"vm-3".to_owned())).then_some(())
    });
    println!("killed to declared failed by all: {:.1} s", took.as_secs_f64());
    assert!(took < Duration::from_secs(10), "{took:?}");
    // Back by itself.
    let before = backends[1].served.load(std::sync::atomic::Ordering::Relaxed);
    hosts[2].start(Some(mesh.address(1, 7740)));
    let (_, back) = eventually("vm-3 is in the rotation again", Duration::from_secs(10), || {
        (backends[1].served.load(std::sync::atomic::Ordering::Relaxed) > before).then_some(())
    });
    println!("restart to first request: {} ms", back.as_millis());
    assert!(back < Duration::from_secs(2), "{back:?}");
    let report = load.finish();
    let failures = report.failures();
    let late = failures.iter().filter(|(at, _)| *at > killed + Duration::from_secs(1)).count();
    println!("{} of {} requests failed, {late} of them after the first second", failures.len(), report.samples.len());
    assert_eq!(late, 0, "{failures:?}");
    assert!(failures.len() * 100 < report.samples.len(), "{} of {}", failures.len(), report.samples.len());
}

#[test]
fn a_graceful_leave_under_load_fails_nothing() {
    let mesh = Mesh::new(42);
    let mut hosts = three(&mesh, "lan", |_| String::new());
    let backends = [Backend::start("127.42.0.2:0", "on-vm-2"), Backend::start("127.42.0.3:0", "on-vm-3")];
    for (host, backend) in hosts[1..].iter().zip(&backends) {
        host.announce("orders-1", "orders", "http", backend.address, "");
    }
    eventually("both instances answer", Duration::from_secs(10), || {
        hosts[0].request("orders", "/").ok()?;
        backends.iter().all(|b| b.served.load(std::sync::atomic::Ordering::Relaxed) > 0).then_some(())
    });
    let load = Load::start(hosts[0].at(7780), "orders.mesh.internal", 16, Duration::from_millis(5));
    eventually("load runs", Duration::from_secs(5), || {
        backends.iter().all(|b| b.served.load(std::sync::atomic::Ordering::Relaxed) > 50).then_some(())
    });
    let left = hosts[2].cli(&["leave"]);
    let text = String::from_utf8_lossy(&left.stdout).into_owned();
    assert!(left.status.success(), "{text}{}", String::from_utf8_lossy(&left.stderr));
    assert!(text.contains("vm-3 left; 2 peers acknowledged"), "{text}");
    assert_eq!(hosts[2].wait(Duration::from_secs(15)), Some(0));
    eventually("vm-3 is shown as left", Duration::from_secs(3), || {
        hosts[..2].iter().all(|h| h.members("left").contains(&"vm-3".to_owned())).then_some(())
    });
    std::thread::sleep(Duration::from_millis(500)); // The load goes on for a while without vm-3.
    let report = load.finish();
    assert_eq!(report.failures(), vec![], "of {}", report.samples.len());
    println!("leave under load: 0 of {} requests failed", report.samples.len());
}

#[test]
fn sigterm_under_load_fails_nothing() {
    let mesh = Mesh::new(43);
    let mut hosts = three(&mesh, "lan", |_| String::new());
    let backends = [Backend::start("127.43.0.2:0", "on-vm-2"), Backend::start("127.43.0.3:0", "on-vm-3")];
    for (host, backend) in hosts[1..].iter().zip(&backends) {
        host.announce("orders-1", "orders", "http", backend.address, "");
    }
    eventually("both instances answer", Duration::from_secs(10), || {
        hosts[0].request("orders", "/").ok()?;
        backends.iter().all(|b| b.served.load(std::sync::atomic::Ordering::Relaxed) > 0).then_some(())
    });
    let load = Load::start(hosts[0].at(7780), "orders.mesh.internal", 8, Duration::from_millis(5));
    assert_eq!(hosts[1].terminate(Duration::from_secs(20)), Some(0));
    let report = load.finish();
    assert_eq!(report.failures(), vec![], "of {}", report.samples.len());
}

#[test]
fn an_instance_that_refuses_or_hangs_is_worked_around() {
    let mesh = Mesh::new(44);
    let hosts = three(&mesh, "lan", |_| String::new());
    let backend = Backend::start("127.44.0.2:0", "good");
    hosts[1].announce("orders-1", "orders", "http", backend.address, "");
    // Nothing listens there: the owner cannot reach it, and has no check that would tell.
    hosts[2].announce("orders-1", "orders", "http", "127.44.0.3:1".parse().unwrap(), "");
    eventually("both are announced", Duration::from_secs(10), || {
        let service = hosts[0].api("/v1/services/default/orders")?;
        let healthy = service["endpoints"].as_array()?.iter().filter(|e| e["health"] == "healthy").count();
        (healthy == 2).then_some(())
    });
    for n in 0..100 {
        let answer = hosts[0].request("orders", "/").unwrap();
        assert_eq!(answer.status, 200, "request {n}: {answer:?}");
    }
    // A hung instance ends in a clear answer at the built-in deadline, and the agent lives on.
    let answer = hosts[0].request("orders", "/hang").unwrap();
    assert_eq!(answer.status, 504, "{answer:?}");
    assert!(answer.header("proxy-status").unwrap().contains("http_response_timeout"), "{answer:?}");
    assert_eq!(hosts[0].request("orders", "/").unwrap().status, 200);
}

#[test]
fn a_failing_check_takes_an_instance_out_and_a_good_one_puts_it_back() {
    let mesh = Mesh::new(45);
    let hosts = three(&mesh, "lan", |_| String::new());
    let listener = std::net::TcpListener::bind("127.45.0.2:0").unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let check = "health = { tcp = true, interval = \"200ms\", timeout = \"200ms\", unhealthy = 2, healthy = 1 }\n";
    hosts[1].announce("orders-1", "orders", "http", address, check);
    eventually("the first check counts alone", Duration::from_secs(5), || {
        hosts[0].request("orders", "/").ok().filter(|answer| answer.status == 503)
    });
    let backend = Backend::start(&address.to_string(), "up");
    eventually("healthy", Duration::from_secs(5), || {
        hosts[0].request("orders", "/").ok().filter(|answer| answer.status == 200)
    });
    drop(backend);
    eventually("unhealthy again", Duration::from_secs(10), || {
        let service = hosts[0].api("/v1/services/default/orders")?;
        (service["endpoints"][0]["health"] == "unhealthy").then_some(())
    });
}
