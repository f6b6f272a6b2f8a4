//! The documented samples, made from views: where these and the code differ, one of them is wrong.

use serde_json::{Value, json};

use super::*;
use crate::api::views::{Envelope, MemberList, RouteTable, Service, ServiceList, Status};
use crate::cli::look::Look;

fn view() -> Value {
    json!({"node": "vm-1", "bootEpoch": "1795014041", "revision": 118, "asOf": "2026-11-22T15:31:59.120Z",
           "digest": "9f2c41d0", "agreement": {"alive": 3, "same": 2, "behind": ["vm-3"], "behindCount": 1}})
}

fn envelope(kind: &str, body: Value) -> Value {
    let mut all = json!({"apiVersion": "starling/v1", "kind": kind, "view": view()});
    let (Value::Object(all_fields), Value::Object(body)) = (&mut all, body) else { panic!("objects") };
    all_fields.extend(body);
    all
}

fn member(name: &str, change: impl FnOnce(&mut Value)) -> Value {
    let number = name.rsplit('-').next().unwrap();
    let mut value = json!({
        "name": name, "address": format!("10.0.0.1{number}:7740"), "state": "alive", "bootEpoch": "1795014117",
        "incarnation": 3, "since": "2026-11-19T11:02:00Z", "lastSeen": "2026-11-22T15:31:58Z", "self": false,
        "rtt": {"ms": 0.41, "jitterMs": 0.05}, "version": "0.1.0", "protocol": {"min": 1, "max": 1},
        "labels": {"zone": "a"}, "services": [{"namespace": "default", "name": "orders"}],
        "config": {"documents": 4, "digest": "9f2c41d0"}, "trust": {"bundleSequence": 1, "sharedIssuer": false},
        "suspicion": null,
        "certificate": {"spiffeId": format!("spiffe://prod.internal/node/{name}"), "notAfter": "2027-11-18T16:00:00Z",
                        "leafNotAfter": "2026-11-23T13:30:00Z", "root": "b7e103c8", "keyExchange": "X25519MLKEM768"}});
    change(&mut value);
    value
}

fn members() -> MemberList {
    let items = vec![
        member("vm-1", |m| {
            m["self"] = json!(true);
            m["rtt"] = Value::Null;
            m["lastSeen"] = Value::Null;
            m["services"] = json!([{"namespace": "default", "name": "web"}]);
        }),
        member("vm-2", |_| {}),
        member("vm-3", |m| {
            m["rtt"]["ms"] = json!(0.6);
            m["lastSeen"] = json!("2026-11-22T15:31:57Z");
            m["services"] = json!([{"namespace": "default", "name": "orders"}, {"namespace": "default", "name": "db"}]);
            m["config"]["digest"] = json!("77ab0000");
        }),
        member("vm-9", |m| {
            m["state"] = json!("left");
            m["rtt"] = Value::Null;
            m["lastSeen"] = json!("2026-11-22T13:20:00Z");
            m["services"] = json!([]);
            m["certificate"] = Value::Null;
        }),
    ];
    serde_json::from_value(envelope("MemberList", json!({"items": items}))).unwrap()
}

#[test]
fn members_look_as_documented() {
    let want = "\
NODE   ADDRESS          STATE      RTT   VERSION   SERVICES    CERT   CONFIG   SEEN
vm-1   10.0.0.11:7740   alive        -   0.1.0     web         361d   9f2c √   self
vm-2   10.0.0.12:7740   alive   0.4 ms   0.1.0     orders      361d   9f2c √     1s
vm-3   10.0.0.13:7740   alive   0.6 ms   0.1.0     orders,db   361d   77ab ‼     2s
vm-9   10.0.0.19:7740   left         -   0.1.0     -              -   -          2h
view of vm-1, revision 118: 3 alive, 1 left. vm-3 uses other documents.
";
    let got = members::render(&members(), Columns::Usual, &members::Filter::default(), &Look::plain());
    assert_eq!(got, want);
}

#[test]
fn a_service_that_a_member_may_not_serve_is_marked() {
    let mut list = members();
    list.body.items[2].ungranted = list.body.items[2].services[..1].to_vec();
    let got = members::render(&list, Columns::Usual, &members::Filter::default(), &Look::plain());
    assert!(got.contains("   orders(ungranted),db   "), "{got}");
}

