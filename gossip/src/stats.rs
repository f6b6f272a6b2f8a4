//! [`Stats`]: plain counters, read by the driver after a turn. Keys come from closed sets, never from peers.

use std::collections::BTreeMap;
use std::time::Duration;

use starling_model::MemberState;

/// Upper bounds of the round-trip histogram's buckets, in microseconds; one more bucket takes the rest.
pub const RTT_BUCKETS_US: [u64; 12] =
    [100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 1_000_000];

/// Round trips of direct probes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RttHistogram {
    /// Observations per bucket of [`RTT_BUCKETS_US`], then those above the last.
    pub buckets: [u64; RTT_BUCKETS_US.len() + 1],
    /// All observations together.
    pub sum: Duration,
    /// How many.
    pub count: u64,
}

impl RttHistogram {
    pub(crate) fn observe(&mut self, rtt: Duration) {
        let micros = u64::try_from(rtt.as_micros()).unwrap_or(u64::MAX);
        let at = RTT_BUCKETS_US.iter().position(|bound| micros <= *bound).unwrap_or(RTT_BUCKETS_US.len());
        if let Some(bucket) = self.buckets.get_mut(at) {
            *bucket += 1;
        }
        self.sum = self.sum.saturating_add(rtt);
        self.count += 1;
    }
}

/// Upper bounds of the buckets of suspicions' durations, in milliseconds; one more bucket takes the rest. The shortest
/// suspicion of the quickest preset is 0.6 s, the longest of LAN at 10,000 members 96 s.
pub const SUSPICION_BUCKETS_MS: [u64; 10] = [50, 250, 1_000, 2_000, 4_000, 8_000, 16_000, 32_000, 64_000, 128_000];

/// How long suspicions lasted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SuspicionHistogram {
    /// Observations per bucket of [`SUSPICION_BUCKETS_MS`], then those above the last.
    pub buckets: [u64; SUSPICION_BUCKETS_MS.len() + 1],
    /// All durations together.
    pub sum: Duration,
    /// How many.
    pub count: u64,
}

/// Why something was dropped. Every drop in this crate is one of these.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Drop {
    /// The action queue was full.
    ActionsFull,
    /// The waiting room was full, or the sender's share of it.
    WaitingFull,
    /// Waited too long for a verdict, a signature or a credential.
    WaitedTooLong,
    /// A signature or credential was refused.
    Refused,
    /// Not newer than what is held.
    Stale,
    /// Already held or already on its way to a verdict.
    Duplicate,
    /// The owner's quota of bytes, shards or kinds.
    OwnerQuota,
    /// The owner's rate of writes.
    OwnerRate,
    /// The member table or the state of all owners is full.
    TableFull,
    /// The claim is about nobody we know.
    UnknownSubject,
    /// An accusation above the accuser's cap, or of an accuser that is being ignored.
    AccuserCap,
    /// An ack or nack to no question of ours.
    UnaskedAnswer,
    /// A frame on an exchange that is not open, or that does not fit its state.
    StrayFrame,
    /// A message kind of a newer release.
    UnknownKind,
    /// Too many probes, relays or exchanges at a time.
    Busy,
    /// The body of a known record kind could not be read; it is kept and forwarded, not used.
    UnreadablePayload,
    /// An own record is too large to announce.
    OwnTooLarge,
    /// Something of the snapshot could not be read.
    BadSnapshot,
    /// An operator's word whose key the trust bundle does not name.
    UnknownSigner,
    /// An operator's word that its key may not say.
    SignerRole,
    /// An operator's word whose signature does not hold.
    BadOperatorSignature,
}

impl Drop {
    /// The label of metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ActionsFull => "actions_full",
            Self::WaitingFull => "waiting_full",
            Self::WaitedTooLong => "waited_too_long",
            Self::Refused => "refused",
            Self::Stale => "stale",
            Self::Duplicate => "duplicate",
            Self::OwnerQuota => "owner_quota",
            Self::OwnerRate => "owner_rate",
            Self::TableFull => "table_full",
            Self::UnknownSubject => "unknown_subject",
            Self::AccuserCap => "accuser_cap",
            Self::UnaskedAnswer => "unasked_answer",
            Self::StrayFrame => "stray_frame",
            Self::UnknownKind => "unknown_kind",
            Self::Busy => "busy",
            Self::UnreadablePayload => "unreadable_payload",
            Self::OwnTooLarge => "own_too_large",
            Self::BadSnapshot => "bad_snapshot",
            Self::UnknownSigner => "unknown_signer",
            Self::SignerRole => "signer_role",
            Self::BadOperatorSignature => "bad_operator_signature",
        }
    }
}

