//! Rules of traffic documents, as they hold for requests between two data planes.

use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use starling_model::Protocol;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::backend::{self, Answer, Backend, Client};
use super::*;

const ORDERS: &str = "orders.mesh.internal";

/// `orders` and `canary` on vm-2, `web` on vm-1.
async fn mesh(rules: &str) -> (Mesh, Backend, Backend) {
    let (orders, canary) = (backend::http("orders").await, backend::http("canary").await);
    let mut mesh = Mesh::new(2);
    mesh.serve("vm-2", "orders-1", "orders", Protocol::Http, orders.address);
    mesh.serve("vm-2", "canary-1", "canary", Protocol::Http, canary.address);
    let lines: Vec<String> = rules.lines().map(|line| format!("    {line}\n")).collect();
    mesh.apply(&format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: orders}}\nspec:\n  \
         parentRefs: [{{kind: Service, group: \"\", name: orders}}]\n  rules:\n{}",
        lines.concat()
    ));
    (mesh, orders, canary)
}

async fn get(mesh: &Mesh, path: &str, headers: &[(&str, &str)]) -> Answer {
    send(mesh, "GET", path, headers, Bytes::new()).await
}

async fn send(mesh: &Mesh, method: &str, path: &str, headers: &[(&str, &str)], body: Bytes) -> Answer {
    let mut request = Request::builder().method(method).uri(path).header("host", ORDERS);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    Client::new(mesh.node("vm-1").http).await.send(request.body(Full::new(body)).unwrap()).await
}

#[tokio::test]
async fn shares_headers_and_what_no_rule_takes() {
    let rules = "- matches: [{headers: [{name: x-canary, value: always}]}]\n  backendRefs: [{name: canary}]\n\
                 - matches: [{path: {value: /shop}}]\n  backendRefs: [{name: orders, weight: 90}, {name: canary, weight: 10}]\n\
                 - matches: [{path: {value: /gone}}]\n  backendRefs: [{name: nobody}]\n";
    let (mesh, orders, canary) = mesh(rules).await;
    assert_eq!(get(&mesh, "/else", &[("x-canary", "always")]).await.header("x-backend"), "canary");
    let mut client = Client::new(mesh.node("vm-1").http).await;
    for _ in 0..1_000 {
        assert_eq!(client.get(ORDERS, "/shop/cart").await.status, 200);
    }
    // Four deviations of a binomial with 1,000 draws of a tenth are 38.
    assert!((62..=139).contains(&canary.requests()), "{}", canary.requests());
    assert_eq!(orders.requests() + canary.requests(), 1_001);
    let refused = get(&mesh, "/else", &[]).await;
    assert_eq!(refused.status, 404);
    assert!(refused.header("proxy-status").contains("error=destination_not_found"), "{refused:?}");
    let invalid = get(&mesh, "/gone", &[]).await;
    assert_eq!(invalid.status, 500);
    let status = invalid.header("proxy-status").to_owned();
    assert!(status.contains("error=proxy_configuration_error") && status.contains("rule 2"), "{status}");
}

#[tokio::test]
async fn filters_change_what_goes_there_and_what_comes_back() {
    let rules = "- matches: [{path: {value: /old}}]\n  filters:\n  \
                 - type: RequestHeaderModifier\n    requestHeaderModifier: {set: [{name: x-set, value: new}], add: [{name: x-add, value: two}], remove: [x-gone]}\n  \
                 - type: ResponseHeaderModifier\n    responseHeaderModifier: {set: [{name: x-back, value: \"1\"}], remove: [x-backend]}\n  \
                 - type: URLRewrite\n    urlRewrite: {hostname: other.example, path: {type: ReplacePrefixMatch, replacePrefixMatch: /}}\n  \
                 backendRefs: [{name: orders}]\n";
    let (mesh, _orders, _canary) = mesh(rules).await;
    for _ in 0..2 {
        let answer = get(&mesh, "/old/head?x=1", &[("x-set", "old"), ("x-add", "one"), ("x-gone", "1")]).await;
        // The path of the backend that shows the head is `/head`.
        assert_eq!((answer.status, answer.header("x-back")), (200, "1"));
        assert!(answer.headers.get("x-backend").is_none());
        let head = answer.text();
        for line in ["GET /head?x=1 HTTP/1.1", "host: other.example", "x-set: new", "x-add: one, two"] {
            assert!(head.lines().any(|one| one == line), "{line} is not in {head}");
        }
        assert!(!head.contains("x-gone"), "{head}");
    }
}

