//! The boundary of what a mesh trusts: the holder of the chain of trust bundles judges updates, the machine spreads them.
//!
//! The machine knows of a bundle its sequence and its hash. Requests and updates are bytes to it, made, judged and answered
//! by the holder of the chain; what they hold is the affair of `starling_identity::chain`.

use bytes::Bytes;
use starling_model::NodeName;

use crate::action::ExchangeId;

/// The newest trust bundle of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BundleHead {
    /// Its sequence.
    pub sequence: u64,
    /// SHA-256 of its signed body.
    pub hash: [u8; 32],
}

/// What the holder of the chain says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BundleCommand {
    /// This bundle is in force. Before `Join` it is the first; later it is another one, and what was judged by the former
    /// is judged again.
    InForce(BundleHead),
    /// Ask this peer for updates: the answer to [`BundleEvent::Differs`] where our chain lacks the peer's bundle.
    Ask {
        /// Whom.
        peer: NodeName,
        /// At most [`crate::limits::UPDATES_REQUEST_BYTES_MAX`].
        request: Bytes,
    },
    /// The answer to [`BundleEvent::Asked`].
    Answer {
        /// Whom.
        peer: NodeName,
        /// On which stream.
        exchange: ExchangeId,
        /// At most [`crate::limits::UPDATES_BYTES_MAX`].
        updates: Bytes,
    },
}

/// What the holder of the chain hears.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BundleEvent {
    /// A peer's bundle in force is another one than ours.
    Differs {
        /// Whose.
        peer: NodeName,
        /// Which.
        head: BundleHead,
    },
    /// A peer asks for updates.
    Asked {
        /// Who.
        peer: NodeName,
        /// On which stream.
        exchange: ExchangeId,
        /// Unread.
        request: Bytes,
    },
    /// A peer's updates, as we asked for: judge them, and say so if another bundle is in force then.
    Updates {
        /// Whose.
        peer: NodeName,
        /// Unread.
        updates: Bytes,
    },
}
