//! The boundary: what goes into the machine besides frames ([`Command`], [`ConnectionChange`], verdicts), and all that
//! comes out ([`Action`]). What operators decide, what the store is told, alarms and evidence have files of
//! their own.

mod alarm;
mod evidence;
mod operators;
mod store;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use starling_model::{
    BootEpoch, HealthRecord, KeyId, Life, MemberState, MeshId, NodeName, ServicesRecord, StatusRecord,
};

pub use alarm::Alarm;
pub use evidence::{Evidence, PathResult, ProbeTrail, Reach, RelayResult, Step, Word};
pub use operators::{
    DocumentView, DocumentsEvent, OperatorClaim, RevocationView, SubmitId, SubmitProblem, SubmitRefused, Submitted,
    Void,
};
pub use store::{Change, Restored};

use crate::bundles::{BundleCommand, BundleEvent};
use crate::codec::WireError;

/// Who this node is. Fixed for the life of one machine, but for the addresses ([`Command::SetAddresses`]).
#[derive(Clone, Debug)]
pub struct LocalMember {
    /// The mesh; its head is in every envelope.
    pub mesh: MeshId,
    /// The name that our certificate proves.
    pub name: NodeName,
    /// Where peers can reach us, best first; at most four are announced.
    pub addresses: Vec<SocketAddr>,
    /// Public Ed25519 key that verifies what we sign.
    pub record_key: [u8; 32],
    /// Node statement with its chain: proves `record_key` to anybody who has the trust bundle. At most 4 KiB.
    pub credential: Bytes,
    /// This start's epoch: saved + 1, or Unix seconds when nothing was saved. It must be durable before this call.
    pub epoch: BootEpoch,
    /// Drawn at random at each start; tells two agents with one identity apart.
    pub instance_tag: u64,
    /// Where we are; in every key space from the first release.
    pub region: String,
    /// Release of the agent.
    pub release: String,
}

/// Names one question for the driver (a verdict or a signature); given back with the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(pub u64);

/// Names one [`Command::Ping`] for the driver.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PingId(pub u64);

/// What became of a ping that was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PingAnswer {
    /// It was answered; from this node to itself without a packet.
    Answered {
        /// From the datagram's departure to the answer's arrival.
        rtt: Duration,
    },
    /// It left, and no answer came in time.
    Silent,
    /// There was no connection, and the dial ended with this.
    NotReached(DownReason),
    /// No member of this name.
    Unknown,
    /// Too many are in flight.
    TooMany,
}

/// Names one bidirectional stream. Ids with the top bit set are inbound and chosen by the driver, unique per peer;
/// others are chosen by [`crate::Swim`], unique among all peers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ExchangeId(pub u64);

impl ExchangeId {
    /// The bit that marks inbound exchanges.
    pub const INBOUND: u64 = 1 << 63;

    /// True for a stream that the peer opened.
    #[must_use]
    pub fn is_inbound(self) -> bool {
        self.0 & Self::INBOUND != 0
    }
}

/// An Ed25519 signature.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Signature(pub [u8; 64]);

impl std::fmt::Debug for Signature {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Signature({:02x}{:02x}..)", self.0[0], self.0[1])
    }
}

/// `host:port` of a member to begin with; the driver resolves names at each dial.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Seed(pub String);

/// Whom to dial.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DialTarget {
    /// This member and no other.
    Member(NodeName),
    /// Whoever of our mesh answers there.
    Seed(Seed),
}

/// Why a dial is asked for; for logs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum DialReason {
    /// A seed, or a member of the snapshot.
    Join,
    /// A link of the active view.
    Link,
    /// A probe, for oneself or for another.
    Probe,
    /// A call to a dead member, or to the address book.
    Heal,
}

/// Why a connection is to be closed; becomes the close code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum CloseReason {
    /// We leave; the signed leave has gone out before.
    Leaving,
    /// The link is no longer needed.
    Evicted,
    /// Acks are missing: a fresh connection shall replace it.
    Stale,
}

