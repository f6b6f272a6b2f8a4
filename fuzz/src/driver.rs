//! A driver for one gossip machine: performs its actions in place and checks what must hold after each of them.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use bytes::Bytes;
use starling_gossip::golden::{Seen, read_datagram, read_sync_frame};
use starling_gossip::limits::DATAGRAM_BYTES_MAX;
use starling_gossip::{
    Action, Change, Command, ConnectionChange, Event, LocalMember, Restored, Signature, SignedClaim, Swim, SwimConfig,
    Ticket, Verdict,
};
use starling_model::{BootEpoch, Life, MemberState, NodeName};

use crate::frames::MESH;
use crate::identity::name;

/// Names that inputs choose from. The first is our own.
pub const NAMES: [&str; 6] = ["me", "p1", "p2", "m1", "m2", "m3"];

/// One of [`NAMES`].
#[must_use]
pub fn pick(byte: u8) -> NodeName {
    name(NAMES[usize::from(byte) % NAMES.len()])
}

/// What the driver says to `Verify`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Judge {
    /// Everything is signed by whom it says.
    Believes,
    /// Everything is forged.
    Refuses,
    /// Not yet.
    Waits,
}

/// Actions that one input can cause; far beyond what any history of 4 KiB should.
const ACTIONS_MAX: usize = 200_000;
/// Changes that are kept for a restart.
const CHANGES_MAX: usize = 512;

/// The machine and what is around it.
pub struct Driver {
    /// The machine.
    pub swim: Swim,
    /// Its clock.
    pub now: Instant,
    /// What becomes of claims.
    pub judge: Judge,
    /// Claims that wait.
    pub waiting: Vec<(Ticket, SignedClaim)>,
    /// What it asked to keep.
    pub kept: Vec<Restored>,
    lives: BTreeMap<NodeName, Life>,
    own: Life,
    actions: usize,
}

fn local(epoch: u64) -> LocalMember {
    LocalMember {
        mesh: MESH,
        name: name(NAMES[0]),
        addresses: vec![SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 7740)],
        record_key: [1; 32],
        credential: Bytes::from_static(b"credential of me"),
        epoch: BootEpoch(epoch),
        instance_tag: epoch,
        region: "region".to_owned(),
        release: "0.1.0".to_owned(),
    }
}

impl Driver {
    /// A machine that has not joined.
    #[must_use]
    pub fn new(epoch: u64, now: Instant) -> Self {
        let swim = Swim::new(local(epoch), SwimConfig::lan(), [1; 32], now);
        let own = swim.me().life;
        Self {
            swim,
            now,
            judge: Judge::Believes,
            waiting: Vec::new(),
            kept: Vec::new(),
            lives: BTreeMap::new(),
            own,
            actions: 0,
        }
    }

