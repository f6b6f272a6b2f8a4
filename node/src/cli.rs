//! The command line: every command of `starling`, its flags, and how it ends.
//!
//! Standard output carries data, standard error messages ([`output`], the only place that prints). Errors have one form
//! and a closed set of exit codes ([`errors`]). Commands that read ask the local API ([`client`], [`read`]) and show
//! the answer ([`render`], pure). `trust` and `join` work on files and need no agent.

mod address;
mod agent;
mod check;
mod client;
mod documents;
mod errors;
mod events;
mod explain;
mod figures;
mod help;
mod install;
mod join;
mod leave;
mod lint;
mod load;
mod look;
mod operator_key;
mod output;
mod ping;
mod read;
mod render;
mod snapshot;
mod table;
mod trust;
mod usage;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, CommandFactory as _, FromArgMatches as _, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use starling_model::{Namespace, ServiceKey};

pub(crate) use address::Address;
pub(crate) use client::{Ask, ask};
pub(crate) use errors::{CliError, Exit};
pub(crate) use figures::{count, milliseconds, rate, share};
pub(crate) use install::{PUBLIC_FILE_MODE, Places, Ready, install};
pub(crate) use leave::duration;
pub(crate) use look::{Look, Mark, for_locale};
pub(crate) use output::{data, message, print, print_body, to_json};
pub(crate) use trust::now;

use look::{ColorChoice, Surroundings};
use read::{Read, ShowArgs, WatchArgs};

/// Form of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people
    Table,
    /// For people, with all columns
    Wide,
    /// The agent's answer, byte for byte
    Json,
    /// The same as YAML
    Yaml,
    /// Names only, one on each line
    Name,
}

/// The program.
#[derive(Parser, Clone, Debug)]
#[command(
    name = "starling",
    bin_name = "starling",
    version,
    disable_help_subcommand = true,
    subcommand_required = false,
    arg_required_else_help = false,
    max_term_width = 100
)]
struct Starling {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Option<Command>,
}

/// Flags of every command.
#[derive(Args, Clone, Debug)]
struct Global {
    /// The agent: unix:///PATH or http://HOST:PORT [default: unix:///run/starling/api.sock]
    #[arg(long, global = true, env = "STARLING_ADDRESS", value_name = "ADDRESS", help_heading = "Everywhere")]
    address: Option<Address>,
    /// Namespace of names that carry none; lists show only this one
    #[arg(short, long, global = true, env = "STARLING_NAMESPACE", value_name = "NAMESPACE", value_parser = namespace,
          help_heading = "Everywhere")]
    namespace: Option<Namespace>,
    /// When to use colour
    #[arg(long, global = true, value_enum, default_value = "auto", value_name = "WHEN", help_heading = "Everywhere")]
    color: ColorChoice,
}

fn namespace(text: &str) -> Result<Namespace, String> {
    Namespace::new(text).map_err(|error| error.to_string())
}

/// Reads `orders` or `shop/orders`; the namespace of the former is put in later.
fn service(text: &str) -> Result<String, String> {
    ServiceKey::parse(text, &Namespace::default()).map(|_| text.to_owned()).map_err(|error| error.to_string())
}

/// Every command.
#[derive(Subcommand, Clone, Debug)]
enum Command {
    /// Three real agents, services and load on this host; nothing stays
    Demo(crate::demo::DemoArgs),
    /// Make a trust domain and identities; look at them; revoke
    #[command(subcommand)]
    Trust(trust::TrustCommand),
    /// Give this host its identity
    Join(join::JoinArgs),
    /// Run the agent in the foreground
    Agent(agent::AgentArgs),
    /// Leave the mesh; services go elsewhere first
    Leave(LeaveCommand),
    /// This node in ten lines
    Status(StatusArgs),
    /// What is in order at this host, and what is not
    Check(check::CheckArgs),
    /// Everybody, as this node sees them
    Members(MembersArgs),
    /// What happened, and why: joins, doubts, deaths
    Events(EventsCommand),
    /// Round trips to a member
    Ping(PingCommand),
    /// Services, or the endpoints of one with the reason for each
    Services(ServicesArgs),
    /// The route table in use
    Routes(RoutesArgs),
    /// Sign documents and put them in use on every member
    Apply(documents::apply::ApplyArgs),
    /// Documents in use, their sources and their history
    Get(documents::get::GetArgs),
    /// What files say otherwise than what is in use
    Diff(documents::diff::DiffArgs),
    /// Take documents out of use on every member
    Delete(documents::delete::DeleteArgs),
    /// Check documents before anybody signs them; needs no agent
    Lint(lint::LintArgs),
    /// What becomes of one request, and why
    Explain(explain::ExplainArgs),
    /// The table in use as a file, for explain elsewhere
    #[command(subcommand)]
    Snapshot(snapshot::SnapshotCommand),
    /// Completions for a shell
    Completions {
        /// Which
        shell: Shell,
    },
    /// The release of this program
    Version,
    /// Help on a command, on exit-codes, or on an error code like ST0301
    Help {
        /// What
        topic: Vec<String>,
    },
    /// A service of the demo
    #[command(hide = true)]
    DemoService(crate::demo::ServiceArgs),
}

