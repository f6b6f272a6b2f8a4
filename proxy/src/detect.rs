//! What a connection speaks whose service does not say: HTTP by its first line, or by the preface of HTTP/2, else bytes.
//!
//! A client that speaks first is known by what it says. One that is silent gets its tunnel after a moment
//! ([`DETECT_PEEK`]), and what its server says first settles it: no such connection waits for the other side. If the
//! client then begins with a request after all, the tunnel is given up before a byte of it has passed.
//!
//! The owner's agent looks again: requests that a peer carries as bytes would reach the instance around the hardening.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep, timeout};

use crate::http::h2::Rewound;
use crate::http::outbound::{self, Route, Wanted};
use crate::l4::{self, Tunnelled};
use crate::limits::{DETECT_BYTES_MAX, DETECT_PEEK, DETECT_TIMEOUT};
use crate::worker::Worker;

/// Blank bytes before a request line that HTTP servers forgive.
const LEADING_BLANKS_MAX: usize = 4;
/// Longest method; the longest registered one has 17 letters.
const METHOD_BYTES_MAX: usize = 24;
const PREFACE_LINE: &[u8] = b"PRI * HTTP/2.0\r\n";

/// What first bytes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Seen {
    /// Could still be either.
    Unfinished,
    Http,
    Bytes,
}

fn look(bytes: &[u8]) -> Seen {
    if bytes.starts_with(PREFACE_LINE) {
        return Seen::Http;
    }
    let blanks = bytes.iter().take_while(|b| matches!(b, b'\r' | b'\n')).count();
    let line = bytes.get(blanks..).unwrap_or_default();
    let method = line.iter().take_while(|b| b.is_ascii_uppercase() || matches!(b, b'-' | b'_')).count();
    if blanks > LEADING_BLANKS_MAX || method > METHOD_BYTES_MAX {
        return Seen::Bytes;
    }
    match line.get(method) {
        None => return Seen::Unfinished,
        Some(b' ') if method > 0 => {}
        Some(_) => return Seen::Bytes,
    }
    let rest = line.get(method..).unwrap_or_default();
    let end = rest.iter().position(|b| *b == b'\n');
    let target = rest.get(..end.unwrap_or(rest.len())).unwrap_or_default();
    if target.iter().any(|b| b.is_ascii_control() && !matches!(b, b'\r' | b'\t')) {
        return Seen::Bytes;
    }
    let names_version = target.windows(6).any(|six| six == b" HTTP/");
    match end {
        Some(_) if names_version => Seen::Http,
        Some(_) => Seen::Bytes,
        None if bytes.len() < DETECT_BYTES_MAX => Seen::Unfinished,
        // A long target; the door of HTTP judges it.
        None if target.starts_with(b" /") || target.starts_with(b" http") => Seen::Http,
        None => Seen::Bytes,
    }
}

/// What first bytes count as that stay unfinished for [`DETECT_TIMEOUT`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Undecided {
    IsBytes,
    IsHttp,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Unknown(Undecided),
    Bytes,
    Http,
}

/// A stream that shows its first bytes to us before anybody else. Once they are a request, reading fails; once they are
/// something else, or the other direction has spoken first, it is the stream itself.
#[derive(Debug)]
pub(crate) struct Sniff<S> {
    inner: S,
    state: State,
    held: Vec<u8>,
    reader: Option<Waker>,
    timer: Option<Pin<Box<Sleep>>>,
}

impl<S> Sniff<S> {
    pub(crate) fn new(inner: S, undecided: Undecided) -> Self {
        Self { inner, state: State::Unknown(undecided), held: Vec::new(), reader: None, timer: None }
    }

    /// One that looks at nothing.
    pub(crate) fn open(inner: S) -> Self {
        Self { inner, state: State::Bytes, held: Vec::new(), reader: None, timer: None }
    }

    pub(crate) fn inner(&self) -> &S {
        &self.inner
    }

    pub(crate) fn inner_mut(&mut self) -> &mut S {
        &mut self.inner
    }

    pub(crate) fn is_http(&self) -> bool {
        self.state == State::Http
    }

    fn settle(&mut self, state: State) {
        self.state = state;
        self.timer = None;
        if let Some(reader) = self.reader.take() {
            reader.wake();
        }
    }
}

