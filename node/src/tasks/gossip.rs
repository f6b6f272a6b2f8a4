//! The driver of the membership machine: feeds it packets and time, performs what it asks, tells the others.
//!
//! One turn: gather inputs, read the clock once, feed them all, let time pass, drain the actions without awaiting, then
//! publish. The machine decides everything; this file only moves bytes. Names of seeds are resolved beside the loop,
//! certificates are judged on a thread of their own, and both answers come back as inputs.
//!
//! The task ends when it is dropped; its only `.await` takes nothing off a queue until it returns. After a panic it is
//! started again under a new boot epoch, so it never speaks with an older life than the mesh remembers.

mod bundles;
mod catching_up;
mod events;
mod history;
mod lists;
mod names;
mod persist;
mod revocations;
mod rulings;
mod seeds;
mod story;
mod submissions;
mod trust;

pub(super) use rulings::subject;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use starling_gossip::{
    Action, BundleCommand, Change, CloseReason, Command, ConnectionChange, DialTarget, DownReason, Event, ExchangeId,
    LocalMember, PingAnswer, PingId, Rejected, Seed, Submitted, Swim, SwimConfig, Ticket, Verdict, Wake,
};
use starling_identity::chain::{Merged, UpdateRefused};
use starling_identity::{CertificateList, Revoked};
use starling_model::{BootEpoch, MemberState, NodeName};
use starling_transport::quic::{self, GossipNet, NetEvent};
use tokio::sync::{Mutex, mpsc, oneshot};
use tracing::{debug, trace};

use self::bundles::TrustChain;
use self::catching_up::{Answered, CatchingUp};
use self::events::News;
use self::persist::{Flushed, Persister};
use self::seeds::{Resolved, Seeds};
use self::submissions::Submissions;
use super::identity::Identity;
use super::own::OwnRecords;
use super::routes::{AppliedCell, DocumentsInUse, RoutesInbox};
use crate::channel::Queue;
use crate::crypto::{self, Judge};
use crate::events::Events;
use crate::mesh_view::MeshViewCell;
use crate::shutdown::Lifecycle;
use crate::store::{Durability, StoreHandle};
use crate::telemetry::notify;

pub(crate) use self::bundles::{FILE as CHAIN_FILE, FOLDER as CHAIN_FOLDER};
pub use self::bundles::{in_force as trust_in_force, stored as stored_bundles};
pub use self::history::{AnyCase, History};
pub use self::names::resolve;
pub use self::revocations::on_disk as revocations_on_disk;
pub use self::submissions::{Submission, SubmissionFate};

/// Inputs fed in one turn: enough to keep up with a burst, few enough that timers are not late.
const TURN_INPUTS_MAX: usize = 64;
/// Datagrams and frames that wait for the loop; when it is full the newest is dropped (SWIM tolerates loss).
pub const INBOX_LEN_MAX: usize = 1_024;
/// Commands that wait.
pub const COMMANDS_LEN_MAX: usize = 256;
/// Time between two snapshots while things change.
const PUBLISH_PAUSE: Duration = Duration::from_millis(20);
/// Time between two snapshots while nothing changes: round trips and last contact grow old otherwise.
const PUBLISH_IDLE: Duration = Duration::from_secs(1);
/// Time between two lists of members' addresses for the network, while they may have changed.
const KNOWN_PAUSE: Duration = Duration::from_secs(1);
/// Time between two looks at the network's send queues: the machine counts one each probe interval at most.
const PRESSURE_PAUSE: Duration = Duration::from_millis(250);
/// A loop this late says so to the machine.
const LAG_REPORTED_MIN: Duration = Duration::from_millis(100);

