//! The trust bundle as a chain: signed updates, each naming the hash of the one before it.
//!
//! **An update is valid** when its previous hash is that of a bundle we hold, its sequence is one more, and a root or an
//! admin *of that bundle* signed it; one that drops a root is valid by a root's signature alone. What the update says about
//! itself makes nobody its author.
//!
//! **Forks heal.** Of two valid chains what follows the fork decides: more updates signed by a root win, then the longer
//! chain, then the smaller hash where they part. Counting root signatures, and not only asking for one, makes the order
//! total while roots stay: what the chains share cancels out, so members that meet in any order end with the same chain. A signature by
//! a root that the other chain's newest bundle dropped counts as an admin's; of three chains or more, one of which drops
//! a root, that comparison of two need not be transitive.
//!
//! A chain keeps its newest bundle and [`ANCESTORS_MAX`] before it. The oldest is believed as installed.
#![deny(clippy::expect_used, clippy::indexing_slicing, clippy::arithmetic_side_effects)]

mod exchange;
mod standing;

use std::cmp::Ordering;

use starling_model::{Code, codes};

pub use exchange::{
    Answer, ExchangeInvalid, Question, Request, answer, missing, read_key_answer, read_list_answer, reply,
    whatever_follows,
};
pub use standing::Standing;

use crate::armor;
use crate::bundle::{BundleInvalid, LABEL, Signer, TrustBundle};
use crate::limits::{ANCESTORS_MAX, UPDATE_BYTES_MAX, UPDATES_MAX};
use crate::x509::Facts;

/// The newest bundle of a chain, as a member tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// Of the newest bundle.
    pub sequence: u64,
    /// SHA-256 of its signed body.
    pub hash: [u8; 32],
}

#[derive(Clone, Debug)]
struct Link {
    bundle: TrustBundle,
    hash: [u8; 32],
    /// By the bundle before it; of the oldest one, unknown.
    signer: Option<Signer>,
}

/// Where two valid chains part, and who signed the first update of each (ST0605).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the trust bundle forked at sequence {sequence}: kept that by {kept}, left that by {left}")]
pub struct Fork {
    /// Of the first bundle that differs.
    pub sequence: u64,
    /// Who signed the first update that stays.
    pub kept: Signer,
    /// Who signed the first update that goes.
    pub left: Signer,
}

impl Fork {
    /// The catalogue entry.
    #[must_use]
    pub fn code(&self) -> Code {
        codes::BUNDLE_FORKED
    }
}

/// What an answer changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Merged {
    /// We hold all of it.
    Known,
    /// The newest bundle is another, on top of ours.
    Extended,
    /// The other chain won: judge chains and documents anew.
    Switched(Fork),
    /// Ours won.
    Kept(Fork),
}

/// Why updates change nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UpdateRefused {
    /// More than one answer may hold.
    #[error("there are {0} updates, at most {UPDATES_MAX} are read")]
    TooMany(usize),
    /// One is larger than a bundle may be.
    #[error("an update has {0} bytes, at most {UPDATE_BYTES_MAX} are read")]
    TooLarge(usize),
    /// One is no bundle.
    #[error("an update is no trust bundle")]
    Invalid(#[source] BundleInvalid),
    /// The bundle before the first is not held: ask for what is missing, or, if too old, for a new join file.
    #[error("the bundle before sequence {sequence} is not held")]
    Unattached {
        /// Of the first update.
        sequence: u64,
    },
    /// One is of another mesh or trust domain, or does not follow the one before it.
    #[error("the update to sequence {sequence} does not follow the bundle before it")]
    NotNext {
        /// Of the update.
        sequence: u64,
    },
    /// It names lists of renewed certificates that nobody has handed in.
    #[error("the update to sequence {sequence} names {missing} lists of certificates that are not held here")]
    Lists {
        /// Of the update.
        sequence: u64,
        /// How many.
        missing: usize,
    },
    /// Neither a root nor an admin of the bundle before it signed one.
    #[error(
        "the update to sequence {sequence} is not signed by a root or an admin of the bundle before it; to drop a root takes a root"
    )]
    Unsigned {
        /// Of the update.
        sequence: u64,
    },
}

