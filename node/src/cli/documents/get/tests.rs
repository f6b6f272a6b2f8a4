//! The table of documents, as the manual shows it.

use crate::api::views::{DocumentVersion, InUse, Signer, View};

use super::super::plan::tests::{alice, held, version};
use super::*;

fn document(kind: &str, name: &str, generation: u64, signer: Signer, signed_at: &str, digest: &str) -> Document {
    Document {
        document_kind: kind.to_owned(),
        name: name.to_owned(),
        signer,
        signed_at: signed_at.to_owned(),
        digest: digest.to_owned(),
        history: None,
        source: None,
        ..held(generation, "")
    }
}

fn bob() -> Signer {
    Signer { key_id: "k2".to_owned(), name: Some("bob".to_owned()) }
}

fn page(items: Vec<Document>) -> Envelope<DocumentPage> {
    let view = View { node: "vm-1".to_owned(), as_of: "2026-11-22T15:31:59.120Z".to_owned(), ..View::default() };
    Envelope::new("DocumentList", view, DocumentPage { items, next: None })
}

fn four() -> Vec<Document> {
    vec![
        document("AuthorizationPolicy", "orders-clients", 2, bob(), "2026-11-13T12:00:00Z", "77ab0000"),
        document("HTTPRoute", "orders-canary", 14, alice(), "2026-11-22T15:31:57.301Z", "c3e85b10"),
        document("Service", "orders", 4, alice(), "2026-11-19T12:00:00Z", "1c090000"),
        document("ServiceGrant", "shop-hosts", 1, alice(), "2026-11-13T12:00:00Z", "0d5e0000"),
    ]
}

#[test]
fn documents_are_listed_as_the_manual_shows_them() {
    assert_eq!(
        table(&page(four()), false, &Look::plain()),
        "\
KIND                  NAME             GENERATION   SIGNER   AGE   IN USE   DIGEST
AuthorizationPolicy   orders-clients            2   bob       9d   3/3      77ab…
HTTPRoute             orders-canary            14   alice     2s   3/3      c3e8…
Service               orders                    4   alice     3d   3/3      1c09…
ServiceGrant          shop-hosts                1   alice     9d   3/3      0d5e…
"
    );
}

#[test]
fn a_conflict_is_marked_and_told_and_several_namespaces_are_shown() {
    let mut items = four();
    items[1].conflict = Some(vec![version(14), DocumentVersion { signer: bob(), ..version(14) }]);
    items[2].namespace = "shop".to_owned();
    items[3].in_use = InUse { alive: 3, same: 2 };
    let text = table(&page(items), false, &Look::plain());
    assert!(text.contains("KIND                  NAMESPACE   NAME "), "{text}");
    assert!(text.contains("orders-canary          ‼ 14   alice"), "{text}");
    assert!(text.contains("shop        orders") && text.contains("2/3"), "{text}");
    let told = "‼ HTTPRoute/orders-canary generation 14 was signed with different contents by k1 \"alice\", k2 \"bob\"; \
        that of k1 \"alice\" is in use (ST0413), the next generation ends it\n";
    assert!(text.ends_with(told), "{text}");
}

#[test]
fn a_source_comes_byte_for_byte_and_ends_its_line() {
    assert_eq!(source(&held(1, "# why\na: 1")), "# why\na: 1\n");
    assert_eq!(source(&held(1, "a: 1\n")), "a: 1\n");
    assert_eq!(name(&held(1, "")), "HTTPRoute/default/orders-canary\n");
}

#[test]
fn what_is_held_back_says_why() {
    let one = Document { held_back: Some("line 6, column 3: unknown field `ruels`".to_owned()), ..held(1, "") };
    let want = "‼ held back here: line 6, column 3: unknown field `ruels` (ST0414)\n";
    assert_eq!(held_back(&one, &Look::plain()), want);
    assert_eq!(held_back(&held(1, ""), &Look::plain()), "");
}

#[test]
fn the_history_is_one_line() {
    let mut one = held(14, "");
    one.history = Some(vec![version(14), version(14), DocumentVersion { deleted: true, ..version(13) }]);
    let told = history(&one, &Look::plain());
    assert_eq!(told, "generations held here: 14, 13 (deleted)   one with its source: --generation N -o yaml\n");
}
