//! Anomalies as the Lifeguard paper makes them (arXiv 1707.00788v2, V-C): an agent blocks immediately before each send
//! and after each receive of a protocol message. When the anomaly ends, all that was held is released in order: first
//! what it wanted to send, then what came.
//!
//! The paper's agents have several threads, and so has an agent here while it is anomalous: it does not see what
//! comes; its prober hangs in the first send that a round needs, a ping or the asking of helpers, and comes to its
//! verdict, long overdue, after the anomaly; its suspicions run out meanwhile.
//!
//! A handshake of the transport is no protocol message, as the kernel of the paper's agents went on to accept TCP
//! connections. A process that stands still altogether is [`Sim::pause`].

use std::time::Instant;

use bytes::Bytes;
use starling_gossip::{Swim, Wake};
use starling_model::NodeName;

use crate::cluster::{HostId, Sim};
use crate::shell::Outgoing;
use crate::turn::{Input, Process};

/// Messages that one blocked agent holds in each direction; more are lost and counted as overflowed.
const HELD_MAX: usize = 1 << 17;

/// A message that an agent sends.
#[derive(Debug)]
pub(crate) enum Send {
    Datagram { to: NodeName, payload: Bytes },
    Sync { to: NodeName, outgoing: Outgoing },
}

/// What one agent holds while it is blocked.
#[derive(Debug, Default)]
pub(crate) struct Anomaly {
    blocked: bool,
    /// The prober hangs in a send.
    stuck: bool,
    sends: Vec<Send>,
    receives: Vec<Input>,
}

impl Anomaly {
    /// Fires what is due, as far as the agent still moves.
    pub(crate) fn handle_timeout(&mut self, swim: &mut Swim, now: Instant) {
        if self.stuck {
            return swim.handle_timeout_of(Wake::Suspicion, now);
        }
        let sends = |why: Wake| swim.poll_timeout_of(why).is_some_and(|at| at <= now);
        self.stuck = self.blocked && (sends(Wake::ProbeTick) || sends(Wake::ProbeDirect));
        swim.handle_timeout(now);
    }

    /// When to call that at the latest.
    pub(crate) fn poll_timeout(&self, swim: &Swim) -> Option<Instant> {
        if self.stuck { swim.poll_timeout_of(Wake::Suspicion) } else { swim.poll_timeout().map(|(at, _)| at) }
    }

    /// True for what a blocked agent does not get to see.
    pub(crate) fn holds(&self, input: &Input) -> bool {
        self.blocked && matches!(input, Input::Datagram { .. } | Input::Sync { .. })
    }
}

impl Sim {
    /// An anomaly begins at all of these agents at once.
    pub fn block(&mut self, ids: &[HostId]) {
        for id in ids {
            self.hosts[id.0].anomaly.blocked = true;
        }
        let line = format!("an anomaly of {} begins", ids.len());
        self.checker.note(self.now, line);
    }

    /// Their anomaly is over.
    pub fn release(&mut self, ids: &[HostId]) {
        let line = format!("the anomaly of {} ends", ids.len());
        self.checker.note(self.now, line);
        for id in ids {
            let anomaly = std::mem::take(&mut self.hosts[id.0].anomaly);
            let Some(mut process) = self.hosts[id.0].process.take() else { continue };
            for send in anomaly.sends {
                self.send_unless_blocked(*id, &mut process, send);
            }
            process.inbox.extend(anomaly.receives);
            self.hosts[id.0].process = Some(process);
            self.turn(*id);
        }
    }

    pub(crate) fn send_unless_blocked(&mut self, id: HostId, process: &mut Process, send: Send) {
        let anomaly = &mut self.hosts[id.0].anomaly;
        match send {
            send if anomaly.blocked && anomaly.sends.len() < HELD_MAX => anomaly.sends.push(send),
            _ if anomaly.blocked => self.checker.counts.overflowed += 1,
            Send::Datagram { to, payload } => self.send_datagram(id, process, &to, payload),
            Send::Sync { to, outgoing } => self.send_sync(id, process, &to, outgoing),
        }
    }

    pub(crate) fn hold_receive(&mut self, id: HostId, input: Input) {
        let anomaly = &mut self.hosts[id.0].anomaly;
        if anomaly.receives.len() < HELD_MAX {
            anomaly.receives.push(input);
        } else {
            self.checker.counts.overflowed += 1;
        }
    }
}
