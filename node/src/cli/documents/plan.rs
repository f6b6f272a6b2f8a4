//! What an input would change: each document beside what is held of it, as a generation to come and as changed values.
//! Pure.

use starling_config::documents::diff::{Change, changes};
use starling_model::{DocumentKey, Generation};

use super::desk::Draft;
use super::label_of;
use crate::api::views::{Document, OpenedService, RemovedEndpoints, Signer};
use crate::cli::errors::{CliError, Exit};
use crate::cli::render::short_key;
use crate::cli::table::clean;

/// Changed values that are shown of one document: beyond, the files are better compared side by side.
const CHANGES_SHOWN_MAX: usize = 100;

/// Endpoints of one service that are shown by name.
const REMOVED_SHOWN_MAX: usize = 10;

/// Greatest generation that is signed: a change in each second for a hundred years.
const GENERATION_MAX: u64 = 1 << 32;

/// Longest path that others are aligned with.
const PATH_CHARS_MAX: usize = 60;

/// One document of an input.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Step {
    pub(super) key: DocumentKey,
    /// What it is to say; `None` removes it.
    text: Option<String>,
    held: Option<Held>,
    /// Endpoints that it takes out of use, and services that it opens, a line for each.
    removes: Vec<String>,
}

/// What of a document matters for its next generation.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Held {
    generation: u64,
    /// The greatest that any held version has; over `generation` while a batch is awaited.
    newest: u64,
    deleted: bool,
    /// None of its versions is in use: they wait for their batch.
    waiting: bool,
    conflict: bool,
    source: String,
    signer: Signer,
}

impl Held {
    /// True for a version with a text that counts.
    fn is_used(&self) -> bool {
        !self.deleted && !self.waiting
    }
}

impl Step {
    /// `held` is the agent's answer with `held=true`.
    pub(super) fn new(key: DocumentKey, text: Option<String>, held: Option<&Document>) -> Self {
        let held = held.map(|held| {
            let versions = held.history.iter().flatten().map(|version| version.generation);
            let mut all = held.history.iter().flatten().peekable();
            Held {
                waiting: all.peek().is_some() && all.all(|version| !version.in_use),
                generation: held.generation,
                newest: versions.chain([held.generation]).max().unwrap_or_default(),
                deleted: held.deleted,
                conflict: held.conflict.is_some(),
                source: held.source.clone().unwrap_or_default(),
                signer: held.signer.clone(),
            }
        });
        Self { key, text, held, removes: Vec::new() }
    }

    /// With what an agent says that it takes out of use, and opens to nodes that were not granted.
    pub(super) fn removing(self, all: &[RemovedEndpoints], opens: &[OpenedService]) -> Self {
        let is_own = |kind: &str, namespace: &str, name: &str| {
            let key = &self.key;
            (key.kind.as_str(), key.namespace.as_str(), key.name.as_str()) == (kind, namespace, name)
        };
        let removes = all
            .iter()
            .filter(|one| is_own(&one.document_kind, &one.document_namespace, &one.document_name))
            .map(removed);
        let opens = opens
            .iter()
            .filter(|one| is_own(&one.document_kind, &one.document_namespace, &one.document_name))
            .map(opened);
        let removes = removes.chain(opens).collect();
        Self { removes, ..self }
    }

    /// The lines of what it takes out of use and opens.
    pub(super) fn consequences(&self) -> String {
        self.removes.concat()
    }

    /// True when the document in use has this very source. One in conflict is signed again: that ends the conflict.
    pub(super) fn is_unchanged(&self) -> bool {
        self.held.as_ref().is_some_and(|held| {
            let settled = held.newest == held.generation && !held.conflict;
            settled && held.is_used() && self.text.as_ref() == Some(&held.source)
        })
    }

    /// The generation that it has once the input is applied.
    ///
    /// # Errors
    /// When there is no next one.
    pub(super) fn generation(&self) -> Result<Generation, CliError> {
        let Some(held) = &self.held else { return Ok(Generation::FIRST) };
        let next = match Generation::new(held.newest) {
            Some(held) if self.is_unchanged() => Some(held),
            // Nobody applies so often: an agent that says so wants a signature after which there is no other.
            Some(held) => held.next().filter(|next| next.get() <= GENERATION_MAX),
            None => Some(Generation::FIRST),
        };
        next.ok_or_else(|| {
            CliError::plain(
                Exit::Refused,
                format!("{} has generation {}, after which none is signed", self.key, held.newest),
            )
            .help(["take its signer's key out of the trust bundle: then what that key signed does not count"])
        })
    }

    /// What is to be signed.
    ///
    /// # Errors
    /// As [`Self::generation`].
    pub(super) fn draft(&self) -> Result<Draft, CliError> {
        Ok(Draft { key: self.key.clone(), generation: self.generation()?, text: self.text.clone() })
    }

