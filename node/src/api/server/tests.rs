//! The doors as clients see them: a whole API over real sockets, with a fresh identity and an empty mesh.

use std::path::PathBuf;
use std::time::Instant;

use arc_swap::ArcSwap;
use starling_model::{BootEpoch, MemberState};
use starling_proxy::ProxyShared;
use starling_transport::quic::{AGE_MAX, GossipNet, KeepAlive, NetSettings, QuicKeys};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::super::guard::TcpRule;
use super::super::{ApiState, Shared, router};
use super::*;
use crate::crypto::wall_clock;
use crate::mesh_view::MeshView;
use crate::mesh_view::tests::member;
use crate::shutdown::Phase;
use crate::tasks::identity::tests::{config, shared_folder};
use crate::tasks::instances::{self, Instances};
use crate::tasks::{gossip, identity, own::OwnRecords, routes::RoutesInbox};
use crate::telemetry::metrics::{Metrics, Sources};

mod applied;
mod documents;
mod grants;

struct Fixture {
    folder: tempfile::TempDir,
    state: Shared,
    /// What handlers ask of the mesh; nobody answers unless a test does.
    mesh: Option<tokio::sync::mpsc::Receiver<gossip::MeshCommand>>,
    tcp: std::net::SocketAddr,
    closing: watch::Sender<bool>,
}

fn state(folder: &Path) -> (Shared, tokio::sync::mpsc::Receiver<gossip::MeshCommand>) {
    let config = config(folder, "vm-1");
    let identity = Arc::new(identity::load(&config).unwrap());
    let store = crate::store::open(&config.state, identity.node.mesh_id()).unwrap();
    let shared = Arc::new(ProxyShared::new(identity.current.clone(), wall_clock));
    let now = Instant::now();
    let mut view = MeshView::empty(identity.node.node().clone(), BootEpoch(7), now);
    view.members = vec![member("vm-1", MemberState::Alive, now), member("vm-2", MemberState::Suspect, now)];
    let view = Arc::new(ArcSwap::from_pointee(view));
    let (events, _) = tokio::sync::mpsc::channel(1);
    let (listen, mesh) = ("127.0.0.1:0".parse().unwrap(), identity.node.mesh_id());
    let keys = QuicKeys { reset: *identity.quic.reset, connection_ids: *identity.quic.connection_id };
    let settings = NetSettings { listen, keys, mesh, keep_alive: KeepAlive::ByProbes, age_max: AGE_MAX };
    let net = GossipNet::bind(settings, identity.current.clone(), wall_clock, events).unwrap();
    let sources = Sources {
        net,
        view: Arc::clone(&view),
        identity: Arc::clone(&identity),
        store: store.clone(),
        routes_inbox: RoutesInbox::default(),
        left_behind: Default::default(),
        access_log: Default::default(),
        routes: Arc::default(),
    };
    let local = instances::LocalViewCell::default();
    let health = crate::supervise::Health::default();
    let instances = Instances::load(instances::Context {
        folder: config.services_dir(),
        store: store.clone(),
        own: OwnRecords::default(),
        shared: Arc::clone(&shared),
        view: Arc::clone(&local),
        health: health.clone(),
    });
    let (commands, inbox) = tokio::sync::mpsc::channel(4);
    tokio::spawn(instances.run(inbox));
    let (mesh, asked) = crate::channel::Queue::<gossip::MeshCommand>::new("mesh", 1);
    let state = Arc::new(ApiState {
        metrics: Metrics::new(&shared.metrics, sources),
        identity,
        view,
        shared,
        ages: Arc::default(),
        local,
        lifecycle: crate::shutdown::Lifecycle::default(),
        mesh,
        instances: commands,
        store,
        health,
        listeners: super::super::views::Listeners::default(),
        domain: "mesh.internal".to_owned(),
        started: std::time::SystemTime::now(),
        events: crate::events::Events::new(BootEpoch(7)),
        followers: Default::default(),
        left_behind: Default::default(),
        bench: Default::default(),
        asker: Default::default(),
        operations: super::super::operations::Operations::default(),
    });
    (state, asked)
}

