//! Limits of the gossip network, each with its reason. What a peer can make this end hold follows from them.

use std::time::Duration;

use super::keys::ID_BYTES;

/// Largest gossip datagram on every path: 1,200 bytes less what a packet spends besides.
pub const DATAGRAM_BYTES_MAX: usize = 1_162;

/// What every path carries (RFC 9000, 14), pinned: discovery doubles the bytes of a handshake and gossip has no use for
/// larger packets.
pub const MTU_BYTES: u16 = 1_200;

// Of each packet a short header spends 1 flags + the id + 4 packet number + 16 tag, and the frame up to 9 (RFC 9221).
const _: () = assert!(DATAGRAM_BYTES_MAX + 1 + ID_BYTES + 4 + 16 + 9 == MTU_BYTES as usize);

/// Streams of each kind that a peer may have open: one uni stream for the hello, the rest for exchanges. Every allowed
/// stream costs memory on an idle connection (31 KiB with 8, 64 KiB with 256).
pub const STREAMS_MAX: u32 = 8;

/// A stream's window: a few documents.
pub const STREAM_WINDOW_BYTES: u32 = 256 * 1024;

/// A connection's window in either direction: what a peer can make us hold.
pub const CONNECTION_WINDOW_BYTES: u32 = 2 * 1024 * 1024;

/// Received datagrams that wait for the task: fifty of the largest.
pub const DATAGRAMS_IN_BYTES: usize = 64 * 1024;

/// Datagrams that wait for the congestion window: few, because stale probes are worth nothing.
pub const DATAGRAMS_OUT_BYTES: usize = 8 * 1024;

const _: () = assert!(DATAGRAM_BYTES_MAX < DATAGRAMS_OUT_BYTES && DATAGRAMS_OUT_BYTES < DATAGRAMS_IN_BYTES);

/// A link sees a probe every 16 periods on average; one that saw none for a minute is closed.
pub const IDLE_MAX: Duration = Duration::from_secs(60);

/// Silence after which a link between sites says something: below the 30 s for which a NAT keeps a UDP mapping.
pub const KEEP_ALIVE: Duration = Duration::from_secs(25);

const _: () = assert!(KEEP_ALIVE.as_secs() * 2 < IDLE_MAX.as_secs());

/// Mean age at which a connection is replaced by a fresh one, give or take a fifth: keys and proofs of identity are
/// never older.
pub const AGE_MAX: Duration = Duration::from_secs(6 * 3_600);

/// Longest a replaced connection stays for the exchanges that run on it: each has ended by then.
pub const REPLACED_LIFE: Duration = Duration::from_secs(65);

const _: () = assert!(REPLACED_LIFE.as_secs() > EXCHANGE_DEADLINE.as_secs());

/// How long the loser of two connections that crossed stays: an end that saw it first may have begun something on it,
/// and what begins that early is a first comparison.
pub const DUPLICATE_LIFE: Duration = Duration::from_secs(5);

/// Packets of handshakes that nobody has looked at yet: connections.
pub const INCOMING_MAX: usize = 256;
/// Bytes of each of them.
pub const INCOMING_BYTES: u64 = 64 * 1024;
/// Bytes of them all.
pub const INCOMING_BYTES_ALL: u64 = 8 * 1024 * 1024;

/// Handshakes under way above which a source must first prove its address: a spoofed flood then costs one stateless
/// packet per packet.
pub const RETRY_ABOVE: usize = 32;

/// Handshakes under way at once.
pub const PENDING_MAX: usize = 256;

/// Handshakes under way of one source.
pub const PENDING_PER_SOURCE_MAX: usize = 4;

/// Handshakes that one source may begin in a second.
pub const STARTED_PER_SECOND_MAX: usize = 20;

/// Sources that are remembered; beyond it new ones are ignored until others have finished. Addresses of members that
/// are exempt, too: more are treated like everybody.
pub const SOURCES_MAX: usize = 4_096;

/// Deadline of the handshake, and once more of the hellos.
pub const HANDSHAKE_DEADLINE: Duration = Duration::from_secs(3);

/// Longest hello: a later version may say more, up to here.
pub const HELLO_BYTES_MAX: usize = 512;

/// Largest frame of an exchange.
pub const FRAME_BYTES_MAX: usize = 1024 * 1024;

/// Longest time without a whole frame in either direction.
pub const FRAME_DEADLINE: Duration = Duration::from_secs(5);

/// Deadline of a whole exchange: it never holds one of the few streams for longer.
pub const EXCHANGE_DEADLINE: Duration = Duration::from_secs(60);

/// Frames that wait to leave on one exchange: all that one side of a comparison may give at once (16 MiB in frames of
/// 48 KiB) and its listing, since an exchange that loses a frame has to be begun again.
pub const QUEUE_LEN_MAX: usize = 512;
/// Bytes of them.
pub const QUEUE_BYTES_MAX: usize = 20 * 1024 * 1024;

/// Exchanges of one endpoint at once.
pub const EXCHANGES_MAX: usize = 1_024;

/// Connections of this endpoint, hard: twice what a node keeps as links and for probes in the largest mesh planned.
pub const CONNECTIONS_MAX: usize = 1_024;

/// Reports that wait for their reader; beyond it no new connection is taken.
pub const CHANGES_MAX: usize = 4 * CONNECTIONS_MAX;

/// Connections with one peer: two that crossed, and two that replace them.
pub const LINKS_PER_PEER_MAX: usize = 4;

/// Dials under way at once; a join makes eight.
pub const DIALS_MAX: usize = 64;

/// Addresses tried of one dial.
pub const ADDRESSES_MAX: usize = 8;

/// Longest question about trust, and longest answer: what `starling_identity::limits` says of both.
pub const TRUST_QUESTION_BYTES_MAX: usize = starling_identity::limits::REQUEST_BYTES_MAX;
/// See [`TRUST_QUESTION_BYTES_MAX`].
pub const TRUST_ANSWER_BYTES_MAX: usize = starling_identity::limits::ANSWER_BYTES_MAX;

/// Questions about trust that are answered at once: 8 MiB of answers at most wait for slow askers.
pub const TRUST_PLACES_MAX: usize = 8;

/// Time between two answers to one source.
pub const TRUST_SOURCE_PAUSE: Duration = Duration::from_secs(1);

/// Deadline of a question with its answer: a mebibyte over a path of 2 Mbit/s.
pub const TRUST_DEADLINE: Duration = Duration::from_secs(5);

/// Strangers that were logged; after that only the counter speaks.
pub const STRANGERS_MAX: usize = 256;
