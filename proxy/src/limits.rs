//! Limits of the data plane, each with its reason.

use std::time::Duration;

use starling_transport::data::{DEDICATED_MAX, DEDICATED_WRITE_BYTES};

/// Largest request head: request line and headers (nginx and Envoy allow 32 to 60 KiB; Kerberos tickets fit in 64).
pub const HEAD_BYTES_MAX: usize = 64 * 1024;

/// Most header lines in a head, as hyper has it; so many are parsed without allocating.
pub const HEADERS_MAX: usize = 100;

/// A head that has begun must be complete after this long, so that slow senders hold no connection (slowloris).
pub const HEAD_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a connection of an application, or a stream of a peer, may wait for its next request. Longer than any
/// usual client keeps idle connections (60 to 90 s), so that the client closes first and no request meets a closing
/// connection.
pub const IDLE_TIMEOUT: Duration = Duration::from_secs(300);

/// How long an idle stream to a peer is kept for the next request. Under [`IDLE_TIMEOUT`], for the same reason.
pub const POOL_IDLE_TIMEOUT: Duration = Duration::from_secs(60);
const _: () = assert!(POOL_IDLE_TIMEOUT.as_secs() * 2 <= IDLE_TIMEOUT.as_secs());

/// How long a stream to a peer carries requests before it is replaced. A connection that says `goaway` ends with its last
/// stream, so streams must end for certificates to be shown anew.
pub const POOL_AGE_MAX: Duration = Duration::from_secs(600);

/// How long an idle connection to a local instance is kept. Short, since servers close idle ones after 5 s (Node.js) to
/// 75 s (nginx), and a request that meets the closing may have to be answered with an error.
pub const INSTANCE_IDLE_TIMEOUT: Duration = Duration::from_secs(4);

/// Idle clients kept per key of a pool: as many requests as that one thread may have with one instance without a new
/// connection for each. Half of all, so that one busy service leaves others theirs.
pub const POOL_IDLE_PER_KEY_MAX: usize = POOL_IDLE_MAX / 2;

/// Idle clients of a thread in all.
pub const POOL_IDLE_MAX: usize = 2_048;

/// How often a thread drops what has been idle for too long.
pub const SWEEP_INTERVAL: Duration = Duration::from_secs(1);

/// The largest head of an answer: that of a request and a little more, for what is added to it.
pub const HTTP_BUFFER_BYTES: usize = HEAD_BYTES_MAX + 8 * 1024;

/// Bytes of a request body that are kept so that a refused try can be repeated elsewhere (Linkerd keeps as many).
pub const REPLAY_BYTES_MAX: usize = 64 * 1024;

/// How often one try opens its stream anew after the connection had taken no more streams just then. The next connection is
/// a fresh one, so once is usual.
pub const LEFT_BEHIND_MAX: u32 = 2;

/// Longest wait before a retry, unless a rule asks for a longer one from the first on.
pub const BACKOFF_MAX: Duration = Duration::from_secs(1);

/// Services whose retries one data thread counts; beyond it all are counted anew.
pub const BUDGETS_MAX: usize = 4_096;

/// Copies of requests that one data thread has under way; what is drawn beyond is not sent.
pub const MIRRORS_MAX: usize = 256;

/// How long a copy may take with its answer.
pub const MIRROR_TIMEOUT: Duration = Duration::from_secs(15);

/// Bytes of a connection that are kept until its endpoint answered, so that a refused one can go elsewhere.
pub const REPLAY_TUNNEL_BYTES_MAX: usize = 16 * 1024;

/// Bytes in which a client of a Gateway must show whom it asks for: one TLS record. A usual ClientHello has 2 KiB, with a
/// post-quantum key share.
pub const CLIENT_HELLO_BYTES_MAX: usize = 16 * 1024;
const _: () = assert!(CLIENT_HELLO_BYTES_MAX <= REPLAY_TUNNEL_BYTES_MAX);

/// How long a client of a Gateway may take for that. It comes from anywhere, over links with loss: two retransmissions fit.
pub const CLIENT_HELLO_TIMEOUT: Duration = Duration::from_secs(5);

/// How often a port of a Gateway that could not be bound is tried again.
pub const GATEWAY_BIND_RETRY: Duration = Duration::from_secs(2);

/// Bytes moved per step of a tunnel: one TLS record.
pub const COPY_BYTES: usize = 16 * 1024;

/// The same on a connection of its own: eight TLS records with one system call on either side.
pub const COPY_BULK_BYTES: usize = DEDICATED_WRITE_BYTES;
const _: () = assert!(COPY_BULK_BYTES.is_multiple_of(COPY_BYTES));

/// Requests at a time on one HTTP/2 connection of an application (RFC 9113 advises at least 100).
pub const H2_STREAMS_MAX: u32 = 100;

/// Requests at a time on one HTTP/2 connection to a local instance; more open another one.
pub const H2_INSTANCE_STREAMS_MAX: u32 = 100;

/// Bytes of one HTTP/2 stream that may wait here unread.
pub const H2_STREAM_WINDOW: u32 = 64 * 1024;

/// Bytes of all streams of an HTTP/2 connection that may wait here unread.
pub const H2_CONNECTION_WINDOW: u32 = 1024 * 1024;
const _: () = assert!(H2_STREAM_WINDOW <= H2_CONNECTION_WINDOW);

/// The same on a connection that requests of many callers share: so many that streams nobody reads leave room for all
/// others.
pub const H2_INSTANCE_CONNECTION_WINDOW: u32 = H2_STREAM_WINDOW * H2_INSTANCE_STREAMS_MAX;

/// Bytes written to an HTTP/2 stream that may wait for its other end.
pub const H2_SEND_BUFFER_BYTES: usize = H2_STREAM_WINDOW as usize;

