//! The rules that comparisons switch off, one by one: propositions about single machines of a small mesh.

use bytes::Bytes;
use starling_model::MemberState;

use super::test_mesh::{MESH_HEAD, MS, Mesh};
use crate::action::{Action, Wake};
use crate::config::{Buddy, HealthRule, SwimConfig};
use crate::probe::Purpose;
use crate::testing::node;
use crate::wire::{self, Accusation, Envelope, Frame, Message};

/// What n1 sends to n3, which it was told is suspected, by kind: when it begins a probe of n3, hears a ping of n3, or is
/// asked to ping it.
struct Said {
    probe: Vec<&'static str>,
    answer: Vec<&'static str>,
    relay: Vec<&'static str>,
    /// Does it nack within the time that it was given?
    nacks: bool,
}

/// What this is about; news that ride along are nothing.
fn kind(message: &Message) -> Option<&'static str> {
    let kinds = [
        ("doubt", matches!(message, Message::Accusation(_))),
        ("ping", matches!(message, Message::Ping { .. })),
        ("ack", matches!(message, Message::Ack { .. })),
        ("nack", matches!(message, Message::Nack { .. })),
    ];
    kinds.into_iter().find(|(_, is)| *is).map(|(kind, _)| kind)
}

/// Drains n1; the kinds in its datagrams to `to`.
fn told(mesh: &mut Mesh, to: &str) -> Vec<&'static str> {
    let swim = &mut mesh.nodes.get_mut(&node("n1")).unwrap().swim;
    let actions: Vec<Action> = std::iter::from_fn(|| swim.poll_action()).collect();
    let sent = actions.into_iter().filter_map(|action| {
        let Action::SendDatagram { to: target, payload } = action else { return None };
        (target == node(to)).then_some(payload)
    });
    let kinds = |payload: Bytes| -> Vec<&'static str> {
        match wire::read_frame(Envelope::Datagram, &MESH_HEAD, &payload).unwrap() {
            Frame::Ours(messages, _) => messages.iter().filter_map(kind).collect(),
            Frame::Foreign => Vec::new(),
        }
    };
    sent.flat_map(kinds).collect()
}

fn heard(mesh: &mut Mesh, from: &str, message: &Message) {
    let now = mesh.now;
    let payload = wire::frame(Envelope::Datagram, &MESH_HEAD, &[wire::message(message).unwrap()]);
    mesh.nodes.get_mut(&node("n1")).unwrap().swim.handle_datagram(&node(from), &payload, now).unwrap();
}

fn accuse(mesh: &mut Mesh, of: &str, accuser: &str) {
    let (life, proof) = {
        let swim = &mesh.nodes[&node("n1")].swim;
        swim.members.get(&node(of)).map(|member| (member.life(), member.proof)).unwrap()
    };
    let said = Accusation { state: MemberState::Suspect, subject: node(of), life, proof, accuser: node(accuser) };
    heard(mesh, accuser, &Message::Accusation(said));
}

fn complete(config: &SwimConfig) -> Mesh {
    let mut mesh = Mesh::of(8, config.clone());
    mesh.until(MS(10_000), "a complete mesh", Mesh::is_complete);
    mesh.run(MS(5_000));
    mesh
}

fn said(config: &SwimConfig) -> Said {
    let mut mesh = complete(config);
    accuse(&mut mesh, "n3", "n2");
    // The doubt itself goes to a few at first: not what this is about.
    let now = mesh.now;
    let swim = &mut mesh.nodes.get_mut(&node("n1")).unwrap().swim;
    swim.broadcasts = Default::default();
    while swim.poll_action().is_some() {}
    swim.probes.clear();
    swim.probe(&node("n3"), Purpose::Round, now);
    let probe = told(&mut mesh, "n3");
    heard(&mut mesh, "n3", &Message::Ping { nonce: 7 });
    let answer = told(&mut mesh, "n3");
    heard(&mut mesh, "n4", &Message::PingReq { nonce: 8, target: node("n3"), wait_ms: 500 });
    let relay = told(&mut mesh, "n3");
    let swim = &mut mesh.nodes.get_mut(&node("n1")).unwrap().swim;
    swim.broadcasts = Default::default();
    while swim.poll_action().is_some() {}
    swim.handle_timeout(now + MS(450));
    let nacks = told(&mut mesh, "n4").contains(&"nack");
    Said { probe, answer, relay, nacks }
}