    /// What changes, with a line of its own first; `signer` once it is signed.
    pub(super) fn render(&self, signer: Option<&str>) -> Result<String, CliError> {
        let name = label_of(&self.key);
        if self.is_unchanged() {
            return Ok(format!("{name}   generation {}   unchanged, not signed again\n", self.generation()?));
        }
        let next = self.generation()?;
        let was = match &self.held {
            None => format!("generation {next} (new)"),
            Some(held) if held.waiting => {
                let what = if self.text.is_none() { " (deleted)" } else { "" };
                format!("generation {} (waits for its batch) → {next}{what}", held.newest)
            }
            Some(held) if held.deleted => format!("generation {} (deleted) → {next}", held.generation),
            Some(held) if self.text.is_none() => format!("generation {} → {next} (deleted)", held.generation),
            Some(held) => format!("generation {} → {next}", held.generation),
        };
        let signed = signer.map(|signer| format!("   signed by {signer}")).unwrap_or_default();
        Ok(format!("{name}   {was}{signed}\n{}{}", self.changes(), self.removes.concat()))
    }

    fn changes(&self) -> String {
        let (Some(text), Some(held)) = (&self.text, self.held.as_ref().filter(|held| held.is_used())) else {
            return String::new();
        };
        match changes(&held.source, text) {
            None => "  what is in use cannot be compared: this release does not read it\n".to_owned(),
            Some(found) if found.is_empty() && held.source == *text => "  the same source again\n".to_owned(),
            Some(found) if found.is_empty() => "  only comments, order or spacing differ\n".to_owned(),
            Some(found) => lines(&found),
        }
    }

    /// Where the input says otherwise than what is in use; `None` when it does not.
    pub(super) fn difference(&self) -> Option<String> {
        let name = label_of(&self.key);
        let Some(held) = self.held.as_ref().filter(|held| held.is_used()) else {
            return Some(format!("{name}   not in use → this file\n"));
        };
        let head =
            format!("{name}   generation {} by {} → this file\n", held.generation, super::signer_of(&held.signer));
        match changes(&held.source, self.text.as_deref().unwrap_or_default()) {
            Some(found) if found.is_empty() => None,
            Some(found) => Some(format!("{head}{}", lines(&found))),
            None if self.text.as_ref() == Some(&held.source) => None,
            None => Some(format!("{head}  what is in use cannot be compared: this release does not read it\n")),
        }
    }
}

/// `removes 2 endpoints of orders: vm-3 orders-v1, vm-3 orders-v2 (vm-3 no longer granted)`
fn removed(one: &RemovedEndpoints) -> String {
    let listed = one.endpoints.iter().take(REMOVED_SHOWN_MAX).map(|id| {
        let mut parts = id.split('/');
        format!("{} {}", parts.next().unwrap_or_default(), parts.next_back().unwrap_or_default())
    });
    let listed: Vec<String> = listed.collect();
    let more = one.count.saturating_sub(listed.len() as u64);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    let endpoints = if one.count == 1 { "endpoint" } else { "endpoints" };
    let service = short_key(&one.namespace, &one.service);
    let text =
        format!("  removes {} {endpoints} of {service}: {}{more} ({})", one.count, listed.join(", "), one.detail);
    format!("{}\n", clean(&text))
}

/// `opens orders: no grant names it any more, so every node may serve it, and call as it (vm-3 does from then on)`
fn opened(one: &OpenedService) -> String {
    let service = short_key(&one.namespace, &one.service);
    let nodes: Vec<&str> = one.nodes.iter().map(String::as_str).take(REMOVED_SHOWN_MAX).collect();
    let more = one.count.saturating_sub(nodes.len() as u64);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    let now = match nodes.len() {
        0 => String::new(),
        1 => format!(" ({} does from then on)", nodes[0]),
        _ => format!(" ({}{more} do from then on)", nodes.join(", ")),
    };
    let text =
        format!("  opens {service}: no grant names it any more, so every node may serve it, and call as it{now}");
    format!("{}\n", clean(&text))
}

fn lines(found: &[Change]) -> String {
    let side = |side: &Option<String>| clean(side.as_deref().unwrap_or("-"));
    let shown = found.get(..CHANGES_SHOWN_MAX).unwrap_or(found);
    let widths = shown.iter().map(|one| one.path.chars().count()).filter(|width| *width <= PATH_CHARS_MAX);
    let width = widths.max().unwrap_or_default();
    let mut text: String = shown
        .iter()
        .map(|one| format!("  {:width$}   {} → {}\n", clean(&one.path), side(&one.before), side(&one.after)))
        .collect();
    if found.len() > shown.len() {
        text.push_str(&format!("  and {} more\n", found.len().saturating_sub(shown.len())));
    }
    text
}

#[cfg(test)]
pub(super) mod tests;