/// What others ask of the mesh.
#[derive(Debug)]
pub enum MeshCommand {
    /// Dial these as well.
    Join(Vec<Seed>),
    /// Leave for good.
    Leave,
    /// Ping a member.
    Ping {
        /// Whom.
        target: NodeName,
        /// Bytes of the datagram.
        bytes: usize,
        /// Who waits for the answer.
        reply: oneshot::Sender<Pinged>,
    },
    /// Take an update of the trust bundle.
    Update {
        /// As the operator's tools write it.
        file: Bytes,
        /// Who waits for its fate, and for what it is worth on disk.
        reply: oneshot::Sender<Result<(Merged, Durability), UpdateRefused>>,
    },
    /// Take a list of renewed node certificates, for an update that follows.
    Certificates {
        /// What.
        list: CertificateList,
        /// Who waits.
        reply: oneshot::Sender<()>,
    },
    /// Take what an operator signed: the documents of one `apply`, or a revocation.
    Submit {
        /// What.
        what: Submission,
        /// Who waits for the outcome.
        reply: oneshot::Sender<SubmissionFate>,
    },
    /// Tell what is held of one document.
    History {
        /// Which.
        wanted: AnyCase,
        /// Who waits for it.
        reply: oneshot::Sender<History>,
    },
}

/// What became of a ping, and the path it took.
#[derive(Clone, Copy, Debug)]
pub struct Pinged {
    /// Its fate.
    pub answer: PingAnswer,
    /// The connection, if there is one.
    pub path: Option<quic::PathFacts>,
}

/// Everything the driver needs, shared over restarts.
#[derive(Debug)]
pub struct Settings {
    /// Timing of the protocol.
    pub swim: SwimConfig,
    /// Members to begin with.
    pub seeds: Vec<Seed>,
    /// Where others reach us, best first.
    pub addresses: Vec<SocketAddr>,
    /// Our labels' zone, in every key space.
    pub region: String,
}

/// The world around the machine.
#[derive(Clone, Debug)]
pub struct Context {
    /// See [`Settings`].
    pub settings: Arc<Settings>,
    /// Who we are.
    pub identity: Arc<Identity>,
    /// Connections with the others.
    pub net: GossipNet,
    /// What survives a crash.
    pub store: StoreHandle,
    /// Our own records.
    pub own: OwnRecords,
    /// Where news about members and their services go.
    pub routes: RoutesInbox,
    /// Where the documents in use go.
    pub documents: DocumentsInUse,
    /// Which of them the table is made of.
    pub applied: AppliedCell,
    /// Where the snapshot is published.
    pub view: MeshViewCell,
    /// What happened lately.
    pub events: Events,
    /// The agent's life.
    pub lifecycle: Lifecycle,
}

/// Queues into the driver; they outlive a panic of it.
#[derive(Debug)]
pub struct Inbox {
    /// From the network.
    pub net: mpsc::Receiver<NetEvent>,
    /// From the rest of the agent.
    pub commands: mpsc::Receiver<MeshCommand>,
}

/// One thing that happened.
enum Input {
    Net(NetEvent),
    Command(MeshCommand),
    Verdict(Ticket, Verdict),
    Resolved(Resolved),
    Trust(Answered),
}

/// The world as the loop sees it.
struct World {
    context: Context,
    judge: Judge,
    verdicts: mpsc::Receiver<(Ticket, Verdict)>,
    seeds: Seeds,
    resolved: mpsc::Receiver<Resolved>,
    persister: Persister,
    news: News,
    pings: BTreeMap<PingId, (NodeName, oneshot::Sender<Pinged>)>,
    pinged: u64,
    submissions: Submissions,
    publish_at: Instant,
    published_at: Instant,
    /// When the network was last told who is a member; news since then are in the flag.
    known_at: Instant,
    known_stale: bool,
    /// Of the last turn, as the machine counts.
    roots_heard: u64,
    trust: TrustChain,
    /// Hash of the bundle in force: the newest, unless that waits for its lists.
    in_force: [u8; 32],
    catching_up: CatchingUp,
    answered: mpsc::Receiver<Answered>,
    /// When the machine was last told how full the network's queues are.
    pressed_at: Instant,
    watchdog: Option<Duration>,
    watchdog_at: Instant,
}

