//! The API's two doors: the Unix socket and loopback TCP.
//!
//! At most 64 connections at a time, a head within 5 s, bodies of at most 1 MiB. Every answer carries headers that keep
//! browsers from guessing, framing or storing it. Errors become problem documents here, because only here the asked
//! path is known. A connection ends when the agent does; a request that is being answered is finished first.

use std::convert::Infallible;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderMap, HeaderValue, Method, Request, StatusCode, header};
use axum::response::Response;
use http_body_util::Limited;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use starling_model::codes;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener, UnixStream};
use tokio::sync::{Semaphore, watch};
use tower::ServiceExt as _;
use tracing::{debug, info};

use super::guard::{Door, Guard};
use super::problem::Refusal;

/// Connections at a time over both doors together.
pub const CONNECTIONS_MAX: usize = SOCKET_CONNECTIONS_MAX + TCP_CONNECTIONS_MAX;
/// Of these, of the Unix socket: any local user may fill loopback TCP, and must not lock out the command line.
const SOCKET_CONNECTIONS_MAX: usize = 16;
/// The others, of loopback TCP.
const TCP_CONNECTIONS_MAX: usize = 48;
/// Largest body of a request.
pub const BODY_BYTES_MAX: usize = 1024 * 1024;
/// Time for the head of a request.
const HEAD_DEADLINE: Duration = Duration::from_secs(5);
/// Buffer of one connection: largest head.
const HEAD_BYTES_MAX: usize = 64 * 1024;
/// Group that may use the socket, where it exists.
const SOCKET_GROUP: &str = "starling";
/// Mode of the socket.
const SOCKET_MODE: u32 = 0o660;

/// Serves connections of both doors.
#[derive(Clone, Debug)]
pub struct Server {
    router: Router,
    guard: Arc<Guard>,
    socket_permits: Arc<Semaphore>,
    tcp_permits: Arc<Semaphore>,
    closing: watch::Receiver<bool>,
}

impl Server {
    /// A server that ends its connections when `closing` becomes true.
    #[must_use]
    pub fn new(router: Router, guard: Guard, closing: watch::Receiver<bool>) -> Self {
        Self {
            router,
            guard: Arc::new(guard),
            socket_permits: Arc::new(Semaphore::new(SOCKET_CONNECTIONS_MAX)),
            tcp_permits: Arc::new(Semaphore::new(TCP_CONNECTIONS_MAX)),
            closing,
        }
    }

    /// Waits until every connection has got its answer, at most `deadline`. Call it after `closing` became true.
    pub async fn finish(&self, deadline: Duration) {
        let all = |max: usize| u32::try_from(max).unwrap_or(u32::MAX);
        let both = async {
            let socket = self.socket_permits.acquire_many(all(SOCKET_CONNECTIONS_MAX)).await;
            let tcp = self.tcp_permits.acquire_many(all(TCP_CONNECTIONS_MAX)).await;
            drop((socket, tcp));
        };
        if tokio::time::timeout(deadline, both).await.is_err() {
            debug!("api connections were cut");
        }
    }

    /// Takes connections of the Unix socket until the agent ends. Safe to drop at any `.await`.
    pub async fn serve_socket(self, listener: UnixListener) {
        let mut closing = self.closing.clone();
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                _ = closing.wait_for(|closing| *closing) => return,
            };
            match accepted {
                Ok((stream, _)) => {
                    let credentials = stream.peer_cred().ok();
                    let uid = credentials.as_ref().map_or(u32::MAX, tokio::net::unix::UCred::uid);
                    let pid = credentials.and_then(|credentials| credentials.pid());
                    self.take(stream, Door::Socket { uid, pid }).await;
                }
                Err(error) => pause_after(&error).await,
            }
        }
    }

    /// Takes connections of loopback TCP until the agent ends. Safe to drop at any `.await`.
    pub async fn serve_tcp(self, listener: TcpListener) {
        let mut closing = self.closing.clone();
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                _ = closing.wait_for(|closing| *closing) => return,
            };
            match accepted {
                Ok((stream, _)) => {
                    // Small answers; waiting for more to send would only delay them.
                    let _ = stream.set_nodelay(true);
                    self.take(stream, Door::Tcp).await;
                }
                Err(error) => pause_after(&error).await,
            }
        }
    }

    /// Waits for a permit, so connections beyond the limit wait in the kernel's queue.
    async fn take<S>(&self, stream: S, door: Door)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let permits = match door {
            Door::Socket { .. } => &self.socket_permits,
            Door::Tcp => &self.tcp_permits,
        };
        let Ok(permit) = Arc::clone(permits).acquire_owned().await else { return };
        let server = self.clone();
        tokio::spawn(async move {
            server.connection(stream, door).await;
            drop(permit);
        });
    }

    async fn connection<S>(self, stream: S, door: Door)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let Self { router, guard, mut closing, .. } = self;
        let service = service_fn(move |request| {
            let (router, guard) = (router.clone(), Arc::clone(&guard));
            async move { Ok::<_, Infallible>(answer(router, &guard, door, request).await) }
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_DEADLINE)
            .max_buf_size(HEAD_BYTES_MAX)
            .serve_connection(TokioIo::new(stream), service);
        let mut connection = std::pin::pin!(connection);
        let told = async {
            // A sender that is gone means the end as well.
            let _ = closing.wait_for(|closing| *closing).await;
        };
        let ended = tokio::select! {
            ended = connection.as_mut() => Some(ended),
            () = told => None,
        };
        let ended = match ended {
            Some(ended) => ended,
            None => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(error) = ended {
            debug!(%error, "api connection ended");
        }
    }
}

