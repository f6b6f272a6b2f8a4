//! `starling agent`: the agent in the foreground, and `--print-config`.

use std::io::Read as _;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;
use starling_config::{ConfigDir, Loaded, Origin};
use starling_identity::life::LEAF_INTERVAL;
use starling_transport::data::AGE_MAX;
use starling_transport::quic;

use crate::cli::Format;
use crate::cli::errors::{CliError, Exit};
use crate::cli::load::{Request, configuration};
use crate::cli::look::Look;
use crate::cli::output;
use crate::cli::table::{Align, Cell, Table};
use crate::run::{AgentError, AgentOptions, run_agent};

/// How long an agent whose starter is gone may take to end in order.
const ORPHAN_GRACE: Duration = Duration::from_secs(5);
const _: () = assert!(LEAF_INTERVAL.as_secs() == AGE_MAX.as_secs() && AGE_MAX.as_secs() == quic::AGE_MAX.as_secs());

/// Flags of `starling agent`.
#[derive(Args, Clone, Debug)]
pub(crate) struct AgentArgs {
    /// Folder of agent.toml, conf.d, services.d and trust
    #[arg(long, value_name = "DIR", default_value = ConfigDir::STANDARD)]
    config_dir: PathBuf,
    /// Folder of what the agent keeps [default: /var/lib/starling, or DIR/state]
    #[arg(long, value_name = "DIR")]
    state_dir: Option<PathBuf>,
    /// This node's name; must equal the name in its certificate
    #[arg(long, value_name = "NAME")]
    node_name: Option<String>,
    /// An agent to join, HOST:PORT; may be given several times
    #[arg(long, value_name = "HOST:PORT")]
    seed: Vec<String>,
    /// Sets any setting, e.g. --set mesh.preset=wan; may be given several times
    #[arg(long, value_name = "KEY=VALUE", value_parser = key_value)]
    set: Vec<(String, String)>,
    /// Shows every setting with its value and origin, and ends
    #[arg(long)]
    print_config: bool,
    /// Ends when its standard input closes, so that it never outlives the program that started it
    #[arg(long, hide = true)]
    exit_with_stdin: bool,
    /// Time from one leaf key to the next: to see renewals without waiting for them
    #[arg(long, hide = true, value_name = "DURATION", value_parser = interval)]
    rekey_interval: Option<Duration>,
    /// How long a connection to another agent is used, give or take a fifth: to see replacements without waiting for them
    #[arg(long, hide = true, value_name = "DURATION", value_parser = interval)]
    connection_age: Option<Duration>,
    /// For --print-config: table (as TOML), json or yaml
    #[arg(short, long, value_enum)]
    output: Option<Format>,
}

fn key_value(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.trim().is_empty() => Ok((key.trim().to_owned(), value.to_owned())),
        Some(_) | None => Err("write KEY=VALUE, e.g. mesh.preset=wan".to_owned()),
    }
}

/// From a second to the usual one, which leafs and connections share: a leaf made more rarely could end before the next.
fn interval(text: &str) -> Result<Duration, String> {
    let interval = starling_config::duration::parse(text).map_err(|error| error.to_string())?;
    if (Duration::from_secs(1)..=LEAF_INTERVAL).contains(&interval) {
        Ok(interval)
    } else {
        Err("is not between 1s and 6h".to_owned())
    }
}

impl AgentArgs {
    fn request(&self) -> Request {
        let named = |key: &str, value: String| (key.to_owned(), value);
        let mut flags = Vec::new();
        flags.extend(self.state_dir.as_ref().map(|dir| named("state", dir.display().to_string())));
        flags.extend(self.node_name.as_ref().map(|name| named("node_name", name.clone())));
        flags.extend(self.seed.iter().map(|seed| named("mesh.seeds", seed.clone())));
        flags.extend(self.set.iter().cloned());
        Request { dir: ConfigDir::new(&self.config_dir), flags }
    }
}

