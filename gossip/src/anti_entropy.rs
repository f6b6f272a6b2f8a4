//! One comparison between two nodes, as the state of a stream.
//!
//! ```text
//! few entries:   lister  -> open, all digests, end          many:  initiator -> open, bucket sums
//!                comparer -> entries, wants, done (last)           lister    -> digests of differing buckets, end
//!                lister  -> wanted entries, done (last)            comparer  -> entries, wants, done (last)
//!                                                                  lister    -> wanted entries, done (last)
//! ```
//!
//! So in both forms one side lists, the other compares, and after the two `done` both hold the same. A tombstone is
//! never sent to who does not hold its subject. Where the documents roots differ, the lister names the hashes of
//! operators' words before its digests, and in the answer revocations go first, then documents, then the rest. A
//! comparison of documents alone is the first form with no bucket in its end.

use std::collections::BTreeMap;
use std::time::Instant;

use starling_model::{MemberState, NodeName, RecordKind, RecordVersion};

use crate::members::{Claim, is_present, supersedes};
use crate::wire::{MemberDigest, RecordDigest, SignedDigest};

/// Entries that one comparison may list: every member with some records each.
pub(crate) const LISTING_MAX: usize = 1 << 16;

/// What a stream is for.
#[derive(Clone, Debug)]
pub(crate) enum Purpose {
    /// A ping that ran in parallel to datagrams.
    Ping,
    /// Something was asked for.
    Fetch,
    /// Our leave, to be confirmed.
    Leave,
    /// A comparison.
    Sync(Listing),
}

/// One open stream.
#[derive(Clone, Debug)]
pub(crate) struct Exchange {
    pub(crate) purpose: Purpose,
    pub(crate) since: Instant,
    /// We have finished our half.
    pub(crate) closed: bool,
    /// We have listed once: that is enough, and a listing is work.
    pub(crate) listed: bool,
    /// Bytes that we gave because the peer asked.
    pub(crate) given: usize,
    /// Only operators' words are compared: members and records are not in step after it.
    pub(crate) partial: bool,
    /// It brought something that we lacked. What the other side lacks is its own reason to compare again.
    pub(crate) useful: bool,
}

impl Exchange {
    pub(crate) fn new(purpose: Purpose, since: Instant) -> Self {
        Self { purpose, since, closed: false, listed: false, given: 0, partial: false, useful: false }
    }
}

/// What the lister listed so far.
#[derive(Clone, Debug, Default)]
pub(crate) struct Listing {
    /// One member may be listed twice: it is compared twice.
    pub(crate) members: Vec<MemberDigest>,
    pub(crate) records: BTreeMap<(NodeName, RecordKind, u8), RecordVersion>,
    /// Operators' words; `None` when the lister did not list them, since both hold the same.
    pub(crate) words: Option<Vec<SignedDigest>>,
    /// The documents root that the peer began with.
    pub(crate) root: Option<u64>,
}

impl Listing {
    /// False when the lister lists more than anybody can hold.
    pub(crate) fn add_members(&mut self, list: Vec<MemberDigest>) -> bool {
        self.members.extend(list);
        self.is_bounded()
    }

    /// False when the lister lists more than anybody can hold.
    pub(crate) fn add_words(&mut self, list: Vec<SignedDigest>) -> bool {
        self.words.get_or_insert_default().extend(list);
        self.is_bounded()
    }

    fn is_bounded(&self) -> bool {
        let words = self.words.as_ref().map_or(0, Vec::len);
        self.members.len() + self.records.len() + words <= LISTING_MAX
    }

    /// False when the lister lists more than anybody can hold.
    pub(crate) fn add_records(&mut self, list: Vec<RecordDigest>) -> bool {
        self.records.extend(list.into_iter().map(|one| ((one.owner, one.kind, one.shard), one.version)));
        self.is_bounded()
    }
}

/// What the comparer does about one member.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Difference {
    /// Send what we hold.
    pub(crate) send: bool,
    /// Ask for what they hold.
    pub(crate) want: bool,
}

/// What one side holds about a member, as far as comparing it goes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Holding {
    pub(crate) claim: Claim,
    /// Hash of what the member said.
    pub(crate) proof: u64,
}

impl Holding {
    /// As it was listed.
    pub(crate) fn listed(digest: &MemberDigest) -> Self {
        // "Joining" never travels; should a reader ever let it pass, it outranks nothing.
        let state = if digest.state == MemberState::Joining { MemberState::Alive } else { digest.state };
        Self { claim: Claim { life: digest.life, state }, proof: digest.proof }
    }
}

/// Compares what we hold about a member with what they listed.
pub(crate) fn compare_member(ours: Option<Holding>, theirs: Option<Holding>) -> Difference {
    match (ours, theirs) {
        (None, None) => Difference::default(),
        (Some(ours), None) => Difference { send: is_present(ours.claim.state), want: false },
        (None, Some(theirs)) => Difference { send: false, want: is_present(theirs.claim.state) },
        (Some(ours), Some(theirs)) => {
            let (a, b) = (ours.claim, theirs.claim);
            // One life said in two ways: a cloned identity; both sides shall see both.
            let forked = a.life == b.life && ours.proof != theirs.proof;
            Difference { send: supersedes(a, b) || forked, want: supersedes(b, a) || forked }
        }
    }
}

#[cfg(test)]
mod tests {
    use starling_model::{BootEpoch, Incarnation, Life};

    use super::*;
    use crate::testing::node;

    fn holding(text: &str) -> Option<Holding> {
        let (state, life) = text.split_once('@')?;
        let (incarnation, proof) = life.split_once('#').unwrap_or((life, "0"));
        Some(Holding::listed(&MemberDigest {
            name: node("m"),
            life: Life { epoch: BootEpoch(1), incarnation: Incarnation(incarnation.parse().unwrap()) },
            state: MemberState::ALL.into_iter().find(|one| one.as_str() == state).unwrap(),
            proof: proof.parse().unwrap(),
            credential: 0,
        }))
    }

    /// Ours, theirs, what is sent and wanted.
    #[test]
    fn only_the_difference_moves() {
        let check = |ours: &str, theirs: &str, send: bool, want: bool| {
            let got = compare_member(holding(ours), holding(theirs));
            assert_eq!(got, Difference { send, want }, "{ours} | {theirs}");
        };
        check("alive@3", "alive@3", false, false);
        check("alive@4", "alive@3", true, false);
        check("alive@3", "alive@4", false, true);
        check("alive@3", "suspect@3", false, true);
        check("failed@3", "alive@3", true, false);
        check("left@3", "failed@3", true, false);
        check("alive@3#1", "alive@3#2", true, true);
        check("alive@3", "-", true, false);
        check("-", "alive@3", false, true);
        check("suspect@3", "-", true, false);
        check("failed@3", "-", false, false);
        check("left@3", "-", false, false);
        check("-", "failed@3", false, false);
        check("-", "left@3", false, false);
    }
}
