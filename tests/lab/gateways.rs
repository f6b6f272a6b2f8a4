//! TLS from outside the mesh through a Gateway, with real servers and clients: `openssl s_server` on two hosts, curl and
//! `openssl s_client` outside. The certificate that a client sees is the server's own.

use std::fs;
use std::io::Read as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::agent::{Mesh, eventually, three};
use crate::apply::Desk;

/// A TLS server that answers with its own name, under a certificate of that name.
struct Server {
    child: Child,
    /// What clients must believe for it.
    certificate: PathBuf,
}

impl Server {
    fn start(dir: &Path, name: &str, at: SocketAddr) -> Self {
        let (key, certificate) = (dir.join(format!("{name}.key")), dir.join(format!("{name}.pem")));
        let names = format!("subjectAltName=DNS:{name}.example.com,DNS:*.{name}.example.com,DNS:any.example.com");
        let made = Command::new("openssl")
            .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"])
            .args(["-subj", &format!("/CN={name}"), "-addext", &names, "-keyout"])
            .arg(&key)
            .arg("-out")
            .arg(&certificate)
            .stderr(Stdio::null())
            .status()
            .unwrap();
        assert!(made.success(), "openssl makes no certificate");
        let folder = dir.join(name);
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("who"), name).unwrap();
        let child = Command::new("openssl")
            .args(["s_server", "-quiet", "-WWW", "-accept", &at.to_string(), "-key"])
            .arg(&key)
            .arg("-cert")
            .arg(&certificate)
            .current_dir(&folder)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        eventually("the server listens", Duration::from_secs(10), || std::net::TcpStream::connect(at).ok());
        Self { child, certificate }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What `https://NAME:PORT/who` says to a client that believes this certificate alone; `Err` is curl's word.
fn ask(gateway: SocketAddr, name: &str, certificate: &Path) -> Result<String, String> {
    let output = Command::new("curl")
        .args(["-sS", "--max-time", "5", "--noproxy", "*", "--resolve"])
        .arg(format!("{name}:{}:{}", gateway.port(), gateway.ip()))
        .arg("--cacert")
        .arg(certificate)
        .arg(format!("https://{name}:{}/who", gateway.port()))
        .output()
        .unwrap();
    if output.status.success() {
        return Ok(String::from_utf8(output.stdout).unwrap());
    }
    Err(String::from_utf8_lossy(&output.stderr).into_owned())
}

/// Both certificates in one file, for clients that may meet either.
fn either(dir: &Path, servers: &[&Server]) -> PathBuf {
    let file = dir.join("either.pem");
    fs::write(&file, servers.iter().map(|one| fs::read_to_string(&one.certificate).unwrap()).collect::<String>())
        .unwrap();
    file
}

fn documents(port: u16, weights: (u32, u32)) -> String {
    let route = |name: &str, hostnames: &str, backends: &str| {
        format!(
            "---\napiVersion: gateway.networking.k8s.io/v1\nkind: TLSRoute\nmetadata: {{name: {name}}}\nspec:\n  \
             parentRefs: [{{name: edge, sectionName: tls}}]\n  hostnames: [{hostnames}]\n  rules: [{{backendRefs: [{backends}]}}]\n"
        )
    };
    [
        format!(
            "apiVersion: starling/v1\nkind: Gateway\nmetadata: {{name: edge}}\nspec:\n  nodes: [{{node: vm-1}}]\n  listeners:\n    \
             - {{name: tls, port: {port}, protocol: TLS, hostname: '*.example.com', tls: {{mode: Passthrough}}}}\n"
        ),
        route("shop", "shop.example.com, '*.shop.example.com'", "{name: shop, port: 443}"),
        route("bank", "bank.example.com", "{name: bank, port: 443}"),
        route(
            "any",
            "any.example.com",
            &format!("{{name: shop, port: 443, weight: {}}}, {{name: bank, port: 443, weight: {}}}", weights.0, weights.1),
        ),
    ]
    .concat()
}

#[test]
fn tls_from_outside_reaches_the_server_of_its_name_untouched() {
    let mesh = Mesh::new(190);
    let log = |n: u8| match n {
        1 => format!("[access_log]\nto = \"{}\"\nonly = \"all\"\n", mesh.path("access.log").display()),
        _ => String::new(),
    };
    let hosts = three(&mesh, "fast", log);
    let shop = Server::start(mesh.dir.path(), "shop", hosts[1].at(4433));
    let bank = Server::start(mesh.dir.path(), "bank", hosts[2].at(4433));
    hosts[1].announce("shop-1", "shop", "tcp", hosts[1].at(4433), "");
    hosts[2].announce("bank-1", "bank", "tcp", hosts[2].at(4433), "");
    eventually("both services are known", Duration::from_secs(10), || {
        (hosts[0].api("/v1/services")?["items"].as_array()?.len() == 2).then_some(())
    });
    let desk = Desk::of(&mesh, "alice");
    desk.write("edge.yaml", &documents(8443, (90, 10)));
    let (code, out, err) = desk.signed(&hosts[0], &["apply", "-f", "edge.yaml", "--wait"]);
    assert_eq!(code, 0, "{out}{err}");
    let gateway = hosts[0].at(8443);
    let (who, took) = eventually("the Gateway leads to the shop", Duration::from_secs(5), || {
        ask(gateway, "shop.example.com", &shop.certificate).ok()
    });
    println!("from applied to served: {} ms", took.as_millis());
    // curl believes the server's own certificate and nothing else: TLS does not end on the way.
    assert_eq!(who, "shop");
    assert_eq!(ask(gateway, "bank.example.com", &bank.certificate).unwrap(), "bank");
    assert_eq!(ask(gateway, "a.shop.example.com", &shop.certificate).unwrap(), "shop");
    assert!(ask(gateway, "bank.example.com", &shop.certificate).unwrap_err().contains("certificate"));
    let seen = Command::new("openssl")
        .args(["s_client", "-servername", "bank.example.com", "-connect", &gateway.to_string()])
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let seen = String::from_utf8_lossy(&seen.stdout).into_owned();
    assert!(seen.contains("subject=CN = bank") || seen.contains("subject=CN=bank"), "{seen}");

    let unknown = ask(gateway, "other.example.com", &shop.certificate).unwrap_err();
    assert!(unknown.contains("unrecognized name"), "{unknown}");
    let elsewhere = ask(gateway, "shop.example.org", &shop.certificate).unwrap_err();
    assert!(elsewhere.contains("unrecognized name"), "{elsewhere}");
    let mut plain = std::net::TcpStream::connect(gateway).unwrap();
    plain.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    std::io::Write::write_all(&mut plain, b"GET / HTTP/1.1\r\nHost: shop.example.com\r\n\r\n").unwrap();
    let mut got = Vec::new();
    let _ = plain.read_to_end(&mut got);
    assert_eq!(got, b"", "what is not TLS gets nothing");

    let both = either(mesh.dir.path(), &[&shop, &bank]);
    let count = 200;
    let banks = (0..count).filter(|_| ask(gateway, "any.example.com", &both).unwrap() == "bank").count();
    println!("{banks} of {count} went to the backend of weight 10 of 100");
    // Five standard deviations of 200 draws at a tenth are 21.
    assert!((1..=41).contains(&banks), "{banks}");

    let metrics = crate::http::get(hosts[0].at(7741), "localhost", "/metrics").unwrap().body;
    assert!(metrics.contains("starling_tcp_turned_away_total{reason=\"server_name\"} 2"), "{metrics}");
    assert!(metrics.contains("starling_tcp_turned_away_total{reason=\"client_hello\"} 1"), "{metrics}");
    let lines = || fs::read_to_string(mesh.path("access.log")).unwrap_or_default();
    let told = |name: &str, part: &str| {
        eventually(&format!("a line of {name} with {part}"), Duration::from_secs(5), || {
            let name = format!("\"tls.client.server_name\":\"{name}\"");
            lines().lines().find(|line| line.contains(&name) && line.contains(part)).map(str::to_owned)
        })
        .0
    };
    let line = told("shop.example.com", "\"error.type\":null");
    assert!(line.contains("\"starling.endpoint\":\"vm-2/default/shop-1\""), "{line}");
    assert!(line.contains("\"starling.route\":\"default/shop\""), "{line}");
    told("other.example.com", "\"error.type\":\"destination_not_found\"");
}

#[test]
fn commands_know_gateways_and_explain_says_where_a_server_name_leads() {
    let mesh = Mesh::new(191);
    let hosts = three(&mesh, "fast", |_| String::new());
    let holder = std::net::TcpListener::bind(hosts[0].at(8444)).unwrap();
    hosts[1].announce("shop-1", "shop", "tcp", hosts[1].at(4433), "");
    hosts[2].announce("bank-1", "bank", "tcp", hosts[2].at(4433), "");
    let desk = Desk::of(&mesh, "alice");
    desk.write("edge.yaml", &documents(8443, (3, 1)));
    eventually("both services are known", Duration::from_secs(10), || {
        let told = hosts[0].api("/v1/services")?;
        let is_usable = |service: &serde_json::Value| {
            service["endpoints"].as_array().is_some_and(|all| all.iter().any(|one| one["health"] == "healthy"))
        };
        (told["items"].as_array()?.iter().filter(|service| is_usable(service)).count() == 2).then_some(())
    });
    let (code, out, err) = desk.run(&hosts[0], &["lint", "-f", "edge.yaml"]);
    assert_eq!((code, out.contains("warning")), (0, false), "{out}{err}");
    assert_eq!(desk.signed(&hosts[0], &["apply", "-f", "edge.yaml", "--wait"]).0, 0);
    let (code, out, _) = desk.run(&hosts[2], &["get"]);
    assert!(code == 0 && out.contains("Gateway    edge") && out.contains("TLSRoute   any"), "{out}");
    let (code, yaml, _) = desk.run(&hosts[2], &["get", "gateway", "edge", "-o", "yaml"]);
    assert!(code == 0 && yaml.contains("mode: Passthrough"), "{yaml}");

    let explain = |url: &str| {
        let (code, out, err) = desk.run(&hosts[0], &["explain", "--exit-code", url]);
        (code, format!("{out}{err}"))
    };
    let (code, told) = explain("tls://a.shop.example.com:8443");
    assert_eq!(code, 0, "{told}");
    for part in [
        "request    TLS tls://a.shop.example.com:8443",
        "gateway    listener \"tls\", port 8443, *.example.com",
        "Gateway/edge generation 1",
        "route      TLSRoute/shop generation 1 rule 0",
        "server name *.shop.example.com",
        "vm-2 shop-1   100.0%   healthy",
        "answer     would be sent to vm-2",
    ] {
        assert!(told.contains(part), "{part:?} is not in\n{told}");
    }
    let (code, told) = explain("tls://any.example.com:8443");
    assert!(code == 0 && told.contains("split      shop:443 3 : bank:443 1"), "{told}");
    let (code, told) = explain("tls://other.example.com:8443");
    assert!(code == 1 && told.contains("server name is other.example.com (needs bank.example.com)"), "{told}");
    assert!(told.contains("answer     closed: no route of the listener"), "{told}");
    let (code, told) = explain("tls://shop.example.com:9999");
    assert!(code == 1 && told.contains("no Gateway listens there"), "{told}");
    let (code, told) = explain("https://shop.example.com/");
    assert!(code != 0 && told.contains("tls://NAME:PORT"), "{told}");
    let saved = mesh.path("now.json").display().to_string();
    assert_eq!(desk.run(&hosts[0], &["snapshot", "save", &saved]).0, 0);
    let (code, offline, _) = desk.run(&hosts[0], &["explain", "--snapshot", &saved, "tls://bank.example.com:8443"]);
    assert!(code == 0 && offline.contains("would be sent to vm-3"), "{offline}");

    // A port that somebody else has is a problem of this host, with who has it; the other ports are served.
    desk.write(
        "edge.yaml",
        &documents(8443, (3, 1)).replace(
            "  listeners:\n",
            "  listeners:\n    - {name: taken, port: 8444, protocol: TLS, tls: {mode: Passthrough}}\n",
        ),
    );
    let (code, out, _) = desk.run(&hosts[0], &["diff", "-f", "edge.yaml"]);
    assert!(code == 1 && out.contains("listeners"), "{out}");
    assert_eq!(desk.signed(&hosts[0], &["apply", "-f", "edge.yaml", "--wait"]).0, 0);
    eventually("ST0701 in status", Duration::from_secs(10), || {
        let status = String::from_utf8(hosts[0].cli(&["status"]).stdout).unwrap();
        (status.contains("ST0701") && status.contains(":8444")).then_some(())
    });
    drop(holder);
    eventually("the port is served", Duration::from_secs(10), || std::net::TcpStream::connect(hosts[0].at(8444)).ok());
    assert!(std::net::TcpStream::connect(hosts[1].at(8443)).is_err(), "a host that is not named does not listen");
    let (code, out, err) = desk.signed(&hosts[1], &["delete", "gateway", "edge", "--yes", "--wait"]);
    assert_eq!(code, 0, "{out}{err}");
    eventually("the ports are closed", Duration::from_secs(5), || {
        std::net::TcpStream::connect(hosts[0].at(8443)).is_err().then_some(())
    });
}
