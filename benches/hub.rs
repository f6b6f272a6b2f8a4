//! One machine in the middle of a mesh, and the datagrams that it gets there.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use starling_gossip::{ConnectionChange, ExchangeId, Swim, golden, stats};
use starling_model::{
    Announcement, BootEpoch, InstanceName, Labels, Namespace, NodeName, PortName, Protocol, RecordVersion, ServiceKey,
    ServicesRecord, Weight,
};

use crate::machines::{MESH, drain, machine, name};

/// Links of a node in a large mesh.
const LINKS: usize = 32;
/// Members that the machine knows.
const MEMBERS: usize = 1_000;
/// The epoch of them all.
const EPOCH: BootEpoch = BootEpoch(1_700_000_000);

/// What the machine gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Traffic {
    /// One ping; it is answered.
    Ping,
    /// One life that is held.
    KnownLife,
    /// As many lives as fit; all are held.
    KnownLives,
    /// The same while the machine itself still tells of them.
    LivesBeingTold,
    /// As many records as fit; all are held.
    KnownRecords,
    /// As many lives as fit; all wait for their credentials already.
    WaitingLives,
}

impl Traffic {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::Ping, Self::KnownLife, Self::KnownLives, Self::LivesBeingTold, Self::KnownRecords, Self::WaitingLives];

    /// For reports.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ping => "ping, answered",
            Self::KnownLife => "one known life",
            Self::KnownLives => "a full datagram of known lives",
            Self::LivesBeingTold => "a full datagram of known lives that are being told",
            Self::KnownRecords => "a full datagram of known records",
            Self::WaitingLives => "a full datagram of lives that wait",
        }
    }
}

/// The machine, and its datagrams in turn.
#[derive(Debug)]
pub struct Hub {
    swim: Swim,
    now: Instant,
    peers: Vec<NodeName>,
    datagrams: Vec<Bytes>,
    turn: usize,
}

fn member(at: usize) -> NodeName {
    name(&format!("vm-{at:04}"))
}

fn credential(at: usize) -> Bytes {
    Bytes::from(format!("credential of {at}"))
}

/// The life of a member as it is signed.
#[must_use]
pub fn life(at: usize) -> (Bytes, [u8; 64]) {
    golden::introduced_life(&member(at), EPOCH, &credential(at))
}

/// One instance, as on most hosts.
fn services() -> ServicesRecord {
    let one = Announcement {
        instance: InstanceName::new("orders-1").expect("an instance name"),
        service: ServiceKey::parse("orders", &Namespace::default()).expect("a service"),
        port: PortName::new("http").expect("a port name"),
        protocol: Protocol::Http,
        labels: Labels::default(),
        weight: Weight::default(),
    };
    ServicesRecord { instances: vec![one] }
}

fn record(at: usize) -> Bytes {
    let (version, statement) = (RecordVersion { epoch: EPOCH, version: 1 }, golden::credential_hash(&credential(at)));
    golden::services_record(&member(at), version, &services(), statement, [0; 64]).expect("a record")
}

