//! One gossip connection from its handshake to its end.

use std::sync::Arc;
use std::time::Instant;

use quinn::crypto::rustls::HandshakeData;
use quinn::{Connection, ConnectionError, TransportErrorCode};
use rustls::pki_types::CertificateDer;
use starling_identity::{PeerIdentity, tls};
use starling_model::NodeName;
use tokio::sync::mpsc::error::TrySendError;
use tokio::time::timeout;
use tracing::{debug, info, warn};

use super::accept::Pending;
use super::close::end_of;
use super::hello::{Hello, PROTOCOL_MAX, PROTOCOL_MIN};
use super::limits::{DUPLICATE_LIFE, HANDSHAKE_DEADLINE, HELLO_BYTES_MAX};
use super::table::{Dialled, Link, LinkFacts, REPLACEMENT_WAIT, Registered, Shown, canonical};
use super::{CloseCode, DialTag, Inner, NetEvent, dial, exchange, trust};
use crate::error::{CertificateRefusal, DialError, refusal_of_alert};

/// TLS alerts in QUIC's error codes (RFC 9001, 4.8).
const CRYPTO_CODES: std::ops::Range<u64> = 0x100..0x200;

/// An inbound connection: handshake, hello, then its life. Dropping the task closes the connection.
pub(super) async fn accepted(inner: Arc<Inner>, connecting: quinn::Connecting, pending: Pending) {
    let from = connecting.remote_address();
    let connection = match timeout(HANDSHAKE_DEADLINE, connecting).await {
        Ok(Ok(connection)) => connection,
        Ok(Err(error)) => {
            inner.counters.handshakes_refused.add(1);
            debug!(%from, %error, "gossip handshake failed");
            return;
        }
        Err(_) => {
            inner.counters.handshakes_refused.add(1);
            return;
        }
    };
    if trust::is_asked(&connection) {
        drop(pending);
        return trust::serve(&inner, &connection).await;
    }
    let met = meet(&inner, &connection).await;
    drop(pending);
    match met {
        Ok((peer, hello)) => {
            inner.counters.handshakes_accepted.add(1);
            let _ = join(&inner, &peer, connection, &hello, Origin::Accepted);
        }
        Err(error) => {
            inner.counters.handshakes_refused.add(1);
            // What it said was wrong, but who it is may be proven all the same.
            tell_stranger(&inner, prove(&inner, &connection).ok().map(|peer| peer.node).as_ref(), &connection, &error);
        }
    }
}

/// Where a connection comes from.
pub(super) enum Origin {
    Accepted,
    Dialled(DialTag),
    /// Dialled to replace one of ours that has grown old.
    Renewed,
}

/// Proves the peer and exchanges hellos. On an error the connection is closed with a code that says why.
pub(super) async fn meet(inner: &Inner, connection: &Connection) -> Result<(PeerIdentity, Hello), DialError> {
    let met = match prove(inner, connection) {
        Ok(peer) => match timeout(HANDSHAKE_DEADLINE, exchange_hellos(inner, &peer.node, connection)).await {
            Ok(hello) => hello.map(|hello| (peer, hello)),
            Err(_) => Err(DialError::Timeout),
        },
        Err(error) => Err(error),
    };
    if let Err(error) = &met {
        let code = match error {
            DialError::OtherMesh(_) => CloseCode::OtherMesh,
            DialError::NoCommonVersion { .. } => CloseCode::NoCommonVersion,
            DialError::OurOwnName(_) => CloseCode::Duplicate,
            DialError::Timeout
            | DialError::Unreachable(_)
            | DialError::PeerCertificate(_)
            | DialError::OurCertificate(_)
            | DialError::OtherProtocol
            | DialError::Handshake(_)
            | DialError::Closed(_)
            | DialError::NotDialled(_) => CloseCode::Malformed,
        };
        connection.close(code.number(), code.word());
    }
    met
}

