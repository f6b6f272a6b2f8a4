use std::fs;
use std::net::SocketAddr;

use starling_model::{
    Announcement, Digest, DocumentVersion, Generation, HealthEntry, HealthRecord, InstanceName, KeyId, Labels,
    MemberState, NodeName, PortName, Protocol, Readiness, ServicesRecord, Weight,
};
use starling_routing::{Documents, InUse, Load, MemberFact, Registry, RouteTable, TableSettings, compile};

use super::*;
use crate::api::views::{Agreement, SnapshotBody};
use crate::cli::render::explain::{names, render};

const DOCUMENTS: &str = "\
apiVersion: starling/v1
kind: Service
metadata: {name: orders}
spec: {ports: [{name: http, port: 80, protocol: http}], subsets: {stable: {version: v1}, canary: {version: v2}}}
---
apiVersion: starling/v1
kind: HTTPRoute
metadata: {name: orders-canary}
spec:
  parentRefs: [{kind: Service, name: orders}]
  rules:
    - name: testers
      matches: [{headers: [{name: x-canary, value: always}]}]
      backendRefs: [{name: orders, subset: canary}]
    - name: old
      matches: [{path: {type: Exact, value: /old}}]
      filters: [{type: RequestRedirect, requestRedirect: {hostname: new.example, statusCode: 301}}]
    - name: broken
      matches: [{path: {value: /broken}}]
      backendRefs: [{name: orders, subset: stable, weight: 3}, {name: gone, weight: 1}]
    - name: admin
      matches: [{path: {value: /admin}, method: GET}]
      filters: [{type: URLRewrite, urlRewrite: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /}}}]
      backendRefs: [{name: orders, subset: stable}]
    - name: default
      matches: [{path: {value: /cart}}]
      timeouts: {request: 2s}
      retry: {attempts: 2, codes: [502, 503, 504]}
      backendRefs:
        - {name: orders, subset: stable, weight: 90}
        - {name: orders, subset: canary, weight: 10}
";

fn node(name: &str) -> NodeName {
    name.parse().unwrap()
}

/// `orders` v1 and v2 on two nodes each way round, `web` on vm-1.
fn table() -> RouteTable {
    table_with("")
}

/// With further documents.
fn table_with(more: &str) -> RouteTable {
    table_of(&format!("{DOCUMENTS}{more}"))
}

fn table_of(documents: &str) -> RouteTable {
    let version = |hash: u8| DocumentVersion {
        generation: Generation::new(13).unwrap(),
        signer: KeyId(1),
        hash: Digest([hash; 32]),
    };
    let documents = InUse::read("all.yaml", documents, version(1), "k1").unwrap();
    let mut registry = Registry::new();
    for (name, host, instances) in [
        ("vm-1", 1, vec![("web", "web", "v1")]),
        ("vm-2", 2, vec![("orders-v1", "orders", "v1"), ("orders-v2", "orders", "v2")]),
        ("vm-3", 3, vec![("orders-v1", "orders", "v1"), ("orders-v2", "orders", "v2")]),
    ] {
        let address = Some(SocketAddr::from(([10, 0, 0, host], 7740)));
        registry.member(&MemberFact { node: node(name), state: MemberState::Alive, address });
        let announce = |(instance, service, version): &(&str, &str, &str)| Announcement {
            instance: InstanceName::new(instance).unwrap(),
            service: ServiceKey::parse(service, &Namespace::default()).unwrap(),
            port: PortName::new("http").unwrap(),
            protocol: Protocol::Http,
            labels: Labels::new([("version".to_owned(), (*version).to_owned())].into()).unwrap(),
            weight: Weight::default(),
        };
        let all: Vec<Announcement> = instances.iter().map(announce).collect();
        let ready = |one: &Announcement| HealthEntry { instance: one.instance.clone(), readiness: Readiness::Ready };
        let entries = all.iter().map(ready).collect();
        registry.services(&node(name), &ServicesRecord { instances: all });
        registry.health(&node(name), &HealthRecord { entries });
    }
    compile(&Documents::new(documents), &registry, &TableSettings { domain: "mesh.internal".to_owned() }, None)
}

