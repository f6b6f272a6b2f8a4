//! Revocations of nodes: a set that only grows. Of each node those of the highest number count, all of them: what any
//! of them does not keep is out.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use bytes::Bytes;
use starling_model::{EnvelopeInvalid, NodeName, Revocation};

use crate::action::{OperatorClaim, RevocationView};
use crate::documents::Unfit;
use crate::hash;
use crate::limits::{REVOCATIONS_MAX, REVOCATIONS_PER_NODE_MAX};
use crate::wire::SignedDigest;

/// One signed revocation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SignedRevocation {
    pub(crate) said: Revocation,
    pub(crate) hash: [u8; 32],
    /// The signed form and the signature, as received.
    pub(crate) envelope: Bytes,
}

impl SignedRevocation {
    /// Reads a signed form with its signature; the signature is not judged here.
    ///
    /// # Errors
    /// The first thing that is wrong with the form.
    pub(crate) fn read(envelope: &Bytes) -> Result<Self, EnvelopeInvalid> {
        let (body, _) = starling_model::envelope::split_signature(envelope).ok_or(EnvelopeInvalid::Truncated)?;
        let said = Revocation::read(body)?;
        Ok(Self { said, hash: hash::sha256(&[body]), envelope: envelope.clone() })
    }

    /// The greatest stay where there is no room for all: of one number those that keep least.
    fn rank(&self) -> (u64, Reverse<usize>, [u8; 32]) {
        (self.said.number, Reverse(self.said.kept.len()), self.hash)
    }

    /// What digests say of it.
    pub(crate) fn digest(&self) -> SignedDigest {
        SignedDigest {
            kind: OperatorClaim::Revocation,
            in_batch: false,
            subject: hash::head(&[b"node", self.said.node.as_str().as_bytes()]),
            number: self.said.number,
            hash: self.hash,
        }
    }

    /// The boundary's form.
    pub(crate) fn view(&self) -> RevocationView {
        RevocationView { revocation: self.said.clone(), hash: self.hash, envelope: self.envelope.clone() }
    }
}

/// All revocations in force.
#[derive(Clone, Debug, Default)]
pub(crate) struct Trust {
    /// Of each node the highest number's, the greatest first; never empty.
    nodes: BTreeMap<NodeName, Vec<SignedRevocation>>,
    hashes: BTreeMap<[u8; 32], NodeName>,
    root: u64,
}

/// What one revocation adds to the root.
fn sum(hash: &[u8; 32]) -> u64 {
    hash::head(&[b"revocation", hash])
}

impl Trust {
    /// Is it worth a verdict?
    ///
    /// # Errors
    /// Why not.
    pub(crate) fn admits(&self, new: &SignedRevocation) -> Result<(), Unfit> {
        if self.hashes.contains_key(&new.hash) {
            return Err(Unfit::Held);
        }
        let Some(held) = self.nodes.get(&new.said.node) else {
            return if self.hashes.len() >= REVOCATIONS_MAX { Err(Unfit::Full) } else { Ok(()) };
        };
        let number = held.first().map_or(0, |first| first.said.number);
        let above = held.iter().filter(|one| one.rank() > new.rank()).count();
        if new.said.number < number || above >= REVOCATIONS_PER_NODE_MAX { Err(Unfit::Stale) } else { Ok(()) }
    }

    /// Takes in a verified one; returns the hashes of those whose place it took.
    ///
    /// # Errors
    /// Why nothing changed.
    pub(crate) fn insert(&mut self, new: SignedRevocation) -> Result<Vec<[u8; 32]>, Unfit> {
        self.admits(&new)?;
        let (node, number) = (new.said.node.clone(), new.said.number);
        self.hashes.insert(new.hash, node.clone());
        self.root = self.root.wrapping_add(sum(&new.hash));
        let held = self.nodes.entry(node).or_default();
        held.push(new);
        held.sort_by_key(|one| Reverse(one.rank()));
        let stay = held.iter().take(REVOCATIONS_PER_NODE_MAX).take_while(|one| one.said.number == number).count();
        let gone: Vec<[u8; 32]> = held.drain(stay..).map(|one| one.hash).collect();
        for hash in &gone {
            self.hashes.remove(hash);
            self.root = self.root.wrapping_sub(sum(hash));
        }
        Ok(gone)
    }

    /// The highest number known of a node.
    pub(crate) fn number(&self, node: &NodeName) -> Option<u64> {
        self.nodes.get(node)?.first().map(|first| first.said.number)
    }

    /// One that is held, by its hash.
    pub(crate) fn get(&self, hash: &[u8; 32]) -> Option<&SignedRevocation> {
        self.nodes.get(self.hashes.get(hash)?)?.iter().find(|one| one.hash == *hash)
    }

    /// All that are held.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &SignedRevocation> {
        self.nodes.values().flatten()
    }

    pub(crate) fn root(&self) -> u64 {
        self.root
    }

    pub(crate) fn len(&self) -> usize {
        self.hashes.len()
    }
}

#[cfg(test)]
mod tests;