#[tokio::test]
async fn a_rule_answers_redirects_and_preflights_itself() {
    let rules = "- matches: [{path: {value: /old}}]\n  filters: [{type: RequestRedirect, requestRedirect: {scheme: https, path: {type: ReplacePrefixMatch, replacePrefixMatch: /new}, statusCode: 301}}]\n\
                 - matches: [{path: {value: /api}}]\n  filters: [{type: CORS, cors: {allowOrigins: [\"https://shop.example\"], allowMethods: [PUT]}}]\n  backendRefs: [{name: orders}]\n";
    let (mesh, orders, _canary) = mesh(rules).await;
    let moved = get(&mesh, "/old/x?y=1", &[]).await;
    assert_eq!((moved.status, moved.header("location")), (301, "https://orders.mesh.internal/new/x?y=1"));
    let by = moved.header("proxy-status");
    assert!(
        by.starts_with("starling-vm-1; details=\"HTTPRoute default/")
            && by.ends_with(&format!(" config={}\"", mesh.documents.digest())),
        "{by}"
    );
    let origin = ("origin", "https://shop.example");
    let asked = [origin, ("access-control-request-method", "PUT")];
    let preflight = send(&mesh, "OPTIONS", "/api", &asked, Bytes::new()).await;
    assert_eq!((preflight.status, preflight.header("access-control-allow-origin")), (204, "https://shop.example"));
    assert_eq!(orders.requests(), 0);
    let answer = get(&mesh, "/api", &[origin]).await;
    assert_eq!((answer.status, answer.header("access-control-allow-origin")), (200, "https://shop.example"));
    assert!(
        get(&mesh, "/api", &[("origin", "https://evil.example")])
            .await
            .headers
            .get("access-control-allow-origin")
            .is_none()
    );
}

#[tokio::test]
async fn listed_statuses_are_tried_again_as_often_as_the_rule_says() {
    let rules = "- matches: [{path: {value: /teapot}}]\n  retry: {attempts: 3, codes: [418], backoff: 1ms}\n  backendRefs: [{name: orders}]\n\
                 - backendRefs: [{name: canary}]\n";
    let (mesh, orders, canary) = mesh(rules).await;
    let answer = send(&mesh, "POST", "/teapot", &[], Bytes::from_static(b"x")).await;
    assert_eq!((answer.status, orders.requests()), (418, 4), "the last status comes back");
    assert_eq!((get(&mesh, "/else", &[]).await.status, canary.requests()), (200, 1));
}

#[tokio::test]
async fn deadlines_of_a_rule_are_kept() {
    let rules = "- matches: [{path: {value: /hang}}]\n  timeouts: {request: 200ms}\n  backendRefs: [{name: orders}]\n\
                 - timeouts: {request: 2s, backendRequest: 100ms}\n  backendRefs: [{name: canary}]\n  \
                 filters: [{type: URLRewrite, urlRewrite: {path: {type: ReplaceFullPath, replaceFullPath: /hang}}}]\n";
    let (mesh, orders, canary) = mesh(rules).await;
    for (path, least, most) in [("/hang", 200, 1_000), ("/else", 100, 1_000)] {
        let began = Instant::now();
        let answer = get(&mesh, path, &[]).await;
        let took = began.elapsed();
        assert_eq!(answer.status, 504, "{answer:?}");
        assert!(took >= Duration::from_millis(least) && took < Duration::from_millis(most), "{path}: {took:?}");
    }
    assert_eq!((orders.requests(), canary.requests()), (1, 1));
}