/// Drives the machine until the agent ends. `restarts` counts panics before: each start has an epoch of its own.
pub async fn run(context: Context, inbox: Arc<Mutex<Inbox>>, epoch: BootEpoch, restarts: u64) {
    let mut inbox = inbox.lock().await;
    let epoch = if restarts == 0 { epoch } else { tokio::task::block_in_place(|| context.store.next_epoch()) };
    let now = Instant::now();
    let (judge, verdicts) = match Judge::start(context.identity.current.clone()) {
        Ok(started) => started,
        Err(error) => {
            context.lifecycle.stop(&format!("no thread for signatures: {error}"));
            return;
        }
    };
    let (resolved_queue, resolved) = Queue::new("resolved", COMMANDS_LEN_MAX);
    let (answers, answered) = Queue::new("trust answers", 1);
    let mut swim = Swim::new(local_member(&context, epoch), context.settings.swim.clone(), random_seed(), now);
    let mut world = World {
        judge,
        verdicts,
        seeds: Seeds::new(resolved_queue),
        resolved,
        persister: Persister::new(context.store.clone()),
        news: News::new(context.clone(), now),
        pings: BTreeMap::new(),
        pinged: 0,
        submissions: Submissions::default(),
        publish_at: now,
        published_at: now,
        known_at: now - KNOWN_PAUSE,
        known_stale: true,
        roots_heard: 0,
        trust: TrustChain::open(context.store.state(), &context.identity.bundle()),
        in_force: context.identity.bundle().hash(),
        catching_up: CatchingUp::new(answers, random_seed()),
        answered,
        pressed_at: now,
        watchdog: notify::watchdog_interval(),
        watchdog_at: now,
        context,
    };
    world.begin(&mut swim, now);
    let mut inputs = Vec::with_capacity(TURN_INPUTS_MAX);
    while world.gather(&mut inbox, &mut inputs, swim.poll_timeout()).await.is_continue() {
        let now = Instant::now(); // One reading per turn: its decisions agree on the time.
        for input in inputs.drain(..) {
            world.feed(&mut swim, input, now);
        }
        for record in world.context.own.take_changed() {
            swim.handle_command(Command::Put(record), now);
        }
        swim.handle_timeout(now); // After the inputs: an ack that has arrived beats its own deadline.
        world.drain(&mut swim, now);
        world.publish(&swim, epoch, now);
    }
}

fn local_member(context: &Context, epoch: BootEpoch) -> LocalMember {
    let node = &context.identity.node;
    let mut tag = [0_u8; 8];
    fill_random(&mut tag);
    LocalMember {
        mesh: node.mesh_id(),
        name: node.node().clone(),
        addresses: context.settings.addresses.clone(),
        record_key: node.record_public_key(),
        credential: Bytes::from(node.credential(epoch)),
        epoch,
        instance_tag: u64::from_be_bytes(tag),
        region: context.settings.region.clone(),
        release: crate::RELEASE.to_owned(),
    }
}

fn random_seed() -> [u8; 32] {
    let mut seed = [0; 32];
    fill_random(&mut seed);
    seed
}

fn fill_random(bytes: &mut [u8]) {
    // Without random bytes from the system nothing here could be trusted, TLS least of all.
    aws_lc_rs::rand::fill(bytes).expect("invariant: the crypto provider gives random bytes");
}

impl World {
    /// What the store held, our own records, then the seeds.
    fn begin(&mut self, swim: &mut Swim, now: Instant) {
        let restored = tokio::task::block_in_place(|| self.persister.restore());
        debug!(restored = restored.len(), "view restored from the store");
        self.news.restored = restored.iter().any(persist::is_of_the_mesh);
        swim.handle_command(Command::Restore(restored), now);
        swim.handle_command(Command::Bundle(BundleCommand::InForce(self.trust.head())), now);
        self.trust.keep_own(&self.context.identity.node.issuing_key_hash());
        self.context.net.set_trust_answers(self.trust.answers());
        self.context.own.forget_taken();
        for record in self.context.own.take_changed() {
            swim.handle_command(Command::Put(record), now);
        }
        swim.handle_command(Command::Join { seeds: self.context.settings.seeds.clone() }, now);
        self.drain(swim, now);
    }

