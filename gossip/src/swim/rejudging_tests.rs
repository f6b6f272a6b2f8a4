//! Trust changes while documents, revocations and members are held.

use bytes::Bytes;

use super::documents_tests::ready;
use super::test_mesh::{MS, Mesh};
use crate::action::{Command, DocumentsEvent};
use crate::bundles::{BundleCommand, BundleHead};
use crate::limits::REJUDGED_PER_STEP;
use crate::testing::{GOOD, base, batch, document, document_by, node, revocation};

impl Mesh {
    /// The bundle of every node is another one.
    fn change_trust(&mut self) {
        let names: Vec<String> = self.nodes.keys().map(|name| name.as_str().to_owned()).collect();
        let sequence = self.now.saturating_duration_since(base()).as_secs() + 2;
        let head = BundleHead { sequence, hash: [9; 32] };
        names.iter().for_each(|name| self.command(name, Command::Bundle(BundleCommand::InForce(head))));
    }

    fn voided(&self, at: &str) -> Vec<(String, bool)> {
        let brief = |event: &&DocumentsEvent| match event {
            DocumentsEvent::Voided { document, was_used } => {
                Some((format!("{} {}", document.key.name, document.version.generation), *was_used))
            }
            DocumentsEvent::Activated { .. }
            | DocumentsEvent::Known { .. }
            | DocumentsEvent::Conflict { .. }
            | DocumentsEvent::ConflictEnded { .. }
            | DocumentsEvent::Incomplete { .. } => None,
        };
        self.documents_events(at).iter().filter_map(brief).collect()
    }
}

/// security.md, 10: removing an operator voids all it signed, and a void document holds no generation.
#[test]
fn what_a_removed_key_signed_loses_its_force_and_what_it_replaced_counts_again() {
    let mut mesh = ready(5);
    mesh.submit("n1", &[document("a", 1, None)]);
    mesh.submit("n2", &[document_by(2, "a", 2, None, "theirs")]);
    mesh.submit("n3", &[document_by(2, "b", 9, None, "theirs")]);
    mesh.run(MS(1_000));
    assert_eq!(mesh.used("n5"), ["a 2", "b 9"]);
    mesh.removed.insert(2);
    mesh.change_trust();
    mesh.run(MS(1_000));
    for at in ["n1", "n2", "n3", "n4", "n5"] {
        assert_eq!(mesh.used(at), ["a 1"], "{at}");
        assert_eq!(mesh.voided(at), [("a 2".to_owned(), true), ("b 9".to_owned(), true)], "{at}");
        let stored = mesh.nodes[&node(at)].store.keys().filter(|key| key.starts_with("d ")).count();
        assert_eq!(stored, 1, "{at}");
    }
    assert!(mesh.agree());
    mesh.submit("n4", &[document("b", 1, None)]);
    mesh.run(MS(1_000));
    assert!(mesh.nodes.keys().all(|name| mesh.used(name.as_str()) == ["a 1", "b 1"]), "the generation is free");
    assert!(mesh.agree());
}

#[test]
fn what_keeps_its_signer_is_not_touched() {
    let mut mesh = ready(3);
    mesh.submit("n1", &[document("a", 1, None)]);
    mesh.run(MS(1_000));
    let before = mesh.nodes[&node("n2")].swim.roots();
    mesh.change_trust();
    mesh.run(MS(1_000));
    assert!(mesh.nodes.keys().all(|name| mesh.used(name.as_str()) == ["a 1"] && mesh.voided(name.as_str()).is_empty()));
    let after = mesh.nodes[&node("n2")].swim.roots();
    assert_eq!(after.state, before.state);
    assert_ne!(after.documents, before.documents, "the bundle is part of it");
    assert!(mesh.agree());
}

#[test]
fn a_batch_that_loses_a_document_is_used_no_more_in_part() {
    let mut mesh = ready(3);
    mesh.submit("n1", &[document("a", 1, None)]);
    let all = [document("a", 2, batch(9, 2)), document_by(2, "b", 1, batch(9, 2), "theirs")];
    mesh.submit("n1", &all);
    mesh.run(MS(1_000));
    assert_eq!(mesh.used("n3"), ["a 2", "b 1"]);
    mesh.removed.insert(2);
    mesh.change_trust();
    mesh.run(MS(1_000));
    assert!(mesh.nodes.keys().all(|name| mesh.used(name.as_str()) == ["a 1"]));
    assert!(mesh.agree());
}

/// What counted for nothing is asked for again at once when its signer comes into the bundle.
#[test]
fn what_a_new_key_signed_counts_as_soon_as_the_key_does() {
    let mut mesh = ready(3);
    mesh.removed.insert(2);
    // Only n1 knows the key yet.
    mesh.submit("n1", &[document_by(2, "a", 1, None, "new")]);
    assert!(mesh.used("n1").is_empty());
    mesh.removed.clear();
    mesh.submit("n1", &[document_by(2, "a", 1, None, "new")]);
    mesh.removed.insert(2);
    mesh.run(MS(1_000));
    assert!(mesh.used("n2").is_empty() && !mesh.agree());
    mesh.removed.clear();
    mesh.change_trust();
    let took = mesh.until(MS(5_000), "the document everywhere", |mesh| {
        mesh.nodes.keys().all(|name| mesh.used(name.as_str()) == ["a 1"])
    });
    assert!(took <= MS(3_000), "{took:?}: the next probe shows the difference");
    mesh.run(MS(1_000));
    assert!(mesh.agree());
}

/// security.md, 9: revocations of a removed key stay in force, over a restart too.
#[test]
fn revocations_of_a_removed_key_stay_in_force() {
    let mut mesh = ready(3);
    mesh.revoke("n1", &revocation("gone", 1, &[]));
    mesh.run(MS(1_000));
    mesh.removed.insert(1);
    mesh.change_trust();
    mesh.run(MS(1_000));
    let held = |mesh: &Mesh| mesh.nodes.values().all(|entry| entry.swim.revocations().count() == 1);
    assert!(held(&mesh) && mesh.agree());
    let store: Vec<_> = mesh.nodes[&node("n3")].store.values().cloned().collect();
    mesh.start_with("n3", 11, store, &["n1"]);
    mesh.run(MS(1_000));
    assert!(held(&mesh));
}

/// A member whose certificates end at no root any more offers nothing.
#[test]
fn a_member_that_the_new_bundle_does_not_know_loses_its_credentials() {
    let mut mesh = ready(3);
    assert!(mesh.nodes[&node("n1")].swim.knows_credentials_of(&node("n3")));
    mesh.refused_credentials.insert(node("n3"));
    mesh.change_trust();
    mesh.run(MS(500));
    assert!(!mesh.nodes[&node("n1")].swim.knows_credentials_of(&node("n3")));
    assert!(mesh.nodes[&node("n1")].swim.knows_credentials_of(&node("n2")));
}

#[test]
fn one_document_more_than_a_step_takes_waits_for_the_next() {
    let mut mesh = ready(1);
    for at in 0..=REJUDGED_PER_STEP {
        let one: Bytes = document_by(2, &format!("d{at}"), 1, None, "x");
        assert!(one.ends_with(&GOOD));
        mesh.submit("n1", &[one]);
    }
    mesh.removed.insert(2);
    mesh.change_trust();
    assert_eq!(mesh.used("n1").len(), 1);
    mesh.run(MS(150));
    assert!(mesh.used("n1").is_empty());
}