/// Lifeguard IV-C, and what goes beyond it.
#[test]
fn a_doubted_member_is_told_as_configured() {
    let check = |buddy: Buddy, pings: &[&str], answers: &[&str]| {
        let said = said(&SwimConfig { buddy, ..SwimConfig::lan() });
        assert_eq!((said.probe.as_slice(), said.relay.as_slice()), (pings, pings), "{buddy:?}");
        assert_eq!(said.answer, answers, "{buddy:?}");
    };
    check(Buddy::Off, &["ping"], &["ack"]);
    check(Buddy::Pings, &["doubt", "ping"], &["ack"]);
    check(Buddy::PingsAndAnswers, &["doubt", "ping"], &["doubt", "ack"]);
}

/// Lifeguard IV-A.
#[test]
fn relays_nack_where_nacks_count() {
    let check = |health_rule: HealthRule, nacks: bool| {
        assert_eq!(said(&SwimConfig { health_rule, ..SwimConfig::lan() }).nacks, nacks, "{health_rule:?}");
    };
    check(HealthRule::Memberlist, true);
    check(HealthRule::Paper, true);
    check(HealthRule::Off, false);
}

/// The rules that replays compare have no cap: eight accusations by one member all count.
#[test]
fn the_accuser_cap_belongs_to_our_own_rules() {
    let check = |config: SwimConfig, doubted: usize| {
        let mut mesh = complete(&config);
        for of in ["n3", "n4", "n5", "n6", "n7", "n8"] {
            accuse(&mut mesh, of, "n2");
        }
        let suspects = mesh.nodes[&node("n1")].swim.members().filter(|view| view.state == MemberState::Suspect);
        assert_eq!(suspects.count(), doubted);
    };
    check(SwimConfig::lan(), 3);
    check(SwimConfig::memberlist(), 6);
    check(SwimConfig::paper(), 6);
    check(SwimConfig::swim(), 6);
}

/// The paper's agents do not notice that they were late.
#[test]
fn only_our_own_rules_forgive_a_late_turn() {
    let check = |config: SwimConfig, score: u8| {
        let mut mesh = complete(&config);
        let late = mesh.now + MS(20_000);
        let swim = &mut mesh.nodes.get_mut(&node("n1")).unwrap().swim;
        let before = swim.health_score();
        swim.probes.clear();
        swim.handle_timeout(late);
        assert_eq!((before, swim.health_score()), (0, score));
    };
    check(SwimConfig::lan(), 1);
    check(SwimConfig::memberlist(), 0);
    check(SwimConfig::paper(), 0);
}

/// A simulator may let one kind of deadline pass and hold all others.
#[test]
fn suspicions_can_end_while_everything_else_stands_still() {
    let mut mesh = complete(&SwimConfig::swim());
    accuse(&mut mesh, "n3", "n2");
    let swim = &mut mesh.nodes.get_mut(&node("n1")).unwrap().swim;
    while swim.poll_action().is_some() {}
    let at = swim.poll_timeout_of(Wake::Suspicion).unwrap();
    let other = swim.poll_timeout();
    swim.handle_timeout_of(Wake::Suspicion, at - MS(1));
    assert!(swim.poll_action().is_none());
    swim.handle_timeout_of(Wake::Suspicion, at);
    let dead = |view: &crate::action::MemberView| view.name == node("n3") && view.state == MemberState::Dead;
    assert!(swim.members().any(|view| dead(&view)));
    assert_eq!((swim.poll_timeout_of(Wake::Suspicion), swim.poll_timeout()), (None, other));
}
