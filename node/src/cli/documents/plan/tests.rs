//! Documents beside what is held of them, and what is told of each.

use crate::api::views::{DocumentVersion, InUse, OpenedService, RemovedEndpoints};

use super::*;

pub(in crate::cli::documents) const CANARY: &str = "apiVersion: starling/v1\nkind: HTTPRoute\nmetadata: {name: orders-canary}\n\
    spec:\n  parentRefs: [{kind: Service, name: orders}]\n  rules:\n    - {name: testers, backendRefs: [{name: orders}]}\n    \
    - backendRefs: [{name: orders, weight: 90}, {name: orders, weight: 10}]\n";

pub(in crate::cli::documents) fn alice() -> Signer {
    Signer { key_id: "k1".to_owned(), name: Some("alice".to_owned()) }
}

/// A document as the agent answers it.
pub(in crate::cli::documents) fn held(generation: u64, source: &str) -> Document {
    Document {
        document_kind: "HTTPRoute".to_owned(),
        namespace: "default".to_owned(),
        name: "orders-canary".to_owned(),
        generation,
        deleted: false,
        batch: None,
        signer: alice(),
        signed_at: "2026-11-22T15:31:57.301Z".to_owned(),
        digest: "c3e85b10".to_owned(),
        in_use: InUse { alive: 3, same: 3 },
        conflict: None,
        held_back: None,
        history: Some(Vec::new()),
        source: Some(source.to_owned()),
        envelope: None,
    }
}

pub(in crate::cli::documents) fn version(generation: u64) -> DocumentVersion {
    DocumentVersion {
        generation,
        deleted: false,
        signer: alice(),
        signed_at: "2026-11-22T15:01:10Z".to_owned(),
        digest: "c3e85b10".to_owned(),
        in_use: false,
        conflict: false,
        source: None,
    }
}

fn step(text: Option<&str>, held: Option<&Document>) -> Step {
    let key = DocumentKey::parse("HTTPRoute", "default", "orders-canary").unwrap();
    Step::new(key, text.map(str::to_owned), held)
}

fn render(step: &Step) -> String {
    step.render(Some("k1 \"alice\"")).unwrap()
}

#[test]
fn a_change_is_told_as_the_manual_shows_it() {
    let text = CANARY.replace("weight: 90", "weight: 50").replace("weight: 10", "weight: 50");
    let step = step(Some(&text), Some(&held(13, CANARY)));
    assert_eq!(
        render(&step),
        "HTTPRoute/orders-canary   generation 13 → 14   signed by k1 \"alice\"\n\
        \x20 spec.rules[1].backendRefs[0].weight   90 → 50\n\
        \x20 spec.rules[1].backendRefs[1].weight   10 → 50\n"
    );
    assert!(step.render(None).unwrap().starts_with("HTTPRoute/orders-canary   generation 13 → 14\n  spec."));
}

#[test]
fn a_difference_is_told_as_the_manual_shows_it() {
    let in_use = CANARY.replace("weight: 10", "weight: 50");
    let file = CANARY.replace("weight: 10", "weight: 100");
    let told = step(Some(&file), Some(&held(14, &in_use))).difference();
    let want = "HTTPRoute/orders-canary   generation 14 by k1 \"alice\" → this file\n\
        \x20 spec.rules[1].backendRefs[1].weight   50 → 100\n";
    assert_eq!(told.as_deref(), Some(want));
    let commented = format!("# why\n{CANARY}");
    assert_eq!(step(Some(&commented), Some(&held(14, CANARY))).difference(), None);
    assert!(step(Some(CANARY), None).difference().unwrap().contains("not in use → this file"));
    assert!(step(Some(CANARY), Some(&held(1, "{"))).difference().unwrap().contains("cannot be compared"));
}

