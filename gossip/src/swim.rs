//! [`Swim`]: the machine. All entry points are here; each idea's branching is in a file of `swim/`, and the modules beside
//! this one only compute.

mod agreement;
mod bundles;
mod documents;
mod evidence;
mod fetching;
mod input;
mod linking;
mod membership;
mod ping;
mod probing;
mod rejudging;
mod replay;
mod speaking;
mod spread;
mod state;
mod submit;
mod sync;
mod view;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rand::SeedableRng as _;
use rand::rngs::ChaCha8Rng;
use starling_model::{Life, MemberState, NodeName, RecordKind};

use crate::accusers::Accusers;
use crate::action::{
    Action, Alarm, Change, Command, ConnectionChange, Event, ExchangeId, LocalMember, Rejected, Restored, Roots, Seed,
    Signature, Ticket, Verdict, Wake,
};
use crate::announced::Pool;
use crate::anti_entropy::Exchange;
use crate::broadcasts::Broadcasts;
use crate::config::{DirectWait, Eviction, Stretch, SwimConfig};
use crate::digest::Sums;
use crate::fetches::Fetches;
use crate::forward::Pace;
use crate::isolation::Isolation;
use crate::limits::{
    ACTIONS_KEPT, ACTIONS_MAX, OWN_WRITES_BURST, OWNER_SYNCED_BURST, OWNER_WRITES_BURST, OWNER_WRITES_PER_SECOND,
};
use crate::local_health::LocalHealth;
use crate::members::{Member, Members};
use crate::own::OwnRecords;
use crate::peers::{Links, View};
use crate::pending::Pending;
use crate::probe::{Probe, Relay, Ring};
use crate::quota::{Bucket, Quota};
use crate::records::Records;
use crate::rejoin::Dials;
use crate::replica::{Credential, Credentials, Room, credential_hash};
use crate::stats::{Drop, Stats};
use crate::suspicion::Window;
use crate::timers::{Timer, Timers};
use crate::wire::{self, DatagramWriter, SignedLife, Want};

use documents::Operators;
use ping::AskedPing;
use speaking::Signing;
use sync::Advice;

/// Protocol versions that this release speaks.
const PROTOCOL: (u16, u16) = (1, 1);
/// Lateness of the event loop that counts against our own health.
const LAG_BLAMED: Duration = Duration::from_millis(500);
/// One alarm is repeated at most this often.
const ALARM_PAUSE: Duration = Duration::from_secs(60);
/// How often tables are swept.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);

/// Where this node is in its own life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Made, but not asked to join yet.
    Idle,
    /// Part of the mesh, or trying to be.
    Joined,
    /// Another agent answers under our name: we stay outside.
    Out,
    /// Its leave is on its way.
    Leaving,
    /// Gone.
    Left,
}

/// How far the first exchange has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Synced {
    No,
    /// Complete; what came with it is still being judged.
    Judging,
    Yes,
}

/// SWIM (Das, Gupta, Motivala 2002) with Lifeguard timing (Dadgar, Phillips, Currey 2018), and the signed state that
/// travels with it. Pure: no IO, no clock, no key. After each `handle_*` drain [`Swim::poll_action`] to `None`, then
/// re-arm one timer from [`Swim::poll_timeout`].
#[derive(Debug)]
pub struct Swim {
    me: LocalMember,
    config: SwimConfig,
    rng: ChaCha8Rng,
    mesh: [u8; 8],
    started: Instant,
    phase: Phase,
    synced: Synced,

    actions: VecDeque<Action>,
    timers: Timers,
    stats: Stats,
    alarms: BTreeMap<Alarm, Instant>,
    next_ticket: u64,
    next_exchange: u64,

    // What we say about ourselves.
    life: Life,
    credential: [u8; 32],
    own_life: Option<SignedLife>,
    own: OwnRecords,
    own_rate: Bucket,
    own_dirty: BTreeSet<(RecordKind, u8)>,
    signing: BTreeMap<Ticket, Signing>,
    /// Instance tags under our own name, and how often each has outbid us.
    rivals: BTreeMap<u64, u32>,
    /// When a record of a later epoch under our own name made us raise ours.
    outbid_record: Option<Instant>,
    /// Another agent holds our name: we announce nothing.
    quiet: bool,
    /// Kinds of an older life of ours that peers still hold.
    outlived: BTreeSet<RecordKind>,
    leave_open: BTreeSet<(NodeName, ExchangeId)>,
    leave_acknowledged: usize,

