//! Documents and revocations over a small mesh: what is submitted at one node is in use, alike and whole, at all.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use starling_model::{Digest, Document};

use super::test_mesh::{MS, Mesh};
use crate::action::{
    Action, Command, DocumentView, DocumentsEvent, Event, Restored, SubmitId, SubmitRefused, Submitted, Void,
};
use crate::broadcasts::Subject;
use crate::config::SwimConfig;
use crate::documents::{BATCH_PATIENCE, SignedDocument};
use crate::stats::Drop;
use crate::testing::{GOOD, base, batch, document, document_by, document_key, node, revocation};
use crate::trust::SignedRevocation;

pub(super) fn ready(count: usize) -> Mesh {
    let mut mesh = Mesh::of(count, SwimConfig::lan());
    mesh.until(MS(3_000), "a complete mesh", Mesh::is_complete);
    mesh
}

impl Mesh {
    /// Submits and returns the outcome.
    pub(super) fn submit(&mut self, at: &str, documents: &[Bytes]) -> Submitted {
        let submit = SubmitId(1);
        self.command(at, Command::SubmitDocuments { submit, documents: documents.to_vec() });
        self.outcome(at)
    }

    pub(super) fn revoke(&mut self, at: &str, revocation: &Bytes) -> Submitted {
        let submit = SubmitId(1);
        self.command(at, Command::SubmitRevocation { submit, revocation: revocation.clone() });
        self.outcome(at)
    }

    fn outcome(&self, at: &str) -> Submitted {
        let outcome = self.events(at).iter().rev().find_map(|event| {
            let Event::Submitted { submit: SubmitId(1), outcome } = event else { return None };
            Some(outcome.clone())
        });
        outcome.expect("the test's verdicts come at once")
    }

    /// Documents in use at a node, as `name generation`.
    pub(super) fn used(&self, at: &str) -> Vec<String> {
        self.nodes[&node(at)].swim.documents().map(|one| brief(&one)).collect()
    }

    pub(super) fn agree(&self) -> bool {
        let mut roots = self.nodes.values().map(|entry| entry.swim.roots().documents);
        let first = roots.next();
        roots.all(|root| Some(root) == first)
    }

    pub(super) fn documents_events(&self, at: &str) -> Vec<&DocumentsEvent> {
        let all = self.events(at).iter();
        all.filter_map(|event| if let Event::Documents(event) = event { Some(event) } else { None }).collect()
    }

    /// How many documents came into use with each event.
    fn activations(&self, at: &str) -> Vec<usize> {
        let len = |event: &DocumentsEvent| {
            if let DocumentsEvent::Activated { documents } = event { Some(documents.len()) } else { None }
        };
        self.documents_events(at).into_iter().filter_map(len).collect()
    }
}

fn brief(view: &DocumentView) -> String {
    format!("{} {}", view.key.name, view.version.generation)
}

fn accepted(outcome: &Submitted) -> bool {
    matches!(outcome, Submitted::Accepted { .. })
}

fn refusals(outcome: &Submitted) -> Vec<(usize, SubmitRefused)> {
    match outcome {
        Submitted::Accepted { .. } => Vec::new(),
        Submitted::Refused { problems } => problems.iter().map(|one| (one.index, one.why.clone())).collect(),
    }
}

