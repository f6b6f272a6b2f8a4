//! Handing signed documents to an agent: all of one batch are taken or none.

use http::Method;
use starling_model::{DocumentKey, codes};

use super::wait::{self, Awaited};
use super::{WaitArgs, Wanted, look_up, parse, signer_of};
use crate::api::server::BODY_BYTES_MAX;
use crate::api::views::{ApplyRequest, Document, DocumentPage, Envelope, Problem, SignedForm};
use crate::cli::client::{ANSWER_TIMEOUT, Answer, Ask, Client, refusal};
use crate::cli::errors::{CliError, Exit};
use crate::cli::output;
use crate::cli::table::clean;

/// Who took them.
pub(super) struct Accepted {
    node: String,
    documents: Vec<Document>,
}

/// Sends the documents of one batch.
///
/// # Errors
/// What the agent refused them for; a generation that came too late with who was faster and what to do.
pub(super) fn send(client: &Client, forms: Vec<SignedForm>, keys: &[DocumentKey]) -> Result<Accepted, CliError> {
    let json = output::to_json(&ApplyRequest { documents: forms })?;
    if json.len() > BODY_BYTES_MAX {
        let what = format!("the batch has {} bytes, an agent reads at most {BODY_BYTES_MAX}", json.len());
        return Err(CliError::coded(Exit::Refused, codes::API_LIMIT, what)
            .help(["apply the documents in parts; those of one part are used together"]));
    }
    // The agent reads all texts and keeps them on disk before it answers.
    let timeout = ANSWER_TIMEOUT.saturating_mul(4);
    let answer = client.try_ask(Ask { method: Method::PUT, path: "/v1/config", body: Some(json), timeout })?;
    if answer.status >= 400 {
        return Err(refused(client, &answer, keys));
    }
    let page: Envelope<DocumentPage> = parse(&answer.body)?;
    Ok(Accepted { node: page.view.node, documents: page.body.items })
}

/// The agent's refusal; of a generation that another one came before with who signed that, and what to do.
fn refused(client: &Client, answer: &Answer, keys: &[DocumentKey]) -> CliError {
    let error = refusal(answer);
    let Ok(problem) = serde_json::from_slice::<Problem>(&answer.body) else { return error };
    let code = match problem.code.as_str() {
        "ST0412" => codes::DOCUMENT_STALE,
        "ST0413" => codes::DOCUMENT_CONFLICT,
        _ => return error,
    };
    let of_first = |key: &&DocumentKey| problem.detail.starts_with(&format!("{key}: "));
    let Some(key) = keys.iter().find(of_first) else { return error };
    match look_up(client, key, Wanted::Held) {
        Ok(Some(held)) => too_late(code, key, &held.body, &problem.detail),
        Ok(None) | Err(_) => error,
    }
}

fn too_late(code: starling_model::Code, key: &DocumentKey, held: &Document, detail: &str) -> CliError {
    let what = if code == codes::DOCUMENT_STALE {
        format!("{key}: a later generation, {}, is in use in this mesh", held.generation)
    } else {
        format!("{key}: generation {} is signed with another content already", held.generation)
    };
    let ask = if held.deleted {
        "it is deleted; if it is to come back, apply its file again".to_owned()
    } else {
        let kind = held.document_kind.to_lowercase();
        format!("starling get {kind} {} -o yaml > r.yaml; edit; starling apply -f r.yaml", key_words(key))
    };
    CliError::coded(Exit::Refused, code, what)
        .cause(format!("last signed by operator key {} {}\n{detail}", signer_of(&held.signer), held.signed_at))
        .help([ask])
}

/// `orders`, `shop/orders`.
fn key_words(key: &DocumentKey) -> String {
    if key.namespace.as_str() == "default" { key.name.to_string() } else { format!("{}/{}", key.namespace, key.name) }
}

impl Accepted {
    /// What is to be in use everywhere.
    pub(super) fn awaited(&self) -> Result<Vec<Awaited>, CliError> {
        self.documents.iter().map(Awaited::of).collect()
    }
}

/// Tells who took the documents, and waits for the others if that is asked for.
///
/// # Errors
/// ST0413 when another content of the same generation won; exit 6 with the names of those that are behind.
pub(super) fn conclude(
    client: &Client,
    accepted: &Accepted,
    also: Vec<Awaited>,
    args: WaitArgs,
) -> Result<Exit, CliError> {
    let by = format!("accepted by {}", clean(&accepted.node));
    if !args.wait {
        return output::print(&format!("{by}\n"));
    }
    let mut awaited = accepted.awaited()?;
    awaited.extend(also);
    match wait::wait(client, &awaited, args.timeout) {
        Ok(done) => output::print(&format!("{by}; {done}\n")),
        Err(error) => {
            output::print(&format!("{by}\n"))?;
            Err(error)
        }
    }
}

/// The same for documents that are in use here already.
///
/// # Errors
/// As [`conclude`].
pub(super) fn settle(client: &Client, awaited: &[Awaited], args: WaitArgs) -> Result<Exit, CliError> {
    let done = wait::wait(client, awaited, args.timeout)?;
    output::print(&format!("{done}\n"))
}
