//! Crashes, damage and limits of the store.

use std::fs;

use super::{Batch, Durability, OpenRefused, Request, StoreHandle, open, sled};
use starling_model::{BootEpoch, MeshId};
use std::path::Path;

const OURS: MeshId = MeshId([1; 32]);
const THEIRS: MeshId = MeshId([2; 32]);

fn put(store: &StoreHandle, key: &str, value: &[u8]) -> Durability {
    let mut batch = Batch::default();
    batch.put(key, value);
    store.commit_blocking(batch)
}

/// A copy of the folder at this moment: what a killed process would leave.
fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else if entry.file_name() != "LOCK" {
            fs::copy(entry.path(), &target).unwrap();
        }
    }
}

fn bad_stores(state: &Path) -> usize {
    let names = fs::read_dir(state).unwrap().map(|entry| entry.unwrap().file_name());
    names.filter(|name| name.to_str().unwrap().starts_with("state.bad-")).count()
}

#[test]
fn an_acknowledged_write_survives_a_kill() {
    let folder = tempfile::tempdir().unwrap();
    let (running, killed) = (folder.path().join("running"), folder.path().join("killed"));
    let store = open(&running, OURS).unwrap();
    for at in 0..50_u32 {
        assert_eq!(put(&store, &format!("k/{at:03}"), &at.to_be_bytes()), Durability::Durable);
    }
    copy(&running, &killed); // Nothing was closed or flushed beyond the acknowledgements.
    let reopened = open(&killed, OURS).unwrap();
    assert_eq!(reopened.degraded(), None);
    assert_eq!(reopened.scan(b"k/").len(), 50);
    assert_eq!(reopened.get(b"k/007"), Some(7_u32.to_be_bytes().to_vec()));
    assert_eq!(bad_stores(&killed), 0);
}

#[test]
fn a_closed_store_opens_again_with_the_same_content() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path(), OURS).unwrap();
    put(&store, "a", b"1");
    let mut batch = Batch::default();
    batch.put("b", "2");
    batch.remove("a");
    store.write(batch);
    store.close();
    assert_eq!(put(&store, "c", b"3"), Durability::Memory, "a closed store promises nothing");
    drop(store);
    let store = open(folder.path(), OURS).unwrap();
    assert_eq!(store.scan(b""), vec_of_marks_and(&[("b", "2")]));
}

/// The marks of a store are keys as well.
fn vec_of_marks_and(rest: &[(&str, &str)]) -> Vec<(Vec<u8>, Vec<u8>)> {
    let folder = tempfile::tempdir().unwrap();
    let mut all = open(folder.path(), OURS).unwrap().scan(b"");
    all.extend(rest.iter().map(|(key, value)| (key.as_bytes().to_vec(), value.as_bytes().to_vec())));
    all
}

#[test]
fn values_are_cut_and_joined_and_shrink_again() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path(), OURS).unwrap();
    for len in [0, 1, 4_093, 4_094, 4_095, 4_096, 8_190, 8_191, 100_000, 1, 0] {
        let value: Vec<u8> = (0..len).map(|at| u8::try_from(at % 251).unwrap()).collect();
        assert_eq!(put(&store, "value", &value), Durability::Durable, "{len}");
        assert_eq!(store.get(b"value"), Some(value.clone()), "{len}");
        assert_eq!(store.scan(b"val"), vec![(b"value".to_vec(), value)], "{len}");
    }
    let mut twice = Batch::default();
    twice.put("value", vec![1; 20_000]);
    twice.put("value", vec![2; 3]);
    assert_eq!(store.commit_blocking(twice), Durability::Durable);
    assert_eq!(store.get(b"value"), Some(vec![2; 3]));
    let blobs = folder.path().join("state/blobs");
    assert_eq!(fs::read_dir(blobs).map_or(0, Iterator::count), 0, "no blob files");
}

#[test]
fn one_byte_over_a_limit_is_refused_and_the_store_lives_on() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path(), OURS).unwrap();
    let value_max = 256 * 4_096 - 2;
    assert_eq!(put(&store, "v", &vec![7; value_max]), Durability::Durable);
    assert_eq!(put(&store, "v", &vec![7; value_max + 1]), Durability::Memory);
    assert_eq!(put(&store, &"k".repeat(254), b"1"), Durability::Durable);
    assert_eq!(put(&store, &"k".repeat(255), b"1"), Durability::Memory);
    assert_eq!(store.degraded(), None);
}

