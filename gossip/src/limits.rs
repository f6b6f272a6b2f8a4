//! Every limit of the protocol, with its reason. Nothing that a peer sends makes a table or a queue grow past these.

use std::time::Duration;

use starling_model::limits::{
    ADDRESSES_MAX, BATCH_DOCUMENTS_MAX, DOCUMENT_BODY_BYTES_MAX, NAME_BYTES_MAX, REVOCATION_BODY_BYTES_MAX,
};

/// Largest gossip datagram. Every QUIC path carries 1,200 bytes (RFC 9000, 14); of these a short-header packet spends
/// 1 flags + 8 connection id + 4 packet number + 16 tag, and the DATAGRAM frame (RFC 9221) up to 9.
pub const DATAGRAM_BYTES_MAX: usize = 1_162;
const _: () = assert!(DATAGRAM_BYTES_MAX + 1 + 8 + 4 + 16 + 9 == 1_200);

/// Largest frame of a sync stream; the transport refuses longer ones unread.
pub const SYNC_FRAME_BYTES_MAX: usize = 1 << 20;
/// What our own writer puts into one sync frame: small, so that verifying one frame never stalls a turn, and every
/// frame's items fit the waiting room.
pub const SYNC_FRAME_BYTES_TARGET: usize = 48 << 10;
const _: () = assert!(SYNC_FRAME_BYTES_TARGET + MESSAGE_BYTES_MAX < SYNC_FRAME_BYTES_MAX);

/// Largest single message inside a frame: its length field has 16 bits.
pub const MESSAGE_BYTES_MAX: usize = u16::MAX as usize;

/// Largest payload of one shard of one record: eight fit a 64 KiB frame.
pub const RECORD_PAYLOAD_BYTES_MAX: usize = 8 << 10;
/// Largest whole record: header, payload, signature.
pub const RECORD_BYTES_MAX: usize =
    1 + NAME_BYTES_MAX + 1 + 1 + 8 + 8 + 2 + 4 + 32 + 2 + RECORD_PAYLOAD_BYTES_MAX + SIGNATURE_BYTES;
const _: () = assert!(RECORD_BYTES_MAX < MESSAGE_BYTES_MAX);

/// An Ed25519 signature.
pub const SIGNATURE_BYTES: usize = 64;

/// Largest credential: a node statement with two certificates; ours have about 1.6 KB.
pub const CREDENTIAL_BYTES_MAX: usize = 4 << 10;

/// Largest signed `alive` or `leave` body: header, two texts, addresses, and room for fields of newer releases.
pub const LIFE_BYTES_MAX: usize = 1_024;
const _: () = assert!(
    LIFE_BYTES_MAX
        >= 3 + 1 + NAME_BYTES_MAX + 12 + 8 + 32 + 4 + 8 + 2 * (1 + TEXT_BYTES_MAX) + 1 + ADDRESSES_MAX * 19 + 2
);

/// Longest region or release text in an `alive`.
pub const TEXT_BYTES_MAX: usize = 63;

/// Members that one node knows. Beyond it newcomers are refused with an alarm.
pub const MEMBERS_MAX: usize = 10_000;
/// Bytes of all records of one owner: that owner is degraded, not the mesh.
pub const OWNER_BYTES_MAX: usize = 1 << 20;
/// Shards of one kind of record: the shard number has 8 bits.
pub const SHARDS_MAX: usize = 256;
/// Kinds of records of newer releases that are kept for one owner.
pub const UNKNOWN_KINDS_MAX: usize = 4;
/// Bytes of all state held for others.
pub const STATE_BYTES_MAX: usize = 64 << 20;
/// Credentials held per owner: the one in use, the one before it, and one that is being introduced.
pub const CREDENTIALS_PER_OWNER_MAX: usize = 3;

