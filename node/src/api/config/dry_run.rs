//! `POST /v1/config/dry-run`: what an `apply` of unsigned documents would do; nothing is kept.

use std::collections::BTreeSet;

use axum::body::Body;
use axum::extract::{RawQuery, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use starling_config::documents::diff::{Change, changes};
use starling_config::documents::{self, Document};
use starling_model::DocumentKey;
use starling_model::codes::{self, Level};
use starling_routing::Reason;
use starling_routing::snapshot::SnapshotInvalid;

use super::{history, readable, removed, text_of};
use crate::api::Shared;
use crate::api::answer;
use crate::api::body::read_object;
use crate::api::problem::Refusal;
use crate::api::query::Query;
use crate::api::routes::problems;
use crate::api::views::{
    DeletedDocument, DocumentProblem, DryRun, DryRunRequest, Envelope, FieldChange, OpenedService, PlannedDocument,
    RemovedEndpoints, kind,
};
use crate::tasks::gossip::{AnyCase, History};
use crate::telemetry::time::Clocks;

/// Checks documents and compares them with what is in use.
///
/// # Errors
/// 400 for a malformed body; 422 with every problem of the documents; 503 when the mesh task does not answer.
pub async fn post(
    State(state): State<Shared>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Refusal> {
    Query::read(query.as_deref(), &[])?;
    let request: DryRunRequest = read_object(body, r#"{"source": "apiVersion: …"}"#).await?;
    let DryRunRequest { source, deletes } = request;
    let deletes = deletes.iter().map(deleted).collect::<Result<Vec<_>, _>>()?;
    if source.trim().is_empty() && deletes.is_empty() {
        return Err(Refusal::malformed("no documents"));
    }
    // Patterns of a text are compiled, which may take long.
    let is_empty = source.trim().is_empty();
    let read = move || if is_empty { Ok(Vec::new()) } else { documents::parse("source", &source) };
    let read = state.bench.run(read).await;
    let read = read.ok_or_else(|| Refusal::malformed("the documents cannot be read"))?.map_err(|mut problems| {
        problems.retain(|problem| problem.code.level == Level::Error);
        readable::refusal(&problems, 1)
    })?;
    let WhatIf { problems, removes, opens } = what_if(&state, read.clone(), deletes).await;
    let mut run = DryRun { items: Vec::new(), warnings: Vec::new(), problems, removes, opens };
    for document in read {
        let key = &document.key;
        let (what, namespace, name) = (key.kind.to_string(), key.namespace.to_string(), key.name.to_string());
        let held = history(&state, AnyCase { kind: what, namespace, name }).await?;
        run.items.push(plan(&document, &held));
        let warnings = document.warnings.iter();
        run.warnings.extend(warnings.map(|warning| readable::part(warning, readable::sentence(warning))));
    }
    let envelope = Envelope::new(kind::DRY_RUN, answer::view(&state, &Clocks::read()), run);
    Ok(answer::render(&headers, StatusCode::OK, &envelope))
}

fn deleted(one: &DeletedDocument) -> Result<DocumentKey, Refusal> {
    DocumentKey::parse(&one.document_kind, &one.namespace, &one.name).map_err(|error| {
        let name = format!("{} {}/{}", one.document_kind, one.namespace, one.name);
        Refusal::malformed(format!("{name:?} names no document: {error}"))
    })
}

/// What a change would bring.
#[derive(Default)]
struct WhatIf {
    problems: Vec<DocumentProblem>,
    removes: Vec<RemovedEndpoints>,
    opens: Vec<OpenedService>,
}

/// What would not come out as written of these documents, which endpoints would go, and which services would be
/// anybody's, if they were in use and others deleted.
async fn what_if(state: &Shared, documents: Vec<Document>, deletes: Vec<DocumentKey>) -> WhatIf {
    let keys: BTreeSet<(String, String, String)> = documents
        .iter()
        .map(|document| {
            let key = &document.key;
            (key.kind.to_string(), key.namespace.to_string(), key.name.to_string())
        })
        .collect();
    let (table, now) = (state.shared.table.load_full(), Clocks::read().now());
    let step = move || {
        let after = table.changed(documents.clone(), deletes.iter().cloned().collect(), now)?;
        Ok::<_, SnapshotInvalid>(WhatIf {
            problems: problems(&after),
            removes: removed::of(&table, &after, &documents, &deletes),
            opens: removed::opened(&table, &after, &documents, &deletes),
        })
    };
    let mut told = match state.bench.run(step).await {
        Some(Ok(told)) => told,
        // A table that cannot be made anew says nothing of these documents.
        Some(Err(_)) => return WhatIf::default(),
        None => return WhatIf { problems: keys.into_iter().map(quarantined).collect(), ..WhatIf::default() },
    };
    told.problems.retain(|one| keys.contains(&(one.document_kind.clone(), one.namespace.clone(), one.name.clone())));
    told
}

/// What becomes of a document with which no table comes about, or only too late.
fn quarantined((document_kind, namespace, name): (String, String, String)) -> DocumentProblem {
    DocumentProblem {
        document_kind,
        namespace,
        name,
        code: codes::DOCUMENT_HELD_BACK.to_string(),
        reason: Reason::UnsupportedValue.as_str().to_owned(),
        pointer: None,
        detail: "no route table comes about with what is applied: agents will hold it back".to_owned(),
    }
}

/// One document beside what is held of it.
fn plan(document: &Document, held: &History) -> PlannedDocument {
    let numbers = held.versions.iter().map(|one| one.version.generation.get());
    let newest = numbers.clone().max().unwrap_or(0);
    let used = held.used.as_ref().filter(|used| !used.deleted);
    let unchanged = used.is_some_and(|used| {
        let is_newest = used.version.generation.get() == newest;
        // One that was signed with several contents is signed again: that ends the conflict.
        let settled = is_newest && numbers.filter(|number| *number == newest).count() == 1;
        settled && text_of(used) == document.text
    });
    let changed = used.and_then(|used| changes(&text_of(used), &document.text));
    PlannedDocument {
        document_kind: document.key.kind.to_string(),
        namespace: document.key.namespace.to_string(),
        name: document.key.name.to_string(),
        generation: held.used.as_ref().map(|used| used.version.generation.get()),
        next: if unchanged { newest } else { newest.saturating_add(1) },
        unchanged,
        changes: changed.map(|all| all.into_iter().map(change).collect()),
    }
}

fn change(change: Change) -> FieldChange {
    let Change { path, before, after } = change;
    FieldChange { path, before, after }
}
