//! `/v1/config` and `/v1/trust`: what operators signed, as this node holds it, and the way in for more.
//!
//! The agent holds no operator's key. What comes in is judged by the trust bundle in force, kept on disk before it is
//! answered, and only then told to the mesh.

pub mod dry_run;
mod readable;
mod removed;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use axum::body::Body;
use axum::extract::{Path, RawQuery, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use starling_gossip::{DocumentView, RevocationView, SubmitProblem, SubmitRefused, Submitted, Void};
use starling_identity::CertificateList;
use starling_identity::chain::{Merged, UpdateRefused};
use starling_model::mesh::hex;
use starling_model::{Code, DocumentKey, Generation, KeyId, codes};
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::Shared;
use super::answer::{self, read};
use super::body::read_object;
use super::convergence::Laggards;
use super::problem::Refusal;
use super::query::Query;
use super::views::{
    ApplyRequest, BundleForm, Document, DocumentBatch, DocumentPage, DocumentVersion, Envelope, ProblemPart,
    SignedForm, Signer, Trust, TrustOperator, TrustRequest, TrustRevocation, kind,
};
use crate::mesh_view::MeshView;
use crate::store::Durability;
use crate::tasks::gossip::{AnyCase, History, MeshCommand, Submission};
use crate::telemetry::time::{Clocks, rfc3339_millis};

/// How long the mesh task may take to judge.
const DEADLINE: Duration = Duration::from_secs(10);
/// Bytes of an Ed25519 signature.
const SIGNATURE_BYTES: usize = 64;
const DOCUMENT_FORMAT: &str = "starling-document/1";
const REVOCATION_FORMAT: &str = "starling-revocation/1";
const BUNDLE_FORMAT: &str = "starling-bundle/1";
const CERTIFICATES_FORMAT: &str = "starling-certificates/1";

/// Which part of the documents an answer shows: those after a cursor, which is `Kind/namespace/name`.
#[derive(Clone, Debug)]
pub struct Page {
    limit: usize,
    after: Option<DocumentKey>,
}

impl Page {
    /// Reads `limit` and `cursor`.
    ///
    /// # Errors
    /// 400 when one of them is none.
    pub fn read(query: &Query) -> Result<Self, Refusal> {
        let after = match query.get("cursor") {
            None => None,
            Some(text) => Some(cursor_key(text).ok_or_else(|| {
                let text: String = text.chars().take(80).collect();
                Refusal::malformed(format!("cursor {text:?} is no Kind/namespace/name"))
            })?),
        };
        Ok(Self { limit: query.limit()?, after })
    }

    /// Its part of `documents`, which are in order, and the cursor of the next page.
    #[must_use]
    pub fn of<'a>(&self, documents: &'a [DocumentView]) -> (&'a [DocumentView], Option<String>) {
        let from = self.after.as_ref().map_or(0, |after| documents.partition_point(|one| one.key <= *after));
        let rest = documents.get(from..).unwrap_or_default();
        match rest.get(..self.limit).filter(|page| page.len() < rest.len()) {
            Some(page) => (page, page.last().map(|last| cursor(&last.key))),
            None => (rest, None),
        }
    }

    /// The path of the next page.
    #[must_use]
    pub fn link(&self, path: &str, cursor: &str) -> String {
        format!("{path}?cursor={cursor}&limit={}", self.limit)
    }
}

fn cursor(key: &DocumentKey) -> String {
    format!("{}/{}/{}", key.kind, key.namespace, key.name)
}

fn cursor_key(text: &str) -> Option<DocumentKey> {
    let mut parts = text.splitn(3, '/');
    DocumentKey::parse(parts.next()?, parts.next()?, parts.next()?).ok()
}

/// Documents in use, without their source.
///
/// # Errors
/// 400 for unknown parameters, and for a cursor that is none.
pub async fn list(
    State(state): State<Shared>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    let page = Page::read(&Query::read(query.as_deref(), &["limit", "cursor"])?)?;
    let view = state.view.load();
    let (documents, next) = page.of(&view.documents);
    let desk = Desk::of(&state);
    let items = documents.iter().map(|document| desk.show(document, Part::Head)).collect();
    let link = next.as_ref().map(|cursor| page.link("/v1/config", cursor));
    let answer = read(&state, &headers, kind::DOCUMENT_LIST, DocumentPage { items, next });
    Ok(answer::linked(answer, link.as_deref()))
}