/// gossip.md, 8: at first receipt a document goes to all connected peers.
#[test]
fn what_is_submitted_at_one_node_is_in_use_at_all_within_a_window() {
    let mut mesh = ready(12);
    assert!(accepted(&mesh.submit("n3", &[document("a", 1, None)])));
    assert_eq!(mesh.used("n3"), ["a 1"]);
    let took = mesh.until(MS(200), "the document everywhere", |mesh| {
        mesh.nodes.keys().all(|name| mesh.used(name.as_str()) == ["a 1"])
    });
    assert!(took <= MS(40), "{took:?}: one announcement and one fetch");
    assert!(mesh.agree());
    assert!(mesh.nodes.values().all(|entry| entry.swim.roots().documents != 0));
    for name in mesh.nodes.keys() {
        let seen: Vec<String> = mesh
            .documents_events(name.as_str())
            .iter()
            .map(|event| match event {
                DocumentsEvent::Activated { documents } => format!("used {}", brief(&documents[0])),
                DocumentsEvent::Known { document } => format!("known {}", brief(document)),
                DocumentsEvent::Conflict { .. }
                | DocumentsEvent::ConflictEnded { .. }
                | DocumentsEvent::Voided { .. }
                | DocumentsEvent::Incomplete { .. } => format!("{event:?}"),
            })
            .collect();
        assert_eq!(seen, ["used a 1", "known a 1"], "{name}");
    }
}

/// gossip.md, 11: the whole batch is stored before any of it is forwarded; in use all at once.
#[test]
fn a_batch_is_stored_whole_before_it_is_told_and_used_whole_everywhere() {
    let mut mesh = ready(5);
    let all: Vec<Bytes> = ["a", "b", "c", "d"].iter().map(|name| document(name, 1, batch(9, 4))).collect();
    let now = mesh.now;
    let entry = mesh.nodes.get_mut(&node("n1")).unwrap();
    entry.swim.handle_command(Command::SubmitDocuments { submit: SubmitId(1), documents: all }, now);
    let mut tickets = Vec::new();
    while let Some(action) = entry.swim.poll_action() {
        let Action::Verify { ticket, .. } = action else { panic!("{action:?} before all were judged") };
        tickets.push(ticket);
    }
    assert_eq!(tickets.len(), 4);
    tickets.into_iter().for_each(|ticket| entry.swim.handle_verdict(ticket, crate::action::Verdict::Valid, now));
    entry.swim.handle_timeout(now + SwimConfig::lan().forward_window);
    let (mut stored, mut told) = (0, 0);
    while let Some(action) = entry.swim.poll_action() {
        stored += usize::from(matches!(action, Action::Persist(_)));
        if matches!(action, Action::SendDatagram { .. } | Action::SendSync { .. }) {
            assert_eq!(stored, 4);
            told += 1;
        }
    }
    assert!(told > 0);
    // What this test drained was lost; comparisons bring it.
    mesh.until(MS(5_000), "the batch everywhere", |mesh| {
        mesh.nodes.keys().all(|name| mesh.used(name.as_str()).len() == 4)
    });
    for name in ["n2", "n3", "n4", "n5"] {
        assert_eq!(mesh.activations(name), [4], "{name}");
    }
}

#[test]
fn a_submission_is_refused_with_all_its_problems_at_once() {
    let mut mesh = ready(2);
    assert!(accepted(&mesh.submit("n1", &[document("a", 5, None)])));
    assert!(accepted(&mesh.submit("n1", &[document("a", 5, None)])), "the same again is no conflict");
    let held = SignedDocument::read(&document("a", 5, None)).unwrap().version;
    let before = mesh.nodes[&node("n1")].swim.roots();
    let bad = [
        document("a", 4, batch(1, 7)),
        document_by(2, "a", 5, batch(1, 7), "x"),
        document_by(9, "b", 1, batch(1, 7), "x"),
        document_by(5, "c", 1, batch(1, 7), "x"),
        Bytes::from_static(b"junk"),
        document("d", 1, None),
        document("e", 1, batch(1, 7)),
    ];
    let got = refusals(&mesh.submit("n1", &bad));
    let want = [
        (0, SubmitRefused::Stale { held }),
        // The second of one key is no part of a whole batch.
        (1, SubmitRefused::NotOneBatch),
        (2, SubmitRefused::Void(Void::UnknownKey)),
        (3, SubmitRefused::Void(Void::Role)),
        (4, SubmitRefused::Invalid(starling_model::EnvelopeInvalid::Truncated)),
        (5, SubmitRefused::NotOneBatch),
    ];
    assert_eq!(got, want);
    let conflict = mesh.submit("n1", &[document_by(2, "a", 5, None, "x")]);
    assert_eq!(refusals(&conflict), [(0, SubmitRefused::Conflict { held })]);
    assert_eq!(refusals(&mesh.submit("n1", &[])), [(0, SubmitRefused::NotOneBatch)]);
    let mut forged = document("f", 1, None).to_vec();
    let last = forged.len() - 1;
    forged[last] ^= 1;
    assert_eq!(refusals(&mesh.submit("n1", &[forged.into()])), [(0, SubmitRefused::Void(Void::BadSignature))]);
    assert_eq!(mesh.nodes[&node("n1")].swim.roots(), before, "nothing of it is kept");
}