/// A client that asks and then reads nothing holds its endpoint no longer than the rule allows.
#[tokio::test]
async fn a_deadline_is_kept_where_the_client_does_not_read() {
    let rules = "- matches: [{path: {value: /flood}}]\n  timeouts: {request: 400ms}\n  backendRefs: [{name: orders}]\n\
                 - backendRefs: [{name: orders}]\n";
    let (mesh, orders, _canary) = mesh(rules).await;
    let ended = |protocol: &str| {
        let of =
            format!("protocol=\"{protocol}\",status_code=\"200\",grpc_status=\"\",error=\"http_response_timeout\"");
        scrape(mesh.node("vm-1")).lines().any(|line| line.contains(&of))
    };
    let began = Instant::now();
    let mut silent = tokio::net::TcpStream::connect(mesh.node("vm-1").http).await.unwrap();
    silent.write_all(format!("GET /flood HTTP/1.1\r\nhost: {ORDERS}\r\n\r\n").as_bytes()).await.unwrap();
    eventually("an answer over HTTP/1 ends", || ended("http1")).await;
    assert!(began.elapsed() >= Duration::from_millis(400), "{:?}", began.elapsed());

    let mut sender = http2::http2(mesh.node("vm-1").http).await;
    let asked = sender.send_request(http2::get("/flood").body(Full::default()).unwrap()).await.unwrap();
    assert_eq!(asked.status(), 200);
    eventually("an answer over HTTP/2 ends", || ended("http2")).await;
    assert_eq!(orders.requests(), 2);
    // Only that stream ended.
    assert_eq!(http2::send(&mut sender, http2::get("/big").body(Full::default()).unwrap()).await.2.len(), 1_000_000);
    drop((asked, silent));
}

#[tokio::test]
async fn copies_reach_the_mirror_with_their_bodies_and_nobody_notices() {
    let rules = "- filters: [{type: RequestMirror, requestMirror: {backendRef: {name: canary}}}]\n  backendRefs: [{name: orders}]\n";
    let (mesh, orders, canary) = mesh(rules).await;
    for at in 0..20 {
        let answer = send(&mesh, "POST", "/", &[], Bytes::from(format!("body {at}"))).await;
        assert_eq!((answer.status, answer.text()), (200, format!("body {at}")));
        assert_eq!(answer.header("x-backend"), "orders");
    }
    eventually("twenty copies", || canary.requests() == 20).await;
    assert_eq!(orders.requests(), 20);
}

#[tokio::test]
async fn a_post_whose_connection_broke_behind_the_other_agent_does_not_run_twice() {
    let rules = "- retry: {attempts: 3, codes: [503], backoff: 1ms}\n  backendRefs: [{name: orders}]\n";
    let (mesh, orders, _canary) = mesh(rules).await;
    let answer = send(&mesh, "POST", "/drop", &[], Bytes::from_static(b"order")).await;
    assert_eq!((answer.status, orders.requests()), (503, 1), "{answer:?}");
    assert_eq!((get(&mesh, "/drop", &[]).await.status, orders.requests()), (503, 5), "a GET is harmless");
}

#[tokio::test]
async fn a_chunked_body_is_copied_too() {
    let rules = "- filters: [{type: RequestMirror, requestMirror: {backendRef: {name: canary}}}]\n  backendRefs: [{name: orders}]\n";
    let (mesh, orders, canary) = mesh(rules).await;
    let request = format!(
        "POST / HTTP/1.1\r\nHost: {ORDERS}\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"
    );
    assert!(backend::raw(mesh.node("vm-1").http, request.as_bytes()).await.ends_with("hello"));
    eventually("one copy", || canary.requests() == 1).await;
    assert_eq!(orders.requests(), 1);
}

#[tokio::test]
async fn a_tcp_route_sends_connections_where_it_says() {
    let (echo, other) = (backend::reverser().await, backend::reverser().await);
    let mut mesh = Mesh::new(2);
    mesh.serve("vm-2", "echo-1", "echo", Protocol::Tcp, echo.address);
    mesh.serve("vm-2", "other-1", "other", Protocol::Tcp, other.address);
    // It answers once the other side has said all.
    let reversed = |entrance: SocketAddr| async move {
        let mut stream = tokio::net::TcpStream::connect(entrance).await.unwrap();
        stream.write_all(b"abc").await.unwrap();
        stream.shutdown().await.unwrap();
        let mut all = String::new();
        stream.read_to_string(&mut all).await.unwrap();
        all
    };
    assert_eq!(reversed(mesh.node("vm-1").echo).await, "cba");
    assert_eq!((echo.requests(), other.requests()), (1, 0), "without a route to the service itself");
    mesh.apply(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: TCPRoute\nmetadata: {name: echo}\nspec:\n  \
         parentRefs: [{kind: Service, name: echo}]\n  rules: [{backendRefs: [{name: other}]}]\n",
    );
    assert_eq!(reversed(mesh.node("vm-1").echo).await, "cba");
    assert_eq!((echo.requests(), other.requests()), (1, 1));
}
