//! `starling demo-service`: one instance of a demo service. Says where it listens, serves until its input closes, and
//! obeys the words `break`, `slow` and `restore` on it.

use std::convert::Infallible;
use std::io::{self, BufRead as _};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use bytes::Bytes;
use clap::{Args, ValueEnum};
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::json;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, oneshot};
use tokio::task::LocalSet;

use crate::cli::{CliError, Exit, print};
use crate::demo::load::INSTANCE_HEADER;

/// How much later a slow service answers.
const SLOWNESS: Duration = Duration::from_millis(300);

/// Connections at once.
const CONNECTIONS_MAX: usize = 512;

/// Flags of the hidden command.
#[derive(Args, Clone, Debug)]
pub struct ServiceArgs {
    /// Name of the service
    #[arg(long)]
    service: String,
    /// Name of the instance
    #[arg(long)]
    name: String,
    /// Its version
    #[arg(long)]
    version_label: String,
    /// Its node
    #[arg(long)]
    node: String,
    /// What it speaks
    #[arg(long, value_enum)]
    speaks: Speaks,
    /// Where it listens; port 0 takes a free one
    #[arg(long)]
    listen: SocketAddr,
}

/// What a demo service speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Speaks {
    Http,
    Tcp,
}

/// How it behaves, changed by words on its input.
#[derive(Debug, Default)]
struct Mood(AtomicU8);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Temper {
    Well,
    Slow,
    Broken,
}

impl Mood {
    fn obey(&self, word: &str) {
        let temper: u8 = match word.trim() {
            "restore" => 0,
            "slow" => 1,
            "break" => 2,
            _ => return,
        };
        self.0.store(temper, Ordering::Relaxed);
    }

    fn temper(&self) -> Temper {
        match self.0.load(Ordering::Relaxed) {
            0 => Temper::Well,
            1 => Temper::Slow,
            _ => Temper::Broken,
        }
    }
}

/// Serves until the input closes.
pub(super) fn run(args: &ServiceArgs) -> Result<Exit, CliError> {
    let no =
        |error: io::Error| CliError::plain(Exit::Bad, format!("{} cannot serve", args.name)).cause(error.to_string());
    let mood = Arc::new(Mood::default());
    let ended = follow_input(mood.clone()).map_err(no)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(no)?;
    LocalSet::new().block_on(&runtime, async {
        let listener = TcpListener::bind(args.listen).await.map_err(no)?;
        print(&format!("listening {}\n", listener.local_addr().map_err(no)?))?;
        tokio::select! {
            () = serve(args, listener, &mood) => {}
            _ = ended => {}
        }
        Ok(Exit::Done)
    })
}

/// A thread reads words; the returned receiver resolves when the input closes.
fn follow_input(mood: Arc<Mood>) -> io::Result<oneshot::Receiver<()>> {
    let (end, ended) = oneshot::channel();
    std::thread::Builder::new().name("stdin".to_owned()).spawn(move || {
        for line in io::stdin().lock().lines() {
            match line {
                Ok(word) => mood.obey(&word),
                Err(_) => break,
            }
        }
        // The service may have ended by itself.
        let _ = end.send(());
    })?;
    Ok(ended)
}

/// Accepts forever, one local task for each connection.
async fn serve(args: &ServiceArgs, listener: TcpListener, mood: &Arc<Mood>) {
    let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let args = Rc::new(args.clone());
    loop {
        let Ok(slot) = slots.clone().acquire_owned().await else { return };
        let Ok((stream, _)) = listener.accept().await else { continue };
        let (args, mood) = (args.clone(), mood.clone());
        tokio::task::spawn_local(async move {
            let _slot = slot;
            // A connection that breaks is the caller's business.
            match args.speaks {
                Speaks::Http => http(stream, &args, &mood).await,
                Speaks::Tcp => echo(stream, &mood).await,
            }
        });
    }
}

async fn http(stream: TcpStream, args: &Rc<ServiceArgs>, mood: &Arc<Mood>) {
    let _ = stream.set_nodelay(true);
    let service = service_fn(|request: Request<Incoming>| {
        let (args, mood) = (args.clone(), mood.clone());
        async move { Ok::<_, Infallible>(answer(&request, &args, &mood).await) }
    });
    let _ = http1::Builder::new().timer(TokioTimer::new()).serve_connection(TokioIo::new(stream), service).await;
}

