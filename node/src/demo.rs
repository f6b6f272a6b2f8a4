//! `starling demo`: real agents, services and load on this host; everything goes when it ends.
//!
//! Agents and services are processes of this same program, so a kill is a real kill. Each agent has a loopback address
//! of its own, with the usual ports, and a folder like a real host's. The children hold the reading end of a pipe from
//! us: when this process ends, however it ends, they see it close and end, too.
//!
//! [`layout`] says what runs where, [`process`] starts and ends children, [`load`] calls and measures, [`control`]
//! takes orders from `starling demo kill …`, [`screen`] shows, [`service`] is the other side of the hidden command.

mod control;
mod layout;
mod load;
mod mesh;
mod process;
mod screen;
mod service;

use std::collections::BTreeMap;
use std::num::NonZeroU8;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::{Args, Subcommand};
use serde::Serialize;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tokio::task::LocalSet;

use crate::cli::{CliError, Exit, Look, duration, message, print, print_body, to_json};
use control::{Order, Verb};
use load::{Answers, Load};
use mesh::{Left, Mesh};
use screen::Screen;

pub use service::ServiceArgs;

/// More agents than this need more than one small machine.
const NODES_MAX: u8 = 9;

/// Pause between two looks at the live figures.
const LIVE_PAUSE: Duration = Duration::from_millis(500);

/// Orders that wait to be carried out.
const ORDERS_MAX: usize = 16;

/// Flags of `starling demo`.
#[derive(Args, Clone, Debug)]
#[command(args_conflicts_with_subcommands = true)]
pub struct DemoArgs {
    #[command(subcommand)]
    action: Option<DemoAction>,
    /// How many agents, 1 to 9
    #[arg(long, value_name = "N", default_value = "3", value_parser = nodes)]
    nodes: NonZeroU8,
    /// Agents and services only, no requests
    #[arg(long)]
    no_load: bool,
    /// Keeps the folder with settings and logs
    #[arg(long)]
    keep: bool,
    /// Ends this long after it is ready
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    exit_after: Option<Duration>,
    /// At the end a report: table or json
    #[arg(short, long, value_name = "FORM", value_parser = ["table", "json"], default_value = "table")]
    output: String,
}

fn nodes(text: &str) -> Result<NonZeroU8, String> {
    let number: NonZeroU8 = text.parse().map_err(|_| format!("write a number from 1 to {NODES_MAX}"))?;
    if number.get() > NODES_MAX { Err(format!("write a number from 1 to {NODES_MAX}")) } else { Ok(number) }
}

/// Orders to a demo that runs.
#[derive(Subcommand, Clone, Debug)]
enum DemoAction {
    /// Ends an agent or a service at once, as `kill -9` does
    Kill(Target),
    /// Makes a service answer 500, its health path included
    Break(Target),
    /// Makes a service answer 300 ms later
    Slow(Target),
    /// Puts an agent or a service, or all, back in order
    Restore(Target),
}

#[derive(Args, Clone, Debug)]
struct Target {
    /// vm-3, orders-v2, orders-v1@vm-2, or for restore: all
    name: String,
    /// Folder of the demo, where more than one runs
    #[arg(long, value_name = "DIR")]
    demo: Option<PathBuf>,
}

/// Runs the command: the demo itself, or an order to one that runs. `stderr` and `stdout` say how text looks there.
pub(crate) fn run(args: &DemoArgs, stderr: &Look, stdout: &Look) -> Result<Exit, CliError> {
    match &args.action {
        Some(action) => {
            let (verb, target) = match action {
                DemoAction::Kill(target) => (Verb::Kill, target),
                DemoAction::Break(target) => (Verb::Break, target),
                DemoAction::Slow(target) => (Verb::Slow, target),
                DemoAction::Restore(target) => (Verb::Restore, target),
            };
            print(&format!("{}\n", control::send(verb, &target.name, target.demo.as_deref())?))
        }
        None => {
            let report = args.output == "json";
            let screen = Screen::new(report, if report { *stderr } else { *stdout });
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let runtime = runtime
                .map_err(|error| CliError::plain(Exit::Bad, "cannot start a runtime").cause(error.to_string()))?;
            LocalSet::new().block_on(&runtime, show(args, screen))
        }
    }
}

/// Runs one of the demo's services.
pub(crate) fn serve(args: &ServiceArgs) -> Result<Exit, CliError> {
    service::run(args)
}

/// What `-o json` prints at the end.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Report {
    /// Alive at the end, as the first agent sees it.
    agents: usize,
    /// From the start of the program to the last tick.
    ready_seconds: f64,
    requests: u64,
    success_rate: Option<f64>,
    p50_ms: Option<f64>,
    p99_ms: Option<f64>,
    by_instance: BTreeMap<String, Answers>,
    left: Left,
}

/// Ctrl-C, a polite kill, and the terminal that closes.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    /// Waits for any. Safe to drop: a signal that has come is kept.
    async fn any(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
            _ = self.hangup.recv() => {}
        }
    }
}

