//! Limits of `starling-mux/1`. The initial windows are part of the protocol: both sides count from them.

/// Credit of a new stream in each direction, until a `window` frame adds to it.
///
/// This is also what a reader that has stalled costs its host. A reader that keeps up is given more, so a fast stream
/// does not stay at one window per round trip.
pub const STREAM_WINDOW_INITIAL: u32 = 64 * 1024;

/// Largest window of a stream whose reader keeps up: 1 MiB per round trip, 100 MiB/s at 10 ms.
pub const STREAM_WINDOW_MAX: u32 = 1024 * 1024;

/// What all streams beyond their initial windows may be given together on one connection.
pub const WINDOW_GROWTH_MAX: u32 = 16 * 1024 * 1024;

/// Credit of a connection: the most that a peer can make this side hold. 512 readers that stalled entirely on initial
/// windows fit into it, so fewer of them cannot starve the others.
pub const CONNECTION_WINDOW: u32 = 32 * 1024 * 1024;

/// Streams that one side opens on a connection, at most.
pub const OPEN_STREAMS_MAX: usize = 2_048;

/// Streams of the peer that are served at once; beyond it they are refused. Twice what a correct peer opens, because a
/// stream that is over for the opener may still be in somebody's hands here.
pub const ACCEPT_STREAMS_MAX: usize = 2 * OPEN_STREAMS_MAX;

/// Bytes a stream keeps for sending beyond its credit; a writer waits after that.
pub const SEND_BUFFER_MAX: usize = 32 * 1024;

/// Frames are made up to here and then wait for the network: four TLS records, one system call.
pub const OUTPUT_TARGET: usize = 64 * 1024;

/// Answers a peer may cause (`pong`, `reset` of its streams) while it does not read them; beyond it we stop reading the peer.
pub const ANSWERS_MAX: usize = 64 * 1024;

/// Last id of either side; then the connection takes no new streams and another one follows.
pub const STREAM_ID_MAX: u32 = u32::MAX >> 1;

const _: () = assert!(STREAM_WINDOW_INITIAL <= STREAM_WINDOW_MAX);
const _: () = assert!(WINDOW_GROWTH_MAX < CONNECTION_WINDOW);
const _: () = assert!(SEND_BUFFER_MAX as u64 <= STREAM_WINDOW_INITIAL as u64);