/// One past the bound of open submissions, and verdicts that never come.
#[test]
fn submissions_are_few_and_end() {
    let mut mesh = ready(1);
    let now = mesh.now;
    let swim = &mut mesh.nodes.get_mut(&node("n1")).unwrap().swim;
    for at in 0..=crate::limits::SUBMISSIONS_MAX as u64 {
        let documents = vec![document(&format!("d{at}"), 1, None)];
        swim.handle_command(Command::SubmitDocuments { submit: SubmitId(at), documents }, now);
    }
    swim.handle_timeout(now + crate::limits::WAITING_TIME_MAX + MS(1_001));
    let (mut full, mut unjudged) = (0, 0);
    while let Some(action) = swim.poll_action() {
        let Action::Emit(Event::Submitted { outcome, .. }) = action else { continue };
        match refusals(&outcome)[..] {
            [(0, SubmitRefused::Full)] => full += 1,
            [(0, SubmitRefused::Unjudged)] => unjudged += 1,
            _ => panic!("{outcome:?}"),
        }
    }
    assert_eq!((full, unjudged), (1, crate::limits::SUBMISSIONS_MAX));
    assert!(swim.operators.judging.is_empty());
}

/// gossip.md, S23 in small: both sides of a split write, all choose alike, all show it, the next generation ends it.
#[test]
fn two_writers_across_a_split_end_in_one_winner_and_a_shown_conflict() {
    let mut mesh = ready(4);
    let across: Vec<_> = [("n1", "n3"), ("n1", "n4"), ("n2", "n3"), ("n2", "n4")]
        .iter()
        .map(|(a, b)| super::test_mesh::pair(&node(a), &node(b)))
        .collect();
    mesh.cut.extend(across);
    assert!(accepted(&mesh.submit("n1", &[document_by(1, "a", 1, None, "x")])));
    assert!(accepted(&mesh.submit("n3", &[document_by(2, "a", 1, None, "y")])));
    mesh.run(MS(500));
    assert!(!mesh.agree());
    mesh.cut.clear();
    mesh.until(MS(60_000), "agreement after the heal", Mesh::agree);
    let winner = SignedDocument::read(&document_by(2, "a", 1, None, "y")).unwrap().version;
    for name in ["n1", "n2", "n3", "n4"] {
        let used: Vec<DocumentView> = mesh.nodes[&node(name)].swim.documents().collect();
        assert_eq!((used.len(), used[0].version), (1, winner), "{name}");
        let shown = mesh.documents_events(name).iter().any(|event| {
            matches!(event, DocumentsEvent::Conflict { versions, .. } if versions[0] == winner && versions.len() == 2)
        });
        assert!(shown, "{name}");
        assert_eq!(mesh.nodes[&node(name)].swim.document_versions(&document_key("a")).count(), 2);
    }
    assert!(accepted(&mesh.submit("n1", &[document("a", 2, None)])));
    mesh.run(MS(1_000));
    for name in ["n1", "n4"] {
        let ended = |event: &&&DocumentsEvent| matches!(event, DocumentsEvent::ConflictEnded { .. });
        assert_eq!(mesh.documents_events(name).iter().filter(ended).count(), 1, "{name}");
        assert_eq!(mesh.used(name), ["a 2"]);
    }
}