/// Counters since the start of this machine, and a few depths.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Probes answered on the direct path.
    pub probes_acked: u64,
    /// Probes answered through a relay or a stream only.
    pub probes_acked_indirectly: u64,
    /// Probes without any answer.
    pub probes_failed: u64,
    /// Round trips of direct probes.
    pub probe_rtt: RttHistogram,
    /// Suspicions of ourselves that we refuted.
    pub refutations: u64,
    /// Changes of members' states by (from, to).
    pub state_changes: BTreeMap<(MemberState, MemberState), u64>,
    /// How long suspicions lasted until they ended, by a refutation or by death.
    pub suspicion: SuspicionHistogram,
    /// Bytes of datagrams sent.
    pub sent_datagram_bytes: u64,
    /// Bytes of sync frames sent.
    pub sent_sync_bytes: u64,
    /// Bytes of datagrams received.
    pub received_datagram_bytes: u64,
    /// Bytes of sync frames received.
    pub received_sync_bytes: u64,
    /// Datagrams sent.
    pub sent_datagrams: u64,
    /// Bodies of documents sent.
    pub sent_documents: u64,
    /// Sync exchanges begun by us.
    pub syncs_started: u64,
    /// Comparisons that an ack with another root over members and records called for.
    pub syncs_advised: u64,
    /// Sync exchanges answered.
    pub syncs_answered: u64,
    /// Input refused as a whole, by [`crate::Rejected::reason`].
    pub rejected: BTreeMap<&'static str, u64>,
    /// Everything else that was dropped.
    pub dropped: BTreeMap<Drop, u64>,
    /// Accusations above an accuser's cap.
    pub accusations_over_cap: u64,
    /// Updates waiting to be told.
    pub queue_broadcasts: usize,
    /// Items waiting for a verdict, a signature or a credential.
    pub queue_waiting: usize,
    /// Actions waiting to be drained, at most so far.
    pub queue_actions_peak: usize,
    /// Bytes of state held for others.
    pub state_bytes: usize,
    /// Bytes of the owner that holds most.
    pub largest_owner_bytes: usize,
    /// Documents held, deleted ones included.
    pub documents: usize,
    /// Bytes of all versions of documents held, history included.
    pub documents_bytes: usize,
    /// Documents whose newest generation was written in more than one way.
    pub documents_conflicting: usize,
    /// Batches that wait for documents.
    pub batches_incomplete: usize,
    /// Revocations in force.
    pub revocations: usize,
}

impl Stats {
    /// A suspicion ended, either way.
    pub(crate) fn suspicion_ended(&mut self, lasted: Duration) {
        let ms = u64::try_from(lasted.as_millis()).unwrap_or(u64::MAX);
        let at = SUSPICION_BUCKETS_MS.iter().position(|bound| ms <= *bound).unwrap_or(SUSPICION_BUCKETS_MS.len());
        if let Some(bucket) = self.suspicion.buckets.get_mut(at) {
            *bucket += 1;
        }
        self.suspicion.sum = self.suspicion.sum.saturating_add(lasted);
        self.suspicion.count += 1;
    }

    pub(crate) fn drop(&mut self, why: Drop) {
        self.drop_all(why, 1);
    }

    pub(crate) fn drop_all(&mut self, why: Drop, count: u64) {
        if count > 0 {
            *self.dropped.entry(why).or_default() += count;
        }
    }

    /// How often something was dropped for this reason.
    #[must_use]
    pub fn dropped(&self, why: Drop) -> u64 {
        self.dropped.get(&why).copied().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_suspicion_counts_in_its_bucket_and_in_the_last_one_past_all_bounds() {
        let mut stats = Stats::default();
        let last = SUSPICION_BUCKETS_MS[SUSPICION_BUCKETS_MS.len() - 1];
        for ms in [0, SUSPICION_BUCKETS_MS[0], SUSPICION_BUCKETS_MS[0] + 1, last, last + 1] {
            stats.suspicion_ended(Duration::from_millis(ms));
        }
        assert_eq!(stats.suspicion.buckets, [2, 1, 0, 0, 0, 0, 0, 0, 0, 1, 1]);
        assert_eq!(stats.suspicion.count, 5);
        assert_eq!(stats.suspicion.sum, Duration::from_millis(50 + 51 + 2 * last + 1));
    }
}
