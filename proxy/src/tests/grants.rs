//! Whom a caller counts as, and who gets traffic, by what operators granted.

use std::os::unix::fs::MetadataExt as _;
use std::sync::atomic::{AtomicBool, Ordering};

use starling_transport::data::{AGE_MAX, DataClient};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::backend::{self, Client};
use super::*;
use crate::Process;
use crate::header::{Carry, OpenHeader};

const ORDERS: &str = "orders.mesh.internal";
const WEB: &str = "URI=spiffe://prod.internal/node/vm-1/ns/default/svc/web";
const BARE: &str = "URI=spiffe://prod.internal/node/vm-1";

fn grant(node: &str, service: &str) -> String {
    format!(
        "---\napiVersion: starling/v1\nkind: ServiceGrant\nmetadata: {{name: {service}}}\nspec: {{nodes: [{{node: \"{node}\"}}], services: [{{service: {service}}}]}}\n"
    )
}

/// What the instance is told of its caller.
fn told(head: &str) -> String {
    let line = head.lines().find_map(|line| line.strip_prefix("x-forwarded-client-cert: "));
    line.unwrap_or_else(|| panic!("{head}")).split_once(';').unwrap().1.to_owned()
}

async fn caller(client: &mut Client) -> String {
    let answer = client.get(ORDERS, "/head").await;
    assert_eq!(answer.status, 200);
    told(&answer.text())
}

/// The receiver decides, for each request anew, on a stream that stays open.
#[tokio::test]
async fn a_source_that_is_not_granted_counts_as_the_bare_node() {
    let orders = backend::http("orders").await;
    let mut mesh = Mesh::new(2);
    mesh.serve("vm-2", "orders-1", "orders", Protocol::Http, orders.address);
    let mut client = Client::new(mesh.node("vm-1").orders).await;
    assert_eq!(caller(&mut client).await, WEB, "no grant names it: Open accepts it");
    mesh.apply(&grant("vm-2", "web"));
    assert_eq!(caller(&mut client).await, BARE, "granted to another node");
    mesh.apply(&grant("vm-1", "web"));
    assert_eq!(caller(&mut client).await, WEB);
    mesh.apply(&grant("vm-*", "web"));
    assert_eq!(caller(&mut client).await, WEB);
    let strict =
        "---\napiVersion: starling/v1\nkind: MeshConfig\nmetadata: {name: mesh}\nspec: {serviceGrants: Strict}\n";
    mesh.apply(&(strict.to_owned() + &grant("vm-2", "orders")));
    assert_eq!(caller(&mut client).await, BARE, "no grant, no source");
    // No label of either side names what is not granted.
    let answer =
        backend::raw(mesh.node("vm-1").orders, b"GET /head HTTP/1.1\r\nhost: o\r\nconnection: close\r\n\r\n").await;
    assert_eq!(told(&answer), BARE);
    for (node, direction) in [("vm-1", "outbound"), ("vm-2", "inbound")] {
        let unknown = format!("starling_http_requests_total{{direction=\"{direction}\",source_service=\"unknown\"");
        eventually("it is counted", || scrape(mesh.node(node)).contains(&unknown)).await;
    }
}

/// In the moment of a restart a grant may be missing that would deny a claim.
#[tokio::test]
async fn until_all_grants_are_known_every_caller_is_its_bare_node() {
    let orders = backend::http("orders").await;
    let mut mesh = Mesh::new(1);
    mesh.grants_known = false;
    mesh.start("vm-2");
    mesh.serve("vm-2", "orders-1", "orders", Protocol::Http, orders.address);
    mesh.apply(&grant("vm-1", "web"));
    let mut client = Client::new(mesh.node("vm-1").orders).await;
    assert_eq!(caller(&mut client).await, BARE);
    let refused = "starling_authorization_sources_refused_total{reason=\"not_known\"} 1";
    assert!(scrape(mesh.node("vm-2")).contains(refused));
    mesh.node("vm-2").shared.know_grants();
    assert_eq!(caller(&mut client).await, WEB, "the same connection");
}

/// As a member may that runs other code: it claims a service at the open, and writes an identity into the request.
#[tokio::test]
async fn a_member_cannot_be_a_service_that_is_granted_to_another_node() {
    let orders = backend::http("orders").await;
    let mut mesh = Mesh::new(2);
    mesh.serve("vm-2", "orders-1", "orders", Protocol::Http, orders.address);
    mesh.apply(&grant("vm-7", "web"));
    let member = DataClient::new(mesh.identity(&NodeName::new("vm-1").unwrap()), clock, AGE_MAX);
    let header = OpenHeader {
        carry: Carry::Http1,
        source: Some(key("web")),
        destination: key("orders"),
        instance: InstanceName::new("orders-1").unwrap(),
        port: PortName::new("main").unwrap(),
    };
    let (node, address) = (mesh.node("vm-2").name.clone(), mesh.node("vm-2").data);
    let answer = tokio::task::LocalSet::new()
        .run_until(async move {
            let mut stream = member.open(&node, address, header.encode()).await.unwrap();
            let request = format!("GET /head HTTP/1.1\r\nhost: {ORDERS}\r\nx-forwarded-client-cert: By=x;{WEB}\r\nconnection: close\r\n\r\n");
            stream.write_all(request.as_bytes()).await.unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.unwrap();
            answer
        })
        .await;
    assert_eq!(told(&answer), BARE);
    assert!(!answer.contains("svc/web"), "{answer}");
    let refused = "starling_authorization_sources_refused_total{reason=\"not_granted\"} 1";
    assert!(scrape(mesh.node("vm-2")).contains(refused));
}