async fn show(args: &DemoArgs, mut screen: Screen) -> Result<Exit, CliError> {
    let io = |error: std::io::Error| CliError::plain(Exit::Bad, "the demo cannot start").cause(error.to_string());
    let mut signals = Signals::new().map_err(io)?;
    let started = Instant::now();
    let mut mesh = Mesh::prepare(args.nodes, args.keep)?;
    screen.title(args.nodes.get(), mesh.shift());
    let ready = tokio::select! {
        ready = bring_up(&mut mesh, args, &mut screen, started) => Some(ready),
        () = signals.any() => None,
    };
    let load = match ready {
        Some(Ok(load)) => load,
        Some(Err(error)) => {
            let left = mesh.end().await;
            screen.failed(&left);
            return Err(error);
        }
        None => {
            mesh.end().await;
            return Ok(Exit::Interrupted);
        }
    };
    let ready_seconds = started.elapsed().as_secs_f64();
    screen.invitation(&mesh);
    attend(args, &mut mesh, load.as_ref(), &mut screen, &mut signals).await;
    screen.close();
    let agents = mesh.alive().await;
    let figures = load.map(Load::finish);
    let kept = mesh.kept();
    let left = mesh.end().await;
    if args.output == "json" {
        let figures = figures.unwrap_or_default();
        let report = Report {
            agents,
            ready_seconds: round(ready_seconds),
            requests: figures.requests,
            success_rate: figures.success_rate().map(round_down),
            p50_ms: figures.quantile(0.5).map(round),
            p99_ms: figures.quantile(0.99).map(round),
            by_instance: figures.by_instance(),
            left,
        };
        print_body(&to_json(&report)?)?;
    } else {
        print(&screen.goodbye(figures.as_ref(), &left, kept.as_deref()))?;
    }
    Ok(Exit::Done)
}

/// Everything up to the last tick.
async fn bring_up(
    mesh: &mut Mesh,
    args: &DemoArgs,
    screen: &mut Screen,
    started: Instant,
) -> Result<Option<Load>, CliError> {
    mesh.create_trust()?;
    screen.tick(&format!("trust domain {} created", layout::TRUST_DOMAIN), started.elapsed());
    mesh.start_services().await?;
    mesh.start_agents()?;
    mesh.wait_alive().await?;
    screen.tick(&format!("agents {} alive, mTLS over QUIC", mesh.agent_names()), started.elapsed());
    mesh.wait_registered().await?;
    screen.tick(&format!("services {} registered", mesh.service_names()), started.elapsed());
    mesh.grant().await?;
    screen.tick("ServiceGrant/demo in use: these agents alone may serve them", started.elapsed());
    if args.no_load {
        return Ok(None);
    }
    let load = Load::begin(mesh.entrance(), layout::RATE).await?;
    screen.tick(&format!("load: {} requests/s from web to orders", layout::RATE), started.elapsed());
    Ok(Some(load))
}

/// From the last tick to the end: orders, keys, figures.
async fn attend(args: &DemoArgs, mesh: &mut Mesh, load: Option<&Load>, screen: &mut Screen, signals: &mut Signals) {
    let (orders, mut inbox) = mpsc::channel::<Order>(ORDERS_MAX);
    let (keys, mut pressed) = mpsc::channel::<u8>(ORDERS_MAX);
    if let Err(error) = control::listen(&mesh.control_path(), orders) {
        message(&format!("warning: orders from other terminals are not taken: {error}\n"));
    }
    screen.read_keys(keys);
    let deadline = args.exit_after.map(|after| tokio::time::Instant::now() + after);
    let mut live = tokio::time::interval(LIVE_PAUSE);
    loop {
        // Every arm is safe to drop: channels, signals and timers keep what has come.
        tokio::select! {
            biased;
            () = signals.any() => return,
            () = until(deadline) => return,
            Some(key) = pressed.recv() => match screen::order_of(key) {
                Some(screen::Key::Quit) => return,
                Some(screen::Key::Order(verb, name)) => {
                    let reply = mesh.carry_out(verb, name).await;
                    screen.note(&reply.unwrap_or_else(|error| error.what().to_owned()));
                }
                None => {}
            },
            Some(order) = inbox.recv() => {
                let reply = mesh.carry_out(order.verb, &order.name).await;
                if let Ok(note) = &reply {
                    screen.note(note);
                }
                // The other side may have gone.
                let _ = order.reply.send(reply);
            }
            _ = live.tick() => {
                mesh.reap();
                if let Some(load) = load {
                    screen.live(&load.recent());
                }
            }
        }
    }
}

async fn until(deadline: Option<tokio::time::Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

/// A rate below one stays below one.
fn round_down(rate: f64) -> f64 {
    (rate * 100_000.0).floor() / 100_000.0
}

/// Three digits after the point are more than the clock is worth.
fn round(number: f64) -> f64 {
    (number * 1_000.0).round() / 1_000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_of_agents_is_bounded() {
        assert_eq!(nodes("3").unwrap().get(), 3);
        assert_eq!(nodes("9").unwrap().get(), NODES_MAX);
        assert!(nodes("0").is_err() && nodes("10").is_err() && nodes("x").is_err());
    }

    #[test]
    fn a_rate_below_one_never_rounds_to_one() {
        assert!(round_down(0.999_999_9) < 1.0 && (round_down(1.0) - 1.0).abs() < f64::EPSILON);
        assert!((round(1.234_56) - 1.235).abs() < f64::EPSILON);
    }
}