/// Largest header list of an HTTP/2 request, decoded, by the count of RFC 9113 (32 bytes on top of each header); trailers
/// too. What arrives coded, CONTINUATION frames included, is bounded by it in h2 (CVE-2024-2758, CVE-2026-49975).
pub const H2_HEADER_LIST_BYTES_MAX: u32 = 16 * 1024;

/// Streams that were reset before we looked at them, per HTTP/2 connection of an application; one more ends it
/// (CVE-2023-44487).
pub const H2_PENDING_RESETS_MAX: usize = 20;

/// Streams that we had to reset for what was sent on them, per HTTP/2 connection; one more ends it (CVE-2025-8671).
pub const H2_ERROR_RESETS_MAX: usize = 100;

/// Requests of one HTTP/2 connection that its application gave up before their answer, within [`H2_CANCELS_PERIOD`]; one
/// more ends the connection.
pub const H2_CANCELS_MAX: u32 = 100;

/// See [`H2_CANCELS_MAX`].
pub const H2_CANCELS_PERIOD: Duration = Duration::from_secs(10);

/// Bytes in which a connection must show what it speaks, where its service does not say: a request line of usual length.
pub const DETECT_BYTES_MAX: usize = 8 * 1024;
const _: () = assert!(DETECT_BYTES_MAX <= HEAD_BYTES_MAX);

/// How long first bytes that could be a request line may stay unfinished; then they are taken for bytes of something
/// else by the caller's agent, and refused by the owner's.
pub const DETECT_TIMEOUT: Duration = Duration::from_secs(1);

/// A client that speaks first does so at once; one that is silent for this long gets its tunnel, so that its server may
/// speak first.
pub const DETECT_PEEK: Duration = Duration::from_millis(20);

/// How long a connection that switched protocols may carry nothing in either direction. Longer than what keeps a quiet
/// WebSocket alive (pings every 20 s to some minutes), short enough that whatever lost its other end goes.
pub const TUNNEL_IDLE_TIMEOUT: Duration = Duration::from_secs(3_600);
const _: () = assert!(TUNNEL_IDLE_TIMEOUT.as_secs() > IDLE_TIMEOUT.as_secs());

/// How long a request that somebody watches may take with its answer: twice the built-in deadline of a response head.
pub const WATCHED_TIMEOUT: Duration = Duration::from_secs(30);

/// Bytes of its answer that are read; then its client goes.
pub const WATCHED_BYTES_MAX: usize = 1024 * 1024;

/// Connections waiting for one data thread.
pub const HANDOVER_MAX: usize = 256;

/// Connections that one listener serves at a time; those of all Gateways count as one.
pub const CONNECTIONS_PER_LISTENER_MAX: usize = 8_192;

/// Connections of all listeners together.
pub const CONNECTIONS_MAX: usize = 16_384;
const _: () = assert!(CONNECTIONS_PER_LISTENER_MAX <= CONNECTIONS_MAX);

// Streams with a connection of their own leave most places to shared ones.
const _: () = assert!(DEDICATED_MAX * THREADS_MAX <= CONNECTIONS_PER_LISTENER_MAX / 4);

/// Accepted and not yet handshaken connections of peers: a flood of handshakes may use this much at once.
pub const HANDSHAKES_MAX: usize = 512;

/// Of these, places of one source: a quarter, which a restarted host with all its data threads fits into.
pub const HANDSHAKES_PER_SOURCE_MAX: usize = HANDSHAKES_MAX / 4;

/// After an `accept` that failed for want of descriptors or memory, wait so long before the next.
pub const ACCEPT_BACKOFF: Duration = Duration::from_millis(50);

/// Most data threads. More do not help: beyond four, kernel and peers are the limit, and every thread holds its own
/// connections.
pub const THREADS_MAX: usize = 4;

/// Endpoints whose load is kept. 262,144 is a mesh of 5,000 nodes with 50 instances each.
pub const ENDPOINTS_MAX: usize = 256 * 1024;

/// First wait after a connection to an endpoint failed; doubles with each failure in a row.
pub const FAILING_FIRST: Duration = Duration::from_millis(200);

/// Longest wait after connections were refused. A refusal costs a request about a millisecond, and a restarted host
/// should be used within 2 s.
pub const FAILING_MAX: Duration = Duration::from_secs(1);

/// Wait after a connection attempt timed out: finding out again costs a request the whole connect deadline.
pub const FAILING_TIMED_OUT: Duration = Duration::from_secs(10);

/// Records of the access log that wait for their writer: at 50,000 requests a second what comes in 80 ms, and at most
/// 8 MiB. What is over is dropped and counted.
pub const ACCESS_LOG_LEN_MAX: usize = 4_096;

/// Bytes of a path that the access log tells; longer ones are cut.
pub const LOGGED_PATH_BYTES_MAX: usize = 1_024;

/// Longest request id that the access log tells; usual ones are UUIDs of 36 bytes.
pub const LOGGED_WORD_BYTES_MAX: usize = 128;
/// Longest method in a line of the access log; a longer one stands there as `_OTHER`.
pub const LOGGED_METHOD_BYTES_MAX: usize = 32;
const _: () = assert!(ACCESS_LOG_LEN_MAX * (LOGGED_PATH_BYTES_MAX + LOGGED_WORD_BYTES_MAX + 512) <= 8 * 1024 * 1024);

/// Series of one metric family; what is over counts under `other`.
pub const SERIES_MAX: usize = 10_000;

/// Services whose traffic of the last minute is kept for the local API.
pub const TRAFFIC_SERVICES_MAX: usize = 4_096;

/// Transitions of local checks that wait for the node.
pub const TRANSITIONS_MAX: usize = 256;
