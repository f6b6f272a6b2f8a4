//! The texts in which operators steer traffic: one YAML file holds several documents, separated by `---`.
//!
//! [`split`] cuts a file into its documents and bounds each of them, before any YAML is read. A marker at the start of
//! a line ends a document wherever it stands: no scalar may hold one there (YAML 1.2.2, 9.1.2), so cutting by lines is
//! exact. [`parse`] makes typed documents of a file, or lists everything that is wrong in it; a file is accepted whole or
//! not at all. The types have the field's own names: routes are Gateway API v1, Services those of Kubernetes, and
//! `starling/v1` adds what neither has.
//!
//! Each document is checked by itself. What needs others (attachment, references, precedence) is for who compiles them.
#![deny(clippy::expect_used, clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use starling_model::DocumentKey;
use starling_model::codes::{self, Level};

use crate::problem::{PROBLEMS_MAX, Place, Problem, finish};
use crate::source::{At, Source};
use crate::tree::Value;
use crate::yaml;
use fields::{Budget, Reading};
use limits::{DOCUMENT_TEXT_BYTES_MAX, DOCUMENTS_MAX, FILE_BYTES_MAX};

pub mod cors;
pub mod diff;
mod fields;
pub mod filter;
pub mod gateway;
pub mod grant;
pub mod grpc_route;
pub mod http_route;
pub mod l4_route;
pub mod limits;
pub mod mesh_config;
mod meta;
pub mod route;
pub mod rule_policy;
pub mod service;
pub mod starling_service;
mod text;
pub mod traffic_policy;

pub use gateway::Gateway;
pub use grant::ServiceGrant;
pub use grpc_route::GrpcRoute;
pub use http_route::HttpRoute;
pub use l4_route::{TcpRoute, TlsRoute};
pub use mesh_config::{GrantMode, MeshConfig};
pub use meta::{ApiVersion, kinds};
pub use service::CoreService;
pub use starling_service::StarlingService;
pub use traffic_policy::BackendTrafficPolicy;

/// One document that can be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Document {
    /// Names it for ever; `apiVersion` is not part of it.
    pub key: DocumentKey,
    /// Whose rules it follows.
    pub version: ApiVersion,
    /// The operator's own, kept and not looked at.
    pub labels: BTreeMap<String, String>,
    /// The operator's own, kept and not looked at.
    pub annotations: BTreeMap<String, String>,
    /// What it says.
    pub spec: Spec,
    /// The document as it stands in its file, byte for byte, comments included: what is signed and spread.
    pub text: String,
    /// The file, as its path was given.
    pub file: String,
    /// The line of its file at which the text begins, from 1.
    pub line: usize,
    /// What is right and yet hardly meant.
    pub warnings: Vec<Problem>,
}

/// What a document says, by kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Spec {
    /// HTTP requests.
    HttpRoute(HttpRoute),
    /// gRPC calls.
    GrpcRoute(GrpcRoute),
    /// TCP connections.
    TcpRoute(TcpRoute),
    /// TLS connections, passed on as they are.
    TlsRoute(TlsRoute),
    /// A Service as Kubernetes writes it.
    CoreService(CoreService),
    /// A Service with what only we have.
    StarlingService(StarlingService),
    /// What holds for all requests to a service.
    BackendTrafficPolicy(BackendTrafficPolicy),
    /// Who may announce services, and call as them.
    ServiceGrant(ServiceGrant),
    /// What holds for the whole mesh.
    MeshConfig(MeshConfig),
    /// Where connections from outside the mesh come in.
    Gateway(Gateway),
    /// Of a kind of `starling/v1` that a later release reads: kept, without effect.
    Unread,
}

impl Document {
    /// Where a value stands in the document's file, by its JSON pointer (RFC 6901): of the pointer's longest part that is
    /// there. `None` only for a text that is not this document's.
    #[must_use]
    pub fn place(&self, pointer: &str) -> Option<Place> {
        // Empty lines stand for what precedes the document in its file.
        let above = "\n".repeat(self.line.saturating_sub(1));
        let text = format!("{above}{}", self.text);
        let source = Arc::new(Source::file(&self.file, &text));
        let root = yaml::parse(&source, &text, &(above.len()..text.len())).ok()?;
        let mut node = &root;
        let mut at = At { source: Arc::clone(&source), span: above.len()..above.len() };
        for token in pointer.split('/').skip(1) {
            match &node.value {
                Value::Table(table) => {
                    let Some(entry) = table.get(&token.replace("~1", "/").replace("~0", "~")) else { break };
                    (node, at) = (&entry.node, entry.key_at.clone());
                }
                Value::Array(items) => {
                    let Some(item) = token.parse().ok().and_then(|place: usize| items.get(place)) else { break };
                    (node, at) = (item, item.at.clone());
                }
                Value::String(_) | Value::Integer(_) | Value::Other(..) | Value::Boolean(_) => break,
            }
        }
        at.place()
    }
}

