//! Sessions (GEP-1619) between real data planes: the cookie goes out, comes back, and moves when it must.

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use starling_model::Protocol;
use starling_routing::SessionKey;
use tokio::net::TcpStream;

use super::backend::{self, Answer, Backend, Client};
use super::*;

const ORDERS: &str = "orders.mesh.internal";

/// `orders` and `canary` on vm-2 and vm-3, behind a rule with these weights and sessions.
async fn mesh(orders: u32, canary: u32, more: &str) -> (Mesh, Backend, Backend) {
    let backends = (backend::http("orders").await, backend::http("canary").await);
    let mut mesh = Mesh::new(3);
    mesh.serve("vm-2", "orders-1", "orders", Protocol::Http, backends.0.address);
    mesh.serve("vm-3", "canary-1", "canary", Protocol::Http, backends.1.address);
    mesh.apply(&split(orders, canary, more));
    (mesh, backends.0, backends.1)
}

fn split(orders: u32, canary: u32, more: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: orders}}\nspec:\n  \
         parentRefs: [{{kind: Service, group: \"\", name: orders}}]\n  rules:\n  - sessionPersistence: {{sessionName: sid}}\n    \
         backendRefs: [{{name: orders, weight: {orders}}}, {{name: canary, weight: {canary}}}]\n{more}"
    )
}

/// `name=value` of the session that an answer sets, if it sets one.
fn set(answer: &Answer) -> Option<String> {
    let all = answer.headers.get_all("set-cookie").iter().map(|value| value.to_str().unwrap());
    let mut ours = all.filter(|value| value.starts_with("sid="));
    let one = ours.next()?;
    assert!(one.ends_with("; Path=/; HttpOnly") && ours.next().is_none(), "{answer:?}");
    Some(one.split(';').next().unwrap().to_owned())
}

async fn get(mesh: &Mesh, path: &str, cookie: &str) -> Answer {
    let mut request = Request::get(path).header("host", ORDERS);
    if !cookie.is_empty() {
        request = request.header("cookie", cookie);
    }
    Client::new(mesh.node("vm-1").http).await.send(request.body(Full::default()).unwrap()).await
}

/// A session that this backend serves.
async fn begin(mesh: &Mesh, backend: &str) -> String {
    for _ in 0..500 {
        let answer = get(mesh, "/", "").await;
        if answer.header("x-backend") == backend {
            return set(&answer).unwrap();
        }
    }
    panic!("{backend} took none of 500 requests");
}

#[tokio::test]
async fn a_client_comes_back_to_its_version_while_weights_move_away_from_it() {
    let (mut mesh, orders, canary) = mesh(90, 10, "").await;
    let cookie = begin(&mesh, "canary").await;
    for weights in [(90, 10), (100, 0), (0, 0)] {
        mesh.apply(&split(weights.0, weights.1, ""));
        for at in 0..20 {
            let answer = get(&mesh, &format!("/{at}"), &format!("theme=dark; {cookie}")).await;
            assert_eq!((answer.status, answer.header("x-backend"), set(&answer)), (200, "canary", None), "{weights:?}");
        }
    }
    assert_eq!(get(&mesh, "/", "").await.status, 500, "nobody new is let in");
    assert!(canary.requests() > 60 && orders.requests() < 500);
    // The application sees the cookie as the client sent it.
    let head = get(&mesh, "/head", &format!("theme=dark; {cookie}")).await.text();
    assert!(head.contains(&format!("cookie: theme=dark; {cookie}")), "{head}");
}

#[tokio::test]
async fn what_no_agent_gave_is_passed_over() {
    let (mesh, _orders, _canary) = mesh(100, 0, "").await;
    let cookie = begin(&mesh, "orders").await;
    let forged = cookie.replace("sid=01", "sid=02");
    let long = format!("sid={}", "0".repeat(8_000));
    for cookie in ["sid=", "sid=127.0.0.1:7740", "sid=vm-3/default/canary-1", &forged, &long, "sid=\u{7f}", ";;=;sid"] {
        let request = Request::get("/").header("host", ORDERS).header("cookie", cookie.replace('\u{7f}', "%7f"));
        let answer = Client::new(mesh.node("vm-1").http).await.send(request.body(Full::default()).unwrap()).await;
        assert_eq!((answer.status, answer.header("x-backend")), (200, "orders"), "{cookie}");
        assert!(set(&answer).is_some(), "{cookie}");
    }
}

#[tokio::test]
async fn an_endpoint_that_goes_is_left_once_and_the_new_one_kept() {
    let (mut mesh, _orders, _canary) = mesh(90, 10, "").await;
    let cookie = begin(&mesh, "canary").await;
    // Its agent is gone, and nobody has noticed: the try that fails moves the session.
    mesh.kill("vm-3");
    let mut moved = get(&mesh, "/", &cookie).await;
    // The canary's share is answered by the mesh itself as long as it has a weight, and such an answer begins no session.
    while moved.status == 503 {
        assert_eq!(set(&moved), None);
        moved = get(&mesh, "/", &cookie).await;
    }
    assert_eq!((moved.status, moved.header("x-backend")), (200, "orders"));
    let cookie = set(&moved).unwrap();
    for _ in 0..20 {
        let answer = get(&mesh, "/", &cookie).await;
        assert_eq!((answer.status, answer.header("x-backend"), set(&answer)), (200, "orders", None));
    }
}

#[tokio::test]
async fn agents_that_share_a_key_take_no_other_cookies() {
    let (mut mesh, _orders, _canary) = mesh(100, 0, "").await;
    let open = begin(&mesh, "orders").await;
    for node in ["vm-1", "vm-2"] {
        mesh.node(node).shared.seal_sessions(SessionKey::parse(&"5a".repeat(32)).unwrap());
    }
    mesh.apply(&split(0, 100, ""));
    let answer = get(&mesh, "/", &open).await;
    assert_eq!(answer.header("x-backend"), "canary", "what anybody could have made");
    let sealed = set(&answer).unwrap();
    mesh.apply(&split(100, 0, ""));
    let elsewhere = Request::get("/").header("host", ORDERS).header("cookie", &sealed).body(Full::default()).unwrap();
    let elsewhere = Client::new(mesh.node("vm-2").http).await.send(elsewhere).await;
    assert_eq!((elsewhere.header("x-backend"), set(&elsewhere)), ("canary", None));
    // An agent without the key is no worse than a stranger.
    let stranger = Request::get("/").header("host", ORDERS).header("cookie", &sealed).body(Full::default()).unwrap();
    let stranger = Client::new(mesh.node("vm-3").http).await.send(stranger).await;
    assert_eq!(stranger.header("x-backend"), "orders");
}

/// Two endpoints of one service, one of which takes no connections: the retry moves the session.
#[tokio::test]
async fn a_retry_moves_the_session_along() {
    let backends = [backend::http("one").await, backend::http("two").await];
    let mut mesh = Mesh::new(3);
    mesh.serve("vm-2", "orders-1", "orders", Protocol::Http, backends[0].address);
    mesh.serve("vm-3", "orders-2", "orders", Protocol::Http, backends[1].address);
    mesh.apply(
        "apiVersion: starling/v1\nkind: BackendTrafficPolicy\nmetadata: {name: a}\nspec:\n  \
         targetRefs: [{kind: Service, name: orders}]\n  sessionPersistence: {sessionName: sid}\n",
    );
    let cookie = begin(&mesh, "two").await;
    for _ in 0..10 {
        assert_eq!(get(&mesh, "/", &cookie).await.header("x-backend"), "two");
    }
    mesh.kill("vm-3");
    let moved = get(&mesh, "/", &cookie).await;
    assert_eq!((moved.status, moved.header("x-backend")), (200, "one"), "{moved:?}");
    let cookie = set(&moved).unwrap();
    for _ in 0..10 {
        let answer = get(&mesh, "/", &cookie).await;
        assert_eq!((answer.header("x-backend"), set(&answer)), ("one", None));
    }
}

#[tokio::test]
async fn an_application_s_own_cookies_stay_beside_it() {
    let filter = "    filters: [{type: ResponseHeaderModifier, responseHeaderModifier: {set: [{name: set-cookie, value: own=1}]}}]\n";
    let (mesh, _orders, _canary) = mesh(100, 0, filter).await;
    let answer = get(&mesh, "/", "").await;
    let all: Vec<&str> = answer.headers.get_all("set-cookie").iter().map(|value| value.to_str().unwrap()).collect();
    assert_eq!((all.len(), all[0]), (2, "own=1"), "{all:?}");
    assert!(set(&answer).is_some());
}

#[tokio::test]
async fn requests_of_http_2_keep_their_sessions_with_cookies_in_several_fields() {
    let (mut mesh, _orders, _canary) = mesh(0, 100, "").await;
    let stream = TcpStream::connect(mesh.node("vm-1").http).await.unwrap();
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(async move {
        let _ = connection.await;
    });
    let mut ask = async |cookies: &[&str]| {
        let request = Request::get(format!("http://{ORDERS}/"));
        let request = cookies.iter().fold(request, |request, cookie| request.header("cookie", *cookie));
        let (head, body) =
            sender.send_request(request.body(Full::<Bytes>::default()).unwrap()).await.unwrap().into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        Answer { status: head.status.as_u16(), headers: head.headers, body }
    };
    let cookie = set(&ask(&[]).await).unwrap();
    mesh.apply(&split(100, 0, ""));
    for _ in 0..10 {
        let answer = ask(&["a=1", &cookie, "b=2"]).await;
        assert_eq!((answer.header("x-backend"), set(&answer)), ("canary", None));
        assert_eq!(ask(&["a=1"]).await.header("x-backend"), "orders");
    }
}

/// Turns are taken by requests, from both data threads together.
#[tokio::test]
async fn endpoints_in_turn_get_the_same_number_of_requests() {
    let backends = [backend::http("one").await, backend::http("two").await, backend::http("three").await];
    let mut mesh = Mesh::new(2);
    for (at, backend) in backends.iter().enumerate() {
        mesh.serve("vm-2", &format!("orders-{at}"), "orders", Protocol::Http, backend.address);
    }
    mesh.apply("apiVersion: starling/v1\nkind: Service\nmetadata: {name: orders}\nspec: {loadBalancing: {policy: round-robin}}\n");
    let mut clients = Vec::new();
    for _ in 0..4 {
        clients.push(Client::new(mesh.node("vm-1").http).await);
    }
    for _ in 0..30 {
        for client in &mut clients {
            assert_eq!(client.get(ORDERS, "/").await.status, 200);
        }
    }
    assert_eq!(backends.each_ref().map(Backend::requests), [40, 40, 40]);
}
