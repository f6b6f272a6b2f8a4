//! `starling leave`: this node leaves the mesh; its services go elsewhere first.

use std::time::Duration;

use clap::Args;
use http::Method;
use starling_model::codes;

use crate::api::views::{Envelope, Operation};
use crate::cli::client::{ANSWER_TIMEOUT, Ask, Client};
use crate::cli::errors::{CliError, Exit};
use crate::cli::read::ShowArgs;
use crate::cli::{Format, output};

/// Flags of `starling leave`.
#[derive(Args, Clone, Debug)]
pub(crate) struct LeaveArgs {
    /// How long to wait until it is done
    #[arg(long, default_value = "30s", value_name = "DURATION", value_parser = duration)]
    timeout: Duration,
    #[command(flatten)]
    show: ShowArgs,
}

/// A duration as a flag's value.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    starling_config::duration::parse(text).map_err(|error| error.to_string())
}

/// Runs the command.
pub(crate) fn run(client: &Client, args: &LeaveArgs) -> Result<Exit, CliError> {
    let path = format!("/v1/leave?wait={}", starling_config::duration::format(args.timeout));
    let timeout = args.timeout.saturating_add(ANSWER_TIMEOUT);
    let answer = client.ask(Ask { method: Method::POST, path: &path, body: None, timeout })?;
    let operation: Envelope<Operation> = serde_json::from_slice(&answer.body)
        .map_err(|error| CliError::plain(Exit::Bad, "the agent's answer is not understood").cause(error.to_string()))?;
    let exit = outcome(&operation.body, args.timeout)?;
    match args.show.output {
        Format::Json => output::print_body(&answer.body)?,
        Format::Yaml => output::print_yaml(&answer.body)?,
        Format::Name => output::print(&format!("{}\n", operation.view.node))?,
        Format::Table | Format::Wide => output::print(&sentence(&operation))?,
    };
    Ok(exit)
}

fn outcome(operation: &Operation, timeout: Duration) -> Result<Exit, CliError> {
    match operation.state.as_str() {
        "done" => Ok(Exit::Done),
        "running" => {
            let waited = starling_config::duration::format(timeout);
            Err(CliError::plain(Exit::TimedOut, format!("still leaving after {waited}"))
                .help(["it goes on by itself; `starling members` on another node shows when it is done"]))
        }
        _ => {
            let detail = operation.problem.as_ref().map(|problem| problem.detail.clone());
            let code = operation.problem.as_ref().and_then(|problem| problem.code.strip_prefix("ST"));
            let code = code.and_then(|digits| digits.parse().ok()).and_then(codes::find);
            let what = detail.unwrap_or_else(|| "leaving failed".to_owned());
            Err(match code {
                Some(code) => CliError::coded(Exit::Bad, code, what),
                None => CliError::plain(Exit::Bad, what),
            })
        }
    }
}

/// `vm-3 left; 2 peers acknowledged. Services withdrawn: default/orders, default/db.`
fn sentence(answer: &Envelope<Operation>) -> String {
    let operation = &answer.body;
    let peers = match operation.acknowledged {
        None | Some(0) => "no peer acknowledged".to_owned(),
        Some(1) => "1 peer acknowledged".to_owned(),
        Some(number) => format!("{number} peers acknowledged"),
    };
    let withdrawn = if operation.withdrawn.is_empty() {
        String::new()
    } else {
        format!(" Services withdrawn: {}.", operation.withdrawn.join(", "))
    };
    format!("{} left; {peers}.{withdrawn}\n", answer.view.node)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn operation(state: &str, withdrawn: &[&str]) -> Envelope<Operation> {
        serde_json::from_value(json!({
            "apiVersion": "starling/v1", "kind": "Operation",
            "view": {"node": "vm-3", "bootEpoch": "1", "revision": 1, "asOf": "2026-11-22T15:31:59Z", "digest": "0",
                     "agreement": {"alive": 3, "same": 3, "behind": [], "behindCount": 0}},
            "id": "1", "verb": "leave", "state": state, "startedAt": "2026-11-22T15:31:59Z", "finishedAt": null,
            "detail": null, "acknowledged": 2, "withdrawn": withdrawn, "problem": null}))
        .unwrap()
    }

    #[test]
    fn leaving_looks_as_documented() {
        assert_eq!(
            sentence(&operation("done", &["default/orders", "default/db"])),
            "vm-3 left; 2 peers acknowledged. Services withdrawn: default/orders, default/db.\n"
        );
        assert_eq!(sentence(&operation("done", &[])), "vm-3 left; 2 peers acknowledged.\n");
    }

    #[test]
    fn the_outcome_sets_the_exit_code() {
        let exit = |state: &str| match outcome(&operation(state, &[]).body, Duration::from_secs(1)) {
            Ok(exit) => exit,
            Err(error) => error.exit(),
        };
        assert_eq!((exit("done"), exit("running"), exit("failed")), (Exit::Done, Exit::TimedOut, Exit::Bad));
    }
}