#[test]
fn what_members_hold_back_is_told_by_document() {
    let mut list = members();
    let held = |document: Option<&str>, used: Option<u64>, why: &str| {
        json!({"document": document, "generation": document.map(|_| 3), "digest": "c3e85b10", "used": used, "why": why,
               "quarantined": why != "empties"})
    };
    let mut vm_3 = serde_json::to_value(&list.body.items[2]).unwrap();
    vm_3["config"]["heldBackCount"] = json!(4);
    vm_3["config"]["heldBack"] = json!([
        held(Some("HTTPRoute default/orders"), Some(2), "timed_out"),
        held(None, None, "panicked"),
        held(Some("Service default/orders"), None, "empties"),
    ]);
    list.body.items[2] = serde_json::from_value(vm_3).unwrap();
    let got = members::render(&list, Columns::Usual, &members::Filter::default(), &Look::plain());
    let want = "vm-3 uses other documents.\n\
        vm-3 quarantines HTTPRoute default/orders generation 3 (timed_out); generation 2 stays in use there.\n\
        vm-3 quarantines the document with hash c3e85b10 (panicked); it has no effect there.\n\
        vm-3 holds back 2 more of the mesh's documents.\n";
    assert!(got.ends_with(want), "{got}");
    let only = members::Filter { states: vec!["left".to_owned()], labels: Vec::new() };
    assert!(!members::render(&list, Columns::Usual, &only, &Look::plain()).contains("quarantines"));
}

#[test]
fn members_are_chosen_by_state_and_label_and_shown_without_frills() {
    let look = Look { headers: false, unicode: false, ..Look::plain() };
    let filter =
        members::Filter { states: vec!["alive".to_owned()], labels: vec![("zone".to_owned(), "a".to_owned())] };
    let got = members::render(&members(), Columns::Usual, &filter, &look);
    assert_eq!(got.lines().count(), 3, "{got}");
    assert!(got.contains("9f2c ok") && got.contains("77ab warn") && !got.contains("NODE"), "{got}");
    let other = members::Filter { labels: vec![("zone".to_owned(), "b".to_owned())], ..members::Filter::default() };
    assert_eq!(members::render(&members(), Columns::Usual, &other, &look), "");
}

#[test]
fn wide_members_show_lives_labels_and_accusers() {
    let mut list = members();
    list.body.items[1].suspicion =
        serde_json::from_value(json!({"accusers": ["vm-1", "vm-3"], "until": "2026-11-22T15:32:09Z"})).unwrap();
    let got = members::render(&list, Columns::Wide, &members::Filter::default(), &Look::plain());
    for word in [
        "BOOT EPOCH",
        "1795014117",
        "zone=a",
        "vm-1,vm-3",
        "1-1",
        "JITTER",
        "0.05 ms",
        "KEY EXCHANGE",
        "X25519MLKEM768",
    ] {
        assert!(got.contains(word), "{word}: {got}");
    }
}

fn status() -> Value {
    let mut all = envelope(
        "Status",
        json!({
            "name": "vm-1", "spiffeId": "spiffe://prod.internal/node/vm-1", "trustDomain": "prod.internal",
            "fingerprint": "SHA256:b7e1", "version": "0.1.0", "state": "ready", "waitingFor": [],
            "startedAt": "2026-11-19T11:02:00Z", "uptimeSeconds": 273_600 + 59, "pid": 7,
            "members": {"joining": 0, "alive": 3, "suspect": 0, "failed": 0, "left": 1},
            "config": {"documents": 4, "digest": "9f2c41d0"},
            "services": {"total": 3, "local": ["default/web"], "endpoints": 6, "endpointsHealthy": 5},
            "traffic": {"window": "1m", "inbound": {"rps": 42.1, "requests": 2526, "successRate": 1.0},
                        "outbound": {"rps": 42.0, "requests": 2520, "successRate": 0.9964}, "p99Ms": 18.0,
                        "mtlsShare": 1.0},
            "identity": {"certificateNotAfter": "2027-11-18T16:00:00Z", "leafNotAfter": "2026-11-23T13:30:00Z",
                         "leafSince": "2026-11-22T13:30:00Z", "bundleSequence": 1, "bundleSame": 3,
                         "sharedIssuer": false, "root": "b7e103c8"},
            "listeners": {"mesh": "10.0.0.11:7740", "apiSocket": null, "api": null, "http": null, "upstreams": []},
            "store": {"durable": true, "reason": null}, "healthScore": 0, "isolated": false,
            "problems": [{"code": "", "level": "warning", "help": "",
                          "detail": "orders-v2 on vm-3 ejected 40 s ago: 5 consecutive 5xx (returns in 20 s)"}]}),
    );
    all["view"]["agreement"] = json!({"alive": 3, "same": 3, "behind": [], "behindCount": 0});
    all
}

