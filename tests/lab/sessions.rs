//! A client with a cookie, three real agents and two versions: it stays while the weights move away from it, and moves once
//! when its endpoint dies.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::agent::{Host, Mesh, eventually, three};
use crate::apply::Desk;
use crate::http::{Answer, Backend, Client};

/// Both versions with these weights; a client stays where it came first.
fn documents(stable: u32, canary: u32) -> String {
    format!(
        "apiVersion: starling/v1\nkind: Service\nmetadata: {{name: orders}}\nspec:\n  \
         ports: [{{name: main, port: 80, protocol: http}}]\n  subsets: {{stable: {{version: v1}}, canary: {{version: v2}}}}\n---\n\
         apiVersion: starling/v1\nkind: HTTPRoute\nmetadata: {{name: orders}}\nspec:\n  \
         parentRefs: [{{kind: Service, name: orders}}]\n  rules:\n    - name: default\n      \
         sessionPersistence: {{sessionName: shop, absoluteTimeout: 1h, cookieConfig: {{lifetimeType: Permanent}}}}\n      \
         backendRefs:\n        - {{name: orders, subset: stable, weight: {stable}}}\n        \
         - {{name: orders, subset: canary, weight: {canary}}}\n"
    )
}

/// Asks as a browser does: with the cookie that it has, which an answer may replace.
struct Browser<'a> {
    host: &'a Host,
    cookie: Option<String>,
    /// How often it was given one.
    given: u32,
}

impl Browser<'_> {
    fn ask(&mut self) -> Answer {
        let cookie = self.cookie.as_ref().map(|cookie| format!("cookie: theme=dark; {cookie}\r\n")).unwrap_or_default();
        let request = format!("GET / HTTP/1.1\r\nhost: orders.mesh.internal\r\n{cookie}\r\n");
        let answer = Client::connect(self.host.at(7780)).unwrap().raw(request.as_bytes()).unwrap();
        if let Some(set) = answer.header("set-cookie") {
            assert!(set.starts_with("shop=") && set.ends_with("; Path=/; HttpOnly; Max-Age=3600"), "{set}");
            self.cookie = set.split(';').next().map(str::to_owned);
            self.given += 1;
        }
        answer
    }

    /// The name of whoever answered.
    fn served_by(&mut self) -> String {
        let answer = self.ask();
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.body.lines().next().unwrap_or_default().to_owned()
    }
}

#[test]
fn a_client_keeps_its_version_when_weights_leave_it_and_moves_once_when_it_dies() {
    let mesh = Mesh::new(128);
    let alice = Desk::of(&mesh, "alice");
    let key = mesh.path("session.key");
    fs::write(&key, "ab".repeat(32)).unwrap();
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
    let sealed = format!("session_key_file = \"{}\"\n", key.display());
    let mut hosts = three(&mesh, "lan", |_| sealed.clone());
    let backends = [
        Backend::start("127.128.0.1:0", "stable"),
        Backend::start("127.128.0.2:0", "other-stable"),
        Backend::start("127.128.0.3:0", "canary"),
    ];
    for (at, (backend, version)) in backends.iter().zip(["v1", "v1", "v2"]).enumerate() {
        let labels = format!("labels = {{ version = \"{version}\" }}\n");
        hosts[at].announce(&format!("orders-{}", at + 1), "orders", "http", backend.address, &labels);
    }
    let apply = |host: &Host, stable: u32, canary: u32| {
        alice.write("all.yaml", &documents(stable, canary));
        let (exit, out, error) = alice.signed(host, &["apply", "-f", "all.yaml", "--wait"]);
        assert_eq!(exit, 0, "{out}{error}");
    };
    apply(&hosts[0], 90, 10);
    eventually("all three serve", Duration::from_secs(20), || {
        let mut anyone = Browser { host: &hosts[0], cookie: None, given: 0 };
        anyone.ask();
        backends.iter().all(|backend| backend.served.load(Ordering::Relaxed) > 0).then_some(())
    });
    // One client among many comes to the canary.
    let mut client = (0..500)
        .find_map(|_| {
            let mut client = Browser { host: &hosts[0], cookie: None, given: 0 };
            (client.served_by() == "canary").then_some(client)
        })
        .expect("a tenth of all sessions begin at the canary");
    for (stable, canary) in [(90, 10), (100, 0)] {
        apply(&hosts[0], stable, canary);
        for _ in 0..50 {
            assert_eq!(client.served_by(), "canary", "{stable}/{canary}");
        }
    }
    assert_eq!(client.given, 1, "its cookie was set once");
    // Another agent, which has never seen the client, finds its endpoint.
    client.host = &hosts[1];
    assert_eq!((client.served_by(), client.given), ("canary".to_owned(), 1));
    let new: Vec<String> = (0..50).map(|_| Browser { host: &hosts[1], cookie: None, given: 0 }.served_by()).collect();
    assert!(new.iter().all(|name| name.ends_with("stable")), "nobody new comes to weight 0: {new:?}");
    // What an agent foretells.
    let cookie = format!("cookie: {}", client.cookie.as_ref().unwrap());
    let explained = hosts[1].cli(&["explain", "-H", &cookie, "http://orders.mesh.internal/"]);
    let explained = String::from_utf8_lossy(&explained.stdout).into_owned();
    assert!(explained.contains("cookie shop: goes on where it is, ends after 1h"), "{explained}");
    assert!(explained.contains("would be sent to vm-3"), "{explained}");
    // A cookie that somebody made up is passed over.
    let mut forger = Browser { host: &hosts[0], cookie: Some(format!("shop={}", "0".repeat(64))), given: 0 };
    assert!(forger.served_by().ends_with("stable"));
    assert_eq!(forger.given, 1);
    // Its host dies, at once and without a word.
    let cookie = client.cookie.clone();
    hosts[2].kill();
    let mut client = Browser { host: &hosts[0], cookie, given: 0 };
    let (home, took) = eventually("the client is served elsewhere", Duration::from_secs(20), || {
        let answer = client.ask();
        (answer.status == 200).then(|| answer.body.lines().next().unwrap_or_default().to_owned())
    });
    println!("moved to {home} after {took:?}");
    assert!(home.ends_with("stable"), "{home}");
    for _ in 0..100 {
        assert_eq!(client.served_by(), home);
    }
    assert_eq!(client.given, 1, "it moved once");
}
