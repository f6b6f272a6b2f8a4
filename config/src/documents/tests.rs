mod accepted;
mod bounds;
mod gateways;
mod grants;
mod portable;
mod refused;
mod split;

use super::{Document, parse};
use crate::problem::render;

/// The documents of the interface contract and those of the standards, as files.
const SAMPLES: &[(&str, &str)] = &[
    ("service.yaml", include_str!("samples/service.yaml")),
    ("canary.yaml", include_str!("samples/canary.yaml")),
    ("header-routing.yaml", include_str!("samples/header-routing.yaml")),
    ("resilience.yaml", include_str!("samples/resilience.yaml")),
    ("authorization.yaml", include_str!("samples/authorization.yaml")),
    ("ratelimit.yaml", include_str!("samples/ratelimit.yaml")),
    ("grants.yaml", include_str!("samples/grants.yaml")),
    ("standard.yaml", include_str!("samples/standard.yaml")),
];

fn all(text: &str) -> Vec<Document> {
    parse("a.yaml", text).unwrap_or_else(|told| panic!("{text}\n{}", render(&told)))
}

fn one(text: &str) -> Document {
    let mut documents = all(text);
    assert_eq!(documents.len(), 1, "{text}");
    documents.remove(0)
}

fn sample(name: &str) -> Vec<Document> {
    let (_, text) = SAMPLES.iter().find(|(file, _)| *file == name).unwrap_or_else(|| panic!("{name}"));
    all(text)
}

/// An HTTPRoute of `starling/v1` with one rule; `rule` begins in line 7, column 7.
fn route(rule: &str) -> String {
    let lines: Vec<String> = rule.lines().map(|line| format!("      {line}\n")).collect();
    let lines = lines.concat();
    format!(
        "apiVersion: starling/v1\nkind: HTTPRoute\nmetadata: {{name: a}}\nspec:\n  parentRefs: [{{kind: Service, name: b}}]\n  rules:\n    - {}",
        lines.trim_start()
    )
}
