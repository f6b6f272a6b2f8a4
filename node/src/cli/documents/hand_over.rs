//! Handing signed documents to an agent: all of one batch are taken or none.

use std::time::Duration;

use http::Method;
use starling_model::{DocumentKey, codes};

use super::wait::{self, Awaited};
use super::{WaitArgs, Wanted, look_up, parse, signer_of};
use crate::api::server::BODY_BYTES_MAX;
use crate::api::views::{ApplyRequest, Document, DocumentPage, Envelope, Problem, SignedForm};
use crate::cli::client::{ANSWER_TIMEOUT, Answer, Ask, AskError, Client, no_answer, refusal};
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
    // The agent reads all texts and keeps them on disk before it answers.
    send_within(client, forms, keys, ANSWER_TIMEOUT.saturating_mul(4))
}

/// What an agent is sent.
///
/// # Errors
/// ST0308 when it is more than one reads.
pub(super) fn body(forms: Vec<SignedForm>) -> Result<Vec<u8>, CliError> {
    let json = output::to_json(&ApplyRequest { documents: forms })?;
    if json.len() > BODY_BYTES_MAX {
        let what = format!("the batch has {} bytes, an agent reads at most {BODY_BYTES_MAX}", json.len());
        return Err(CliError::coded(Exit::Refused, codes::API_LIMIT, what)
            .help(["apply the documents in parts; those of one part are used together"]));
    }
    Ok(json)
}

fn send_within(
    client: &Client,
    forms: Vec<SignedForm>,
    keys: &[DocumentKey],
    timeout: Duration,
) -> Result<Accepted, CliError> {
    let ask = Ask { method: Method::PUT, path: "/v1/config", body: Some(body(forms)?), timeout };
    let answer = match client.try_ask_once(ask) {
        Ok(answer) => answer,
        Err(AskError::TimedOut(after)) => return Err(unanswered(client, after)),
        Err(error) => return Err(no_answer(client.address(), &error)),
    };
    if answer.status >= 400 {
        return Err(refused(client, &answer, keys));
    }
    let page: Envelope<DocumentPage> = parse(&answer.body)?;
    Ok(Accepted { node: page.view.node, documents: page.body.items })
}

/// The agent was there and may have taken the documents.
fn unanswered(client: &Client, after: Duration) -> CliError {
    let waited = starling_config::duration::format(after);
    let what = format!("the agent at {} did not say within {waited} whether it took the documents", client.address());
    CliError::plain(Exit::TimedOut, what).help([
        "what is in use:  starling get     how the agent is:  starling status",
        "apply the same again when it answers: what it took is not signed again",
    ])
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
    let waits = held.history.iter().flatten().all(|version| !version.in_use);
    let what = if waits && held.history.as_ref().is_some_and(|all| !all.is_empty()) {
        format!("{key}: generation {} is held in this mesh, and waits for the others of its batch", held.generation)
    } else if code == codes::DOCUMENT_STALE {
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

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;
    use crate::cli::address::Address;

    fn form(payload: usize) -> SignedForm {
        let (format, key_id) = ("starling-document/1".to_owned(), "k1".to_owned());
        SignedForm { format, payload: "a".repeat(payload), key_id, signature: String::new() }
    }

    #[test]
    fn one_byte_more_than_an_agent_reads_is_told_before_it_is_sent_or_written() {
        let around = body(vec![form(0)]).unwrap().len();
        assert_eq!(body(vec![form(BODY_BYTES_MAX - around)]).unwrap().len(), BODY_BYTES_MAX);
        let error = body(vec![form(BODY_BYTES_MAX - around + 1)]).unwrap_err();
        assert_eq!((error.exit(), error.code()), (Exit::Refused, Some(codes::API_LIMIT)));
    }

    #[test]
    fn an_agent_that_does_not_answer_in_time_is_not_taken_for_none() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("api.sock");
        let _silent = UnixListener::bind(&path).unwrap();
        let client = Client::new(Address::Unix(path)).unwrap();
        let told = send_within(&client, vec![form(1)], &[], Duration::from_millis(50));
        let error = told.map(|_| ()).unwrap_err();
        assert_eq!((error.exit(), error.code()), (Exit::TimedOut, None));
        assert!(error.what().contains("did not say within 50ms whether it took the documents"), "{}", error.what());
        let nobody = Client::new(Address::Unix(folder.path().join("none"))).unwrap();
        let told = send_within(&nobody, vec![form(1)], &[], Duration::from_millis(50));
        assert_eq!(told.map(|_| ()).unwrap_err().exit(), Exit::NoAgent);
    }
}