/// gossip.md, S34 in small.
#[test]
fn an_incomplete_batch_is_reported_after_five_seconds_and_never_used() {
    let mut mesh = ready(2);
    let late = SignedDocument::read(&document("b", 1, batch(9, 2))).unwrap();
    let early = SignedDocument::read(&document("a", 1, batch(9, 2))).unwrap();
    let now = mesh.now;
    let hold = |mesh: &mut Mesh, one: SignedDocument| {
        let now = mesh.now;
        let swim = &mut mesh.nodes.get_mut(&node("n1")).unwrap().swim;
        swim.hold_document(one, super::documents::Origin::Submitted, now).unwrap();
        mesh.turn(&node("n1"));
    };
    hold(&mut mesh, early);
    let incomplete = |mesh: &Mesh, at: &str| {
        mesh.documents_events(at).iter().any(|event| matches!(event, DocumentsEvent::Incomplete { .. }))
    };
    mesh.run(BATCH_PATIENCE - MS(100));
    assert!(!incomplete(&mesh, "n1") && mesh.used("n1").is_empty() && mesh.used("n2").is_empty());
    mesh.run(MS(200));
    assert!(incomplete(&mesh, "n1") && incomplete(&mesh, "n2"));
    assert!(mesh.now - now < BATCH_PATIENCE + MS(200));
    mesh.run(MS(5_000));
    hold(&mut mesh, late);
    mesh.until(MS(1_000), "the whole batch", |mesh| mesh.used("n1").len() == 2 && mesh.used("n2").len() == 2);
}

#[test]
fn a_restart_finds_everything_again_and_its_epoch_is_untouched() {
    let mut mesh = ready(3);
    assert!(accepted(&mesh.submit("n1", &[document("a", 1, None)])));
    mesh.run(MS(100));
    assert!(accepted(&mesh.submit("n1", &[document("a", 2, batch(9, 2)), document("b", 1, batch(9, 2))])));
    assert!(accepted(&mesh.revoke("n1", &revocation("vm-9", 1, &[]))));
    mesh.run(MS(500));
    let root = mesh.nodes[&node("n2")].swim.roots().documents;
    // Alone, so that only the store can tell.
    let store = mesh.kill("n2");
    let words = store.iter().filter(|item| matches!(item, Restored::Document { .. } | Restored::Revocation { .. }));
    assert_eq!(words.count(), 4);
    let mut alone = Mesh::new(SwimConfig::lan());
    alone.start_with("n2", 11, store, &[]);
    alone.run(MS(10));
    assert_eq!(alone.nodes[&node("n2")].swim.roots().documents, root);
    assert_eq!(alone.used("n2"), ["a 2", "b 1"]);
    assert_eq!((alone.life("n2").epoch.0, alone.nodes[&node("n2")].epoch.0), (11, 11));
    assert_eq!(alone.activations("n2"), [2], "all that is in use, at once");
    let revoked = alone.events("n2").iter().filter(|event| matches!(event, Event::Revoked(_))).count();
    assert_eq!(revoked, 1);
    assert_eq!(alone.nodes[&node("n2")].swim.document_versions(&document_key("a")).count(), 2, "history, too");
}

/// What a store held of keys that are no operator's any more is forgotten.
#[test]
fn void_words_of_the_store_are_removed_from_it() {
    let mut mesh = Mesh::new(SwimConfig::lan());
    let items = vec![
        Restored::Document { bytes: document_by(9, "a", 1, None, "x") },
        Restored::Document { bytes: document("b", 1, None) },
        Restored::Document { bytes: Bytes::from_static(b"damaged") },
    ];
    mesh.start_with("n1", 10, items.clone(), &[]);
    let hash = |bytes: &Bytes| SignedDocument::read(bytes).unwrap().version.hash;
    let entry = mesh.nodes.get_mut(&node("n1")).unwrap();
    assert_eq!(entry.swim.documents().count(), 1);
    assert_eq!(entry.swim.stats().dropped(Drop::UnknownSigner), 1);
    assert_eq!(entry.swim.stats().dropped(Drop::BadSnapshot), 1);
    let mut swim = super::Swim::new(super::test_mesh::local("n1", 11, 1), SwimConfig::lan(), [1; 32], base());
    swim.handle_command(Command::Restore(items[..1].to_vec()), base());
    let mut forgotten: Vec<Digest> = Vec::new();
    while let Some(action) = swim.poll_action() {
        if let Action::Persist(crate::action::Change::ForgetDocument { hash }) = action {
            forgotten.push(hash);
        } else if let Action::Verify { ticket, .. } = action {
            swim.handle_verdict(ticket, crate::action::Verdict::Void(Void::UnknownKey), base());
        }
    }
    assert_eq!(forgotten, [hash(&document_by(9, "a", 1, None, "x"))]);
}

