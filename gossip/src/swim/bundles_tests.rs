//! Trust bundles on their way through a mesh. The holders of chains here keep bytes, one for each update, and of two chains
//! the longer wins, then the smaller; what a real holder judges by is tested where it lives.

use bytes::Bytes;
use starling_model::NodeName;

use super::hostile_tests::{datagram, frame, machine};
use super::test_mesh::{MS, Mesh, pair};
use crate::action::{Action, Command, Event, ExchangeId};
use crate::bundles::{BundleCommand, BundleEvent, BundleHead};
use crate::config::SwimConfig;
use crate::limits::{UPDATES_ASKED_MAX, UPDATES_BYTES_MAX, UPDATES_REQUEST_BYTES_MAX};
use crate::stats::Drop;
use crate::testing::{base, node};
use crate::wire::{Envelope, Message};

fn head(chain: &[u8]) -> BundleHead {
    BundleHead { sequence: chain.len() as u64, hash: crate::hash::sha256(&[chain]) }
}

fn in_force(chain: &[u8]) -> Command {
    Command::Bundle(BundleCommand::InForce(head(chain)))
}

impl Mesh {
    /// This many, who all hold the first bundle.
    fn trusting(count: usize) -> Self {
        let mut mesh = Self::of(count, SwimConfig::lan());
        mesh.until(MS(3_000), "a complete mesh", Self::is_complete);
        let names: Vec<NodeName> = mesh.nodes.keys().cloned().collect();
        for name in &names {
            mesh.chains.insert(name.clone(), vec![1]);
            mesh.command(name.as_str(), in_force(&[1]));
        }
        mesh.run(MS(1_000));
        mesh
    }

    /// An operator hands an update to this node.
    fn update(&mut self, at: &str, update: u8) {
        let chain = self.chains.get_mut(&node(at)).unwrap();
        chain.push(update);
        let command = in_force(&chain.clone());
        self.command(at, command);
    }

    /// What the holder of a node's chain does.
    pub(super) fn bundle_event(&mut self, name: &NodeName, event: BundleEvent) {
        let ours = self.chains.entry(name.clone()).or_default();
        self.bundle_events += 1;
        let command = match event {
            BundleEvent::Differs { peer, head: theirs } => {
                let known = (0..=ours.len()).any(|count| head(&ours[..count]) == theirs);
                (!known).then(|| BundleCommand::Ask { peer, request: Bytes::copy_from_slice(ours) })
            }
            BundleEvent::Asked { peer, exchange, request: _ } => {
                Some(BundleCommand::Answer { peer, exchange, updates: Bytes::copy_from_slice(ours) })
            }
            BundleEvent::Updates { peer: _, updates } => {
                let better =
                    (updates.len(), std::cmp::Reverse(&updates[..])) > (ours.len(), std::cmp::Reverse(&ours[..]));
                better.then(|| {
                    *ours = updates.to_vec();
                    BundleCommand::InForce(head(&updates))
                })
            }
        };
        if let Some(command) = command {
            let now = self.now;
            self.nodes.get_mut(name).unwrap().swim.handle_command(Command::Bundle(command), now);
        }
    }

    fn all_hold(&self, chain: &[u8]) -> bool {
        self.chains.values().all(|held| held == chain)
    }
}

#[test]
fn an_update_reaches_everybody_at_once_and_roots_are_equal_again() {
    let mut mesh = Mesh::trusting(8);
    let before = mesh.nodes[&node("n1")].swim.roots().documents;
    mesh.update("n3", 2);
    let took = mesh.until(MS(1_000), "the update everywhere", |mesh| mesh.all_hold(&[1, 2]));
    assert!(took <= MS(100), "{took:?}");
    let roots: Vec<u64> = mesh.nodes.values().map(|one| one.swim.roots().documents).collect();
    assert!(roots.iter().all(|root| *root == roots[0] && *root != before), "{roots:?}");
    let said = mesh.bundle_events;
    mesh.run(MS(60_000));
    assert_eq!(mesh.bundle_events, said, "who agrees says no more");
}

