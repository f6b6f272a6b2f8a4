//! Rules beyond shares, with three real agents: testers by header, copies, rewrites and redirects, as the manual writes them.

use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::agent::{Mesh, eventually, three};
use crate::apply::Desk;
use crate::http::{Backend, Client, Load};

const ROUTE: &str = "apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: orders}
spec:
  parentRefs: [{group: \"\", kind: Service, name: orders}]
  rules:
    - name: testers
      matches: [{headers: [{name: x-user-group, value: testers}]}]
      backendRefs: [{name: orders-next}]
    - name: moved
      matches: [{path: {type: PathPrefix, value: /old}}]
      filters:
        - type: RequestRedirect
          requestRedirect: {scheme: https, hostname: shop.example, path: {type: ReplacePrefixMatch, replacePrefixMatch: /new}, statusCode: 301}
    - name: api
      matches: [{path: {type: PathPrefix, value: /api/v2}}]
      filters:
        - type: URLRewrite
          urlRewrite: {hostname: orders.internal, path: {type: ReplacePrefixMatch, replacePrefixMatch: /v2}}
        - type: RequestHeaderModifier
          requestHeaderModifier: {set: [{name: x-via, value: mesh}], remove: [x-secret]}
        - type: ResponseHeaderModifier
          responseHeaderModifier: {add: [{name: x-served-by, value: orders}]}
      backendRefs: [{name: orders}]
    - name: default
      filters:
        - type: RequestMirror
          requestMirror: {backendRef: {name: orders-shadow}}
      backendRefs: [{name: orders}]
";

#[test]
fn testers_copies_rewrites_and_redirects_do_what_the_manual_says() {
    let mesh = Mesh::new(110);
    let alice = Desk::of(&mesh, "alice");
    let hosts = three(&mesh, "lan", |_| String::new());
    let backends = [("orders", 1), ("orders-next", 2), ("orders-shadow", 3)].map(|(service, host)| {
        let backend = Backend::start(&format!("127.110.0.{host}:0"), service);
        hosts[host - 1].announce(service, service, "http", backend.address, "");
        backend
    });
    let served = |at: usize| backends[at].served.load(Ordering::Relaxed);
    alice.write("orders.yaml", ROUTE);
    let (exit, out, error) = alice.signed(&hosts[1], &["apply", "-f", "orders.yaml", "--wait"]);
    assert_eq!(exit, 0, "{out}{error}");
    let ask = |path: &str, headers: &str| {
        let request = format!("GET {path} HTTP/1.1\r\nhost: orders.mesh.internal\r\n{headers}\r\n");
        Client::connect(hosts[2].at(7780)).unwrap().raw(request.as_bytes()).unwrap()
    };
    eventually("the route and all services are in use", Duration::from_secs(10), || {
        let moved = ask("/old", "").status == 301;
        let [next, plain] = ["x-user-group: testers\r\n", ""].map(|headers| ask("/", headers).status);
        (moved && (next, plain) == (200, 200) && served(2) > 0).then_some(())
    });

    for _ in 0..20 {
        assert!(ask("/", "x-user-group: testers\r\n").body.starts_with("orders-next\n"));
        assert!(ask("/", "x-user-group: other\r\n").body.starts_with("orders\n"));
    }
    let moved = ask("/old/cart?id=7", "");
    assert_eq!((moved.status, moved.header("location")), (301, Some("https://shop.example/new/cart?id=7")));
    let api = ask("/api/v2/items?x=1", "x-secret: s\r\n");
    let head: Vec<&str> = api.body.lines().collect();
    assert_eq!(head[..2], ["orders", "GET /v2/items?x=1 HTTP/1.1"], "{api:?}");
    assert!(head.contains(&"host: orders.internal") && head.contains(&"x-via: mesh"), "{api:?}");
    assert!(!api.body.contains("x-secret") && api.header("x-served-by") == Some("orders"), "{api:?}");

    // Each request of the last rule is copied once, also when the copies are not answered any more.
    let (before, shadow) = (served(0), served(2));
    for _ in 0..200 {
        assert_eq!(ask("/", "").status, 200);
    }
    eventually("200 copies", Duration::from_secs(5), || (served(2) - shadow >= 200).then_some(()));
    assert_eq!((served(0) - before, served(2) - shadow), (200, 200));
    let load = Load::start(hosts[2].at(7780), "orders.mesh.internal", 4, Duration::from_millis(1));
    std::thread::sleep(Duration::from_millis(500));
    drop(backends.into_iter().last());
    std::thread::sleep(Duration::from_millis(1_500));
    let report = load.finish();
    assert!(report.samples.len() > 500 && report.failures().is_empty(), "{:?}", report.failures());
}