fn render_status(value: Value) -> String {
    let answer: Envelope<Status> = serde_json::from_value(value).unwrap();
    status::render(&answer, &Look::plain())
}

#[test]
fn status_looks_as_documented() {
    let want = "\
vm-1   spiffe://prod.internal/node/vm-1   starling 0.1.0   up 3d 4h
Members    3 alive   0 suspect   0 failed   1 left
Config     4 documents   digest 9f2c41d0   in use on 3/3 members
Services   3 (1 local: web)   endpoints 5/6 healthy
Traffic    in 42.1 rps 100.00%   out 42.0 rps 99.64%   p99 18 ms   mTLS 100%
Identity   certificate 361d left   leaf re-keyed 2h ago   bundle 1 on 3/3 members
Problems
  ‼ orders-v2 on vm-3 ejected 40 s ago: 5 consecutive 5xx (returns in 20 s)
";
    assert_eq!(render_status(status()), want);
}

#[test]
fn status_says_what_it_waits_for_and_what_is_wrong() {
    let mut value = status();
    value["state"] = json!("starting");
    value["waitingFor"] = json!(["the first sync with a seed"]);
    value["members"]["joining"] = json!(2);
    value["traffic"] = json!({"window": "1m", "inbound": {"rps": 0.0, "requests": 0, "successRate": null},
        "outbound": {"rps": 0.0, "requests": 0, "successRate": null}, "p99Ms": null, "mtlsShare": null});
    value["store"] = json!({"durable": false, "reason": "no space left on device"});
    value["isolated"] = json!(true);
    value["problems"] =
        json!([{"code": "ST0604", "level": "warning", "detail": "shared issuer", "help": "issue identities"}]);
    let text = render_status(value);
    for line in [
        "State      starting, waits for the first sync with a seed\n",
        "Members    3 alive   0 suspect   0 failed   1 left   2 joining\n",
        "Traffic    none in the last 1m\n",
        "Store      in memory only: no space left on device (ST0716)\n",
        "Isolated   ",
        "  ‼ shared issuer   ST0604\n      issue identities\n",
    ] {
        assert!(text.contains(line), "{line:?}\n{text}");
    }
}

fn endpoint(id: &str, version: &str, subset: &str, share: f64) -> Value {
    let (node, instance) = (id.split('/').next().unwrap(), id.rsplit('/').next().unwrap());
    json!({"id": id, "node": node, "instance": instance, "port": "http", "protocol": "http",
           "labels": {"version": version}, "subsets": [subset], "health": "healthy", "reason": null, "weight": 100,
           "share": share, "inFlight": 0, "latencyEwmaMs": null, "since": "2026-11-19T11:02:00Z"})
}

fn orders() -> Value {
    let mut endpoints = vec![
        endpoint("vm-2/default/orders-v1", "v1", "stable", 0.45),
        endpoint("vm-2/default/orders-v2", "v2", "canary", 0.1),
        endpoint("vm-3/default/orders-v1", "v1", "stable", 0.45),
        endpoint("vm-3/default/orders-v2", "v2", "canary", 0.0),
    ];
    endpoints[0]["inFlight"] = json!(2);
    endpoints[0]["latencyEwmaMs"] = json!(2.9);
    endpoints[1]["latencyEwmaMs"] = json!(4.4);
    endpoints[1]["since"] = json!("2026-11-22T13:20:00Z");
    endpoints[2]["inFlight"] = json!(1);
    endpoints[2]["latencyEwmaMs"] = json!(3.1);
    endpoints[3]["health"] = json!("ejected");
    endpoints[3]["since"] = json!("2026-11-22T15:31:19Z");
    endpoints[3]["reason"] =
        json!({"code": "consecutive_5xx", "detail": "5 consecutive 5xx", "until": "2026-11-22T15:32:19.500Z"});
    json!({"namespace": "default", "name": "orders", "hostname": "orders.mesh.internal", "vip": "127.77.184.9",
           "ports": [{"name": "http", "port": 80, "protocol": "http"}], "endpoints": endpoints,
           "routes": ["orders-canary"],
           "traffic": {"window": "1m", "rps": 42.0, "requests": 2520, "successRate": 0.9964, "p50Ms": 3.0,
                       "p95Ms": 9.0, "p99Ms": 18.0}})
}