/// One document with its source, its signed form and its history: as it is in use, or of one generation that is held.
/// A deletion that is in use is shown only with `held=true`: who signs the next generation has to know its number.
///
/// # Errors
/// 404 when no such document is in use, or when that generation is not held (any more); 503 when the mesh task does not
/// answer.
pub async fn get(
    State(state): State<Shared>,
    Path((what, namespace, name)): Path<(String, String, String)>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    let query = Query::read(query.as_deref(), &["generation", "held"])?;
    let generation = query.get("generation").map(read_generation).transpose()?;
    let held_too = match query.get("held") {
        None => false,
        Some("true") => true,
        Some(other) => return Err(Refusal::malformed(format!("held={other}: true is known"))),
    };
    let wanted = AnyCase { kind: what, namespace, name };
    let history = history(&state, wanted.clone()).await?;
    let shown = match generation {
        None => history.used.as_ref().filter(|used| held_too || !used.deleted),
        Some(generation) => history.versions.iter().find(|one| one.version.generation == generation),
    };
    match shown {
        Some(shown) => {
            let unread = readable::held_back(&state.bench, shown).await;
            let newest = history.used.as_ref().is_some_and(|used| used.version == shown.version);
            let view = state.view.load();
            let left_out = view.applied.held_back.get(&shown.key).filter(|_| newest);
            let held_back = unread.or_else(|| left_out.map(|held| held.why.to_string()));
            let document = Desk::of(&state).show(shown, Part::Whole(&history));
            Ok(read(&state, &headers, kind::DOCUMENT, Document { held_back, ..document }))
        }
        None => Err(not_held(&wanted, generation, &history)),
    }
}

/// All that is held of one document.
async fn history(state: &Shared, wanted: AnyCase) -> Result<History, Refusal> {
    let (reply, held) = oneshot::channel();
    if !state.mesh.offer(MeshCommand::History { wanted, reply }) {
        return Err(silent());
    }
    timeout(DEADLINE, held).await.map_err(|_| silent())?.map_err(|_| silent())
}

fn not_held(wanted: &AnyCase, generation: Option<Generation>, history: &History) -> Refusal {
    let held: BTreeSet<Generation> = history.versions.iter().map(|one| one.version.generation).collect();
    match generation {
        Some(generation) if !held.is_empty() => {
            let held: Vec<String> = held.iter().map(ToString::to_string).collect();
            Refusal::missing(format!("{wanted} generation {generation} is not held here"))
                .with_help(format!("held are {}", held.join(", ")))
        }
        Some(_) | None => {
            Refusal::missing(format!("no {wanted} is in use")).with_help("GET /v1/config lists what is in use")
        }
    }
}

fn read_generation(text: &str) -> Result<Generation, Refusal> {
    text.parse()
        .ok()
        .and_then(Generation::new)
        .ok_or_else(|| Refusal::malformed(format!("generation={text} is no number from 1")))
}

fn silent() -> Refusal {
    Refusal::new(StatusCode::SERVICE_UNAVAILABLE, codes::NOT_READY, "the mesh does not answer")
}

