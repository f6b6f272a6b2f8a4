//! Hosts and their agents, what an operator or fate does to them, and the loop that drives it all through virtual time.

use std::cell::Cell;
use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use starling_gossip::{Command, ExchangeId, LocalMember, OwnRecord, Pool, Seed, Swim, SwimConfig};
use starling_model::{BootEpoch, Life, MemberState, MeshId, NodeName};

use crate::agenda::Agenda;
use crate::anomaly::Anomaly;
use crate::checks::{Checker, View};
use crate::clock::{Clock, Dice, SimTime};
use crate::disk::Disk;
use crate::keys::{RecordKey, Trust};
use crate::lifeguard::detection::Ladder;
use crate::names::{NameId, Names};
use crate::network::{Link, Network};
use crate::shell::{Connection, Dial, DialId, Happening};
use crate::slots::{SLOT, Workers};
use crate::trace::{Trace, TraceHash};
use crate::turn::{Input, Process};

/// Unix time at which runs begin.
const UNIX_BASE: u64 = 1_800_000_000;
/// Packets that wait for a paused process, as in a socket's buffer; the rest is lost.
const BACKLOG_MAX: usize = 1_024;
/// Steps in which a condition is looked at.
const STEP: Duration = Duration::from_millis(10);
/// Port of every host.
const PORT: u16 = 7740;

/// One host of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostId(pub usize);

/// One host: an address, a disk, an identity, and at times an agent.
#[derive(Debug)]
pub struct Host {
    /// Its name.
    pub name: NodeName,
    /// The place of that name in [`Sim::names`].
    pub(crate) name_id: NameId,
    /// Where it is reached.
    pub address: SocketAddr,
    /// Its mesh.
    pub mesh: MeshId,
    /// What it keeps.
    pub disk: Disk,
    /// Seconds by which its wall clock is off.
    pub clock_off_s: i64,
    /// Share of what it sends that is damaged on purpose.
    pub corrupts: f64,
    /// True: its agent is of a newer release, which adds messages that the others do not know.
    pub is_newer: bool,
    /// Release of its agent, another with each start.
    pub release: String,
    /// What it sends while a scenario records it.
    pub tape: Option<Vec<Bytes>>,
    pub(crate) key: RecordKey,
    pub(crate) process: Option<Box<Process>>,
    pub(crate) backlog: VecDeque<Happening>,
    pub(crate) paused: bool,
    pub(crate) anomaly: Anomaly,
    generation: u64,
    seeds: Vec<Seed>,
    own: BTreeMap<u8, OwnRecord>,
    /// True once it was told to leave.
    pub(crate) leaving: bool,
    /// The last datagram that it sent.
    pub last_datagram: Bytes,
    /// The last frame that it sent on a stream.
    pub last_frame: Bytes,
    /// When its agent was ready, since its last start.
    pub ready: Option<SimTime>,
}

impl Host {
    /// True while an agent runs here and is not paused.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.process.is_some() && !self.paused
    }
}

/// What a run begins with.
#[derive(Clone, Debug)]
pub struct Setup {
    /// Everything random follows from it.
    pub seed: u64,
    /// Settings of every agent.
    pub config: SwimConfig,
    /// Every link, until told otherwise.
    pub link: Link,
    /// Silence after which a connection is given up.
    pub idle: Duration,
    /// Longest time that a signature or a verdict takes; they do not come back in order.
    pub crypto: Duration,
    /// False: hosts keep nothing on disk, in runs that restart nobody.
    pub disks: bool,
    /// How long a driver gathers inputs for one turn. Nothing in most runs: each input has a turn of its own. Large runs
    /// have slots, whose agents think on all cores.
    pub slot: Duration,
    /// Told of each virtual second that passed.
    pub progress: fn(SimTime),
}

impl Setup {
    /// One site with LAN settings.
    #[must_use]
    pub fn lan(seed: u64) -> Self {
        let (idle, crypto) = (Duration::from_secs(60), Duration::from_micros(300));
        Self {
            seed,
            config: SwimConfig::lan(),
            link: Link::site(),
            idle,
            crypto,
            disks: true,
            slot: Duration::ZERO,
            progress: |_| {},
        }
    }

