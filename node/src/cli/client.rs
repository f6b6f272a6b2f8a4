//! A small client of the local API: one request, one answer, over the Unix socket or loopback TCP.

use std::io;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use starling_model::codes;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};

use crate::api::views::Problem;
use crate::cli::address::{Address, SOCKET_DEFAULT};
use crate::cli::errors::{CliError, Exit};

/// How long one answer may take; the agent answers reads from memory, so this is only reached when it hangs.
pub(crate) const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// Largest answer: 10,000 members with 1 KiB each, and some.
const ANSWER_BYTES_MAX: usize = 16 * 1024 * 1024;

/// An answer of the agent.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    /// HTTP status.
    pub(crate) status: u16,
    /// The body as it came.
    pub(crate) body: Bytes,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AskError {
    /// Nobody listens there.
    #[error("connect")]
    Connect(#[source] io::Error),
    /// The socket may not be opened.
    #[error("permission denied")]
    Denied(#[source] io::Error),
    /// No answer in time.
    #[error("no answer within {0:?}")]
    TimedOut(Duration),
    /// Something else answers there, or the connection broke.
    #[error("{0}")]
    Broken(String),
}

/// One request.
#[derive(Clone, Debug)]
pub(crate) struct Ask<'a> {
    /// The verb.
    pub(crate) method: Method,
    /// Path and query.
    pub(crate) path: &'a str,
    /// JSON body.
    pub(crate) body: Option<Vec<u8>>,
    /// How long the answer may take.
    pub(crate) timeout: Duration,
}

impl<'a> Ask<'a> {
    /// A read.
    pub(crate) fn get(path: &'a str) -> Self {
        Self { method: Method::GET, path, body: None, timeout: ANSWER_TIMEOUT }
    }
}

/// Asks the agent at `address`.
///
/// # Errors
/// [`AskError`] when nothing that speaks HTTP answered; a status of 400 and above is an answer.
pub(crate) async fn ask(address: &Address, ask: Ask<'_>) -> Result<Answer, AskError> {
    let timeout = ask.timeout;
    let exchange = async {
        match address {
            Address::Unix(path) => exchange(UnixStream::connect(path).await.map_err(refused)?, address, ask).await,
            Address::Http(authority) => {
                exchange(TcpStream::connect(authority).await.map_err(refused)?, address, ask).await
            }
        }
    };
    tokio::time::timeout(timeout, exchange).await.unwrap_or(Err(AskError::TimedOut(timeout)))
}

fn refused(error: io::Error) -> AskError {
    if error.kind() == io::ErrorKind::PermissionDenied { AskError::Denied(error) } else { AskError::Connect(error) }
}

/// Asks for a stream of lines; `each` is called for every line that is not empty, until it fails or the stream ends.
async fn lines<S>(
    stream: S,
    address: &Address,
    path: &str,
    each: &mut dyn FnMut(&[u8]) -> Result<(), CliError>,
) -> Result<Result<(), CliError>, AskError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let broken = |error: hyper::Error| AskError::Broken(error.to_string());
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
    let request = Request::builder()
        .uri(path)
        .header(header::HOST, address.authority())
        .header(header::USER_AGENT, concat!("starling/", env!("CARGO_PKG_VERSION")))
        .header(header::ACCEPT, "application/x-ndjson")
        .body(Full::new(Bytes::new()))
        .map_err(|error| AskError::Broken(error.to_string()))?;
    let reading = async {
        let response = sender.send_request(request).await.map_err(broken)?;
        let status = response.status().as_u16();
        let mut body = response.into_body();
        let mut rest = Vec::new();
        while let Some(frame) = body.frame().await {
            let Ok(data) = frame.map_err(broken)?.into_data() else { continue };
            rest.extend_from_slice(&data);
            if rest.len() > ANSWER_BYTES_MAX {
                return Err(AskError::Broken("a line without end".to_owned()));
            }
            while status < 400
                && let Some(end) = rest.iter().position(|byte| *byte == b'\n')
            {
                let line: Vec<u8> = rest.drain(..=end).collect();
                if let (false, Err(error)) = (line.trim_ascii().is_empty(), each(line.trim_ascii())) {
                    return Ok(Err(error));
                }
            }
        }
        Ok(if status < 400 { Ok(()) } else { Err(refusal(&Answer { status, body: rest.into() })) })
    };
    tokio::pin!(reading, connection);
    tokio::select! {
        biased;
        read = &mut reading => read,
        _ = &mut connection => reading.await,
    }
}

