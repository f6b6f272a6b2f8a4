//! More than can be served, and clients that are gone before they are answered: what can be served is, the rest gets a
//! clear answer, nothing is kept, and the moment it is over all is as before.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use starling_model::Protocol;
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::{JoinHandle, JoinSet};

use super::backend::{self, Client};
use super::*;

const ORDERS: &str = "orders.mesh.internal";

/// Requests that the slow backend works on at a time, and how long each takes: 400 a second.
const PERMITS: usize = 16;
const WORK: Duration = Duration::from_millis(40);

/// A backend that can do so much and no more, without using the processor for it.
struct Narrow {
    address: SocketAddr,
    asked: Arc<AtomicU64>,
    done: Arc<AtomicU64>,
    /// Requests it has, waiting ones too, and the most it ever had.
    held: Arc<AtomicUsize>,
    held_most: Arc<AtomicUsize>,
    connections: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl Drop for Narrow {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Counts itself for as long as it lives.
struct Counted(Arc<AtomicUsize>);

impl Counted {
    fn new(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::SeqCst);
        Self(count.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Requests wait for each other, at most `held_max` at a time; what is over gets 503 at once.
async fn narrow(held_max: usize) -> Narrow {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let count = || Arc::new(AtomicUsize::new(0));
    let (held, held_most, connections) = (count(), count(), count());
    let (asked, done) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let seen = (asked.clone(), done.clone(), held.clone(), held_most.clone(), connections.clone());
    let permits = Arc::new(Semaphore::new(PERMITS));
    let task = tokio::spawn(async move {
        let mut all = JoinSet::new();
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let (permits, (asked, done, held, held_most, connections)) = (permits.clone(), seen.clone());
            all.spawn(async move {
                let _connection = Counted::new(&connections);
                let service = service_fn(|_request: http::Request<hyper::body::Incoming>| {
                    asked.fetch_add(1, Ordering::SeqCst);
                    let (permits, done, held, most) = (permits.clone(), done.clone(), held.clone(), held_most.clone());
                    async move {
                        let _held = Counted::new(&held);
                        let count = held.load(Ordering::SeqCst);
                        let mut answer = http::Response::new(String::new());
                        if count > held_max {
                            *answer.status_mut() = http::StatusCode::SERVICE_UNAVAILABLE;
                            return Ok::<_, std::convert::Infallible>(answer);
                        }
                        most.fetch_max(count, Ordering::SeqCst);
                        let _permit = permits.acquire().await;
                        tokio::time::sleep(WORK).await;
                        done.fetch_add(1, Ordering::SeqCst);
                        Ok(answer)
                    }
                });
                let _ =
                    hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
            });
        }
    });
    Narrow { address, asked, done, held, held_most, connections, task }
}

/// Neither node has a request, a connection of a client or a load on an endpoint left.
async fn quiet(mesh: &Mesh) {
    let (one, two) = (mesh.node("vm-1"), mesh.node("vm-2"));
    eventually("the receiver lets go", || two.plane.as_ref().unwrap().inbound_under_way() == 0).await;
    let connections = || one.plane.as_ref().unwrap().connections().iter().sum::<usize>();
    eventually("the caller lets go", || connections() == 0).await;
    let table = one.shared.table.load();
    let endpoint = &table.service(&key("orders")).unwrap().endpoints[0];
    let active = || one.shared.loads.load(endpoint.index, Instant::now()).in_flight;
    eventually("nothing is under way to the endpoint", || active() == 0).await;
}

/// Sends one request every `period` on a connection of its own: how each was answered, and after how long. A connection that
/// ends without an answer is status 0.
async fn caller(entrance: SocketAddr, first: Duration, period: Duration, ends: Instant) -> Vec<(u16, Duration)> {
    let connect = async || {
        let stream = TcpStream::connect(entrance).await.unwrap();
        let (sender, connection) =
            hyper::client::conn::http1::handshake::<_, Empty<Bytes>>(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        sender
    };
    let mut client = connect().await;
    let mut due = Instant::now() + first;
    let mut seen = Vec::new();
    while due.max(Instant::now()) < ends {
        tokio::time::sleep_until(due.into()).await;
        let began = Instant::now();
        let request = http::Request::get("/").header("host", ORDERS).body(Empty::new()).unwrap();
        let asked = async {
            client.ready().await?;
            let answer = client.send_request(request).await?;
            let status = answer.status().as_u16();
            answer.into_body().collect().await.map(|_| status)
        };
        let asked = asked.await;
        let status = *asked.as_ref().unwrap_or(&0);
        if let Err(error) = asked {
            assert!(began.elapsed() >= DEADLINE, "after {:?}: {error}", began.elapsed());
            client = connect().await;
        }
        seen.push((status, began.elapsed()));
        due += period;
    }
    seen
}

/// Answers at once again, one after the other.
async fn fresh(mesh: &Mesh) -> Duration {
    let mut client = Client::new(mesh.node("vm-1").http).await;
    let mut took = Vec::new();
    for _ in 0..10 {
        let began = Instant::now();
        let answer = client.get(ORDERS, "/").await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        took.push(began.elapsed());
    }
    took.sort_unstable();
    took[5]
}

/// What came of an overload.
struct Overload {
    offered: usize,
    served: usize,
    late: usize,
    turned: usize,
    /// Connections that ended without an answer, all of them at the deadline.
    cut: usize,
    /// What the backend could have done meanwhile.
    capacity: f64,
    longest: Duration,
    longest_served: Duration,
}

/// Of the rule.
const DEADLINE: Duration = Duration::from_millis(300);

/// Three times what the backend can do, for 4 s, from callers that do not wait for each other, under a rule with a
/// deadline; and that all is as before within two seconds.
async fn overload(backend: &Narrow) -> Overload {
    const CALLERS: u32 = 480;
    let period = Duration::from_millis(400);
    let mut mesh = Mesh::new(2);
    mesh.serve("vm-2", "orders-1", "orders", Protocol::Http, backend.address);
    mesh.apply(&format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: orders}}\nspec:\n  \
         parentRefs: [{{kind: Service, group: \"\", name: orders}}]\n  rules:\n  - timeouts: {{request: {}ms}}\n    \
         backendRefs: [{{name: orders}}]\n",
        DEADLINE.as_millis()
    ));
    let usual = fresh(&mesh).await;
    let entrance = mesh.node("vm-1").http;
    let began = Instant::now();
    let ends = began + Duration::from_secs(4);
    let callers: Vec<_> =
        (0..CALLERS).map(|at| tokio::spawn(caller(entrance, period * at / CALLERS, period, ends))).collect();
    let mut seen = Vec::new();
    for caller in callers {
        seen.extend(caller.await.unwrap());
    }
    let took = began.elapsed();
    let recovering = Instant::now();
    let after = fresh(&mesh).await;
    let recovered = recovering.elapsed();

    let of = |wanted: u16| seen.iter().filter(|(status, _)| *status == wanted).count();
    let over = Overload {
        offered: seen.len(),
        served: of(200),
        late: of(504),
        turned: of(503),
        cut: of(0),
        capacity: PERMITS as f64 / WORK.as_secs_f64() * took.as_secs_f64(),
        longest: seen.iter().map(|(_, took)| *took).max().unwrap(),
        longest_served: seen.iter().filter(|(status, _)| *status == 200).map(|(_, took)| *took).max().unwrap(),
    };
    println!(
        "offered {} in {took:.1?}, capacity {:.0}: {} served within {:?}, {} times 503, {} times 504, {} cut; longest {:?}; \
         the backend held {} at most; median before {usual:?}, after {after:?}",
        over.offered,
        over.capacity,
        over.served,
        over.longest_served,
        over.turned,
        over.late,
        over.cut,
        over.longest,
        backend.held_most.load(Ordering::SeqCst),
    );
    assert_eq!(over.served + over.late + over.turned + over.cut, over.offered, "another status");
    assert!(over.offered as f64 > 2.5 * over.capacity, "that is no overload");
    assert!(over.longest < DEADLINE + Duration::from_secs(1), "{:?}", over.longest);
    assert!(recovered < Duration::from_secs(2) && after < usual + WORK, "{recovered:?}, {usual:?}, {after:?}");
    quiet(&mesh).await;
    eventually("the backend has nothing left", || backend.held.load(Ordering::SeqCst) == 0).await;
    eventually("idle connections to it go", || backend.connections.load(Ordering::SeqCst) <= PERMITS).await;
    over
}

/// A backend that knows its limit and says so: all that it can do is done for somebody, and its word is passed on, not tried
/// again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_times_what_a_backend_takes_costs_nothing_of_what_it_can_do() {
    let backend = narrow(2 * PERMITS).await;
    let over = overload(&backend).await;
    assert!(over.served as f64 > 0.85 * over.capacity, "{} of {:.0}", over.served, over.capacity);
    assert_eq!((over.late, over.cut), (0, 0), "nobody waits for the deadline");
    assert!(over.longest_served < DEADLINE, "{:?}", over.longest_served);
    assert!(backend.done.load(Ordering::SeqCst) <= over.served as u64 + 20, "work that nobody has asked for");
    let asked = backend.asked.load(Ordering::SeqCst);
    assert!(asked as f64 <= 1.01 * over.offered as f64 + 100.0, "{asked} for {}", over.offered);
}

/// A backend that takes whatever comes and lets it wait: everybody has an answer at the deadline, what nobody waits for
/// is taken from it, and the moment the overload is over it is as fast as before.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_times_what_a_backend_that_never_says_no_can_do_ends_with_the_overload() {
    let backend = narrow(usize::MAX).await;
    let over = overload(&backend).await;
    assert!(over.late > over.offered / 2, "its queue is longer than the deadline");
    // An answer that comes within a moment of the deadline may be cut before its first byte.
    assert!(over.cut * 100 < over.offered, "{}", over.cut);
    // No more than what came within one deadline is there at a time.
    let held = backend.held_most.load(Ordering::SeqCst) as f64;
    let within = over.offered as f64 / 4.0 * DEADLINE.as_secs_f64();
    assert!(held < 1.5 * within, "{held} held, {within:.0} came within a deadline");
}

/// The same from callers that wait: they share what there is, and nobody is turned away.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_times_as_many_callers_as_can_be_served_share_the_capacity() {
    let backend = narrow(usize::MAX).await;
    let mut mesh = Mesh::new(2);
    mesh.serve("vm-2", "orders-1", "orders", Protocol::Http, backend.address);
    let usual = fresh(&mesh).await;
    let entrance = mesh.node("vm-1").http;
    let (began, during) = (Instant::now(), Duration::from_secs(2));
    // Each for its own two seconds, however late this host begins it.
    let callers: Vec<_> = (0..3 * PERMITS)
        .map(|_| {
            tokio::spawn(async move { caller(entrance, Duration::ZERO, Duration::ZERO, Instant::now() + during).await })
        })
        .collect();
    let mut counts = Vec::new();
    for caller in callers {
        let seen = caller.await.unwrap();
        assert!(seen.iter().all(|(status, _)| *status == 200), "{seen:?}");
        counts.push(seen.len());
    }
    let (served, capacity) =
        (counts.iter().sum::<usize>(), PERMITS as f64 / WORK.as_secs_f64() * began.elapsed().as_secs_f64());
    println!("{served} served of {capacity:.0}, {:?} to {:?} a caller", counts.iter().min(), counts.iter().max());
    assert!(served as f64 > 0.6 * capacity, "{served} of {capacity:.0}");
    assert!(backend.held_most.load(Ordering::SeqCst) <= 3 * PERMITS);
    assert!(counts.iter().min().unwrap() * 3 > *counts.iter().max().unwrap(), "{counts:?}");
    assert!(fresh(&mesh).await < 3 * usual + WORK);
    quiet(&mesh).await;
}

/// Half of them in the middle of their bodies, half while they wait for an answer; half of each with a FIN, half with a
/// reset.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_that_vanish_leave_nothing_and_hurt_nobody() {
    const CLIENTS: usize = 256;
    let orders = backend::http("orders").await;
    let mut mesh = Mesh::new(2);
    mesh.serve("vm-2", "orders-1", "orders", Protocol::Http, orders.address);
    let (one, two) = (mesh.node("vm-1"), mesh.node("vm-2"));
    let entrance = one.http;
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = stop.clone();
    let bystander = tokio::spawn(async move {
        let mut client = Client::new(entrance).await;
        let mut count = 0;
        while !stopped.load(Ordering::SeqCst) {
            let answer = client.post(ORDERS, "/", format!("request {count}")).await;
            assert_eq!((answer.status, answer.text()), (200, format!("request {count}")));
            count += 1;
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        count
    });
    for round in 1..=2 {
        let mut streams = Vec::new();
        for at in 0..CLIENTS {
            let mut stream = TcpStream::connect(entrance).await.unwrap();
            if at % 4 < 2 {
                stream.set_zero_linger().unwrap();
            }
            let request = if at % 2 == 0 {
                let head = format!("POST / HTTP/1.1\r\nHost: {ORDERS}\r\nContent-Length: 100000\r\n\r\n");
                format!("{head}{}", "b".repeat(10_000))
            } else {
                format!("GET /hang HTTP/1.1\r\nHost: {ORDERS}\r\n\r\n")
            };
            stream.write_all(request.as_bytes()).await.unwrap();
            streams.push(stream);
        }
        eventually("all are under way", || two.plane.as_ref().unwrap().inbound_under_way() >= CLIENTS).await;
        drop(streams);
        // What is left is the bystander's.
        eventually("the receiver lets go", || two.plane.as_ref().unwrap().inbound_under_way() <= 1).await;
        let connections = || one.plane.as_ref().unwrap().connections().iter().sum::<usize>();
        eventually("the caller lets go", || connections() <= 1).await;
        // Told as what it was, the clients' own doing, each of them once.
        for status in [400, 499] {
            let counted = || {
                let of = |line: &&str| line.contains(&format!("status_code=\"{status}\""));
                scrape(one).lines().filter(of).any(|line| line.ends_with(&format!(" {}", round * CLIENTS / 2)))
            };
            eventually("they are counted", counted).await;
        }
    }
    stop.store(true, Ordering::SeqCst);
    let served = bystander.await.expect("no request of the bystander failed");
    assert!(served >= 5, "{served}: nobody stood by");
    quiet(&mesh).await;
    assert_eq!(Client::new(entrance).await.get(ORDERS, "/").await.status, 200);
}