/// Items that wait for a verdict, a signature or a credential; the newest is dropped beyond.
pub const WAITING_ROOM_MAX: usize = 4_096;
/// Items of one sender in the waiting room: one peer cannot fill it for the others.
pub const WAITING_PER_PEER_MAX: usize = 2_048;
const _: () = assert!(WAITING_PER_PEER_MAX < WAITING_ROOM_MAX);
/// Bytes of documents in the waiting room: it holds one exchange.
pub const WAITING_BYTES_MAX: usize = 16 << 20;
/// Bytes of documents of one sender in the waiting room.
pub const WAITING_BYTES_PER_PEER_MAX: usize = 8 << 20;
const _: () = assert!(WAITING_BYTES_PER_PEER_MAX < WAITING_BYTES_MAX);
/// How long an item waits for a verdict or a credential before it is dropped.
pub const WAITING_TIME_MAX: Duration = Duration::from_secs(10);
/// Actions that wait to be drained; sends beyond it are dropped and counted, everything else still enters, since it is
/// bounded by the tables it comes from.
pub const ACTIONS_MAX: usize = 8_192;
/// Actions for which an idle machine keeps room; what a burst took beyond it is given back once all are drained.
pub const ACTIONS_KEPT: usize = 64;

/// Syncs that peers may have open with us.
pub const INBOUND_SYNCS_MAX: usize = 8;
/// Of these, syncs of one peer: nobody takes them all.
pub const INBOUND_SYNCS_PER_PEER_MAX: usize = 2;
/// Syncs that we have open by our own choice.
pub const OUTBOUND_SYNCS_MAX: usize = 2;
/// Streams that carry one push or one ping and no dialogue, open at a time; they end by themselves.
pub const EXCHANGES_MAX: usize = 1_024;
/// Of these, streams with one peer, as far as its words make us open them: eight at a time pass, the rest would wait.
pub const EXCHANGES_PER_PEER_MAX: usize = 64;
/// How long one exchange may take.
pub const EXCHANGE_TIME_MAX: Duration = Duration::from_secs(10);
/// Most entries that are listed in plain; above, bucket hashes are compared first.
pub const PLAIN_DIGEST_MAX: usize = 512;
/// Entries in one digest message.
pub const DIGEST_ITEMS_MAX: usize = 400;
/// Hash buckets of the digest.
pub const BUCKETS: usize = 256;
/// Subjects in one `want` message.
pub const WANT_ITEMS_MAX: usize = 400;

/// Datagrams that one flush sends to one peer; the rest goes with the next flush.
pub const DATAGRAMS_PER_FLUSH_MAX: usize = 16;
/// Peers to which a change is forwarded on first receipt without drawing lots.
pub const FORWARD_TO_ALL_MAX: usize = 64;

/// Connections that a node keeps besides those it closes at once: the active view, and what probes, relays and calls
/// to the dead have opened. Beyond it the least recently used that nobody needs is closed.
pub const LINKS_MAX: usize = 512;

/// Probes in flight: one of the round, the rest verifications of suspicions.
pub const PROBES_MAX: usize = 64;
/// Pings that we make for others at a time; requests beyond it are dropped.
pub const RELAYS_MAX: usize = 256;
/// Longest time a relay works for one request: the longest scaled period of the slowest preset.
pub const RELAY_TIME_MAX: Duration = Duration::from_secs(40);

/// Pings in flight that people asked for: more askers than one host has at a time.
pub const PINGS_MAX: usize = 64;

/// Dials in flight for membership (join waves).
pub const DIALS_MAX: usize = 8;
/// Seeds that are kept.
pub const SEEDS_MAX: usize = 64;
/// Names with last addresses that outlive a member's tombstone.
pub const ADDRESS_BOOK_MAX: usize = 1_024;

/// Accusers that one suspicion remembers: more change nothing.
pub const ACCUSERS_PER_SUSPICION_MAX: usize = 8;

/// Accusations that wait for the `alive` which they quote: as many as members may die at once in a large mesh.
pub const ACCUSATIONS_PENDING_MAX: usize = 256;
/// Of these, accusations that one peer brought.
pub const ACCUSATIONS_PENDING_PER_PEER_MAX: usize = 32;
const _: () = assert!(ACCUSATIONS_PENDING_MAX.is_multiple_of(ACCUSATIONS_PENDING_PER_PEER_MAX));

/// Writes of one owner that a relay takes: sustained, per second.
pub const OWNER_WRITES_PER_SECOND: u32 = 10;
/// Writes of one owner that a relay takes at once. A start of a node with all its shards fits.
pub const OWNER_WRITES_BURST: u32 = 100;
/// Writes of one owner that comparisons bring at once: every shard of every kind that one owner may fill, once each.
pub const OWNER_SYNCED_BURST: u32 = 1_024;
const _: () = assert!(OWNER_SYNCED_BURST as usize >= 3 * SHARDS_MAX);
/// Writes of this node that pass at once; beyond it the last value waits for the bucket.
pub const OWN_WRITES_BURST: u32 = 20;
const _: () = assert!(OWN_WRITES_BURST < OWNER_WRITES_BURST);