#[test]
fn a_half_written_snapshot_is_removed_before_opening() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path(), OURS).unwrap();
    put(&store, "a", b"1");
    store.close();
    drop(store);
    let junk = folder.path().join("state/snap.00000000000000FF.generating");
    fs::write(&junk, [0x5a; 20]).unwrap();
    let store = open(folder.path(), OURS).unwrap();
    assert_eq!((store.get(b"a"), store.degraded()), (Some(b"1".to_vec()), None));
    assert!(!junk.exists());
    assert_eq!(bad_stores(folder.path()), 0);
}

#[test]
fn a_damaged_store_is_set_aside_and_two_are_kept() {
    let folder = tempfile::tempdir().unwrap();
    for round in 0..4 {
        let store = open(folder.path(), OURS).unwrap();
        assert_eq!(store.degraded(), None, "round {round}");
        assert_eq!(store.get(b"a"), None, "round {round}: starts empty");
        assert_eq!(put(&store, "a", b"1"), Durability::Durable);
        store.close();
        drop(store);
        let data = sled::data_path(folder.path());
        let len = fs::metadata(&data).unwrap().len();
        fs::write(&data, vec![0xa5; usize::try_from(len).unwrap()]).unwrap();
        for entry in fs::read_dir(folder.path().join("state")).unwrap() {
            let path = entry.unwrap().path();
            if path.file_name().unwrap().to_str().unwrap().starts_with("snap.") {
                fs::write(path, [0xa5; 64]).unwrap();
            }
        }
    }
    let store = open(folder.path(), OURS).unwrap();
    assert_eq!(store.degraded(), None);
    assert_eq!(bad_stores(folder.path()), 2);
}

#[test]
fn junk_in_place_of_every_file_does_not_stop_the_agent() {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir_all(folder.path().join("state")).unwrap();
    for name in ["db", "conf", "snap.0000000000000000", "snap.0.generating"] {
        fs::write(folder.path().join("state").join(name), [0xff; 333]).unwrap();
    }
    let store = open(folder.path(), OURS).unwrap();
    assert_eq!(store.degraded(), None);
    assert_eq!(put(&store, "a", b"1"), Durability::Durable);
}

#[test]
fn the_store_of_another_mesh_is_not_used() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path(), THEIRS).unwrap();
    put(&store, "a", b"theirs");
    store.close();
    drop(store);
    let store = open(folder.path(), OURS).unwrap();
    assert_eq!((store.get(b"a"), store.degraded()), (None, None));
    assert_eq!(bad_stores(folder.path()), 1);
}

#[test]
fn a_second_agent_on_the_same_folder_is_told_the_process() {
    let folder = tempfile::tempdir().unwrap();
    let _store = open(folder.path(), OURS).unwrap();
    match open(folder.path(), OURS) {
        Err(OpenRefused::Locked { pid, .. }) => assert_eq!(pid, Some(std::process::id())),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_folder_that_cannot_hold_a_store_means_memory_mode() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("state"), b"a file where a folder should be").unwrap();
    let store = open(folder.path(), OURS).unwrap();
    // Either it was set aside or the agent works from memory; it starts, and an answer tells the truth.
    let told = put(&store, "a", b"1");
    assert_eq!(told == Durability::Durable, store.degraded().is_none());
    assert_eq!(store.get(b"a"), Some(b"1".to_vec()));
}

#[test]
fn epochs_rise_over_restarts_and_begin_with_the_clock() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path(), OURS).unwrap();
    let first = store.next_epoch();
    assert!(first.0 > 1_600_000_000, "Unix seconds");
    assert_eq!(store.next_epoch(), BootEpoch(first.0 + 1));
    store.close();
    drop(store);
    let store = open(folder.path(), OURS).unwrap();
    assert_eq!(store.next_epoch(), BootEpoch(first.0 + 2));
    store.save_epoch(BootEpoch(first.0 + 100));
    assert_eq!(store.next_epoch(), BootEpoch(first.0 + 101));
}

#[test]
fn a_full_queue_drops_lazy_writes_and_answers_durable_ones() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path(), OURS).unwrap();
    // Hold the thread in an acknowledgement until the queue is full.
    let (hold, held) = std::sync::mpsc::sync_channel::<()>(0);
    store.commit_then(Batch::default(), move |_| {
        let _ = held.recv();
    });
    let mut sent = 0_u64;
    let mut batch = Batch::default();
    batch.put("k", "v");
    while store.dropped() == 0 {
        store.write(batch.clone());
        sent += 1;
        assert!(sent < 20_000, "the queue is bounded");
    }
    assert_eq!(store.commit_blocking(batch), Durability::Memory);
    hold.send(()).unwrap();
    assert!(store.requests.send(Request::Write(Batch::default())).is_ok());
    assert_eq!(store.get(b"k"), Some(b"v".to_vec()));
}