/// S27, for the way of an update: who missed steps, and two operators on both sides of a split.
#[test]
fn who_was_away_catches_up_and_a_fork_across_a_split_ends_in_one_chain() {
    let mut mesh = Mesh::trusting(8);
    let names: Vec<NodeName> = mesh.nodes.keys().cloned().collect();
    let (here, there) = names.split_at(4);
    for (one, other) in here.iter().flat_map(|one| there.iter().map(move |other| (one, other))) {
        mesh.cut.insert(pair(one, other));
    }
    mesh.update(here[0].as_str(), 3);
    mesh.update(there[0].as_str(), 2);
    mesh.run(MS(2_000));
    mesh.update(there[1].as_str(), 4);
    mesh.run(MS(2_000));
    assert!(here.iter().all(|name| mesh.chains[name] == [1, 3]), "{:?}", mesh.chains);
    assert!(there.iter().all(|name| mesh.chains[name] == [1, 2, 4]), "{:?}", mesh.chains);
    mesh.cut.clear();
    mesh.until(MS(60_000), "one chain", |mesh| mesh.all_hold(&[1, 2, 4]));
    mesh.until(MS(60_000), "one mesh", Mesh::is_complete);
}

/// What the machine tells its holder.
fn told(swim: &mut super::Swim) -> Vec<BundleEvent> {
    let mut told = Vec::new();
    while let Some(action) = swim.poll_action() {
        if let Action::Emit(Event::Bundle(event)) = action {
            told.push(event);
        }
    }
    told
}

#[test]
fn a_peer_that_tells_ever_other_bundles_is_looked_at_once_a_second() {
    let mut swim = machine();
    swim.handle_command(in_force(&[1]), base());
    told(&mut swim);
    let mut looked = 0;
    for at in 0..100_u8 {
        let word = datagram(&Message::Bundle(head(&[1, at])));
        swim.handle_datagram(&node("p1"), &word, base() + MS(10 * u64::from(at))).unwrap();
        looked += told(&mut swim).len();
    }
    assert_eq!((looked, swim.stats().dropped(Drop::Busy)), (1, 99));
    let again = |swim: &mut super::Swim, at| {
        swim.handle_datagram(&node("p1"), &datagram(&Message::Bundle(head(&[1, 0]))), base() + MS(at)).unwrap();
        told(swim).len()
    };
    assert_eq!((again(&mut swim, 9_990), again(&mut swim, 10_000)), (0, 1), "the same is looked at again later");
    let ours = datagram(&Message::Bundle(head(&[1])));
    swim.handle_datagram(&node("p1"), &ours, base() + MS(20_000)).unwrap();
    assert!(told(&mut swim).is_empty());
}

/// An operator makes two updates within a second: the second one is not left to the next comparison, 15 s apart, and nobody
/// is asked sooner than it answers.
#[test]
fn an_update_that_follows_another_one_at_once_arrives_within_the_pause() {
    for gap in [1, 100, 450, 999] {
        let mut mesh = Mesh::trusting(3);
        mesh.update("n1", 2);
        mesh.run(MS(gap));
        mesh.update("n1", 3);
        let took = mesh.until(MS(1_200), "both updates everywhere", |mesh| mesh.all_hold(&[1, 2, 3]));
        println!("{gap} ms apart: everywhere after {took:?}");
    }
}

#[test]
fn a_word_that_came_too_soon_is_looked_at_when_the_pause_ends() {
    let mut swim = machine();
    swim.handle_command(in_force(&[1]), base());
    told(&mut swim);
    let tell = |swim: &mut super::Swim, chain: &[u8], at| {
        swim.handle_datagram(&node("p1"), &datagram(&Message::Bundle(head(chain))), base() + MS(at)).unwrap();
        told(swim).len()
    };
    assert_eq!(tell(&mut swim, &[1, 2], 0), 1);
    swim.handle_command(in_force(&[1, 2]), base() + MS(10));
    assert_eq!(tell(&mut swim, &[1, 2, 3], 460), 0, "another bundle in force does not shorten the pause");
    swim.handle_timeout(base() + MS(999));
    assert!(told(&mut swim).is_empty());
    swim.handle_timeout(base() + MS(1_000));
    assert_eq!(told(&mut swim), [BundleEvent::Differs { peer: node("p1"), head: head(&[1, 2, 3]) }]);
    swim.handle_timeout(base() + MS(5_000));
    assert!(told(&mut swim).is_empty(), "once");
}

