//! Two agents under one name, and words that overtake the life they are about.

use std::collections::BTreeSet;

use bytes::Bytes;
use starling_model::{BootEpoch, Life, MemberState};

use super::Swim;
use super::test_mesh::{MESH_HEAD, MS, Mesh, local};
use crate::action::{Action, Alarm, Command, Event, ExchangeId, Rejected};
use crate::config::SwimConfig;
use crate::testing::node;
use crate::wire::{self, Accusation, Envelope, LifeClaim, Message, SignedLife};

/// What an agent of this name says first when it starts in this epoch.
fn first_word(name: &str, epoch: u64, tag: u64, mesh: &Mesh) -> SignedLife {
    let mut swim = Swim::new(local(name, epoch, tag), SwimConfig::lan(), [9; 32], mesh.now);
    swim.handle_command(Command::Join { seeds: Vec::new() }, mesh.now);
    let statements = std::iter::from_fn(|| swim.poll_action()).filter_map(|action| {
        let Action::Sign { statement, .. } = action else { return None };
        Some(SignedLife { body: statement.body, signature: [3; 64] })
    });
    statements.take(1).last().unwrap()
}

fn frame(which: Envelope, messages: &[Message]) -> Bytes {
    let messages: Vec<Bytes> = messages.iter().map(|message| wire::message(message).unwrap()).collect();
    wire::frame(which, &MESH_HEAD, &messages)
}

/// A clone of n2 answers to each of its lives, through n1; returns the lives of n2.
fn duel(mesh: &mut Mesh) -> BTreeSet<Life> {
    let mut lives = BTreeSet::new();
    for round in 0..6_u64 {
        let epoch = mesh.life("n2").epoch.0 + 1;
        let word = first_word("n2", epoch, 999, mesh);
        let credential = Message::Credential { owner: node("n2"), bytes: local("n2", epoch, 999).credential };
        let frame = frame(Envelope::Sync, &[credential, Message::Life(word)]);
        let exchange = ExchangeId(ExchangeId::INBOUND | (1000 + round));
        let now = mesh.now;
        let n2 = &mut mesh.nodes.get_mut(&node("n2")).unwrap().swim;
        let heard = n2.handle_sync(&node("n1"), exchange, &frame, now);
        assert!(matches!(heard, Ok(()) | Err(Rejected::Leaving)), "{heard:?}");
        mesh.turn(&node("n2"));
        mesh.run(MS(200));
        lives.insert(mesh.life("n2"));
    }
    lives
}

/// Scenario S13: who was here announces nothing once it is answered again and again.
#[test]
fn of_two_agents_that_were_here_one_stays_silent() {
    let mut mesh = Mesh::of(2, SwimConfig::lan());
    mesh.until(MS(1000), "a pair", Mesh::is_complete);
    mesh.run(MS(15_000));
    let lives = duel(&mut mesh);
    assert!(lives.len() <= 3, "no race of epochs: {lives:?}");
    let alarm = Event::Alarm(Alarm::DuplicateIdentity { name: node("n2"), quiet: true });
    assert!(mesh.events("n2").contains(&alarm));
}

#[test]
fn a_newcomer_whose_name_answers_stays_outside() {
    let mut mesh = Mesh::of(2, SwimConfig::lan());
    mesh.until(MS(1000), "a pair", Mesh::is_complete);
    let lives = duel(&mut mesh);
    assert!(lives.len() <= 2, "it outbids once: {lives:?}");
    let alarm = Alarm::NameTaken { name: node("n2") };
    assert_eq!(alarm.code(), Some(starling_model::codes::NAME_TAKEN));
    assert!(mesh.events("n2").contains(&Event::Alarm(alarm)));
    let before = mesh.trace.len();
    mesh.run(MS(60_000));
    let n2 = &mesh.nodes[&node("n2")].swim;
    assert_eq!(n2.links.len(), 0, "and it takes no link");
    assert!(!n2.members().any(|member| member.connected));
    assert!(mesh.trace.len() - before < 200, "it says nothing more, and its peer only looks for it");
    mesh.command("n2", Command::Leave);
    assert!(mesh.events("n2").iter().any(|event| matches!(event, Event::LeaveFinished { .. })));
}

/// Gossip 3: an accusation of a life that we do not hold waits for it.
#[test]
fn an_accusation_that_overtakes_its_life_counts_when_that_comes() {
    let mut mesh = Mesh::of(3, SwimConfig::lan());
    mesh.until(MS(1_000), "a complete mesh", Mesh::is_complete);
    mesh.nodes.get_mut(&node("n3")).unwrap().frozen = true;
    let word = first_word("n3", 11, 7, &mesh);
    let Ok(LifeClaim::Alive(alive)) = wire::read_life(&word.body) else { panic!("an alive") };
    let accuse = |life: Life, proof: u64| {
        let accuser = node("n2");
        Message::Accusation(Accusation { state: MemberState::Suspect, subject: node("n3"), life, proof, accuser })
    };
    let tell = |mesh: &mut Mesh, message: Message| {
        let now = mesh.now;
        let datagram = frame(Envelope::Datagram, &[message]);
        mesh.nodes.get_mut(&node("n1")).unwrap().swim.handle_datagram(&node("n2"), &datagram, now).unwrap();
        mesh.turn(&node("n1"));
    };
    tell(&mut mesh, accuse(alive.life, word.hash()));
    // Nobody can invent a life: of this one no record will ever come.
    tell(&mut mesh, accuse(Life::first(BootEpoch(99)), 1));
    assert_eq!(mesh.state("n1", "n3"), Some(MemberState::Alive));
    let credential = Message::Credential { owner: node("n3"), bytes: local("n3", 11, 7).credential };
    let now = mesh.now;
    let shown = frame(Envelope::Sync, &[credential, Message::Life(word)]);
    let exchange = ExchangeId(ExchangeId::INBOUND | 77);
    mesh.nodes.get_mut(&node("n1")).unwrap().swim.handle_sync(&node("n2"), exchange, &shown, now).unwrap();
    mesh.turn(&node("n1"));
    assert_eq!(mesh.state("n1", "n3"), Some(MemberState::Suspect), "{}", mesh.show());
    let n1 = &mesh.nodes[&node("n1")].swim;
    assert_eq!(n1.members.get(&node("n3")).unwrap().life().epoch, BootEpoch(11));
}

/// Gossip 4: a send queue over half counts once per probe interval.
#[test]
fn a_full_send_queue_counts_against_our_own_health() {
    let mut mesh = Mesh::of(1, SwimConfig::lan());
    let report = |mesh: &mut Mesh, percent| mesh.command("n1", Command::ReportSendQueue { percent });
    let score = |mesh: &Mesh| mesh.nodes[&node("n1")].swim.health_score();
    report(&mut mesh, 50);
    assert_eq!(score(&mesh), 0);
    report(&mut mesh, 51);
    report(&mut mesh, 100);
    assert_eq!(score(&mesh), 1);
    mesh.run(MS(1_000));
    report(&mut mesh, 51);
    assert_eq!(score(&mesh), 2);
}