/// The last canary fails for 20 s more; the others have answered.
fn load(table: &RouteTable, index: EndpointIndex, now: Instant) -> Load {
    let mut all = table.services().flat_map(|service| &service.endpoints);
    let id = all.find(|one| one.index == index).unwrap().id.to_string();
    let micros = |micros| Load { latency: Some(Duration::from_micros(micros)), ..Load::default() };
    match id.as_str() {
        "vm-2/default/orders-v1" => micros(2_900),
        "vm-3/default/orders-v1" => micros(3_100),
        "vm-2/default/orders-v2" => micros(4_400),
        "vm-3/default/orders-v2" => Load { failing_until: Some(now + Duration::from_secs(20)), ..Load::default() },
        _ => Load::default(),
    }
}

fn view() -> View {
    View {
        node: "vm-1".to_owned(),
        boot_epoch: "1795014041".to_owned(),
        revision: 118,
        as_of: "2026-11-22T15:31:59.000Z".to_owned(),
        digest: "9f2c41d0".to_owned(),
        agreement: Agreement { alive: 3, same: 3, behind: Vec::new(), behind_count: 0 },
    }
}

fn words(flags: &[&str], url: &str) -> Words {
    let mut words = Words { url: url.to_owned(), method: Some("GET".to_owned()), ..Words::default() };
    for flag in flags {
        match flag.split_once('=').unwrap() {
            ("from", from) => words.from = Some(from.to_owned()),
            ("identity", id) => words.identity = Some(id.to_owned()),
            ("method", method) => words.method = Some(method.to_owned()),
            ("seed", seed) => words.seed = Some(seed.to_owned()),
            ("header", header) => words.headers.push(header.to_owned()),
            other => panic!("{other:?}"),
        }
    }
    words
}

/// What an agent with this table answers.
fn live(words: Words) -> Envelope<Explanation> {
    live_with(&table(), words)
}

fn live_with(table: &RouteTable, words: Words) -> Envelope<Explanation> {
    let clocks = Clocks::of_then(Instant::now(), "2026-11-22T15:31:59Z".parse::<Timestamp>().unwrap().into());
    let loads = |index: EndpointIndex| load(table, index, clocks.now());
    let local = [(ServiceKey::parse("web", &Namespace::default()).unwrap(), "web".to_owned())];
    let (name, domain) = (node("vm-1"), TrustDomain::new("prod.internal").unwrap());
    let question = words.read((&name, &domain), &Namespace::default()).unwrap();
    let ground = Ground { table, loads: &loads, clocks, node: &name, trust_domain: &domain, local: &local };
    Envelope::new(kind::EXPLANATION, view(), explain(&question, &ground))
}

/// The bytes of `starling snapshot save` at the same agent.
fn file() -> Vec<u8> {
    let (table, now) = (table(), Instant::now());
    let body = SnapshotBody {
        trust_domain: "prod.internal".to_owned(),
        local: vec![SnapshotInstance { service: "default/web".to_owned(), name: "web".to_owned() }],
        snapshot: Snapshot::of(&table, now, &|index| load(&table, index, now)),
    };
    serde_json::to_vec(&Envelope::new(kind::SNAPSHOT, view(), body)).unwrap()
}

/// Live and offline give the same, for people and as JSON.
#[track_caller]
fn check(flags: &[&str], url: &str, want: &str) {
    let told = live(words(flags, url));
    assert_eq!(render(&told, &Look::plain()), want);
    let offline = answer(&file(), words(flags, url)).unwrap();
    assert_eq!(render(&offline, &Look::plain()), want, "offline");
    assert_eq!(serde_json::to_value(&offline).unwrap(), serde_json::to_value(&told).unwrap());
}

