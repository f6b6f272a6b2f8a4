//! What members said, as held: the signed bytes in one piece, read where they lie. Most members are never looked at, so
//! nothing of it is kept in a second form. Machines of one process can hold each statement once, in a [`Pool`].

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use bytes::Bytes;
use foldhash::fast::FixedState;
use hashbrown::HashMap;
use starling_model::NodeName;

use crate::by_name::ByName;
use crate::limits::SIGNATURE_BYTES;
use crate::replica::Credential;
use crate::wire::{self, Alive, Attributes, LifeClaim, SignedLife};

/// A verified `alive` or `leave`: signature and body, one behind the other.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Announced(Arc<[u8]>);

impl fmt::Debug for Announced {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Announced({} bytes)", self.0.len())
    }
}

impl Announced {
    pub(crate) fn new(signed: &SignedLife) -> Self {
        Self([&signed.signature[..], &signed.body].concat().into())
    }

    fn parts(&self) -> ([u8; SIGNATURE_BYTES], &[u8]) {
        self.0.split_first_chunk().map_or(([0; SIGNATURE_BYTES], &[]), |(signature, body)| (*signature, body))
    }

    /// As it was signed.
    pub(crate) fn signed(&self) -> SignedLife {
        let (signature, body) = self.parts();
        SignedLife { body: Bytes::copy_from_slice(body), signature }
    }

    /// Is it this statement?
    pub(crate) fn is(&self, signed: &SignedLife) -> bool {
        let (signature, body) = self.parts();
        signature == signed.signature && *body == *signed.body
    }

    /// Is it this statement, as it lies in a message?
    pub(crate) fn is_signed(&self, signed: &[u8]) -> bool {
        *self.0 == *signed
    }

    /// What it says, if it is an `alive`.
    pub(crate) fn alive(&self) -> Option<Alive> {
        match wire::read_life(self.parts().1) {
            Ok(LifeClaim::Alive(alive)) => Some(alive),
            Ok(LifeClaim::Leave(_)) | Err(_) => None,
        }
    }

    /// What it tells of its node, if it is an `alive`.
    pub(crate) fn attributes(&self) -> Option<Attributes<'_>> {
        Attributes::of(self.parts().1).ok()
    }

    /// Hash of the node statement that certifies its key.
    pub(crate) fn credential(&self) -> [u8; 32] {
        wire::read_credential(self.parts().1).unwrap_or_default()
    }
}

/// Verified statements that several machines of one process hold once: a simulated mesh of a thousand holds a thousand of
/// each and not a million. A machine without a pool shares with nobody.
#[derive(Clone, Debug, Default)]
pub struct Pool(Arc<Mutex<Shared>>);

#[derive(Debug, Default)]
struct Shared {
    /// Names are few, and each is there once.
    names: ByName<()>,
    lives: HashMap<u64, Weak<[u8]>, FixedState>,
    credentials: HashMap<[u8; 32], Weak<Credential>, FixedState>,
    /// Lives and credentials at which those are dropped that nobody holds any more.
    crowded: usize,
}

/// A pool is swept for what nobody holds when it has doubled, but not below this.
const CROWDED_MIN: usize = 1_024;

impl Pool {
    fn lock(&self) -> MutexGuard<'_, Shared> {
        // A panic of another machine leaves plain maps behind, at worst without an entry.
        let mut shared = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if shared.lives.len() + shared.credentials.len() > shared.crowded.max(CROWDED_MIN) {
            shared.lives.retain(|_, held| held.strong_count() > 0);
            shared.credentials.retain(|_, held| held.strong_count() > 0);
            shared.crowded = 2 * (shared.lives.len() + shared.credentials.len());
        }
        shared
    }

    /// The same name, in the memory that all share.
    pub(crate) fn name(&self, name: NodeName) -> NodeName {
        let mut shared = self.lock();
        if let Some((held, ())) = shared.names.find(name.as_str()) {
            return held.clone();
        }
        shared.names.insert(name.clone(), ());
        name
    }

    /// The same statement, in the memory that all share.
    pub(crate) fn life(&self, proof: u64, signed: &SignedLife) -> Announced {
        let mut shared = self.lock();
        let held = shared.lives.get(&proof).and_then(Weak::upgrade).map(Announced);
        if let Some(held) = held.filter(|held| held.is(signed)) {
            return held;
        }
        let announced = Announced::new(signed);
        shared.lives.insert(proof, Arc::downgrade(&announced.0));
        announced
    }

    /// The same credential, in the memory that all share.
    pub(crate) fn credential(&self, credential: Arc<Credential>) -> Arc<Credential> {
        let mut shared = self.lock();
        let held = shared.credentials.get(&credential.hash).and_then(Weak::upgrade);
        if let Some(held) = held.filter(|held| *held == credential) {
            return held;
        }
        shared.credentials.insert(credential.hash, Arc::downgrade(&credential));
        credential
    }
}

#[cfg(test)]
mod tests {
    use starling_model::{BootEpoch, Life};

    use super::*;
    use crate::testing::node;

    fn signed(name: &str, epoch: u64) -> (Alive, SignedLife) {
        let alive = Alive {
            name: node(name),
            life: Life::first(BootEpoch(epoch)),
            credential: [9; 32],
            tag: 5,
            protocol: (1, 1),
            features: 0,
            region: "here".to_owned(),
            release: "0.1.0".to_owned(),
            addresses: vec!["10.0.0.1:7740".parse().unwrap()],
        };
        let body = alive.to_bytes();
        (alive, SignedLife { body, signature: [7; SIGNATURE_BYTES] })
    }

    #[test]
    fn what_was_said_is_read_where_it_lies() {
        let (alive, signed) = signed("n1", 4);
        let announced = Announced::new(&signed);
        assert_eq!(announced.signed(), signed);
        assert!(announced.is(&signed));
        let whole = [&signed.signature[..], &signed.body].concat();
        assert!(announced.is_signed(&whole));
        (0..whole.len()).for_each(|end| assert!(!announced.is_signed(&whole[..end])));
        assert_eq!(announced.credential(), alive.credential);
        let attributes = announced.attributes().unwrap();
        assert_eq!((attributes.region, attributes.release), (&*alive.region, &*alive.release));
        assert_eq!((attributes.protocol, attributes.features), (alive.protocol, alive.features));
        assert_eq!(attributes.addresses, alive.addresses);
        assert_eq!(announced.alive(), Some(alive));
    }

    #[test]
    fn a_pool_holds_each_statement_once_and_forgets_what_nobody_holds() {
        let pool = Pool::default();
        let (_, first) = signed("n1", 4);
        let a = pool.life(first.hash(), &first);
        let b = pool.life(first.hash(), &first);
        assert!(Arc::ptr_eq(&a.0, &b.0));
        assert!(Arc::ptr_eq(&a.0, &pool.life(first.hash(), &first).0));
        for epoch in 0..3_000 {
            let (_, other) = signed("n2", epoch);
            pool.life(other.hash(), &other);
        }
        let held = pool.lock().lives.len();
        assert!(held <= CROWDED_MIN + 1, "{held} lives, and one is held");
        // Two statements under one hash are two statements.
        let (_, other) = signed("n3", 1);
        assert!(pool.life(first.hash(), &other).is(&other));
    }
}
