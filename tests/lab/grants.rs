//! Who may serve what and call as it, with real agents: what an operator grants holds, and what nobody granted is shown.

use std::fs;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::agent::{Host, Mesh, eventually, start_all, three};
use crate::apply::Desk;
use crate::http::{Answer, Backend, Client, Load};

const GRANTS: &str = "\
apiVersion: starling/v1
kind: ServiceGrant
metadata: {name: web-hosts}
spec: {nodes: [{node: vm-1}], services: [{service: web}]}
---
apiVersion: starling/v1
kind: ServiceGrant
metadata: {name: orders-hosts}
spec: {nodes: [{node: vm-2}], services: [{service: orders}]}
";

const STRICT: &str =
    "apiVersion: starling/v1\nkind: MeshConfig\nmetadata: {name: mesh}\nspec: {serviceGrants: Strict}\n";

/// One request through a host's entrance that carries `web`, on a connection of its own.
fn as_web(host: &Host) -> Answer {
    Client::connect(host.at(9001)).unwrap().get("orders.mesh.internal", "/").unwrap()
}

/// The identity that the instance is told.
fn caller(answer: &Answer) -> &str {
    let line = answer.body.lines().find_map(|line| line.strip_prefix("x-forwarded-client-cert: "));
    line.and_then(|line| line.split_once("URI=")).unwrap_or_else(|| panic!("{answer:?}")).1
}

fn text(host: &Host, args: &[&str]) -> String {
    String::from_utf8(host.cli(args).stdout).unwrap()
}

fn metrics(host: &Host) -> String {
    crate::http::get(host.at(7741), "localhost", "/metrics").unwrap().body
}

fn healths(host: &Host, service: &str) -> Option<Vec<(String, String, String)>> {
    let told = host.api(&format!("/v1/services/default/{service}"))?;
    let one = |one: &serde_json::Value| {
        let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
        (text(&one["node"]), text(&one["health"]), text(&one["reason"]["code"]))
    };
    Some(told["endpoints"].as_array()?.iter().map(one).collect())
}