impl Hub {
    /// A machine with [`LINKS`] links that knows [`MEMBERS`] members with one record each, and is about to get `traffic`
    /// from its links in turn.
    ///
    /// # Panics
    /// When it does not come to know them.
    #[must_use]
    pub fn new(traffic: Traffic) -> Self {
        let mut now = Instant::now();
        let mut swim = machine(&name("hub"), None, now);
        let peers: Vec<NodeName> = (0..LINKS).map(member).collect();
        let link = |swim: &mut Swim, now| {
            for peer in &peers {
                let address = SocketAddr::from(([10, 0, 0, 1], 7740));
                swim.handle_connection(peer, ConnectionChange::Up { address }, now);
            }
            drain(swim, now, |_| {});
        };
        // News for which nobody listens are dropped at the next tick.
        if traffic == Traffic::LivesBeingTold {
            link(&mut swim, now);
        }
        for at in 0..MEMBERS {
            let stream = ExchangeId(ExchangeId::INBOUND | at as u64);
            let frame = golden::introduction_frame(&MESH, &member(at), EPOCH, &credential(at)).expect("a frame");
            swim.handle_sync(&peers[0], stream, &frame, now).expect("a frame that is read");
            drain(&mut swim, now, |_| {});
            let record = golden::record_datagram(&MESH, record(at)).expect("a datagram");
            swim.handle_datagram(&peers[0], &record, now).expect("a datagram that is read");
            drain(&mut swim, now, |_| {});
        }
        if traffic != Traffic::LivesBeingTold {
            for _ in 0..10 {
                now += Duration::from_millis(100);
                swim.handle_timeout(now);
                drain(&mut swim, now, |_| {});
            }
            assert_eq!(swim.stats().queue_broadcasts, 0, "all news were dropped");
            link(&mut swim, now);
        }
        assert_eq!((swim.members().count(), swim.stats().queue_waiting), (MEMBERS, 0));
        let mut hub = Self { swim, now, peers, datagrams: datagrams(traffic), turn: 0 };
        hub.check(traffic);
        hub
    }

    /// The first of its datagrams is what it is said to be.
    fn check(&mut self, traffic: Traffic) {
        let news = match golden::read_datagram(&MESH, &self.datagrams[0]) {
            Ok(golden::Seen::Ours { messages, unknown: 0 }) => messages as u64,
            other => panic!("{other:?}"),
        };
        let duplicates = |hub: &Self| hub.swim.stats().dropped(stats::Drop::Duplicate);
        let datagrams = self.datagrams.len();
        if traffic == Traffic::WaitingLives {
            // The first time they go in.
            for _ in 0..datagrams {
                self.turn();
            }
        }
        let before = duplicates(self);
        let sent = self.turn();
        let (known, answers) = if traffic == Traffic::Ping { (0, 1) } else { (news, 0) };
        assert_eq!((duplicates(self) - before, sent), (known, answers), "{traffic:?}");
    }

    /// Handles the next datagram; returns how many it sent.
    ///
    /// # Panics
    /// When the datagram is refused.
    pub fn turn(&mut self) -> usize {
        self.turn += 1;
        self.now += Duration::from_nanos(100);
        let (from, datagram) = (self.turn % self.peers.len(), self.turn % self.datagrams.len());
        let done = self.swim.handle_datagram(&self.peers[from], &self.datagrams[datagram], self.now);
        assert!(done.is_ok());
        let mut sent = 0;
        drain(&mut self.swim, self.now, |_| sent += 1);
        sent
    }
}

/// Datagrams about all members in turn.
fn datagrams(traffic: Traffic) -> Vec<Bytes> {
    let full = |pack: &dyn Fn(&[usize]) -> Bytes| {
        let members: Vec<usize> = (0..MEMBERS).collect();
        // As many of each chunk as fit.
        members.chunks(10).map(pack).collect()
    };
    match traffic {
        Traffic::Ping => vec![golden::ping_datagram(&MESH, 42).expect("a ping")],
        Traffic::KnownLife => {
            let one = |(body, signature)| golden::alive_datagram(&MESH, body, signature).expect("a datagram");
            (0..MEMBERS).map(life).map(one).collect()
        }
        Traffic::KnownLives | Traffic::LivesBeingTold => {
            full(&|members| golden::full_datagram(&MESH, &members.iter().copied().map(life).collect::<Vec<_>>()))
        }
        Traffic::KnownRecords => full(&|members| {
            let records: Vec<_> = members.iter().copied().map(record).collect();
            golden::full_record_datagram(&MESH, &records)
        }),
        Traffic::WaitingLives => full(&|members| {
            let later = BootEpoch(EPOCH.0 + 1);
            let life = |at: &usize| golden::introduced_life(&member(*at), later, b"not held");
            let lives: Vec<_> = members.iter().map(life).collect();
            golden::full_datagram(&MESH, &lives)
        }),
    }
}
