//! Asks a local instance how it is.

use std::time::{Duration, Instant};

use bytes::Bytes;
use http::Request;
use http::header::{HOST, USER_AGENT};
use http_body_util::Empty;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval, timeout};

use super::{CheckKind, CheckTarget, Hysteresis, Transition, Verdict};

/// Checks one instance for ever; ends when nobody listens to transitions any more. Owns nothing else, so it may be
/// dropped (aborted) at any `.await`: at worst a check is cut short.
///
/// The channel is bounded: while it is full the checks of this instance wait, which delays news but loses none.
pub async fn run_check(target: CheckTarget, transitions: mpsc::Sender<Transition>) {
    let mut state = Hysteresis::new(target.check.unhealthy, target.check.healthy);
    // A zero interval would spin; ten a second is plenty.
    let mut ticks = interval(target.check.interval.max(Duration::from_millis(100)));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let began = Instant::now();
        let found = match timeout(target.check.timeout, probe(&target)).await {
            Ok(found) => found,
            Err(_) => Err(format!("no answer in {} ms", target.check.timeout.as_millis())),
        };
        let (verdict, mut detail) = match found {
            Ok(detail) => (Verdict::Ready, detail),
            Err(detail) => (Verdict::Unready, detail),
        };
        if state.observe(verdict).is_none() {
            continue;
        }
        detail.push_str(&format!(", after {} ms", began.elapsed().as_millis()));
        let transition = Transition { instance: target.instance.clone(), verdict, detail };
        if transitions.send(transition).await.is_err() {
            return;
        }
    }
}

async fn probe(target: &CheckTarget) -> Result<String, String> {
    let stream = TcpStream::connect(target.address).await.map_err(|error| describe(&error))?;
    match &target.check.kind {
        CheckKind::Tcp => Ok("connection accepted".to_owned()),
        CheckKind::Http { path } => get(stream, target, path).await,
    }
}

async fn get(stream: TcpStream, target: &CheckTarget, path: &str) -> Result<String, String> {
    let request = Request::get(path)
        .header(HOST, target.address.to_string())
        .header(USER_AGENT, concat!("starling/", env!("CARGO_PKG_VERSION"), " health check"))
        .body(Empty::<Bytes>::new())
        .map_err(|error| format!("path {path:?} cannot be asked for: {error}"))?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(|e| e.to_string())?;
    let mut connection = std::pin::pin!(connection);
    let mut answer = std::pin::pin!(sender.send_request(request));
    let mut over = false;
    // The connection is driven only as long as the answer is awaited, and dropped with it.
    let response = std::future::poll_fn(|cx| {
        // Once it is over it must not be polled again; what it left for its caller is there by then.
        over = over || connection.as_mut().poll(cx).is_ready();
        answer.as_mut().poll(cx)
    });
    let status = response.await.map_err(|_| "it broke off instead of answering".to_owned())?.status();
    if status.is_success() { Ok(status.as_u16().to_string()) } else { Err(format!("status {}", status.as_u16())) }
}

fn describe(error: &std::io::Error) -> String {
    if error.kind() == std::io::ErrorKind::ConnectionRefused {
        "connection refused".to_owned()
    } else {
        format!("no connection: {error}")
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use starling_model::InstanceName;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::super::HealthCheck;
    use super::*;

    fn target(address: SocketAddr, kind: CheckKind) -> CheckTarget {
        CheckTarget {
            instance: InstanceName::new("one").unwrap(),
            address,
            check: HealthCheck {
                kind,
                interval: Duration::from_millis(100),
                timeout: Duration::from_millis(300),
                unhealthy: 2,
                healthy: 1,
            },
        }
    }

    /// Serves the given answers, one per connection, then the last one for ever.
    async fn server(answers: &'static [&'static str]) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            for n in 0..1_000 {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut buffer = [0; 1024];
                let _ = stream.read(&mut buffer).await;
                let answer = answers[n.min(answers.len() - 1)];
                let _ = stream.write_all(answer.as_bytes()).await;
            }
        });
        address
    }

    async fn first(kind: CheckKind, address: SocketAddr) -> Transition {
        let (sender, mut transitions) = mpsc::channel(1);
        let task = tokio::spawn(run_check(target(address, kind), sender));
        let first = transitions.recv().await.unwrap();
        task.abort();
        first
    }

    fn http() -> CheckKind {
        CheckKind::Http { path: "/healthz".to_owned() }
    }

    #[tokio::test]
    async fn the_first_check_decides() {
        let good = server(&["HTTP/1.1 204 No Content\r\n\r\n"]).await;
        assert_eq!(first(http(), good).await.verdict, Verdict::Ready);
        let moved = server(&["HTTP/1.1 302 Found\r\nlocation: /\r\ncontent-length: 0\r\n\r\n"]).await;
        let transition = first(http(), moved).await;
        assert_eq!(transition.verdict, Verdict::Unready, "redirects are not followed");
        assert!(transition.detail.starts_with("status 302"), "{}", transition.detail);
        let garbage = server(&["garbage\r\n\r\n"]).await;
        assert_eq!(first(http(), garbage).await.verdict, Verdict::Unready);
        assert_eq!(first(CheckKind::Tcp, good).await.verdict, Verdict::Ready);
    }

    #[tokio::test]
    async fn refusing_and_hanging_instances_are_unready() {
        let gone = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let transition = first(CheckKind::Tcp, gone).await;
        assert!(transition.detail.starts_with("connection refused"), "{}", transition.detail);
        let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let transition = first(http(), silent.local_addr().unwrap()).await;
        assert!(transition.detail.starts_with("no answer in 300 ms"), "{}", transition.detail);
    }

    #[tokio::test]
    async fn one_bad_check_among_good_ones_changes_nothing() {
        const GOOD: &str = "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
        const BAD: &str = "HTTP/1.1 500 X\r\ncontent-length: 0\r\n\r\n";
        let address = server(&[GOOD, BAD, GOOD, BAD, BAD, GOOD]).await;
        let (sender, mut transitions) = mpsc::channel(1);
        let task = tokio::spawn(run_check(target(address, http()), sender));
        let verdicts = [transitions.recv().await, transitions.recv().await, transitions.recv().await];
        task.abort();
        let verdicts = verdicts.map(|t| t.unwrap().verdict);
        assert_eq!(verdicts, [Verdict::Ready, Verdict::Unready, Verdict::Ready]);
    }
}
