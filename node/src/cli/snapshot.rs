//! `starling snapshot save FILE`: what an agent's table is made of, to be asked about elsewhere and later.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use crate::api::views::{Envelope, SnapshotBody};
use crate::cli::client::{Ask, Client};
use crate::cli::errors::{CliError, Exit};
use crate::cli::render::view_of;
use crate::cli::table::clean;
use crate::cli::{AgentPlace, output};
use crate::files;

/// What can be done with snapshots.
#[derive(Subcommand, Clone, Debug)]
pub(crate) enum SnapshotCommand {
    /// Write the table in use and what it knows of endpoints into a file for `starling explain --snapshot`
    Save(SaveArgs),
}

/// Flags of `starling snapshot save`.
#[derive(Args, Clone, Debug)]
pub(crate) struct SaveArgs {
    /// Where to; only its owner can read it
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Replaces the file if there is one
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    place: AgentPlace,
}

impl SaveArgs {
    pub(crate) fn place(&self) -> &AgentPlace {
        &self.place
    }
}

/// Runs the command.
pub(crate) fn save(client: &Client, args: &SaveArgs) -> Result<Exit, CliError> {
    let answer = client.ask(Ask::get("/v1/snapshot"))?;
    // What cannot be read back is not written.
    let taken: Envelope<SnapshotBody> = serde_json::from_slice(&answer.body)
        .map_err(|error| CliError::plain(Exit::Bad, "the agent's answer is not understood").cause(error.to_string()))?;
    let written = if args.force {
        files::replace_secret(&args.file, &answer.body)
    } else {
        files::create_whole(&args.file, &answer.body, files::SECRET_MODE)
    };
    written.map_err(|error| {
        if error.is_existing() {
            CliError::plain(Exit::Refused, format!("{} exists already", args.file.display()))
                .help(["another name, or --force to replace it"])
        } else {
            CliError::from(error)
        }
    })?;
    let snapshot = &taken.body.snapshot;
    let instances: usize = snapshot.nodes.iter().map(|node| node.instances.len()).sum();
    let file = args.file.display();
    output::print(&clean_lines(&format!(
        "wrote {file} (0600)   {} documents, {instances} instances on {} nodes   {}\n\
         next:  starling explain --snapshot {file} URL\n",
        snapshot.documents.len(),
        snapshot.nodes.len(),
        view_of(&taken.view)
    )))
}

fn clean_lines(text: &str) -> String {
    text.lines().map(|line| format!("{}\n", clean(line))).collect()
}