fn service_list() -> ServiceList {
    let one = |name: &str, vip: &str, port: u16, protocol: &str| {
        let mut endpoint = endpoint(&format!("vm-1/default/{name}"), "v1", "all", 1.0);
        endpoint["subsets"] = json!([]);
        json!({"namespace": "default", "name": name, "hostname": format!("{name}.mesh.internal"), "vip": vip,
               "ports": [{"name": "main", "port": port, "protocol": protocol}], "endpoints": [endpoint], "routes": [],
               "traffic": null})
    };
    let mut web = one("web", "127.77.31.204", 80, "http");
    web["traffic"] = json!({"window": "1m", "rps": 42.1, "requests": 2526, "successRate": 1.0, "p50Ms": 6.0,
                            "p95Ms": 12.0, "p99Ms": 24.0});
    let items = json!([one("db", "127.77.92.17", 5432, "tcp"), orders(), web]);
    serde_json::from_value(envelope("ServiceList", json!({"items": items}))).unwrap()
}

#[test]
fn services_look_as_documented() {
    let want = "\
SERVICE   PROTOCOL   ADDRESS             ENDPOINTS   SUBSETS          RPS   SUCCESS    P50     P99   ROUTES
db        tcp        127.77.92.17:5432         1/1   -                  -         -      -       -   -
orders    http       127.77.184.9:80           3/4   stable,canary   42.0    99.64%   3 ms   18 ms   orders-canary
web       http       127.77.31.204:80          1/1   -               42.1   100.00%   6 ms   24 ms   -
";
    assert_eq!(services::list(&service_list(), Columns::Usual, None, &Look::plain()), want);
}

#[test]
fn a_namespace_column_appears_when_it_says_something() {
    let mut list = service_list();
    list.body.items[0].namespace = "shop".to_owned();
    let text = services::list(&list, Columns::Usual, None, &Look::plain());
    assert!(text.starts_with("NAMESPACE   SERVICE   PROTOCOL"), "{text}");
    let text = services::list(&list, Columns::Usual, Some("shop"), &Look::plain());
    assert!(text.starts_with("SERVICE   PROTOCOL") && text.lines().count() == 2, "{text}");
    let text = services::list(&service_list(), Columns::Wide, None, &Look::plain());
    assert!(text.starts_with("NAMESPACE   SERVICE") && text.contains("orders.mesh.internal"), "{text}");
}

#[test]
fn endpoints_look_as_documented() {
    let want = "\
NODE   INSTANCE    SUBSET   HEALTH    WEIGHT   SHARE   INFLIGHT     EWMA   SINCE   WHY
vm-2   orders-v1   stable   healthy      100   45.0%          2   2.9 ms      3d   -
vm-3   orders-v1   stable   healthy      100   45.0%          1   3.1 ms      3d   -
vm-2   orders-v2   canary   healthy      100   10.0%          0   4.4 ms      2h   -
vm-3   orders-v2   canary   ejected      100    0.0%          0        -     40s   5 consecutive 5xx; back in 20 s
view of vm-1, revision 118. Shares are computed locally, other nodes may differ.
";
    let answer: Envelope<Service> = serde_json::from_value(envelope("Service", orders())).unwrap();
    assert_eq!(services::one(&answer, Columns::Usual, &services::Filter::default(), &Look::plain()), want);
    let filter = services::Filter { node: Some("vm-3".to_owned()), subset: Some("canary".to_owned()) };
    let look = Look { headers: false, ..Look::plain() };
    let text = services::one(&answer, Columns::Usual, &filter, &look);
    assert!(text.starts_with("vm-3   orders-v2") && text.lines().count() == 1, "{text}");
}

fn route(order: u32, rule: &str, matches: &str, backends: &Value) -> Value {
    json!({"service": {"namespace": "default", "name": "orders"}, "order": order, "route": "orders-canary",
           "rule": rule, "match": matches, "backends": backends, "timeout": "2s", "retries": 2,
           "source": {"kind": "HTTPRoute", "generation": "13", "keyId": "k1"}})
}