/// Takes the documents of one `apply`.
///
/// # Errors
/// 400 for a malformed body; 422 with every problem of every text when one of them is no document of its header; 403, 409,
/// 422 or 507 for what was refused, with each problem. Nothing of it is kept then.
pub async fn apply(State(state): State<Shared>, headers: HeaderMap, body: Body) -> Result<Response, Refusal> {
    let request: ApplyRequest = read_object(body, r#"{"documents": [{"format": "starling-document/1", …}]}"#).await?;
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
    let form: SignedForm =
        read_object(body, r#"{"format": "starling-document/1", "payload": …, "keyId": …, "signature": …}"#).await?;
    let bytes = sealed_document(&form)?;
    let document = starling_model::Document::read(&bytes[..bytes.len() - SIGNATURE_BYTES]);
    let named = AnyCase { kind: what, namespace, name };
    if document.is_ok_and(|(document, _)| !named.is(&document.key)) {
        return Err(Refusal::malformed(format!("the signed form is not of {named}")));
    }
    take(&state, &headers, vec![form]).await
}

async fn take(state: &Shared, headers: &HeaderMap, forms: Vec<SignedForm>) -> Result<Response, Refusal> {
    if forms.is_empty() {
        return Err(Refusal::malformed("no documents"));
    }
    let documents = forms.iter().map(sealed_document).collect::<Result<Vec<_>, _>>()?;
    readable::check(&state.bench, &documents).await?;
    let versions = submit(state, Submission::Documents(documents.clone())).await?;
    let views = documents.iter().zip(versions).filter_map(|(bytes, version)| view_of(bytes, version));
    let desk = Desk::of(state);
    let items = views.map(|view| desk.show(&view, Part::Head)).collect();
    let page = DocumentPage { items, next: None };
    let envelope = Envelope::new(kind::DOCUMENT_LIST, answer::view(state, &Clocks::read()), page);
    Ok(answer::render(headers, StatusCode::OK, &envelope))
}

/// A document that was just accepted: the next snapshot will hold it.
fn view_of(envelope: &Bytes, version: starling_model::DocumentVersion) -> Option<DocumentView> {
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

/// Takes a revocation, an update of the trust bundle, or renewed certificates for one that follows.
///
/// # Errors
/// As [`apply`].
pub async fn put_trust(State(state): State<Shared>, headers: HeaderMap, body: Body) -> Result<Response, Refusal> {
    let form = r#"{"revocation": {"format": "starling-revocation/1", …}} or {"bundle": {"format": "starling-bundle/1", …}} or {"certificates": {"format": "starling-certificates/1", …}}"#;
    let request: TrustRequest = read_object(body, form).await?;
    match (&request.revocation, &request.bundle, &request.certificates) {
        (Some(revocation), None, None) => {
            submit(&state, Submission::Revocation(sealed_revocation(revocation)?)).await?;
        }
        (None, Some(bundle), None) => update_bundle(&state, bundle).await?,
        (None, None, Some(certificates)) => take_certificates(&state, certificates).await?,
        _ => return Err(Refusal::malformed(format!("the body holds one of three: {form}"))),
    }
    let envelope = Envelope::new(kind::TRUST, answer::view(&state, &Clocks::read()), show_trust(&state));
    Ok(answer::render(&headers, StatusCode::OK, &envelope))
}

/// Hands an update of the bundle to the mesh task and waits until it is in force here.
async fn update_bundle(state: &Shared, form: &BundleForm) -> Result<(), Refusal> {
    if form.format != BUNDLE_FORMAT {
        return Err(Refusal::malformed(format!("format {:?}: {BUNDLE_FORMAT} is known", form.format)));
    }
    let file = BASE64.decode(&form.payload);
    let file = file.map_err(|error| Refusal::malformed(format!("payload is no base64: {error}")))?.into();
    let (reply, outcome) = oneshot::channel();
    if !state.mesh.offer(MeshCommand::Update { file, reply }) {
        return Err(silent());
    }
    match timeout(DEADLINE, outcome).await.map_err(|_| silent())?.map_err(|_| silent())? {
        Ok((Merged::Kept(fork), _)) => Err(Refusal::new(StatusCode::CONFLICT, fork.code(), fork.to_string())),
        Ok((_, Durability::Durable)) => Ok(()),
        Ok((_, Durability::Memory)) => Err(Refusal::not_durable(
            "it is in force and the other members hear of it, but this agent forgets it when it ends",
        )),
        Err(refused) => {
            let status = match refused {
                UpdateRefused::Unattached { .. } | UpdateRefused::Lists { .. } => StatusCode::CONFLICT,
                UpdateRefused::Unsigned { .. } => StatusCode::FORBIDDEN,
                UpdateRefused::TooMany(_)
                | UpdateRefused::TooLarge(_)
                | UpdateRefused::Invalid(_)
                | UpdateRefused::NotNext { .. } => StatusCode::UNPROCESSABLE_ENTITY,
            };
            let help = match refused {
                UpdateRefused::Unattached { .. } => Some(
                    "this agent lacks what comes before: hand over the updates of the folder that made it, one after the other (starling trust update)",
                ),
                UpdateRefused::Lists { .. } => {
                    Some("hand the lists over first: starling trust update does it from the folder that made them")
                }
                UpdateRefused::Unsigned { .. }
                | UpdateRefused::TooMany(_)
                | UpdateRefused::TooLarge(_)
                | UpdateRefused::Invalid(_)
                | UpdateRefused::NotNext { .. } => None,
            };
            let refusal = Refusal::new(status, refused.code(), refused.to_string());
            Err(match help {
                Some(help) => refusal.with_help(help),
                None => refusal,
            })
        }
    }
}

/// Hands a list of renewed node certificates to the mesh task; it counts once a bundle names it.
async fn take_certificates(state: &Shared, form: &BundleForm) -> Result<(), Refusal> {
    if form.format != CERTIFICATES_FORMAT {
        return Err(Refusal::malformed(format!("format {:?}: {CERTIFICATES_FORMAT} is known", form.format)));
    }
    let bytes = BASE64.decode(&form.payload);
    let bytes = bytes.map_err(|error| Refusal::malformed(format!("payload is no base64: {error}")))?;
    let list = CertificateList::decode(&bytes);
    let list = list.map_err(|invalid| {
        Refusal::new(StatusCode::UNPROCESSABLE_ENTITY, codes::BUNDLE_INVALID, invalid.to_string())
    })?;
    let (reply, outcome) = oneshot::channel();
    if !state.mesh.offer(MeshCommand::Certificates { list, reply }) {
        return Err(silent());
    }
    timeout(DEADLINE, outcome).await.map_err(|_| silent())?.map_err(|_| silent())
}

async fn submit(state: &Shared, what: Submission) -> Result<Vec<starling_model::DocumentVersion>, Refusal> {
    let (reply, outcome) = oneshot::channel();
    if !state.mesh.offer(MeshCommand::Submit { what, reply }) {
        return Err(silent());
    }
    let fate = timeout(DEADLINE, outcome).await.map_err(|_| silent())?.map_err(|_| silent())?;
    match (fate.outcome, fate.durability) {
        (Submitted::Accepted { versions }, Durability::Durable) => Ok(versions),
        (Submitted::Accepted { .. }, Durability::Memory) => Err(Refusal::not_durable(
            "it was accepted and the other members hear of it, but this agent forgets it when it ends",
        )),
        (Submitted::Refused { problems }, _) => Err(refused(&problems)),
    }
}

/// The first problem decides status and code; all are listed.
fn refused(problems: &[SubmitProblem]) -> Refusal {
    let (status, code) = problems
        .first()
        .map_or((StatusCode::UNPROCESSABLE_ENTITY, codes::BAD_REQUEST), |problem| verdict(&problem.why));
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

/// Status and code of one problem.
pub(crate) fn verdict(why: &SubmitRefused) -> (StatusCode, Code) {
    match why {
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

/// The signed bytes with the signature behind them, as they travel in the mesh. `signer` reads who signed out of the
/// payload; one that cannot be read is left to the mesh task, which says what is wrong with it.
fn sealed(form: &SignedForm, format: &str, signer: impl Fn(&[u8]) -> Option<KeyId>) -> Result<Bytes, Refusal> {
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
    if let Some(signer) = signer(&bytes).filter(|signer| signer.to_string() != form.key_id) {
        let detail = format!("keyId is {:?}, but the payload says that {signer} signed it", form.key_id);
        return Err(Refusal::malformed(detail));
    }
    bytes.extend_from_slice(&signature);
    Ok(bytes.into())
}

fn sealed_document(form: &SignedForm) -> Result<Bytes, Refusal> {
    sealed(form, DOCUMENT_FORMAT, |body| Some(starling_model::Document::read(body).ok()?.0.signer))
}

fn sealed_revocation(form: &SignedForm) -> Result<Bytes, Refusal> {
    sealed(form, REVOCATION_FORMAT, |body| Some(starling_model::Revocation::read(body).ok()?.signer))
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

fn signer(state: &Shared, key: KeyId) -> Signer {
    let bundle = state.identity.bundle();
    let name = bundle.operators.iter().find(|operator| operator.id == key.0).map(|operator| operator.name.clone());
    Signer { key_id: key.to_string(), name }
}

fn signed_at(unix_millis: i64) -> String {
    let since = Duration::from_millis(u64::try_from(unix_millis).unwrap_or(0));
    rfc3339_millis(SystemTime::UNIX_EPOCH + since)
}

/// How much of a document an answer shows.
#[derive(Clone, Copy)]
enum Part<'a> {
    /// In a list: neither source nor history.
    Head,
    /// By itself, with what is held of it.
    Whole(&'a History),
}

/// What every document of one answer is shown by.
struct Desk<'a> {
    state: &'a Shared,
    view: Arc<MeshView>,
    behind: Laggards,
}

impl<'a> Desk<'a> {
    fn of(state: &'a Shared) -> Self {
        let view = state.view.load_full();
        let behind = Laggards::of(&view);
        Self { state, view, behind }
    }

    fn show(&self, document: &DocumentView, part: Part<'_>) -> Document {
        let (state, view) = (self.state, &self.view);
        let generation = document.version.generation;
        let (conflict, history) = match part {
            Part::Head => {
                let contents = view.conflicts.get(&document.key).map(Vec::as_slice).unwrap_or_default();
                let is_shown = contents.iter().any(|one| one.version == document.version);
                let briefs = || contents.iter().map(|one| brief(state, one, contents, &view.documents)).collect();
                (is_shown.then(briefs), None)
            }
            Part::Whole(held) => {
                let all: Vec<DocumentVersion> =
                    held.versions.iter().map(|one| brief(state, one, &held.versions, held.used.as_slice())).collect();
                let with_source = |(one, version): (&DocumentView, &DocumentVersion)| DocumentVersion {
                    source: Some(text_of(one)),
                    ..version.clone()
                };
                let contents = held.versions.iter().zip(&all).filter(|(one, _)| one.version.generation == generation);
                let contents: Vec<DocumentVersion> = contents.map(with_source).collect();
                ((contents.len() > 1).then_some(contents), Some(all))
            }
        };
        let is_whole = history.is_some();
        Document {
            document_kind: document.key.kind.to_string(),
            namespace: document.key.namespace.to_string(),
            name: document.key.name.to_string(),
            generation: generation.get(),
            deleted: document.deleted,
            batch: document.batch.map(|batch| DocumentBatch { hash: batch.id.to_string(), count: batch.count.get() }),
            signer: signer(state, document.version.signer),
            signed_at: signed_at(document.signed_at),
            digest: document.version.hash.to_string(),
            held_back: None,
            in_use: self.behind.in_use(&document.key, generation),
            conflict,
            history,
            source: is_whole.then(|| text_of(document)),
            envelope: is_whole.then(|| form_of(DOCUMENT_FORMAT, document.version.signer, &document.envelope)),
        }
    }
}

fn text_of(document: &DocumentView) -> String {
    String::from_utf8_lossy(&document.text).into_owned()
}

/// One of the versions `all` of a document; `used` holds the one in use.
fn brief(state: &Shared, one: &DocumentView, all: &[DocumentView], used: &[DocumentView]) -> DocumentVersion {
    let generation = one.version.generation;
    DocumentVersion {
        generation: generation.get(),
        deleted: one.deleted,
        signer: signer(state, one.version.signer),
        signed_at: signed_at(one.signed_at),
        digest: one.version.hash.to_string(),
        in_use: used.iter().any(|used| used.key == one.key && used.version == one.version),
        conflict: all.iter().filter(|other| other.version.generation == generation).count() > 1,
        source: None,
    }
}

fn show_trust(state: &Shared) -> Trust {
    let bundle = state.identity.bundle();
    let operators = bundle.operators.iter().map(|operator| TrustOperator {
        key_id: operator.key_id(),
        name: operator.name.clone(),
        roles: operator.roles.to_string(),
        public_key: hex(&operator.key),
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
        mesh_id: hex(&bundle.mesh_id.0),
        bundle_sequence: bundle.sequence,
        bundle_hash: hex(&bundle.hash()),
        operators: operators.collect(),
        revocations: state.view.load().revocations.iter().map(revocation).collect(),
        holding: Some(state.view.load().holding()),
    }
}