/// Reads one file; `path` is only shown.
///
/// # Errors
/// As [`parse_all`].
pub fn parse(path: &str, text: &str) -> Result<Vec<Document>, Vec<Problem>> {
    parse_all(&[(path.to_owned(), text.to_owned())])
}

/// Reads files that are given together, as path and text; a document may stand in one of them only.
///
/// # Errors
/// Every problem of all files, in the order of files and lines, warnings included; then nothing of them counts.
pub fn parse_all(files: &[(String, String)]) -> Result<Vec<Document>, Vec<Problem>> {
    let mut documents = Vec::new();
    let (mut errors, mut warnings) = (Vec::new(), Vec::new());
    let mut budget = Budget::default();
    for (path, text) in files {
        let mut told = parse_file(path, text, &mut documents, &mut budget);
        // What has no line says something of the whole file and stands last.
        told.sort_by_key(|problem| (problem.line().unwrap_or(usize::MAX), problem.column()));
        let (bad, hardly_meant): (Vec<_>, Vec<_>) =
            told.into_iter().partition(|problem| problem.code.level == Level::Error);
        errors.extend(bad);
        warnings.extend(hardly_meant);
        if errors.len() > PROBLEMS_MAX {
            break;
        }
    }
    if errors.is_empty() {
        return Ok(documents);
    }
    warnings.extend(documents.into_iter().flat_map(|document| document.warnings));
    finish(&mut errors, codes::BAD_DOCUMENT);
    // No number of warnings hides an error.
    let room = PROBLEMS_MAX.saturating_sub(errors.len());
    if warnings.len() > room {
        warnings.truncate(room);
        warnings.push(Problem::new(codes::DOCUMENT_IDLE, "further warnings are not listed"));
    }
    errors.append(&mut warnings);
    let file =
        |problem: &Problem| files.iter().position(|(path, _)| problem.file() == Some(path)).unwrap_or(usize::MAX);
    errors.sort_by_key(|problem| (file(problem), problem.line().unwrap_or(usize::MAX), problem.column()));
    Err(errors)
}

/// Adds the documents of one file to those of the files before it; returns what is wrong in it.
fn parse_file(path: &str, text: &str, documents: &mut Vec<Document>, budget: &mut Budget) -> Vec<Problem> {
    if text.len() > FILE_BYTES_MAX {
        let message = format!("{path} has {} bytes, at most {FILE_BYTES_MAX} are read", text.len());
        return vec![Problem::new(codes::BAD_DOCUMENT, message)];
    }
    let stretches = match split(path, text) {
        Ok(stretches) => stretches,
        Err(problems) => return problems,
    };
    let source = Arc::new(Source::file(path, text));
    let mut problems = Vec::new();
    for span in stretches {
        match document(&source, text, &span, budget) {
            Ok(document) => {
                problems.extend(documents.iter().find(|held| held.key == document.key).map(|held| {
                    let at = At { source: Arc::clone(&source), span: span.start..span.start };
                    Problem {
                        place: at.place(),
                        note: Some(format!("the first one begins at {}:{}", held.file, held.line)),
                        ..Problem::new(codes::DOCUMENT_TWICE, format!("{} stands here twice", document.key))
                    }
                }));
                documents.push(Document { file: path.to_owned(), ..document });
            }
            Err(told) => problems.extend(told),
        }
        // Finding the line of each problem costs, and more of them have a cause that the first ones show.
        if problems.iter().filter(|problem| problem.code.level == Level::Error).count() > PROBLEMS_MAX {
            break;
        }
    }
    problems
}

