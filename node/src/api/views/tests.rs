//! Goldens: the shapes of the API as documented.

use serde_json::{Value, json};

use super::*;

/// Reads a documented shape and writes it again: nothing may be lost, renamed or added.
fn check<T: Serialize + for<'de> Deserialize<'de>>(documented: Value) {
    let read: T = serde_json::from_value(documented.clone()).unwrap();
    let expected = documented;
    assert_eq!(serde_json::to_value(&read).unwrap(), expected);
}

fn view() -> Value {
    json!({"node": "vm-1", "bootEpoch": "1795014041", "revision": 118, "asOf": "2026-11-22T15:31:59.120Z",
           "digest": "9f2c41d0",
           "agreement": {"alive": 3, "same": 2, "behind": ["vm-3"], "behindCount": 1}})
}

#[test]
fn the_envelope_has_its_kind_and_view_beside_the_things_own_fields() {
    check::<Envelope<Items<String>>>(
        json!({"apiVersion": "starling/v1", "kind": "MemberList", "items": [], "view": view()}),
    );
    let one = Envelope::new(kind::SERVICE, View::default(), ServiceRef { namespace: "a".into(), name: "b".into() });
    let value = serde_json::to_value(&one).unwrap();
    assert_eq!(
        (&value["kind"], &value["name"], &value["apiVersion"]),
        (&json!("Service"), &json!("b"), &json!("starling/v1"))
    );
}

#[test]
fn members_are_as_documented() {
    check::<Member>(json!({
        "name": "vm-2", "address": "10.0.0.12:7740", "state": "alive", "bootEpoch": "1795014117", "incarnation": 3,
        "since": "2026-11-19T11:02:00Z", "lastSeen": "2026-11-22T15:31:58Z", "self": false,
        "rtt": {"ms": 0.41, "jitterMs": 0.05}, "version": "0.1.0", "protocol": {"min": 1, "max": 1},
        "labels": {"zone": "a"}, "services": [{"namespace": "default", "name": "orders"}],
        "config": {"documents": 4, "digest": "9f2c41d0"},
        "trust": {"bundleSequence": 1, "sharedIssuer": false}, "suspicion": null,
        "certificate": {"spiffeId": "spiffe://prod.internal/node/vm-2", "notAfter": "2027-11-18T00:00:00Z",
                        "leafNotAfter": "2026-11-23T13:30:00Z", "root": "b7e103c8", "keyExchange": "X25519MLKEM768"}}));
}

#[test]
fn services_are_as_documented() {
    check::<Service>(json!({
        "namespace": "default", "name": "orders", "hostname": "orders.mesh.internal", "vip": "127.77.184.9",
        "ports": [{"name": "http", "port": 80, "protocol": "http"}],
        "endpoints": [{"id": "vm-3/default/orders-v2", "node": "vm-3", "instance": "orders-v2", "port": "http",
            "protocol": "http", "labels": {"version": "v2"}, "subsets": ["canary"], "health": "ejected",
            "reason": {"code": "consecutive_5xx", "detail": "5 of 5", "until": "2026-11-22T15:32:19Z"},
            "weight": 100, "share": 0.0, "inFlight": 0, "latencyEwmaMs": null, "since": "2026-11-22T15:31:19Z"}],
        "routes": ["orders-canary"],
        "traffic": {"window": "1m", "rps": 42.0, "requests": 2520, "successRate": 0.9964, "p50Ms": 3.0, "p95Ms": 9.0,
                    "p99Ms": 18.0}}));
}

#[test]
fn routes_instances_and_certificates_keep_their_shape() {
    check::<RouteRow>(json!({
        "service": {"namespace": "default", "name": "web"}, "port": null, "callers": null, "order": 1, "route": null,
        "rule": null, "match": "everything", "filters": [],
        "backends": [{"namespace": "default", "name": "web", "subset": null, "share": 1.0, "invalid": null}],
        "timeout": "15s", "retries": 2, "source": {"kind": "built in", "generation": null, "keyId": null}}));
    check::<DocumentProblem>(json!({
        "documentKind": "HTTPRoute", "namespace": "default", "name": "orders", "code": "ST0433",
        "reason": "BackendNotFound", "pointer": "/spec/rules/0/backendRefs/0", "detail": "nobody knows it"}));
    check::<Instance>(json!({
        "name": "orders-v2", "namespace": "default", "service": "orders", "port": "http", "protocol": "http",
        "address": "127.0.0.1:8080", "labels": {"version": "v2"}, "weight": 100, "health": "unhealthy",
        "reason": {"code": "health_check", "detail": "status 503", "until": null},
        "check": {"kind": "http", "path": "/healthz", "interval": "5s", "timeout": "1s", "unhealthy": 3, "healthy": 2},
        "source": {"kind": "file", "path": "/etc/starling/services.d/orders.toml"}}));
    check::<Certificate>(json!({
        "what": "node CA", "subject": "vm-2.node.prod.internal", "spiffeId": null, "serial": "7f31",
        "notBefore": "2026-11-18T00:00:00Z", "notAfter": "2027-11-18T00:00:00Z", "key": "P-256"}));
    check::<Operation>(json!({
        "id": "leave-1", "verb": "leave", "state": "done", "startedAt": "2026-11-22T15:31:57.301Z",
        "finishedAt": "2026-11-22T15:31:58.301Z", "detail": null, "acknowledged": 2, "withdrawn": ["default/orders"],
        "problem": null}));
}

#[test]
fn problems_are_rfc_9457() {
    check::<Problem>(json!({
        "type": "urn:starling:error:ST0305", "title": "the request is malformed", "status": 400, "code": "ST0305",
        "detail": "unknown field `wieght`", "instance": "/v1/instances/orders", "help": "see the detail",
        "errors": [{"pointer": "#/health/http", "line": 16, "column": 11, "detail": "unknown field"}]}));
    check::<Problem>(json!({
        "type": "urn:starling:error:ST0306", "title": "no such thing", "status": 404, "code": "ST0306",
        "detail": "vm-1 knows no member \"x\"", "instance": "/v1/members/x", "help": "look"}));
}

#[test]
fn unknown_fields_of_a_newer_agent_are_ignored_but_a_request_is_read_strictly() {
    let newer = json!({"namespace": "default", "name": "web", "later": true});
    assert!(serde_json::from_value::<ServiceRef>(newer).is_ok());
    assert!(serde_json::from_value::<JoinRequest>(json!({"seeds": [], "sedes": []})).is_err());
}