    /// One site too large to give each input a turn: in slots, on all cores, and hosts keep nothing on disk.
    #[must_use]
    pub fn large(seed: u64) -> Self {
        Self { disks: false, slot: SLOT, ..Self::lan(seed) }
    }

    /// One site with the quick settings.
    #[must_use]
    pub fn fast(seed: u64) -> Self {
        Self { config: SwimConfig::fast(), ..Self::lan(seed) }
    }

    /// Sites far apart.
    #[must_use]
    pub fn wan(seed: u64) -> Self {
        Self { config: SwimConfig::wan(), link: Link::far(), ..Self::lan(seed) }
    }

    /// A site whose hosts are slow to sign and to verify.
    #[must_use]
    pub fn slow_crypto(seed: u64) -> Self {
        Self { crypto: Duration::from_millis(400), ..Self::lan(seed) }
    }
}

/// A run.
#[derive(Debug)]
pub struct Sim {
    pub(crate) setup: Setup,
    pub(crate) clock: Clock,
    pub(crate) now: SimTime,
    pub(crate) agenda: Agenda<Happening>,
    pub(crate) hosts: Vec<Host>,
    pub(crate) by_address: BTreeMap<SocketAddr, HostId>,
    /// All names of the run.
    pub names: Names,
    /// What lies between the hosts.
    pub network: Network,
    pub(crate) trust: Arc<Trust>,
    /// What all machines hold alike is held once.
    pool: Pool,
    /// By their ids; an end that is over stays, so that what still arrives is answered by a reset.
    pub(crate) connections: Vec<Connection>,
    pub(crate) dials: BTreeMap<DialId, Dial>,
    pub(crate) next_id: u64,
    pub(crate) dice: Dice,
    pub(crate) crypto_dice: Dice,
    pub(crate) trace: Trace,
    /// Hosts with a turn at the end of this slot.
    pub(crate) due: Vec<HostId>,
    pub(crate) workers: Option<Workers>,
    /// The host whose inputs are gathered for one turn.
    gathering: Option<HostId>,
    /// The first failed probe ladder, where an experiment asks for it.
    pub(crate) ladder: Option<Ladder>,
    /// Where the last comparison of all found one apart: the next begins there, since it is the likeliest still.
    pub(crate) apart: Cell<usize>,
    /// What must hold, and what happened.
    pub checker: Checker,
}

impl Sim {
    /// A run without hosts.
    #[must_use]
    pub fn new(setup: Setup) -> Self {
        Self {
            clock: Clock::start(),
            now: SimTime::START,
            agenda: Agenda::default(),
            hosts: Vec::new(),
            by_address: BTreeMap::new(),
            names: Names::default(),
            network: Network::new(setup.seed, setup.link),
            trust: Arc::new(Trust::new(setup.seed)),
            pool: Pool::default(),
            connections: Vec::new(),
            dials: BTreeMap::new(),
            next_id: 0,
            dice: Dice::new(setup.seed, 2),
            crypto_dice: Dice::new(setup.seed, 3),
            trace: Trace::new(),
            due: Vec::new(),
            workers: None,
            gathering: None,
            ladder: None,
            apart: Cell::new(0),
            checker: Checker::default(),
            setup,
        }
    }

    // ---- hosts

    /// Adds a host of the usual mesh, named `n0`, `n1` and so on. Its agent does not run yet.
    pub fn add_host(&mut self) -> HostId {
        let name = format!("n{}", self.hosts.len());
        self.add_host_named(&name, MeshId([7; 32]))
    }

    /// Gives a host another address, as after a new lease; takes effect with its next start.
    pub fn move_host(&mut self, id: HostId) {
        let old = self.host(id).address;
        let mut address = old;
        address.set_port(old.port() + 1);
        self.by_address.remove(&old);
        self.by_address.insert(address, id);
        self.host_mut(id).address = address;
    }

    /// Adds that many.
    pub fn add_hosts(&mut self, count: usize) -> Vec<HostId> {
        (0..count).map(|_| self.add_host()).collect()
    }

