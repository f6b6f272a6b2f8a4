//! The waiting room: unverified input sits here, changes nothing, and leaves with a verdict. Verified credentials are
//! kept beside it.
//!
//! Signed statements wait in one of two places: for a verdict on themselves (under a ticket), or for the credential that
//! certifies their key (under owner and hash).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use foldhash::fast::FixedState;
use hashbrown::HashSet;
use starling_model::{BootEpoch, NodeName};

use crate::action::Ticket;
use crate::by_name::ByName;
use crate::documents::SignedDocument;
use crate::hash;
use crate::limits::{
    CREDENTIALS_PER_OWNER_MAX, WAITING_BYTES_MAX, WAITING_BYTES_PER_PEER_MAX, WAITING_PER_PEER_MAX, WAITING_ROOM_MAX,
    WAITING_TIME_MAX,
};
use crate::stats::Drop;
use crate::trust::SignedRevocation;
use crate::wire::{LifeClaim, RecordParts, SignedLife};

/// Names a credential.
pub(crate) fn credential_hash(bytes: &[u8]) -> [u8; 32] {
    hash::sha256(&[bytes])
}

/// A verified node statement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Credential {
    pub(crate) hash: [u8; 32],
    pub(crate) bytes: Bytes,
    pub(crate) record_key: [u8; 32],
    pub(crate) epoch: BootEpoch,
}

/// All verified credentials, by owner.
#[derive(Clone, Debug, Default)]
pub(crate) struct Credentials {
    owners: ByName<Held>,
}

/// Those of one owner, the highest epoch first.
type Held = [Option<Arc<Credential>>; CREDENTIALS_PER_OWNER_MAX];

impl Credentials {
    pub(crate) fn get(&self, owner: &NodeName, hash: &[u8; 32]) -> Option<&Credential> {
        self.owners.get(owner)?.iter().flatten().map(Arc::as_ref).find(|held| held.hash == *hash)
    }

    /// Keeps a credential; the one of the lowest epoch goes when there are too many.
    pub(crate) fn insert(&mut self, owner: &NodeName, credential: Arc<Credential>) {
        if self.owners.get(owner).is_none() {
            self.owners.insert(owner.clone(), Held::default());
        }
        let Some(held) = self.owners.get_mut(owner) else { return };
        if held.iter().flatten().any(|one| one.hash == credential.hash) {
            return;
        }
        let mut rest = Some(credential);
        for place in held {
            let earlier = match (&rest, &*place) {
                (Some(new), Some(old)) => new.epoch > old.epoch,
                (Some(_), None) => true,
                (None, _) => false,
            };
            if earlier {
                std::mem::swap(place, &mut rest);
            }
        }
    }

    /// The owner's name in the memory where it lies already.
    pub(crate) fn name(&self, owner: &NodeName) -> Option<&NodeName> {
        self.owners.find(owner.as_str()).map(|(name, _)| name)
    }

    /// Takes all of one owner out, to be judged again.
    pub(crate) fn take(&mut self, owner: &NodeName) -> Vec<Arc<Credential>> {
        self.owners.remove(owner).unwrap_or_default().into_iter().flatten().collect()
    }

    pub(crate) fn forget(&mut self, owner: &NodeName) {
        self.owners.remove(owner);
    }

    pub(crate) fn owners(&self) -> usize {
        self.owners.len()
    }

    pub(crate) fn knows(&self, owner: &NodeName) -> bool {
        self.owners.get(owner).is_some()
    }
}

/// Hash and owner of a credential, in the order that tells them apart soonest.
pub(crate) type CredentialKey = ([u8; 32], NodeName);

/// How something reached us; decides what it may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Via {
    /// News.
    Gossip,
    /// Anti-entropy: a "dead" learnt here is only a doubt.
    Sync,
    /// Our own store.
    Snapshot,
}

/// Who brought it, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Source {
    /// `None`: our own store.
    pub(crate) from: Option<NodeName>,
    pub(crate) via: Via,
}