async fn exchange<S>(stream: S, address: &Address, ask: Ask<'_>) -> Result<Answer, AskError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let broken = |error: hyper::Error| AskError::Broken(error.to_string());
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
    let body = Full::new(Bytes::from(ask.body.unwrap_or_default()));
    let request = Request::builder()
        .method(ask.method)
        .uri(ask.path)
        .header(header::HOST, address.authority())
        .header(header::USER_AGENT, concat!("starling/", env!("CARGO_PKG_VERSION")))
        .header(header::ACCEPT, "application/json")
        .header(header::CONTENT_TYPE, "application/json")
        .body(body)
        .map_err(|error| AskError::Broken(error.to_string()))?;
    let answer = async {
        let response = sender.send_request(request).await.map_err(broken)?;
        let status = response.status().as_u16();
        let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await;
        let body = body.map_err(|error| AskError::Broken(error.to_string()))?.to_bytes();
        Ok(Answer { status, body })
    };
    // The connection lives no longer than its one answer, so it needs no task of its own.
    tokio::pin!(answer, connection);
    tokio::select! {
        biased;
        answer = &mut answer => answer,
        _ = &mut connection => answer.await,
    }
}

/// The same for commands, which have no runtime of their own.
#[derive(Debug)]
pub(crate) struct Client {
    address: Address,
    runtime: tokio::runtime::Runtime,
}

impl Client {
    /// A client of the agent at `address`; nothing is opened yet.
    ///
    /// # Errors
    /// When the system gives no runtime.
    pub(crate) fn new(address: Address) -> Result<Self, CliError> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| CliError::plain(Exit::Bad, "cannot start a runtime").cause(error.to_string()))?;
        Ok(Self { address, runtime })
    }

    /// Whom it asks.
    pub(crate) fn address(&self) -> &Address {
        &self.address
    }

    /// Asks, and makes an error of everything but success.
    ///
    /// # Errors
    /// ST0301 and ST0302 when no agent answered, else the agent's own problem.
    pub(crate) fn ask(&self, request: Ask<'_>) -> Result<Answer, CliError> {
        let answer = self.try_ask(request)?;
        if answer.status < 400 { Ok(answer) } else { Err(refusal(&answer)) }
    }

    /// Reads a stream of lines until it ends.
    ///
    /// # Errors
    /// ST0301 and ST0302 when no agent answered, its own problem, or what `each` failed with.
    pub(crate) fn follow(
        &self,
        path: &str,
        mut each: impl FnMut(&[u8]) -> Result<(), CliError>,
    ) -> Result<Exit, CliError> {
        let reading = async {
            match &self.address {
                Address::Unix(socket) => {
                    let stream = UnixStream::connect(socket).await.map_err(refused)?;
                    lines(stream, &self.address, path, &mut each).await
                }
                Address::Http(authority) => {
                    let stream = TcpStream::connect(authority).await.map_err(refused)?;
                    lines(stream, &self.address, path, &mut each).await
                }
            }
        };
        let read = self.runtime.block_on(reading).map_err(|error| no_answer(&self.address, &error))?;
        read.map(|()| Exit::Done)
    }

    /// Asks; every status is an answer.
    ///
    /// # Errors
    /// ST0301 and ST0302 when no agent answered.
    pub(crate) fn try_ask(&self, request: Ask<'_>) -> Result<Answer, CliError> {
        self.try_ask_once(request).map_err(|error| no_answer(&self.address, &error))
    }

    /// The same, for who tells by himself why there was none.
    ///
    /// # Errors
    /// [`AskError`].
    pub(crate) fn try_ask_once(&self, request: Ask<'_>) -> Result<Answer, AskError> {
        self.runtime.block_on(ask(&self.address, request))
    }
}

/// What a person is told when no agent answered.
pub(crate) fn no_answer(address: &Address, error: &AskError) -> CliError {
    let no_agent = |cause: String| {
        CliError::coded(Exit::NoAgent, codes::NO_AGENT, format!("no agent answers at {address}")).cause(cause).help([
            "start it:  sudo systemctl start starling     or try it without root:  starling demo".to_owned(),
            "other address:  starling --address http://127.0.0.1:7741 …  (or STARLING_ADDRESS)".to_owned(),
        ])
    };
    match error {
        AskError::Denied(_) => {
            let uid = nix::unistd::geteuid();
            let place = match address {
                Address::Unix(path) => path.display().to_string(),
                Address::Http(authority) => authority.clone(),
            };
            let what = format!("permission denied on {place} (you are uid {uid})");
            let group = (place == SOCKET_DEFAULT).then(|| {
                "for changes join the group once:  sudo usermod -aG starling $USER   (log in again)".to_owned()
            });
            let read = "reading needs no root:  starling --address http://127.0.0.1:7741 members".to_owned();
            CliError::coded(Exit::Refused, codes::API_DENIED, what).help([read].into_iter().chain(group))
        }
        AskError::Connect(source) => no_agent(format!("connect: {source}")),
        AskError::TimedOut(_) => no_agent(error.to_string()),
        AskError::Broken(cause) => no_agent(format!("the answer is no HTTP: {cause}")),
    }
}

