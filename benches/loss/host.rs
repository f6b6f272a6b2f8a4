//! One run: two hosts in namespaces of their own, a wire between them, and requests at their due times.

use std::cell::RefCell;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::process::Command;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::spawn;
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, unshare};
use starling_identity::CurrentIdentity;
use starling_model::NodeName;
use tokio::sync::oneshot;
use tokio::task::{LocalSet, spawn_local};
use tun_rs::{DeviceBuilder, Layer, SyncDevice};

use crate::Done;
use crate::lanes::{Asker, Lane, Mesh, Sizes, serve};
use crate::process::thread_cpu;
use crate::wire::{Carried, Link, MTU, Wire};

/// Streams that ask, each by itself.
pub(crate) const STREAMS: usize = 64;

/// Not counted: handshake, and until the windows are those of the link.
pub(crate) const WARM_UP: Duration = Duration::from_secs(3);

/// A lane that is so far behind at the end does not carry the load; what it has not begun by then is counted, not sent.
const BEHIND_MAX: Duration = Duration::from_secs(3);

/// A wire that delivers one packet of a hundred so much too late is not the link that was asked for.
const LATE_MAX: Duration = Duration::from_millis(1);

/// How often a first connection is tried: its packets are lost like all others.
const DIALS_MAX: usize = 10;

const ASKS: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
const SERVES: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 2);
const PORT: u16 = 7_740;

/// What one run tries.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Trial {
    pub(crate) lane: Lane,
    pub(crate) sizes: Sizes,
    pub(crate) link: Link,
    /// Requests a second, of all streams together.
    pub(crate) rate: u64,
    pub(crate) during: Duration,
}

/// What it showed.
#[derive(Debug, Default)]
pub(crate) struct Figures {
    /// From the moment a request was due to the last byte of its answer.
    latencies_us: Vec<u32>,
    failed: u64,
    /// Requests that had not been begun when the trial was over.
    unsent: u64,
    connections: u64,
    /// Of both ends together, without the wire.
    cpu: Duration,
    wire: Carried,
}

impl Figures {
    pub(crate) fn add(&mut self, other: Self) {
        self.latencies_us.extend(other.latencies_us);
        self.failed += other.failed;
        self.unsent += other.unsent;
        self.connections += other.connections;
        self.cpu += other.cpu;
        self.wire.add(other.wire);
    }

    /// A row of the report.
    pub(crate) fn row(&self, lane: &str, seed: &str, trial: Trial) -> String {
        let (mut took, mut late) = (self.latencies_us.clone(), self.wire.late_us.clone());
        took.sort_unstable();
        late.sort_unstable();
        let at = |sorted: &[u32], permille: usize| {
            let last = sorted.len().saturating_sub(1);
            f64::from(*sorted.get(sorted.len() * permille / 1_000).or(sorted.get(last)).unwrap_or(&0)) / 1_000.0
        };
        let delayed = trial.link.delay * 3;
        let slow = took.iter().filter(|took| Duration::from_micros(u64::from(**took)) > delayed).count();
        let requests = took.len().max(1);
        let wire_share = self.wire.cpu.as_secs_f64() / (trial.during + WARM_UP).as_secs_f64();
        let is_late = at(&late, 990) > LATE_MAX.as_secs_f64() * 1_000.0;
        let void = match (self.wire.overflowed > 0, is_late) {
            (true, _) => " (VOID: the link was full)",
            (false, true) => " (VOID: the wire was late)",
            (false, false) => "",
        };
        format!(
            "| {lane} | {seed} | {} | {} | {} | {:.1} | {:.1} | {:.1} | {:.1} | {:.1} | {:.1} % | {} | {:.0} | {} | {:.2} %{void} | {:.1} % of a core | {:.2} / {:.1} |",
            took.len(),
            self.failed,
            self.unsent,
            at(&took, 500),
            at(&took, 900),
            at(&took, 990),
            at(&took, 999),
            at(&took, 1_000),
            slow as f64 * 100.0 / requests as f64,
            self.connections,
            self.cpu.as_micros() as f64 / requests as f64,
            self.wire.packets,
            self.wire.lost as f64 * 100.0 / self.wire.packets.max(1) as f64,
            wire_share * 100.0,
            at(&late, 990),
            at(&late, 1_000),
        )
    }
}

/// Gives the calling thread a network of its own: a TUN device with this address, whose packets the wire carries.
fn own_network(address: Ipv4Addr, lane: Lane) -> Done<Arc<SyncDevice>> {
    unshare(CloneFlags::CLONE_NEWNET)?;
    let device = DeviceBuilder::new().name("wire0").layer(Layer::L3).mtu(MTU).ipv4(address, 24, None);
    let device = device.build_sync()?;
    if let Some(control) = lane.of_tcp() {
        // By the route: what is not allowed to everybody cannot be a namespace's default.
        let route = format!("route replace 10.77.0.0/24 dev wire0 scope link src {address} congctl {control}");
        let told = Command::new("ip").args(route.split(' ')).output()?;
        if !told.status.success() {
            return Err(format!("ip {route}: {}", String::from_utf8_lossy(&told.stderr)).into());
        }
    }
    Ok(Arc::new(device))
}

/// Both directions of a wire that is to end wait for one more packet: this one.
fn nudge(to: Ipv4Addr) -> Done<()> {
    UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?.send_to(b"over", (to, 9))?;
    Ok(())
}