/// The manual's sample, as far as this release decides by what it shows: no loopback addresses, policies or
/// ejection by statuses, and shares are not measured by route.
#[test]
fn the_sample_of_the_manual() {
    let want = "\
request    GET http://orders.mesh.internal/cart   x-user: 7
source     spiffe://prod.internal/node/vm-1/ns/default/svc/web          local instance \"web\"
service    default/orders, http, port 80                                Service/orders generation 13
route      HTTPRoute/orders-canary generation 13 rule \"default\"         path prefix /cart
             × rule \"old\"   path is /cart (needs exactly /old)
             × rule \"broken\"   path is /cart (needs prefix /broken)
             × rule \"admin\"   path is /cart (needs prefix /admin)
split      orders{stable} 90 : orders{canary} 10     drawn per request
endpoints  stable   vm-2 orders-v1    50.0%   healthy   2.9 ms
           stable   vm-3 orders-v1    50.0%   healthy   3.1 ms
           canary   vm-2 orders-v2   100.0%   healthy   4.4 ms
           canary   vm-3 orders-v2     0.0%   ejected   our connections to it fail, back in 20 s
transport  TLS 1.3 to vm-2:7740 or vm-3:7740, mTLS; peer must be spiffe://prod.internal/node/{vm-2,vm-3}; opens default/web → default/orders
grants     no grant names web or orders: accepted as announced (Open, ST0612)
authorize  ALLOW: no policy is in force   (decided at the receiver)
policy     timeout 2s, retries 2 on 502,503,504 and connect failure, budget 20 %
answer     would be sent to vm-2 or vm-3    (view of vm-1, revision 118, agrees with 3/3 members)
";
    check(&["from=web", "header=x-user: 7"], "http://orders.mesh.internal/cart", want);
}

#[test]
fn a_header_that_is_absent_or_other_is_named_with_what_was_needed() {
    let told = |header: &[&str]| render(&live(words(header, "http://orders.mesh.internal/x")), &Look::plain());
    assert!(told(&[]).contains("× rule \"testers\" of orders-canary   header x-canary is absent (needs \"always\")\n"));
    assert!(told(&["header=X-Canary: no"]).contains("header x-canary is \"no\" (needs \"always\")\n"));
    let won = told(&["header=x-canary: always"]);
    assert!(won.contains("rule \"testers\"         path prefix / and x-canary = \"always\"\n"), "{won}");
    assert!(won.contains("split      orders{canary} alone\n"), "{won}");
}

#[test]
fn a_request_that_nothing_matches_ends_with_the_nearest_miss() {
    let want = "\
request    GET http://orders.mesh.internal/x
source     spiffe://prod.internal/node/vm-1
service    default/orders, http, port 80                                Service/orders generation 13
route      no rule matches
             × rule \"old\" of orders-canary   path is /x (needs exactly /old)
             × rule \"broken\" of orders-canary   path is /x (needs prefix /broken)
             × rule \"admin\" of orders-canary   path is /x (needs prefix /admin)
             × rule \"default\" of orders-canary   path is /x (needs prefix /cart)
             × rule \"testers\" of orders-canary   header x-canary is absent (needs \"always\")
answer     404: no rule of the routes of default/orders matches. Nearest: rule \"testers\" of default/orders-canary: header x-canary is absent (needs \"always\")    (view of vm-1, revision 118, agrees with 3/3 members)
";
    check(&[], "http://orders.mesh.internal/x", want);
}

#[test]
fn shares_that_end_differently_are_told_with_their_shares() {
    let told = render(&live(words(&[], "http://orders.mesh.internal/broken")), &Look::plain());
    let last = told.lines().last().unwrap();
    let want = "answer     75% would be sent to vm-2 or vm-3; 25% 500 by HTTPRoute/orders-canary rule \"broken\": backend default/gone cannot be used    (";
    assert!(last.starts_with(want), "{told}");
    assert_eq!(live(words(&[], "http://orders.mesh.internal/broken")).body.decision, "mixed");
}

#[test]
fn redirects_rewrites_and_unknown_hosts() {
    let told = |url: &str| live(words(&[], url));
    let redirected = told("http://orders.mesh.internal/old?q=1");
    assert_eq!(redirected.body.decision, "answer");
    let text = render(&redirected, &Look::plain());
    let want = "answer     301 to http://new.example/old?q=1 by HTTPRoute/orders-canary rule \"old\"    (";
    assert!(text.contains("filter     redirects with 301\n") && text.contains(want), "{text}");
    let admin = told("http://orders.mesh.internal/admin/x?y=1");
    let sent = admin.body.outcomes[0].sent.clone().unwrap();
    assert_eq!((sent.target.as_str(), sent.host.as_str()), ("/x?y=1", "orders.mesh.internal"));
    assert!(render(&admin, &Look::plain()).contains("filter     rewrites the prefix to /\n"));
    assert_eq!(names(&admin), "vm-2/default/orders-v1\nvm-3/default/orders-v1\n");
    let nobody = told("http://nobody.mesh.internal/");
    assert_eq!(nobody.body.outcomes[0].status, Some(404));
    assert!(render(&nobody, &Look::plain()).contains("answer     404: no node announces default/nobody    ("));
    let foreign = told("http://example.com/");
    assert_eq!(foreign.body.outcomes[0].error.as_deref(), Some("destination_not_found"));
    // As the door has it.
    let two_lengths =
        live(words(&["header=content-length: 1", "header=content-length: 2"], "http://web.mesh.internal/"));
    assert_eq!(two_lengths.body.outcomes[0].status, Some(400));
    let direct = told("http://web.mesh.internal/");
    let text = render(&direct, &Look::plain());
    assert!(text.contains("route      none is attached: to the service itself\n"), "{text}");
    assert!(
        text.contains("service    default/web, http                                            by announcement\n"),
        "{text}"
    );
    assert!(
        text.contains("policy     timeout 15s (built in), retries 2 on connect failure (built in), budget 20 %\n"),
        "{text}"
    );
}

