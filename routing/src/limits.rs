//! Limits and built-in defaults of routing, each with its reason.

use std::time::Duration;

/// Deadline from the request's arrival to the response head where no document says otherwise. Nothing bounds the body,
/// so streams live on.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(15);

/// Deadline of one connection attempt, to a peer or to a local instance.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// Most times one request is handed to an endpoint, first try included. Three cover a mesh in which two of three nodes
/// have just died; more would multiply load on a service that is failing.
pub const TRIES_MAX: u32 = 3;

/// How long an own success outweighs a gossiped death: longer than the gap between two requests of a used service,
/// shorter than a person's patience with a host that is really gone.
pub const OWN_SUCCESS_HOLDS: Duration = Duration::from_secs(10);

/// Time constant of the latency average.
pub const EWMA_DECAY: Duration = Duration::from_secs(10);

/// Added to every latency before two are compared: differences far below a millisecond are the machine's noise.
pub const COST_GRACE: Duration = Duration::from_micros(500);

/// The second draw must be cheaper by this factor to beat the first.
pub const COST_MARGIN: f64 = 1.25;

/// Draws before the pick looks at the whole pool: with at least half of a pool usable, eight draws miss twice in a row
/// less than once in 250 requests.
pub const PICK_DRAWS_MAX: u32 = 8;

/// Endpoints of one service; more are left out and reported, so that one table row cannot eat the memory.
pub const ENDPOINTS_PER_SERVICE_MAX: usize = 10_000;

/// Retries that every service has in each second, however few its requests are (GEP-3388, `minRetryRate`).
pub const RETRY_FLOOR_PER_SECOND: u32 = 10;

/// Retries per hundred requests of the last [`RETRY_BUDGET_INTERVAL`]. Over three hops a dead backend then costs 1.7
/// times the load at most, not 27 times as three tries at each hop would.
pub const RETRY_BUDGET_PERCENT: u32 = 20;

/// What the retry budget looks back on.
pub const RETRY_BUDGET_INTERVAL: Duration = Duration::from_secs(10);

/// Retries of a rule whose `retry` block does not say how many.
pub const RETRIES_BUILT_IN: u32 = 2;

/// Shortest wait before a retry where no rule says otherwise.
pub const BACKOFF_MIN: Duration = Duration::from_millis(25);

/// Longest wait for a response head where a rule switches the deadline off: by then its caller is gone.
pub const HEAD_WAIT_MAX: Duration = Duration::from_secs(24 * 3_600);

/// Matches that lost, and endpoints, that one explanation lists; more of them are counted.
pub const EXPLAINED_MAX: usize = 64;

/// Characters of a request's own text (a header, say) that an explanation repeats; enough to recognise it.
pub const TOLD_CHARS_MAX: usize = 200;

/// Length of a session cookie's value: anything longer or shorter is none of ours.
pub const SESSION_VALUE_BYTES: usize = 64;

/// Cookies of one name that a request is asked for a session in. Clients send one; a few more come of sites that share a
/// name.
pub const SESSION_COOKIES_MAX: usize = 4;

/// How far in the future a session may have begun: clocks of agents differ by less, and a forged cookie must not outlive
/// its rule's `absoluteTimeout` by more.
pub const SESSION_AHEAD_MAX: Duration = Duration::from_secs(300);

/// Slots of a table for consistent hashing, a prime (the smaller table of the Maglev paper, and Envoy's): up to 655
/// endpoints of one weight differ by less than 1 % in their shares. 128 KiB for a service that asks for it.
pub const MAGLEV_SLOTS: usize = 65_537;

/// Times that a key is hashed before a whole pool is looked through: a half of a service's endpoints is missed so often
/// in one of 65,536 requests.
pub const MAGLEV_PROBES_MAX: u32 = 16;

/// For how long the share of an endpoint rises that became ready, or whose node came back, where no document says it.
pub const SLOW_START: Duration = Duration::from_secs(30);

/// The share that it begins with: enough to warm it, too little to hurt it.
pub const SLOW_START_SHARE: f64 = 0.1;

/// Largest snapshot: 1,000 services with ten instances and as many routes need a third of it, and whoever opens one holds
/// a few times as much.
pub const SNAPSHOT_BYTES_MAX: usize = 16 * 1024 * 1024;