impl UpdateRefused {
    /// The catalogue entry.
    #[must_use]
    pub fn code(&self) -> Code {
        codes::BUNDLE_INVALID
    }
}

/// The newest bundle and its ancestors; never empty.
#[derive(Clone, Debug)]
pub struct BundleChain {
    oldest: Link,
    /// Ascending, each following the one before it.
    updates: Vec<Link>,
}

impl BundleChain {
    /// A chain of the bundle that was installed.
    #[must_use]
    pub fn new(installed: TrustBundle) -> Self {
        let hash = installed.hash();
        Self { oldest: Link { bundle: installed, hash, signer: None }, updates: Vec::new() }
    }

    /// The chain that was stored here, unless the bundle that is installed is a newer one, or one beside the chain: whoever
    /// installed it had a reason, and peers tell the rest. `stored` is what [`BundleChain::to_stored`] wrote.
    ///
    /// Of what is damaged the part before the damage counts; what was wrong comes beside the chain.
    #[must_use]
    pub fn restore(installed: TrustBundle, stored: &[Vec<u8>]) -> (Self, Option<UpdateRefused>) {
        let Some((oldest, updates)) = stored.split_first() else { return (Self::new(installed), None) };
        let oldest = match TrustBundle::read_unjudged(oldest) {
            Ok(oldest) => oldest,
            Err(invalid) => return (Self::new(installed), Some(UpdateRefused::Invalid(invalid))),
        };
        let same = oldest.mesh_id == installed.mesh_id && oldest.trust_domain == installed.trust_domain;
        let mut chain = Self::new(oldest);
        let wrong = updates.iter().find_map(|update| chain.merge(&[update]).err());
        let older = installed.sequence < chain.oldest.bundle.sequence;
        let holds = same && (older || chain.place(&installed.hash()).is_some());
        (if holds { chain } else { Self::new(installed) }, wrong)
    }

    /// All bundles of the chain, the oldest first, as [`BundleChain::restore`] reads them.
    #[must_use]
    pub fn to_stored(&self) -> Vec<Vec<u8>> {
        self.links().map(|link| link.bundle.raw().to_vec()).collect()
    }

    /// The bundle in force.
    #[must_use]
    pub fn newest(&self) -> &TrustBundle {
        &self.last().bundle
    }

    /// What this member tells of its chain.
    #[must_use]
    pub fn head(&self) -> Head {
        Head { sequence: self.newest().sequence, hash: self.last().hash }
    }

    /// Bundles held.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "a chain is never empty")]
    pub fn len(&self) -> usize {
        self.updates.len().saturating_add(1)
    }

    /// Takes updates that follow each other, the raw bytes as an answer holds them. All or nothing.
    ///
    /// # Errors
    /// [`UpdateRefused`] with the first thing that is wrong; the chain is as before.
    pub fn merge(&mut self, updates: &[&[u8]]) -> Result<Merged, UpdateRefused> {
        if updates.len() > UPDATES_MAX {
            return Err(UpdateRefused::TooMany(updates.len()));
        }
        let mut read = Vec::with_capacity(updates.len());
        for raw in updates {
            if raw.len() > UPDATE_BYTES_MAX {
                return Err(UpdateRefused::TooLarge(raw.len()));
            }
            read.push(TrustBundle::read_unjudged(raw).map_err(UpdateRefused::Invalid)?);
        }
        // The oldest came without what is before it: told again, it is known and nothing to attach.
        if read.first().is_some_and(|first| first.hash() == self.oldest.hash) {
            read.remove(0);
        }
        let Some(first) = read.first() else { return Ok(Merged::Known) };
        let sequence = first.sequence;
        let at = self.place(&first.previous).ok_or(UpdateRefused::Unattached { sequence })?;
        let mut theirs = self.clone();
        theirs.updates.truncate(at);
        for bundle in read {
            let link = judged(theirs.last(), bundle)?;
            theirs.updates.push(link);
        }
        Ok(self.settle(theirs))
    }

    /// Takes one update as the operator's tools write it, in its armour.
    ///
    /// # Errors
    /// As [`BundleChain::merge`].
    pub fn merge_file(&mut self, file: &[u8]) -> Result<Merged, UpdateRefused> {
        let raw = armor::decode_one(file, LABEL).ok_or(UpdateRefused::Invalid(BundleInvalid::Armour))?;
        self.merge(&[&raw])
    }

