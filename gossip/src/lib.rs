//! Membership and replicated state, given packets and time.
//!
//! # The idea in forty lines
//!
//! Every node probes one other per period, in a shuffled round robin (SWIM 4.3). A ping that is not acked in time is
//! repeated through others, by a stream of the same connection, and by a fresh dial (SWIM 3.1). If all paths fail the
//! member is *suspected*, not dead: the doubt spreads, quoting the life of the member that it is about, and the member
//! answers by raising its incarnation and saying so under its own signature (SWIM 4.2).
//!
//! Lifeguard adds that the accuser may be the sick one. A node that misses acks, or the nacks of its helpers, gives
//! everybody more time ([`Swim::health_score`]). A suspicion by one accuser lasts long and shrinks with each independent
//! confirmation. And whoever speaks to a suspected member says so first, so that it can answer.
//!
//! Starling adds three rules. A life is (boot epoch, incarnation), so a restart outranks everything said before. What is
//! said about a member is a *hint*: nobody is dead here unless our own probe ladder against that life failed. And
//! everything a member says about itself is signed by it, so relays can delay words but not change them.
//!
//! The same queue that spreads lives and doubts spreads *records*: services, health and status of each node, each whole,
//! ordered by (epoch, version), signed by the node it describes and kept as the bytes that were signed. News goes to all
//! connected peers at first receipt; what gets lost is found by anti-entropy, since each ack carries a hash over all
//! that its sender holds.
//!
//! What operators sign travels the same ways: *documents* are announced by their hashes and fetched, *revocations* fit a
//! datagram and go before any doubt. The greatest version of a document wins everywhere, and documents that were applied
//! together are in use together or not at all. Their root is exact: any difference ends in a comparison within seconds.
//!
//! # The form
//!
//! [`Swim`] is a pure machine: frames, connection news, commands and verdicts go in, [`Action`]s come out, and the only
//! clock is the `now` of each call. The same inputs with the same seed give the same outputs, byte for byte. It knows no
//! keys: signatures and verdicts are asked of the driver and come back under a [`Ticket`]; meanwhile unverified input
//! waits and changes nothing. All tables are bounded, and every drop is counted in [`Stats`].
//!
//! # Reading order
//!
//! [`action`] is the boundary. [`swim`] holds the entry points, and beside it `swim/probing`, `membership`, `spread`,
//! `state`, `sync`, `fetching`, `documents`, `bundles`, `rejudging`, `submit`, `agreement`, `speaking`, `linking` branch
//! on one idea each. The rest only computes: `members` (which claim wins; it lies in a `by_name`),
//! `probe`, `rtt`, `suspicion`, `local_health`, `accusers`, `pending`, `isolation` (failure detection); `broadcasts`,
//! `forward`, `fetches`, `quota` (spreading); `announced`, `replica`, `records`, `documents`, `trust`, `digest`,
//! `anti_entropy`, `own` (state); `peers`, `rejoin` (links);
//! `wire`, `payload`, `snapshot`, `codec` (bytes). [`config`] names every knob, [`limits`] every bound.
//!
//! Papers: A. Das, I. Gupta, A. Motivala, *SWIM* (DSN 2002); A. Dadgar, J. Phillips, J. Currey, *Lifeguard*
//! (arXiv 1707.00788).
//!
//! Not here: sockets, tasks, clocks, files, keys, certificates, configuration files, and any look into documents.

pub mod action;
pub mod config;
pub mod golden;
pub mod limits;
pub mod stats;
pub mod swim;

mod accusers;
mod announced;
mod anti_entropy;
mod broadcasts;
mod bundles;
mod by_name;
mod codec;
mod digest;
mod documents;
mod fetches;
mod forward;
mod hash;
mod isolation;
mod local_health;
mod members;
mod own;
mod payload;
mod peers;
mod pending;
mod probe;
mod quota;
mod records;
mod rejoin;
mod replica;
mod rtt;
mod snapshot;
mod suspicion;
#[cfg(test)]
mod testing;
mod timers;
mod trust;
mod wire;

pub use action::{
    Action, Alarm, Change, ClaimKind, CloseReason, Command, ConnectionChange, DialReason, DialTarget, DocumentView,
    DocumentsEvent, DownReason, Event, Evidence, ExchangeId, LocalMember, MemberView, OperatorClaim, OwnRecord,
    PathResult, PingAnswer, PingId, ProbeTrail, Reach, Rejected, RelayResult, Restored, RevocationView, Roots, Seed,
    Signature, SignedClaim, Statement, Step, SubmitId, SubmitProblem, SubmitRefused, Submitted, SuspicionView, Ticket,
    Verdict, Void, Wake, Word,
};
pub use announced::Pool;
pub use bundles::{BundleCommand, BundleEvent, BundleHead};
pub use codec::WireError;
pub use config::SwimConfig;
pub use stats::Stats;
pub use swim::Swim;
