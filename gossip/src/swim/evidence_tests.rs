//! "Why is it failed?" has an answer: propositions about the evidence that a mesh in virtual time gives.

use starling_model::{MemberState, NodeName};

use super::Swim;
use super::hostile_tests::machine;
use super::test_mesh::{MS, Mesh, pair};
use crate::action::{Action, ConnectionChange, Event, Evidence, PathResult, RelayResult, Step, Word};
use crate::config::SwimConfig;
use crate::limits::{ACCUSERS_PER_SUSPICION_MAX, ACTIONS_KEPT, ACTIONS_MAX};
use crate::probe::{Probe, Purpose};
use crate::testing::{base, node};

/// What `at` was told about `of`.
fn story<'a>(mesh: &'a Mesh, at: &str, of: &str) -> Vec<&'a Evidence> {
    let told = |event: &'a Event| {
        let Event::Evidence(evidence) = event else { return None };
        (evidence.subject == node(of)).then_some(evidence)
    };
    mesh.events(at).iter().filter_map(told).collect()
}

fn names(story: &[&Evidence]) -> Vec<&'static str> {
    story.iter().map(|evidence| evidence.step.as_str()).collect()
}

fn position(names: &[&str], step: &str) -> usize {
    names.iter().position(|name| *name == step).unwrap_or_else(|| panic!("no {step} in {names:?}"))
}

fn frozen_third_of_five() -> Mesh {
    let mut mesh = Mesh::of(5, SwimConfig::lan());
    mesh.until(MS(1000), "a complete mesh", Mesh::is_complete);
    mesh.run(MS(3_000));
    mesh.nodes.get_mut(&node("n3")).unwrap().frozen = true;
    mesh
}

#[test]
fn a_death_is_told_with_its_accusers_its_timers_and_every_path_of_the_own_probe() {
    let mut mesh = frozen_third_of_five();
    let gone = |mesh: &Mesh, at: &str| mesh.state(at, "n3") == Some(MemberState::Dead);
    let observers = ["n1", "n2", "n4", "n5"];
    mesh.until(MS(20_000), "the death everywhere", |mesh| observers.iter().all(|at| gone(mesh, at)));
    for at in observers {
        let story = story(&mesh, at, "n3");
        let steps = names(&story);
        let (suspected, failed) = (position(&steps, "suspected"), position(&steps, "failed"));
        assert!(suspected < failed && position(&steps, "probe_failed") < failed, "{at}: {steps:?}");
        let mut ends = None;
        let first = story.iter().any(|evidence| matches!(evidence.step, Step::Suspected { word: Word::Own, .. }));
        let asked = if first { 3..=3 } else { 1..=3 };
        for evidence in &story {
            match &evidence.step {
                Step::Suspected { by, word, until } | Step::Confirmed { by, word, until } => {
                    assert_eq!(*word == Word::Own, *by == node(at), "{at}: {by} {word:?}");
                    assert!(ends.is_none_or(|before| *until <= before), "{at}: a confirmation prolonged it");
                    ends = Some(*until);
                }
                Step::ProbeFailed(trail) => {
                    assert_eq!(trail.datagram, PathResult::Silent, "{at}: {trail:?}");
                    assert_eq!(trail.stream, PathResult::Silent, "{at}: {trail:?}");
                    // Whose turn it was asks three for help, who only verifies asks one.
                    assert!(asked.contains(&trail.relays.len()), "{at}: {trail:?}");
                    assert!(trail.relays.iter().all(|(_, said)| *said == RelayResult::Nack), "{at}: {trail:?}");
                }
                Step::Failed { accusers, lasted, own_failure } => {
                    assert!(own_failure.is_some() && !accusers.is_empty(), "{at}: {accusers:?}");
                    assert!(*lasted >= MS(4_000), "{at}: {lasted:?} is below the shortest suspicion of LAN");
                }
                Step::CalledDead { .. } => {}
                other @ (Step::ProbeAnswered { .. }
                | Step::Held
                | Step::Refuted { .. }
                | Step::Restarted { .. }
                | Step::Answered { .. }) => panic!("{at}: {other:?}"),
            }
        }
    }
}

#[test]
fn a_refutation_is_told_by_the_doubted_and_by_the_doubters() {
    let mut mesh = frozen_third_of_five();
    let before = mesh.life("n3");
    mesh.until(MS(20_000), "a doubt", |mesh| mesh.state("n1", "n3") == Some(MemberState::Suspect));
    mesh.nodes.get_mut(&node("n3")).unwrap().frozen = false;
    mesh.until(MS(8_000), "the refutation", |mesh| {
        ["n1", "n2", "n4", "n5"].iter().all(|at| mesh.state(at, "n3") == Some(MemberState::Alive))
    });
    let own = story(&mesh, "n3", "n3");
    let Some(Evidence { life, step: Step::Answered { by, .. }, .. }) = own.first() else { panic!("{own:?}") };
    assert!(*life > before && mesh.nodes.contains_key(by), "{own:?}");
    let story = story(&mesh, "n1", "n3");
    let refuted = story.iter().find(|evidence| matches!(evidence.step, Step::Refuted { .. })).unwrap();
    let Step::Refuted { before: doubted, accusers, .. } = &refuted.step else { unreachable!() };
    assert_eq!(*doubted, before);
    assert!(refuted.life > before && refuted.life.epoch == before.epoch);
    assert!(!accusers.is_empty() && accusers.len() <= ACCUSERS_PER_SUSPICION_MAX);
}

