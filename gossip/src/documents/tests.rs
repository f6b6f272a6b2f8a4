use proptest::prelude::*;

use super::*;
use crate::limits::DOCUMENTS_HELD_BYTES_MAX;
use crate::testing::{base, batch, document, document_by, document_key};

fn read(envelope: &Bytes) -> SignedDocument {
    SignedDocument::read(envelope).unwrap()
}

fn settled() -> Documents {
    let mut held = Documents::default();
    assert_eq!(held.settle(base()).len(), 1);
    held
}

fn add(held: &mut Documents, envelope: &Bytes) -> Result<Changes, Unfit> {
    held.insert(read(envelope), base())
}

/// What is in use, as `name generation`.
fn used(held: &Documents) -> Vec<String> {
    held.all_used().map(|one| format!("{} {}", one.key().name, one.version.generation)).collect()
}

fn names(documents: &[SignedDocument]) -> Vec<String> {
    documents.iter().map(|one| format!("{} {}", one.key().name, one.version.generation)).collect()
}

/// One exchange: each takes what the other holds live.
fn exchange(a: &mut Documents, b: &mut Documents) {
    let of = |held: &Documents| -> Vec<SignedDocument> { held.live().cloned().collect() };
    let (from_a, from_b) = (of(a), of(b));
    from_a.into_iter().for_each(|one| drop(b.insert(one, base())));
    from_b.into_iter().for_each(|one| drop(a.insert(one, base())));
}

/// gossip.md, 11: (generation, operator key id, hash), the greatest wins.
#[test]
fn the_greatest_version_wins_whatever_came_first() {
    let all = [
        document_by(2, "a", 1, None, "x"),
        document_by(1, "a", 2, None, "x"),
        document_by(1, "a", 2, None, "y"),
        document_by(3, "a", 2, None, "x"),
    ];
    let greatest = all.iter().map(|one| read(one).version).max();
    for shift in 0..all.len() {
        let mut held = settled();
        for at in 0..all.len() {
            let _ = add(&mut held, &all[(at + shift) % all.len()]);
        }
        assert_eq!(held.newest(&document_key("a")), greatest);
        assert_eq!(greatest.map(|version| version.signer.0), Some(3));
    }
}

#[test]
fn a_conflict_is_shown_and_the_next_generation_ends_it() {
    let mut held = settled();
    let (mine, theirs) = (document_by(1, "a", 4, None, "x"), document_by(2, "a", 4, None, "y"));
    assert!(add(&mut held, &mine).unwrap().conflict.is_empty());
    let changes = add(&mut held, &theirs).unwrap();
    assert_eq!(changes.conflict, [read(&theirs).version, read(&mine).version]);
    assert_eq!((changes.live, changes.conflict_ended, held.conflicting()), (true, false, 1));
    assert_eq!(names(&changes.activated), ["a 4"]);
    let changes = add(&mut held, &document("a", 5, None)).unwrap();
    assert_eq!((changes.conflict.len(), changes.conflict_ended, held.conflicting()), (0, true, 0));
    assert!(!add(&mut held, &document("a", 6, None)).unwrap().conflict_ended);
    // The loser of an older generation is no history.
    assert!(held.get(&read(&mine).version.hash).is_none());
    assert!(held.get(&read(&theirs).version.hash).is_some());
}

#[test]
fn a_batch_is_used_whole_or_not_at_all() {
    let mut held = settled();
    add(&mut held, &document("a", 1, None)).unwrap();
    for name in ["b", "a"] {
        let changes = add(&mut held, &document(name, 2, batch(9, 3))).unwrap();
        assert!(changes.activated.is_empty() && changes.known.is_some() && changes.live);
    }
    assert_eq!(used(&held), ["a 1"]);
    // A later generation alone does not take "b" out of the batch.
    assert_eq!(names(&add(&mut held, &document("b", 3, None)).unwrap().activated), ["b 3"]);
    let changes = add(&mut held, &document("c", 7, batch(9, 3))).unwrap();
    assert_eq!(names(&changes.activated), ["a 2", "c 7"]);
    assert_eq!(used(&held), ["a 2", "b 3", "c 7"]);
}