#[test]
fn what_is_granted_holds_and_what_is_not_gets_nothing_and_is_shown() {
    let mesh = Mesh::new(120);
    let alice = Desk::of(&mesh, "alice");
    let entrance = |n: u8| {
        format!("[[upstream]]\nservice = \"orders\"\nport = \"main\"\nlisten = \"127.120.0.{n}:9001\"\nas = \"web\"\n")
    };
    let mut hosts = three(&mesh, "lan", entrance);
    let backends = [2_u8, 3].map(|n| {
        let backend = Backend::start(&format!("127.120.0.{n}:0"), &format!("orders-on-vm-{n}"));
        hosts[usize::from(n) - 1].announce(&format!("orders-{n}"), "orders", "http", backend.address, "");
        backend
    });
    let web = Backend::start("127.120.0.1:0", "web-on-vm-1");
    hosts[0].announce("web-1", "web", "http", web.address, "");
    let served = |at: usize| backends[at].served.load(Ordering::Relaxed);
    let id = |node: u8, rest: &str| format!("spiffe://lab.internal/node/vm-{node}{rest}");
    for host in &hosts {
        eventually("both instances take traffic", Duration::from_secs(10), || {
            let healthy = healths(host, "orders")?.iter().filter(|(_, health, _)| health == "healthy").count();
            (healthy == 2).then_some(())
        });
    }

    // Nothing is granted yet: everything is accepted as announced, and the warning says so.
    assert_eq!(caller(&as_web(&hosts[2])), id(3, "/ns/default/svc/web"));
    let status = text(&hosts[0], &["status"]);
    assert!(status.contains("no grant names default/orders, default/web: any member may announce"), "{status}");
    assert!(status.contains("ST0612"), "{status}");
    assert!(text(&hosts[0], &["services", "orders"]).contains("used, though no grant names the service (ST0612)"));

    // A dry run and the apply itself say what goes.
    alice.write("grants.yaml", GRANTS);
    let removes = "ServiceGrant/orders-hosts   generation 1 (new)\n  removes 1 endpoint of orders: vm-3 orders-3 (vm-3 not granted)\n";
    let (exit, out, error) = alice.run(&hosts[0], &["apply", "-f", "grants.yaml", "--dry-run"]);
    assert!(exit == 0 && out.contains(removes), "{out}{error}");
    let (exit, out, error) = alice.signed(&hosts[0], &["apply", "-f", "grants.yaml", "--wait"]);
    assert!(
        exit == 0 && out.contains("  removes 1 endpoint of orders: vm-3 orders-3 (vm-3 not granted)\n"),
        "{out}{error}"
    );
    println!("{out}");
    let (exit, out, _) = alice.run(&hosts[0], &["get"]);
    assert!(exit == 0 && out.contains("ServiceGrant   orders-hosts            1"), "{out}");

    // In use everywhere: vm-3 gets nothing any more, from nobody, and is shown with the reason.
    let before = served(1);
    for host in &hosts {
        for _ in 0..50 {
            let answer = as_web(host);
            assert!(answer.status == 200 && answer.body.starts_with("orders-on-vm-2\n"), "{answer:?}");
        }
        let told = healths(host, "orders").unwrap();
        let of = |node: &str, health: &str, code: &str| (node.to_owned(), health.to_owned(), code.to_owned());
        assert_eq!(told, [of("vm-2", "healthy", ""), of("vm-3", "ungranted", "not_granted")]);
        assert!(metrics(host).contains(
            "starling_endpoints{namespace=\"default\",service=\"orders\",subset=\"none\",health=\"ungranted\"} 1"
        ));
        let status = text(host, &["status"]);
        assert!(
            status.contains("orders-3 on vm-3 gets no traffic of default/orders: its node is not granted"),
            "{status}"
        );
        assert!(text(host, &["members"]).contains("orders(ungranted)"));
        assert!(text(host, &["services", "orders"]).contains("its node is not granted the service (ST0612)"));
    }
    assert_eq!(served(1), before, "the ungranted instance got no request");

    // vm-3 may not call as web: the receiver takes it for its bare node, vm-1 for web.
    assert_eq!(caller(&as_web(&hosts[0])), id(1, "/ns/default/svc/web"));
    assert_eq!(caller(&as_web(&hosts[2])), id(3, ""));
    let forged = format!(
        "GET / HTTP/1.1\r\nhost: orders.mesh.internal\r\nx-forwarded-client-cert: By=x;URI={}\r\n\r\n",
        id(1, "/ns/default/svc/web")
    );
    let answer = Client::connect(hosts[2].at(9001)).unwrap().raw(forged.as_bytes()).unwrap();
    assert_eq!(caller(&answer), id(3, ""));
    assert!(!answer.body.contains("svc/web"), "{answer:?}");
    assert!(metrics(&hosts[1]).contains("starling_authorization_sources_refused_total{reason=\"not_granted\"}"));
    let explained = |host: &Host| text(host, &["explain", "--from", "web", "http://orders.mesh.internal/"]);
    let told = explained(&hosts[0]);
    let want = "grants     vm-1 may call as web, vm-2 may serve orders                  ServiceGrant/orders-hosts generation 1, ServiceGrant/web-hosts generation 1\n";
    assert!(told.contains(want) && told.contains("vm-3 orders-3     0.0%   ungranted"), "{told}");
    let told = explained(&hosts[2]);
    assert!(
        told.contains("grants     vm-3 may not call as web: the caller counts as vm-3, vm-2 may serve orders"),
        "{told}"
    );

    // Grants come and go under load, and nobody notices but by who answers.
    let load = Load::start(hosts[0].at(9001), "orders.mesh.internal", 4, Duration::from_millis(1));
    let (exit, out, error) = alice.signed(&hosts[1], &["delete", "servicegrant", "orders-hosts", "--yes", "--wait"]);
    assert_eq!(exit, 0, "{out}{error}");
    let before = served(1);
    eventually("vm-3 gets traffic again", Duration::from_secs(5), || (served(1) > before + 20).then_some(()));
    let (exit, out, error) = alice.signed(&hosts[1], &["apply", "-f", "grants.yaml", "--wait"]);
    assert!(exit == 0 && out.contains("generation 2 (deleted) → 3"), "{out}{error}");
    // Whoever took a request before the change may still be answering it.
    std::thread::sleep(Duration::from_millis(200));
    let before = served(1);
    alice.write("strict.yaml", STRICT);
    let (exit, out, error) = alice.signed(&hosts[2], &["apply", "-f", "strict.yaml", "--wait"]);
    assert_eq!(exit, 0, "{out}{error}");
    std::thread::sleep(Duration::from_millis(500));
    let report = load.finish();
    assert!(report.samples.len() > 500 && report.failures().is_empty(), "{:?}", report.failures());
    println!("{} requests while grants changed, 0 failed", report.samples.len());
    assert_eq!(served(1), before, "not granted any more");

    // Strict: what no grant names is nobody's.
    let lone = Backend::start("127.120.0.2:0", "lone");
    hosts[1].announce("lone-1", "lone", "http", lone.address, "");
    eventually("it is known, and refused", Duration::from_secs(5), || {
        (healths(&hosts[0], "lone")?.first()?.2 == "no_grant").then_some(())
    });
    assert_eq!(hosts[0].request("lone", "/").unwrap().status, 503);
    assert!(!text(&hosts[0], &["status"]).contains("any member may announce"));

    // A receiver that comes back believes no claim before it knows the grants again.
    hosts[1].kill();
    hosts[1].start(Some(mesh.address(1, 7740)));
    let mut answered = 0;
    eventually("vm-2 serves again", Duration::from_secs(20), || {
        let answer = Client::connect(hosts[2].at(9001)).and_then(|mut client| client.get("orders.mesh.internal", "/"));
        if let Some(answer) = answer.ok().filter(|answer| answer.status == 200) {
            assert_eq!(caller(&answer), id(3, ""), "after {answered} answers");
            answered += 1;
        }
        (answered >= 100).then_some(())
    });
    eventually("vm-1 counts as web again", Duration::from_secs(10), || {
        (caller(&as_web(&hosts[0])) == id(1, "/ns/default/svc/web")).then_some(())
    });
}