impl Fixture {
    async fn start() -> Self {
        let folder = shared_folder();
        let (state, mesh) = state(folder.path());
        let (closing, closed) = watch::channel(false);
        let guard = Guard { tcp: TcpRule::Read, hosts: Vec::new() };
        let server = Server::new(router(Arc::clone(&state)), guard, closed);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let tcp = listener.local_addr().unwrap();
        let socket = bind_socket(&folder.path().join("api.sock")).await.unwrap();
        tokio::spawn(server.clone().serve_tcp(listener));
        tokio::spawn(server.serve_socket(socket));
        Self { folder, state, mesh: Some(mesh), tcp, closing }
    }

    fn socket(&self) -> PathBuf {
        self.folder.path().join("api.sock")
    }

    /// Sends bytes over TCP and returns the whole answer.
    async fn tcp(&self, request: &str) -> String {
        exchange(TcpStream::connect(self.tcp).await.unwrap(), request).await
    }

    /// A request over the Unix socket; the body, if any, is JSON.
    async fn ask(&self, method: &str, path: &str, body: &str) -> (u16, serde_json::Value) {
        let kind = if body.is_empty() { "" } else { "content-type: application/json\r\n" };
        let len = body.len();
        let request = format!(
            "{method} {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n{kind}content-length: {len}\r\n\r\n{body}"
        );
        let answer = exchange(UnixStream::connect(self.socket()).await.unwrap(), &request).await;
        (status_of(&answer), serde_json::from_str(body_of(&answer)).unwrap_or_default())
    }
}

async fn exchange(mut stream: impl AsyncRead + AsyncWrite + Unpin, request: &str) -> String {
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    // A refused request may end in a reset; what came before counts.
    let _ = tokio::time::timeout(Duration::from_secs(10), stream.read_to_end(&mut answer)).await;
    String::from_utf8_lossy(&answer).into_owned()
}

fn status_of(answer: &str) -> u16 {
    answer.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(0)
}

fn body_of(answer: &str) -> &str {
    answer.split_once("\r\n\r\n").map_or("", |(_, body)| body)
}