    /// Adds a host with this name in this mesh.
    ///
    /// # Panics
    /// When `name` is no label: scenarios are code.
    pub fn add_host_named(&mut self, name: &str, mesh: MeshId) -> HostId {
        let id = HostId(self.hosts.len());
        let low = u16::try_from(id.0).expect("invariant: runs have less than 65,536 hosts").to_be_bytes();
        let address = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 0, low[0], low[1])), PORT);
        self.by_address.insert(address, id);
        let key = Arc::make_mut(&mut self.trust).new_key();
        let name = NodeName::new(name).expect("invariant: scenarios use labels");
        let name_id = self.names.add(&name, id);
        self.hosts.push(Host {
            name,
            name_id,
            address,
            mesh,
            disk: Disk::default(),
            clock_off_s: 0,
            corrupts: 0.0,
            is_newer: false,
            release: String::new(),
            tape: None,
            key,
            process: None,
            backlog: VecDeque::new(),
            paused: false,
            anomaly: Anomaly::default(),
            generation: 0,
            seeds: Vec::new(),
            own: BTreeMap::new(),
            leaving: false,
            last_datagram: Bytes::new(),
            last_frame: Bytes::new(),
            ready: None,
        });
        id
    }

    /// A host with the name, the key and the disk of another: a cloned machine.
    pub fn clone_host(&mut self, original: HostId) -> HostId {
        let (name, mesh) = (self.host(original).name.as_str().to_owned(), self.host(original).mesh);
        let id = self.add_host_named(&name, mesh);
        let (key, disk) = (self.host(original).key.clone(), self.host(original).disk.clone());
        let host = self.host_mut(id);
        (host.key, host.disk) = (key, disk);
        id
    }

    /// One host.
    #[must_use]
    pub fn host(&self, id: HostId) -> &Host {
        &self.hosts[id.0]
    }

    /// One host, to be changed by a scenario between events.
    pub fn host_mut(&mut self, id: HostId) -> &mut Host {
        &mut self.hosts[id.0]
    }

    /// All hosts.
    pub fn host_ids(&self) -> impl Iterator<Item = HostId> + use<> {
        (0..self.hosts.len()).map(HostId)
    }

    /// The machine that runs on a host, if one does.
    #[must_use]
    pub fn swim(&self, id: HostId) -> Option<&Swim> {
        self.host(id).process.as_ref().map(|process| &process.swim)
    }

    /// What a host's agent has been told so far, if it runs.
    #[must_use]
    pub fn view(&self, id: HostId) -> Option<&View> {
        self.host(id).process.as_ref().map(|process| &process.view)
    }

    /// What a host's agent was last told of a member.
    #[must_use]
    pub fn held(&self, observer: HostId, member: &NodeName) -> Option<(MemberState, Life)> {
        let held = self.view(observer)?.members.get(self.names.id(member)?)?;
        Some((held.state, held.life))
    }

    /// The seed that names a host by its address.
    #[must_use]
    pub fn seed_of(&self, id: HostId) -> Seed {
        Seed(self.host(id).address.to_string())
    }

    // ---- what operators and fate do

    /// Starts the agent of a host with these seeds; it keeps them for later starts.
    pub fn start(&mut self, id: HostId, seeds: &[HostId]) {
        let seeds = seeds.iter().map(|seed| self.seed_of(*seed)).collect();
        self.start_with(id, seeds);
    }

    /// Starts the agent of a host with seeds in words.
    pub fn start_with(&mut self, id: HostId, seeds: Vec<Seed>) {
        self.host_mut(id).seeds = seeds;
        self.restart(id);
    }

    /// Starts the agent of a host again, from what its disk holds.
    pub fn restart(&mut self, id: HostId) {
        if self.host(id).process.is_some() {
            self.crash(id);
        }
        let seed = Dice::seed_bytes(self.setup.seed, self.dice.number());
        let instance_tag = self.dice.number();
        let (now, instant, config) = (self.now, self.clock.instant(self.now), self.setup.config.clone());
        let host = &mut self.hosts[id.0];
        host.generation += 1;
        host.release = format!("0.1.{}", host.generation);
        host.leaving = false;
        host.paused = false;
        host.ready = None;
        host.backlog.clear();
        let wall = (UNIX_BASE + now.elapsed().as_secs()).saturating_add_signed(host.clock_off_s);
        let epoch = BootEpoch(host.disk.epoch().map_or(wall, |saved| saved.0 + 1));
        host.disk.save_epoch(epoch);
        let credential = self.trust.credential(&host.mesh, &host.name, host.key.public(), epoch);
        let me = LocalMember {
            mesh: host.mesh,
            name: host.name.clone(),
            addresses: vec![host.address],
            record_key: host.key.public(),
            credential,
            epoch,
            instance_tag,
            region: "here".to_owned(),
            release: host.release.clone(),
        };
        let mut inbox: Vec<Input> = vec![Input::Command(Command::Restore(host.disk.restore()))];
        inbox.extend(host.own.values().map(|record| Input::Command(Command::Put(record.clone()))));
        inbox.push(Input::Command(Command::Join { seeds: host.seeds.clone() }));
        let swim = Swim::new(me, config, seed, instant).sharing(&self.pool);
        let swim = if self.setup.disks { swim } else { swim.without_store() };
        let mut process = Process::new(swim, (id, host.mesh), host.generation, now);
        process.inbox = inbox;
        host.process = Some(Box::new(process));
        let line = format!("{} starts in epoch {}", host.name, epoch.0);
        self.checker.note(self.now, line);
        self.turn(id);
    }

    /// Kills the agent of a host; its connections fall silent.
    pub fn crash(&mut self, id: HostId) {
        let now = self.now;
        let host = &mut self.hosts[id.0];
        host.process = None;
        host.paused = false;
        host.backlog.clear();
        host.disk.crash(now);
        let line = format!("{} crashes", host.name);
        self.checker.note(now, line);
    }

    /// Stops the process of a host from running for a while; packets wait in its socket.
    pub fn pause(&mut self, id: HostId, length: Duration) {
        self.hosts[id.0].paused = true;
        let line = format!("{} pauses for {length:?}", self.host(id).name);
        self.checker.note(self.now, line);
        self.later(length, Happening::Resume { host: id, generation: self.host(id).generation });
    }

    /// Tells the agent of a host to leave for good; its process ends when the leave is done.
    pub fn leave(&mut self, id: HostId) {
        self.host_mut(id).leaving = true;
        let line = format!("{} leaves", self.host(id).name);
        self.checker.note(self.now, line);
        self.deliver(id, Input::Command(Command::Leave));
    }

    /// Announces one of a host's own records, now and after each start.
    pub fn put(&mut self, id: HostId, record: OwnRecord) {
        let kind = match &record {
            OwnRecord::Services(_) => 1,
            OwnRecord::Health(_) => 2,
            OwnRecord::Status(_) => 3,
        };
        self.host_mut(id).own.insert(kind, record.clone());
        if self.host(id).process.is_some() {
            self.deliver(id, Input::Command(Command::Put(record)));
        }
    }

    /// Gives a command to a host's agent, if it runs.
    pub(crate) fn command(&mut self, id: HostId, command: Command) {
        if self.host(id).process.is_some() {
            self.deliver(id, Input::Command(command));
        }
    }

    /// The own records of a host as last put.
    pub fn own_records(&self, id: HostId) -> impl Iterator<Item = &OwnRecord> {
        self.host(id).own.values()
    }

    /// Cuts every edge between two groups, in both directions.
    pub fn split(&mut self, left: &[HostId], right: &[HostId]) {
        for a in left {
            for b in right {
                self.network.block(*a, *b);
                self.network.block(*b, *a);
            }
        }
        let line = format!("split into {} and {}", left.len(), right.len());
        self.checker.note(self.now, line);
    }

    /// Mends all edges.
    pub fn heal(&mut self) {
        self.network.unblock_all();
        self.checker.note(self.now, "all edges work again".to_owned());
    }

    /// Hands a payload to a host as if the connected peer `from` had sent it as a datagram.
    pub fn inject_datagram(&mut self, to: HostId, from: &NodeName, payload: Bytes) {
        self.deliver(to, Input::Datagram { from: from.clone(), payload });
    }

    /// Hands a frame to a host as if the connected peer `from` had sent it on a stream of its own.
    pub fn inject_sync(&mut self, to: HostId, from: &NodeName, frame: Bytes) {
        let Some(process) = self.hosts[to.0].process.as_mut() else { return };
        process.next_inbound += 1;
        let exchange = ExchangeId(ExchangeId::INBOUND | process.next_inbound);
        self.deliver(to, Input::Sync { from: from.clone(), exchange, frame });
    }

    // ---- time

    /// The virtual time.
    #[must_use]
    pub fn now(&self) -> SimTime {
        self.now
    }

    /// Hash of everything so far.
    #[must_use]
    pub fn trace_hash(&self) -> TraceHash {
        self.trace.hash()
    }

    /// Lets this much time pass.
    pub fn run_for(&mut self, length: Duration) {
        self.run_to(self.now.after(length));
    }

    fn run_to(&mut self, end: SimTime) {
        if !self.setup.slot.is_zero() {
            return self.run_slots_to(end);
        }
        while let Some((at, happening)) = self.agenda.next_until(end) {
            self.now = at;
            self.happen(happening);
        }
        self.now = end;
    }

    /// Lets time pass until something holds, and says how long that took, in steps of 10 ms; `None` when it did not hold
    /// within `limit`.
    pub fn run_until(&mut self, limit: Duration, mut holds: impl FnMut(&Self) -> bool) -> Option<Duration> {
        let begin = self.now;
        let end = begin.after(limit);
        loop {
            if holds(self) {
                return Some(self.now.since(begin));
            }
            if self.now >= end {
                return None;
            }
            self.run_to(self.now.after(STEP).min(end));
            if self.now.elapsed().subsec_nanos() < STEP.subsec_nanos() {
                (self.setup.progress)(self.now);
            }
        }
    }

    pub(crate) fn later(&mut self, wait: Duration, happening: Happening) {
        self.agenda.add(self.now.after(wait), happening);
    }

    pub(crate) fn happen(&mut self, happening: Happening) {
        // A paused process sees nothing; what is for it waits as long as there is room.
        if let Some(host) = self.whose(&happening)
            && self.hosts[host.0].paused
            && !matches!(happening, Happening::Resume { .. })
        {
            if self.hosts[host.0].backlog.len() < BACKLOG_MAX {
                self.hosts[host.0].backlog.push_back(happening);
            } else {
                self.checker.counts.overflowed += 1;
            }
            return;
        }
        match happening {
            Happening::Turn { host, generation, token } => {
                let due = self.hosts[host.0]
                    .process
                    .as_ref()
                    .is_some_and(|process| process.generation == generation && process.wake_token == token);
                if due {
                    self.turn(host);
                }
            }
            Happening::Answer { host, generation, inputs } => {
                if let Some(process) = self.hosts[host.0].process.as_mut().filter(|p| p.generation == generation) {
                    process.inbox.extend(inputs);
                    self.turn_unless_gathering(host);
                }
            }
            Happening::Resume { host, generation } => {
                if self.hosts[host.0].generation == generation && self.hosts[host.0].paused {
                    self.resume(host);
                }
            }
            Happening::Wire(wire) => self.transport(wire),
        }
    }

    /// The pause is over: everything that waited is handled in one turn, and the driver reports how late it is.
    fn resume(&mut self, id: HostId) {
        let host = &mut self.hosts[id.0];
        host.paused = false;
        let waiting = std::mem::take(&mut host.backlog);
        let late =
            host.process.as_ref().and_then(|process| process.wake_at).map_or(Duration::ZERO, |at| self.now.since(at));
        let line = format!("{} goes on", host.name);
        self.checker.note(self.now, line);
        self.gathering = Some(id);
        for happening in waiting {
            match happening {
                // The turn that follows takes the place of all of these.
                Happening::Turn { .. } => {}
                Happening::Answer { .. } | Happening::Resume { .. } | Happening::Wire(_) => self.happen(happening),
            }
        }
        self.gathering = None;
        self.deliver(id, Input::Command(Command::ReportLag(late)));
    }

    pub(crate) fn deliver(&mut self, id: HostId, input: Input) {
        if self.hosts[id.0].anomaly.holds(&input) {
            return self.hold_receive(id, input);
        }
        if let Some(process) = self.hosts[id.0].process.as_mut() {
            process.inbox.push(input);
            self.turn_unless_gathering(id);
        }
    }

    fn turn_unless_gathering(&mut self, id: HostId) {
        if self.gathering != Some(id) {
            self.turn(id);
        }
    }
}
