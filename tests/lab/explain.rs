//! What `explain` foretells is what happens: a thousand random requests through three real agents, a snapshot elsewhere,
//! and what people see.

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::time::Duration;

use serde_json::Value;

use crate::agent::{Host, Mesh, eventually, starling_in, three};
use crate::apply::Desk;
use crate::http::{Answer, Backend, Client};

/// Requests that are sent.
const REQUESTS: u64 = 1_000;

/// Services of two versions, routes by header, prefix, pattern, method and weight, with redirects, rewrites and answers
/// that are none of an application.
const DOCUMENTS: &str = "\
apiVersion: starling/v1
kind: Service
metadata: {name: orders}
spec: {ports: [{name: main, port: 80, protocol: http}], subsets: {stable: {version: v1}, canary: {version: v2}}}
---
apiVersion: starling/v1
kind: HTTPRoute
metadata: {name: orders}
spec:
  parentRefs: [{kind: Service, name: orders}]
  rules:
    - name: testers
      matches: [{headers: [{name: x-canary, value: always}]}]
      backendRefs: [{name: orders, subset: canary}]
    - name: exact
      matches: [{path: {type: Exact, value: /a}, method: POST}]
      backendRefs: [{name: admin}]
    - name: pattern
      matches: [{path: {type: RegularExpression, value: '/item/[0-9]+'}}]
      filters: [{type: URLRewrite, urlRewrite: {hostname: items.example, path: {type: ReplaceFullPath, replaceFullPath: /items}}}]
      backendRefs: [{name: admin}]
    - name: admin
      matches: [{path: {value: /admin}, method: GET}]
      filters: [{type: URLRewrite, urlRewrite: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /}}}, {type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: x-from, value: mesh}]}}]
      backendRefs: [{name: admin}]
    - name: old
      matches: [{path: {value: /old}}]
      filters: [{type: RequestRedirect, requestRedirect: {hostname: new.example, statusCode: 301}}]
    - name: broken
      matches: [{path: {value: /broken}}]
      backendRefs: [{name: gone}]
    - name: half
      matches: [{path: {value: /half}}]
      backendRefs: [{name: admin, weight: 1}, {name: gone, weight: 1}]
    - name: nobody
      matches: [{path: {value: /nobody}}]
      backendRefs: [{name: orders, subset: {version: v9}}]
    - name: query
      matches: [{path: {value: /search}, queryParams: [{name: q, value: canary}]}]
      backendRefs: [{name: orders, subset: canary}]
    - name: split
      matches: [{path: {value: /split}}]
      backendRefs: [{name: orders, subset: stable, weight: 90}, {name: orders, subset: canary, weight: 10}]
---
apiVersion: starling/v1
kind: HTTPRoute
metadata: {name: admin}
spec:
  parentRefs: [{kind: Service, name: admin}]
  rules:
    - matches: [{path: {value: /}, headers: [{type: RegularExpression, name: cookie, value: '(^|;\\s*)canary=1(;|$)'}]}]
      backendRefs: [{name: orders, subset: canary}]
    - matches: [{path: {value: /zero}}]
      backendRefs: [{name: admin, weight: 0}]
    - backendRefs: [{name: admin}]
";

fn announce(host: &Host, name: &str, service: &str, version: &str, address: SocketAddr) {
    host.announce(name, service, "http", address, &format!("labels = {{ version = \"{version}\" }}\n"));
}

/// SplitMix64.
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn of<'a>(&mut self, all: &[&'a str]) -> &'a str {
        all[usize::try_from(self.next() % all.len() as u64).unwrap()]
    }
}

/// One request: what is sent, and what is asked about it.
struct Request {
    method: String,
    host: String,
    target: String,
    headers: Vec<(String, String)>,
}

impl Request {
    fn random(dice: &mut Dice) -> Self {
        let service = dice.of(&["orders", "orders", "orders", "admin", "plain", "missing"]);
        let target = dice.of(&[
            "/",
            "/a",
            "/a/b",
            "/admin",
            "/admin/x?y=1",
            "/administrator",
            "/old/x?y=1",
            "/broken",
            "/half",
            "/nobody",
            "/item/42",
            "/item/x",
            "/search?q=canary",
            "/search?q=no",
            "/split",
            "/split/x",
            "/split",
            "/zero",
        ]);
        let mut headers = Vec::new();
        if dice.next().is_multiple_of(4) {
            headers.push(("x-canary".to_owned(), dice.of(&["always", "never"]).to_owned()));
        }
        if dice.next().is_multiple_of(4) {
            headers.push(("cookie".to_owned(), dice.of(&["a=b; canary=1", "canary=10"]).to_owned()));
        }
        Self {
            method: dice.of(&["GET", "GET", "POST", "DELETE"]).to_owned(),
            host: format!("{service}.mesh.internal"),
            target: target.to_owned(),
            headers,
        }
    }

