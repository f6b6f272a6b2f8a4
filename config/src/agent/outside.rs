//! The layers without files: variables of the environment, and flags.
//!
//! `STARLING_API__LISTEN` is `api.listen`; a setting at the top has nothing before its double underscore
//! (`STARLING__NODE_NAME`). `STARLING_LOG` is `log.filter`, because that is the variable people try first. Values are
//! written as a person would: text bare, lists with commas, labels as `a=1,b=2`; TOML is accepted for lists and labels.

use std::sync::Arc;

use starling_model::codes;

use super::settings;
use crate::problem::{Place, Problem};
use crate::schema::{Checker, Field, Form, Shape, clip};
use crate::source::{At, Source};
use crate::suggest::suggest;
use crate::tree::{self, Node, Table, Value};

const PREFIX: &str = "STARLING_";

/// The layer of the environment.
pub(crate) fn environment(variables: &[(String, String)], checker: &mut Checker<'_>) -> Table {
    let mut layer = Table::new();
    let mut variables: Vec<&(String, String)> = variables.iter().collect();
    // Sorted, so that messages come in one order; STARLING_LOG first, so that the exact name wins over it.
    variables.sort_by_key(|(name, _)| (name != "STARLING_LOG", name.clone()));
    for (name, value) in variables {
        let Some(tail) = name.strip_prefix(PREFIX) else { continue };
        let source = Arc::new(Source::Environment(name.clone()));
        if tail == "LOG" {
            set(&mut layer, &["log", "filter"], value, &source, checker);
            continue;
        }
        if !tail.contains("__") && !tail.starts_with('_') {
            continue;
        }
        let lower = tail.to_lowercase();
        // A setting at the top has nothing before its double underscore, of which the prefix ate the first.
        let path: Vec<&str> = match lower.strip_prefix('_') {
            Some(top) => vec![top],
            None => lower.split("__").collect(),
        };
        let known = tail.bytes().all(|b| !b.is_ascii_lowercase()) && set(&mut layer, &path, value, &source, checker);
        if !known {
            let names: Vec<String> = checker.everywhere.iter().map(|key| variable(key)).collect();
            // The common head would make every name look near.
            let tails = names.iter().filter_map(|name| name.strip_prefix(PREFIX));
            checker.problems.push(Problem {
                place: Some(Place::Outside(format!("environment variable {}", clip(name)))),
                note: suggest(tail, tails).map(|near| format!("did you mean {PREFIX}{near}?")),
                help: Some(
                    "STARLING_SECTION__KEY sets section.key; `starling agent --print-config` lists every setting"
                        .into(),
                ),
                ..Problem::new(codes::UNKNOWN_SETTING, format!("unknown variable {}", clip(name)))
            });
        }
    }
    layer
}

/// The variable that sets a dotted key.
fn variable(key: &str) -> String {
    let upper = key.to_uppercase();
    match upper.split_once('.') {
        Some((section, key)) => format!("{PREFIX}{section}__{key}"),
        None => format!("{PREFIX}_{upper}"),
    }
}

/// The layer of flags.
pub(crate) fn flags(flags: &[(String, String)], checker: &mut Checker<'_>) -> Table {
    let mut layer = Table::new();
    for (key, value) in flags {
        let source = Arc::new(Source::Flag(key.clone()));
        let path: Vec<&str> = key.split('.').collect();
        let mut piece = Table::new();
        if !set(&mut piece, &path, value, &source, checker) {
            checker.problems.push(Problem {
                place: Some(Place::Outside(format!("flag {}", clip(key)))),
                note: suggest(key, checker.everywhere.iter().map(String::as_str))
                    .map(|near| format!("did you mean {near}?")),
                help: Some("`starling agent --print-config` lists every setting".into()),
                ..Problem::new(codes::UNKNOWN_SETTING, format!("unknown setting `{}`", clip(key)))
            });
        }
        // `--seed a --seed b` are two seeds.
        if let (Some(Value::Array(held)), Some(Value::Array(more))) =
            (tree::lookup(&layer, &path).map(|node| &node.value), tree::lookup(&piece, &path).map(|node| &node.value))
        {
            let value = Value::Array(held.iter().chain(more).cloned().collect());
            tree::place_at(&mut piece, &path, Node { value, at: At::whole(&source) });
        }
        tree::merge(&mut layer, piece);
    }
    layer
}

/// Puts one text at a path, checked. False when no setting is there.
fn set(layer: &mut Table, path: &[&str], text: &str, source: &Arc<Source>, checker: &mut Checker<'_>) -> bool {
    let Some((field, rest)) = settings::find(path) else { return false };
    // A label of its own, as in `mesh.labels.zone`.
    let (node_path, text) = match rest {
        [] => (path, text.to_owned()),
        [label] => (path.get(..path.len() - 1).unwrap_or_default(), format!("{label}={text}")),
        _ => return false,
    };
    match read(field, &text, source) {
        Some(Ok(value)) => {
            let node = Node { value, at: At::whole(source) };
            checker.field(field, &node, &node_path.join("."));
            let mut piece = Table::new();
            tree::place_at(&mut piece, node_path, node);
            tree::merge(layer, piece);
        }
        Some(Err(problem)) => checker.problems.push(*problem),
        None => return false,
    }
    true
}

/// Reads the text of one setting; `None` when the field is a table of settings and so has no value of its own.
fn read(field: &Field, text: &str, source: &Arc<Source>) -> Option<Result<Value, Box<Problem>>> {
    let node = |text: &str| Node { value: Value::String(text.trim().to_owned()), at: At::whole(source) };
    let form = match &field.shape {
        Shape::Leaf(form, _) => *form,
        Shape::Tables(_) => Form::Toml,
        Shape::Table(_) => return None,
    };
    Some(match form {
        Form::Text => Ok(Value::String(text.to_owned())),
        Form::List if text.trim_start().starts_with('[') => tree::parse_value(text, source),
        Form::List => Ok(Value::Array(text.split(',').filter(|piece| !piece.trim().is_empty()).map(node).collect())),
        Form::Pairs if text.trim_start().starts_with('{') => tree::parse_value(text, source),
        Form::Pairs => {
            let mut table = Table::new();
            for pair in text.split(',').filter(|piece| !piece.trim().is_empty()) {
                let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
                tree::place_at(&mut table, &[key.trim()], node(value));
            }
            Ok(Value::Table(table))
        }
        Form::Toml => tree::parse_value(text, source),
    })
}