/// The line of the manual's sample, and what stands there where somebody is not granted.
#[test]
fn grants_say_who_may_call_and_serve_as_what() {
    let grant = |name: &str, node: &str, service: &str| {
        format!(
            "---\napiVersion: starling/v1\nkind: ServiceGrant\nmetadata: {{name: {name}}}\nspec: {{nodes: [{{node: {node}}}], services: [{{service: {service}}}]}}\n"
        )
    };
    let told = |more: &str, flags: &[&str]| {
        let told = live_with(&table_with(more), words(flags, "http://orders.mesh.internal/cart"));
        render(&told, &Look::plain())
    };
    let shop_hosts = grant("shop-hosts", "vm-*", "web").replace("service: web}", "service: web}, {service: orders}");
    let text = told(&shop_hosts, &["from=web"]);
    let want = "grants     vm-1 may call as web, vm-2 and vm-3 may serve orders         ServiceGrant/shop-hosts generation 13\n";
    assert!(text.contains(want), "{text}");
    let text = told(&shop_hosts, &[]);
    let want = "no service is named: the caller is the bare node, vm-2 and vm-3 may serve orders";
    assert!(text.contains(want), "{text}");

    let elsewhere = grant("a", "vm-2", "web") + &grant("b", "vm-2", "orders");
    let text = told(&elsewhere, &["from=web"]);
    assert!(text.contains("source     spiffe://prod.internal/node/vm-1\n"), "it counts as its node: {text}");
    assert!(
        text.contains(
            "           stable   vm-3 orders-v1     0.0%   ungranted   its node is not granted the service (ST0612)\n"
        ),
        "{text}"
    );
    assert!(text.contains("opens default/web → default/orders\n"), "{text}");
    assert!(
        text.contains("grants     vm-1 may not call as web: the caller counts as vm-1, vm-2 may serve orders"),
        "{text}"
    );

    let strict =
        "---\napiVersion: starling/v1\nkind: MeshConfig\nmetadata: {name: mesh}\nspec: {serviceGrants: Strict}\n";
    let text = told(&(grant("b", "vm-2", "orders") + strict), &["from=web"]);
    let want = "grants     no grant names web: the caller counts as vm-1 (Strict, ST0612), vm-2 may serve orders";
    assert!(text.contains(want), "{text}");
    let text = told(strict, &["from=web"]);
    assert!(text.contains("no endpoint") && !text.contains("grants "), "it gets nowhere: {text}");
}

#[test]
fn another_identity_and_a_seed() {
    let id = "spiffe://prod.internal/node/vm-9/ns/shop/svc/cart";
    let told = live(words(&[&format!("identity={id}"), "seed=7"], "http://orders.mesh.internal/cart"));
    let text = render(&told, &Look::plain());
    assert!(text.contains(&format!("source     {id}\n")), "{text}");
    let nobody = render(&live(words(&["from=shop/cart"], "http://orders.mesh.internal/cart")), &Look::plain());
    assert!(
        nobody.contains("/node/vm-1/ns/shop/svc/cart            no instance of it runs on this node\n"),
        "{nobody}"
    );
    let draw = told.body.draw.clone().unwrap();
    assert!(told.body.outcomes.iter().any(|one| one.endpoints.contains(draw.endpoint.as_ref().unwrap())), "{draw:?}");
    assert!(text.contains(&format!("draw       seed 7 gives {}\n", draw.endpoint.unwrap())), "{text}");
}

