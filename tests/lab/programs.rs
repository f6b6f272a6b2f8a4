//! Stock programs on different hosts, talking through the mesh: nginx on A, PostgreSQL on B, Redis on C.
//!
//! Three network namespaces with a bridge between them are three hosts. The wire is captured meanwhile, and no marker
//! that the programs exchange may be readable in it. Needs root, `STARLING_LAB=1` and the Debian packages named below.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, Uid};

use crate::agent::{Mesh, binary, eventually, starling_ok};

const MARKER: &str = "starling-marker-7f3a";

/// Why this host cannot run the test, if it cannot.
fn missing() -> Option<String> {
    if std::env::var("STARLING_LAB").as_deref() != Ok("1") {
        return Some("STARLING_LAB=1 is not set".to_owned());
    }
    if !Uid::effective().is_root() {
        return Some("needs root".to_owned());
    }
    let absent: Vec<&str> = ["ip", "nginx", "redis-server", "redis-benchmark", "wrk", "curl", "openssl", "tshark"]
        .into_iter()
        .filter(|program| !Command::new("which").arg(program).output().is_ok_and(|o| o.status.success()))
        .collect();
    if !absent.is_empty() {
        return Some(format!("not installed: {}", absent.join(", ")));
    }
    postgres_bin().is_none().then(|| "PostgreSQL is not installed".to_owned())
}

pub(crate) fn postgres_bin() -> Option<PathBuf> {
    let versions = fs::read_dir("/usr/lib/postgresql").ok()?.flatten();
    versions
        .map(|v| v.path().join("bin"))
        .filter(|bin| bin.join("initdb").exists() && bin.join("pgbench").exists())
        .max()
}

/// One namespace with an address on the lab's bridge; gone when dropped, with all that was started in it.
struct Namespace {
    name: String,
    children: Vec<(String, Child)>,
}

impl Namespace {
    fn command(&self, program: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name, program]).stdin(Stdio::null());
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("STARLING_") || name.ends_with("_proxy"))
        {
            command.env_remove(name);
        }
        command
    }

    fn run(&self, program: &str, args: &[&str]) -> Output {
        self.command(program).args(args).output().unwrap()
    }

    fn ok(&self, program: &str, args: &[&str]) -> String {
        let output = self.run(program, args);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{program} {args:?}: {text}{}", String::from_utf8_lossy(&output.stderr));
        text
    }

    fn spawn(&mut self, what: &str, log: &Path, program: &str, args: &[&str]) {
        let log = fs::File::options().create(true).append(true).open(log).unwrap();
        let child = self.command(program).args(args).stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap();
        self.children.push((what.to_owned(), child));
    }

    fn end(&mut self) {
        for (_, child) in self.children.iter_mut().rev() {
            let pid = Pid::from_raw(i32::try_from(child.id()).unwrap());
            let _ = kill(pid, Signal::SIGTERM);
        }
        for (_, mut child) in self.children.drain(..).rev() {
            for _ in 0..500 {
                if child.try_wait().ok().flatten().is_some() {
                    break;
                }
                std::thread::sleep(Duration::from_millis(20));
            }
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        self.end();
        let _ = Command::new("ip").args(["netns", "del", &self.name]).status();
    }
}

/// Three namespaces on one bridge, which lives in a namespace of its own.
struct Lab {
    hosts: Vec<Namespace>,
    _switch: Namespace,
}

fn ip(args: &[&str]) {
    let output = Command::new("ip").args(args).output().unwrap();
    assert!(output.status.success(), "ip {args:?}: {}", String::from_utf8_lossy(&output.stderr));
}

fn lab(tag: &str) -> Lab {
    let id = std::process::id() % 100_000;
    let new = |what: &str| {
        let name = format!("sl{tag}{what}{id}");
        let _ = Command::new("ip").args(["netns", "del", &name]).stderr(Stdio::null()).status();
        ip(&["netns", "add", &name]);
        ip(&["-n", &name, "link", "set", "lo", "up"]);
        Namespace { name, children: Vec::new() }
    };
    let switch = new("s");
    ip(&["-n", &switch.name, "link", "add", "br0", "type", "bridge"]);
    ip(&["-n", &switch.name, "link", "set", "br0", "up"]);
    let mut hosts = Vec::new();
    for number in 1..=3 {
        let host = new(&number.to_string());
        let port = format!("p{number}");
        ip(&["-n", &host.name, "link", "add", "eth0", "type", "veth", "peer", "name", &port, "netns", &switch.name]);
        ip(&["-n", &switch.name, "link", "set", &port, "master", "br0", "up"]);
        ip(&["-n", &host.name, "addr", "add", &format!("10.77.0.{number}/24"), "dev", "eth0"]);
        ip(&["-n", &host.name, "link", "set", "eth0", "up"]);
        hosts.push(host);
    }
    Lab { hosts, _switch: switch }
}

