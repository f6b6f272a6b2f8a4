//! Snapshots: what is written is read back, and nothing else is.

use super::base;
use super::world::{Ask, World, http_route, told};
use crate::limits::{SNAPSHOT_BYTES_MAX, TOLD_CHARS_MAX};
use crate::snapshot::{FORMAT, SnapshotInvalid};
use crate::*;

fn snapshot() -> Snapshot {
    let yaml = http_route("a", "orders", "[{backendRefs: [{name: orders, subset: {version: v2}}]}]");
    let world = World::new(&yaml).node("vm-1", &["o-1 orders version=v1"]).node("vm-2", &["o-2 orders version=v2"]);
    Snapshot::of(&world.table(), base(), &|_| Load::default())
}

#[test]
fn a_snapshot_decides_as_the_table_that_it_is_of_and_is_written_as_it_was() {
    let taken = snapshot();
    let json = serde_json::to_vec(&taken).unwrap();
    let read = Snapshot::read(&json).unwrap();
    assert_eq!(read, taken);
    let frozen = read.freeze(base()).unwrap();
    assert_eq!(Ask::new("orders", "GET /").told(&frozen.table), "default/a #0 -> vm-2/default/o-2");
    let again = Snapshot::of(&frozen.table, frozen.now, &|index| frozen.load(index));
    assert_eq!(again, taken, "a snapshot of a snapshot is the same");
}

/// A reader of other releases' fields reads these; a changed value is refused with its place.
#[test]
fn values_that_no_agent_writes_are_refused_with_their_place() {
    let whole = serde_json::to_value(snapshot()).unwrap();
    let check = |pointer: &str, value: serde_json::Value, want: &str| {
        let mut changed = whole.clone();
        *changed.pointer_mut(pointer).unwrap_or_else(|| panic!("{pointer}")) = value;
        let bytes = serde_json::to_vec(&changed).unwrap();
        let refused = Snapshot::read(&bytes).and_then(|read| read.freeze(base()).map(drop)).unwrap_err();
        let text = match &refused {
            SnapshotInvalid::Json(why) => format!("json: {why}"),
            SnapshotInvalid::TooLarge(_) | SnapshotInvalid::Format(_) | SnapshotInvalid::Value { .. } => {
                refused.to_string()
            }
        };
        assert!(text.contains(want), "{pointer}: {text}");
    };
    check("/format", "starling-snapshot/2".into(), "its format is \"starling-snapshot/2\"");
    check("/documents/0/generation", 0.into(), "document HTTPRoute default/a: generations begin at 1");
    check("/documents/0/keyId", "x1".into(), "its keyId is no key's");
    check("/documents/0/hash", "00".into(), "its hash is not of 64 hex digits");
    check("/documents/0/hash", "é".repeat(32).into(), "its hash is not of 64 hex digits");
    check("/documents/0/name", "b".into(), "its source is not one document of this name");
    check("/documents/0/source", "kind: [".into(), "document HTTPRoute default/a: ");
    check("/documents/0/source", "".into(), "its source is not one document of this name");
    check("/nodes/0/state", "asleep".into(), "node vm-1: its state is none");
    check("/nodes/0/address", "somewhere".into(), "json: ");
    check("/nodes/0/name", "../x".into(), "json: ");
    check("/nodes/0/instances/0/health", "fine".into(), "instance o-1 of vm-1: its health is none");
    check("/nodes/0/instances/0/weight", 1_000_001.into(), "json: ");
    check("/nodes/0/instances/0/labels", serde_json::json!({"a=b": ""}), "json: ");
    let mut more = whole.clone();
    more["later"] = 1.into();
    assert!(Snapshot::read(&serde_json::to_vec(&more).unwrap()).is_ok());
}

/// Numbers at their ends, names that stand twice, and moments of a thousand years.
#[test]
fn extreme_values_panic_nowhere() {
    let mut taken = snapshot();
    let twin = taken.nodes[0].clone();
    taken.nodes.push(twin);
    for instance in taken.nodes.iter_mut().flat_map(|node| &mut node.instances) {
        instance.latency_ns = Some(u64::MAX);
        instance.in_flight = u32::MAX;
        instance.failing_ms = Some(u64::MAX);
        instance.answered_ms_ago = Some(u64::MAX);
    }
    taken.documents[0].generation = u64::MAX;
    let frozen = taken.freeze(base()).unwrap();
    let loads = |index| frozen.load(index);
    for seed in 0..100 {
        let decision = Ask::new("orders", "GET /")
            .with(|request| frozen.table.decide(request, frozen.now, Draws::from_seed(seed), &loads));
        assert_eq!(told(&decision), "default/a #0 -> vm-2/default/o-2");
    }
}

#[test]
fn one_byte_too_many_is_refused_unread() {
    let mut json = serde_json::to_vec(&snapshot()).unwrap();
    json.resize(SNAPSHOT_BYTES_MAX, b' ');
    assert!(Snapshot::read(&json).is_ok());
    json.push(b' ');
    assert!(matches!(Snapshot::read(&json), Err(SnapshotInvalid::TooLarge(_))));
    for garbage in [&b""[..], b"{}", b"[]", b"\xff", b"null", br#"{"format": "starling-snapshot/1"}"#] {
        assert!(matches!(Snapshot::read(garbage), Err(SnapshotInvalid::Json(_))), "{garbage:?}");
    }
    assert_eq!(FORMAT, "starling-snapshot/1");
}

#[test]
fn of_a_requests_own_text_so_much_is_repeated_and_no_more() {
    let yaml = http_route("a", "orders", "[{matches: [{headers: [{name: x-a, value: \"1\"}]}], backendRefs: []}]");
    let table = World::new(&yaml).table();
    let table = World::new(&yaml).node("vm-1", &["o-1 orders"]).table_after(&table);
    let got = |len: usize| {
        let (_, told) = Ask::new("orders", "GET /").header("x-a", &"x".repeat(len)).explain(&table, 1);
        told.route.unwrap().nearest.unwrap().missed.got.unwrap()
    };
    assert_eq!(got(TOLD_CHARS_MAX), "x".repeat(TOLD_CHARS_MAX));
    assert_eq!(got(TOLD_CHARS_MAX + 1), format!("{}…", "x".repeat(TOLD_CHARS_MAX)));
}