/// Why a connection ended or a dial failed. Worth nothing as a verdict on the member.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum DownReason {
    /// The peer closed with the leave code.
    Left,
    /// The peer evicted us from its pool.
    Evicted,
    /// Stateless reset: the peer's process is new.
    Reset,
    /// Silence.
    TimedOut,
    /// Refused, by the network or by the peer.
    Refused,
    /// The peer is of another mesh, or not who was expected.
    Foreign,
    /// We closed it.
    Local,
    /// Anything else.
    Other,
}

/// News about the connection with one peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnectionChange {
    /// A connection with this proven peer is up (a second `Up` means: replaced by a new one).
    Up {
        /// The address as seen by us.
        address: SocketAddr,
    },
    /// The transport's own estimate of the round trip.
    Rtt(Duration),
    /// The connection is gone.
    Down {
        /// Why.
        reason: DownReason,
    },
    /// A dial of this member failed.
    DialFailed {
        /// Why.
        reason: DownReason,
    },
}

/// One of this node's own records, always whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OwnRecord {
    /// What this node offers.
    Services(ServicesRecord),
    /// Readiness of what it offers.
    Health(HealthRecord),
    /// Its own condition.
    Status(StatusRecord),
}

/// What the driver asks of the machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// What the store held, in any order; before `Join`.
    Restore(Vec<Restored>),
    /// Begin: dial these and whoever the snapshot knew.
    Join {
        /// Members to begin with; may be empty.
        seeds: Vec<Seed>,
    },
    /// A dial of this seed failed (name not resolved, refused, foreign, or it was ourselves).
    SeedFailed {
        /// Which.
        seed: Seed,
    },
    /// Leave for good: signed, told to peers on streams, then [`Event::LeaveFinished`].
    Leave,
    /// Announce this from now on; replaces what was announced of that kind.
    Put(OwnRecord),
    /// Documents of one `apply`, each as signed form and signature. All of them are verified, kept and told of, or none;
    /// [`Event::Submitted`] answers.
    SubmitDocuments {
        /// Names the answer.
        submit: SubmitId,
        /// In any order. More than one must be exactly one batch.
        documents: Vec<Bytes>,
    },
    /// A revocation of a node, as signed form and signature; [`Event::Submitted`] answers.
    SubmitRevocation {
        /// Names the answer.
        submit: SubmitId,
        /// The whole of it.
        revocation: Bytes,
    },
    /// Ping this member, or us, because somebody wants to know; [`Event::Pong`] answers in any case, within 5 s.
    Ping {
        /// Names the answer.
        ping: PingId,
        /// Whom; it is dialled when there is no link.
        target: NodeName,
        /// Bytes of the datagram, at most 1,162; a small ping is filled up.
        bytes: usize,
    },
    /// The driver's loop ran this late; over 500 ms it counts against our own health.
    ReportLag(Duration),
    /// The fullest of the driver's send queues; over half it counts against our own health, once per probe interval.
    ReportSendQueue {
        /// How full, in per cent.
        percent: u8,
    },
    /// About trust bundles.
    Bundle(BundleCommand),
    /// Our addresses changed.
    SetAddresses(Vec<SocketAddr>),
}

/// Which kind of statement a record key signs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ClaimKind {
    /// `alive` or `leave`.
    Life,
    /// A record.
    Record,
}

/// Something that must be verified before it counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SignedClaim {
    /// A node statement with its chain; answered by [`Verdict::Credential`] or [`Verdict::Refused`].
    Credential {
        /// Whose it must be.
        owner: NodeName,
        /// As received.
        bytes: Bytes,
    },
    /// A statement signed by an owner's record key; answered by [`Verdict::Valid`] or [`Verdict::Refused`].
    Owned {
        /// Who signed.
        owner: NodeName,
        /// The verified key.
        record_key: [u8; 32],
        /// What it is.
        kind: ClaimKind,
        /// The signed bytes, as received.
        body: Bytes,
        /// The signature.
        signature: [u8; 64],
    },
    /// A statement signed by an operator; answered by [`Verdict::Valid`] or [`Verdict::Void`], by the bundle in force.
    Operator {
        /// What it is; decides the role that its signer needs.
        kind: OperatorClaim,
        /// Who signed, as the body says.
        signer: KeyId,
        /// The signed bytes, as received.
        body: Bytes,
        /// The signature.
        signature: [u8; 64],
    },
}