    // What we hold about others.
    members: Members,
    records: Records,
    credentials: Credentials,
    operators: Operators,
    sums: Sums,
    own_summed: u64,
    pool: Option<Pool>,
    /// There is no store, so nothing is written for it.
    storeless: bool,
    room: Room,
    quota: Quota,
    /// The same for what comparisons bring.
    sync_quota: Quota,
    restoring: VecDeque<Restored>,
    restored: BTreeMap<NodeName, (MemberState, Option<SocketAddr>)>,

    // Failure detection.
    health: LocalHealth,
    /// When a full send queue last counted against us.
    queue_blamed: Option<Instant>,
    ring: Ring,
    probes: BTreeMap<u64, Probe>,
    relays: BTreeMap<u64, Relay>,
    pings: BTreeMap<u64, AskedPing>,
    accusers: Accusers,
    pending: Pending,
    isolation: Isolation,
    told_dead: BTreeMap<NodeName, Instant>,

    // Dissemination.
    writer: DatagramWriter,
    broadcasts: Broadcasts,
    pace: Pace,
    /// Most updates that were queued since the last burst was over.
    burst: usize,
    exchanges: BTreeMap<(NodeName, ExchangeId), Exchange>,
    sync_due: BTreeMap<NodeName, Instant>,
    /// Of these, first comparisons that the other side should begin.
    first_due: BTreeSet<NodeName>,
    /// What is being fetched, besides documents.
    fetches: Fetches<Want>,
    /// Of these, what this turn shall ask of whom.
    wants: BTreeMap<NodeName, Vec<Want>>,
    advice: Advice,

    // Links.
    links: Links,
    /// Peers whose connection we closed to replace it.
    closing: BTreeSet<NodeName>,
    view: View,
    dials: Dials<NodeName>,
    seeds: Dials<Seed>,
    book: BTreeMap<NodeName, Vec<SocketAddr>>,
    calls: BTreeMap<NodeName, Instant>,
    high_water: usize,
}

impl Swim {
    /// A machine that knows nobody. It speaks once it was told to [`Command::Join`].
    #[must_use]
    pub fn new(me: LocalMember, config: SwimConfig, seed: [u8; 32], now: Instant) -> Self {
        let hash = credential_hash(&me.credential);
        let mut credentials = Credentials::default();
        let own = Credential { hash, bytes: me.credential.clone(), record_key: me.record_key, epoch: me.epoch };
        credentials.insert(&me.name, Arc::new(own));
        let mut swim = Self {
            rng: ChaCha8Rng::from_seed(seed),
            mesh: wire::mesh_head(&me.mesh),
            started: now,
            phase: Phase::Idle,
            synced: Synced::No,
            actions: VecDeque::new(),
            timers: Timers::default(),
            stats: Stats::default(),
            alarms: BTreeMap::new(),
            next_ticket: 0,
            next_exchange: 0,
            life: Life::first(me.epoch),
            credential: hash,
            own_life: None,
            own: OwnRecords::new(),
            own_rate: Bucket::new(OWN_WRITES_BURST, now),
            own_dirty: BTreeSet::new(),
            signing: BTreeMap::new(),
            rivals: BTreeMap::new(),
            outbid_record: None,
            quiet: false,
            outlived: BTreeSet::new(),
            leave_open: BTreeSet::new(),
            leave_acknowledged: 0,
            members: Members::default(),
            records: Records::default(),
            credentials,
            operators: Operators::default(),
            sums: Sums::default(),
            own_summed: 0,
            pool: None,
            storeless: false,
            room: Room::default(),
            quota: Quota::new(OWNER_WRITES_PER_SECOND, OWNER_WRITES_BURST),
            sync_quota: Quota::new(OWNER_WRITES_PER_SECOND, OWNER_SYNCED_BURST),
            restoring: VecDeque::new(),
            restored: BTreeMap::new(),
            health: LocalHealth::new(config.health_rule),
            queue_blamed: None,
            ring: Ring::default(),
            probes: BTreeMap::new(),
            relays: BTreeMap::new(),
            pings: BTreeMap::new(),
            accusers: Accusers::default(),
            pending: Pending::default(),
            isolation: Isolation::default(),
            told_dead: BTreeMap::new(),
            writer: DatagramWriter::default(),
            broadcasts: Broadcasts::default(),
            pace: Pace::default(),
            burst: 0,
            exchanges: BTreeMap::new(),
            sync_due: BTreeMap::new(),
            first_due: BTreeSet::new(),
            fetches: Fetches::default(),
            wants: BTreeMap::new(),
            advice: Advice::default(),
            links: Links::default(),
            closing: BTreeSet::new(),
            view: View::new(&me.name, config.links),
            dials: Dials::new(),
            seeds: Dials::new(),
            book: BTreeMap::new(),
            calls: BTreeMap::new(),
            high_water: 0,
            me,
            config,
        };
        swim.timers.set(Timer::Sweep, now + SWEEP_INTERVAL);
        swim
    }