/// Runs the command.
pub(crate) fn run(args: &AgentArgs, look: &Look, errors: &Look) -> Result<Exit, CliError> {
    let request = args.request();
    let loaded = match configuration(&request) {
        Ok(loaded) => loaded,
        Err(error) => {
            // Problems have their own form, with places, and come all at once.
            output::message(&error.render());
            return Ok(Exit::Usage);
        }
    };
    if args.print_config {
        return print_config(&loaded, args.output.unwrap_or(Format::Table), look);
    }
    if args.output.is_some() {
        return Err(CliError::plain(Exit::Usage, "-o says how --print-config prints; the agent itself prints no data"));
    }
    output::message(&starling_config::render(&loaded.warnings));
    if args.exit_with_stdin {
        end_with_stdin()?;
    }
    let rekey_interval = args.rekey_interval.unwrap_or(LEAF_INTERVAL);
    let reload = Box::new(move || configuration(&request).map_err(|error| error.render()));
    let connection_age = args.connection_age.unwrap_or(AGE_MAX);
    match run_agent(AgentOptions { loaded, reload, rekey_interval, connection_age }) {
        Ok(()) => Ok(Exit::Done),
        Err(error) => {
            output::message(&startup_error(error).render(errors));
            Ok(Exit::Bad)
        }
    }
}

fn startup_error(error: AgentError) -> CliError {
    let cli = CliError::coded(Exit::Bad, error.code, error.what).help(error.help.lines());
    match error.cause {
        Some(cause) => cli.cause(cause),
        None => cli,
    }
}

/// Ends this process as if by SIGTERM when standard input closes; by force when it does not end in order.
fn end_with_stdin() -> Result<(), CliError> {
    let wait = || {
        let mut byte = [0_u8; 64];
        let mut input = std::io::stdin().lock();
        while input.read(&mut byte).is_ok_and(|len| len > 0) {}
        let us = Pid::this();
        let _ = kill(us, Signal::SIGTERM);
        std::thread::sleep(ORPHAN_GRACE);
        let _ = kill(us, Signal::SIGKILL);
    };
    let spawned = std::thread::Builder::new().name("stdin".to_owned()).spawn(wait);
    spawned.map(drop).map_err(|error| CliError::plain(Exit::Bad, "cannot start a thread").cause(error.to_string()))
}

fn print_config(loaded: &Loaded, format: Format, look: &Look) -> Result<Exit, CliError> {
    let origin = |origin: &Origin| match origin {
        Origin::Flag(key) => format!("--set {key}"),
        Origin::Default | Origin::File { .. } | Origin::Environment(_) => origin.to_string(),
    };
    let settings = &loaded.origins;
    let json = || {
        let items: Vec<serde_json::Value> = settings
            .iter()
            .map(|setting| {
                let value = (!setting.value.is_empty()).then_some(&setting.value);
                json!({"key": setting.key, "value": value, "origin": origin(&setting.origin)})
            })
            .collect();
        output::to_json(&json!({"apiVersion": "starling/v1", "kind": "Settings", "items": items}))
    };
    match format {
        Format::Table => {
            // The file form names the dotted key of a flag; here it is written as one would give it.
            let toml = loaded.to_toml();
            let lines = toml.lines().map(|line| match line.rsplit_once("   # flag ") {
                Some((head, key)) => format!("{head}   # --set {key}\n"),
                None => format!("{line}\n"),
            });
            output::print(&lines.collect::<String>())
        }
        Format::Wide => {
            let mut table = Table::new([("KEY", Align::Left), ("VALUE", Align::Left), ("ORIGIN", Align::Left)]);
            for setting in settings {
                let value = Some(&setting.value).filter(|value| !value.is_empty());
                table.row([Cell::new(&setting.key), Cell::maybe(value), Cell::new(origin(&setting.origin))]);
            }
            output::print(&table.render(look))
        }
        Format::Json => output::print_body(&json()?),
        Format::Yaml => output::print_yaml(&json()?),
        Format::Name => output::print(&settings.iter().map(|setting| format!("{}\n", setting.key)).collect::<String>()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_setting_flag_is_key_and_value() {
        assert_eq!(key_value("mesh.preset=wan"), Ok(("mesh.preset".into(), "wan".into())));
        assert_eq!(key_value("a=b=c"), Ok(("a".into(), "b=c".into())));
        assert!(key_value("a").is_err() && key_value("=b").is_err() && key_value("").is_err());
    }
}
