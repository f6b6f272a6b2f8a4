//! `starling delete`: a signed document of the next generation that says that there is none.

use std::io::{BufRead as _, IsTerminal as _};
use std::path::PathBuf;

use clap::Args;
use starling_model::{DocumentKey, Namespace};

use super::plan::Step;
use super::{SignArgs, Wanted, apply, input, kinds, label_of, live, look_up, not_in_use};
use crate::cli::client::{ANSWER_TIMEOUT, Client};
use crate::cli::errors::{CliError, Exit};
use crate::cli::{AgentPlace, lint, output};

/// Flags of `starling delete`.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Examples
  starling delete httproute orders-canary --wait
  starling delete -f canary.yaml --yes           # every document of the file
A deletion is remembered, so an old copy cannot come back. What a grant's end removes or opens is
told first. Undo a deletion with the old source:
  starling get httproute orders-canary --generation 14 -o yaml | starling apply -f -")]
pub(crate) struct DeleteArgs {
    /// The kind, in any case
    #[arg(value_name = "KIND", required_unless_present = "file", requires = "name", conflicts_with = "file")]
    kind: Option<String>,
    /// NAME or NAMESPACE/NAME
    #[arg(value_name = "NAME", conflicts_with = "file")]
    name: Option<String>,
    /// Deletes the documents that a file or folder names; may be given several times
    #[arg(short, long = "file", value_name = "FILE")]
    file: Vec<PathBuf>,
    /// Asks nothing
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    sign: SignArgs,
    #[command(flatten)]
    place: AgentPlace,
}

impl DeleteArgs {
    pub(crate) fn place(&self) -> &AgentPlace {
        &self.place
    }
}

/// Runs the command.
pub(crate) fn run(client: &Client, args: &DeleteArgs, asked: Option<&Namespace>) -> Result<Exit, CliError> {
    let keys = match (&args.kind, &args.name) {
        (Some(kind), Some(name)) => {
            vec![kinds::key(kinds::kind(kind)?, name, &asked.cloned().unwrap_or_default())?]
        }
        _ => match lint::checked(input::read(&args.file)?) {
            Ok((read, _)) => read.into_iter().map(|document| document.key).collect(),
            Err(problems) => {
                output::message(&format!("{problems}nothing was sent\n"));
                return Ok(Exit::Refused);
            }
        },
    };
    super::in_namespace(&keys, asked)?;
    let mut steps = Vec::new();
    let mut missing: Option<&DocumentKey> = None;
    for key in &keys {
        // What waits for its batch can be taken back, too.
        match look_up(client, key, Wanted::Held)?.filter(|held| !held.body.deleted) {
            Some(held) => steps.push(Step::new(key.clone(), None, Some(&held.body))),
            None if args.file.is_empty() => return Err(not_in_use(client, key)),
            None => {
                output::message(&format!("{} is not in use\n", label_of(key)));
                missing = missing.or(Some(key));
            }
        }
    }
    if let (true, Some(key)) = (steps.is_empty(), missing) {
        return Err(not_in_use(client, key));
    }
    if steps.is_empty() {
        return Err(CliError::plain(Exit::Bad, "the input names no document"));
    }
    let doomed: Vec<DocumentKey> = steps.iter().map(|step| step.key.clone()).collect();
    let told = live::ask_deletions(client, &doomed, ANSWER_TIMEOUT);
    let steps: Vec<Step> = steps.into_iter().map(|step| step.removing(&told.removes, &told.opens)).collect();
    if !args.yes && !agreed(&steps)? {
        return Err(CliError::plain(Exit::Refused, "nothing was deleted"));
    }
    apply::send(client, &steps, &args.sign)
}

/// Asks a person; without one, the flag has to say it.
fn agreed(steps: &[Step]) -> Result<bool, CliError> {
    let names: Vec<String> = steps.iter().map(|step| label_of(&step.key)).collect();
    let names = names.join(", ");
    if !std::io::stdin().is_terminal() {
        return Err(CliError::plain(Exit::Usage, format!("delete {names}? Standard input is no terminal to ask at"))
            .help(["if it is meant, add --yes"]));
    }
    let consequences: String = steps.iter().map(Step::consequences).collect();
    output::message(&format!("{consequences}delete {names} on every member? [y/N] "));
    let mut line = String::new();
    let read = std::io::stdin().lock().read_line(&mut line);
    read.map_err(|error| CliError::plain(Exit::Bad, "cannot read the answer").cause(error.to_string()))?;
    Ok(matches!(line.trim().to_ascii_lowercase().as_str(), "y" | "yes"))
}