/// The manual's sample of a grant.
#[test]
fn what_is_taken_out_of_use_is_told_below_the_document_that_does_it() {
    let removed = |name: &str, endpoints: &[&str], count| RemovedEndpoints {
        document_kind: "ServiceGrant".to_owned(),
        document_namespace: "default".to_owned(),
        document_name: name.to_owned(),
        namespace: "default".to_owned(),
        service: "orders".to_owned(),
        endpoints: endpoints.iter().map(|id| (*id).to_owned()).collect(),
        count,
        detail: "vm-3 no longer granted".to_owned(),
    };
    let grant = "apiVersion: starling/v1\nkind: ServiceGrant\nmetadata: {name: shop-hosts}\nspec: {nodes: [{node: vm-1}], services: [{service: orders}]}\n";
    let key = DocumentKey::parse("ServiceGrant", "default", "shop-hosts").unwrap();
    let step = || Step::new(key.clone(), Some(grant.to_owned()), Some(&held(1, &format!("# old\n{grant}"))));
    let all = [
        removed("shop-hosts", &["vm-3/default/orders-v1", "vm-3/default/orders-v2"], 2),
        removed("another", &["vm-3/default/x"], 1),
    ];
    assert_eq!(
        step().removing(&all, &[]).render(None).unwrap(),
        "ServiceGrant/shop-hosts   generation 1 → 2\n  only comments, order or spacing differ\n\
        \x20 removes 2 endpoints of orders: vm-3 orders-v1, vm-3 orders-v2 (vm-3 no longer granted)\n"
    );
    let many: Vec<String> = (0..=REMOVED_SHOWN_MAX).map(|at| format!("vm-3/shop/o{at}")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    let told = step().removing(&[removed("shop-hosts", &many, 70)], &[]).render(None).unwrap();
    assert!(
        told.contains("removes 70 endpoints of orders: vm-3 o0, ") && told.contains("vm-3 o9 and 60 more ("),
        "{told}"
    );
}

#[test]
fn the_next_generation_follows_all_that_is_held() {
    let number = |step: &Step| step.generation().unwrap().get();
    assert_eq!(number(&step(Some(CANARY), None)), 1);
    assert_eq!(
        render(&step(Some(CANARY), None)),
        "HTTPRoute/orders-canary   generation 1 (new)   signed by k1 \"alice\"\n"
    );
    let gone = Document { deleted: true, source: Some(String::new()), ..held(5, "") };
    assert_eq!(number(&step(Some(CANARY), Some(&gone))), 6);
    assert!(render(&step(Some(CANARY), Some(&gone))).contains("generation 5 (deleted) → 6   signed"));
    let awaited = Document { history: Some(vec![version(9), version(5)]), ..held(5, CANARY) };
    assert_eq!(number(&step(Some(CANARY), Some(&awaited))), 10, "a version that waits for its batch counts, too");
    let delete = step(None, Some(&held(14, CANARY)));
    let want = "HTTPRoute/orders-canary   generation 14 → 15 (deleted)   signed by k1 \"alice\"\n";
    assert_eq!(render(&delete), want);
    assert!(step(Some("x"), Some(&held((1 << 32) - 1, CANARY))).draft().is_ok());
    let last = step(Some("x"), Some(&held(1 << 32, CANARY)));
    assert_eq!(last.generation().unwrap_err().exit(), Exit::Refused);
}

/// Nothing of it is in use: whatever it says, the next generation is signed, and a deletion takes it back.
#[test]
fn a_document_that_waits_for_its_batch_is_replaced_by_the_next_generation() {
    let waiting = Document { history: Some(vec![version(4), version(3)]), ..held(4, CANARY) };
    let again = step(Some(CANARY), Some(&waiting));
    assert!(!again.is_unchanged());
    assert_eq!(again.draft().unwrap().generation.get(), 5);
    assert_eq!(
        render(&again),
        "HTTPRoute/orders-canary   generation 4 (waits for its batch) → 5   signed by k1 \"alice\"\n"
    );
    assert_eq!(again.difference().unwrap(), "HTTPRoute/orders-canary   not in use → this file\n");
    let back = step(None, Some(&waiting));
    let want = "HTTPRoute/orders-canary   generation 4 (waits for its batch) → 5 (deleted)   signed by k1 \"alice\"\n";
    assert_eq!(render(&back), want);
    // One in use beside it is what it is compared with.
    let used = DocumentVersion { in_use: true, ..version(3) };
    let beside = Document { history: Some(vec![version(4), used]), ..held(3, CANARY) };
    assert!(render(&step(Some(CANARY), Some(&beside))).starts_with("HTTPRoute/orders-canary   generation 3 → 5"));
}

#[test]
fn the_end_of_a_grant_says_what_it_opens() {
    let opens = |nodes: &[&str], count| OpenedService {
        document_kind: "HTTPRoute".to_owned(),
        document_namespace: "default".to_owned(),
        document_name: "orders-canary".to_owned(),
        namespace: "shop".to_owned(),
        service: "cart".to_owned(),
        nodes: nodes.iter().map(|node| (*node).to_owned()).collect(),
        count,
    };
    let told = |one| step(None, Some(&held(3, CANARY))).removing(&[], &[one]).consequences();
    let want = "  opens shop/cart: no grant names it any more, so every node may serve it, and call as it";
    assert_eq!(told(opens(&[], 0)), format!("{want}\n"));
    assert_eq!(told(opens(&["vm-3"], 1)), format!("{want} (vm-3 does from then on)\n"));
    assert_eq!(told(opens(&["vm-3", "vm-4"], 7)), format!("{want} (vm-3, vm-4 and 5 more do from then on)\n"));
    assert_eq!(told(OpenedService { document_name: "other".to_owned(), ..opens(&[], 0) }), "");
}

#[test]
fn an_unchanged_source_is_not_signed_again_but_to_end_a_conflict() {
    let same = step(Some(CANARY), Some(&held(14, CANARY)));
    assert!(same.is_unchanged() && same.generation().unwrap().get() == 14);
    assert_eq!(render(&same), "HTTPRoute/orders-canary   generation 14   unchanged, not signed again\n");
    let commented = format!("# why\n{CANARY}");
    let commented = step(Some(&commented), Some(&held(14, CANARY)));
    assert!(render(&commented).ends_with("  only comments, order or spacing differ\n"));
    let rival = Document { conflict: Some(vec![version(14), version(14)]), ..held(14, CANARY) };
    let ending = step(Some(CANARY), Some(&rival));
    assert!(
        !ending.is_unchanged()
            && render(&ending).ends_with("14 → 15   signed by k1 \"alice\"\n  the same source again\n")
    );
}

#[test]
fn one_changed_value_past_the_bound_is_counted() {
    let spec = |value: u8, count: usize| {
        let all: Vec<String> = (0..count).map(|at| format!("k{at:03}: {value}")).collect();
        format!("spec: {{{}}}", all.join(", "))
    };
    let told = |count| step(Some(&spec(1, count)), Some(&held(1, &spec(2, count)))).difference().unwrap();
    assert_eq!(told(CHANGES_SHOWN_MAX).lines().count(), CHANGES_SHOWN_MAX + 1);
    assert!(told(CHANGES_SHOWN_MAX + 1).ends_with("\n  and 1 more\n"));
}
