//! Who is named as a laggard, and in which words.

use serde_json::json;

use crate::api::views::{DocumentConvergence, InUse};

use super::super::plan::tests::held;
use super::*;

fn members(states: &[(&str, &str)]) -> MemberList {
    let member = |(name, state): &(&str, &str)| {
        json!({"name": name, "address": null, "state": state, "bootEpoch": "1", "incarnation": 0,
            "since": "2026-11-22T15:31:58Z", "lastSeen": "2026-11-22T15:31:57Z", "self": *name == "vm-1", "rtt": null,
            "version": null, "protocol": {"min": 1, "max": 1}, "labels": {}, "services": [], "config": null,
            "trust": null, "suspicion": null, "certificate": null})
    };
    let items: Vec<_> = states.iter().map(member).collect();
    let view = json!({"node": "vm-1", "bootEpoch": "1", "revision": 1, "asOf": "2026-11-22T15:31:59Z", "digest": "0",
        "agreement": {"alive": 3, "same": 3, "behind": [], "behindCount": 0}});
    serde_json::from_value(json!({"apiVersion": "starling/v1", "kind": "MemberList", "view": view, "items": items}))
        .unwrap()
}

fn awaited(deleted: bool) -> Awaited {
    let key = DocumentKey::parse("HTTPRoute", "default", "orders").unwrap();
    Awaited { key, generation: 14, deleted, digest: "c3e85b10".to_owned() }
}

fn item(generation: u64, behind: &[(&str, &str, Option<u64>)]) -> DocumentConvergence {
    let behind: Vec<MemberConvergence> = behind
        .iter()
        .map(|(node, state, generation)| MemberConvergence {
            node: (*node).to_owned(),
            state: (*state).to_owned(),
            generation: *generation,
            since: None,
            held_back: None,
        })
        .collect();
    let count = u64::try_from(behind.len()).unwrap();
    DocumentConvergence {
        document_kind: "HTTPRoute".to_owned(),
        namespace: "default".to_owned(),
        name: "orders".to_owned(),
        generation,
        digest: "c3e85b10".to_owned(),
        in_use: InUse { alive: 3, same: 3 - count },
        behind,
        behind_count: count,
    }
}

fn check(one: &Awaited, items: Vec<DocumentConvergence>, behind: &[&str], states: &[(&str, &str)]) -> Vec<String> {
    let behind: Vec<String> = behind.iter().map(|name| (*name).to_owned()).collect();
    let now = Convergence { items, behind, ..Convergence::default() };
    laggards(std::slice::from_ref(one), &now, &members(states), &mut Known::new())
}

const ALIVE: [(&str, &str); 3] = [("vm-1", "alive"), ("vm-2", "alive"), ("vm-3", "alive")];
const NONE: [String; 0] = [];

#[test]
fn who_is_behind_is_named_with_what_it_uses_and_when_it_was_seen() {
    let told = check(&awaited(false), vec![item(14, &[("vm-3", "behind", Some(13))])], &["vm-3"], &ALIVE);
    assert_eq!(told, ["vm-3 still on generation 13, last seen 2 s ago"]);
    let two = [("vm-2", "behind", None), ("vm-3", "unknown", None)];
    assert_eq!(
        check(&awaited(false), vec![item(14, &two)], &[], &ALIVE),
        ["vm-2 does not have it yet, last seen 2 s ago", "vm-3 on an unknown generation, last seen 2 s ago"]
    );
}

#[test]
fn this_generation_and_a_later_one_are_as_good_and_an_earlier_one_is_not() {
    assert_eq!(check(&awaited(false), vec![item(14, &[])], &[], &ALIVE), NONE);
    assert_eq!(check(&awaited(false), vec![item(15, &[])], &[], &ALIVE), NONE);
    let not_yet = ["vm-1 does not use it yet, last seen 2 s ago"];
    assert_eq!(check(&awaited(false), vec![item(13, &[])], &[], &ALIVE), not_yet);
    assert_eq!(check(&awaited(false), Vec::new(), &[], &ALIVE), not_yet);
}

