//! Limits of the chain of trust bundles, of renewed certificates and of requests, each with its reason.

use std::time::Duration;

/// Most bundles kept before the newest. A fork is healed and a laggard caught up within so many updates; who is further
/// behind needs a new join file.
pub const ANCESTORS_MAX: usize = 64;
/// Most updates in one answer: all that may be kept.
pub const UPDATES_MAX: usize = ANCESTORS_MAX;
/// Largest bundle in a chain, signatures included: twelve certificates and sixty operators with ordinary names have
/// under 12 KiB, and a whole answer stays under [`ANSWER_BYTES_MAX`].
pub const UPDATE_BYTES_MAX: usize = 16_000;
/// Largest answer of `starling-trust/1`.
pub const ANSWER_BYTES_MAX: usize = 1 << 20;
const _: () = assert!(4 + 1 + UPDATES_MAX * (2 + UPDATE_BYTES_MAX) <= ANSWER_BYTES_MAX);
/// Most hashes in a request: the newest bundle and those 1, 2, 4, … 64 before it.
pub const REQUEST_HASHES_MAX: usize = 8;
const _: () = assert!(1 << (REQUEST_HASHES_MAX - 2) == ANCESTORS_MAX);
/// Largest request of `starling-trust/1`.
pub const REQUEST_BYTES_MAX: usize = 1_024;
const _: () = assert!(4 + 32 + 1 + REQUEST_HASHES_MAX * 32 <= REQUEST_BYTES_MAX);
/// Largest list of renewed node certificates, some 1,200 of them: handed in as base64 it fits a request of 1 MiB to the API.
pub const LIST_BYTES_MAX: usize = 700_000;
const _: () = assert!(LIST_BYTES_MAX / 3 * 4 + 4_096 <= 1 << 20 && LIST_BYTES_MAX + 4 <= ANSWER_BYTES_MAX);
/// Most lists that one bundle names: enough for more nodes than a mesh may have.
pub const LISTS_MAX: usize = 16;
/// Largest node certificate in a list; ours have about 600 bytes with the longest names.
pub const LISTED_BYTES_MAX: usize = 2_048;
/// Certificates of one issuing key that are held: one under each root that a bundle may have.
pub const CERTIFICATES_PER_KEY_MAX: usize = 4;
const _: () = assert!(4 + 1 + CERTIFICATES_PER_KEY_MAX * (2 + LISTED_BYTES_MAX) <= ANSWER_BYTES_MAX);
/// Largest certificate request that is looked at; ours have under 300 bytes with the longest name.
pub const CSR_BYTES_MAX: usize = 1_024;
/// Most memory that opening a key under a passphrase may take: ours takes 16 MiB, other tools' up to this.
pub const KDF_MEMORY_BYTES_MAX: u64 = 256 << 20;
/// Most work of scrypt, as bytes that it mixes (128 N r p): ours takes 80 MiB, some 0.2 s; this some seconds.
pub const KDF_WORK_BYTES_MAX: u64 = 1 << 30;
const _: () = assert!(KDF_MEMORY_BYTES_MAX <= KDF_WORK_BYTES_MAX);
/// Most rounds of PBKDF2, some seconds; what OpenSSL writes has 2,048, what is advised today 600,000.
pub const KDF_ROUNDS_MAX: u64 = 10_000_000;
/// How long a node's last proof, on any connection, carries its old connections. As long as a leaf lives, and four times as
/// long as a connection takes new streams: who is there and whole proves itself several times in it.
pub const PROVED_WITHIN: Duration = Duration::from_secs(24 * 3600);

/// Nodes whose last handshake is remembered: as many as a mesh may have.
pub const HANDSHAKES_MAX: usize = 10_000;
