//! `apply`, `get`, `diff` and `delete`: documents from the operator's desk to the mesh and back.
//!
//! The desk reads files ([`input`]), compares them with what is in use ([`plan`]), signs what is new ([`desk`]: the key
//! never leaves this process) and hands the signed forms to an agent, which spreads them ([`hand_over`]). The agent is
//! asked for everything else ([`live`] for what a mesh adds to a file's own checks); nothing is remembered here.

pub(crate) mod apply;
pub(crate) mod delete;
mod desk;
pub(crate) mod diff;
pub(crate) mod get;
mod hand_over;
pub(crate) mod input;
mod kinds;
pub(crate) mod live;
mod plan;
mod wait;

use std::time::Duration;

use clap::Args;
use serde::de::DeserializeOwned;
use starling_model::{DocumentKey, Namespace, codes};

use crate::api::views::{Document, DocumentPage, Envelope};
use crate::cli::client::{Ask, Client, refusal};
use crate::cli::duration;
use crate::cli::errors::{CliError, Exit};
use crate::cli::operator_key::KeyArgs;
use crate::cli::table::clean;

/// Documents of one page; the agent gives no more.
const PAGE: usize = 1_000;

/// Who signs, and whether the others are waited for.
#[derive(Args, Clone, Debug)]
pub(crate) struct SignArgs {
    #[command(flatten)]
    key: KeyArgs,
    #[command(flatten)]
    wait: WaitArgs,
}

/// `--wait`.
#[derive(Args, Clone, Copy, Debug)]
pub(crate) struct WaitArgs {
    /// Waits until every live member uses it
    #[arg(long)]
    wait: bool,
    /// How long to wait
    #[arg(long, default_value = "30s", value_name = "DURATION", value_parser = duration)]
    timeout: Duration,
}

/// A file says its namespace itself, so one that is asked for besides must be the same: else something would be signed
/// under a name that nobody meant.
///
/// # Errors
/// The first document of another namespace.
fn in_namespace<'a>(
    keys: impl IntoIterator<Item = &'a DocumentKey>,
    asked: Option<&Namespace>,
) -> Result<(), CliError> {
    let Some(asked) = asked else { return Ok(()) };
    match keys.into_iter().find(|key| key.namespace != *asked) {
        None => Ok(()),
        Some(key) => Err(CliError::plain(
            Exit::Usage,
            format!("{key} is of namespace {}, and {asked} is asked for (-n or STARLING_NAMESPACE)", key.namespace),
        )
        .help(["write metadata.namespace into the file, or ask for none"])),
    }
}

/// `HTTPRoute/orders`; `HTTPRoute/shop/orders` outside the default namespace.
fn label(kind: &str, namespace: &str, name: &str) -> String {
    // An agent may answer anything.
    clean(&if namespace == "default" { format!("{kind}/{name}") } else { format!("{kind}/{namespace}/{name}") })
}

fn label_of(key: &DocumentKey) -> String {
    label(key.kind.as_str(), key.namespace.as_str(), key.name.as_str())
}

/// `k1 "alice"`; a key that the bundle does not name any more is told alone.
fn signer_of(signer: &crate::api::views::Signer) -> String {
    let name = signer.name.as_ref().map(|name| format!(" \"{name}\"")).unwrap_or_default();
    clean(&format!("{}{name}", signer.key_id))
}

fn path_of(key: &DocumentKey) -> String {
    format!("/v1/config/{}/{}/{}", key.kind, key.namespace, key.name)
}

/// An answer's body as what it is.
fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, CliError> {
    serde_json::from_slice(body).map_err(|error| {
        CliError::plain(Exit::Bad, "the agent's answer is not understood")
            .cause(error.to_string())
            .help(["compare the releases of this program and of the agent: starling version"])
    })
}

/// What of a document somebody wants to see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wanted {
    /// What is in use.
    Used,
    /// The same, and a deletion too.
    Held,
}

/// A document as the agent has it; `None` when there is none.
fn look_up(client: &Client, key: &DocumentKey, wanted: Wanted) -> Result<Option<Envelope<Document>>, CliError> {
    let query = match wanted {
        Wanted::Used => "",
        Wanted::Held => "?held=true",
    };
    let answer = client.try_ask(Ask::get(&format!("{}{query}", path_of(key))))?;
    match answer.status {
        404 => Ok(None),
        400.. => Err(refusal(&answer)),
        _ => parse(&answer.body).map(Some),
    }
}

/// All documents in use, without their sources: the pages of the agent as one list.
fn list(client: &Client) -> Result<Envelope<DocumentPage>, CliError> {
    let mut whole: Option<Envelope<DocumentPage>> = None;
    let mut cursor = String::new();
    loop {
        let answer = client.ask(Ask::get(&format!("/v1/config?limit={PAGE}{cursor}")))?;
        let mut page: Envelope<DocumentPage> = parse(&answer.body)?;
        let next = page.body.next.take().filter(|_| !page.body.items.is_empty());
        match &mut whole {
            None => whole = Some(page),
            Some(whole) => whole.body.items.append(&mut page.body.items),
        }
        match (next, whole) {
            (Some(next), held) => (cursor, whole) = (format!("&cursor={next}"), held),
            (None, Some(whole)) => return Ok(whole),
            (None, None) => return Err(CliError::plain(Exit::Bad, "the agent's answer is not understood")),
        }
    }
}

/// No such document is in use: the nearest one that is.
fn not_in_use(client: &Client, key: &DocumentKey) -> CliError {
    let used = list(client).ok();
    let items = used.iter().flat_map(|page| &page.body.items);
    let same: Vec<&Document> = items.filter(|one| one.document_kind == key.kind.as_str()).collect();
    let elsewhere = same.iter().find(|one| one.name == key.name.as_str());
    let near = || {
        let name = starling_config::suggest(key.name.as_str(), same.iter().map(|one| one.name.as_str()))?;
        same.iter().find(|one| one.name == name)
    };
    let near = elsewhere.or_else(near).map(|one| format!("did you mean {}/{}?", one.namespace, one.name));
    CliError::coded(Exit::NotFound, codes::UNKNOWN_NAME, format!("no {key} is in use"))
        .help(near.into_iter().chain(["all that are in use:  starling get".to_owned()]))
}

#[cfg(test)]
mod tests;