/// Consumer routes are of the caller's namespace, which a bare node has none of.
#[tokio::test]
async fn a_source_that_is_not_granted_has_no_routes_of_its_namespace() {
    let (orders, mine) = (backend::http("orders").await, backend::http("mine").await);
    let mut mesh = Mesh::new(1);
    mesh.serve("vm-1", "orders-1", "orders", Protocol::Http, orders.address);
    mesh.serve("vm-1", "mine-1", "shop/mine", Protocol::Http, mine.address);
    let uid = std::fs::metadata("/proc/self").unwrap().uid();
    mesh.calls_as("vm-1", "mine-1", &Process::Uid(uid));
    let route = "---\napiVersion: starling/v1\nkind: HTTPRoute\nmetadata: {name: r, namespace: shop}\nspec:\n  parentRefs: [{kind: Service, name: orders, namespace: default}]\n  rules: [{backendRefs: [{name: mine}]}]\n";
    let ask = async |mesh: &Mesh| {
        let mut client = Client::new(mesh.node("vm-1").http).await;
        client.get(ORDERS, "/").await.header("x-backend").to_owned()
    };
    mesh.apply(route);
    assert_eq!(ask(&mesh).await, "mine");
    mesh.apply(&(route.to_owned() + &grant("vm-9", "x").replace("service: x}", "service: mine, namespace: shop}")));
    // Nobody may serve it either, so the route of its namespace would answer with 503.
    assert_eq!(ask(&mesh).await, "orders");
}

#[tokio::test]
async fn ungranted_instances_get_nothing_and_a_change_under_load_costs_nothing() {
    let (good, bad) = (backend::http("good").await, backend::http("bad").await);
    let mut mesh = Mesh::new(3);
    mesh.serve("vm-2", "orders-1", "orders", Protocol::Http, good.address);
    mesh.serve("vm-3", "orders-2", "orders", Protocol::Http, bad.address);
    mesh.apply(&grant("vm-2", "orders"));
    let entrance = mesh.node("vm-1").http;
    let mut client = Client::new(entrance).await;
    for _ in 0..50 {
        assert_eq!(client.get(ORDERS, "/").await.status, 200);
    }
    assert_eq!((good.requests(), bad.requests()), (50, 0));
    let stop = Arc::new(AtomicBool::new(false));
    let load: Vec<_> = (0..4)
        .map(|_| {
            let stop = stop.clone();
            tokio::spawn(async move {
                let mut client = Client::new(entrance).await;
                let mut sent = 0_u32;
                while !stop.load(Ordering::SeqCst) {
                    assert_eq!(client.get(ORDERS, "/").await.status, 200);
                    sent += 1;
                }
                sent
            })
        })
        .collect();
    for round in 0..20 {
        let (node, served) = if round % 2 == 0 { ("vm-3", &bad) } else { ("vm-2", &good) };
        mesh.apply(&grant(node, "orders"));
        let before = served.requests();
        eventually("it is used", || served.requests() > before + 5).await;
    }
    mesh.apply("");
    stop.store(true, Ordering::SeqCst);
    for load in load {
        assert!(load.await.unwrap() > 0);
    }
}

/// The user that made the socket tells the service; one that is another's, or nobody's, leaves the bare node.
#[tokio::test]
async fn the_socket_s_user_tells_the_service() {
    let (orders, web) = (backend::http("orders").await, backend::http("web").await);
    let mut mesh = Mesh::new(2);
    mesh.serve("vm-2", "orders-1", "orders", Protocol::Http, orders.address);
    mesh.serve("vm-1", "web-1", "web", Protocol::Http, web.address);
    let uid = std::fs::metadata("/proc/self").unwrap().uid();
    // Through the HTTP outbound, then through an entrance that carries web, each in a connection of its own.
    for (process, outbound, entrance) in [
        (None, BARE, WEB),
        (Some(Process::Uid(uid)), WEB, WEB),
        (Some(Process::Uid(uid + 1)), BARE, BARE),
        (Some(Process::Unit("starling-no-such.service".to_owned())), BARE, BARE),
        (Some(Process::Nobody), BARE, BARE),
    ] {
        if let Some(process) = &process {
            mesh.calls_as("vm-1", "web-1", process);
        }
        let mut client = Client::new(mesh.node("vm-1").http).await;
        assert_eq!(caller(&mut client).await, outbound, "{process:?}");
        let mut client = Client::new(mesh.node("vm-1").orders).await;
        assert_eq!(caller(&mut client).await, entrance, "{process:?}");
    }
}