/// Runs a request in a process of its own: of this user, in this control group (v2).
fn request_of(uid: u32, group: Option<&Path>, host: &Host) -> String {
    let (address, enter) =
        (host.at(7780), group.map(|group| format!("echo $$ > {}/cgroup.procs && ", group.display())));
    let script = format!(
        "{}exec 3<>/dev/tcp/{}/{} && printf 'GET / HTTP/1.1\\r\\nhost: orders.mesh.internal\\r\\nconnection: close\\r\\n\\r\\n' >&3 && cat <&3",
        enter.unwrap_or_default(),
        address.ip(),
        address.port()
    );
    let output = Command::new("bash").args(["-c", &script]).uid(uid).gid(uid).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let line = text.lines().find_map(|line| line.strip_prefix("x-forwarded-client-cert: "));
    let line = line.unwrap_or_else(|| panic!("{text}{}", String::from_utf8_lossy(&output.stderr)));
    line.split_once("URI=").unwrap().1.to_owned()
}

/// A control group that ends with the test; `None` where none can be made.
struct Group(PathBuf);

impl Group {
    fn new(name: &str) -> Option<Self> {
        let roots = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"].map(Path::new);
        let root = roots.into_iter().find(|root| root.join("cgroup.procs").exists())?;
        let path = root.join(name);
        fs::create_dir(&path).ok()?;
        Some(Self(path))
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.0);
    }
}

/// The kernel is asked whose a socket is; a real process of another user, and one of a unit's control group, call.
#[test]
fn an_application_calls_as_the_service_whose_user_or_unit_it_is() {
    if !nix::unistd::Uid::effective().is_root() {
        println!("skipped: other users' processes need root");
        return;
    }
    let mesh = Mesh::new(121);
    let mut hosts = [1, 2].map(|n| mesh.host(n, "lan", ""));
    start_all(&mesh, &mut hosts);
    let unit = format!("starling-lab-{}.service", std::process::id());
    let backend = Backend::start("127.121.0.2:0", "orders");
    hosts[1].announce("orders-1", "orders", "http", backend.address, "");
    hosts[0].announce("web-1", "web", "tcp", "127.121.0.1:1".parse().unwrap(), "run_as = 47110\n");
    hosts[0].announce("job-1", "job", "tcp", "127.121.0.1:2".parse().unwrap(), &format!("unit = \"{unit}\"\n"));
    eventually("orders answers", Duration::from_secs(10), || {
        hosts[0].request("orders", "/").ok().filter(|answer| answer.status == 200)
    });
    let id = |rest: &str| format!("spiffe://lab.internal/node/vm-1{rest}");
    assert_eq!(request_of(47_110, None, &hosts[0]), id("/ns/default/svc/web"));
    assert_eq!(request_of(47_111, None, &hosts[0]), id(""), "another user");
    assert_eq!(request_of(0, None, &hosts[0]), id(""), "root is no service either");
    let Some(group) = Group::new(&unit) else {
        println!("skipped: no control group (v2) can be made here");
        return;
    };
    assert_eq!(request_of(0, Some(&group.0), &hosts[0]), id("/ns/default/svc/job"));
    let inner = group.0.join("worker");
    if fs::create_dir(&inner).is_ok() {
        assert_eq!(request_of(0, Some(&inner), &hosts[0]), id("/ns/default/svc/job"), "below the unit's");
        let _ = fs::remove_dir(&inner);
    }
    let other = Group::new(&format!("x-{unit}")).unwrap();
    assert_eq!(request_of(0, Some(&other.0), &hosts[0]), id(""), "another unit");
}
