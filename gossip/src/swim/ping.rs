//! Pings that a person asked for: a nonce of their own, a dial where there is no link, and an answer in any case. They
//! judge nobody: silence is told to the asker and to nobody else.

use std::time::{Duration, Instant};

use starling_model::NodeName;

use super::{Phase, Swim};
use crate::action::{DialReason, DownReason, Event, PingAnswer, PingId};
use crate::config::Buddy;
use crate::limits::{DATAGRAM_BYTES_MAX, PINGS_MAX};
use crate::timers::Timer;
use crate::wire::{self, Message};

/// How long an answer may take: a whole handshake (3 s) and a slow round trip after it.
pub(crate) const PING_TIME_MAX: Duration = Duration::from_secs(5);

/// One ping in flight.
#[derive(Clone, Debug)]
pub(super) struct AskedPing {
    id: PingId,
    target: NodeName,
    bytes: usize,
    /// When it left, once it did.
    sent: Option<Instant>,
}

impl Swim {
    /// Pings a member, or us.
    pub(super) fn ask_ping(&mut self, id: PingId, target: &NodeName, bytes: usize, now: Instant) {
        if *target == self.me.name {
            return self.answer_asker(id, PingAnswer::Answered { rtt: Duration::ZERO });
        }
        let known = self.members.get(target).is_some() || self.links.is_up(target);
        if !known || self.phase != Phase::Joined {
            return self.answer_asker(id, PingAnswer::Unknown);
        }
        if self.pings.len() >= PINGS_MAX {
            return self.answer_asker(id, PingAnswer::TooMany);
        }
        let nonce = self.nonce();
        let ping = AskedPing { id, target: target.clone(), bytes: bytes.min(DATAGRAM_BYTES_MAX), sent: None };
        self.pings.insert(nonce, ping);
        self.timers.set(Timer::Ping(nonce), now + PING_TIME_MAX);
        if self.links.is_up(target) {
            self.send_asked(nonce, now);
        } else {
            self.dial_member(target, DialReason::Probe, now);
        }
    }

    fn send_asked(&mut self, nonce: u64, now: Instant) {
        let Some(ping) = self.pings.get_mut(&nonce) else { return };
        ping.sent = Some(now);
        let (target, bytes) = (ping.target.clone(), ping.bytes);
        let mut messages: Vec<Message> = self.buddy(&target, Buddy::Pings).into_iter().collect();
        messages.push(Message::Ping { nonce });
        let mut body: Vec<_> = messages.iter().filter_map(|message| wire::message(message).ok()).collect();
        let len = body.iter().map(bytes::Bytes::len).sum::<usize>() + wire::ENVELOPE_BYTES;
        body.extend(wire::padding(bytes.saturating_sub(len)));
        self.send_datagram(&target, &body);
    }

    /// A link came up, or a dial failed: the pings that waited for it.
    pub(super) fn asked_waiting(&mut self, peer: &NodeName, dial: Result<(), DownReason>, now: Instant) {
        let waits = |ping: &AskedPing| ping.target == *peer && ping.sent.is_none();
        let nonces: Vec<u64> = self.pings.iter().filter(|(_, ping)| waits(ping)).map(|(nonce, _)| *nonce).collect();
        for nonce in nonces {
            match dial {
                Ok(()) => self.send_asked(nonce, now),
                Err(reason) => self.finish_asked(nonce, PingAnswer::NotReached(reason)),
            }
        }
    }

    /// True while a ping that was asked for is under way to this peer.
    pub(super) fn is_asked(&self, peer: &NodeName) -> bool {
        self.pings.values().any(|ping| ping.target == *peer)
    }

    /// True when this ack answers a ping that was asked for.
    pub(super) fn asked_acked(&mut self, from: &NodeName, nonce: u64, now: Instant) -> bool {
        let sent = self.pings.get(&nonce).filter(|ping| ping.target == *from).and_then(|ping| ping.sent);
        let Some(sent) = sent else { return false };
        self.finish_asked(nonce, PingAnswer::Answered { rtt: now.saturating_duration_since(sent) });
        true
    }

    /// No answer in time.
    pub(super) fn asked_over(&mut self, nonce: u64) {
        self.finish_asked(nonce, PingAnswer::Silent);
    }

    fn finish_asked(&mut self, nonce: u64, answer: PingAnswer) {
        self.timers.cancel(&Timer::Ping(nonce));
        if let Some(ping) = self.pings.remove(&nonce) {
            self.answer_asker(ping.id, answer);
        }
    }

    fn answer_asker(&mut self, ping: PingId, answer: PingAnswer) {
        self.emit(Event::Pong { ping, answer });
    }

