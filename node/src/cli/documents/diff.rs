//! `starling diff`: what files say otherwise than what is in use.

use std::path::PathBuf;

use clap::Args;

use super::input;
use super::plan::Step;
use super::{Wanted, look_up};
use starling_model::Namespace;

use crate::cli::client::Client;
use crate::cli::errors::{CliError, Exit};
use crate::cli::{AgentPlace, lint, output};

/// Flags of `starling diff`.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Exit code 0 when all documents say what is in use, 1 when one differs; comments and the order of keys do not count.

Examples
  starling diff -f canary.yaml
  starling diff -f mesh/ && echo 'the mesh is as the folder says'")]
pub(crate) struct DiffArgs {
    /// A file, a folder (its .yaml, .yml and .json files) or - for standard input; may be given several times
    #[arg(short, long = "file", value_name = "FILE", required = true)]
    file: Vec<PathBuf>,
    #[command(flatten)]
    place: AgentPlace,
}

impl DiffArgs {
    pub(crate) fn place(&self) -> &AgentPlace {
        &self.place
    }
}

/// Runs the command.
pub(crate) fn run(client: &Client, args: &DiffArgs, asked: Option<&Namespace>) -> Result<Exit, CliError> {
    let read = match lint::checked(input::read(&args.file)?) {
        Ok((read, _)) => read,
        Err(problems) => {
            output::message(&problems);
            return Ok(Exit::Refused);
        }
    };
    super::in_namespace(read.iter().map(|document| &document.key), asked)?;
    let (mut told, count) = (String::new(), read.len());
    for document in read {
        let held = look_up(client, &document.key, Wanted::Used)?;
        let step = Step::new(document.key, Some(document.text), held.as_ref().map(|held| &held.body));
        told.extend(step.difference());
    }
    if told.is_empty() {
        output::message(&format!("no difference in {count} document{}\n", if count == 1 { "" } else { "s" }));
        return Ok(Exit::Done);
    }
    output::print(&told)?;
    Ok(Exit::Bad)
}