#[test]
fn a_deletion_is_there_once_the_document_is_gone_and_all_hold_the_same() {
    let not_yet = ["vm-1 does not use it yet, last seen 2 s ago"];
    assert_eq!(check(&awaited(true), vec![item(13, &[])], &[], &ALIVE), not_yet);
    assert_eq!(check(&awaited(true), Vec::new(), &[], &ALIVE), NONE);
    let told = check(&awaited(true), Vec::new(), &["vm-3"], &ALIVE);
    assert_eq!(told, ["vm-3 holds other documents, last seen 2 s ago"]);
    assert_eq!(check(&awaited(true), vec![item(15, &[])], &[], &ALIVE), NONE, "it came back by a later generation");
}

#[test]
fn a_later_deletion_takes_the_place_of_what_is_waited_for() {
    let mut one = awaited(false);
    let held = |generation: u64, deleted: bool| Document { generation, deleted, ..held(1, "") };
    let (none, there) = (Convergence::default(), Convergence { items: vec![item(14, &[])], ..Convergence::default() });
    assert!(one.is_missing(&none) && !one.is_missing(&there) && !awaited(true).is_missing(&none));
    assert!(!one.overtake(&held(14, false)), "the agent's picture only follows its answer");
    assert!(!one.overtake(&held(13, true)), "it was deleted before");
    assert!(one.overtake(&held(15, true)));
    assert_eq!((one.generation, one.deleted), (15, true));
    assert_eq!(check(&one, Vec::new(), &[], &ALIVE), NONE, "it is gone everywhere");
    let told = check(&one, Vec::new(), &["vm-3"], &ALIVE);
    assert_eq!(told, ["vm-3 holds other documents, last seen 2 s ago"]);
}

#[test]
fn a_suspect_is_waited_for_and_the_dead_are_not() {
    let states = [("vm-1", "alive"), ("vm-2", "suspect"), ("vm-3", "failed")];
    let told = check(&awaited(false), vec![item(14, &[])], &[], &states);
    assert_eq!(told, ["vm-2 does not answer, last seen 2 s ago"]);
}

#[test]
fn what_a_suspect_uses_is_what_was_known_before_the_doubt() {
    let mut known = Known::new();
    let mut look = |behind: &[(&str, &str, Option<u64>)], states: &[(&str, &str)]| {
        let now = Convergence { items: vec![item(14, behind)], ..Convergence::default() };
        laggards(&[awaited(false)], &now, &members(states), &mut known)
    };
    let still = ["vm-3 still on generation 13, last seen 2 s ago"];
    let suspect = [("vm-1", "alive"), ("vm-2", "alive"), ("vm-3", "suspect")];
    assert_eq!(look(&[("vm-3", "behind", Some(13))], &ALIVE), still);
    assert_eq!(look(&[("vm-3", "behind", Some(13))], &ALIVE), still, "each look counts once");
    assert_eq!(look(&[], &suspect), still);
    assert_eq!(look(&[], &suspect), still);
    assert_eq!(look(&[], &ALIVE), NONE);
    assert_eq!(look(&[], &suspect), ["vm-3 does not answer, last seen 2 s ago"], "it had followed");
}

#[test]
fn a_timeout_names_the_laggards_up_to_a_bound() {
    let text = |count: usize| {
        let lines = vec!["vm-3 still on generation 13, last seen 2 s ago".to_owned(); count];
        let error = too_late(&[awaited(false)], &lines, Duration::from_secs(30));
        assert_eq!((error.exit(), error.code()), (Exit::TimedOut, Some(codes::MEMBERS_DIFFER)));
        error.render(&crate::cli::look::Look::plain())
    };
    assert_eq!(
        text(1),
        "error[ST0421]: HTTPRoute/orders generation 14 is not in use everywhere after 30s\n\
        \x20 cause: vm-3 still on generation 13, last seen 2 s ago\n\
        \x20 help:  it spreads by itself; who uses it:  starling get     who answers:  starling members\n"
    );
    assert_eq!(text(NAMED_MAX).lines().count(), NAMED_MAX + 2);
    assert!(text(NAMED_MAX + 1).contains("         and 1 more\n"));
}
