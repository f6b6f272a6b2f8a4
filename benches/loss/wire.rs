//! A link between two TUN devices: every packet arrives after the same delay, in order, or not at all.
//!
//! One direction is two threads: one reads packets and draws which are lost, from a seed, and one waits until a packet is
//! due and writes it. The kernel cuts what TCP and UDP would offload before it reaches a TUN device, so each packet that is
//! lost or carried is one of the wire.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{JoinHandle, sleep, spawn};
use std::time::{Duration, Instant};

use rand::{Rng as _, SeedableRng as _, rngs::ChaCha8Rng};
use tun_rs::SyncDevice;

use crate::Done;
use crate::process::thread_cpu;

/// Largest packet, as on Ethernet.
pub(crate) const MTU: u16 = 1_500;

/// Packets under way in one direction; beyond it the link is full and loses them. At 500 requests a second some 100 are.
const UNDER_WAY_MAX: usize = 4_096;

/// What a link does to packets.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Link {
    /// One way.
    pub(crate) delay: Duration,
    /// Packets of a thousand that are lost, in each direction, each by itself.
    pub(crate) loss_permille: u64,
    /// Of the draws.
    pub(crate) seed: u64,
}

/// What a link has done, in both directions.
#[derive(Debug, Default)]
pub(crate) struct Carried {
    pub(crate) packets: u64,
    pub(crate) lost: u64,
    /// Lost because too many were under way: the trial is void if there are any.
    pub(crate) overflowed: u64,
    pub(crate) cpu: Duration,
    /// How much later than due each packet was written, in microseconds.
    pub(crate) late_us: Vec<u32>,
}

impl Carried {
    pub(crate) fn add(&mut self, other: Self) {
        self.packets += other.packets;
        self.lost += other.lost;
        self.overflowed += other.overflowed;
        self.cpu += other.cpu;
        self.late_us.extend(other.late_us);
    }
}

/// A link that carries.
pub(crate) struct Wire {
    is_over: Arc<AtomicBool>,
    threads: Vec<JoinHandle<Done<Carried>>>,
}

struct Packet {
    due: Instant,
    bytes: Box<[u8]>,
}

impl Wire {
    /// Joins two devices.
    pub(crate) fn new(link: Link, one: &Arc<SyncDevice>, other: &Arc<SyncDevice>) -> Self {
        let is_over = Arc::new(AtomicBool::new(false));
        let mut threads = Vec::new();
        for (number, from, to) in [(0, one, other), (1, other, one)] {
            let (sender, receiver) = sync_channel(UNDER_WAY_MAX);
            let (from, to, over) = (Arc::clone(from), Arc::clone(to), Arc::clone(&is_over));
            threads.push(spawn(move || read(link, number, &from, &sender, &over)));
            threads.push(spawn(move || write(&to, &receiver)));
        }
        Self { is_over, threads }
    }

    /// From now on each direction ends with the next packet that comes to it.
    pub(crate) fn end(&self) {
        self.is_over.store(true, Ordering::SeqCst);
    }

    /// What it has carried, once it has ended.
    pub(crate) fn join(self) -> Done<Carried> {
        let mut all = Carried::default();
        for thread in self.threads {
            all.add(thread.join().map_err(|_| "a thread of the wire panicked")??);
        }
        Ok(all)
    }
}

fn read(
    link: Link,
    number: u64,
    from: &SyncDevice,
    sender: &SyncSender<Packet>,
    is_over: &AtomicBool,
) -> Done<Carried> {
    // Each direction has draws of its own.
    let mut random = ChaCha8Rng::seed_from_u64(link.seed * 2 + number);
    let mut carried = Carried::default();
    let mut space = [0; 65_536];
    loop {
        let length = from.recv(&mut space)?;
        if is_over.load(Ordering::SeqCst) {
            carried.cpu = thread_cpu();
            return Ok(carried);
        }
        if length > usize::from(MTU) {
            return Err(format!("a packet of {length} bytes: something was not cut").into());
        }
        carried.packets += 1;
        if random.next_u64() % 1_000 < link.loss_permille {
            carried.lost += 1;
            continue;
        }
        let packet = Packet { due: Instant::now() + link.delay, bytes: space[..length].into() };
        carried.overflowed += u64::from(sender.try_send(packet).is_err());
    }
}

fn write(to: &SyncDevice, receiver: &Receiver<Packet>) -> Done<Carried> {
    let mut carried = Carried::default();
    // In order of their moments, since the delay is always the same.
    for packet in receiver {
        sleep(packet.due.saturating_duration_since(Instant::now()));
        // A host that is gone takes nothing any more.
        let _ = to.send(&packet.bytes);
        carried.late_us.push(u32::try_from(packet.due.elapsed().as_micros()).unwrap_or(u32::MAX));
    }
    carried.cpu = thread_cpu();
    Ok(carried)
}