/// Answer to [`Action::Verify`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The credential holds and certifies this key.
    Credential {
        /// The owner's record key.
        record_key: [u8; 32],
        /// The statement's epoch.
        epoch: BootEpoch,
    },
    /// The signature holds.
    Valid,
    /// It does not.
    Refused,
    /// It is no operator's that may sign this.
    Void(Void),
}

/// Something to be signed with this node's record key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Statement {
    /// What it is.
    pub kind: ClaimKind,
    /// The bytes to sign.
    pub body: Bytes,
}

/// News for the rest of the agent: whole values, so nobody has to ask back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A member appeared or changed.
    Member(Box<MemberView>),
    /// A member's tombstone is gone.
    MemberForgotten(NodeName),
    /// An owner's services, all shards together. Own ones included.
    Services {
        /// Whose.
        owner: NodeName,
        /// All of them.
        record: ServicesRecord,
    },
    /// An owner's readiness, all shards together. Own ones included.
    Health {
        /// Whose.
        owner: NodeName,
        /// All of it.
        record: HealthRecord,
    },
    /// An owner's condition. Own one included.
    Status {
        /// Whose.
        owner: NodeName,
        /// All of it.
        record: StatusRecord,
    },
    /// All records of this owner are gone.
    OwnerDropped(NodeName),
    /// The first exchange is complete and everything of it was judged: this node is ready. Emitted once; at once when
    /// there is nobody to ask.
    Synced {
        /// Members known, this node included.
        members: usize,
    },
    /// True: too many members fell silent at once, so we assume that we are cut off. False: that is over.
    Isolation(bool),
    /// Why a member is held to be what it is.
    Evidence(Evidence),
    /// Somebody should look.
    Alarm(Alarm),
    /// Documents changed.
    Documents(DocumentsEvent),
    /// About trust bundles.
    Bundle(BundleEvent),
    /// A node was revoked: whoever holds the trust must count it before the next verdict.
    Revoked(RevocationView),
    /// What became of a submission. What was accepted has been given to the store before.
    Submitted {
        /// Which.
        submit: SubmitId,
        /// Its fate.
        outcome: Submitted,
    },
    /// What became of a [`Command::Ping`].
    Pong {
        /// Which.
        ping: PingId,
        /// Its fate.
        answer: PingAnswer,
    },
    /// Our own leave is done.
    LeaveFinished {
        /// Peers that confirmed it.
        acknowledged: usize,
    },
}

/// A running suspicion.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SuspicionView {
    /// Who doubts, the first accuser first.
    pub accusers: Vec<NodeName>,
    /// When it ends unless refuted or confirmed.
    pub deadline: Instant,
}

/// One member as this node sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberView {
    /// Who.
    pub name: NodeName,
    /// In which state.
    pub state: MemberState,
    /// In which life.
    pub life: Life,
    /// Announced addresses, best first; the address of the connection when none were announced.
    pub addresses: Vec<SocketAddr>,
    /// Smoothed round trip, once measured.
    pub rtt: Option<Duration>,
    /// How much it varies, once measured.
    pub jitter: Option<Duration>,
    /// Hash over its documents and trust, as last told on the open link; `None` without one.
    pub documents_root: Option<u64>,
    /// When the state was entered, as seen here.
    pub since: Instant,
    /// When it last proved itself to us directly.
    pub last_seen: Option<Instant>,
    /// Release of its agent.
    pub release: String,
    /// Where it says it is.
    pub region: String,
    /// Lowest and highest protocol version it speaks.
    pub protocol: (u16, u16),
    /// What it offers, if known.
    pub services: Option<Arc<ServicesRecord>>,
    /// Its condition, if known.
    pub status: Option<StatusRecord>,
    /// Why it is doubted, while it is.
    pub suspicion: Option<SuspicionView>,
    /// True while a connection with it is up.
    pub connected: bool,
}