/// Where an agent's folder may stand in for its address.
#[derive(Args, Clone, Debug)]
struct AgentPlace {
    /// Configuration folder of the agent that is asked; its socket is in it
    #[arg(long, value_name = "DIR")]
    config_dir: Option<PathBuf>,
}

#[derive(Args, Clone, Debug)]
struct LeaveCommand {
    #[command(flatten)]
    place: AgentPlace,
    #[command(flatten)]
    leave: leave::LeaveArgs,
}

#[derive(Args, Clone, Debug)]
struct EventsCommand {
    #[command(flatten)]
    events: events::EventsArgs,
    #[command(flatten)]
    place: AgentPlace,
}

#[derive(Args, Clone, Debug)]
struct PingCommand {
    #[command(flatten)]
    ping: ping::PingArgs,
    #[command(flatten)]
    place: AgentPlace,
}

#[derive(Args, Clone, Debug)]
struct StatusArgs {
    #[command(flatten)]
    place: AgentPlace,
    #[command(flatten)]
    show: ShowArgs,
    #[command(flatten)]
    watch: WatchArgs,
}

#[derive(Args, Clone, Debug)]
struct MembersArgs {
    /// Only members in this state; may be given several times
    #[arg(long, value_name = "STATE", value_parser = ["joining", "alive", "suspect", "failed", "left"])]
    state: Vec<String>,
    /// Only members with this label; may be given several times
    #[arg(long, value_name = "KEY=VALUE", value_parser = label)]
    label: Vec<(String, String)>,
    #[command(flatten)]
    place: AgentPlace,
    #[command(flatten)]
    show: ShowArgs,
    #[command(flatten)]
    watch: WatchArgs,
}

fn label(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        Some(_) | None => Err("write KEY=VALUE, e.g. zone=a".to_owned()),
    }
}

#[derive(Args, Clone, Debug)]
struct ServicesArgs {
    /// One service: NAME or NAMESPACE/NAME
    #[arg(value_parser = service)]
    service: Option<String>,
    /// Of one service, only endpoints on this node
    #[arg(long, value_name = "NODE", requires = "service")]
    node: Option<String>,
    /// Of one service, only endpoints of this subset
    #[arg(long, value_name = "SUBSET", requires = "service")]
    subset: Option<String>,
    #[command(flatten)]
    place: AgentPlace,
    #[command(flatten)]
    show: ShowArgs,
    #[command(flatten)]
    watch: WatchArgs,
}

#[derive(Args, Clone, Debug)]
struct RoutesArgs {
    /// One service: NAME or NAMESPACE/NAME
    #[arg(value_parser = service)]
    service: Option<String>,
    #[command(flatten)]
    place: AgentPlace,
    #[command(flatten)]
    show: ShowArgs,
}

/// Runs the program with the arguments of this process.
#[must_use]
pub fn main() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().collect();
    report_panics();
    ExitCode::from(run(&arguments))
}

/// A panic of the program itself ends it with 101, and says that it is our bug. An agent's tasks are caught elsewhere.
fn report_panics() {
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        usual(info);
        if std::thread::current().name() == Some("main") {
            message("this is a bug in starling; please report it with the lines above\n");
        }
    }));
}

/// Runs the program with these arguments, the first of which is its name.
fn run(arguments: &[OsString]) -> Exit {
    let errors = Surroundings::of_stderr();
    let parsed =
        command().try_get_matches_from(arguments).and_then(|mut found| Starling::from_arg_matches_mut(&mut found));
    let program = match parsed {
        Ok(program) => program,
        Err(error) => {
            return usage::report(&error, arguments, &Starling::command(), &errors.look(ColorChoice::Auto, true));
        }
    };
    let color = program.global.color;
    match dispatch(program) {
        Ok(exit) => exit,
        Err(error) => {
            message(&error.render(&errors.look(color, true)));
            error.exit()
        }
    }
}

