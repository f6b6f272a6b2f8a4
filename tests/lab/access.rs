//! The access log of real agents: what an operator finds in the file, and that a rotation loses nothing.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::agent::{Mesh, eventually, three};
use crate::apply::Desk;
use crate::http::{Backend, Client};

const ROUTE: &str = "apiVersion: starling/v1
kind: HTTPRoute
metadata: {name: orders}
spec:
  parentRefs: [{kind: Service, name: orders}]
  rules:
    - name: main
      backendRefs: [{name: orders}]
";

fn lines(path: &Path) -> Vec<Value> {
    let text = fs::read_to_string(path).unwrap_or_default();
    text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))).collect()
}

/// Waits for the line of this path, and checks that there is one.
fn line_of(log: &Path, path: &str) -> Value {
    let found = || lines(log).into_iter().filter(|line| line["url.path"] == path).collect::<Vec<_>>();
    let (first, _) = eventually(path, Duration::from_secs(10), || found().into_iter().next());
    assert_eq!(found().len(), 1, "{path}");
    first
}

#[test]
fn the_access_log_tells_who_asked_what_and_by_which_documents() {
    let mesh = Mesh::new(116);
    let alice = Desk::of(&mesh, "alice");
    let log = |number: u8| mesh.path(&format!("vm-{number}/access.log"));
    let hosts = three(&mesh, "lan", |number| {
        let (ip, path) = (format!("127.116.0.{number}"), log(number).display().to_string());
        format!(
            "[access_log]\nto = \"{path}\"\nonly = \"all\"\n[[upstream]]\nservice = \"bytes\"\nlisten = \"{ip}:9001\"\n"
        )
    });
    let orders = Backend::start("127.116.0.2:0", "orders");
    hosts[1].announce("orders-1", "orders", "http", orders.address, "");
    let bytes = Backend::start("127.116.0.2:0", "bytes");
    hosts[1].announce("bytes-1", "bytes", "tcp", bytes.address, "");
    alice.write("orders.yaml", ROUTE);
    let (exit, out, error) = alice.signed(&hosts[0], &["apply", "-f", "orders.yaml", "--wait"]);
    assert_eq!(exit, 0, "{out}{error}");
    eventually("both services are known", Duration::from_secs(10), || {
        let known = hosts[0].api("/v1/services")?["items"].as_array().map(Vec::len);
        (known == Some(2) && hosts[0].request("orders", "/warm").ok()?.status == 200).then_some(())
    });

    let mut client = Client::connect(hosts[0].at(7780)).unwrap();
    let head = "host: orders.mesh.internal\r\ntraceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01\r\n\
                x-request-id: r-17\r\nauthorization: Bearer hunter2\r\ncookie: session=hunter2\r\n";
    let answer = client.raw(format!("GET /cart?token=hunter2 HTTP/1.1\r\n{head}\r\n").as_bytes()).unwrap();
    assert_eq!(answer.status, 200);
    let digest = hosts[0].api("/v1/status").unwrap()["config"]["digest"].as_str().unwrap().to_owned();
    for (number, direction) in [(1, "outbound"), (2, "inbound")] {
        let line = line_of(&log(number), "/cart");
        assert_eq!(
            (&line["starling.direction"], &line["starling.node"]),
            (&direction.into(), &format!("vm-{number}").into())
        );
        assert_eq!(line["starling.endpoint"], "vm-2/default/orders-1");
        assert!(digest.starts_with(line["starling.config"].as_str().unwrap()), "{digest} {line}");
        assert_eq!((&line["http.response.status_code"], &line["error.type"]), (&200.into(), &Value::Null));
        assert_eq!(line["starling.source_id"], "spiffe://lab.internal/node/vm-1");
        assert_eq!(line["trace_id"], "4bf92f3577b34da6a3ce929d0e0e4736");
        assert_eq!(line["starling.request_id"], "r-17");
        assert!(line["starling.duration_ms"].as_f64().unwrap() > 0.0, "{line}");
    }
    let outbound = line_of(&log(1), "/cart");
    assert_eq!((&outbound["starling.route"], &outbound["starling.rule"]), (&"default/orders".into(), &"main".into()));
    assert_eq!(outbound["service.peer.name"], "orders");

    // What the mesh answers itself.
    assert_eq!(hosts[0].request("nobody", "/missing").unwrap().status, 404);
    assert_eq!(line_of(&log(1), "/missing")["error.type"], "destination_not_found");
    // Bytes: the backend speaks HTTP, which nobody looks at here.
    let mut stream = TcpStream::connect(hosts[0].at(9001)).unwrap();
    stream.write_all(b"GET /through-bytes HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    let mut got = Vec::new();
    stream.read_to_end(&mut got).unwrap();
    for number in [1, 2] {
        let tunnel = || lines(&log(number)).into_iter().find(|line| line["network.protocol.name"] == "tcp");
        let (line, _) = eventually("the tunnel is told", Duration::from_secs(10), tunnel);
        assert_eq!(line["starling.received_bytes"].as_u64().unwrap(), got.len() as u64);
        assert_eq!(line["starling.endpoint"], "vm-2/default/bytes-1");
    }

    // logrotate: renamed, SIGHUP, and the next line is in the new file.
    let rotated = mesh.path("vm-1/access.log.1");
    fs::rename(log(1), &rotated).unwrap();
    kill(Pid::from_raw(i32::try_from(hosts[0].pid()).unwrap()), Signal::SIGHUP).unwrap();
    eventually("the new file is there", Duration::from_secs(10), || log(1).exists().then_some(()));
    assert_eq!(hosts[0].request("orders", "/after").unwrap().status, 200);
    line_of(&log(1), "/after");
    assert!(lines(&rotated).iter().any(|line| line["url.path"] == "/cart"));
    for number in [1, 2, 3] {
        let told = fs::read_to_string(log(number)).unwrap_or_default();
        assert!(!told.contains("hunter2") && !told.contains("token"), "{told}");
    }
    assert!(!fs::read_to_string(&rotated).unwrap().contains("hunter2"));
    let address = hosts[0].at(7741);
    let metrics = crate::http::get(address, &address.to_string(), "/metrics").unwrap().body;
    let written = metrics.lines().find(|line| line.starts_with("starling_access_log_lines_total{result=\"written\"}"));
    assert!(written.is_some_and(|line| !line.ends_with(" 0")), "{metrics}");
    assert!(metrics.contains("starling_access_log_lines_total{result=\"dropped\"} 0"));
}