#[test]
fn a_restart_is_a_new_epoch_and_no_death() {
    let mut mesh = Mesh::of(3, SwimConfig::lan());
    mesh.until(MS(1000), "a complete mesh", Mesh::is_complete);
    mesh.restart("n3", 11, &["n1"]);
    mesh.until(MS(2_000), "the new life", |mesh| {
        story(mesh, "n1", "n3").iter().any(|e| matches!(e.step, Step::Restarted { .. }))
    });
    let story = story(&mesh, "n1", "n3");
    let restarted = story.last().unwrap();
    assert_eq!(restarted.life.epoch.0, 11);
    let Step::Restarted { before, held } = &restarted.step else { panic!("{story:?}") };
    assert_eq!((before.0, *held), (10, MemberState::Alive));
}

#[test]
fn an_accusation_through_a_third_is_marked_as_relayed() {
    let mut mesh = Mesh::of(4, SwimConfig::lan());
    mesh.until(MS(1000), "a complete mesh", Mesh::is_complete);
    mesh.run(MS(3_000));
    // n1 and n4 cannot speak to each other, so what one says of n3 comes to the other through n2 only.
    mesh.cut.insert(pair(&node("n1"), &node("n4")));
    mesh.nodes.get_mut(&node("n3")).unwrap().frozen = true;
    mesh.until(MS(30_000), "the death", |mesh| mesh.state("n4", "n3") == Some(MemberState::Dead));
    let words = |at: &str| -> Vec<(NodeName, Word)> {
        let said = |evidence: &&Evidence| {
            let (Step::Suspected { by, word, .. } | Step::Confirmed { by, word, .. }) = &evidence.step else {
                return None;
            };
            Some((by.clone(), word.clone()))
        };
        story(&mesh, at, "n3").iter().filter_map(said).collect()
    };
    let through_two = |at: &str, other: &str| {
        let said = words(at).into_iter().find(|(by, _)| *by == node(other));
        said.is_none_or(|(_, word)| word == Word::Relayed(node("n2")))
    };
    assert!(through_two("n4", "n1") && through_two("n1", "n4"), "{:?} {:?}", words("n1"), words("n4"));
    let all = [words("n1"), words("n4")].concat();
    assert!(all.iter().any(|(_, word)| matches!(word, Word::Relayed(_))), "nothing was relayed: {all:?}");
}

#[test]
fn evidence_gives_way_when_the_queue_is_full() {
    let mut mesh = frozen_third_of_five();
    let now = mesh.now;
    let swim = &mut mesh.nodes.get_mut(&node("n1")).unwrap().swim;
    let evidence =
        || Action::Emit(Event::Evidence(Evidence { subject: node("n3"), life: Default::default(), step: Step::Held }));
    for _ in 0..=ACTIONS_MAX {
        swim.act(evidence());
    }
    assert_eq!(swim.stats().dropped(crate::stats::Drop::ActionsFull), 1);
    swim.handle_connection(&node("n3"), ConnectionChange::Rtt(MS(1)), now);
    let queued = std::iter::from_fn(|| swim.poll_action()).count();
    assert_eq!(queued, ACTIONS_MAX);
    assert_eq!(swim.actions.capacity(), 0, "the room of the burst is given back");
    let fill = |swim: &mut Swim, count| (0..count).for_each(|_| swim.act(evidence()));
    for (count, keeps) in [(ACTIONS_KEPT, true), (ACTIONS_KEPT + 1, false)] {
        fill(swim, count);
        assert_eq!(std::iter::from_fn(|| swim.poll_action()).count(), count);
        assert_eq!(swim.actions.capacity() > 0, keeps, "{count}");
    }
}

/// A node that hears nobody, its helpers included, learns nothing about one member: it may doubt, not bury.
#[test]
fn one_ladder_whose_helpers_are_silent_too_buries_nobody() {
    let mut swim = machine();
    let mut mesh = Mesh::of(3, SwimConfig::lan());
    mesh.until(MS(2_000), "a complete mesh", Mesh::is_complete);
    for peer in ["n2", "n3"] {
        let member = mesh.nodes[&node("n1")].swim.members.get(&node(peer)).unwrap().clone();
        swim.members.insert(node(peer), member);
        swim.handle_connection(&node(peer), ConnectionChange::Up { address: "127.0.0.1:1".parse().unwrap() }, base());
    }
    let probe = |asked: &[&str], nacks: &[&str]| {
        let names = |list: &[&str]| list.iter().map(|name| node(name)).collect();
        let life = swim.members.get(&node("n2")).unwrap().life();
        Probe {
            target: node("n2"),
            life,
            purpose: Purpose::Verify,
            began: base(),
            pinged: Some(base()),
            widened: true,
            stream: PathResult::Silent,
            dial: PathResult::Unused,
            verdict_at: base() + MS(1_000),
            asked: names(asked),
            nacks: names(nacks),
        }
    };
    let (silent, told, alone) = (probe(&["n3"], &[]), probe(&["n3"], &["n3"]), probe(&[], &[]));
    let failed = |swim: &Swim| swim.members.get(&node("n2")).unwrap().suspicion().unwrap().own_failure;
    swim.own_verdict(&silent, base());
    assert_eq!(failed(&swim), None);
    swim.own_verdict(&silent, base() + MS(2));
    assert_eq!(failed(&swim), Some(base() + MS(2)), "two in a row are a finding all the same");
    swim.own_verdict(&told, base());
    assert_eq!(failed(&swim), Some(base()));
    swim.own_verdict(&alone, base() + MS(1));
    assert_eq!(failed(&swim), Some(base() + MS(1)), "with nobody to ask, our own word has to do");
}
