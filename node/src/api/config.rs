//! `/v1/config` and `/v1/trust`: what operators signed, as this node holds it, and the way in for more.
//!
//! The agent holds no operator's key. What comes in is judged by the trust bundle in force, kept on disk before it is
//! answered, and only then told to the mesh.

use std::time::{Duration, SystemTime};

use axum::body::{Body, to_bytes};
use axum::extract::{Path, RawQuery, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use serde::de::DeserializeOwned;
use starling_gossip::{DocumentView, RevocationView, SubmitProblem, SubmitRefused, Submitted, Void};
use starling_model::{Code, DocumentKey, DocumentVersion, KeyId, codes};
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::Shared;
use super::answer::{self, read};
use super::problem::Refusal;
use super::query::Query;
use super::server::BODY_BYTES_MAX;
use super::views::{
    ApplyRequest, Document, DocumentBatch, Envelope, InUse, Items, ProblemPart, SignedForm, Signer, Trust,
    TrustOperator, TrustRequest, TrustRevocation, kind,
};
use crate::tasks::gossip::{MeshCommand, Submission};
use crate::telemetry::time::{Clocks, rfc3339_millis};

/// How long a body may take to arrive, and the mesh task to judge.
const DEADLINE: Duration = Duration::from_secs(10);
/// Bytes of an Ed25519 signature.
const SIGNATURE_BYTES: usize = 64;
const DOCUMENT_FORMAT: &str = "starling-document/1";
const REVOCATION_FORMAT: &str = "starling-revocation/1";

/// Documents in use, without their source.
///
/// # Errors
/// 400 for unknown parameters.
pub async fn list(
    State(state): State<Shared>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    Query::read(query.as_deref(), &[])?;
    let view = state.view.load();
    let items = view.documents.iter().map(|document| show(&state, document, false)).collect();
    Ok(read(&state, &headers, kind::DOCUMENT_LIST, Items::<Document> { items }))
}

/// One document as it is in use, with its source and signed form.
///
/// # Errors
/// 404 when no such document is in use.
pub async fn get(
    State(state): State<Shared>,
    Path((what, namespace, name)): Path<(String, String, String)>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    Query::read(query.as_deref(), &[])?;
    let view = state.view.load();
    let wanted = |document: &&DocumentView| names(&document.key, &what, &namespace, &name);
    let document = view.documents.iter().find(wanted).ok_or_else(|| {
        Refusal::missing(format!("no {what} {namespace}/{name} is in use")).with_help("GET /v1/config lists what is")
    })?;
    Ok(read(&state, &headers, kind::DOCUMENT, show(&state, document, true)))
}

/// Takes the documents of one `apply`.
///
/// # Errors
/// 400 for a malformed body; 403, 409, 422 or 507 for what was refused, with each problem; then nothing is kept.
pub async fn apply(State(state): State<Shared>, headers: HeaderMap, body: Body) -> Result<Response, Refusal> {
    let request: ApplyRequest = read_json(body).await?;
    take(&state, &headers, request.documents).await
}

/// Takes one document under its name.
///
/// # Errors
/// As [`apply`]; 400 too when the signed form is of another document than the path.
pub async fn put(
    State(state): State<Shared>,
    Path((what, namespace, name)): Path<(String, String, String)>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Refusal> {
    let form: SignedForm = read_json(body).await?;
    let bytes = sealed(&form, DOCUMENT_FORMAT)?;
    let document = starling_model::Document::read(&bytes[..bytes.len() - SIGNATURE_BYTES]);
    if document.is_ok_and(|(document, _)| !names(&document.key, &what, &namespace, &name)) {
        return Err(Refusal::malformed(format!("the signed form is not of {what} {namespace}/{name}")));
    }
    take(&state, &headers, vec![form]).await
}

async fn take(state: &Shared, headers: &HeaderMap, forms: Vec<SignedForm>) -> Result<Response, Refusal> {
    if forms.is_empty() {
        return Err(Refusal::malformed("no documents"));
    }
    let documents = forms.iter().map(|form| sealed(form, DOCUMENT_FORMAT)).collect::<Result<Vec<_>, _>>()?;
    let versions = submit(state, Submission::Documents(documents.clone())).await?;
    let views = documents.iter().zip(versions).filter_map(|(bytes, version)| view_of(bytes, version));
    let items = views.map(|view| show(state, &view, false)).collect();
    let envelope =
        Envelope::new(kind::DOCUMENT_LIST, answer::view(state, &Clocks::read()), Items::<Document> { items });
    Ok(answer::render(headers, StatusCode::OK, &envelope))
}

/// A document that was just accepted: the next snapshot will hold it.
fn view_of(envelope: &Bytes, version: DocumentVersion) -> Option<DocumentView> {
    let body = envelope.get(..envelope.len().checked_sub(SIGNATURE_BYTES)?)?;
    let (document, text) = starling_model::Document::read(body).ok()?;
    Some(DocumentView {
        version,
        schema: document.schema,
        signed_at: document.signed_at,
        deleted: document.deleted,
        batch: document.batch,
        text: Bytes::copy_from_slice(text.as_bytes()),
        envelope: envelope.clone(),
        key: document.key,
    })
}

/// The bundle's operators and the revocations in force.
///
/// # Errors
/// 400 for unknown parameters.
pub async fn trust(
    State(state): State<Shared>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    Query::read(query.as_deref(), &[])?;
    Ok(read(&state, &headers, kind::TRUST, show_trust(&state)))
}

/// Takes a revocation.
///
/// # Errors
/// As [`apply`].
pub async fn put_trust(State(state): State<Shared>, headers: HeaderMap, body: Body) -> Result<Response, Refusal> {
    let request: TrustRequest = read_json(body).await?;
    submit(&state, Submission::Revocation(sealed(&request.revocation, REVOCATION_FORMAT)?)).await?;
    let envelope = Envelope::new(kind::TRUST, answer::view(&state, &Clocks::read()), show_trust(&state));
    Ok(answer::render(&headers, StatusCode::OK, &envelope))
}

async fn submit(state: &Shared, what: Submission) -> Result<Vec<DocumentVersion>, Refusal> {
    let gone = || Refusal::new(StatusCode::SERVICE_UNAVAILABLE, codes::NOT_READY, "the mesh does not answer");
    let (reply, outcome) = oneshot::channel();
    if !state.mesh.offer(MeshCommand::Submit { what, reply }) {
        return Err(gone());
    }
    match timeout(DEADLINE, outcome).await.map_err(|_| gone())?.map_err(|_| gone())? {
        Submitted::Accepted { versions } => Ok(versions),
        Submitted::Refused { problems } => Err(refused(&problems)),
    }
}

/// The first problem decides status and code; all are listed.
fn refused(problems: &[SubmitProblem]) -> Refusal {
    let (status, code) = problems.first().map_or((StatusCode::UNPROCESSABLE_ENTITY, codes::BAD_REQUEST), verdict);
    let tell = |problem: &SubmitProblem| {
        let key = problem.key.as_ref().map(|key| format!("{key}: ")).unwrap_or_default();
        let cause = match &problem.why {
            SubmitRefused::Invalid(invalid) => format!(": {invalid}"),
            SubmitRefused::Void(_)
            | SubmitRefused::Stale { .. }
            | SubmitRefused::Conflict { .. }
            | SubmitRefused::Superseded { .. }
            | SubmitRefused::NotOneBatch
            | SubmitRefused::Full
            | SubmitRefused::Unjudged => String::new(),
        };
        format!("{key}{}{cause}", problem.why)
    };
    let detail = problems.first().map(tell).unwrap_or_default();
    let mut refusal = Refusal::new(status, code, detail);
    refusal.errors = problems
        .iter()
        .map(|problem| ProblemPart {
            pointer: Some(format!("#/documents/{}", problem.index)),
            line: None,
            column: None,
            detail: tell(problem),
        })
        .collect();
    refusal
}

fn verdict(problem: &SubmitProblem) -> (StatusCode, Code) {
    match problem.why {
        SubmitRefused::Invalid(_) | SubmitRefused::NotOneBatch => {
            (StatusCode::UNPROCESSABLE_ENTITY, codes::BAD_REQUEST)
        }
        SubmitRefused::Void(Void::UnknownKey | Void::BadSignature) => (StatusCode::FORBIDDEN, codes::SIGNATURE_INVALID),
        SubmitRefused::Void(Void::Role) => (StatusCode::FORBIDDEN, codes::ROLE_MISSING),
        SubmitRefused::Stale { .. } | SubmitRefused::Superseded { .. } => (StatusCode::CONFLICT, codes::DOCUMENT_STALE),
        SubmitRefused::Conflict { .. } => (StatusCode::CONFLICT, codes::DOCUMENT_CONFLICT),
        SubmitRefused::Full => (StatusCode::INSUFFICIENT_STORAGE, codes::API_LIMIT),
        SubmitRefused::Unjudged => (StatusCode::SERVICE_UNAVAILABLE, codes::NOT_READY),
    }
}

async fn read_json<T: DeserializeOwned>(body: Body) -> Result<T, Refusal> {
    let bytes = match timeout(DEADLINE, to_bytes(body, BODY_BYTES_MAX)).await {
        Ok(Ok(bytes)) => bytes,
        Ok(Err(_)) => {
            let detail = "the body is over 1 MiB, or broke off";
            return Err(Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, codes::API_LIMIT, detail));
        }
        Err(_elapsed) => {
            return Err(Refusal::new(StatusCode::REQUEST_TIMEOUT, codes::API_LIMIT, "the body did not arrive in 10 s"));
        }
    };
    serde_json::from_slice(&bytes).map_err(|error| Refusal::malformed(error.to_string()))
}

/// The signed bytes with the signature behind them, as they travel in the mesh.
fn sealed(form: &SignedForm, format: &str) -> Result<Bytes, Refusal> {
    if form.format != format {
        return Err(Refusal::malformed(format!("format {:?}: {format} is known", form.format)));
    }
    let decode = |what: &str, text: &str| {
        BASE64.decode(text).map_err(|error| Refusal::malformed(format!("{what} is no base64: {error}")))
    };
    let mut bytes = decode("payload", &form.payload)?;
    let signature = decode("signature", &form.signature)?;
    if signature.len() != SIGNATURE_BYTES {
        return Err(Refusal::malformed(format!("the signature has {} bytes, not {SIGNATURE_BYTES}", signature.len())));
    }
    bytes.extend_from_slice(&signature);
    Ok(bytes.into())
}

fn form_of(format: &str, key: KeyId, envelope: &Bytes) -> SignedForm {
    let (payload, signature) = envelope.split_at(envelope.len().saturating_sub(SIGNATURE_BYTES));
    SignedForm {
        format: format.to_owned(),
        payload: BASE64.encode(payload),
        key_id: key.to_string(),
        signature: BASE64.encode(signature),
    }
}

/// Kinds are named in any case, as people type them.
fn names(key: &DocumentKey, what: &str, namespace: &str, name: &str) -> bool {
    key.kind.as_str().eq_ignore_ascii_case(what) && key.namespace.as_str() == namespace && key.name.as_str() == name
}

fn signer(state: &Shared, key: KeyId) -> Signer {
    let bundle = state.identity.bundle();
    let name = bundle.operators.iter().find(|operator| operator.id == key.0).map(|operator| operator.name.clone());
    Signer { key_id: key.to_string(), name }
}

fn signed_at(unix_millis: i64) -> String {
    let since = Duration::from_millis(u64::try_from(unix_millis).unwrap_or(0));
    rfc3339_millis(SystemTime::UNIX_EPOCH + since)
}

fn show(state: &Shared, document: &DocumentView, whole: bool) -> Document {
    let agreement = state.view.load().agreement();
    Document {
        document_kind: document.key.kind.to_string(),
        namespace: document.key.namespace.to_string(),
        name: document.key.name.to_string(),
        generation: document.version.generation.get(),
        deleted: document.deleted,
        batch: document.batch.map(|batch| DocumentBatch { hash: batch.id.to_string(), count: batch.count.get() }),
        signer: signer(state, document.version.signer),
        signed_at: signed_at(document.signed_at),
        digest: document.version.hash.to_string(),
        in_use: InUse { alive: agreement.alive, same: agreement.same },
        source: whole.then(|| String::from_utf8_lossy(&document.text).into_owned()),
        envelope: whole.then(|| form_of(DOCUMENT_FORMAT, document.version.signer, &document.envelope)),
    }
}

fn show_trust(state: &Shared) -> Trust {
    let bundle = state.identity.bundle();
    let operators = bundle.operators.iter().map(|operator| TrustOperator {
        key_id: operator.key_id(),
        name: operator.name.clone(),
        roles: operator.roles.to_string(),
    });
    let revocation = |view: &RevocationView| TrustRevocation {
        node: view.revocation.node.to_string(),
        number: view.revocation.number,
        kept: view.revocation.kept.len(),
        reason: view.revocation.reason.clone(),
        signer: signer(state, view.revocation.signer),
        signed_at: signed_at(view.revocation.signed_at),
    };
    Trust {
        bundle_sequence: bundle.sequence,
        operators: operators.collect(),
        revocations: state.view.load().revocations.iter().map(revocation).collect(),
    }
}
