//! What the store gives back after a crash, damaged in any way: members, records, credentials, addresses,
//! documents, revocations.
#![no_main]

use std::sync::LazyLock;
use std::time::{Duration, Instant};

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use starling_fuzz::Input;
use starling_fuzz::driver::{Driver, Judge, pick};
use starling_gossip::{Command, Restored};
use starling_model::RecordKind;

static START: LazyLock<Instant> = LazyLock::new(Instant::now);

fuzz_target!(|bytes: &[u8]| {
    let mut input = Input(bytes);
    let mut driver = Driver::new(10, *START);
    driver.judge = [Judge::Believes, Judge::Refuses, Judge::Waits][usize::from(input.byte() % 3)];
    let mut items = Vec::new();
    while !input.is_empty() && items.len() < 256 {
        let (what, name) = (input.byte(), pick(input.byte()));
        let (kind, shard) = if what & 7 == 1 { (input.byte(), input.byte()) } else { (0, 0) };
        let bytes = Bytes::copy_from_slice(input.counted());
        items.push(match what & 7 {
            0 => Restored::Member { name, bytes },
            1 => Restored::Record { owner: name, kind: RecordKind::from_wire(kind), shard, bytes },
            2 => Restored::Credential { owner: name, bytes },
            3 => Restored::AddressBook { name, bytes },
            4 => Restored::Document { bytes },
            _ => Restored::Revocation { bytes },
        });
    }
    driver.swim.handle_command(Command::Restore(items), driver.now);
    driver.perform();
    driver.join();
    driver.look();
    for _ in 0..8 {
        driver.wait(Duration::from_millis(700));
    }
    driver.answer_waiting(true);
    driver.wait(Duration::from_secs(20));
    driver.look();
});