#[test]
fn an_incomplete_batch_is_told_once_after_its_time() {
    let mut held = settled();
    add(&mut held, &document("b", 2, batch(9, 3))).unwrap();
    add(&mut held, &document("a", 2, batch(9, 3))).unwrap();
    assert_eq!(held.next_overdue(), Some(base() + BATCH_PATIENCE));
    assert!(held.overdue(base() + BATCH_PATIENCE - Duration::from_millis(1)).is_empty());
    let told = held.overdue(base() + BATCH_PATIENCE);
    assert_eq!(told, [(batch(9, 3).unwrap(), vec![document_key("a"), document_key("b")])]);
    assert!(held.overdue(base() + BATCH_PATIENCE * 2).is_empty() && held.next_overdue().is_none());
    assert_eq!(held.awaited(), 1);
}

/// Who comes later must be able to complete a batch whose other documents have moved on.
#[test]
fn what_a_batch_needs_stays_live_and_reaches_a_newcomer() {
    let mut held = settled();
    add(&mut held, &document("a", 1, batch(9, 2))).unwrap();
    add(&mut held, &document("b", 1, batch(9, 2))).unwrap();
    for generation in 2..40 {
        add(&mut held, &document("b", generation, None)).unwrap();
    }
    let mut newcomer = settled();
    exchange(&mut held, &mut newcomer);
    assert_eq!((used(&newcomer), newcomer.root()), (vec!["a 1".to_owned(), "b 39".to_owned()], held.root()));
    // Once the last of it has moved on nobody needs it.
    add(&mut held, &document("a", 2, None)).unwrap();
    assert_eq!(held.live().count(), 2);
}

/// What is in use while a batch is incomplete reaches a newcomer, too.
#[test]
fn the_version_in_use_is_live_while_a_newer_one_waits() {
    let (mut held, mut newcomer) = (settled(), settled());
    add(&mut held, &document("a", 1, None)).unwrap();
    add(&mut held, &document("a", 2, batch(9, 2))).unwrap();
    exchange(&mut held, &mut newcomer);
    assert_eq!((used(&newcomer), newcomer.root()), (vec!["a 1".to_owned()], held.root()));
}

#[test]
fn history_is_ten_generations_and_in_no_root() {
    let mut held = settled();
    for generation in 1..=25 {
        let changes = add(&mut held, &document("a", generation, None)).unwrap();
        assert_eq!(changes.forgotten.len(), usize::from(generation > DOCUMENT_GENERATIONS_KEPT as u64));
    }
    let kept: Vec<u64> = held.versions(&document_key("a")).map(|held| held.version.generation.get()).collect();
    assert_eq!(kept, (16..=25).rev().collect::<Vec<u64>>());
    let mut other = settled();
    add(&mut other, &document("a", 25, None)).unwrap();
    assert_eq!(other.root(), held.root());
    // Older ones fill the history, as far as it goes, and change no root.
    assert_eq!(add(&mut held, &document("a", 15, None)).unwrap_err(), Unfit::Stale);
    assert!(!add(&mut other, &document("a", 15, None)).unwrap().live);
    assert_eq!(other.root(), held.root());
}

#[test]
fn what_a_store_held_counts_at_once_and_whole() {
    let mut held = Documents::default();
    for envelope in [document("a", 1, None), document("a", 2, batch(9, 2)), document("b", 1, batch(9, 2))] {
        assert!(add(&mut held, &envelope).unwrap().activated.is_empty());
    }
    let told = held.settle(base());
    let activated: Vec<String> = told.iter().flat_map(|changes| names(&changes.activated)).collect();
    assert_eq!(activated, ["a 2", "b 1"], "the version before was never in use");
    assert_eq!(told.iter().filter(|changes| changes.known.is_some()).count(), 2);
    assert!(held.settle(base()).is_empty());
}

#[test]
fn one_past_each_limit_is_refused() {
    let mut held = settled();
    for at in 0..DOCUMENTS_MAX {
        add(&mut held, &document(&format!("d{at}"), 1, None)).unwrap();
    }
    assert_eq!(add(&mut held, &document("one-more", 1, None)).unwrap_err(), Unfit::Full);
    assert!(add(&mut held, &document("d0", 2, None)).is_ok(), "what is known can be written again");

    let mut held = settled();
    for at in 0..CONFLICTING_MAX + 2 {
        let _ = add(&mut held, &document_by(1, "a", 1, None, &format!("{at}")));
    }
    assert_eq!(held.live().count(), CONFLICTING_MAX);

    let mut held = settled();
    for generation in 1..=WAITING_VERSIONS_MAX as u64 + 2 {
        let id = u8::try_from(generation).unwrap();
        add(&mut held, &document("a", generation, batch(id, 2))).unwrap();
    }
    assert_eq!(held.live().count(), WAITING_VERSIONS_MAX);
}