#[test]
fn nginx_postgresql_and_redis_on_three_hosts_talk_through_the_mesh_and_the_wire_shows_nothing() {
    if let Some(cause) = missing() {
        println!("skipped: {cause}");
        return;
    }
    let pg = postgres_bin().unwrap();
    let mesh = Mesh::with_domain(70, "prod.internal");
    let dir = mesh.dir.path().to_path_buf();
    // The server processes run as users of their own and must reach their folders.
    Command::new("chmod").args(["755", dir.to_str().unwrap()]).status().unwrap();
    let mut lab = lab("p");

    // As the README says: three identities, three joins, three agents.
    let op = mesh.path("op");
    for number in 1..=3 {
        let name = format!("vm-{number}");
        starling_ok(&op, &["trust", "issue", "node", &name, "--seed", "10.77.0.1:7740", "--dir", "."]);
        let config = mesh.path(&name);
        let file = op.join(format!("{name}.join"));
        starling_ok(&op, &["join", file.to_str().unwrap(), "--config-dir", config.to_str().unwrap(), "--no-start"]);
        fs::create_dir_all(config.join("conf.d")).unwrap();
        fs::create_dir_all(config.join("services.d")).unwrap();
        fs::write(
            config.join("conf.d/entrances.toml"),
            "[[upstream]]\nservice = \"web\"\nlisten = \"127.0.0.1:9001\"\n\
             [[upstream]]\nservice = \"pg\"\nlisten = \"127.0.0.1:9002\"\n\
             [[upstream]]\nservice = \"cache\"\nlisten = \"127.0.0.1:9003\"\n\
             [[upstream]]\nservice = \"ledger\"\nlisten = \"127.0.0.1:9004\"\n\
             [[upstream]]\nservice = \"sessions\"\nlisten = \"127.0.0.1:9005\"\n",
        )
        .unwrap();
    }
    let announce = |number: u8, service: &str, protocol: &str, port: u16, health: &str| {
        let text = format!(
            "[[instance]]\nservice = \"{service}\"\nport = \"main\"\nprotocol = \"{protocol}\"\naddress = \"127.0.0.1:{port}\"\nhealth = {{ {health}, interval = \"1s\" }}\n"
        );
        fs::write(mesh.path(&format!("vm-{number}")).join(format!("services.d/{service}.toml")), text).unwrap();
    };
    announce(1, "web", "http", 8080, "http = \"/\"");
    announce(2, "pg", "tcp", 5432, "tcp = true");
    announce(3, "cache", "tcp", 6379, "tcp = true");

    // The programs, each on its host's loopback only.
    let site = dir.join("site");
    fs::create_dir_all(&site).unwrap();
    fs::write(site.join("index.html"), format!("{MARKER} nginx\n")).unwrap();
    let nginx = format!(
        "daemon off; worker_processes 1; pid {0}/nginx.pid; error_log {0}/nginx.err;\n\
         events {{ worker_connections 512; }}\n\
         http {{ access_log off; server {{ listen 127.0.0.1:8080; root {0}/site; }} }}\n",
        dir.display()
    );
    fs::write(dir.join("nginx.conf"), nginx).unwrap();
    let nginx_conf = dir.join("nginx.conf").display().to_string();
    let data = dir.join("pg");
    fs::create_dir_all(&data).unwrap();
    Command::new("chown").args(["postgres", data.to_str().unwrap()]).status().unwrap();
    let initdb = Command::new("runuser")
        .args(["-u", "postgres", "--", pg.join("initdb").to_str().unwrap(), "-A", "trust", "-D"])
        .arg(&data)
        .current_dir("/")
        .output()
        .unwrap();
    assert!(initdb.status.success(), "{}", String::from_utf8_lossy(&initdb.stderr));
    let (postgres, data) = (pg.join("postgres").display().to_string(), data.display().to_string());
    let log = |name: &str| dir.join(format!("{name}.log"));
    lab.hosts[0].spawn("nginx", &log("nginx"), "nginx", &["-c", &nginx_conf]);
    lab.hosts[1].spawn(
        "postgres",
        &log("postgres"),
        "runuser",
        &[
            "-u",
            "postgres",
            "--",
            &postgres,
            "-D",
            &data,
            "-c",
            "unix_socket_directories=",
            "-c",
            "listen_addresses=127.0.0.1",
        ],
    );
    lab.hosts[2].spawn(
        "redis",
        &log("redis"),
        "redis-server",
        &["--bind", "127.0.0.1", "--port", "6379", "--save", "", "--appendonly", "no"],
    );

    // The wire, as host 1 sees it.
    let capture = dir.join("wire.pcap");
    let capture_text = capture.display().to_string();
    lab.hosts[0].spawn("tshark", &log("tshark"), "tshark", &["-q", "-i", "eth0", "-w", &capture_text]);
    eventually("the capture runs", Duration::from_secs(20), || capture.exists().then_some(()));

    let agent = binary().display().to_string();
    for number in 1..=3usize {
        let config = mesh.path(&format!("vm-{number}")).display().to_string();
        lab.hosts[number - 1].spawn(
            "agent",
            &log(&format!("vm-{number}")),
            &agent,
            &["agent", "--config-dir", &config],
        );
    }
    let logs = || (1..=3).map(|n| fs::read_to_string(log(&format!("vm-{n}"))).unwrap_or_default()).collect::<String>();
    eventually("web answers on host 2", Duration::from_secs(20), || {
        let got = lab.hosts[1].run("curl", &["-s", "--max-time", "2", "http://127.0.0.1:9001/"]);
        String::from_utf8_lossy(&got.stdout).contains(MARKER).then_some(())
    });
    eventually("all services are healthy everywhere", Duration::from_secs(20), || {
        (1..=3)
            .all(|n| {
                let socket = format!("unix://{}", mesh.path(&format!("vm-{n}")).join("api.sock").display());
                let output = crate::agent::starling(&["--address", &socket, "services", "--no-headers"]);
                String::from_utf8_lossy(&output.stdout).matches("1/1").count() == 3
            })
            .then_some(())
    });

    // curl by Host, and by http_proxy.
    let host3 = &lab.hosts[2];
    let text = host3.ok("curl", &["-sf", "-H", "Host: web.mesh.internal", "http://127.0.0.1:7780/"]);
    assert!(text.contains(MARKER), "{text}");
    let mut proxied = host3.command("curl");
    let proxied =
        proxied.env("http_proxy", "http://127.0.0.1:7780").args(["-sf", "http://web.mesh.internal/"]).output().unwrap();
    assert!(String::from_utf8_lossy(&proxied.stdout).contains(MARKER), "{proxied:?}\n{}", logs());

    let wrk = lab.hosts[1].ok("wrk", &["-t1", "-c16", "-d3s", "--latency", "http://127.0.0.1:9001/"]);
    println!("wrk host 2 -> nginx on host 1:\n{wrk}");
    assert!(
        wrk.contains("requests in") && !wrk.contains("Non-2xx") && !wrk.contains("Socket errors"),
        "{wrk}\n{}",
        logs()
    );

    let pgbench = pg.join("pgbench").display().to_string();
    let connect = ["-h", "127.0.0.1", "-p", "9002", "-U", "postgres"];
    lab.hosts[0].ok(&pgbench, &[&connect[..], &["-i", "-q", "-s", "1", "postgres"]].concat());
    let report =
        lab.hosts[0].ok(&pgbench, &[&connect[..], &["-c", "8", "-j", "1", "-T", "3", "-n", "postgres"]].concat());
    println!("pgbench host 1 -> PostgreSQL on host 2:\n{report}");
    assert!(report.contains("tps"), "{report}");
    assert!(
        !report.contains("number of failed transactions: ") || report.contains("number of failed transactions: 0"),
        "{report}"
    );
    let sql = format!("select '{MARKER} postgres'");
    let psql = pg.join("psql").display().to_string();
    let row = lab.hosts[2].ok(&psql, &[&connect[..], &["-tc", &sql, "postgres"]].concat());
    assert!(row.contains(MARKER), "{row}");

    let redis = lab.hosts[1].ok("redis-benchmark", &["-p", "9003", "-n", "20000", "-c", "20", "-t", "set,get", "-q"]);
    println!("redis-benchmark host 2 -> Redis on host 3:\n{redis}");
    let set = lab.hosts[0].ok("redis-cli", &["-p", "9003", "set", MARKER, MARKER]);
    assert!(set.contains("OK"), "{set}");
    assert!(lab.hosts[0].ok("redis-cli", &["-p", "9003", "get", MARKER]).contains(MARKER));

    // Two names that nobody announces lead to both programs, by documents. PostgreSQL's client speaks first, its server
    // asks for the password first where there is one; Redis answers what it is asked.
    let to = |name: &str, service: &str, port: u16| {
        format!(
            "apiVersion: starling/v1\nkind: Service\nmetadata: {{name: {name}}}\n\
             spec: {{ports: [{{name: main, port: {port}, protocol: tcp}}]}}\n---\n\
             apiVersion: gateway.networking.k8s.io/v1\nkind: TCPRoute\nmetadata: {{name: {name}}}\nspec:\n  \
             parentRefs: [{{group: \"\", kind: Service, name: {name}, port: {port}}}]\n  \
             rules: [{{backendRefs: [{{name: {service}, port: {port}}}]}}]\n"
        )
    };
    fs::write(op.join("l4.yaml"), [to("ledger", "pg", 5432), to("sessions", "cache", 6379)].join("---\n")).unwrap();
    let refused = lab.hosts[0].run("redis-cli", &["-p", "9005", "ping"]);
    assert!(!String::from_utf8_lossy(&refused.stdout).contains("PONG"), "before the documents: {refused:?}");
    let socket = format!("unix://{}", mesh.path("vm-1").join("api.sock").display());
    let args = ["--address", &socket, "apply", "-f", "l4.yaml", "--wait", "--key", "operator/alice.key"];
    println!("{}", starling_ok(&op, &args));
    eventually("sessions leads to Redis", Duration::from_secs(10), || {
        let pong = lab.hosts[0].run("redis-cli", &["-p", "9005", "ping"]);
        String::from_utf8_lossy(&pong.stdout).contains("PONG").then_some(())
    });
    let ledger = ["-h", "127.0.0.1", "-p", "9004", "-U", "postgres"];
    let report =
        lab.hosts[0].ok(&pgbench, &[&ledger[..], &["-c", "8", "-j", "1", "-T", "3", "-n", "postgres"]].concat());
    println!("pgbench host 1 -> TCPRoute ledger -> PostgreSQL on host 2:\n{report}");
    assert!(report.contains("tps") && report.contains("number of failed transactions: 0"), "{report}");
    let redis = lab.hosts[1].ok("redis-benchmark", &["-p", "9005", "-n", "20000", "-c", "20", "-t", "set,get", "-q"]);
    println!("redis-benchmark host 2 -> TCPRoute sessions -> Redis on host 3:\n{redis}");
    assert_eq!(redis.matches("requests per second").count(), 2, "{redis}");

    // Anybody may ask for the certificate; it names the node, and so does the API.
    let shown = lab.hosts[1]
        .command("sh")
        .args(["-c", "openssl s_client -connect 10.77.0.1:7740 -alpn starling-mux/1 </dev/null 2>/dev/null | openssl x509 -noout -ext subjectAltName"])
        .output()
        .unwrap();
    let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
    println!("openssl s_client 10.77.0.1:7740: {shown}");
    assert!(shown.contains("URI:spiffe://prod.internal/node/vm-1"), "{shown}");
    assert!(shown.contains("DNS:vm-1.node.prod.internal"), "{shown}");
    let certs = lab.hosts[0].ok("curl", &["-sf", "http://127.0.0.1:7741/v1/certs"]);
    assert!(certs.contains("spiffe://prod.internal/node/vm-1"), "{certs}");

    // Ends the capture with the rest of host 1.
    let status = lab.hosts[0].ok("curl", &["-sf", "http://127.0.0.1:7741/v1/status"]);
    assert!(status.contains("\"alive\":3"), "{status}");
    for host in &mut lab.hosts {
        host.end();
    }
    let wire = fs::read(&capture).unwrap();
    println!("captured {} bytes on host 1's wire", wire.len());
    assert!(wire.len() > 1_000_000, "the capture is too small to prove anything: {} bytes", wire.len());
    let contains = |needle: &[u8]| wire.windows(needle.len()).any(|window| window == needle);
    for needle in
        [MARKER, "GET / HTTP", "HTTP/1.1", "pgbench", "UPDATE pgbench", "key:__rand", "mesh.internal", "nginx"]
    {
        assert!(!contains(needle.as_bytes()), "plaintext on the wire: {needle:?}");
    }
    assert!(!logs().contains("panicked"), "{}", logs());
}