#[test]
fn questions_that_make_no_sense_say_what_is_wrong() {
    let (name, domain) = (node("vm-1"), TrustDomain::new("prod.internal").unwrap());
    let refuse = |flags: &[&str], url: &str| {
        words(flags, url).read((&name, &domain), &Namespace::default()).unwrap_err().to_string()
    };
    let good = "http://orders.mesh.internal/";
    for (flags, url, want) in [
        (vec![], "orders", "is no URL such as"),
        (vec![], "http:///x", "is no URL such as"),
        (vec![], "http://a@b/", "is no URL such as"),
        (vec![], "é", "is no URL such as"),
        (vec![], "https://orders.mesh.internal/", "what is inside https:// nobody sees"),
        (vec![], "http://orders.mesh.internal/a b", "control characters"),
        (vec![], "http://orders.mesh.internal/\r\nx: y", "control characters"),
        (vec!["method=GET /x"], good, "control characters"),
        (vec!["header=x"], good, "is no header such as"),
        (vec!["header=: x"], good, "is no header such as"),
        (vec!["header=a: b\r\nc: d"], good, "control characters"),
        (vec!["from=Web"], good, "from: "),
        (vec!["identity=spiffe://prod.internal/x"], good, "identity "),
        (vec!["identity=spiffe://other.internal/node/vm-1"], good, "is not spiffe://prod.internal/node/NODE"),
        (vec!["from=web", "identity=spiffe://prod.internal/node/vm-1"], good, "exclude each other"),
        (vec!["seed=-1"], good, "seed \"-1\" is no number"),
    ] {
        let told = refuse(&flags, url);
        assert!(told.contains(want), "{flags:?} {url}: {told}");
    }
    use crate::explain::QUESTION_BYTES_MAX;
    let long = |len: usize| {
        let header = format!("header=x: {}", "y".repeat(len));
        words(&[&header], good).read((&name, &domain), &Namespace::default()).map(drop)
    };
    let rest = good.len() + "x: ".len() + 4 + "GET".len();
    assert_eq!(long(QUESTION_BYTES_MAX - rest), Ok(()));
    assert!(long(QUESTION_BYTES_MAX - rest + 1).is_err());
}

