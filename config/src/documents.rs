//! The texts in which operators steer traffic: one YAML file holds several documents, separated by `---`.
//!
//! [`split`] cuts a file into its documents and bounds each of them, before any YAML is read. A marker at the start of
//! a line ends a document wherever it stands: no scalar may hold one there (YAML 1.2.2, 9.1.2), so cutting by lines is
//! exact. What the documents say is not read here.
#![deny(clippy::expect_used, clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use std::ops::Range;
use std::sync::Arc;

use starling_model::codes;

use crate::problem::{Problem, finish};
use crate::source::{At, Source};
use limits::{DOCUMENT_TEXT_BYTES_MAX, DOCUMENTS_MAX};

pub mod limits;

/// The stretch of each document in `text`, in bytes and in order, without the markers; documents with nothing but blank
/// lines, comments and directives are left out.
///
/// # Errors
/// Every document over [`DOCUMENT_TEXT_BYTES_MAX`], with its first line; or one problem when there are more than
/// [`DOCUMENTS_MAX`].
pub fn split(path: &str, text: &str) -> Result<Vec<Range<usize>>, Vec<Problem>> {
    let stretches = stretches(text);
    let source = Arc::new(Source::File { path: path.to_owned(), text: text.to_owned() });
    let told = |span: &Range<usize>, message: String, help: &str| Problem {
        place: At { source: Arc::clone(&source), span: span.clone() }.place(),
        help: Some(help.to_owned()),
        ..Problem::new(codes::BAD_DOCUMENT, message)
    };
    if let Some(first_over) = stretches.get(DOCUMENTS_MAX) {
        let message = format!("{} documents stand in one file, at most {DOCUMENTS_MAX} are read", stretches.len());
        return Err(vec![told(first_over, message, "put the rest into another file")]);
    }
    let too_large = stretches.iter().filter(|span| span.len() > DOCUMENT_TEXT_BYTES_MAX).map(|span| {
        let message = format!("a document has {} bytes, at most {DOCUMENT_TEXT_BYTES_MAX} are allowed", span.len());
        told(span, message, "split its rules over several documents")
    });
    let mut problems: Vec<Problem> = too_large.collect();
    finish(&mut problems);
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

/// Keeps a stretch from its first line with something on it to its last character.
fn push(found: &mut Vec<Range<usize>>, text: &str, span: Range<usize>) {
    let Some(body) = text.get(span.clone()) else { return };
    let says =
        |line: &str| !matches!(line.trim_start().trim_start_matches('\u{feff}').chars().next(), None | Some('#' | '%'));
    let blank: usize = body.split_inclusive('\n').take_while(|line| !says(line)).map(str::len).sum();
    let start = span.start.saturating_add(blank);
    let end = span.start.saturating_add(body.trim_end().len());
    if start < end {
        found.push(start..end);
    }
}

#[cfg(test)]
mod tests;