    /// One datagram of a proven peer.
    ///
    /// # Errors
    /// Facts about the peer: the datagram was dropped whole and is counted.
    pub fn handle_datagram(&mut self, from: &NodeName, payload: &[u8], now: Instant) -> Result<(), Rejected> {
        let result = self.datagram(from, payload, now);
        self.settle(result, now)
    }

    /// One frame of a stream with a proven peer. An empty frame (the peer finished its half) is ignored.
    ///
    /// # Errors
    /// Facts about the peer: the frame was dropped whole and is counted.
    pub fn handle_sync(
        &mut self,
        from: &NodeName,
        exchange: ExchangeId,
        frame: &[u8],
        now: Instant,
    ) -> Result<(), Rejected> {
        let result = self.sync_frame(from, exchange, frame, now);
        self.settle(result, now)
    }

    /// News about the connection with a proven peer.
    pub fn handle_connection(&mut self, peer: &NodeName, change: ConnectionChange, now: Instant) {
        if *peer == self.me.name || self.phase == Phase::Left {
            return;
        }
        self.connection(peer, change, now);
        self.finish_turn(now);
    }

    /// What the driver asks for.
    pub fn handle_command(&mut self, command: Command, now: Instant) {
        if self.phase == Phase::Left {
            return;
        }
        match command {
            Command::Restore(items) => self.restore(items, now),
            Command::Join { seeds } => self.join(seeds, now),
            Command::SeedFailed { seed } => self.seed_failed(&seed, now),
            Command::Leave => self.leave(now),
            Command::Put(record) => self.put(record, now),
            Command::Ping { ping, target, bytes } => self.ask_ping(ping, &target, bytes, now),
            Command::ReportLag(lag) => {
                if lag > LAG_BLAMED {
                    self.health.blamed();
                }
            }
            Command::ReportSendQueue { percent } => self.report_send_queue(percent, now),
            Command::Bundle(command) => self.bundle_command(command, now),
            Command::SetAddresses(addresses) => self.set_addresses(addresses, now),
            Command::SubmitDocuments { submit, documents } => self.submit_documents(submit, &documents, now),
            Command::SubmitRevocation { submit, revocation } => self.submit_revocation(submit, &revocation, now),
        }
        self.finish_turn(now);
    }

    /// The answer to [`Action::Verify`].
    pub fn handle_verdict(&mut self, ticket: Ticket, verdict: Verdict, now: Instant) {
        self.judged(ticket, verdict, now);
        self.finish_turn(now);
    }

    /// The answer to [`Action::Sign`].
    pub fn handle_signature(&mut self, ticket: Ticket, signature: Signature, now: Instant) {
        self.signed(ticket, signature, now);
        self.finish_turn(now);
    }

    /// Fires what is due. Call it in each turn, after all inputs: an ack that has arrived beats its own deadline.
    pub fn handle_timeout(&mut self, now: Instant) {
        let late = self.timers.lateness(now);
        if late > LAG_BLAMED && self.config.eviction == Eviction::OwnVerdict {
            self.paused(late);
        }
        // Each timer is set into the future when it fires, so one turn fires each at most once; the bound only guards
        // against a mistake here.
        for _ in 0..TIMERS_PER_TURN_MAX {
            let Some(timer) = self.timers.pop_due(now) else { break };
            self.fire(timer, now);
        }
        self.send_wants(now);
        self.finish_turn(now);
    }