/// What a person is told when the agent refused.
pub(crate) fn refusal(answer: &Answer) -> CliError {
    let exit = match answer.status {
        400 | 405 | 406 | 415 => Exit::Usage,
        404 => Exit::NotFound,
        401 | 403 | 409 | 413 | 421 | 422 | 429 => Exit::Refused,
        408 | 504 => Exit::TimedOut,
        _ => Exit::Bad,
    };
    let Ok(problem) = serde_json::from_slice::<Problem>(&answer.body) else {
        return CliError::plain(exit, format!("the agent answered {} without a reason", answer.status));
    };
    let number = problem.code.strip_prefix("ST").and_then(|digits| digits.parse().ok());
    let error = match number.and_then(codes::find) {
        Some(code) => CliError::coded(exit, code, problem.detail),
        None => CliError::plain(exit, problem.detail),
    };
    let parts: Vec<String> = problem.errors.iter().map(|part| part.detail.clone()).collect();
    let error = if parts.is_empty() { error } else { error.cause(parts.join("\n")) };
    if problem.help.is_empty() { error } else { error.help([problem.help]) }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::os::unix::net::UnixListener;
    use std::path::Path;

    use super::*;

    /// Answers one connection with fixed bytes, then closes it.
    fn agent(path: &Path, reply: &'static [u8]) -> std::thread::JoinHandle<String> {
        let listener = UnixListener::bind(path).unwrap();
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = vec![0; 4096];
            let len = stream.read(&mut request).unwrap();
            stream.write_all(reply).unwrap();
            String::from_utf8_lossy(&request[..len]).into_owned()
        })
    }

    fn check(reply: &'static [u8]) -> (Result<Answer, CliError>, String) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("api.sock");
        let agent = agent(&path, reply);
        let answer = Client::new(Address::Unix(path)).unwrap().ask(Ask::get("/v1/members"));
        (answer, agent.join().unwrap())
    }

    #[test]
    fn a_body_comes_byte_for_byte() {
        let (answer, request) = check(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n{\"a\": 1}\n");
        assert_eq!(&answer.unwrap().body[..], b"{\"a\": 1}\n");
        assert!(request.starts_with("GET /v1/members HTTP/1.1\r\nhost: localhost\r\n"), "{request}");
    }

    #[test]
    fn a_problem_becomes_our_error_with_its_exit_code() {
        let (answer, _) = check(
            b"HTTP/1.1 403 Forbidden\r\ncontent-type: application/problem+json\r\n\r\n\
              {\"type\":\"urn:starling:error:ST0307\",\"title\":\"t\",\"status\":403,\"code\":\"ST0307\",\
              \"detail\":\"this door is read-only\",\"instance\":\"/v1/leave\",\"help\":\"use the socket\"}",
        );
        let error = answer.unwrap_err();
        assert_eq!((error.exit(), error.code()), (Exit::Refused, Some(codes::READ_ONLY)));
        assert_eq!(error.what(), "this door is read-only");
    }

    #[test]
    fn garbage_and_silence_are_no_agent() {
        for reply in [&b"SSH-2.0-OpenSSH\r\n"[..], b""] {
            let (answer, _) = check(reply);
            let error = answer.unwrap_err();
            assert_eq!((error.exit(), error.code()), (Exit::NoAgent, Some(codes::NO_AGENT)), "{error:?}");
        }
    }

    #[test]
    fn a_missing_socket_says_how_to_start_an_agent() {
        let client = Client::new(Address::Unix("/nowhere/api.sock".into())).unwrap();
        let error = client.ask(Ask::get("/v1/status")).unwrap_err();
        assert_eq!(error.exit(), Exit::NoAgent);
        let text = error.render(&crate::cli::look::Look::plain());
        assert!(text.starts_with("error[ST0301]: no agent answers at unix:///nowhere/api.sock\n"), "{text}");
        assert!(text.contains("  cause: connect: No such file or directory (os error 2)\n"), "{text}");
        assert!(text.contains("starling demo"), "{text}");
    }

    #[test]
    fn a_forbidden_socket_says_how_to_read_without_root() {
        let address = Address::Unix(SOCKET_DEFAULT.into());
        let error = no_answer(&address, &AskError::Denied(io::Error::from_raw_os_error(13)));
        let text = error.render(&crate::cli::look::Look::plain());
        assert!(text.starts_with("error[ST0302]: permission denied on /run/starling/api.sock (you are uid "), "{text}");
        assert!(text.contains("usermod -aG starling"), "{text}");
        assert_eq!(error.exit(), Exit::Refused);
    }
}