/// One unverified thing.
#[derive(Clone, Debug)]
pub(crate) enum Item {
    Credential {
        owner: NodeName,
        hash: [u8; 32],
        bytes: Bytes,
    },
    /// With the hash that names the statement.
    Life {
        claim: LifeClaim,
        signed: SignedLife,
        proof: u64,
    },
    Record {
        parts: Box<RecordParts>,
        bytes: Bytes,
    },
    Document(Box<SignedDocument>),
    Revocation(Box<SignedRevocation>),
}

impl Item {
    /// Names it, so that a second copy does not wait besides the first.
    fn id(&self) -> ItemId {
        match self {
            Self::Credential { owner, hash, .. } => ItemId::Credential(*hash, owner.clone()),
            Self::Life { proof, .. } => ItemId::Life(*proof),
            Self::Record { bytes, .. } => ItemId::Record(hash::head(&[b"r", bytes])),
            Self::Document(document) => ItemId::Document(document.version.hash.0),
            Self::Revocation(revocation) => ItemId::Revocation(revocation.hash),
        }
    }

    /// Hash and owner of the credential that certifies its key; a credential certifies itself, and operators' keys are
    /// in the trust bundle.
    pub(crate) fn credential(&self) -> Option<CredentialKey> {
        match self {
            Self::Credential { .. } | Self::Document(_) | Self::Revocation(_) => None,
            Self::Life { claim, .. } => Some((*claim.credential(), claim.name().clone())),
            Self::Record { parts, .. } => Some((parts.head.statement, parts.head.owner.clone())),
        }
    }
}

impl Item {
    /// Bytes that count against the room's: small things are bounded by their number.
    fn bytes(&self) -> usize {
        match self {
            Self::Document(document) => document.envelope.len(),
            Self::Credential { .. } | Self::Life { .. } | Self::Record { .. } | Self::Revocation(_) => 0,
        }
    }
}

/// Names what waits; nobody is free to choose a hash.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum ItemId {
    Credential([u8; 32], NodeName),
    Life(u64),
    Record(u64),
    Document([u8; 32]),
    Revocation([u8; 32]),
}

/// What one sender has in the room.
#[derive(Clone, Copy, Debug, Default)]
struct Share {
    items: usize,
    bytes: usize,
}

/// Something that waits.
#[derive(Clone, Debug)]
pub(crate) struct Waiting {
    pub(crate) item: Item,
    pub(crate) source: Source,
    id: ItemId,
    since: Instant,
}

/// Items for whose names an empty room keeps memory; what a burst took beyond it is given back.
const IDS_KEPT: usize = 64;

/// The room.
#[derive(Clone, Debug, Default)]
pub(crate) struct Room {
    asked: BTreeMap<Ticket, Box<Waiting>>,
    #[expect(clippy::vec_box, reason = "what waits is large, and goes from place to place without being moved")]
    blocked: BTreeMap<CredentialKey, Vec<Box<Waiting>>>,
    /// Whoever makes up hashes that collide makes a full room slow by some milliseconds.
    ids: HashSet<ItemId, FixedState>,
    shares: BTreeMap<NodeName, Share>,
    bytes: usize,
    /// Documents and revocations of our own store.
    restoring: usize,
}

impl Room {
    /// Lets one item in, unless it is here already or there is no room. The caller says next where it waits.
    pub(crate) fn enter(&mut self, item: Item, source: Source, now: Instant) -> Result<Box<Waiting>, Drop> {
        let id = item.id();
        if self.ids.contains(&id) {
            return Err(Drop::Duplicate);
        }
        let bytes = item.bytes();
        if self.ids.len() >= WAITING_ROOM_MAX || self.bytes + bytes > WAITING_BYTES_MAX {
            return Err(Drop::WaitingFull);
        }
        if let Some(from) = &source.from {
            let share = self.shares.get(from).copied().unwrap_or_default();
            if share.items >= WAITING_PER_PEER_MAX || share.bytes + bytes > WAITING_BYTES_PER_PEER_MAX {
                return Err(Drop::WaitingFull);
            }
            self.shares.insert(from.clone(), Share { items: share.items + 1, bytes: share.bytes + bytes });
        }
        self.bytes += bytes;
        self.restoring += usize::from(is_restored_word(&item, &source));
        self.ids.insert(id.clone());
        Ok(Box::new(Waiting { item, source, id, since: now }))
    }

