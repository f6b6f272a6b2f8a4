//! Limits that two rooms share, each with its reason.

/// Longest name: one DNS label (RFC 1035, 2.3.4).
pub const NAME_BYTES_MAX: usize = 63;

/// Longest trust domain, so that a workload's DNS form still fits a DNS name: three labels with their dots, `.node.`
/// aside, and the domain.
pub const TRUST_DOMAIN_BYTES_MAX: usize = 56;
const _: () = assert!(3 * (NAME_BYTES_MAX + 1) + 5 + TRUST_DOMAIN_BYTES_MAX <= 253);

/// Most labels on an instance or node; they travel in records.
pub const LABELS_MAX: usize = 32;
/// Longest label key or value.
pub const LABEL_BYTES_MAX: usize = 63;

/// Most instances that one node may announce.
pub const INSTANCES_PER_NODE_MAX: usize = 256;

/// Largest weight of an instance or backend (Gateway API v1, `BackendRef.weight`).
pub const WEIGHT_MAX: u32 = 1_000_000;

/// Most addresses that a member announces for itself.
pub const ADDRESSES_MAX: usize = 4;

/// Largest text of one document: more than any rule set that a person still reads, and one document never fills a
/// comparison's frame.
pub const DOCUMENT_TEXT_BYTES_MAX: usize = 64 << 10;
/// Largest signed body of a document: the text, the header with its longest names, and room for fields of newer
/// schemas.
pub const DOCUMENT_BODY_BYTES_MAX: usize = DOCUMENT_TEXT_BYTES_MAX + 1_024;
const _: () = assert!(
    DOCUMENT_BODY_BYTES_MAX
        >= DOCUMENT_TEXT_BYTES_MAX
            + 2
            + 4 * (1 + NAME_BYTES_MAX)
            + 8
            + 8
            + 1
            + 32
            + 2
            + 4
            + DOCUMENT_EXTENSION_BYTES_MIN
);
/// Room that the longest header leaves to fields of newer schemas: a previous hash, an end, and further signatures.
pub const DOCUMENT_EXTENSION_BYTES_MIN: usize = 512;

/// Documents that a node names in its status record as held back, those that are quarantined first; of the others it
/// tells the number. With these the record still fits a datagram beside the usual labels.
pub const HELD_BACK_TOLD_MAX: usize = 8;

/// Documents that one `apply` may join in a batch: each node holds it back until it is complete.
pub const BATCH_DOCUMENTS_MAX: u16 = 256;

/// Issuing keys that one revocation may keep: the one in use, its successor, and room for rotations that overlap.
pub const KEPT_KEYS_MAX: usize = 8;
/// Longest reason of a revocation: a sentence for people.
pub const REASON_BYTES_MAX: usize = 200;
/// Largest signed body of a revocation, with room for fields of newer schemas. It fits a datagram, so it spreads as
/// fast as anything can.
pub const REVOCATION_BODY_BYTES_MAX: usize = 960;
const _: () = assert!(
    REVOCATION_BODY_BYTES_MAX
        >= 2 + 2 * (1 + NAME_BYTES_MAX) + 8 + 8 + 1 + KEPT_KEYS_MAX * 32 + 1 + REASON_BYTES_MAX + 256
);