/// Accepting fails when file descriptors run out: trying again at once would spin.
async fn pause_after(error: &std::io::Error) {
    debug!(%error, "api connection not accepted");
    tokio::time::sleep(Duration::from_millis(100)).await;
}

async fn answer(router: Router, guard: &Guard, door: Door, request: Request<Incoming>) -> Response {
    let path = request.uri().path().to_owned();
    let method = request.method().clone();
    let mut response = match admit(guard, door, &request) {
        Ok(()) => {
            if method != Method::GET && method != Method::HEAD {
                let (uid, pid) = match door {
                    Door::Socket { uid, pid } => (i64::from(uid), pid.unwrap_or(0)),
                    Door::Tcp => (-1, 0),
                };
                info!(%method, path, uid, pid, "api write");
            }
            let mut request = request.map(|body| Body::new(Limited::new(body, BODY_BYTES_MAX)));
            request.extensions_mut().insert(door);
            match router.oneshot(request).await {
                Ok(response) => response,
                Err(never) => match never {},
            }
        }
        Err(refusal) => refusal.render(&path),
    };
    if let Some(refusal) = refusal_of(&mut response, &method, &path) {
        let allow = response.headers().get(header::ALLOW).cloned();
        response = refusal.render(&path);
        if let Some(allow) = allow {
            response.headers_mut().insert(header::ALLOW, allow);
        }
    }
    harden(response.headers_mut());
    response
}

fn admit(guard: &Guard, door: Door, request: &Request<Incoming>) -> Result<(), Refusal> {
    guard.judge(door, request.method(), (request.uri(), request.version()), request.headers())?;
    let len = request.headers().get(header::CONTENT_LENGTH).and_then(|len| len.to_str().ok()?.parse::<u64>().ok());
    if len.is_some_and(|len| len > BODY_BYTES_MAX as u64) {
        return Err(Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, codes::API_LIMIT, "the body is over 1 MiB"));
    }
    Ok(())
}

/// What a handler refused, or what the router did not find.
fn refusal_of(response: &mut Response, method: &Method, path: &str) -> Option<Refusal> {
    if let Some(refusal) = response.extensions_mut().remove::<Refusal>() {
        return Some(refusal);
    }
    let kind = response.headers().get(header::CONTENT_TYPE);
    if kind.is_some_and(|kind| kind == super::problem::MEDIA_TYPE) {
        return None;
    }
    let status = response.status();
    match status {
        StatusCode::NOT_FOUND => Some(Refusal::missing(format!("the API has no {path}"))),
        StatusCode::METHOD_NOT_ALLOWED => {
            let allowed = response.headers().get(header::ALLOW).and_then(|allow| allow.to_str().ok());
            let help = format!("allowed here: {}", allowed.unwrap_or("nothing").replace(',', ", "));
            let detail = format!("{path} has no {method}");
            Some(Refusal::new(status, codes::BAD_REQUEST, detail).with_help(help))
        }
        // The router's own text, say for a path whose escapes are no UTF-8.
        _ if status.is_client_error() => {
            let detail = format!("{path} is not well-formed");
            Some(Refusal::new(status, codes::BAD_REQUEST, detail))
        }
        _ => None,
    }
}

fn harden(headers: &mut HeaderMap) {
    for (name, value) in [
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (header::CACHE_CONTROL, "no-store"),
        (header::CONTENT_SECURITY_POLICY, "default-src 'self'"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
}

/// Makes the socket. A file that nobody answers at is replaced; anything else in its place is left alone.
///
/// # Errors
/// A sentence that names what stands in the way.
pub async fn bind_socket(path: &Path) -> Result<UnixListener, std::io::Error> {
    let taken = |what: &str| std::io::Error::new(std::io::ErrorKind::AddrInUse, what.to_owned());
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent)?;
    }
    match std::fs::symlink_metadata(path) {
        Ok(metadata) if !metadata.file_type().is_socket() => {
            return Err(taken("a file that is no socket is in its place"));
        }
        Ok(_) => {
            if UnixStream::connect(path).await.is_ok() {
                return Err(taken("another process answers on it"));
            }
            std::fs::remove_file(path)?;
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(SOCKET_MODE))?;
    if nix::unistd::geteuid().is_root()
        && let Ok(Some(group)) = nix::unistd::Group::from_name(SOCKET_GROUP)
    {
        nix::unistd::chown(path, None, Some(group.gid))?;
    }
    Ok(listener)
}

#[cfg(test)]
mod tests;