impl<S: AsyncRead + Unpin> Sniff<S> {
    /// Ready once it is known what the stream carries.
    fn poll_known(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while let State::Unknown(undecided) = self.state {
            let mut space = [0; 1_024];
            let mut fresh = ReadBuf::new(&mut space);
            match Pin::new(&mut self.inner).poll_read(cx, &mut fresh) {
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                // The end; whoever reads on meets it again.
                Poll::Ready(Ok(())) if fresh.filled().is_empty() => self.settle(State::Bytes),
                Poll::Ready(Ok(())) => {
                    self.held.extend_from_slice(fresh.filled());
                    match look(&self.held) {
                        Seen::Unfinished => {}
                        Seen::Http => self.settle(State::Http),
                        Seen::Bytes => self.settle(State::Bytes),
                    }
                }
                Poll::Pending => {
                    self.reader = Some(cx.waker().clone());
                    if self.held.is_empty() {
                        return Poll::Pending;
                    }
                    let timer = self.timer.get_or_insert_with(|| Box::pin(sleep(DETECT_TIMEOUT)));
                    ready!(timer.as_mut().poll(cx));
                    self.settle(match undecided {
                        Undecided::IsBytes => State::Bytes,
                        Undecided::IsHttp => State::Http,
                    });
                }
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Sniff<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_known(cx))?;
        if this.state == State::Http {
            return Poll::Ready(Err(io::ErrorKind::Unsupported.into()));
        }
        if this.held.is_empty() {
            return Pin::new(&mut this.inner).poll_read(cx, buf);
        }
        let count = this.held.len().min(buf.remaining());
        buf.put_slice(this.held.get(..count).unwrap_or_default());
        this.held.drain(..count);
        if this.held.is_empty() {
            this.held = Vec::new();
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Sniff<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if let State::Unknown(_) = this.state {
            // The server speaks first, as no HTTP server does.
            this.settle(State::Bytes);
        }
        Pin::new(&mut this.inner).poll_write(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_shutdown(cx)
    }
}

impl<S: Tunnelled> Tunnelled for Sniff<S> {
    fn break_off(&self) {
        self.inner.break_off();
    }
}

/// Serves one connection of an application as what it turns out to speak. Owns it; dropping this at any `.await` closes
/// it.
pub(crate) async fn serve<S: Tunnelled>(worker: Rc<Worker>, stream: S, wanted: Wanted) {
    let mut stream = Sniff::new(stream, Undecided::IsBytes);
    if let Ok(Err(_)) = timeout(DETECT_PEEK, poll_fn(|cx| stream.poll_known(cx))).await {
        return;
    }
    if !stream.is_http() {
        l4::outbound::serve(worker.clone(), &mut stream, &wanted).await;
    }
    if stream.is_http() {
        // One type for all, since what is served here may lead here again.
        let inner: Box<dyn Tunnelled> = Box::new(stream.inner);
        let stream = Rewound::new(stream.held, inner);
        outbound::serve(worker, stream, Route::Fixed(Rc::new(wanted))).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_bytes_tell_requests_from_everything_else() {
        let check = |bytes: &[u8], want| assert_eq!(look(bytes), want, "{:?}", String::from_utf8_lossy(bytes));
        let http: [&[u8]; 6] = [
            b"GET / HTTP/1.1\r\n",
            b"\r\nPOST http://a/ HTTP/1.0\r\nHost",
            b"PROPFIND /x HTTP/1.1\n",
            b"M-SEARCH * HTTP/1.1\r\n",
            b"GET / HTTP/9.9 x\r\n",
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        ];
        for bytes in http {
            check(bytes, Seen::Http);
            let line = bytes.iter().rposition(|b| *b == b'\n').unwrap();
            let first = bytes.iter().skip(2).position(|b| *b == b'\n').unwrap() + 2;
            for end in 0..first.min(line) {
                check(&bytes[..end], Seen::Unfinished);
            }
        }
        let other: [&[u8]; 12] = [
            b"\x16\x03\x01\x02\x00\x01",
            b"\0\0\0\x08\x04\xd2\x16\x2f",
            b"*1\r\n$4\r\nPING\r\n",
            b"PING\r\n",
            b"SSH-2.0-OpenSSH_9.2\r\n",
            b"EHLO example.org\r\n",
            b"GET key\r\n",
            b"get key\r\n",
            b"ruok",
            b"SELECT 1;\n",
            b"GET /\0 HTTP/1.1\r\n",
            b"\r\n\r\n\r\n",
        ];
        for bytes in other {
            check(bytes, Seen::Bytes);
        }
        let long = |first: &str| [first.as_bytes(), &vec![b'x'; DETECT_BYTES_MAX]].concat();
        check(&long("GET /"), Seen::Http);
        check(&long("GET "), Seen::Bytes);
        check(&long("GET /")[..DETECT_BYTES_MAX - 1], Seen::Unfinished);
        check(&[b'A'; METHOD_BYTES_MAX], Seen::Unfinished);
        check(&[b'A'; METHOD_BYTES_MAX + 1], Seen::Bytes);
    }

    #[tokio::test(start_paused = true)]
    async fn an_unfinished_line_is_waited_for_only_so_long() {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        for (undecided, http) in [(Undecided::IsBytes, false), (Undecided::IsHttp, true)] {
            let (mut client, near) = tokio::io::duplex(64);
            let mut sniff = Sniff::new(near, undecided);
            client.write_all(b"GE").await.unwrap();
            let began = tokio::time::Instant::now();
            let mut got = [0; 2];
            assert_eq!(sniff.read_exact(&mut got).await.is_err(), http);
            assert_eq!(sniff.is_http(), http);
            assert_eq!(began.elapsed().as_secs(), DETECT_TIMEOUT.as_secs());
        }
    }
}