async fn answer(request: &Request<Incoming>, args: &ServiceArgs, mood: &Mood) -> Response<Full<Bytes>> {
    let path = request.uri().path();
    let mut status = StatusCode::OK;
    match mood.temper() {
        Temper::Well => {}
        Temper::Slow if path == "/healthz" => {}
        Temper::Slow => tokio::time::sleep(SLOWNESS).await,
        Temper::Broken => status = StatusCode::INTERNAL_SERVER_ERROR,
    }
    match path {
        "/slow" => tokio::time::sleep(SLOWNESS).await,
        "/fail" => status = StatusCode::INTERNAL_SERVER_ERROR,
        _ => {}
    }
    let body = json!({
        "service": args.service, "instance": args.name, "version": args.version_label, "node": args.node,
        "method": request.method().as_str(), "path": path, "ok": status.is_success(),
    });
    let mut response = Response::new(Full::new(Bytes::from(format!("{body}\n"))));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static("application/json"));
    if let Ok(id) = http::HeaderValue::try_from(format!("{}@{}", args.name, args.node)) {
        headers.insert(INSTANCE_HEADER, id);
    }
    response
}

async fn echo(mut stream: TcpStream, mood: &Mood) {
    match mood.temper() {
        Temper::Well => {}
        Temper::Slow => tokio::time::sleep(SLOWNESS).await,
        Temper::Broken => return,
    }
    let (mut reader, mut writer) = stream.split();
    let _ = tokio::io::copy(&mut reader, &mut writer).await;
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    fn args(speaks: Speaks) -> ServiceArgs {
        ServiceArgs {
            service: "orders".to_owned(),
            name: "orders-v2".to_owned(),
            version_label: "v2".to_owned(),
            node: "vm-2".to_owned(),
            speaks,
            listen: "127.0.0.1:0".parse().unwrap(),
        }
    }

    /// Sends bytes to a service in this mood, closes the sending half, returns all that comes back.
    async fn exchange(speaks: Speaks, mood: &str, sent: &str) -> String {
        let local = LocalSet::new();
        local
            .run_until(async {
                let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
                let address = listener.local_addr().unwrap();
                let words = Arc::new(Mood::default());
                words.obey(mood);
                let args = args(speaks);
                tokio::task::spawn_local(async move { serve(&args, listener, &words).await });
                let mut stream = TcpStream::connect(address).await.unwrap();
                stream.write_all(sent.as_bytes()).await.unwrap();
                stream.shutdown().await.unwrap();
                let mut got = String::new();
                stream.read_to_string(&mut got).await.unwrap();
                got
            })
            .await
    }

    #[tokio::test]
    async fn an_http_service_says_who_it_is_and_breaks_when_told() {
        let ask = "GET /cart HTTP/1.1\r\nhost: orders\r\nconnection: close\r\n\r\n";
        let well = exchange(Speaks::Http, "restore", ask).await;
        assert!(well.starts_with("HTTP/1.1 200") && well.contains("x-demo-instance: orders-v2@vm-2"), "{well}");
        assert!(well.contains("\"path\":\"/cart\""), "{well}");
        let broken = exchange(Speaks::Http, "break", &ask.replace("/cart", "/healthz")).await;
        assert!(broken.starts_with("HTTP/1.1 500"), "{broken}");
        let failing = exchange(Speaks::Http, "restore", &ask.replace("/cart", "/fail")).await;
        assert!(failing.starts_with("HTTP/1.1 500"), "{failing}");
    }

    #[tokio::test]
    async fn a_tcp_service_echoes_until_it_is_broken() {
        assert_eq!(exchange(Speaks::Tcp, "restore", "hello").await, "hello");
        assert_eq!(exchange(Speaks::Tcp, "break", "").await, "");
    }

    #[test]
    fn unknown_words_change_nothing() {
        let mood = Mood::default();
        mood.obey("break\n");
        mood.obey("dance");
        assert_eq!(mood.temper(), Temper::Broken);
        mood.obey("restore");
        assert_eq!(mood.temper(), Temper::Well);
    }
}