fn document(
    source: &Arc<Source>,
    text: &str,
    span: &Range<usize>,
    budget: &mut Budget,
) -> Result<Document, Vec<Problem>> {
    let node = yaml::parse(source, text, span)?;
    let mut reading = Reading::new(std::mem::take(budget));
    let read = fields::read(&mut reading, &node, meta::document);
    let Reading { mut errors, mut warnings, budget: left, .. } = reading;
    *budget = left;
    let in_order = |problems: &mut Vec<Problem>| problems.sort_by_key(|problem| (problem.line(), problem.column()));
    match read {
        Some(read) if errors.is_empty() => {
            in_order(&mut warnings);
            let meta::Read { version, key, labels, annotations, spec } = read;
            let body = text.get(span.clone()).unwrap_or_default().to_owned();
            let line = At { source: Arc::clone(source), span: span.clone() }.line();
            Ok(Document { key, version, labels, annotations, spec, text: body, file: String::new(), line, warnings })
        }
        Some(_) | None => {
            if errors.is_empty() {
                // Whoever gives up tells why; should one forget, the document is refused all the same.
                errors.push(Problem::new(codes::BAD_DOCUMENT, "the document lacks something that its kind needs"));
            }
            errors.append(&mut warnings);
            Err(errors)
        }
    }
}

/// The stretch of each document in `text`, in bytes and in order, without the markers; documents with nothing but blank
/// lines, comments and directives are left out.
///
/// # Errors
/// Every document over [`DOCUMENT_TEXT_BYTES_MAX`], with its first line; or one problem when there are more than
/// [`DOCUMENTS_MAX`].
pub fn split(path: &str, text: &str) -> Result<Vec<Range<usize>>, Vec<Problem>> {
    let stretches = stretches(text);
    let source = Arc::new(Source::file(path, text));
    let told = |span: &Range<usize>, message: String, help: &str| Problem {
        place: At { source: Arc::clone(&source), span: span.clone() }.place(),
        help: Some(help.to_owned()),
        ..Problem::new(codes::BAD_DOCUMENT, message)
    };
    if let Some(first_over) = stretches.get(DOCUMENTS_MAX) {
        let message = format!("{} documents stand in one file, at most {DOCUMENTS_MAX} are read", stretches.len());
        return Err(vec![told(first_over, message, "put the rest into another file")]);
    }
    let alone = text
        .match_indices('\r')
        .map(|(at, _)| at)
        .find(|at| !text.get(at.saturating_add(1)..).is_some_and(|rest| rest.starts_with('\n')));
    if let Some(at) = alone {
        let message = "a carriage return stands without a line feed".to_owned();
        return Err(vec![told(&(at..at), message, "end each line with a line feed")]);
    }
    let too_large = stretches.iter().filter(|span| span.len() > DOCUMENT_TEXT_BYTES_MAX).map(|span| {
        let message = format!("the document has {} bytes, at most {DOCUMENT_TEXT_BYTES_MAX} are allowed", span.len());
        told(span, message, "split its rules over several documents")
    });
    let mut problems: Vec<Problem> = too_large.collect();
    finish(&mut problems, codes::BAD_DOCUMENT);
    if problems.is_empty() { Ok(stretches) } else { Err(problems) }
}

fn stretches(text: &str) -> Vec<Range<usize>> {
    let mut found = Vec::new();
    let mut start = 0_usize;
    let mut at = 0_usize;
    for line in text.split_inclusive('\n') {
        let after = at.saturating_add(line.len());
        if is_marker(line) {
            push(&mut found, text, start..at);
            start = at.saturating_add(MARKER_BYTES);
        }
        at = after;
    }
    push(&mut found, text, start..at);
    found
}

/// Both markers, `---` and `...`, are as long.
const MARKER_BYTES: usize = 3;

fn is_marker(line: &str) -> bool {
    let rest = line.strip_prefix("---").or_else(|| line.strip_prefix("..."));
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\t', '\r', '\n']))
}

/// Keeps a stretch that says something, from its first comment or value to its last character: comments above a document
/// are part of it, directives are not.
fn push(found: &mut Vec<Range<usize>>, text: &str, span: Range<usize>) {
    let Some(body) = text.get(span.clone()) else { return };
    // What YAML calls white space and breaks, no more.
    let white = [' ', '\t', '\r', '\n'];
    let first = |line: &str| line.trim_start_matches('\u{feff}').trim_start_matches(white).chars().next();
    let says_nothing = |line: &str| matches!(first(line), None | Some('#')) || line.starts_with('%');
    let lines = || body.split_inclusive('\n');
    if lines().all(says_nothing) {
        return;
    }
    // Directives end with a marker; one that stands before a value is left to the reader, which refuses it.
    let blank: usize = lines().take_while(|line| first(line).is_none()).map(str::len).sum();
    let start = span.start.saturating_add(blank);
    let end = span.start.saturating_add(body.trim_end_matches(white).len());
    if start < end {
        found.push(start..end);
    }
}

#[cfg(test)]
#[expect(clippy::arithmetic_side_effects, reason = "numbers of tests are small")]
mod tests;