    /// The next thing to do for the machine; perform all of them in order.
    #[must_use]
    pub fn poll_action(&mut self) -> Option<Action> {
        let action = self.actions.pop_front();
        if action.is_none() && self.actions.capacity() > ACTIONS_KEPT {
            self.actions = VecDeque::new();
        }
        action
    }

    /// When to call [`Swim::handle_timeout`] at the latest, and why.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<(Instant, Wake)> {
        self.timers.next()
    }

    /// Counters since the start.
    #[must_use]
    pub fn stats(&self) -> &Stats {
        &self.stats
    }

    /// How slow we are: 0 is healthy (Lifeguard, IV-A).
    #[must_use]
    pub fn health_score(&self) -> u8 {
        self.health.score()
    }

    /// The two hashes that ride on our acks.
    #[must_use]
    pub fn roots(&self) -> Roots {
        Roots { documents: self.operators.root(), state: self.sums.root() }
    }

    /// True while we assume that we are cut off, so verdicts are held.
    #[must_use]
    pub fn is_isolated(&self) -> bool {
        self.isolation.is_isolated()
    }

    /// Alive members, and how many of them hold the same documents and trust as we; both count this node.
    #[must_use]
    pub fn agreement(&self) -> (usize, usize) {
        let root = self.roots().documents;
        let same = |member: &Member| {
            member.state == MemberState::Alive && member.contact().roots.is_some_and(|roots| roots.documents == root)
        };
        let same = self.members.iter().filter(|(_, member)| same(member)).count();
        (self.members.alive() + 1, same + 1)
    }

    /// Members that are present, this node included: the N of all formulas.
    fn size(&self) -> usize {
        self.members.present() + 1
    }

    fn window(&self) -> Window {
        Window::among(&self.config, self.size())
    }

    /// The scaled probe period.
    fn period(&self) -> Duration {
        self.config.probe_interval * self.health.factor()
    }

    /// How long a member may take for a direct ack.
    fn direct_wait(&self, member: &Member) -> Duration {
        let wait = match self.config.direct_wait {
            DirectWait::Measured => member.contact().rtt.direct_wait(self.config.probe_timeout),
            DirectWait::Fixed => self.config.probe_timeout,
        };
        match self.config.stretch {
            Stretch::PeriodAndTimeouts => wait * self.health.factor(),
            Stretch::PeriodOnly => wait,
        }
    }

    fn ticket(&mut self) -> Ticket {
        self.next_ticket += 1;
        Ticket(self.next_ticket)
    }

    fn act(&mut self, action: Action) {
        // Why something happened may be lost in a storm; that it happened may not.
        let lossy =
            matches!(action, Action::SendDatagram { .. } | Action::SendSync { .. } | Action::Emit(Event::Evidence(_)));
        if lossy && self.actions.len() >= ACTIONS_MAX {
            return self.stats.drop(Drop::ActionsFull);
        }
        self.actions.push_back(action);
        self.stats.queue_actions_peak = self.stats.queue_actions_peak.max(self.actions.len());
    }

    /// Asks the store, if there is one, to keep something.
    fn persist(&mut self, change: impl FnOnce() -> Change) {
        if !self.storeless {
            self.act(Action::Persist(change()));
        }
    }

    fn emit(&mut self, event: Event) {
        self.act(Action::Emit(event));
    }

    fn alarm(&mut self, alarm: Alarm, now: Instant) {
        let quiet = self.alarms.get(&alarm).is_some_and(|at| now.saturating_duration_since(*at) < ALARM_PAUSE);
        if !quiet {
            self.alarms.insert(alarm.clone(), now);
            self.emit(Event::Alarm(alarm));
        }
    }

    fn settle(&mut self, result: Result<(), Rejected>, now: Instant) -> Result<(), Rejected> {
        if let Err(rejected) = &result {
            *self.stats.rejected.entry(rejected.reason()).or_default() += 1;
        }
        self.finish_turn(now);
        result
    }

    fn finish_turn(&mut self, now: Instant) {
        self.pump_restore(now);
        self.settle_documents(now);
        if self.synced == Synced::Judging && self.room.is_empty() && self.own_life.is_some() {
            self.synced = Synced::Yes;
            self.timers.set_earlier(Timer::Links, now);
            self.emit_ready();
        }
        self.stats.queue_broadcasts = self.broadcasts.len();
        self.stats.queue_waiting = self.room.len() + self.signing.len();
        self.stats.state_bytes = self.records.bytes();
    }

    fn fire(&mut self, timer: Timer, now: Instant) {
        match timer {
            Timer::ProbeVerdict(nonce) => self.probe_verdict(nonce, now),
            Timer::ProbeDirect(nonce) => self.probe_widen(nonce, now),
            Timer::ProbeTick => self.probe_tick(now),
            Timer::RelayNack(nonce) => self.relay_nack(nonce, now),
            Timer::RelayEnd(nonce) => {
                self.relays.remove(&nonce);
            }
            Timer::Ping(nonce) => self.asked_over(nonce),
            Timer::Verification(name) => self.verify_member(&name, now),
            Timer::Suspicion(name) => self.suspicion_over(&name, now),
            Timer::Forward => self.flush(now),
            Timer::Gossip => self.gossip_tick(now),
            Timer::AntiEntropy => self.anti_entropy_tick(now),
            Timer::Agreement => self.agreement_tick(now),
            Timer::Batches => self.batches_overdue(now),
            Timer::Fetches => self.fetches_overdue(now),
            Timer::Bundles => self.on_bundles_due(now),
            Timer::Roots => self.tell_roots(now),
            Timer::Rejudging => self.rejudge(now),
            Timer::OwnRecords => self.write_own(now),
            Timer::Links => self.update_links(now),
            Timer::Rotate => self.rotate(now),
            Timer::Heal => self.heal_tick(now),
            Timer::Isolation => self.isolation_over(now),
            Timer::Leave => self.leave_finished(now),
            Timer::Sweep => self.sweep(now),
        }
    }

    /// Our own loop stood still: whoever was silent meanwhile had nobody to talk to.
    fn paused(&mut self, pause: Duration) {
        self.health.blamed();
        self.timers.forgive(pause);
        let names: Vec<NodeName> = self.members.iter().map(|(name, _)| name.clone()).collect();
        for name in names {
            if let Some(suspicion) = self.members.get_mut(&name).and_then(Member::suspicion_mut) {
                suspicion.forgive(pause);
            }
        }
        self.probes.values_mut().for_each(|probe| probe.verdict_at += pause);
    }

    fn sweep(&mut self, now: Instant) {
        self.timers.set(Timer::Sweep, now + SWEEP_INTERVAL);
        for _ in 0..self.room.sweep(now) {
            self.stats.drop(Drop::WaitedTooLong);
        }
        self.sweep_exchanges(now);
        self.sweep_operators(now);
        self.sweep_links(now);
        self.sweep_tombstones(now);
        self.replace_outlived(now);
        for _ in 0..self.pending.sweep(now) {
            self.stats.drop(Drop::WaitedTooLong);
        }
        self.accusers.sweep(self.window().min, now);
        self.quota.sweep(now);
        self.sync_quota.sweep(now);
        self.alarms.retain(|_, at| now.saturating_duration_since(*at) < ALARM_PAUSE);
        self.told_dead.retain(|_, at| now.saturating_duration_since(*at) < ALARM_PAUSE);
        if let Some(bytes) = self.records.largest_owner() {
            self.stats.largest_owner_bytes = bytes;
        }
    }
}

/// Timers that one turn may fire: far above what can be due at once (probes, relays, one per member).
const TIMERS_PER_TURN_MAX: usize = 1 << 16;

#[cfg(test)]
mod bundles_tests;
#[cfg(test)]
mod copies_tests;
#[cfg(test)]
mod documents_hostile_tests;
#[cfg(test)]
mod documents_tests;
#[cfg(test)]
mod evidence_tests;
#[cfg(test)]
mod fetching_tests;
#[cfg(test)]
mod hostile_tests;
#[cfg(test)]
mod joining_tests;
#[cfg(test)]
mod rejudging_tests;
#[cfg(test)]
mod rival_tests;
#[cfg(test)]
mod switch_tests;
#[cfg(test)]
mod test_mesh;
#[cfg(test)]
mod tests;