#[test]
fn a_file_that_is_no_snapshot_is_refused_with_its_reason() {
    let refuse = |bytes: &[u8]| match answer(bytes, words(&[], "http://orders.mesh.internal/")).unwrap_err() {
        Refused::File(why) => why,
        Refused::Question(why) => panic!("{why}"),
    };
    assert!(refuse(b"").contains("it is no JSON of a snapshot: "));
    assert!(refuse(br#"{"format": "starling-snapshot/1"}"#).contains("missing field"));
    let whole: serde_json::Value = serde_json::from_slice(&file()).unwrap();
    let changed = |pointer: &str, value: serde_json::Value| {
        let mut whole = whole.clone();
        *whole.pointer_mut(pointer).unwrap() = value;
        refuse(&serde_json::to_vec(&whole).unwrap())
    };
    assert!(changed("/format", "starling-snapshot/9".into()).contains("starling-snapshot/9"));
    assert!(changed("/trustDomain", "?".into()).contains('?'));
    assert!(changed("/view/node", "no node".into()).contains("no node"));
    assert!(!changed("/view/asOf", "yesterday".into()).is_empty());
    assert!(!changed("/local/0/service", "a/b/c".into()).is_empty());
    assert!(changed("/documents/0/hash", "zz".into()).contains("64 hex digits"));
    // Cut anywhere, it is refused and nothing panics.
    let bytes = file();
    for end in (0..bytes.len()).step_by(61) {
        assert!(!refuse(&bytes[..end]).is_empty());
    }
}

#[test]
fn a_saved_file_is_ours_alone_and_takes_no_other_files_place() {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("now.json");
    files::create_whole(&path, b"one", files::SECRET_MODE).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    assert!(files::create_whole(&path, b"two", files::SECRET_MODE).unwrap_err().is_existing());
    assert_eq!(fs::read(&path).unwrap(), b"one");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing is left beside it");
    // Not through a link either.
    let link = folder.path().join("link.json");
    std::os::unix::fs::symlink("elsewhere", &link).unwrap();
    assert!(files::create_whole(&link, b"two", files::SECRET_MODE).unwrap_err().is_existing());
    assert_eq!(files::read_bounded(&path, 3).unwrap(), b"one");
    assert!(files::read_bounded(&path, 2).is_err());
}

#[test]
fn a_question_survives_its_path() {
    let asked = words(&["header=x-a: é & 1=2", "from=shop/web"], "http://orders.mesh.internal/a?b=c%20&d");
    let path = path(&asked);
    let want = "/v1/explain?url=http%3A%2F%2Forders.mesh.internal%2Fa%3Fb%3Dc%2520%26d&method=GET&header=x-a%3A%20%C3%A9%20%26%201%3D2&from=shop%2Fweb";
    assert_eq!(path, want);
}

#[test]
fn a_session_is_foretold_and_ways_to_balance_are_named() {
    let sticky = DOCUMENTS.replace(
        "      retry: {attempts: 2",
        "      sessionPersistence: {sessionName: sid, absoluteTimeout: 1h}\n      retry: {attempts: 2",
    );
    let url = "http://orders.mesh.internal/cart";
    let table = table_of(&sticky);
    let new = live_with(&table, words(&["seed=3"], url));
    let shown = render(&new, &Look::plain());
    assert!(
        shown.contains("\nsession    cookie sid: one begins, since the request has no such cookie, ends after 1h\n"),
        "{shown}"
    );
    // The cookie that such an answer sets.
    let asked =
        starling_proxy::http::asked::read_head(b"GET /cart HTTP/1.1\r\nhost: orders.mesh.internal\r\n\r\n").unwrap();
    let (method, _, headers) = asked;
    let (key, path) = (ServiceKey::parse("orders", &Namespace::default()).unwrap(), "/cart");
    let http = starling_routing::HttpFacts {
        method: &method,
        scheme: "http",
        authority: "orders.mesh.internal",
        path,
        query: None,
        headers: &headers,
    };
    let wall =
        starling_routing::UnixSeconds("2026-11-22T15:30:00Z".parse::<Timestamp>().unwrap().as_second().unsigned_abs());
    let request = starling_routing::RequestFacts {
        destination: starling_routing::Destination::Service(&key),
        port: None,
        source: None,
        http: Some(&http),
        avoid: &[],
        node: None,
        wall,
    };
    let idle = |_| Load::default();
    let decide = |seed| table.decide(&request, Instant::now(), starling_routing::Draws::from_seed(seed), &idle);
    let to_canary = (0..).find_map(|seed| match decide(seed) {
        starling_routing::Decision::Forward(choice) if choice.endpoint().id.to_string() == "vm-2/default/orders-v2" => {
            choice.set_cookie()
        }
        starling_routing::Decision::Forward(_)
        | starling_routing::Decision::Answer(_)
        | starling_routing::Decision::Refuse { .. } => None,
    });
    let set = to_canary.unwrap().to_str().unwrap().to_owned();
    let cookie = format!("header=cookie: {}", set.split(';').next().unwrap());
    let kept = live_with(&table, words(&[&cookie], url));
    let shown = render(&kept, &Look::plain());
    assert!(shown.contains("\nsession    cookie sid: goes on where it is, ends after 1h\n"), "{shown}");
    assert!(shown.contains("canary   vm-2 orders-v2   100.0%"), "{shown}");
    assert!(shown.contains("would be sent to vm-2    ("), "{shown}");
    assert_eq!((kept.body.outcomes.len(), kept.body.outcomes[0].backend), (1, Some(1)));
    let json = serde_json::to_value(&kept).unwrap();
    let step = json["steps"].as_array().unwrap().iter().find(|step| step["step"] == "session").unwrap();
    let result = serde_json::json!(
        {"cookie": "sid", "kept": true, "because": null, "absoluteTimeout": "1h", "lifetime": "session"}
    );
    assert_eq!(step["result"], result);
    let balanced = "spec: {loadBalancing: {policy: maglev, key: 'header:x-user'}, ports";
    let hashed = DOCUMENTS.replace("spec: {ports", balanced);
    assert_ne!(hashed, DOCUMENTS);
    let shown = render(&live_with(&table_of(&hashed), words(&["header=x-user: 7"], url)), &Look::plain());
    assert!(shown.contains("\nbalancing  maglev by header x-user\n"), "{shown}");
    let shown = render(&live_with(&table_of(&hashed), words(&[], url)), &Look::plain());
    assert!(shown.contains("\nbalancing  peak-ewma, since maglev finds no header x-user\n"), "{shown}");
}