    fn last(&self) -> &Link {
        self.updates.last().unwrap_or(&self.oldest)
    }

    fn links(&self) -> impl DoubleEndedIterator<Item = &Link> {
        std::iter::once(&self.oldest).chain(&self.updates)
    }

    /// How many updates of ours come up to and including the bundle of this hash.
    fn place(&self, hash: &[u8; 32]) -> Option<usize> {
        self.links().position(|link| link.hash == *hash)
    }

    /// Keeps the better of two chains with the same oldest bundle.
    fn settle(&mut self, mut theirs: Self) -> Merged {
        let pairs = self.updates.iter().zip(&theirs.updates);
        let shared = pairs.take_while(|(ours, other)| ours.hash == other.hash).count();
        // The same body may come with the root's signature beside an admin's; it counts wherever it is known.
        let mut raised = false;
        for (ours, other) in self.updates.iter_mut().zip(&mut theirs.updates).take(shared) {
            match (is_by_root(ours), is_by_root(other)) {
                (false, true) => {
                    *ours = other.clone();
                    raised = true;
                }
                (true, false) => *other = ours.clone(),
                (true, true) | (false, false) => {}
            }
        }
        let (ours, other) = (self.updates.get(shared), theirs.updates.get(shared));
        match (ours, other) {
            (_, None) if raised => Merged::Extended,
            (_, None) => Merged::Known,
            (None, Some(_)) => {
                self.adopt(theirs);
                Merged::Extended
            }
            (Some(ours), Some(other)) => {
                let sequence = ours.bundle.sequence;
                let (Some(own), Some(foreign)) = (ours.signer.clone(), other.signer.clone()) else {
                    return Merged::Known;
                };
                if order(self, &theirs, shared) == Ordering::Less {
                    self.adopt(theirs);
                    Merged::Switched(Fork { sequence, kept: foreign, left: own })
                } else {
                    Merged::Kept(Fork { sequence, kept: own, left: foreign })
                }
            }
        }
    }

    fn adopt(&mut self, theirs: Self) {
        *self = theirs;
        while self.updates.len() > ANCESTORS_MAX {
            self.oldest = self.updates.remove(0);
        }
    }
}

/// Greater wins: root signatures after the fork, length, then the smaller hash where they part.
fn order(ours: &BundleChain, theirs: &BundleChain, shared: usize) -> Ordering {
    let rank = |chain: &BundleChain, other: &BundleChain| {
        let held: Vec<_> = other.newest().roots.iter().filter_map(|der| Facts::read(der)).collect();
        let counts = |link: &&Link| match &link.signer {
            Some(Signer::Root(hash)) => held.iter().any(|facts| facts.key_hash() == *hash),
            Some(Signer::Operator { .. }) | None => false,
        };
        (chain.updates.iter().skip(shared).filter(counts).count(), chain.updates.len())
    };
    let parted = |chain: &BundleChain| chain.updates.get(shared).map(|link| link.hash);
    rank(ours, theirs).cmp(&rank(theirs, ours)).then_with(|| parted(theirs).cmp(&parted(ours)))
}

fn is_by_root(link: &Link) -> bool {
    matches!(link.signer, Some(Signer::Root(_)))
}

fn judged(before: &Link, bundle: TrustBundle) -> Result<Link, UpdateRefused> {
    let (judge, sequence) = (&before.bundle, bundle.sequence);
    let same = bundle.mesh_id == judge.mesh_id && bundle.trust_domain == judge.trust_domain;
    if !same || bundle.previous != before.hash || judge.sequence.checked_add(1) != Some(sequence) {
        return Err(UpdateRefused::NotNext { sequence });
    }
    let signer = bundle.signer_under(judge).ok_or(UpdateRefused::Unsigned { sequence })?;
    // An admin who could drop a root could disarm the recovery that the root signs.
    let keeps_roots = judge.roots.iter().all(|root| bundle.roots.contains(root));
    if !keeps_roots && !matches!(signer, Signer::Root(_)) {
        return Err(UpdateRefused::Unsigned { sequence });
    }
    let hash = bundle.hash();
    Ok(Link { bundle, hash, signer: Some(signer) })
}

#[cfg(test)]
mod tests;