/// Runs one trial to its end.
pub(crate) fn run(trial: Trial) -> Done<Figures> {
    let mesh = Mesh::new()?;
    let (asks, serves) = (NodeName::new("vm-1")?, NodeName::new("vm-2")?);
    let (asking, serving) = (mesh.node(&asks)?, mesh.node(&serves)?);
    let (devices_in, devices) = sync_channel(2);
    let (stop, stopped) = oneshot::channel();
    let (wired_in, wired) = sync_channel(1);
    let (over_in, over) = sync_channel(1);
    let named = devices_in.clone();
    let server = spawn(move || host_serving(trial, serving, named, stopped, &over));
    let signals = Signals { devices: devices_in, wired, over: over_in, stop };
    let client = spawn(move || host_asking(trial, asking, serves, signals));
    let mut ends: Vec<(bool, Arc<SyncDevice>)> = devices.iter().take(2).collect();
    ends.sort_by_key(|(is_serving, _)| *is_serving);
    let [(_, one), (_, other)] = &ends[..] else {
        // One of them says why.
        drop(wired_in);
        let asked = client.join().map_err(|_| "the asking host panicked")?;
        server.join().map_err(|_| "the serving host panicked")??;
        asked?;
        return Err("a host did not come up".into());
    };
    let wire = Arc::new(Wire::new(trial.link, one, other));
    wired_in.send(Arc::clone(&wire)).map_err(|_| "the asking host is gone")?;
    let asked = client.join().map_err(|_| "the asking host panicked")?;
    // First, since the asking host cannot know why nobody served.
    let cpu = server.join().map_err(|_| "the serving host panicked")??;
    let asked = asked?;
    let wire = Arc::into_inner(wire).ok_or("somebody holds the wire")?;
    Ok(Figures { cpu: asked.cpu + cpu, wire: wire.join()?, ..asked })
}

fn runtime() -> Done<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_current_thread().enable_all().build()?)
}

/// Answers until the other host has done; its CPU time.
fn host_serving(
    trial: Trial,
    current: CurrentIdentity,
    devices: SyncSender<(bool, Arc<SyncDevice>)>,
    stopped: oneshot::Receiver<()>,
    over: &Receiver<()>,
) -> Done<Duration> {
    devices.send((true, own_network(SERVES, trial.lane)?))?;
    drop(devices);
    let runtime = runtime()?;
    let served = LocalSet::new().block_on(&runtime, async {
        tokio::select! {
            served = serve(trial.lane, trial.sizes, current, SocketAddr::from((SERVES, PORT))) => served,
            _ = stopped => Ok(()),
        }
    });
    served?;
    drop(runtime);
    let cpu = thread_cpu();
    // The wire has been told that it is over.
    let _ = over.recv();
    nudge(ASKS)?;
    Ok(cpu)
}

/// What the asking host tells the others, and is told.
struct Signals {
    devices: SyncSender<(bool, Arc<SyncDevice>)>,
    wired: Receiver<Arc<Wire>>,
    over: SyncSender<()>,
    stop: oneshot::Sender<()>,
}

fn host_asking(trial: Trial, current: CurrentIdentity, node: NodeName, signals: Signals) -> Done<Figures> {
    signals.devices.send((false, own_network(ASKS, trial.lane)?))?;
    // Else the other host would be waited for, should it fail.
    drop(signals.devices);
    let wire = signals.wired.recv()?;
    let runtime = runtime()?;
    let asked = LocalSet::new().block_on(&runtime, ask_all(trial, current, node));
    let _ = signals.stop.send(());
    drop(runtime);
    let cpu = thread_cpu();
    wire.end();
    drop(wire);
    let _ = signals.over.send(());
    nudge(SERVES)?;
    Ok(Figures { cpu, ..asked? })
}

async fn ask_all(trial: Trial, current: CurrentIdentity, node: NodeName) -> Done<Figures> {
    let address = SocketAddr::from((SERVES, PORT));
    let mut tries = 0;
    let asker = loop {
        match Asker::connect((trial.lane, trial.sizes), current.clone(), node.clone(), address).await {
            Ok(asker) => break asker,
            Err(error) if tries == DIALS_MAX => return Err(error),
            Err(_) => tries += 1,
        }
        tokio::time::sleep(Duration::from_millis(300)).await;
    };
    let seen = Rc::new(RefCell::new(Figures::default()));
    let began = Instant::now();
    let counted = began + WARM_UP;
    let ends = counted + trial.during;
    let period = Duration::from_secs(1) * u32::try_from(STREAMS)? / u32::try_from(trial.rate)?;
    let streams: Vec<_> = (0..STREAMS)
        .map(|number| {
            let (asker, seen) = (asker.clone(), Rc::clone(&seen));
            spawn_local(async move {
                let mut due = began + period.mul_f64(number as f64 / STREAMS as f64);
                while due < ends {
                    tokio::time::sleep_until(due.into()).await;
                    if Instant::now() > ends + BEHIND_MAX {
                        seen.borrow_mut().unsent += 1;
                        due += period;
                        continue;
                    }
                    let asked = asker.ask(number, trial.sizes).await;
                    if due >= counted {
                        let mut seen = seen.borrow_mut();
                        match asked {
                            Ok(()) => {
                                seen.latencies_us.push(u32::try_from(due.elapsed().as_micros()).unwrap_or(u32::MAX))
                            }
                            Err(_) => seen.failed += 1,
                        }
                    }
                    due += period;
                }
            })
        })
        .collect();
    for stream in streams {
        stream.await?;
    }
    Ok(Figures { connections: asker.connections(), ..seen.take() })
}