    /// Joins, with two linked peers.
    pub fn join(&mut self) {
        self.swim.handle_command(Command::Join { seeds: Vec::new() }, self.now);
        self.perform();
        for peer in ["p1", "p2"] {
            let address = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 1);
            self.swim.handle_connection(&name(peer), ConnectionChange::Up { address }, self.now);
            self.perform();
        }
    }

    /// Lets time pass and fires what is due.
    pub fn wait(&mut self, time: Duration) {
        self.now += time;
        self.swim.handle_timeout(self.now);
        self.perform();
    }

    /// Answers what waited.
    pub fn answer_waiting(&mut self, valid: bool) {
        for (ticket, claim) in std::mem::take(&mut self.waiting) {
            self.swim.handle_verdict(ticket, verdict(&claim, valid), self.now);
        }
        self.perform();
    }

    /// Performs all actions, and those that follow from them.
    pub fn perform(&mut self) {
        while let Some(action) = self.swim.poll_action() {
            self.actions += 1;
            assert!(self.actions < ACTIONS_MAX, "one input causes {ACTIONS_MAX} actions");
            match action {
                Action::SendDatagram { payload, .. } => {
                    assert!(payload.len() <= DATAGRAM_BYTES_MAX, "a datagram of {} bytes", payload.len());
                    let seen = read_datagram(&MESH, &payload);
                    assert!(matches!(seen, Ok(Seen::Ours { messages: 1.., unknown: 0 })), "we sent {seen:?}");
                }
                Action::SendSync { frame, .. } if frame.is_empty() => {}
                Action::SendSync { frame, .. } => {
                    let seen = read_sync_frame(&MESH, &frame);
                    assert!(matches!(seen, Ok(Seen::Ours { unknown: 0, .. })), "we sent {seen:?}");
                }
                Action::Verify { ticket, claim } => match self.judge {
                    Judge::Believes => self.swim.handle_verdict(ticket, verdict(&claim, true), self.now),
                    Judge::Refuses => self.swim.handle_verdict(ticket, Verdict::Refused, self.now),
                    Judge::Waits => self.waiting.push((ticket, claim)),
                },
                Action::Sign { ticket, .. } => self.swim.handle_signature(ticket, Signature([3; 64]), self.now),
                Action::Persist(change) => self.keep(change),
                Action::Emit(Event::Member(view)) => {
                    assert!(view.name.as_str() != NAMES[0], "we are told about ourselves");
                    let held = self.lives.insert(view.name.clone(), view.life);
                    assert!(held.is_none_or(|held| held <= view.life), "the life of {} fell", view.name);
                }
                Action::Emit(Event::MemberForgotten(name)) => drop(self.lives.remove(&name)),
                Action::Emit(_) | Action::Dial { .. } | Action::Close { .. } => {}
            }
        }
        let life = self.swim.me().life;
        assert!(life >= self.own, "our own life fell");
        self.own = life;
    }

    /// Reads everything that the API reads.
    pub fn look(&self) {
        let members = self.swim.members().count();
        let (alive, same) = self.swim.agreement();
        assert!(same <= alive && alive <= members + 1, "{same} of {alive} of {members}");
        let _ = (self.swim.me(), self.swim.health_score(), self.swim.is_isolated(), self.swim.roots());
        // Only who has left needs no clock any more.
        let gone = self.swim.me().state == MemberState::Left;
        assert!(gone || self.swim.poll_timeout().is_some(), "no timer is armed");
    }

    fn keep(&mut self, change: Change) {
        if self.kept.len() >= CHANGES_MAX {
            return;
        }
        match change {
            Change::Member { name, bytes } => self.kept.push(Restored::Member { name, bytes }),
            Change::Record { owner, kind, shard, bytes, .. } => {
                self.kept.push(Restored::Record { owner, kind, shard, bytes });
            }
            Change::Credential { owner, bytes } => self.kept.push(Restored::Credential { owner, bytes }),
            Change::AddressBook { name, bytes } => self.kept.push(Restored::AddressBook { name, bytes }),
            Change::Document { bytes, .. } => self.kept.push(Restored::Document { bytes }),
            Change::Revocation { bytes, .. } => self.kept.push(Restored::Revocation { bytes }),
            Change::Epoch(_)
            | Change::ForgetOwner(_)
            | Change::ForgetDocument { .. }
            | Change::ForgetRevocation { .. } => {}
        }
    }
}

/// The first byte of a credential is its key, the second its epoch (small, so that lives of inputs reach it).
fn verdict(claim: &SignedClaim, valid: bool) -> Verdict {
    match claim {
        _ if !valid => Verdict::Refused,
        SignedClaim::Credential { bytes, .. } => Verdict::Credential {
            record_key: [bytes.first().copied().unwrap_or(0); 32],
            epoch: BootEpoch(u64::from(bytes.get(1).copied().unwrap_or(0) & 0x0f)),
        },
        SignedClaim::Owned { .. } | SignedClaim::Operator { .. } => Verdict::Valid,
    }
}
