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

use super::limits::{ADDRESSES_MAX, HANDSHAKE_DEADLINE, REPLACED_LIFE};
use super::peer::{self, Origin};
use super::table::{Number, REPLACEMENT_WAIT, Registered};
use super::{CloseCode, DialTag, Inner, NetEvent, Pair, tuning};
use crate::error::DialError;

/// Time between the first tries of two addresses.
const STAGGER: Duration = Duration::from_millis(250);

/// Time between two looks for a connection that crossed ours.
const CROSSED_PAUSE: Duration = Duration::from_millis(10);

/// Dials and reports. Nothing of it is awaited by the caller.
pub(super) fn start(inner: &Arc<Inner>, expected: Option<NodeName>, tag: DialTag, addresses: Vec<SocketAddr>) {
    if let Some(peer) = &expected
        && inner.table().report_up(peer, Pair::Same, Some(tag.clone()))
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
            return crossed(inner, &peer.node, tag).await;
        }
        Err(error) => return Err(error),
    };
    inner.counters.handshakes_dialled.add(1);
    match peer::join(inner, &peer, connection, &hello, Origin::Dialled(tag.clone())) {
        Registered::Kept(_) | Registered::Duplicate => Ok(()),
        Registered::Busy => Err(DialError::NotDialled("too many connections are open")),
        Registered::Untrusted => Err(DialError::NotDialled("trust changed meanwhile")),
    }
}

/// A connection's age limit: `mean`, give or take a fifth, so that a mesh that started at once does not renew at once.
pub(super) fn age(mean: Duration) -> Duration {
    let mut dice = [0; 2];
    // Without chance all renew at the mean.
    let share = if aws_lc_rs::rand::fill(&mut dice).is_ok() { u32::from(u16::from_le_bytes(dice)) } else { 1 << 15 };
    // Of 65,536 parts of the mean: four fifths, and up to two more.
    mean / 5 * 4 + mean / 5 * 2 / (1 << 16) * share
}

/// Time until a renewal is tried again: a twelfth of the age, half an hour of six.
pub(super) fn renewal_pause(mean: Duration) -> Duration {
    mean / 12
}

/// Replaces connection `old` with a fresh one to the same address. New exchanges and datagrams take the new one; what
/// runs on the old one ends by itself, and only then it is closed. A failure changes nothing: the caller tries again.
pub(super) async fn renew(inner: Arc<Inner>, peer: NodeName, old: Number, address: SocketAddr) {
    if !inner.table().is_current(&peer, old) {
        return;
    }
    let fresh = async {
        let connection = connect(&inner, Some(&peer), vec![address]).await?;
        let (proven, hello) = peer::meet(&inner, &connection).await?;
        Ok::<_, DialError>((connection, proven, hello))
    };
    match fresh.await {
        Ok((connection, proven, hello)) => {
            let registered = peer::join(&inner, &proven, connection, &hello, Origin::Renewed);
            if matches!(registered, Registered::Kept(_)) {
                inner.counters.renewals.add(1);
                tokio::time::sleep(REPLACED_LIFE).await;
                inner.table().retire(&peer, old);
            }
        }
        Err(error) => debug!(member = %peer, reason = error.reason(), %error, "gossip connection not renewed"),
    }
}

/// Waits until the other connection of a pair has said its hello.
async fn crossed(inner: &Arc<Inner>, peer: &NodeName, tag: &DialTag) -> Result<(), DialError> {
    let end = Instant::now() + REPLACEMENT_WAIT;
    while Instant::now() < end {
        if inner.table().report_up(peer, Pair::Same, Some(tag.clone())) {
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