    /// It waits for a verdict.
    pub(crate) fn ask(&mut self, ticket: Ticket, waiting: Box<Waiting>) {
        self.asked.insert(ticket, waiting);
    }

    /// It waits for a credential.
    pub(crate) fn block(&mut self, credential: CredentialKey, waiting: Box<Waiting>) {
        self.blocked.entry(credential).or_default().push(waiting);
    }

    /// The verdict came: it leaves.
    pub(crate) fn take(&mut self, ticket: Ticket) -> Option<Box<Waiting>> {
        let waiting = self.asked.remove(&ticket)?;
        self.left(&waiting);
        Some(waiting)
    }

    /// The credential was judged: what waited for it goes on (it stays in the room) or leaves.
    #[expect(clippy::vec_box, reason = "as it lay in the room")]
    pub(crate) fn unblock(&mut self, credential: &CredentialKey) -> Vec<Box<Waiting>> {
        self.blocked.remove(credential).unwrap_or_default()
    }

    /// Gives the place of an item free.
    pub(crate) fn left(&mut self, waiting: &Waiting) {
        self.ids.remove(&waiting.id);
        if self.ids.is_empty() && self.ids.capacity() > IDS_KEPT {
            self.ids = HashSet::default();
        }
        let bytes = waiting.item.bytes();
        self.bytes -= bytes;
        self.restoring -= usize::from(is_restored_word(&waiting.item, &waiting.source));
        if let Some(from) = &waiting.source.from
            && let Some(share) = self.shares.get_mut(from)
        {
            share.items -= 1;
            share.bytes -= bytes;
            if share.items == 0 {
                self.shares.remove(from);
            }
        }
    }

    /// What has just been taken keeps its place: it is asked again.
    pub(crate) fn left_and_back(&mut self, waiting: &Waiting) {
        self.ids.insert(waiting.id.clone());
        let bytes = waiting.item.bytes();
        self.bytes += bytes;
        self.restoring += usize::from(is_restored_word(&waiting.item, &waiting.source));
        if let Some(from) = &waiting.source.from {
            let share = self.shares.entry(from.clone()).or_default();
            share.items += 1;
            share.bytes += bytes;
        }
    }

    /// True when any credential of this owner waits for a verdict.
    pub(crate) fn judges_any_of(&self, name: &NodeName) -> bool {
        self.asked.values().any(|waiting| matches!(&waiting.item, Item::Credential { owner, .. } if owner == name))
    }

    /// Drops what waited too long; returns how many.
    pub(crate) fn sweep(&mut self, now: Instant) -> usize {
        let old = |waiting: &Waiting| now.saturating_duration_since(waiting.since) > WAITING_TIME_MAX;
        let mut gone: Vec<Box<Waiting>> = Vec::new();
        self.asked.retain(|_, waiting| {
            let keep = !old(waiting);
            if !keep {
                gone.push(waiting.clone());
            }
            keep
        });
        self.blocked.retain(|_, queue| {
            let (late, keep) = std::mem::take(queue).into_iter().partition(|waiting| old(waiting));
            *queue = keep;
            gone.extend::<Vec<Box<Waiting>>>(late);
            !queue.is_empty()
        });
        gone.iter().for_each(|waiting| self.left(waiting));
        gone.len()
    }

    /// True while the life with this hash waits.
    pub(crate) fn holds_life(&self, proof: u64) -> bool {
        self.ids.contains(&ItemId::Life(proof))
    }

    /// True when a credential is on its way to a verdict.
    pub(crate) fn judges(&self, owner: &NodeName, hash: &[u8; 32]) -> bool {
        self.ids.contains(&ItemId::Credential(*hash, owner.clone()))
    }

    /// True when a document is on its way to a verdict.
    pub(crate) fn judges_document(&self, hash: &[u8; 32]) -> bool {
        self.ids.contains(&ItemId::Document(*hash))
    }

    /// Documents and revocations of our own store that wait.
    pub(crate) fn restoring(&self) -> usize {
        self.restoring
    }