    /// Nobody answers any more: we leave.
    pub(super) fn stop_pings(&mut self) {
        for nonce in self.pings.keys().copied().collect::<Vec<_>>() {
            self.finish_asked(nonce, PingAnswer::NotReached(DownReason::Local));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::test_mesh::{MS, Mesh, pair};
    use super::*;
    use crate::action::Command;
    use crate::config::SwimConfig;
    use crate::testing::node;

    fn ask(mesh: &mut Mesh, id: u64, target: &str, bytes: usize) {
        mesh.command("n1", Command::Ping { ping: PingId(id), target: node(target), bytes });
    }

    fn answer(mesh: &Mesh, id: u64) -> Option<PingAnswer> {
        let told = |event: &Event| {
            let Event::Pong { ping, answer } = event else { return None };
            (*ping == PingId(id)).then_some(*answer)
        };
        let mut answers = mesh.events("n1").iter().filter_map(told);
        let first = answers.next();
        assert_eq!(answers.next(), None, "one answer for each question");
        first
    }

    fn three() -> Mesh {
        let mut mesh = Mesh::of(3, SwimConfig::lan());
        mesh.until(MS(1000), "a complete mesh", Mesh::is_complete);
        mesh
    }

    #[test]
    fn a_ping_is_answered_by_a_member_by_us_and_not_by_a_stranger() {
        let mut mesh = three();
        ask(&mut mesh, 1, "n2", 0);
        ask(&mut mesh, 2, "n1", 64);
        ask(&mut mesh, 3, "n9", 64);
        mesh.run(MS(50));
        assert_eq!(answer(&mesh, 1), Some(PingAnswer::Answered { rtt: MS(4) }));
        assert_eq!(answer(&mesh, 2), Some(PingAnswer::Answered { rtt: MS(0) }));
        assert_eq!(answer(&mesh, 3), Some(PingAnswer::Unknown));
    }

    #[test]
    fn every_size_up_to_a_whole_datagram_is_sent_and_more_is_cut() {
        let mut mesh = three();
        for (id, bytes) in [(1, 0), (2, 30), (3, 31), (4, 500), (5, DATAGRAM_BYTES_MAX), (6, DATAGRAM_BYTES_MAX + 1)] {
            let before = mesh.nodes[&node("n1")].swim.stats().sent_datagram_bytes;
            ask(&mut mesh, id, "n2", bytes);
            let sent = mesh.nodes[&node("n1")].swim.stats().sent_datagram_bytes - before;
            let least = u64::try_from(bytes.min(DATAGRAM_BYTES_MAX)).unwrap();
            // A padding of one or two bytes does not exist: a message has a header of three.
            assert!(sent >= least.saturating_sub(2) && sent <= least.max(64), "{bytes}: {sent}");
            mesh.run(MS(50));
            assert!(matches!(answer(&mesh, id), Some(PingAnswer::Answered { .. })), "{bytes}");
        }
        assert_eq!(mesh.nodes[&node("n2")].swim.stats().dropped(crate::stats::Drop::UnknownKind), 0);
    }

    #[test]
    fn silence_and_a_failed_dial_are_told_apart_and_doubt_nobody() {
        let mut mesh = three();
        mesh.run(MS(3_000));
        let before = mesh.nodes[&node("n1")].swim.stats().probes_failed;
        mesh.nodes.get_mut(&node("n2")).unwrap().frozen = true;
        ask(&mut mesh, 1, "n2", 64);
        mesh.run(PING_TIME_MAX + MS(1));
        assert_eq!(answer(&mesh, 1), Some(PingAnswer::Silent));
        let mut mesh = three();
        mesh.kill("n3");
        mesh.cut.insert(pair(&node("n1"), &node("n3")));
        mesh.run(MS(20_000));
        ask(&mut mesh, 2, "n3", 64);
        mesh.run(PING_TIME_MAX + MS(1));
        let told = answer(&mesh, 2);
        assert!(matches!(told, Some(PingAnswer::NotReached(_) | PingAnswer::Silent)), "{told:?}");
        assert_eq!(before, 0);
    }

    #[test]
    fn one_more_than_the_limit_is_turned_away() {
        let mut mesh = three();
        mesh.nodes.get_mut(&node("n2")).unwrap().frozen = true;
        let most = u64::try_from(PINGS_MAX).unwrap();
        for id in 0..=most {
            ask(&mut mesh, id, "n2", 64);
        }
        assert_eq!(answer(&mesh, most), Some(PingAnswer::TooMany));
        assert_eq!(answer(&mesh, 0), None);
        mesh.run(PING_TIME_MAX + MS(1));
        assert_eq!(answer(&mesh, 0), Some(PingAnswer::Silent));
        ask(&mut mesh, most + 1, "n3", 64);
        mesh.run(MS(50));
        assert!(matches!(answer(&mesh, most + 1), Some(PingAnswer::Answered { .. })));
    }
}