/// The tree of commands, with the overview as help of the whole.
fn command() -> clap::Command {
    let tree = Starling::command();
    let overview = help::overview(&tree);
    tree.override_help(overview)
}

fn dispatch(program: Starling) -> Result<Exit, CliError> {
    let Starling { global, command: chosen } = program;
    let stdout = Surroundings::of_stdout();
    let look = |headers: bool| stdout.look(global.color, headers);
    let asked =
        |place: &AgentPlace| client::Client::new(Address::choose(global.address.as_ref(), place.config_dir.as_deref()));
    let key = |text: &String| {
        let fallback = global.namespace.clone().unwrap_or_default();
        ServiceKey::parse(text, &fallback).map_err(|error| CliError::plain(Exit::Usage, error.to_string()))
    };
    let show = |place: &AgentPlace, read: Read, show: &ShowArgs, watch: Option<&WatchArgs>| {
        read::run(&asked(place)?, &read, show, watch.and_then(|watch| watch.watch), &look(!show.no_headers))
    };
    match chosen {
        None => print(&help::overview(&Starling::command())),
        Some(Command::Demo(args)) => {
            crate::demo::run(&args, &Surroundings::of_stderr().look(global.color, true), &look(true))
        }
        Some(Command::DemoService(args)) => crate::demo::serve(&args),
        Some(Command::Trust(args)) => trust::run(&args, &look(args.headers()), &asked),
        Some(Command::Join(args)) => join::run(&args),
        Some(Command::Agent(args)) => {
            agent::run(&args, &look(true), &Surroundings::of_stderr().look(global.color, true))
        }
        Some(Command::Leave(args)) => leave::run(&asked(&args.place)?, &args.leave),
        Some(Command::Status(args)) => show(&args.place, Read::Status, &args.show, Some(&args.watch)),
        Some(Command::Check(args)) => {
            let place = AgentPlace { config_dir: args.config_dir.clone() };
            // Variable or flag: whoever names an agent does not ask about this host's files.
            let whose = if global.address.is_some() { check::Whose::Named } else { check::Whose::ThisHosts };
            check::run(&asked(&place)?, whose, &args, &look(true))
        }
        Some(Command::Members(args)) => {
            let filter = render::members::Filter { states: args.state, labels: args.label };
            show(&args.place, Read::Members(filter), &args.show, Some(&args.watch))
        }
        Some(Command::Events(args)) => events::run(&asked(&args.place)?, &args.events, &look(args.events.headers())),
        Some(Command::Ping(args)) => ping::run(&asked(&args.place)?, &args.ping, &look(true)),
        Some(Command::Services(args)) => {
            let read = match &args.service {
                Some(name) => Read::Service {
                    key: key(name)?,
                    filter: render::services::Filter { node: args.node, subset: args.subset },
                },
                None => Read::Services { namespace: global.namespace.clone() },
            };
            show(&args.place, read, &args.show, Some(&args.watch))
        }
        Some(Command::Routes(args)) => {
            let key = args.service.as_ref().map(key).transpose()?;
            let read = Read::Routes { key, namespace: global.namespace.clone() };
            show(&args.place, read, &args.show, None)
        }
        Some(Command::Apply(args)) => documents::apply::run(&asked(args.place())?, &args, global.namespace.as_ref()),
        Some(Command::Get(args)) => {
            let client = asked(args.place())?;
            documents::get::run(&client, &args, global.namespace.as_ref(), &look(args.headers()))
        }
        Some(Command::Diff(args)) => documents::diff::run(&asked(args.place())?, &args, global.namespace.as_ref()),
        Some(Command::Delete(args)) => documents::delete::run(&asked(args.place())?, &args, global.namespace.as_ref()),
        Some(Command::Lint(args)) => lint::run(&asked(args.place())?, &args, global.namespace.as_ref()),
        Some(Command::Explain(args)) => {
            let client = || asked(args.place());
            explain::run(client, &args, global.namespace.as_ref(), &look(args.headers()))
        }
        Some(Command::Snapshot(snapshot::SnapshotCommand::Save(args))) => snapshot::save(&asked(args.place())?, &args),
        Some(Command::Completions { shell }) => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Starling::command(), "starling", &mut script);
            output::written(data(&script))
        }
        Some(Command::Version) => print(&format!("starling {}\n", crate::RELEASE)),
        Some(Command::Help { topic }) => help::on(&topic, command()),
    }
}

#[cfg(test)]
mod tests;
