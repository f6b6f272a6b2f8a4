//! The dialling side: a connection for one stream, or the word that it should share.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use starling_identity::tls::{self, Clock};
use starling_identity::{CurrentIdentity, PeerRefused};
use starling_model::NodeName;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tracing::debug;

use super::wire::{self, Answer};
use super::{DEDICATED_DIALLED_PER_PEER_MAX, DedicatedStream, Places, Stage, break_off};
use crate::data::tcp::{self, Protocol};
use crate::error::{DialError, of_io};
use crate::mux::frame::HEADER_BYTES;

/// How long a peer may take to answer `open`. It connects to its instance first, which may take 3 s.
const ANSWER_DEADLINE: Duration = Duration::from_secs(5);

/// How long streams to a node share after it turned out that it knows no dedicated ones: an upgrade is seen by then.
pub const OLDER_PEER_MEMORY: Duration = Duration::from_secs(600);

/// The same after a dial failed, or the peer had no room.
pub const NO_ROOM_MEMORY: Duration = Duration::from_secs(10);

/// Nodes that are remembered; beyond it the one goes whose time is over first.
const AVOIDED_MAX: usize = 2_048;

/// Why a stream gets no connection of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotDedicated {
    /// The peer does not want the stream, on any connection. Nothing was processed.
    #[error("the peer refused the stream")]
    Refused,
    /// We have as many as we may, or are draining.
    #[error("no room here for a dedicated connection")]
    Limit,
    /// The peer has as many as it may.
    #[error("no room at the peer for a dedicated connection")]
    PeerLimit,
    /// The peer's release knows no dedicated connections.
    #[error("the peer knows no dedicated connections")]
    OlderPeer,
    /// The dial failed, or the peer did not answer.
    #[error("no dedicated connection came about")]
    Failed,
    /// One of the last three, a moment ago.
    #[error("no dedicated connection came about a moment ago")]
    Remembered,
}

impl NotDedicated {
    /// One word for metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::Limit => "limit",
            Self::PeerLimit => "peer_limit",
            Self::OlderPeer => "older_peer",
            Self::Failed => "failed",
            Self::Remembered => "remembered",
        }
    }
}

/// Whom one data thread dials for dedicated streams, and whom not for now.
#[derive(Debug, Default)]
pub(in crate::data) struct Dialler {
    pub(in crate::data) places: Rc<Places>,
    avoided: RefCell<BTreeMap<NodeName, Instant>>,
}

impl Dialler {
    /// A connection with one stream on it that the peer has taken, or why there is none; then nothing was processed.
    /// Dropping the future gives the dial up.
    pub(in crate::data) async fn open(
        &self,
        (current, clock): (&CurrentIdentity, Clock),
        (node, address): (&NodeName, SocketAddr),
        header: &[u8],
    ) -> Result<DedicatedStream, NotDedicated> {
        let now = Instant::now();
        if self.avoided.borrow().get(node).is_some_and(|until| now < *until) {
            return Err(NotDedicated::Remembered);
        }
        let opened = self.try_open((current, clock), (node, address), header).await;
        let memory = match &opened {
            Ok(_) | Err(NotDedicated::Refused | NotDedicated::Limit | NotDedicated::Remembered) => return opened,
            Err(NotDedicated::OlderPeer) => OLDER_PEER_MEMORY,
            Err(NotDedicated::PeerLimit | NotDedicated::Failed) => NO_ROOM_MEMORY,
        };
        self.avoid(node, Instant::now(), memory);
        opened
    }

    async fn try_open(
        &self,
        (current, clock): (&CurrentIdentity, Clock),
        (node, address): (&NodeName, SocketAddr),
        header: &[u8],
    ) -> Result<DedicatedStream, NotDedicated> {
        let Ok(open) = wire::open(header) else { return Err(NotDedicated::Limit) };
        // Dials under way hold no place; after theirs they are counted again.
        let has_room = || self.places.has_room(node, DEDICATED_DIALLED_PER_PEER_MAX);
        if !has_room() {
            return Err(NotDedicated::Limit);
        }
        let failed = |error: &DialError| {
            debug!(member = %node, %address, reason = error.reason(), %error, "dedicated dial failed");
            NotDedicated::Failed
        };
        let config = tls::dedicated_client(current, node.clone(), clock);
        let io = tcp::dial(address, config).await.map_err(|error| failed(&error))?;
        let protocol = tcp::protocol(&io).map_err(|error| failed(&error))?;
        if protocol == Protocol::Mux {
            return Err(NotDedicated::OlderPeer);
        }
        let certificates = io.get_ref().1.peer_certificates().unwrap_or_default();
        let refused = |refused: &PeerRefused| failed(&DialError::PeerCertificate(refused.into()));
        let peer = tls::peer_of(certificates, current, clock).map_err(|error| refused(&error))?;
        // The verifier has compared it; who hands out streams to `node` does not rest on that alone.
        if peer.node != *node {
            let (expected, found) = (node.clone(), peer.node);
            return Err(refused(&PeerRefused::UnexpectedPeer { expected, found }));
        }
        tcp::note_group(current, node, &io);
        if !has_room() {
            break_off(&io);
            return Err(NotDedicated::Limit);
        }
        let place = self.places.take(&io, peer);
        let mut stream = DedicatedStream::new(io, place, Stage::Taken);
        match tokio::time::timeout(ANSWER_DEADLINE, ask(&mut stream, &open)).await {
            Err(_) => Err(failed(&DialError::Timeout)),
            Ok(Err(error)) => Err(failed(&of_io(&error))),
            Ok(Ok(Answer::Taken)) => Ok(stream),
            Ok(Ok(Answer::Refused)) => Err(NotDedicated::Refused),
            Ok(Ok(Answer::NoRoom)) => Err(NotDedicated::PeerLimit),
        }
    }

    fn avoid(&self, node: &NodeName, now: Instant, memory: Duration) {
        let mut avoided = self.avoided.borrow_mut();
        avoided.retain(|_, until| now < *until);
        if avoided.len() >= AVOIDED_MAX
            && let Some(first) = avoided.iter().min_by_key(|(_, until)| **until).map(|(node, _)| node.clone())
        {
            avoided.remove(&first);
        }
        avoided.insert(node.clone(), now + memory);
    }
}

async fn ask(stream: &mut DedicatedStream, open: &[u8]) -> std::io::Result<Answer> {
    stream.write_all(open).await?;
    stream.flush().await?;
    let mut answer = [0; HEADER_BYTES];
    stream.read_exact(&mut answer).await?;
    wire::answered(answer).map_err(|violation| std::io::Error::new(std::io::ErrorKind::InvalidData, violation))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::name;

    #[test]
    fn who_is_avoided_is_bounded_and_forgotten() {
        let (dialler, now) = (Dialler::default(), Instant::now());
        for number in 0..=AVOIDED_MAX {
            dialler.avoid(&name(&format!("n-{number}")), now, NO_ROOM_MEMORY + Duration::from_millis(number as u64));
        }
        assert_eq!(dialler.avoided.borrow().len(), AVOIDED_MAX);
        assert!(!dialler.avoided.borrow().contains_key(&name("n-0")), "the first to end");
        dialler.avoid(&name("late"), now + 2 * NO_ROOM_MEMORY, OLDER_PEER_MEMORY);
        assert_eq!(dialler.avoided.borrow().len(), 1);
    }
}