    /// Bytes of documents that wait.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(crate) fn len(&self) -> usize {
        self.ids.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }
}

/// An operator's word out of our own store.
fn is_restored_word(item: &Item, source: &Source) -> bool {
    let word = match item {
        Item::Document(_) | Item::Revocation(_) => true,
        Item::Credential { .. } | Item::Life { .. } | Item::Record { .. } => false,
    };
    word && source.via == Via::Snapshot
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::testing::{base, document_by, node};

    fn item(at: u32) -> Item {
        let bytes = Bytes::copy_from_slice(&at.to_le_bytes());
        Item::Credential { owner: node("o"), hash: credential_hash(&bytes), bytes }
    }

    fn source(from: &str) -> Source {
        Source { from: Some(node(from)), via: Via::Gossip }
    }

    #[test]
    fn the_room_is_bounded_and_no_peer_takes_it_all() {
        let mut room = Room::default();
        let mut enter = |at: u32, from: &str| match room.enter(item(at), source(from), base()) {
            Ok(waiting) => {
                room.ask(Ticket(at.into()), waiting);
                Ok(())
            }
            Err(why) => Err(why),
        };
        let share = u32::try_from(WAITING_PER_PEER_MAX).unwrap();
        let all = u32::try_from(WAITING_ROOM_MAX).unwrap();
        (0..share).for_each(|at| assert_eq!(enter(at, "a"), Ok(())));
        assert_eq!(enter(share, "a"), Err(Drop::WaitingFull));
        assert_eq!(enter(0, "b"), Err(Drop::Duplicate));
        (share..all).for_each(|at| assert_eq!(enter(at, if at % 2 == 0 { "b" } else { "c" }), Ok(())));
        assert_eq!(enter(all, "d"), Err(Drop::WaitingFull));
        assert!(room.take(Ticket(0)).is_some());
        assert!(room.take(Ticket(0)).is_none());
        assert_eq!(room.sweep(base() + WAITING_TIME_MAX + Duration::from_millis(1)), WAITING_ROOM_MAX - 1);
        assert!(room.is_empty() && room.shares.is_empty());
    }

    #[test]
    fn documents_take_a_bounded_share_of_bytes() {
        let mut room = Room::default();
        let text = "x".repeat(60 << 10);
        let mut enter = |at: usize, from: &str| {
            let envelope = document_by(1, &format!("d{at}"), 1, None, &text);
            let item = Item::Document(Box::new(SignedDocument::read(&envelope).unwrap()));
            room.enter(item, source(from), base()).map(|waiting| room.ask(Ticket(at as u64), waiting))
        };
        let of = |from: &str, at: usize| enter(at, from).err();
        let (mut of, mut at) = (of, 0);
        for (from, all) in [("a", WAITING_BYTES_PER_PEER_MAX), ("b", WAITING_BYTES_MAX - WAITING_BYTES_PER_PEER_MAX)] {
            let mut held = 0;
            while of(from, at).is_none() {
                (at, held) = (at + 1, held + text.len());
                assert!(held <= all);
            }
        }
        assert_eq!(of("c", at), Some(Drop::WaitingFull));
        assert!(room.bytes() <= WAITING_BYTES_MAX && room.bytes() > WAITING_BYTES_MAX - (256 << 10));
        room.sweep(base() + WAITING_TIME_MAX + Duration::from_millis(1));
        assert_eq!((room.bytes(), room.len(), room.shares.len()), (0, 0, 0));
    }

    #[test]
    fn credentials_of_the_highest_epochs_stay() {
        let mut held = Credentials::default();
        for epoch in [3, 1, 2, 9, 9] {
            let bytes = Bytes::copy_from_slice(&[epoch]);
            let hash = credential_hash(&bytes);
            let one = Credential { hash, bytes, record_key: [0; 32], epoch: BootEpoch(epoch.into()) };
            held.insert(&node("o"), Arc::new(one));
        }
        let has = |epoch: u8| held.get(&node("o"), &credential_hash(&[epoch])).is_some();
        assert_eq!([9, 3, 2, 1].map(has), [true, true, true, false]);
    }
}