/// Documents that one mesh may have, deleted ones included: many times what people keep in order.
pub const DOCUMENTS_MAX: usize = 4_096;
/// Largest signed document: body and signature.
pub const DOCUMENT_BYTES_MAX: usize = DOCUMENT_BODY_BYTES_MAX + SIGNATURE_BYTES;
const _: () = assert!(SYNC_FRAME_BYTES_TARGET + DOCUMENT_BYTES_MAX + 64 < SYNC_FRAME_BYTES_MAX);
/// Bytes of all documents that peers hold alike: 4 KiB for each of [`DOCUMENTS_MAX`]. Beyond it new ones are refused.
pub const DOCUMENTS_BYTES_MAX: usize = 16 << 20;
/// Bytes beyond it that new generations of known documents may take, so that a full mesh can be tidied up.
pub const DOCUMENTS_RESERVE_BYTES: usize = 2 << 20;
/// Bytes of all versions of all documents, history included; history gives way beyond it.
pub const DOCUMENTS_HELD_BYTES_MAX: usize = 32 << 20;
const _: () = assert!(DOCUMENTS_BYTES_MAX + DOCUMENTS_RESERVE_BYTES + DOCUMENT_BYTES_MAX <= DOCUMENTS_HELD_BYTES_MAX);
const _: () = assert!(DOCUMENTS_HELD_BYTES_MAX < STATE_BYTES_MAX);
/// Generations kept of one document, the newest included: a rollback looks back this far.
pub const DOCUMENT_GENERATIONS_KEPT: usize = 10;
/// Contents of one generation that are kept; of more the greatest. Two operators make two; more are a mistake.
pub const CONFLICTING_MAX: usize = 4;
/// Versions of one document that wait for their batches, of more the greatest: each is an `apply` that got stuck.
pub const WAITING_VERSIONS_MAX: usize = 16;

/// Revocations that one mesh may have: one for each member.
pub const REVOCATIONS_MAX: usize = 10_000;
/// Revocations of one node and number that count, of more those that keep least.
pub const REVOCATIONS_PER_NODE_MAX: usize = 4;
/// Largest signed revocation: body and signature. It fits a datagram.
pub const REVOCATION_BYTES_MAX: usize = REVOCATION_BODY_BYTES_MAX + SIGNATURE_BYTES;
const _: () = assert!(REVOCATION_BYTES_MAX + 3 + 16 <= DATAGRAM_BYTES_MAX);
/// Bytes of a request for updates of the trust bundle.
pub const UPDATES_REQUEST_BYTES_MAX: usize = 1 << 10;
/// Bytes of updates of the trust bundle, all together: they travel in one frame.
pub const UPDATES_BYTES_MAX: usize = SYNC_FRAME_BYTES_MAX - 64;
/// Peers whose trust bundle differs from ours that are remembered, and peers that asked for ours.
pub const UPDATES_ASKED_MAX: usize = LINKS_MAX;
/// Documents that are being fetched at a time.
pub const FETCHES_MAX: usize = 1_024;
/// Of these, documents that one peer said it had: one batch of the largest size.
pub const FETCHES_PER_PEER_MAX: usize = 256;
const _: () = assert!(FETCHES_PER_PEER_MAX >= BATCH_DOCUMENTS_MAX as usize);
/// Others who have a document that are remembered while it is fetched.
pub const FETCH_ALTERNATIVES_MAX: usize = 3;
/// Hashes whose signatures count for nothing that are remembered, so that they are not fetched at each mention.
pub const REFUSED_MAX: usize = 1_024;
/// Words and members that are judged again in one step after trust changed: 80 ms of the judge's time.
pub const REJUDGED_PER_STEP: usize = 256;
const _: () = assert!(REJUDGED_PER_STEP * CREDENTIALS_PER_OWNER_MAX <= WAITING_ROOM_MAX / 4);
/// Submissions that wait for verdicts: people work one after another.
pub const SUBMISSIONS_MAX: usize = 4;
