//! A mesh forms, services are found, every door answers.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use crate::agent::{Mesh, eventually, starling_ok, start_all, three};
use crate::http::{Backend, get};

#[test]
fn three_agents_form_a_mesh_through_one_seed_within_a_second() {
    let mesh = Mesh::new(31);
    let mut hosts = [1, 2, 3].map(|n| mesh.host(n, "lan", ""));
    hosts[0].start(None);
    eventually("the seed is ready", Duration::from_secs(10), || hosts[0].ready().then_some(()));
    let started = Instant::now();
    let seed = mesh.address(1, 7740);
    hosts[1].start(Some(seed));
    hosts[2].start(Some(seed));
    eventually("all see all", Duration::from_secs(10), || hosts.iter().all(|h| h.sees_alive(3)).then_some(()));
    let took = started.elapsed();
    println!("mesh of 3 formed in {} ms, process start included", took.as_millis());
    // The figure to reach is 1 s on an idle machine; other tests share these cores.
    assert!(took < Duration::from_secs(2), "{took:?}");
}

#[test]
fn an_announced_service_is_reachable_from_another_host_within_a_second() {
    let mesh = Mesh::new(32);
    let hosts = three(&mesh, "lan", |_| String::new());
    let backend = Backend::start("127.32.0.2:0", "orders-on-vm-2");
    let unknown = hosts[0].request("orders", "/").unwrap();
    assert_eq!(unknown.status, 404, "{unknown:?}");
    assert!(unknown.header("proxy-status").unwrap().contains("destination_not_found"), "{unknown:?}");
    hosts[1].announce("orders-1", "orders", "http", backend.address, "health = { http = \"/\", interval = \"1s\" }\n");
    let (answer, took) = eventually("orders answers through vm-1", Duration::from_secs(10), || {
        hosts[0].request("orders", "/cart?x=1").ok().filter(|answer| answer.status == 200)
    });
    println!("announced to reachable: {} ms", took.as_millis());
    // The figure to reach is 1 s on an idle machine.
    assert!(took < Duration::from_secs(2), "{took:?}");
    assert!(answer.body.starts_with("orders-on-vm-2\nGET /cart?x=1 HTTP/1.1"), "{answer:?}");
    assert!(answer.body.to_lowercase().contains("uri=spiffe://lab.internal/node/vm-1"), "{answer:?}");
    // The third host reaches it too, as an HTTP proxy would be asked.
    let mut proxied = crate::http::Client::connect(hosts[2].at(7780)).unwrap();
    let answer =
        proxied.raw(b"GET http://orders.mesh.internal/p HTTP/1.1\r\nHost: orders.mesh.internal\r\n\r\n").unwrap();
    assert_eq!(answer.status, 200, "{answer:?}");
    // Withdrawn by removing the file.
    fs::remove_file(hosts[1].config.join("services.d/orders-1.toml")).unwrap();
    eventually("orders is gone at vm-1", Duration::from_secs(5), || {
        hosts[0].request("orders", "/").ok().filter(|answer| answer.status == 404)
    });
}