    fn explained(&self, host: &Host) -> Value {
        let escaped = |text: &str| text.bytes().map(|byte| format!("%{byte:02x}")).collect::<String>();
        let headers: String = self
            .headers
            .iter()
            .map(|(name, value)| format!("&header={}", escaped(&format!("{name}: {value}"))))
            .collect();
        let url = escaped(&format!("http://{}{}", self.host, self.target));
        host.api(&format!("/v1/explain?method={}&url={url}{headers}", self.method)).expect("an explanation")
    }

    fn send(&self, client: &mut Client) -> Answer {
        let headers: String = self.headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        let head = format!("{} {} HTTP/1.1\r\nhost: {}\r\n{headers}\r\n", self.method, self.target, self.host);
        client.raw(head.as_bytes()).expect("an answer")
    }
}

impl std::fmt::Display for Request {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} http://{}{} {:?}", self.method, self.host, self.target, self.headers)
    }
}

/// How often something was foretold with some share, and how often it came.
#[derive(Debug, Default)]
struct Share {
    requests: u64,
    foretold: f64,
    variance: f64,
    happened: f64,
}

impl Share {
    fn add(&mut self, share: f64, happened: bool) {
        self.requests += 1;
        self.foretold += share;
        self.variance += share * (1.0 - share);
        self.happened += f64::from(u8::from(happened));
    }

    /// Within four standard deviations, and one more for few of them.
    fn holds(&self) -> bool {
        (self.happened - self.foretold).abs() <= 4.0 * self.variance.sqrt() + 1.0
    }
}

