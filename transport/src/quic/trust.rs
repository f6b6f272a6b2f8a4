//! Questions about trust (ALPN `starling-trust/1`): the public chain of trust bundles and renewed certificates, for anybody,
//! a node that is refused everywhere among them. What is answered proves itself, so neither side shows a certificate that
//! counts.
//!
//! One connection carries one question and one answer on one stream. Few are served at a time, each source once a second,
//! and each for a short while; whatever else comes ends the connection and is counted. What a question means is known to
//! who gave [`TrustAnswers`].

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use bytes::Bytes;
use quinn::Connection;
use quinn::crypto::rustls::HandshakeData;
use starling_identity::tls;
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tracing::debug;

use super::limits::{
    HANDSHAKE_DEADLINE, SOURCES_MAX, TRUST_ANSWER_BYTES_MAX, TRUST_DEADLINE, TRUST_PLACES_MAX,
    TRUST_QUESTION_BYTES_MAX, TRUST_SOURCE_PAUSE,
};
use super::stats::Counter;
use super::{CloseCode, Inner, lock, peer, tuning};
use crate::error::DialError;

/// Answers a question; `None` when it is none.
pub type TrustAnswers = Arc<dyn Fn(&[u8]) -> Option<Bytes> + Send + Sync>;

/// Who is served, and by whom.
pub(super) struct Desk {
    answers: Mutex<Option<TrustAnswers>>,
    places: Semaphore,
    served: Mutex<Served>,
}

impl Default for Desk {
    fn default() -> Self {
        let places = Semaphore::new(TRUST_PLACES_MAX);
        Self { answers: Mutex::default(), places, served: Mutex::default() }
    }
}

impl Desk {
    #[cfg(test)]
    pub(super) fn take_places(&self, count: usize) -> tokio::sync::SemaphorePermit<'_> {
        self.places.try_acquire_many(u32::try_from(count).unwrap()).unwrap()
    }

    pub(super) fn set(&self, answers: TrustAnswers) {
        *lock(&self.answers) = Some(answers);
    }
}

/// When sources were served last, and which are being served.
#[derive(Debug, Default)]
struct Served {
    last: BTreeMap<IpAddr, Instant>,
    now: BTreeSet<IpAddr>,
}

impl Served {
    /// True when this source may ask now; it counts as being served until [`Self::done`]. One source has one place at a
    /// time, however slowly it asks and reads.
    fn admits(&mut self, from: SocketAddr, now: Instant) -> bool {
        let source = source_of(from);
        let soon = |at: &Instant| now.saturating_duration_since(*at) < TRUST_SOURCE_PAUSE;
        if self.last.len() >= SOURCES_MAX && !self.last.contains_key(&source) {
            self.last.retain(|_, at| soon(at));
        }
        let full = self.last.len() >= SOURCES_MAX && !self.last.contains_key(&source);
        if full || self.last.get(&source).is_some_and(soon) || !self.now.insert(source) {
            return false;
        }
        self.last.insert(source, now);
        true
    }

    fn done(&mut self, from: SocketAddr) {
        self.now.remove(&source_of(from));
    }
}

/// An IPv4 address, or an IPv6 network of 64 bits.
fn source_of(from: SocketAddr) -> IpAddr {
    match from.ip().to_canonical() {
        ip @ IpAddr::V4(_) => ip,
        IpAddr::V6(ip) => {
            let [a, b, c, d, ..] = ip.segments();
            IpAddr::from([a, b, c, d, 0, 0, 0, 0])
        }
    }
}

/// Is this connection for questions?
pub(super) fn is_asked(connection: &Connection) -> bool {
    let protocol = connection.handshake_data().and_then(|data| data.downcast::<HandshakeData>().ok());
    protocol.and_then(|data| data.protocol).as_deref() == Some(tls::ALPN_TRUST)
}

/// Serves one connection to its end.
pub(super) async fn serve(inner: &Inner, connection: &Connection) {
    let from = connection.remote_address();
    let Ok(_place) = inner.trust.places.try_acquire() else {
        return refuse(connection, CloseCode::Busy, &inner.counters.trust_busy);
    };
    // An answer to who is served too often is what a flood is after.
    if !lock(&inner.trust.served).admits(from, Instant::now()) {
        return refuse(connection, CloseCode::Busy, &inner.counters.trust_busy);
    }
    let served = timeout(TRUST_DEADLINE, answer(inner, connection)).await;
    lock(&inner.trust.served).done(from);
    match served {
        Ok(Some(())) => inner.counters.trust_answered.add(1),
        Ok(None) | Err(_) => {
            debug!(%from, "a question about trust that is none");
            refuse(connection, CloseCode::Malformed, &inner.counters.trust_refused);
        }
    }
}