#[test]
fn an_instance_is_announced_and_withdrawn_over_the_socket_and_survives_a_restart() {
    let mesh = Mesh::new(33);
    let mut hosts = [1, 2].map(|n| mesh.host(n, "fast", ""));
    start_all(&mesh, &mut hosts);
    let backend = Backend::start("127.33.0.2:0", "db-on-vm-2");
    let socket = hosts[1].config.join("api.sock");
    let body = format!(
        r#"{{"service":"db","port":"main","protocol":"http","address":"{}","labels":{{"tier":"gold"}}}}"#,
        backend.address
    );
    assert_eq!(over_socket(&socket, "PUT", "/v1/instances/db-1", &body).0, 200);
    eventually("db answers", Duration::from_secs(5), || {
        hosts[0].request("db", "/").ok().filter(|answer| answer.status == 200)
    });
    hosts[1].kill();
    hosts[1].start(Some(mesh.address(1, 7740)));
    eventually("db answers after a restart", Duration::from_secs(10), || {
        hosts[0].request("db", "/").ok().filter(|answer| answer.status == 200)
    });
    // The read-only door writes nothing.
    let tcp = hosts[1].at(7741);
    let mut client = crate::http::Client::connect(tcp).unwrap();
    let refused = client.raw(format!("DELETE /v1/instances/db-1 HTTP/1.1\r\nhost: {tcp}\r\n\r\n").as_bytes()).unwrap();
    assert_eq!(refused.status, 403, "{refused:?}");
    assert!(refused.body.contains("ST0307"), "{refused:?}");
    assert_eq!(over_socket(&socket, "DELETE", "/v1/instances/db-1", "").0, 200);
    eventually("db is gone", Duration::from_secs(5), || {
        hosts[0].request("db", "/").ok().filter(|answer| answer.status == 404)
    });
    assert_eq!(over_socket(&socket, "DELETE", "/v1/instances/db-1", "").0, 404);
    assert_eq!(over_socket(&socket, "PUT", "/v1/instances/db-1", r#"{"servce":"db"}"#).0, 400);
}

/// One request over the Unix socket; status and body.
pub(crate) fn over_socket(socket: &std::path::Path, method: &str, path: &str, body: &str) -> (u16, String) {
    let mut stream = std::os::unix::net::UnixStream::connect(socket).unwrap();
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
    .unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    (text.split(' ').nth(1).and_then(|s| s.parse().ok()).unwrap_or(0), text)
}

#[test]
fn bytes_pass_both_ways_through_a_fixed_entrance_with_half_close() {
    let mesh = Mesh::new(34);
    let upstream = |n: u8| match n {
        1 => "[[upstream]]\nservice = \"echo\"\nlisten = \"127.34.0.1:9001\"\n".to_owned(),
        _ => String::new(),
    };
    let hosts = three(&mesh, "lan", upstream);
    let listener = std::net::TcpListener::bind("127.34.0.3:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            std::thread::spawn(move || {
                // Speaks first, then echoes until the other side has finished, then says goodbye.
                let mut all = Vec::new();
                stream.write_all(b"hello\n").unwrap();
                let _ = stream.read_to_end(&mut all);
                let _ = stream.write_all(&all);
                let _ = stream.write_all(b"bye\n");
            });
        }
    });
    hosts[2].announce("echo-1", "echo", "tcp", address, "");
    let payload: Vec<u8> = (0..3_000_000u32).map(|n| u8::try_from(n % 251).unwrap()).collect();
    let (got, _) = eventually("the echo comes back whole", Duration::from_secs(10), || {
        let mut stream = TcpStream::connect("127.34.0.1:9001").ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let mut writer = stream.try_clone().unwrap();
        let sent = payload.clone();
        let sender = std::thread::spawn(move || {
            let _ = writer.write_all(&sent);
            let _ = writer.shutdown(std::net::Shutdown::Write);
        });
        let mut got = Vec::new();
        let _ = stream.read_to_end(&mut got);
        sender.join().unwrap();
        (!got.is_empty()).then_some(got)
    });
    assert!(got.starts_with(b"hello\n") && got.ends_with(b"bye\n"));
    assert_eq!(got.len(), payload.len() + 10);
    assert!(got[6..6 + payload.len()] == payload[..]);
}

#[test]
fn the_quick_path_derives_each_hosts_identity_from_one_shared_folder() {
    let mesh = Mesh::new(35);
    let lab = mesh.path("lab");
    let text = starling_ok(
        mesh.dir.path(),
        &["trust", "init", "--trust-domain", "lab.internal", "--operator", "alice", "--out", "lab", "--shared-issuer"],
    );
    assert!(text.contains("ST0604"), "{text}");
    let mut hosts = [1, 2, 3].map(|n| {
        let host = mesh.bare_host(n, "lan", "");
        fs::create_dir_all(host.config.join("trust")).unwrap();
        for file in ["bundle.trust", "issuer.key"] {
            fs::copy(lab.join("trust").join(file), host.config.join("trust").join(file)).unwrap();
        }
        host
    });
    start_all(&mesh, &mut hosts);
    for host in &hosts {
        let certs = host.api("/v1/certs").unwrap().to_string();
        assert!(certs.contains(&format!("spiffe://lab.internal/node/{}", host.name())), "{certs}");
        let status = String::from_utf8(host.cli(&["status"]).stdout).unwrap();
        assert!(status.contains("ST0604"), "{status}");
    }
}

