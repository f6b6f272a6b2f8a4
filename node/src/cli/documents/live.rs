//! What a running mesh adds to the checks of documents: that they refer to something unknown, that another one comes
//! before them, or that a rule leads to no endpoint now. An agent tells, by compiling what would be in use.

use std::time::Duration;

use starling_config::Problem;
use starling_config::documents::Document;
use starling_model::DocumentKey;
use starling_model::codes::{self, Code};

use crate::api::views::{
    DeletedDocument, DocumentProblem, DryRun, DryRunRequest, Envelope, OpenedService, RemovedEndpoints,
};
use crate::cli::client::{Ask, Client};
use crate::cli::output;

/// What an agent has to say of documents.
#[derive(Clone, Debug, Default)]
pub(crate) struct Told {
    /// At their places.
    pub(crate) problems: Vec<(DocumentKey, Problem)>,
    /// Endpoints that they take out of use.
    pub(crate) removes: Vec<RemovedEndpoints>,
    /// Services that they open to nodes that were not granted.
    pub(crate) opens: Vec<OpenedService>,
}

/// What the agent has to say of these documents; nothing where none answers in time or it cannot tell.
pub(crate) fn ask(client: &Client, documents: &[Document], timeout: Duration) -> Told {
    if documents.is_empty() {
        return Told::default();
    }
    let source = documents.iter().map(|document| document.text.as_str()).collect::<Vec<_>>().join("\n---\n");
    let Some(run) = dry_run(client, &DryRunRequest { source, deletes: Vec::new() }, timeout) else {
        return Told::default();
    };
    let problems = run.problems.iter().filter_map(|problem| placed(problem, documents)).collect();
    Told { problems, removes: run.removes, opens: run.opens }
}

/// What the agent has to say of the end of these; nothing where none answers in time or it cannot tell.
pub(super) fn ask_deletions(client: &Client, keys: &[DocumentKey], timeout: Duration) -> Told {
    let deleted = |key: &DocumentKey| DeletedDocument {
        document_kind: key.kind.to_string(),
        namespace: key.namespace.to_string(),
        name: key.name.to_string(),
    };
    let request = DryRunRequest { source: String::new(), deletes: keys.iter().map(deleted).collect() };
    let run = dry_run(client, &request, timeout);
    run.map_or_else(Told::default, |run| Told { problems: Vec::new(), removes: run.removes, opens: run.opens })
}

fn dry_run(client: &Client, request: &DryRunRequest, timeout: Duration) -> Option<DryRun> {
    let body = output::to_json(request).ok()?;
    let ask = Ask { method: http::Method::POST, path: "/v1/config/dry-run", body: Some(body), timeout };
    let answer = client.try_ask(ask).ok().filter(|answer| answer.status == 200);
    Some(serde_json::from_slice::<Envelope<DryRun>>(&answer?.body).ok()?.body)
}

/// One of them, at its place in the file.
fn placed(told: &DocumentProblem, documents: &[Document]) -> Option<(DocumentKey, Problem)> {
    let of = |document: &&Document| {
        let key = &document.key;
        key.kind.to_string() == told.document_kind
            && key.namespace.as_str() == told.namespace
            && key.name.as_str() == told.name
    };
    let document = documents.iter().find(of)?;
    let place = document.place(told.pointer.as_deref().unwrap_or_default());
    let problem =
        Problem { place, pointer: told.pointer.clone(), ..Problem::new(code(&told.code)?, told.detail.clone()) };
    Some((document.key.clone(), problem))
}

/// A code of a later release is not told: nobody could look it up here.
fn code(text: &str) -> Option<Code> {
    text.strip_prefix("ST")?.parse().ok().and_then(codes::find)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_agent_tells_stands_at_its_place_in_the_file() {
        let text = "apiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec: {ports: [{port: 80}]}\n---\n\
            apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: r}\nspec:\n  \
            parentRefs: [{kind: Service, group: \"\", name: a}]\n  rules: [{backendRefs: [{name: gone, port: 80}]}]\n";
        let documents = starling_config::documents::parse("a.yaml", text).unwrap();
        let told = DocumentProblem {
            document_kind: "HTTPRoute".to_owned(),
            namespace: "default".to_owned(),
            name: "r".to_owned(),
            code: "ST0433".to_owned(),
            reason: "BackendNotFound".to_owned(),
            pointer: Some("/spec/rules/0/backendRefs/0".to_owned()),
            detail: "no document and no instance knows a service default/gone".to_owned(),
        };
        let (key, problem) = placed(&told, &documents).unwrap();
        assert_eq!(key.name.as_str(), "r");
        assert_eq!((problem.line(), problem.column(), problem.file()), (Some(11), Some(26), Some("a.yaml")));
        assert!(problem.to_string().starts_with("warning[ST0433]: no document"), "{problem}");
        for other in [
            DocumentProblem { name: "other".to_owned(), ..told.clone() },
            DocumentProblem { code: "ST9999".to_owned(), ..told.clone() },
            DocumentProblem { code: "x".to_owned(), ..told },
        ] {
            assert_eq!(placed(&other, &documents), None);
        }
    }
}