/// Everything the machine may ask of the world; nothing else leaves it. Perform them in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Send one datagram on the connection with this peer, now or never.
    SendDatagram {
        /// To whom.
        to: NodeName,
        /// At most 1,162 bytes.
        payload: Bytes,
    },
    /// Send one frame on a stream; opens it when the id is ours and new.
    SendSync {
        /// To whom.
        to: NodeName,
        /// On which stream.
        exchange: ExchangeId,
        /// May be empty together with `last`: only finish our half.
        frame: Bytes,
        /// Finish our half after this frame.
        last: bool,
    },
    /// Establish a connection unless there is one; answered by `Up`, `DialFailed` or [`Command::SeedFailed`].
    Dial {
        /// Whom.
        target: DialTarget,
        /// Where, best first; empty for a seed.
        addresses: Vec<SocketAddr>,
        /// Why.
        why: DialReason,
    },
    /// Close the connection with this peer.
    Close {
        /// With whom.
        peer: NodeName,
        /// Why.
        why: CloseReason,
    },
    /// Judge this; answer with `handle_verdict`.
    Verify {
        /// Names the question.
        ticket: Ticket,
        /// What to judge.
        claim: SignedClaim,
    },
    /// Sign this; answer with `handle_signature`.
    Sign {
        /// Names the question.
        ticket: Ticket,
        /// What to sign.
        statement: Statement,
    },
    /// Keep this.
    Persist(Change),
    /// Tell this.
    Emit(Event),
}

/// Why `poll_timeout` asks for a turn: for logs, and for hunting busy loops.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Wake {
    /// The next probe round.
    ProbeTick,
    /// A probe's direct wait is over.
    ProbeDirect,
    /// A probe's verdict is due.
    ProbeVerdict,
    /// A relayed ping's nack or end is due.
    Relay,
    /// A ping that was asked for is over.
    Ping,
    /// A suspicion ends.
    Suspicion,
    /// A suspected member is probed for verification.
    Verification,
    /// The next gossip tick.
    Gossip,
    /// Changes wait to be forwarded.
    Forward,
    /// The next comparison with a member.
    AntiEntropy,
    /// An exchange takes too long.
    Exchange,
    /// Links, seeds and dials.
    Links,
    /// The next call to the dead.
    Heal,
    /// Tombstones, waiting room and other sweeping.
    Sweep,
    /// Own records wait for their rate.
    OwnRecords,
    /// The leave's deadline.
    Leave,
    /// The mass-down guard.
    Isolation,
}

/// Why input was refused: a fact about the peer. Counted, dropped, never a reason to stop.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Rejected {
    /// The envelope names another mesh; nothing behind it was read.
    #[error("the frame is of another mesh")]
    OtherMesh,
    /// The frame could not be read.
    #[error("the frame is malformed")]
    Malformed(#[source] WireError),
    /// A frame on an exchange that is not open, or that does not fit its state.
    #[error("the frame belongs to no open exchange")]
    StrayFrame,
    /// Too many exchanges are open.
    #[error("too many exchanges are open")]
    TooManyExchanges,
    /// This node has left.
    #[error("this node has left the mesh")]
    Leaving,
    /// The sender claims to be us.
    #[error("the sender carries our own name")]
    OwnName,
}

impl Rejected {
    /// The label of metrics.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::OtherMesh => "other_mesh",
            Self::Malformed(_) => "malformed",
            Self::StrayFrame => "stray_frame",
            Self::TooManyExchanges => "too_many_exchanges",
            Self::Leaving => "leaving",
            Self::OwnName => "own_name",
        }
    }
}

/// The two hashes that ride on every ack.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Roots {
    /// Over documents and trust: exact.
    pub documents: u64,
    /// Over members and records: advisory.
    pub state: u64,
}