/// gossip.md, S24: bytes stay as received, newer schemas and what follows their known fields included.
#[test]
fn a_newer_schema_is_relayed_byte_for_byte() {
    let mut mesh = ready(3);
    let head = Document { schema: 7, ..SignedDocument::read(&document("a", 1, None)).unwrap().head };
    let mut newer = head.to_body("kind: HTTPRoute").unwrap();
    newer.extend_from_slice(b"fields of schema 7");
    newer.extend_from_slice(&GOOD);
    let newer = Bytes::from(newer);
    // n3 hears of it from n2 alone.
    mesh.cut.insert(super::test_mesh::pair(&node("n1"), &node("n3")));
    assert!(accepted(&mesh.submit("n1", std::slice::from_ref(&newer))));
    mesh.until(MS(3_000), "the newer document", |mesh| mesh.used("n3").len() == 1);
    let got: Vec<DocumentView> = mesh.nodes[&node("n3")].swim.documents().collect();
    assert_eq!((&got[0].envelope, got[0].schema), (&newer, 7));
}

/// A newcomer takes everything over, tells the mesh nothing of it, and is not ready before it has it.
#[test]
fn a_joiner_catches_up_before_it_is_ready_and_spreads_nothing() {
    let mut mesh = ready(5);
    for at in 0..30 {
        assert!(accepted(&mesh.submit("n1", &[document(&format!("d{at}"), 1, None)])));
    }
    assert!(accepted(&mesh.revoke("n2", &revocation("vm-9", 1, &[]))));
    mesh.run(MS(1_000));
    mesh.start("n6", &["n1"]);
    mesh.until(MS(3_000), "a ready newcomer", |mesh| {
        mesh.events("n6").iter().any(|event| matches!(event, Event::Synced { .. }))
    });
    assert_eq!((mesh.used("n6").len(), mesh.agree()), (30, true));
    let swim = &mesh.nodes[&node("n6")].swim;
    let told: usize = swim
        .operators
        .documents
        .live()
        .filter(|one| swim.broadcasts.was_told(&Subject::Document(one.version.hash.0), &node("n2")))
        .count();
    assert_eq!(told, 0);
}

/// Lost datagrams and a missed announcement: acks show another root, and a comparison of documents alone follows.
#[test]
fn another_root_in_an_ack_ends_in_a_comparison_soon() {
    let mut mesh = ready(6);
    mesh.run(MS(2_000));
    // Taken in by n4 alone, as if every announcement had been lost.
    let one = SignedDocument::read(&document("a", 1, None)).unwrap();
    let now = mesh.now;
    let swim = &mut mesh.nodes.get_mut(&node("n4")).unwrap().swim;
    swim.operators.documents.insert(one, now).unwrap();
    let took = mesh.until(Duration::from_secs(10), "agreement", Mesh::agree);
    assert!(took < MS(2_500), "{took:?}");
    // Peace afterwards: no further comparisons of documents.
    mesh.run(MS(3_000));
    let before: u64 = mesh.nodes.values().map(|entry| entry.swim.stats().syncs_started).sum();
    mesh.run(MS(10_000));
    let after: u64 = mesh.nodes.values().map(|entry| entry.swim.stats().syncs_started).sum();
    assert!(after - before <= 6, "{} comparisons at rest", after - before);
}