#[test]
fn bytes_are_bounded_and_history_gives_way_first() {
    let text = "x".repeat(60 << 10);
    let mut held = settled();
    let (mut full, mut count) = (None, 0);
    while full.is_none() && count < 1_000 {
        full = add(&mut held, &document_by(1, &format!("d{count}"), 1, None, &text)).err();
        count += 1;
    }
    assert_eq!(full, Some(Unfit::Full));
    assert!(held.bytes() <= DOCUMENTS_BYTES_MAX && held.bytes() > DOCUMENTS_BYTES_MAX - DOCUMENT_BYTES);
    for generation in 2..8 {
        for at in 0..count - 1 {
            add(&mut held, &document_by(1, &format!("d{at}"), generation, None, &text)).unwrap();
            assert!(held.bytes() <= DOCUMENTS_HELD_BYTES_MAX);
        }
    }
    assert_eq!(held.live().count(), count - 1);
    // Versions that wait for their batches keep the ones in use besides: that ends at the reserve.
    let pending = |at: usize| document_by(1, &format!("d{at}"), 9, batch(7, 256), &text);
    let refused = (0..count - 1).find_map(|at| add(&mut held, &pending(at)).err());
    assert_eq!(refused, Some(Unfit::Full));
    assert!(held.bytes() <= DOCUMENTS_HELD_BYTES_MAX);
}

const DOCUMENT_BYTES: usize = crate::limits::DOCUMENT_BYTES_MAX;

/// (name, generation, key, batch) out of few, so that all of them meet.
fn anything() -> impl Strategy<Value = Bytes> {
    (0_u8..4, 1_u64..5, 1_u32..3, 0_u8..5).prop_map(|(name, generation, key, of)| {
        let of = if of == 0 { None } else { batch(of, u16::from(of)) };
        document_by(key, &format!("d{name}"), generation, of, "x")
    })
}

proptest! {
    /// gossip.md, 9: equal knowledge has equal roots, and exchanges bring equal knowledge.
    #[test]
    fn exchanges_make_nodes_equal(
        a in prop::collection::vec(anything(), 0..30),
        b in prop::collection::vec(anything(), 0..30),
    ) {
        let (mut here, mut there) = (settled(), settled());
        a.iter().for_each(|one| drop(add(&mut here, one)));
        b.iter().for_each(|one| drop(add(&mut there, one)));
        let newcomer = &mut settled();
        for _ in 0..2 {
            exchange(&mut here, &mut there);
        }
        for _ in 0..2 {
            exchange(&mut here, newcomer);
        }
        prop_assert_eq!(here.root(), there.root());
        prop_assert_eq!(used(&here), used(&there));
        prop_assert_eq!(here.root(), newcomer.root());
        prop_assert_eq!(used(&here), used(newcomer));
    }

    /// Whatever arrives in whatever order: no batch is in use in part, and nothing in use goes back.
    #[test]
    fn no_order_uses_a_batch_in_part(all in prop::collection::vec(anything(), 0..40)) {
        let mut held = settled();
        let mut now_used: BTreeMap<DocumentKey, DocumentVersion> = BTreeMap::new();
        let mut told: BTreeMap<DocumentKey, DocumentVersion> = BTreeMap::new();
        for one in &all {
            let Ok(changes) = add(&mut held, one) else { continue };
            for document in &changes.activated {
                told.insert(document.key().clone(), document.version);
            }
            for document in held.all_used() {
                let before = now_used.insert(document.key().clone(), document.version);
                prop_assert!(before.is_none_or(|before| before <= document.version));
                if let Some(batch) = document.head.batch {
                    let members = held.groups[&batch].members.len();
                    prop_assert!(members >= usize::from(batch.count.get()));
                }
            }
            prop_assert_eq!(&told, &now_used, "what is in use was told");
            let live_bytes: usize =
                held.live().map(|one| one.envelope.len()).sum();
            prop_assert_eq!(live_bytes, held.live_bytes);
        }
        let bytes: usize = held.entries.values().flat_map(|entry| entry.versions.values()).map(|one| one.envelope.len()).sum();
        prop_assert_eq!(bytes, held.bytes());
    }
}