#[test]
fn a_peer_that_asks_all_the_time_is_answered_twice_a_second_and_others_too() {
    let mut swim = machine();
    swim.handle_command(in_force(&[1]), base());
    told(&mut swim);
    let mut ask = |peer: &str, stream: u64, at: u64| {
        let question = frame(Envelope::Sync, &Message::WantUpdates(Bytes::from_static(b"?")));
        let id = ExchangeId(ExchangeId::INBOUND | stream);
        swim.handle_sync(&node(peer), id, &question, base() + MS(at)).unwrap();
        told(&mut swim).len()
    };
    let got = [ask("p1", 1, 0), ask("p1", 2, 499), ask("p2", 1, 499), ask("p1", 3, 500)];
    assert_eq!(got, [1, 0, 1, 1]);
}

#[test]
fn updates_that_nobody_asked_for_are_dropped() {
    let mut swim = machine();
    swim.handle_command(in_force(&[1]), base());
    told(&mut swim);
    let updates = frame(Envelope::Sync, &Message::Updates(Bytes::from_static(b"1")));
    swim.handle_sync(&node("p1"), ExchangeId(ExchangeId::INBOUND | 1), &updates, base()).unwrap();
    assert!(told(&mut swim).is_empty());
    swim.handle_datagram(&node("p1"), &datagram(&Message::Bundle(head(&[1, 2]))), base()).unwrap();
    let ask = BundleCommand::Ask { peer: node("p1"), request: Bytes::from_static(b"?") };
    swim.handle_command(Command::Bundle(ask), base());
    let asked = std::iter::from_fn(|| swim.poll_action()).find_map(|action| {
        let Action::SendSync { to, exchange, last: true, .. } = action else { return None };
        (to == node("p1")).then_some(exchange)
    });
    let stream = asked.expect("a question");
    swim.handle_sync(&node("p1"), stream, &updates, base()).unwrap();
    let want = BundleEvent::Updates { peer: node("p1"), updates: Bytes::from_static(b"1") };
    assert_eq!(told(&mut swim), [want]);
    assert!(swim.handle_sync(&node("p1"), stream, &updates, base()).is_err(), "once");
}

/// One past each limit: requests, answers, and peers that are remembered.
#[test]
fn what_is_too_large_is_not_sent_and_too_many_are_not_remembered() {
    let mut swim = machine();
    swim.handle_command(in_force(&[1]), base());
    told(&mut swim);
    let ask = |bytes: usize| BundleCommand::Ask { peer: node("p1"), request: vec![1; bytes].into() };
    swim.handle_command(Command::Bundle(ask(UPDATES_REQUEST_BYTES_MAX + 1)), base());
    assert_eq!(swim.stats().dropped(Drop::OwnTooLarge), 1);
    let mut answered = |bytes: usize| {
        let (peer, exchange) = (node("p1"), ExchangeId(ExchangeId::INBOUND | 7));
        let answer = BundleCommand::Answer { peer, exchange, updates: vec![1; bytes].into() };
        swim.handle_command(Command::Bundle(answer), base());
        std::iter::from_fn(|| swim.poll_action()).find_map(|action| {
            let Action::SendSync { frame, last: true, .. } = action else { return None };
            Some(frame.len() > bytes)
        })
    };
    assert_eq!((answered(UPDATES_BYTES_MAX), answered(UPDATES_BYTES_MAX + 1)), (Some(true), Some(false)));
    for at in 0..=UPDATES_ASKED_MAX {
        swim.on_bundle(&node(&format!("x{at}")), head(&[9]), base());
    }
    assert_eq!(told(&mut swim).len(), UPDATES_ASKED_MAX);
}