fn refuse(connection: &Connection, code: CloseCode, counter: &Counter) {
    counter.add(1);
    connection.close(code.number(), code.word());
}

async fn answer(inner: &Inner, connection: &Connection) -> Option<()> {
    let (mut send, mut receive) = connection.accept_bi().await.ok()?;
    let question = receive.read_to_end(TRUST_QUESTION_BYTES_MAX).await.ok()?;
    let answers = lock(&inner.trust.answers).clone()?;
    let answer = answers(&question).filter(|answer| answer.len() <= TRUST_ANSWER_BYTES_MAX)?;
    send.write_chunk(answer).await.ok()?;
    send.finish().ok()?;
    // The asker closes when it has read all.
    connection.closed().await;
    Some(())
}

/// Asks whoever is at an address.
pub(super) async fn ask(inner: &Inner, address: SocketAddr, question: Bytes) -> Result<Bytes, DialError> {
    let asked = converse(inner, address, question).await;
    let counter = if asked.is_ok() { &inner.counters.trust_asked } else { &inner.counters.trust_unanswered };
    counter.add(1);
    asked
}

async fn converse(inner: &Inner, address: SocketAddr, question: Bytes) -> Result<Bytes, DialError> {
    let handshake = |error: String| DialError::Handshake(error);
    let config = tuning::trust_client(inner.clock, &inner.transport).map_err(|error| handshake(error.to_string()))?;
    let connecting = inner.endpoint.connect_with(config, address, tls::SERVER_NAME);
    let connecting = connecting.map_err(|error| handshake(error.to_string()))?;
    let connection = timeout(HANDSHAKE_DEADLINE, connecting).await.map_err(|_| DialError::Timeout)?;
    let connection = connection.map_err(|error| peer::dial_error(&error))?;
    if !is_asked(&connection) {
        connection.close(CloseCode::Malformed.number(), CloseCode::Malformed.word());
        return Err(DialError::OtherProtocol);
    }
    let exchange = async {
        let (mut send, mut receive) = connection.open_bi().await.map_err(|error| peer::dial_error(&error))?;
        let sent = send.write_chunk(question).await.is_ok() && send.finish().is_ok();
        let answer = if sent { receive.read_to_end(TRUST_ANSWER_BYTES_MAX).await.ok() } else { None };
        answer
            .map(Bytes::from)
            .ok_or_else(|| connection.close_reason().map_or(DialError::OtherProtocol, |error| peer::dial_error(&error)))
    };
    let answer = timeout(TRUST_DEADLINE, exchange).await.unwrap_or(Err(DialError::Timeout));
    connection.close(CloseCode::Answered.number(), CloseCode::Answered.word());
    answer
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_source_is_served_once_a_second_and_few_are_remembered() {
        let (mut served, now) = (Served::default(), Instant::now());
        let at = |n: usize| SocketAddr::from((u32::try_from(0x0a00_0000 + n).unwrap().to_be_bytes(), 1));
        assert!(served.admits(at(0), now));
        assert!(!served.admits(at(0), now + TRUST_SOURCE_PAUSE - Duration::from_millis(1)));
        assert!(!served.admits(at(0), now + TRUST_SOURCE_PAUSE), "it is still being served");
        served.done(at(0));
        assert!(served.admits(at(0), now + TRUST_SOURCE_PAUSE), "who was refused is not put off further");
        let now = now + TRUST_SOURCE_PAUSE;
        assert!((1..SOURCES_MAX).all(|n| served.admits(at(n), now)));
        assert!(!served.admits(at(SOURCES_MAX), now));
        assert!(served.admits(at(SOURCES_MAX), now + TRUST_SOURCE_PAUSE));
        let v6 = |text: &str| text.parse::<SocketAddr>().unwrap();
        assert_eq!(source_of(v6("[2001:db8::1]:1")), source_of(v6("[2001:db8::2]:2")));
        assert_ne!(source_of(v6("[2001:db8::1]:1")), source_of(v6("[2001:db8:0:1::1]:1")));
        assert_eq!(source_of(v6("[::ffff:10.0.0.0]:1")), source_of(at(0)));
    }
}