/// Who is at the other end, by protocol and certificate.
pub(super) fn prove(inner: &Inner, connection: &Connection) -> Result<PeerIdentity, DialError> {
    let data = connection.handshake_data().and_then(|data| data.downcast::<HandshakeData>().ok());
    let Some(data) = data.filter(|data| data.protocol.as_deref() == Some(tls::ALPN_GOSSIP)) else {
        return Err(DialError::OtherProtocol);
    };
    let certificates = connection.peer_identity().and_then(|any| any.downcast::<Vec<CertificateDer<'static>>>().ok());
    let peer = tls::peer_of(&certificates.unwrap_or_default(), &inner.current, inner.clock)
        .map_err(|refused| DialError::PeerCertificate(CertificateRefusal::from(&refused)))?;
    if peer.node == inner.me {
        return Err(DialError::OurOwnName(peer.node));
    }
    inner.current.negotiated().note(&peer.node, data.negotiated_key_exchange_group, Instant::now());
    Ok(peer)
}

async fn exchange_hellos(inner: &Inner, peer: &NodeName, connection: &Connection) -> Result<Hello, DialError> {
    let holds_another = inner.table().current(peer).is_some();
    let ours =
        Hello { mesh: inner.mesh, versions: (PROTOCOL_MIN, PROTOCOL_MAX), instance: inner.instance, holds_another };
    let send = async {
        let mut stream = connection.open_uni().await?;
        if stream.write_all(&ours.encode()).await.is_ok() {
            let _ = stream.finish();
        }
        Ok::<(), ConnectionError>(())
    };
    let receive = async {
        let mut stream = connection.accept_uni().await?;
        Ok::<_, ConnectionError>(stream.read_to_end(HELLO_BYTES_MAX).await.ok())
    };
    let ((), theirs) = tokio::try_join!(send, receive).map_err(|error| dial_error(&error))?;
    let Some(theirs) = theirs.and_then(|bytes| Hello::decode(&bytes)) else {
        // Why the stream ended says more than that it ended.
        return Err(connection.close_reason().map_or(DialError::OtherProtocol, |error| dial_error(&error)));
    };
    if theirs.mesh != inner.mesh {
        return Err(DialError::OtherMesh(theirs.mesh));
    }
    if !theirs.is_understood() {
        let (min, max) = theirs.versions;
        return Err(DialError::NoCommonVersion { min, max });
    }
    Ok(theirs)
}

/// Puts a connection into the table and starts its task.
pub(super) fn join(
    inner: &Arc<Inner>,
    proven: &PeerIdentity,
    connection: Connection,
    hello: &Hello,
    origin: Origin,
) -> Registered {
    let (dialled, tag) = match origin {
        Origin::Accepted => (Dialled::ByPeer, None),
        Origin::Dialled(tag) => (Dialled::ByUs, Some(tag)),
        Origin::Renewed => (Dialled::Renewed, None),
    };
    let (peer, shown) = (&proven.node, Shown { issuing_key_hash: proven.issuing_key_hash, root: proven.root });
    let mut table = inner.table();
    // Who changes trust sweeps the table afterwards, so either that or this sees a connection that came meanwhile.
    if !inner.current.trust().stands(peer, &shown.issuing_key_hash, shown.root) {
        connection.close(CloseCode::Untrusted.number(), CloseCode::Untrusted.word());
        return Registered::Untrusted;
    }
    let number = table.next_number();
    let facts = LinkFacts {
        number,
        dialled,
        instance: hello.instance,
        since: Instant::now(),
        peer_holds_another: hello.holds_another,
        shown,
    };
    let registered = table.register(peer, Link { connection: connection.clone(), facts }, tag);
    drop(table);
    inner.changed.notify_one();
    let duplicates = match &registered {
        Registered::Kept(replaced) => replaced.clone(),
        Registered::Duplicate => vec![number],
        Registered::Busy | Registered::Untrusted => return registered,
    };
    tokio::spawn(live(Arc::clone(inner), peer.clone(), facts, connection));
    if !duplicates.is_empty() {
        let (inner, peer) = (Arc::clone(inner), peer.clone());
        tokio::spawn(async move {
            tokio::time::sleep(DUPLICATE_LIFE).await;
            let mut table = inner.table();
            duplicates.into_iter().for_each(|number| table.retire(&peer, number));
        });
    }
    registered
}

/// A connection's life: hands on what comes, until it ends. Who dialled it sees to it that it does not grow too old.
/// Every arm of the `select!` is cancel-safe.
async fn live(inner: Arc<Inner>, peer: NodeName, facts: LinkFacts, connection: Connection) {
    let is_ours = facts.dialled != Dialled::ByPeer;
    let mut renewal = Box::pin(tokio::time::sleep(dial::age(inner.age_max)));
    let error = loop {
        tokio::select! {
            () = &mut renewal, if is_ours => {
                tokio::spawn(dial::renew(Arc::clone(&inner), peer.clone(), facts.number, connection.remote_address()));
                // Again, should this one come to nothing.
                renewal.as_mut().reset(tokio::time::Instant::now() + dial::renewal_pause(inner.age_max));
            }
            datagram = connection.read_datagram() => match datagram {
                Ok(payload) => deliver(&inner, NetEvent::Datagram { from: peer.clone(), payload }),
                Err(error) => break error,
            },
            stream = connection.accept_bi() => match stream {
                Ok((send, receive)) => exchange::serve(&inner, &peer, send, receive),
                Err(error) => break error,
            },
            stream = connection.accept_uni() => match stream {
                // The hello was the only one there is to say.
                Ok(mut receive) => drop(receive.stop(CloseCode::Malformed.number())),
                Err(error) => break error,
            },
        }
    };
    let end = end_of(&error);
    debug!(member = %peer, %error, "gossip connection ended");
    let must_wait = inner.table().ended(&peer, facts.number, end);
    inner.changed.notify_one();
    if must_wait {
        tokio::time::sleep(REPLACEMENT_WAIT).await;
        inner.table().expire(&peer);
        inner.changed.notify_one();
    }
}

fn deliver(inner: &Inner, event: NetEvent) {
    let length = if let NetEvent::Datagram { payload, .. } = &event { payload.len() } else { 0 };
    match inner.inbox.try_send(event) {
        Ok(()) => {
            inner.counters.datagrams_received.add(1);
            inner.counters.datagram_bytes_received.add(length as u64);
        }
        // The newest is dropped: what waits is older and has waited already.
        Err(TrySendError::Full(_)) => inner.counters.datagrams_dropped_inbox.add(1),
        Err(TrySendError::Closed(_)) => {}
    }
}

/// What QUIC says about a dial, in our layers.
pub(super) fn dial_error(error: &ConnectionError) -> DialError {
    match error {
        ConnectionError::TimedOut => DialError::Timeout,
        // Our own TLS refused: the text holds the verifier's reason.
        ConnectionError::TransportError(inner) => match CertificateRefusal::in_text(&inner.reason) {
            Some(refusal) => DialError::PeerCertificate(refusal),
            None => alert_of(inner.code)
                .and_then(refusal_of_alert)
                .unwrap_or_else(|| DialError::Handshake(inner.to_string())),
        },
        // The peer's TLS refused.
        ConnectionError::ConnectionClosed(close) => alert_of(close.error_code)
            .and_then(refusal_of_alert)
            .unwrap_or_else(|| DialError::Closed(close.to_string())),
        ConnectionError::ApplicationClosed(close) => match CloseCode::of(close.error_code) {
            Some(CloseCode::OtherMesh) => DialError::OurCertificate("it belongs to another mesh".to_owned()),
            Some(code) => DialError::Closed(code.text().to_owned()),
            None => DialError::Closed(close.to_string()),
        },
        ConnectionError::VersionMismatch => DialError::OtherProtocol,
        ConnectionError::Reset => DialError::Closed("reset".to_owned()),
        ConnectionError::LocallyClosed => DialError::NotDialled("this agent is shutting down"),
        ConnectionError::CidsExhausted => DialError::NotDialled("no connection id is free"),
    }
}

fn alert_of(code: TransportErrorCode) -> Option<rustls::AlertDescription> {
    let code = u64::from(code);
    let alert = CRYPTO_CODES.contains(&code).then_some(code & 0xff)?;
    Some(rustls::AlertDescription::from(u8::try_from(alert).ok()?))
}

/// A stranger at the door: counted each time, logged once per cause and address.
fn tell_stranger(inner: &Inner, peer: Option<&NodeName>, connection: &Connection, error: &DialError) {
    let peer = peer.map_or("unknown", NodeName::as_str);
    let from = canonical(connection.remote_address());
    match error {
        DialError::OtherMesh(mesh) => {
            inner.counters.other_mesh.add(1);
            if inner.is_first_stranger(from.ip()) {
                warn!(peer, reason = error.reason(), mesh = %mesh.short(), "an agent of another mesh was refused");
            }
        }
        DialError::NoCommonVersion { min, max } => {
            if inner.is_first_stranger(from.ip()) {
                warn!(
                    peer,
                    reason = error.reason(),
                    min,
                    max,
                    "an agent without a common protocol version was refused"
                );
            }
        }
        DialError::OurOwnName(name) => {
            if inner.is_first_stranger(from.ip()) {
                info!(member = %name, "an agent with our own name was refused");
            }
        }
        DialError::Timeout
        | DialError::Unreachable(_)
        | DialError::PeerCertificate(_)
        | DialError::OurCertificate(_)
        | DialError::OtherProtocol
        | DialError::Handshake(_)
        | DialError::Closed(_)
        | DialError::NotDialled(_) => debug!(%from, reason = error.reason(), %error, "gossip connection refused"),
    }
}