fn backend(subset: &str, share: f64) -> Value {
    json!({"namespace": "default", "name": "orders", "subset": subset, "share": share})
}

fn routes(items: &Value) -> RouteTable {
    serde_json::from_value(envelope("RouteTable", json!({"items": items}))).unwrap()
}

fn built_in(service: &str) -> Value {
    json!({"service": {"namespace": "default", "name": service}, "order": 1, "route": null, "rule": null,
           "match": "everything",
           "backends": [{"namespace": "default", "name": service, "subset": null, "share": 1.0}],
           "timeout": "15s", "retries": 0, "source": {"kind": "built in", "generation": null, "keyId": null}})
}

#[test]
fn routes_look_as_documented() {
    let want = "\
ORDER   ROUTE           RULE      MATCH                                   BACKENDS                           TIMEOUT   RETRIES   SOURCE
    1   orders-canary   testers   path prefix / and x-canary = \"always\"   orders{canary} 100%                     2s         2   HTTPRoute gen 13 by k1
    2   orders-canary   default   path prefix /                           orders{stable} 90%, {canary} 10%        2s         2   HTTPRoute gen 13 by k1
";
    let table = routes(&json!([
        route(1, "testers", "path prefix / and x-canary = \"always\"", &json!([backend("canary", 1.0)])),
        route(2, "default", "path prefix /", &json!([backend("stable", 0.9), backend("canary", 0.1)])),
    ]));
    assert_eq!(routes::render(&table, Columns::Usual, None, &Look::plain()), want);
}

#[test]
fn ports_callers_errors_and_what_is_the_matter_are_told() {
    let invalid = json!({"namespace": "", "name": "", "subset": null, "share": 0.1, "invalid": "BackendNotFound"});
    let mut first = route(1, "default", "path prefix /", &json!([backend("stable", 0.9), invalid]));
    first["port"] = json!("web");
    let mut second = route(1, "moved", "path prefix /old", &json!([]));
    second["callers"] = json!("shop");
    second["filters"] = json!(["RequestRedirect"]);
    let problem = json!({"documentKind": "HTTPRoute", "namespace": "default", "name": "orders-canary", "code": "ST0433",
        "reason": "BackendNotFound", "pointer": "/spec/rules/0/backendRefs/1", "detail": "nobody knows it"});
    let table = json!({"items": [first, second], "problems": [problem]});
    let table: RouteTable = serde_json::from_value(envelope("RouteTable", table)).unwrap();
    let want = "\
PORT   CALLERS   ORDER   ROUTE           RULE      MATCH              BACKENDS                                    TIMEOUT   RETRIES   SOURCE
web    all           1   orders-canary   default   path prefix /      orders{stable} 90%, (BackendNotFound) 10%        2s         2   HTTPRoute gen 13 by k1
-      shop          1   orders-canary   moved     path prefix /old   RequestRedirect                                  2s         2   HTTPRoute gen 13 by k1
warning[ST0433]: HTTPRoute/orders-canary: nobody knows it   (/spec/rules/0/backendRefs/1)
";
    assert_eq!(routes::render(&table, Columns::Usual, None, &Look::plain()), want);
    let other = routes::render(&table, Columns::Wide, Some("shop"), &Look::plain());
    assert_eq!(other.lines().count(), 1, "{other}");
}

#[test]
fn the_built_in_route_is_one_row_and_several_services_are_named() {
    let one = routes::render(&routes(&json!([built_in("web")])), Columns::Usual, None, &Look::plain());
    let row = one.lines().nth(1).unwrap();
    assert_eq!(
        row.split("   ").map(str::trim).filter(|part| !part.is_empty()).collect::<Vec<_>>(),
        ["1", "(default)", "-", "everything", "web 100%", "15s", "0", "built in"]
    );
    let two = routes(&json!([built_in("db"), built_in("web")]));
    let text = routes::render(&two, Columns::Usual, None, &Look::plain());
    assert!(text.starts_with("SERVICE   ORDER   ROUTE"), "{text}");
}

#[test]
fn empty_lists_are_a_header_and_nothing_else() {
    let list: ServiceList = serde_json::from_value(envelope("ServiceList", json!({"items": []}))).unwrap();
    assert_eq!(services::list(&list, Columns::Usual, None, &Look::plain()).lines().count(), 1);
    let text = routes::render(&routes(&json!([])), Columns::Usual, None, &Look::plain());
    assert_eq!(text.lines().count(), 1);
}
