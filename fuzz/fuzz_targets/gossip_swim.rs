//! Histories of one gossip machine: words of peers (well framed or raw), connections that come and go, commands, time,
//! and claims that are believed, refused or left waiting; at the end a restart from what it asked to keep.
//!
//! The strongest attacker holds every key, so by default everything counts as signed by whom it says.
#![no_main]

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use libfuzzer_sys::fuzz_target;
use starling_fuzz::Input;
use starling_fuzz::driver::{Driver, Judge, NAMES, pick};
use starling_fuzz::frames::{Envelope, frame, message};
use starling_gossip::{Command, ConnectionChange, DownReason, ExchangeId, OwnRecord, Seed};
use starling_model::{HealthRecord, ServicesRecord, StatusRecord};

static START: LazyLock<Instant> = LazyLock::new(Instant::now);

fuzz_target!(|bytes: &[u8]| {
    let mut input = Input(bytes);
    let mut driver = Driver::new(10, *START);
    driver.join();
    let mut pending = Vec::new();
    for _ in 0..256 {
        if input.is_empty() {
            break;
        }
        step(&mut driver, &mut input, &mut pending);
        driver.perform();
        driver.look();
    }
    driver.wait(Duration::from_secs(30));
    driver.answer_waiting(true);

    let mut again = Driver::new(11, driver.now);
    again.swim.handle_command(Command::Restore(std::mem::take(&mut driver.kept)), again.now);
    again.perform();
    again.join();
    again.wait(Duration::from_secs(3));
    again.look();
});

fn step(driver: &mut Driver, input: &mut Input<'_>, pending: &mut Vec<u8>) {
    let now = driver.now;
    let op = input.byte();
    match op & 0x0f {
        // One message; several of them make a frame when the high bit is set on all but the last.
        0..=6 => {
            let to = input.byte();
            let kind = input.byte();
            let payload = input.counted();
            pending.extend_from_slice(&message(kind, payload));
            if op & 0x80 == 0 {
                let messages = std::mem::take(pending);
                let which = if op & 0x40 == 0 { Envelope::Datagram } else { Envelope::Sync };
                deliver(driver, to, which, &frame(which, &messages));
            }
        }
        7 | 8 => driver.wait(Duration::from_millis(u64::from(input.byte()) * 8)),
        9 => driver.wait(Duration::from_millis(u64::from(input.short()) * 4)),
        10 => {
            let to = input.byte();
            let which = if op & 0x40 == 0 { Envelope::Datagram } else { Envelope::Sync };
            let raw = input.counted();
            deliver(driver, to, which, raw);
        }
        11 => {
            let peer = pick(input.byte());
            let address = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), input.short());
            let reasons = [DownReason::Left, DownReason::Reset, DownReason::TimedOut, DownReason::Foreign];
            let reason = reasons[usize::from(op >> 6)];
            let change = match (op >> 4) & 3 {
                0 => ConnectionChange::Up { address },
                1 => ConnectionChange::Down { reason },
                2 => ConnectionChange::DialFailed { reason },
                _ => ConnectionChange::Rtt(Duration::from_micros(u64::from(address.port()))),
            };
            driver.swim.handle_connection(&peer, change, now);
        }
        12 => {
            let record = match op >> 6 {
                0 => OwnRecord::Services(ServicesRecord::default()),
                1 => OwnRecord::Health(HealthRecord::default()),
                _ => OwnRecord::Status(StatusRecord { documents: input.byte().into(), ..StatusRecord::default() }),
            };
            driver.swim.handle_command(Command::Put(record), now);
        }
        13 => {
            driver.judge = [Judge::Believes, Judge::Refuses, Judge::Waits, Judge::Believes][usize::from(op >> 6)];
            driver.answer_waiting(op & 0x10 == 0);
        }
        14 => match op >> 6 {
            0 => {
                let lag = Duration::from_millis(input.short().into());
                driver.swim.handle_command(Command::ReportLag(lag), now);
            }
            1 => {
                let seeds = vec![Seed(format!("seed{}:7740", input.byte()))];
                driver.swim.handle_command(Command::Join { seeds }, now);
            }
            2 => {
                let address = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), input.short());
                driver.swim.handle_command(Command::SetAddresses(vec![address]), now);
            }
            _ => {
                let seed = Seed(format!("seed{}:7740", input.byte()));
                driver.swim.handle_command(Command::SeedFailed { seed }, now);
            }
        },
        _ if op == 0xff => driver.swim.handle_command(Command::Leave, now),
        _ => driver.wait(Duration::from_secs(u64::from(input.byte()))),
    }
}

/// The low bits of `to` name the peer, the high ones the exchange.
fn deliver(driver: &mut Driver, to: u8, which: Envelope, bytes: &[u8]) {
    let from = pick(to % 8 % NAMES.len() as u8);
    match which {
        Envelope::Datagram => drop(driver.swim.handle_datagram(&from, bytes, driver.now)),
        Envelope::Sync => {
            let number = u64::from(to >> 4);
            let exchange = ExchangeId(if to & 8 == 0 { ExchangeId::INBOUND | number } else { number });
            drop(driver.swim.handle_sync(&from, exchange, bytes, driver.now));
        }
    }
}