#[test]
fn every_command_and_endpoint_answers_in_table_and_json() {
    let mesh = Mesh::new(36);
    let hosts = three(&mesh, "lan", |n| format!("[mesh.labels]\nzone = \"z{n}\"\n"));
    let backend = Backend::start("127.36.0.2:0", "web");
    hosts[1].announce("web-1", "web", "http", backend.address, "");
    eventually("web answers", Duration::from_secs(5), || {
        hosts[0].request("web", "/").ok().filter(|answer| answer.status == 200)
    });
    let host = &hosts[0];
    for (command, kind, needle) in [
        (vec!["status"], "Status", "Members    3 alive"),
        (vec!["members"], "MemberList", "NODE   ADDRESS"),
        (vec!["services"], "ServiceList", "SERVICE   PROTOCOL"),
        (vec!["services", "web"], "Service", "NODE   INSTANCE"),
        (vec!["routes"], "RouteTable", "ORDER   ROUTE"),
        (vec!["routes", "web"], "RouteTable", "(default)"),
    ] {
        let table = host.cli(&command);
        let text = String::from_utf8(table.stdout).unwrap();
        assert!(table.status.success(), "{command:?}: {text}");
        assert!(text.contains(needle), "{command:?} lacks {needle:?}:\n{text}");
        let json = host.cli(&[command.as_slice(), &["-o", "json"]].concat());
        let value: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap();
        assert_eq!(value["apiVersion"], "starling/v1", "{command:?}");
        assert_eq!(value["kind"], kind, "{command:?}");
        assert_eq!(value["view"]["node"], "vm-1", "{command:?}");
        assert_eq!(value["view"]["agreement"]["alive"], 3, "{command:?}: {value}");
    }
    assert_eq!(host.cli(&["services", "wbe"]).status.code(), Some(4));
    assert!(String::from_utf8(host.cli(&["services", "wbe"]).stderr).unwrap().contains("web"));
    for path in [
        "/livez",
        "/readyz",
        "/metrics",
        "/v1/status",
        "/v1/members/vm-2",
        "/v1/services/default/web",
        "/v1/instances",
        "/v1/certs",
    ] {
        let answer = get(host.at(7741), "localhost", path).unwrap();
        assert_eq!(answer.status, 200, "{path}: {answer:?}");
    }
    for (path, host_header, status) in [
        ("/v1/members/vm-9", "localhost", 404),
        ("/v1/nothing", "localhost", 404),
        ("/v1/members?colour=red", "localhost", 400),
        ("/v1/members", "evil.example", 421),
    ] {
        let answer = get(host.at(7741), host_header, path).unwrap();
        assert_eq!(answer.status, status, "{path}: {answer:?}");
        assert_eq!(answer.header("content-type"), Some("application/problem+json"), "{path}");
    }
    let metrics = get(host.at(7741), "localhost", "/metrics").unwrap().body;
    for family in [
        "starling_gossip_members{state=\"alive\"} 3",
        "starling_gossip_probes_total",
        "starling_http_requests_total",
        "starling_endpoints",
        "starling_build_info",
        "process_resident_memory_bytes",
    ] {
        assert!(metrics.contains(family), "{family} is missing:\n{metrics}");
    }
}

#[test]
fn an_idle_agent_of_a_mesh_of_three_is_small() {
    let mesh = Mesh::new(37);
    let hosts = three(&mesh, "lan", |_| String::new());
    for host in &hosts {
        let status = fs::read_to_string(format!("/proc/{}/status", host.pid())).unwrap();
        let kib = |field: &str| -> u64 {
            let line = status.lines().find_map(|line| line.strip_prefix(field)).unwrap();
            line.trim().split(' ').next().unwrap().parse().unwrap()
        };
        let (resident, own) = (kib("VmRSS:"), kib("RssAnon:"));
        println!("idle agent {}: {resident} KiB resident, {own} of them its own", host.name());
        // The rest is code, of which a debug build has three times as much.
        assert!(own < 8 * 1024, "{own} KiB of its own");
        if std::env::var_os("STARLING_BIN").is_some() {
            assert!(resident < 30 * 1024, "{resident} KiB resident");
        }
    }
}