    fn me(&self) -> NodeName {
        self.context.identity.node.node().clone()
    }

    /// Waits for something to do. Nothing leaves a queue before this returns.
    async fn gather(
        &mut self,
        inbox: &mut Inbox,
        inputs: &mut Vec<Input>,
        wake: Option<(Instant, Wake)>,
    ) -> ControlFlow<()> {
        let deadline = wake.map_or(self.publish_at, |(at, _)| at.min(self.publish_at));
        tokio::select! {
            Some(event) = inbox.net.recv() => inputs.push(Input::Net(event)),
            Some(command) = inbox.commands.recv() => inputs.push(Input::Command(command)),
            Some((ticket, verdict)) = self.verdicts.recv() => inputs.push(Input::Verdict(ticket, verdict)),
            Some(resolved) = self.resolved.recv() => inputs.push(Input::Resolved(resolved)),
            Some(answered) = self.answered.recv() => inputs.push(Input::Trust(answered)),
            () = self.context.own.wait() => {}
            () = tokio::time::sleep_until(deadline.into()) => {
                if let Some((_, why)) = wake {
                    trace!(?why, "time passed");
                }
            }
        }
        while inputs.len() < TURN_INPUTS_MAX {
            let next = inbox.net.try_recv().ok().map(Input::Net);
            let next =
                next.or_else(|| self.verdicts.try_recv().ok().map(|(ticket, verdict)| Input::Verdict(ticket, verdict)));
            let next = next.or_else(|| inbox.commands.try_recv().ok().map(Input::Command));
            let next = next.or_else(|| self.resolved.try_recv().ok().map(Input::Resolved));
            match next {
                Some(input) => inputs.push(input),
                None => break,
            }
        }
        self.news.lag = Instant::now().saturating_duration_since(deadline);
        ControlFlow::Continue(())
    }

    fn feed(&mut self, swim: &mut Swim, input: Input, now: Instant) {
        match input {
            Input::Net(event) => self.feed_net(swim, event, now),
            Input::Command(MeshCommand::Join(seeds)) => swim.handle_command(Command::Join { seeds }, now),
            Input::Command(MeshCommand::Ping { target, bytes, reply }) => {
                // Bounded by the machine, which answers each, and by the queue of commands.
                self.pinged += 1;
                let ping = PingId(self.pinged);
                self.pings.insert(ping, (target.clone(), reply));
                swim.handle_command(Command::Ping { ping, target, bytes }, now);
            }
            Input::Command(MeshCommand::Submit { what, reply }) => {
                let command = self.submissions.begin(what, reply);
                swim.handle_command(command, now);
            }
            Input::Command(MeshCommand::History { wanted, reply }) => {
                // Who asked may have gone.
                let _ = reply.send(History::of(swim, &wanted));
            }
            Input::Command(MeshCommand::Update { file, reply }) => {
                // Who asked may have gone.
                let _ = reply.send(self.bundle_handed_in(swim, &file, now));
            }
            Input::Command(MeshCommand::Certificates { list, reply }) => {
                self.list_handed_in(swim, list, now);
                let _ = reply.send(());
            }
            Input::Trust(answered) => self.trust_answered(swim, &answered, now),
            Input::Command(MeshCommand::Leave) => swim.handle_command(Command::Leave, now),
            Input::Verdict(ticket, verdict) => swim.handle_verdict(ticket, verdict, now),
            Input::Resolved(Resolved { seed, addresses }) => match addresses {
                Ok(addresses) => {
                    self.catching_up.seed_is_at(&seed, &addresses);
                    self.context.net.dial(None, self.seeds.tag(&seed), addresses);
                }
                Err(error) => {
                    self.seeds.explain_name(&seed, &error);
                    swim.handle_command(Command::SeedFailed { seed }, now);
                }
            },
        }
    }