/// Whether what happened is this share of what was foretold.
fn is(outcome: &Value, answer: &Answer) -> bool {
    let error = answer.header("proxy-status").and_then(|text| text.split("error=").nth(1)?.split(';').next());
    match outcome["decision"].as_str() {
        // Backends answer with their endpoint, then with the request as it came.
        Some("forward") => {
            let mut lines = answer.body.lines();
            let (endpoint, first) = (lines.next().unwrap_or_default(), lines.next().unwrap_or_default());
            let host = lines.find_map(|line| line.strip_prefix("host: ")).unwrap_or_default();
            let endpoints = outcome["endpoints"].as_array().unwrap();
            answer.status == 200
                && endpoints.iter().any(|one| *one == endpoint)
                && first.split(' ').nth(1) == outcome["sent"]["target"].as_str()
                && Some(host) == outcome["sent"]["host"].as_str()
        }
        Some("answer") => {
            outcome["status"] == answer.status
                && outcome["location"].as_str() == answer.header("location")
                && error.is_none()
        }
        Some("refuse") => outcome["status"] == answer.status && outcome["error"].as_str() == error,
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_is_foretold_happens_to_a_thousand_random_requests() {
    let mesh = Mesh::new(101);
    let alice = Desk::of(&mesh, "alice");
    let hosts = three(&mesh, "lan", |_| String::new());
    let backend = |host: u8, name: &str| Backend::start(&format!("127.101.0.{host}:0"), name);
    let all = [
        (2, "o-1", "orders", "v1"),
        (3, "o-1", "orders", "v1"),
        (3, "o-2", "orders", "v2"),
        (2, "admin", "admin", "v1"),
        (1, "plain", "plain", "v1"),
        (3, "plain", "plain", "v1"),
    ];
    let backends = all.map(|(host, name, service, version)| {
        let backend = backend(host, &format!("vm-{host}/default/{name}"));
        announce(&hosts[usize::from(host) - 1], name, service, version, backend.address);
        backend
    });
    alice.write("all.yaml", DOCUMENTS);
    let (exit, out, error) = alice.signed(&hosts[1], &["apply", "-f", "all.yaml", "--wait"]);
    assert_eq!(exit, 0, "{out}{error}");
    // In use everywhere means in every table: nothing is waited for but the instances.
    for service in ["orders", "admin", "plain"] {
        eventually("all endpoints are healthy at vm-1", Duration::from_secs(10), || {
            let told = hosts[0].api(&format!("/v1/services/default/{service}"))?;
            let endpoints = told["endpoints"].as_array()?;
            let wanted = all.iter().filter(|(_, _, of, _)| *of == service).count();
            (endpoints.len() == wanted && endpoints.iter().all(|one| one["health"] == "healthy")).then_some(())
        });
    }
    let seed = 20_261_129;
    let (mut dice, mut seen) = (Dice(seed), BTreeMap::<String, u64>::new());
    let (mut certain, mut differed, mut before): (u64, u64, Vec<Value>) = (0, 0, Vec::new());
    let mut shares = BTreeMap::<String, Share>::new();
    let mut client = Client::connect(hosts[0].at(7780)).unwrap();
    for number in 0..REQUESTS {
        let request = Request::random(&mut dice);
        let told = request.explained(&hosts[0]);
        let answer = request.send(&mut client);
        let outcomes = told["outcomes"].as_array().unwrap();
        let happened = outcomes.iter().find(|outcome| is(outcome, &answer));
        let Some(happened) = happened else {
            panic!("seed={seed} request {number} {request}\nforetold {outcomes:#?}\nhappened {answer:?}")
        };
        let rule = told["steps"].as_array().unwrap().iter().find(|step| step["step"] == "route").cloned();
        let rule = rule.map_or(Value::Null, |step| step["result"]["rule"].clone());
        let what = format!("{} {} {} of {}", happened["decision"], happened["status"], rule, outcomes.len());
        *seen.entry(what).or_default() += 1;
        // What says everything foretells nothing: most outcomes are the only one, of one endpoint, and fit no other request.
        certain +=
            u64::from(outcomes.len() == 1 && outcomes[0]["endpoints"].as_array().is_none_or(|all| all.len() < 2));
        differed += u64::from(!before.iter().any(|outcome| is(outcome, &answer)));
        before.clone_from(outcomes);
        for outcome in outcomes.iter().filter(|_| outcomes.len() > 1) {
            let of = format!("{rule} {} {}", outcome["decision"], outcome["backend"]);
            shares.entry(of).or_default().add(outcome["share"].as_f64().unwrap(), std::ptr::eq(outcome, happened));
        }
        if answer.header("connection") == Some("close") {
            client = Client::connect(hosts[0].at(7780)).unwrap();
        }
    }
    for (what, count) in &seen {
        println!("{count:>5} {what}");
    }
    let count = |what: &str| seen.iter().filter(|(key, _)| key.contains(what)).map(|(_, count)| count).sum::<u64>();
    for what in [
        "\"testers\"",
        "\"exact\"",
        "\"pattern\"",
        "\"admin\"",
        "\"old\"",
        "\"broken\"",
        "\"half\"",
        "\"nobody\"",
        "\"query\"",
        "\"split\"",
        "forward\" null null",
        "refuse\" 404",
        "refuse\" 500",
        "refuse\" 503",
        "answer\" 301",
        "of 2",
    ] {
        assert!(count(what) >= 5, "{what} is too rare: {seen:?}");
    }
    assert_eq!(seen.values().sum::<u64>(), REQUESTS);
    assert!(certain >= REQUESTS / 4, "only {certain} were certain");
    assert!(differed >= REQUESTS / 2, "only {differed} answers tell requests apart");
    for (what, share) in &shares {
        println!("{what}: {} of {} foretold", share.happened, share.foretold);
        assert!(share.holds(), "{what} {share:?}");
    }
    assert!(shares.values().filter(|share| share.requests >= 20).count() >= 4, "too few shares: {shares:?}");
    drop(backends);
    offline(&mesh, &hosts[0]);
}

/// The same agent's snapshot, asked without it.
fn offline(mesh: &Mesh, host: &Host) {
    let folder = mesh.path("op");
    let told = |args: &[&str]| {
        let output = starling_in(&folder, args);
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (output.status.code().unwrap_or(-1), text(&output.stdout), text(&output.stderr))
    };
    let address = host.socket();
    let (exit, out, error) = told(&["--address", &address, "snapshot", "save", "now.json"]);
    assert_eq!(exit, 0, "{error}");
    assert!(out.starts_with("wrote now.json (0600)   3 documents, 6 instances on 3 nodes   view of vm-1, "), "{out}");
    let (exit, _, error) = told(&["--address", &address, "snapshot", "save", "now.json"]);
    assert!(exit == 5 && error.contains("now.json exists already") && error.contains("--force"), "{exit} {error}");
    assert_eq!(told(&["--address", &address, "snapshot", "save", "now.json", "--force"]).0, 0);
    let file = fs::read_to_string(folder.join("now.json")).unwrap();
    for secret in ["PRIVATE", "signature", "envelope"] {
        assert!(!file.contains(secret), "{secret} stands in a snapshot");
    }
    // Averages of latencies decay as time goes by, and the view's revision moves on.
    for (url, want) in [
        ("http://orders.mesh.internal/split", 0),
        ("http://orders.mesh.internal/old", 0),
        ("http://orders.mesh.internal/x", 1),
        ("http://orders.mesh.internal/half", 1),
        ("http://missing.mesh.internal/", 1),
    ] {
        let (live_exit, live, error) =
            told(&["--address", &address, "explain", "--exit-code", "--from", "web", "-H", "x-a: 1", url]);
        assert_eq!(live_exit, want, "{live}{error}");
        let (exit, out, error) =
            told(&["explain", "--snapshot", "now.json", "--exit-code", "--from", "web", "-H", "x-a: 1", url]);
        assert_eq!(exit, want, "{out}{error}");
        let bare = |text: &str| {
            let text = text.split(", revision ").next().unwrap_or_default();
            text.split("   ").filter(|part| !part.contains(" ms\n")).collect::<Vec<_>>().join("   ")
        };
        assert_eq!(bare(&out), bare(&live), "{url}");
        let json = |args: &[&str]| {
            let (_, out, error) = told(&[args, &["-o", "json", url]].concat());
            let mut told = serde_json::from_str::<Value>(&out).unwrap_or_else(|_| panic!("{out}{error}"));
            let steps = told["steps"].as_array_mut().unwrap();
            for one in steps.iter_mut().filter(|step| step["step"] == "endpoints") {
                one["result"].as_array_mut().unwrap().iter_mut().for_each(|one| one["latencyEwmaMs"] = Value::Null);
            }
            told
        };
        let (mut live, mut offline) =
            (json(&["--address", &address, "explain"]), json(&["explain", "--snapshot", "now.json"]));
        assert_eq!((&live["kind"], &live["apiVersion"]), (&"Explanation".into(), &"starling/v1".into()));
        (live["view"], offline["view"]) = (Value::Null, Value::Null);
        assert_eq!(offline, live, "{url}");
    }
    fs::write(folder.join("bad.json"), &file[..file.len() / 2]).unwrap();
    let (exit, _, error) = told(&["explain", "--snapshot", "bad.json", "http://orders.mesh.internal/"]);
    assert!(exit == 5 && error.contains("bad.json is no snapshot that can be used"), "{exit} {error}");
    let (exit, _, error) = told(&["explain", "--snapshot", "missing.json", "http://orders.mesh.internal/"]);
    assert!(exit == 4 && error.contains("No such file"), "{exit} {error}");
    for (args, exit, why) in [
        (vec!["explain", "orders"], 2, "is no URL such as"),
        (vec!["explain", "--from", "a/b/c", "http://orders.mesh.internal/"], 2, "a/b/c"),
        (vec!["explain", "-H", "x", "http://orders.mesh.internal/"], 2, "is no header such as"),
    ] {
        let (got, out, error) = told(&[&["--address", &address][..], &args].concat());
        assert!(got == exit && error.contains(why), "{args:?}: {got} {out}{error}");
    }
    let none = told(&["--address", "unix:///nowhere/api.sock", "explain", "http://orders.mesh.internal/"]);
    assert!(none.0 == 3 && none.2.contains("ST0301"), "{none:?}");
    // By POST, over the socket only; nothing is changed by it.
    let socket = host.config.join("api.sock");
    let body = r#"{"url": "http://orders.mesh.internal/x", "headers": ["x-canary: always"], "seed": "7"}"#;
    let (status, text) = crate::mesh::over_socket(&socket, "POST", "/v1/explain", body);
    assert!(status == 200 && text.contains("\"seed\":\"7\"") && text.contains("\"rule\":\"testers\""), "{text}");
    let live = |method: &str| {
        let body = format!(
            r#"{{"url": "http://orders.mesh.internal/x", "method": "{method}", "headers": ["x-canary: always"], "live": true}}"#
        );
        crate::mesh::over_socket(&socket, "POST", "/v1/explain", &body)
    };
    let (status, text) = live("GET");
    let seen: Value = serde_json::from_str(text.split_once("\r\n\r\n").unwrap().1).unwrap();
    let observed = &seen["observed"];
    assert_eq!((status, &observed["asForeseen"], &observed["rule"]), (200, &true.into(), &"testers".into()), "{text}");
    assert_eq!((&observed["status"], &observed["error"]), (&200.into(), &Value::Null), "{text}");
    let (status, text) = live("CONNECT");
    assert!(status == 400 && text.contains("live: CONNECT"), "{text}");
    let (exit, out, error) = told(&[
        "--address",
        &format!("unix://{}", socket.display()),
        "explain",
        "--live",
        "http://orders.mesh.internal/x",
    ]);
    assert!(exit == 0 && out.contains("\nobserved   ") && out.contains("as foreseen"), "{out}{error}");
    let (exit, _, error) =
        told(&["--address", &host.at(7741).to_string(), "explain", "--live", "http://orders.mesh.internal/x"]);
    assert!(exit != 0, "a write over TCP: {error}");
}
