//! The two keys that let a peer notice our restart, and the connection ids made with one of them.

use std::fmt;

use aws_lc_rs::hmac;
use quinn::{ConnectionId, ConnectionIdGenerator};
use quinn_proto::InvalidCid;

/// Persisted over restarts, secret, and of one host: with them a restarted agent recognises packets of its former life
/// and answers with a stateless reset (RFC 9000, 10.3), so peers notice the restart at their next packet.
#[derive(Clone)]
pub struct QuicKeys {
    /// Signs stateless resets.
    pub reset: [u8; 64],
    /// Marks connection ids as ours.
    pub connection_ids: [u8; 64],
}

impl fmt::Debug for QuicKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("QuicKeys(..)")
    }
}

impl QuicKeys {
    /// Fresh keys.
    ///
    /// # Panics
    /// When the operating system gives no entropy.
    #[must_use]
    pub fn random() -> Self {
        let mut keys = Self { reset: [0; 64], connection_ids: [0; 64] };
        for key in [&mut keys.reset, &mut keys.connection_ids] {
            aws_lc_rs::rand::fill(key).expect("invariant: the operating system gives entropy");
        }
        keys
    }

    pub(super) fn reset_key(&self) -> hmac::Key {
        hmac::Key::new(hmac::HMAC_SHA256, &self.reset)
    }

    pub(super) fn id_generator(&self) -> MarkedIds {
        MarkedIds { key: hmac::Key::new(hmac::HMAC_SHA256, &self.connection_ids) }
    }
}

/// Bytes of a connection id: what the datagram limit of gossip counts with.
pub(super) const ID_BYTES: usize = 8;

/// Random bytes of an id; the others are their mark. Four billion ids, and a stranger's guess is reset once in four
/// billion times.
const NONCE_BYTES: usize = 4;

/// Makes ids that it recognises later, without a table.
pub(super) struct MarkedIds {
    key: hmac::Key,
}

impl MarkedIds {
    fn mark(&self, nonce: &[u8]) -> [u8; ID_BYTES - NONCE_BYTES] {
        let tag = hmac::sign(&self.key, nonce);
        tag.as_ref().first_chunk().copied().unwrap_or_default()
    }
}

impl ConnectionIdGenerator for MarkedIds {
    fn generate_cid(&mut self) -> ConnectionId {
        let mut id = [0; ID_BYTES];
        let (nonce, mark) = id.split_at_mut(NONCE_BYTES);
        // Without entropy the ids repeat, the endpoint asks again, and no connection comes about: nothing worse.
        let _ = aws_lc_rs::rand::fill(nonce);
        mark.copy_from_slice(&self.mark(nonce));
        ConnectionId::new(&id)
    }

    fn validate(&self, id: &ConnectionId) -> Result<(), InvalidCid> {
        match id.split_at_checked(NONCE_BYTES) {
            Some((nonce, mark)) if self.mark(nonce) == mark => Ok(()),
            Some(_) | None => Err(InvalidCid),
        }
    }

    fn cid_len(&self) -> usize {
        ID_BYTES
    }

    fn cid_lifetime(&self) -> Option<std::time::Duration> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_recognised_after_a_restart_and_by_nobody_else() {
        let keys = QuicKeys::random();
        let id = keys.id_generator().generate_cid();
        let kept = QuicKeys { ..keys };
        assert!(kept.id_generator().validate(&id).is_ok());
        assert!(QuicKeys::random().id_generator().validate(&id).is_err());
        assert!(kept.id_generator().validate(&ConnectionId::new(&[1; 7])).is_err());
        assert!(kept.id_generator().validate(&ConnectionId::new(&[])).is_err());
    }
}