fn get(path: &str, host: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_endpoint_answers_in_its_envelope_and_is_guarded() {
    let fixture = Fixture::start().await;
    for (path, kind) in [
        ("/v1/status", "Status"),
        ("/v1/members", "MemberList"),
        ("/v1/members/vm-2", "Member"),
        ("/v1/services", "ServiceList"),
        ("/v1/routes", "RouteTable"),
        ("/v1/instances", "InstanceList"),
        ("/v1/certs", "CertificateList"),
        ("/v1/events", "EventList"),
        ("/v1/config", "DocumentList"),
        ("/v1/config/convergence", "Convergence"),
        ("/v1/trust", "Trust"),
        ("/v1/snapshot", "Snapshot"),
    ] {
        let answer = fixture.tcp(&get(path, "127.0.0.1")).await;
        assert_eq!(status_of(&answer), 200, "{path}: {answer}");
        let value: serde_json::Value = serde_json::from_str(body_of(&answer)).unwrap();
        assert_eq!((&value["kind"], &value["apiVersion"]), (&kind.into(), &"starling/v1".into()), "{path}");
        assert_eq!((&value["view"]["node"], &value["view"]["bootEpoch"]), (&"vm-1".into(), &"7".into()), "{path}");
        for line in [
            "etag: W/\"7-",
            "x-content-type-options: nosniff",
            "x-frame-options: DENY",
            "cache-control: no-store",
            "content-security-policy: default-src 'self'",
        ] {
            assert!(answer.contains(line), "{path}: {line}: {answer}");
        }
        assert!(!answer.contains("access-control"), "{path}");
        assert_eq!(status_of(&fixture.tcp(&get(path, "evil.example")).await), 421, "{path}");
        assert_eq!(status_of(&fixture.tcp(&get(&format!("{path}?view=all"), "localhost")).await), 400, "{path}");
    }
    for path in ["/livez", "/live", "/metrics"] {
        assert_eq!(status_of(&fixture.tcp(&get(path, "localhost")).await), 200, "{path}");
        assert_eq!(status_of(&fixture.tcp(&get(path, "evil.example")).await), 421, "{path}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_question_is_answered_over_both_doors_and_one_that_is_none_is_refused() {
    let fixture = Fixture::start().await;
    let good = "/v1/explain?url=http://web.mesh.internal/&header=x-a:+1&header=x-b:2&method=POST&from=shop/cart&seed=7";
    let answer = fixture.tcp(&get(good, "localhost")).await;
    let told: serde_json::Value = serde_json::from_str(body_of(&answer)).unwrap();
    assert_eq!((&told["kind"], &told["decision"]), (&"Explanation".into(), &"refuse".into()), "{answer}");
    let headers = serde_json::json!(["x-a: 1", "x-b: 2"]);
    assert_eq!((&told["request"]["headers"], &told["outcomes"][0]["status"]), (&headers, &404.into()), "{answer}");
    for bad in [
        "",
        "?url=web",
        "?url=http://web.mesh.internal/&seed=x",
        "?url=http://a/&url=http://b/",
        "?live=true&url=http://a/",
    ] {
        let answer = fixture.tcp(&get(&format!("/v1/explain{bad}"), "localhost")).await;
        assert_eq!(status_of(&answer), 400, "{bad}: {answer}");
    }
    let body = r#"{"url": "http://web.mesh.internal/", "headers": ["x-a: 1"]}"#;
    let (status, told) = fixture.ask("POST", "/v1/explain", body).await;
    assert_eq!((status, &told["decision"]), (200, &"refuse".into()), "{told}");
    for bad in ["{}", "[]", r#"{"url": 5}"#, r#"{"url": "http://a/", "lives": true}"#] {
        assert_eq!(fixture.ask("POST", "/v1/explain", bad).await.0, 400, "{bad}");
    }
}

fn happened(fixture: &Fixture, node: &str, count: usize) {
    for _ in 0..count {
        let news = crate::events::News {
            kind: crate::events::Kind::Membership,
            node: node.to_owned(),
            subject: node.to_owned(),
            step: "suspected",
            what: "doubted".to_owned(),
            evidence: serde_json::Value::Null,
        };
        fixture.state.events.tell(news, std::time::SystemTime::now());
    }
}

/// Reads until `part` came, or fails.
async fn read_until(stream: &mut TcpStream, part: &str) -> String {
    let mut text = String::new();
    let mut buffer = [0; 4096];
    while !text.contains(part) {
        let len = tokio::time::timeout(Duration::from_secs(5), stream.read(&mut buffer)).await;
        let len = len.unwrap_or_else(|_| panic!("no {part:?} in {text:?}")).unwrap();
        assert!(len > 0, "ended without {part:?}: {text:?}");
        text.push_str(&String::from_utf8_lossy(&buffer[..len]));
    }
    text
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_come_in_pages_by_filters_and_say_what_is_gone() {
    let fixture = Fixture::start().await;
    happened(&fixture, "vm-2", 3);
    happened(&fixture, "vm-3", 2);
    let (status, page) = fixture.ask("GET", "/v1/events?limit=2&node=vm-2", "").await;
    assert_eq!((status, page["items"].as_array().unwrap().len()), (200, 2), "{page}");
    let cursor = page["next"].as_str().unwrap();
    let (_, page) = fixture.ask("GET", &format!("/v1/events?limit=2&node=vm-2&cursor={cursor}"), "").await;
    assert_eq!((page["items"][0]["id"].as_str(), page["next"].is_null()), (Some("7-3"), true), "{page}");
    let (_, page) = fixture.ask("GET", "/v1/events?since=2100-01-01T00:00:00Z", "").await;
    assert_eq!(page["items"], serde_json::json!([]));
    let (_, page) = fixture.ask("GET", "/v1/events?since=1m&kind=membership", "").await;
    assert_eq!(page["items"].as_array().unwrap().len(), 5);
    happened(&fixture, "vm-4", crate::events::EVENTS_MAX);
    let (_, page) = fixture.ask("GET", "/v1/events?limit=1&cursor=7-2", "").await;
    assert_eq!((page["dropped"].as_u64(), page["items"][0]["id"].as_str()), (Some(3), Some("7-6")), "{page}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_goes_on_where_its_reader_left_off_and_one_more_reader_is_turned_away() {
    let fixture = Fixture::start().await;
    happened(&fixture, "vm-2", 2);
    let ask = |more: &str| format!("GET /v1/events HTTP/1.1\r\nhost: localhost\r\n{more}\r\n");
    let mut readers = Vec::new();
    for at in 0..super::super::events::FOLLOWERS_MAX {
        let mut stream = TcpStream::connect(fixture.tcp).await.unwrap();
        let (request, first) = if at % 2 == 0 {
            (ask("accept: text/event-stream\r\nlast-event-id: 7-1\r\n"), "event: membership\nid: 7-2\ndata: {")
        } else {
            (ask("accept: application/x-ndjson\r\nlast-event-id: 7-1\r\n"), "\"id\":\"7-2\"")
        };
        stream.write_all(request.as_bytes()).await.unwrap();
        let text = read_until(&mut stream, first).await;
        assert!(!text.contains("7-1"), "{text}");
        readers.push(stream);
    }
    let turned = fixture.tcp(&ask("accept: text/event-stream\r\nconnection: close\r\n")).await;
    assert_eq!(status_of(&turned), 429, "{turned}");
    happened(&fixture, "vm-3", 1);
    for reader in &mut readers {
        read_until(reader, "7-3").await;
    }
    // Streams end when the agent drains, so they hold up no ordered end.
    fixture.state.lifecycle.advance(Phase::Draining);
    for reader in &mut readers {
        read_until(reader, "0\r\n\r\n").await;
    }
    // A reader that was away for longer than the ring remembers is told so.
    happened(&fixture, "vm-4", crate::events::EVENTS_MAX);
    let mut stream = TcpStream::connect(fixture.tcp).await.unwrap();
    stream.write_all(ask("accept: text/event-stream\r\nlast-event-id: 7-1\r\n").as_bytes()).await.unwrap();
    let text = read_until(&mut stream, "id: 7-4\n").await;
    assert!(text.contains("event: dropped\ndata: {\"dropped\":2}\n\n"), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unknown_things_are_problem_documents() {
    let fixture = Fixture::start().await;
    for (method, path, status, code) in [
        ("GET", "/v1/nothing", 404, "ST0306"),
        ("GET", "/v1/events?limit=0", 400, "ST0305"),
        ("GET", "/v1/events?limit=1001", 400, "ST0305"),
        ("GET", "/v1/events?kind=weather", 400, "ST0305"),
        ("GET", "/v1/events?since=yesterday", 400, "ST0305"),
        ("GET", "/v1/events?cursor=7", 400, "ST0305"),
        ("GET", "/v1/events?follow=maybe", 400, "ST0305"),
        ("GET", "/v1/members/Not_a_name/ping", 404, "ST0306"),
        ("GET", "/v1/members/vm-2/ping?count=11", 400, "ST0305"),
        ("GET", "/v1/members/vm-2/ping?size=1163", 400, "ST0305"),
        ("GET", "/v1/members/vm-2/ping?interval=3s", 400, "ST0305"),
        ("GET", "/v1/members/vm-77", 404, "ST0306"),
        ("GET", "/v1/members/%ff", 400, "ST0305"),
        ("GET", "/v1/services/default/none", 404, "ST0306"),
        ("GET", "/v1/services/Bad/none", 404, "ST0306"),
        ("GET", "/v1/instances/none", 404, "ST0306"),
        ("GET", "/v1/operations/leave-1", 404, "ST0306"),
        ("DELETE", "/v1/instances/none", 404, "ST0306"),
        ("DELETE", "/v1/status", 405, "ST0305"),
        ("POST", "/v1/members", 405, "ST0305"),
        ("POST", "/v1/leave?wait=soon", 400, "ST0305"),
        ("PUT", "/v1/instances/Not_a_name", 400, "ST0305"),
    ] {
        let (got, problem) = fixture.ask(method, path, "").await;
        assert_eq!((got, &problem["code"]), (status, &code.into()), "{method} {path}: {problem}");
        assert_eq!(problem["type"], format!("urn:starling:error:{code}"));
        assert_eq!(problem["status"], status);
        assert_eq!(problem["instance"], path.split('?').next().unwrap());
        assert!(!problem["help"].as_str().unwrap().is_empty());
    }
    let wrong = "DELETE /v1/status HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
    let answer = exchange(UnixStream::connect(fixture.socket()).await.unwrap(), wrong).await;
    assert!(answer.contains("allow: GET,HEAD") && answer.contains("allowed here: GET, HEAD"), "{answer}");
    let denied = fixture.tcp("POST /v1/leave HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").await;
    assert!(status_of(&denied) == 403 && denied.contains("ST0307"), "{denied}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readiness_follows_the_life_of_the_agent() {
    let fixture = Fixture::start().await;
    let ready = || fixture.tcp("GET /readyz?verbose HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
    let answer = ready().await;
    assert!(
        status_of(&answer) == 503 && answer.contains("retry-after: 1") && answer.contains("not ready:"),
        "{answer}"
    );
    fixture.state.lifecycle.advance(Phase::Ready);
    let answer = ready().await;
    assert!(status_of(&answer) == 200 && answer.ends_with("ok\n"), "{answer}");
    fixture.state.lifecycle.advance(Phase::Draining);
    assert_eq!(status_of(&ready().await), 503);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_instance_is_announced_changed_and_withdrawn() {
    let fixture = Fixture::start().await;
    let web = r#"{"service": "web", "protocol": "http", "address": "127.0.0.1:8080", "labels": {"version": "v1"}}"#;
    let (status, instance) = fixture.ask("PUT", "/v1/instances/web-1", web).await;
    assert_eq!(
        (status, &instance["durable"], &instance["health"]),
        (200, &true.into(), &"healthy".into()),
        "{instance}"
    );
    assert_eq!(instance["source"]["kind"], "api");
    let (_, list) = fixture.ask("GET", "/v1/instances", "").await;
    assert_eq!((list["items"].as_array().unwrap().len(), &list["items"][0]["service"]), (1, &"web".into()));
    for (bad, word) in [
        ("{", "EOF"),
        (r#"{"service": "web"}"#, "missing field"),
        (r#"{"service": "web", "protocol": "http", "address": "127.0.0.1:1", "wieght": 1}"#, "wieght"),
        (r#"{"service": "web", "protocol": "http", "address": "127.0.0.1:1", "name": "other"}"#, "other"),
        (r#"{"service": "web", "protocol": "http", "address": "127.0.0.1:1", "weight": 1000001}"#, "weight"),
    ] {
        let (status, problem) = fixture.ask("PUT", "/v1/instances/web-1", bad).await;
        let detail = problem["detail"].as_str().unwrap_or_default();
        assert!(status == 400 && detail.contains(word), "{bad}: {problem}");
    }
    let (status, gone) = fixture.ask("DELETE", "/v1/instances/web-1", "").await;
    assert_eq!((status, &gone["name"]), (200, &"web-1".into()));
    assert_eq!(fixture.ask("GET", "/v1/instances/web-1", "").await.0, 404);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_holds_its_name_against_the_api() {
    let fixture = Fixture::start().await;
    let services = fixture.folder.path().join("services.d");
    std::fs::create_dir(&services).unwrap();
    let text = "[[instance]]\nservice = \"web\"\nprotocol = \"tcp\"\naddress = \"127.0.0.1:9\"\n";
    crate::files::replace(&services.join("web.toml"), text.as_bytes(), 0o644).unwrap();
    let deadline = Instant::now() + Duration::from_secs(8);
    while fixture.state.local.load().get("web").is_none() {
        assert!(Instant::now() < deadline, "the folder is watched");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let web = r#"{"service": "web", "protocol": "http", "address": "127.0.0.1:8080"}"#;
    let (status, problem) = fixture.ask("PUT", "/v1/instances/web", web).await;
    assert!(status == 409 && problem["detail"].as_str().unwrap().contains("web.toml"), "{problem}");
    assert_eq!(fixture.ask("DELETE", "/v1/instances/web", "").await.0, 409);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_and_oversize_are_answered_or_cut_and_harm_nobody() {
    let fixture = Fixture::start().await;
    for garbage in ["\x16\x03\x01\x02\0\x01\0", "GET\r\n\r\n", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "\0\0\0\0\r\n\r\n"] {
        let answer = fixture.tcp(garbage).await;
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4"), "{garbage:?}: {answer}");
    }
    let long = format!("GET /{} HTTP/1.1\r\nhost: localhost\r\n\r\n", "a".repeat(HEAD_BYTES_MAX + 1_000));
    let answer = fixture.tcp(&long).await;
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4"), "{answer}");
    let over = BODY_BYTES_MAX + 1;
    let request = format!(
        "PUT /v1/instances/a HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length: {over}\r\n\r\n"
    );
    let answer = exchange(UnixStream::connect(fixture.socket()).await.unwrap(), &request).await;
    assert!(status_of(&answer) == 413 && answer.contains("ST0308"), "{answer}");
    let chunked = format!(
        "PUT /v1/instances/a HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n{over:x}\r\n{}\r\n0\r\n\r\n",
        " ".repeat(over)
    );
    let answer = exchange(UnixStream::connect(fixture.socket()).await.unwrap(), &chunked).await;
    assert_eq!(status_of(&answer), 413, "{answer}");
    assert_eq!(status_of(&fixture.tcp(&get("/livez", "localhost")).await), 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_end_with_the_agent_and_silent_ones_are_cut() {
    let fixture = Fixture::start().await;
    let mut idle = TcpStream::connect(fixture.tcp).await.unwrap();
    idle.write_all(b"GET /livez HT").await.unwrap();
    let mut rest = Vec::new();
    let cut = tokio::time::timeout(Duration::from_secs(8), idle.read_to_end(&mut rest)).await;
    assert!(cut.is_ok(), "a head that does not come is not waited for");
    let mut kept = TcpStream::connect(fixture.tcp).await.unwrap();
    kept.write_all(b"GET /livez HTTP/1.1\r\nhost: localhost\r\n\r\n").await.unwrap();
    let mut buffer = [0; 512];
    assert!(kept.read(&mut buffer).await.unwrap() > 0);
    fixture.closing.send_replace(true);
    let closed = tokio::time::timeout(Duration::from_secs(2), kept.read(&mut buffer)).await;
    assert_eq!(closed.unwrap().unwrap_or(0), 0, "kept connections are closed at the end");
}

#[tokio::test]
async fn a_stale_socket_is_replaced_and_a_live_one_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("api.sock");
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    assert!(path.exists(), "the file outlives its process");
    let live = bind_socket(&path).await.unwrap();
    let mode = std::fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, SOCKET_MODE);
    let taken = bind_socket(&path).await.unwrap_err();
    assert!(taken.to_string().contains("another process answers"), "{taken}");
    drop(live);
    std::fs::remove_file(&path).unwrap();
    std::fs::write(&path, b"precious").unwrap();
    assert!(bind_socket(&path).await.is_err());
    assert_eq!(std::fs::read(&path).unwrap(), b"precious", "a file that is no socket is left alone");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn loopback_tcp_filled_by_anybody_does_not_lock_out_the_socket() {
    let fixture = Fixture::start().await;
    let mut held = Vec::new();
    for _ in 0..TCP_CONNECTIONS_MAX + 2 {
        let mut stream = TcpStream::connect(fixture.tcp).await.unwrap();
        stream.write_all(b"GET /v1/status HTTP/1.1\r\nhost: localhost\r\n").await.unwrap();
        held.push(stream);
    }
    let asked = Instant::now();
    assert_eq!(fixture.ask("GET", "/v1/status", "").await.0, 200);
    assert!(asked.elapsed() < HEAD_DEADLINE / 2, "it waited {:?} for the others", asked.elapsed());
}
