//! Dialling: all addresses of a peer, a little apart, the first that answers wins. Exactly one report per dial.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use quinn::Connection;
use starling_identity::tls;
use starling_model::NodeName;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tracing::debug;

use super::peer::{self, HANDSHAKE_DEADLINE, Origin};
use super::table::{REPLACEMENT_WAIT, Registered};
use super::{CloseCode, DialTag, Inner, NetEvent, tuning};
use crate::error::DialError;

/// Dials under way at once; a join makes eight.
pub(super) const DIALS_MAX: usize = 64;

/// Addresses tried of one dial.
const ADDRESSES_MAX: usize = 8;

/// Time between the first tries of two addresses.
const STAGGER: Duration = Duration::from_millis(250);

/// Time between two looks for a connection that crossed ours.
const CROSSED_PAUSE: Duration = Duration::from_millis(10);

/// Dials and reports. Nothing of it is awaited by the caller.
pub(super) fn start(inner: &Arc<Inner>, expected: Option<NodeName>, tag: DialTag, addresses: Vec<SocketAddr>) {
    if let Some(peer) = &expected
        && inner.table().report_up(peer, Some(tag.clone()))
    {
        // The pair is connected already, perhaps since a moment ago by the other side's dial.
        inner.changed.notify_one();
        return;
    }
    let Ok(permit) = Arc::clone(&inner.dials).try_acquire_owned() else {
        report(inner, tag, expected, DialError::NotDialled("too many dials are under way"));
        return;
    };
    let inner = Arc::clone(inner);
    tokio::spawn(async move {
        match reach(&inner, expected.as_ref(), addresses, &tag).await {
            Ok(()) => inner.counters.dials.add(1),
            Err(error) => {
                inner.counters.dials_failed.add(1);
                report(&inner, tag, expected, error);
            }
        }
        drop(permit);
    });
}

fn report(inner: &Inner, tag: DialTag, expected: Option<NodeName>, reason: DialError) {
    debug!(reason = reason.reason(), error = %reason, "gossip dial failed");
    if !inner.table().report(NetEvent::DialFailed { tag, expected, reason }) {
        inner.counters.reports_dropped.add(1);
    }
    inner.changed.notify_one();
}

async fn reach(
    inner: &Arc<Inner>,
    expected: Option<&NodeName>,
    addresses: Vec<SocketAddr>,
    tag: &DialTag,
) -> Result<(), DialError> {
    let connection = connect(inner, expected, addresses).await?;
    // Only the winner says hello, so the peer never counts the others.
    let (peer, hello) = match peer::meet(inner, &connection).await {
        Ok(met) => met,
        Err(DialError::Closed(why)) if why == CloseCode::Duplicate.text() => {
            // The peer's own dial crossed ours and stays: it is up here in a moment.
            let peer = peer::prove(inner, &connection)?;
            return crossed(inner, &peer, tag).await;
        }
        Err(error) => return Err(error),
    };
    match peer::join(inner, &peer, connection, &hello, Origin::Dialled(tag.clone())) {
        Registered::Kept | Registered::Duplicate => Ok(()),
        Registered::Busy => Err(DialError::NotDialled("too many connections are open")),
    }
}

/// Waits until the other connection of a pair has said its hello.
async fn crossed(inner: &Arc<Inner>, peer: &NodeName, tag: &DialTag) -> Result<(), DialError> {
    let end = Instant::now() + REPLACEMENT_WAIT;
    while Instant::now() < end {
        if inner.table().report_up(peer, Some(tag.clone())) {
            inner.changed.notify_one();
            return Ok(());
        }
        tokio::time::sleep(CROSSED_PAUSE).await;
    }
    Err(DialError::Closed(CloseCode::Duplicate.text().to_owned()))
}

/// The first connection that comes about; else the most telling of the errors.
async fn connect(
    inner: &Arc<Inner>,
    expected: Option<&NodeName>,
    addresses: Vec<SocketAddr>,
) -> Result<Connection, DialError> {
    let config = tuning::client(&inner.current, expected.cloned(), inner.clock, &inner.transport)
        .map_err(|error| DialError::Handshake(error.to_string()))?;
    let mut tries = JoinSet::new();
    for (at, address) in (0_u32..).zip(addresses.into_iter().take(ADDRESSES_MAX)) {
        let (endpoint, config) = (inner.endpoint.clone(), config.clone());
        tries.spawn(async move {
            tokio::time::sleep(STAGGER * at).await;
            let connecting = endpoint
                .connect_with(config, address, tls::SERVER_NAME)
                .map_err(|error| DialError::Handshake(error.to_string()))?;
            match timeout(HANDSHAKE_DEADLINE, connecting).await {
                Ok(connected) => connected.map_err(|error| peer::dial_error(&error)),
                Err(_) => Err(DialError::Timeout),
            }
        });
    }
    let mut worst = DialError::NotDialled("no address is known");
    while let Some(outcome) = tries.join_next().await {
        match outcome {
            Ok(Ok(connection)) => return Ok(connection),
            Ok(Err(error)) if weight(&error) >= weight(&worst) => worst = error,
            Ok(Err(_)) | Err(_) => {}
        }
    }
    Err(worst)
}

/// What tells a person more: who answered and refused, over who did not answer, over what was never tried.
fn weight(error: &DialError) -> u8 {
    match error {
        DialError::NotDialled(_) => 0,
        DialError::Unreachable(_) => 1,
        DialError::Timeout => 2,
        DialError::Handshake(_) | DialError::Closed(_) => 3,
        DialError::OtherProtocol | DialError::NoCommonVersion { .. } | DialError::OurOwnName(_) => 4,
        DialError::PeerCertificate(_) | DialError::OurCertificate(_) | DialError::OtherMesh(_) => 5,
    }
}