    fn feed_net(&mut self, swim: &mut Swim, event: NetEvent, now: Instant) {
        match event {
            NetEvent::Datagram { from, payload } => note(&from, swim.handle_datagram(&from, &payload, now)),
            NetEvent::Sync { from, exchange, frame } => {
                note(&from, swim.handle_sync(&from, ExchangeId(exchange), &frame, now));
            }
            NetEvent::Up { peer, address, pair, dialled, rtt } => {
                if let Some(seed) = dialled.as_ref().and_then(|tag| self.seeds.of(tag)) {
                    self.seeds.answered(&seed, &peer);
                    self.news.via.get_or_insert_with(|| seed.0.clone());
                }
                match pair {
                    quic::Pair::New => swim.handle_connection(&peer, ConnectionChange::Up { address }, now),
                    // What runs with it goes on.
                    quic::Pair::Same => {}
                }
                swim.handle_connection(&peer, ConnectionChange::Rtt(rtt), now);
            }
            NetEvent::Down { peer, reason } => {
                swim.handle_connection(&peer, ConnectionChange::Down { reason: down_reason(reason) }, now);
            }
            NetEvent::DialFailed { tag, expected, reason } => {
                self.note_refusal(swim, &tag, expected.as_ref(), &reason, now);
                if let Some(seed) = self.seeds.of(&tag) {
                    self.seeds.explain(&seed, &reason);
                    swim.handle_command(Command::SeedFailed { seed }, now);
                }
                if let Some(peer) = expected {
                    debug!(member = %peer, error = %reason, "dial failed");
                    let reason = seeds::as_down(&reason);
                    swim.handle_connection(&peer, ConnectionChange::DialFailed { reason }, now);
                }
            }
        }
    }

    fn drain(&mut self, swim: &mut Swim, now: Instant) {
        if self.news.lag > LAG_REPORTED_MIN {
            swim.handle_command(Command::ReportLag(std::mem::take(&mut self.news.lag)), now);
        }
        if now >= self.pressed_at + PRESSURE_PAUSE {
            self.pressed_at = now;
            swim.handle_command(pressure(&self.context.net), now);
        }
        while let Some(action) = swim.poll_action() {
            self.perform(action, swim, now); // Never awaits, so the machine cannot stall.
        }
        self.persister.flush();
        self.catch_up(swim, now);
    }

    fn perform(&mut self, action: Action, swim: &mut Swim, now: Instant) {
        match action {
            Action::SendDatagram { to, payload } => {
                if !self.context.net.send_datagram(&to, payload) {
                    trace!(member = %to, "datagram not sent");
                }
            }
            Action::SendSync { to, exchange, frame, last } => self.context.net.send_sync(&to, exchange.0, frame, last),
            Action::Dial { target: DialTarget::Member(peer), addresses, why } => {
                trace!(member = %peer, ?why, "dialling");
                let tag = seeds::member_tag(&peer);
                self.context.net.dial(Some(peer), tag, addresses);
            }
            Action::Dial { target: DialTarget::Seed(seed), why, .. } => {
                trace!(seed = %seed.0, ?why, "dialling");
                self.seeds.look_up(seed);
            }
            Action::Close { peer, why } => self.context.net.close(&peer, close_code(why)),
            Action::Verify { ticket, claim } => self.judge.ask(ticket, claim),
            Action::Sign { ticket, statement } => {
                let signature = crypto::sign(&self.context.identity.node, &statement);
                swim.handle_signature(ticket, signature, now);
            }
            Action::Persist(Change::Epoch(epoch)) => {
                // The one thing that later actions of this turn may not overtake.
                tokio::task::block_in_place(|| self.context.store.save_epoch(epoch));
            }
            Action::Persist(change) => self.persister.keep(&change),
            Action::Emit(Event::Pong { ping, answer }) => {
                if let Some((target, reply)) = self.pings.remove(&ping) {
                    // Who asked may have gone.
                    let _ = reply.send(Pinged { answer, path: self.context.net.path(&target) });
                }
            }
            Action::Emit(Event::Submitted { submit, outcome }) => {
                // What was accepted is on disk before it is said; the batch of this turn holds it.
                let flushed = match outcome {
                    Submitted::Accepted { .. } => tokio::task::block_in_place(|| self.persister.flush_durably()),
                    Submitted::Refused { .. } => Flushed::NOTHING,
                };
                if let (Submitted::Refused { problems }, Some(what)) = (&outcome, self.submissions.what(submit)) {
                    self.news.tell_refused(what, problems);
                }
                self.submissions.end(submit, outcome, flushed);
            }
            Action::Emit(Event::Bundle(event)) => self.bundle_event(swim, event, now),
            Action::Emit(Event::Revoked(revocation)) => {
                self.revoke(swim, &revocation.revocation.node);
                self.news.tell(Event::Revoked(revocation), now);
            }
            Action::Emit(event) => self.news.tell(event, now),
        }
    }