/// A snapshot of who agrees is made anew when this number moves, so it moves with each peer that follows, and not at rest.
#[test]
fn the_count_of_roots_heard_moves_with_every_peer_that_follows_and_rests_otherwise() {
    let mut mesh = ready(4);
    mesh.run(MS(3_000));
    let heard = |mesh: &Mesh| mesh.nodes[&node("n1")].swim.roots_heard();
    let before = heard(&mesh);
    mesh.run(MS(5_000));
    assert_eq!(heard(&mesh), before, "acks tell the same again");
    assert!(accepted(&mesh.submit("n1", &[document("a", 1, None)])));
    mesh.run(MS(500));
    assert_eq!(heard(&mesh), before + 3);
}

/// Every document goes to each target at most once, whatever the order of news.
#[test]
fn no_version_is_told_twice_to_one_target() {
    let mut mesh = ready(8);
    let mut heard: BTreeMap<String, usize> = BTreeMap::new();
    for generation in 1..=20 {
        assert!(accepted(&mesh.submit("n1", &[document("a", generation, None)])));
        mesh.run(MS(100));
    }
    mesh.run(MS(2_000));
    for (name, entry) in &mesh.nodes {
        // Seven others announce each of the twenty at most once; the submitter hears no more.
        heard.insert(name.to_string(), usize::try_from(entry.swim.stats().dropped(Drop::Duplicate)).unwrap());
        assert_eq!(mesh.used(name.as_str()), ["a 20"]);
    }
    let sent: u64 = mesh.nodes.values().map(|entry| entry.swim.stats().sent_documents).sum();
    assert_eq!(sent, 7 * 20, "each body travels once to each node");
    assert!(heard.values().all(|count| *count <= 7 * 20), "{heard:?}");
}

/// security.md, 9: a revocation spreads as fast as anything, and what the node said is gone.
#[test]
fn a_revoked_nodes_records_are_gone_and_a_refused_credential_brings_none_back() {
    let mut mesh = ready(4);
    mesh.command("n4", Command::Put(super::tests::services(&["web"])));
    mesh.until(MS(1_000), "services", |mesh| mesh.services("n1", "n4") == Some(1));
    mesh.refused_credentials.insert(node("n4"));
    assert!(accepted(&mesh.revoke("n1", &revocation("n4", 1, &[]))));
    mesh.until(MS(200), "the revocation everywhere", |mesh| {
        ["n1", "n2", "n3"].iter().all(|at| mesh.events(at).iter().any(|event| matches!(event, Event::Revoked(_))))
    });
    for at in ["n1", "n2", "n3"] {
        assert_eq!(mesh.services(at, "n4"), None, "{at}");
    }
    mesh.run(MS(5_000));
    assert_eq!(mesh.services("n2", "n4"), None, "and none comes back");
    let lower = mesh.revoke("n2", &revocation("n4", 0, &[]));
    assert_eq!(refusals(&lower), [(0, SubmitRefused::Superseded { held: 1 })]);
    let held: Vec<[u8; 32]> = mesh.nodes[&node("n3")].swim.revocations().map(|one| one.hash).collect();
    assert_eq!(held, [SignedRevocation::read(&revocation("n4", 1, &[])).unwrap().hash]);
}

/// A revocation that keeps the key in use takes nothing away.
#[test]
fn a_revocation_that_keeps_the_key_takes_nothing() {
    let mut mesh = ready(3);
    mesh.command("n3", Command::Put(super::tests::services(&["web"])));
    mesh.until(MS(1_000), "services", |mesh| mesh.services("n1", "n3") == Some(1));
    assert!(accepted(&mesh.revoke("n1", &revocation("n3", 1, &[1]))));
    mesh.run(MS(1_000));
    assert_eq!((mesh.services("n1", "n3"), mesh.services("n2", "n3")), (Some(1), Some(1)));
    assert!(mesh.agree());
}
