//! `trust csr`, on the node: a key that stays in `identity/pending.key`, and a request for it that anybody may read.

use std::path::PathBuf;

use clap::Args;
use starling_config::ConfigDir;
use starling_identity::{NodeRequest, request};
use starling_model::mesh::hex;
use starling_model::{NodeName, codes};

use super::{issue_error, node_name};
use crate::cli::errors::{CliError, Exit};
use crate::cli::install::{self, PUBLIC_FILE_MODE, Places};
use crate::cli::load::{Request, configuration};
use crate::cli::output;
use crate::files;

/// Flags of `trust csr`.
#[derive(Args, Clone, Debug)]
pub(crate) struct CsrArgs {
    /// The name that this host is to have
    #[arg(long, value_name = "NAME", value_parser = node_name)]
    pub(super) node: NodeName,
    /// The request's file [default: NAME.csr]
    #[arg(long, value_name = "FILE")]
    pub(super) out: Option<PathBuf>,
    /// Folder of the configuration
    #[arg(long, value_name = "DIR", default_value = ConfigDir::STANDARD)]
    pub(super) config_dir: PathBuf,
    /// Folder of what the agent keeps [default: /var/lib/starling, or DIR/state]
    #[arg(long, value_name = "DIR")]
    pub(super) state_dir: Option<PathBuf>,
}

/// Runs the command. Called again it makes the same request: the key that waits for its certificate stays.
pub(super) fn run(args: &CsrArgs) -> Result<Exit, CliError> {
    let mut flags = vec![("node_name".to_owned(), args.node.to_string())];
    flags.extend(args.state_dir.as_ref().map(|dir| ("state".to_owned(), dir.display().to_string())));
    let config = configuration(&Request { dir: ConfigDir::new(&args.config_dir), flags })?.config;
    let places = Places { config: args.config_dir.clone(), trust: config.trust, state: config.state };
    let key = install::pending_key(&places)?;
    let text = request::request(&args.node, &key).map_err(|error| issue_error(&error))?;
    let made = NodeRequest::parse(text.as_bytes()).map_err(|error| {
        CliError::coded(Exit::Bad, codes::REQUEST_INVALID, "the request made here is none").cause(error.to_string())
    })?;
    let file = args.out.clone().unwrap_or_else(|| PathBuf::from(format!("{}.csr", args.node)));
    files::replace(&file, text.as_bytes(), PUBLIC_FILE_MODE)?;
    let shown = file.display();
    output::print(&format!(
        "wrote {shown}   key stays in {} (0600)\n\
         key   SHA256:{}   tell it to the operator by another way than the request goes\n\
         next:  bring {shown} to an operator:  starling trust sign {shown} --request-key SHA256:…\n",
        places.pending_key().display(),
        hex(&made.key_hash()),
    ))
}