    /// From now on no handshake of a revoked node succeeds; its gossip connection ends at once, and the data threads end
    /// theirs within a tenth of a second. A node that keeps other keys dials again with one of them.
    fn revoke(&self, swim: &Swim, node: &NodeName) {
        let all = swim.revocations().map(|one| (one.revocation.node, one.revocation.kept));
        // After a start the machine judges what the file holds one by one; all of it counts already.
        let held = Arc::clone(self.context.identity.current.trust().revoked());
        self.context.identity.current.revoke(Revoked::new(all).beside(&held));
        self.context.net.close(node, quic::CloseCode::Revoked);
    }

    fn publish(&mut self, swim: &Swim, epoch: BootEpoch, now: Instant) {
        // Who waits for all members to agree sees it when they tell, and not a second later.
        let heard = swim.roots_heard();
        self.news.changed |= std::mem::replace(&mut self.roots_heard, heard) != heard || self.news.is_applied_anew();
        let due = if self.news.changed { self.published_at + PUBLISH_PAUSE } else { self.published_at + PUBLISH_IDLE };
        if now >= due {
            let mut view = self.news.view(swim, epoch, now);
            view.judge_dropped = self.judge.dropped();
            self.known_stale |= self.news.changed;
            if self.known_stale && now >= self.known_at + KNOWN_PAUSE {
                // Of a member many connections may come at once, when both of us have restarted.
                let members = view.members.iter().filter(|member| member.state != MemberState::Left);
                self.context.net.set_known_addresses(members.flat_map(|member| &member.addresses).map(SocketAddr::ip));
                (self.known_at, self.known_stale) = (now, false);
            }
            self.context.view.store(Arc::new(view));
            self.published_at = now;
            self.news.changed = false;
        }
        self.publish_at =
            if self.news.changed { self.published_at + PUBLISH_PAUSE } else { self.published_at + PUBLISH_IDLE };
        if let Some(interval) = self.watchdog
            && now >= self.watchdog_at
        {
            notify::alive();
            self.watchdog_at = now + interval;
        }
    }
}

/// How full the way out is, for the machine's local health.
fn pressure(net: &GossipNet) -> Command {
    Command::ReportSendQueue { percent: net.send_queue_percent() }
}

/// The peer's fault, so the turn goes on; the machine has counted it.
fn note(from: &NodeName, outcome: Result<(), Rejected>) {
    if let Err(rejected) = outcome {
        debug!(member = %from, reason = rejected.reason(), "input rejected");
    }
}

fn close_code(why: CloseReason) -> quic::CloseCode {
    match why {
        CloseReason::Leaving => quic::CloseCode::Leaving,
        CloseReason::Evicted => quic::CloseCode::Evicted,
        CloseReason::Stale => quic::CloseCode::Stale,
    }
}

fn down_reason(reason: quic::DownReason) -> DownReason {
    match reason {
        quic::DownReason::Left => DownReason::Left,
        quic::DownReason::Evicted => DownReason::Evicted,
        quic::DownReason::Reset => DownReason::Reset,
        quic::DownReason::TimedOut => DownReason::TimedOut,
        quic::DownReason::Refused => DownReason::Refused,
        quic::DownReason::Foreign => DownReason::Foreign,
        quic::DownReason::Local => DownReason::Local,
        quic::DownReason::Other => DownReason::Other,
    }
}
