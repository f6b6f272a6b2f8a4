//! What one document says otherwise than another: the paths of all values that differ, each with both values.
//!
//! Compared is what the YAML holds, so comments, the order of keys and the style of writing do not count. Neither do the
//! fields that name the document (they are its key) and `status`, which nobody reads. List elements are compared by
//! their place.
#![deny(clippy::expect_used, clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::schema::clip;
use crate::source::Source;
use crate::tree::{Node, Value};
use crate::yaml;

/// One value that differs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Where: `spec.rules[1].backendRefs[0].weight`.
    pub path: String,
    /// What stood there; `None` where nothing did.
    pub before: Option<String>,
    /// What stands there; `None` where nothing does.
    pub after: Option<String>,
}

/// Everything in which `after` differs from `before`, in the order of the paths. `None` when one of them is not one YAML
/// document.
#[must_use]
pub fn changes(before: &str, after: &str) -> Option<Vec<Change>> {
    let (before, after) = (read(before)?, read(after)?);
    let mut found = Vec::new();
    compare("", Some(&before), Some(&after), &mut found);
    Some(found)
}

fn read(text: &str) -> Option<Node> {
    let stretches = super::split("", text).ok()?;
    let [span] = &stretches[..] else { return None };
    let mut node = yaml::parse(&Arc::new(Source::file("", text)), text, span).ok()?;
    if let Value::Table(table) = &mut node.value {
        table.remove("kind");
        table.remove("status");
        if let Some(Value::Table(metadata)) = table.get_mut("metadata").map(|entry| &mut entry.node.value) {
            metadata.remove("name");
            metadata.remove("namespace");
            if metadata.is_empty() {
                table.remove("metadata");
            }
        }
    }
    Some(node)
}

/// Documents nest at most [`super::limits::YAML_DEPTH_MAX`] levels, so this does, too.
fn compare(path: &str, before: Option<&Node>, after: Option<&Node>, found: &mut Vec<Change>) {
    let (old, new) = (before.map(|node| &node.value), after.map(|node| &node.value));
    match (old, new) {
        (Some(Value::Table(old)), Some(Value::Table(new))) if !old.is_empty() && !new.is_empty() => {
            let keys: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
            for key in keys {
                let of = |table: &'_ crate::tree::Table| table.get(key).map(|entry| entry.node.clone());
                compare(&below(path, key), of(old).as_ref(), of(new).as_ref(), found);
            }
        }
        (Some(Value::Array(old)), Some(Value::Array(new))) if !old.is_empty() && !new.is_empty() => {
            for at in 0..old.len().max(new.len()) {
                compare(&format!("{path}[{at}]"), old.get(at), new.get(at), found);
            }
        }
        // What is shown may be the head of a longer text, so the values decide.
        (Some(old), Some(new)) if same(old, new) => {}
        (old, new) => {
            let (old, new) = (leaves(path, old), leaves(path, new));
            match (&old[..], &new[..]) {
                ([(was, old)], [(is, new)]) if was == is => {
                    found.push(Change { path: is.clone(), before: Some(old.clone()), after: Some(new.clone()) });
                }
                _ => {
                    let gone = |(path, value)| Change { path, before: Some(value), after: None };
                    let come = |(path, value)| Change { path, before: None, after: Some(value) };
                    found.extend(old.into_iter().map(gone));
                    found.extend(new.into_iter().map(come));
                }
            }
        }
    }
}

/// Are these the same single value?
fn same(old: &Value, new: &Value) -> bool {
    match (old, new) {
        (Value::String(old), Value::String(new)) => old == new,
        (Value::Integer(old), Value::Integer(new)) => old == new,
        (Value::Boolean(old), Value::Boolean(new)) => old == new,
        (Value::Other(of, old), Value::Other(kind, new)) => of == kind && old == new,
        (Value::Array(old), Value::Array(new)) => old.is_empty() && new.is_empty(),
        (Value::Table(old), Value::Table(new)) => old.is_empty() && new.is_empty(),
        (
            Value::String(_)
            | Value::Integer(_)
            | Value::Boolean(_)
            | Value::Other(..)
            | Value::Array(_)
            | Value::Table(_),
            _,
        ) => false,
    }
}

/// All single values below a place, with their paths.
fn leaves(path: &str, value: Option<&Value>) -> Vec<(String, String)> {
    match value {
        None => Vec::new(),
        Some(Value::Table(table)) if !table.is_empty() => {
            table.iter().flat_map(|(key, entry)| leaves(&below(path, key), Some(&entry.node.value))).collect()
        }
        Some(Value::Array(all)) if !all.is_empty() => {
            let each = all.iter().enumerate();
            each.flat_map(|(at, node)| leaves(&format!("{path}[{at}]"), Some(&node.value))).collect()
        }
        Some(value) => vec![(path.to_owned(), shown(value))],
    }
}

fn below(path: &str, key: &str) -> String {
    let plain = !key.is_empty() && key.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte));
    match (path, plain) {
        ("", true) => key.to_owned(),
        (_, true) => format!("{path}.{key}"),
        (_, false) => format!("{path}[{:?}]", clip(key)),
    }
}

fn shown(value: &Value) -> String {
    match value {
        Value::String(text) => written(text),
        Value::Integer(number) => number.to_string(),
        Value::Other(_, text) => text.clone(),
        Value::Boolean(flag) => flag.to_string(),
        Value::Array(_) => "[]".to_owned(),
        Value::Table(_) => "{}".to_owned(),
    }
}

/// A text as it is, in quotes where it could be taken for something else.
fn written(text: &str) -> String {
    let plain = |c: char| c.is_alphanumeric() || "/._*:=+%~@-".contains(c);
    let taken = ["true", "false", "null", "~", "-"].contains(&text) || text.parse::<f64>().is_ok();
    if !text.is_empty() && text.chars().all(plain) && !taken { clip(text) } else { format!("{:?}", clip(text)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CANARY: &str = include_str!("samples/canary.yaml");

    fn check(before: &str, after: &str) -> Vec<String> {
        let told = changes(before, after).unwrap_or_else(|| panic!("{before}\n{after}"));
        let side = |side: Option<String>| side.unwrap_or_else(|| "-".to_owned());
        told.into_iter().map(|one| format!("{} {} → {}", one.path, side(one.before), side(one.after))).collect()
    }

    #[test]
    fn each_changed_value_is_told_with_its_path() {
        let after = CANARY.replace("weight: 90", "weight: 50").replace("weight: 10", "weight: 50");
        assert_eq!(
            check(CANARY, &after),
            ["spec.rules[0].backendRefs[0].weight 90 → 50", "spec.rules[0].backendRefs[1].weight 10 → 50"]
        );
        assert!(check(CANARY, CANARY).is_empty());
    }

    #[test]
    fn comments_order_style_and_the_name_do_not_count() {
        let none: [String; 0] = [];
        let before =
            "kind: A\nmetadata: {name: a, namespace: default}\nspec: {x: 1, y: [a, \"b\"]} # once\nstatus: {z: 1}";
        let after = "# above\nspec:\n  y:\n  - a\n  - b\n  x: 1\nmetadata: {name: a}\nkind: A\n";
        assert_eq!(check(before, after), none);
    }

    #[test]
    fn what_comes_and_goes_is_told_value_by_value() {
        let check = |before: &str, after: &str| check(&format!("spec: {before}"), &format!("spec: {after}"));
        assert_eq!(check("{a: 1}", "{a: 1, b: {c: x, d: [true]}}"), ["spec.b.c - → x", "spec.b.d[0] - → true"]);
        assert_eq!(check("{a: [1, 2, 3]}", "{a: [1]}"), ["spec.a[1] 2 → -", "spec.a[2] 3 → -"]);
        assert_eq!(check("{a: 1}", "{a: {b: 2}}"), ["spec.a 1 → -", "spec.a.b - → 2"]);
        assert_eq!(check("{a: []}", "{a: {}}"), ["spec.a [] → {}"]);
        assert_eq!(check("{a: null}", "{a: 2s}"), ["spec.a null → 2s"]);
    }

    #[test]
    fn texts_that_look_like_something_else_are_quoted() {
        let check = |before: &str, after: &str| check(&format!("s: {before}"), &format!("s: {after}"));
        assert_eq!(check("90", "\"90\""), ["s 90 → \"90\""]);
        assert_eq!(check("\"\"", "two words"), ["s \"\" → \"two words\""]);
        assert_eq!(check("\"a\\e[2J\"", "\"-\""), ["s \"a\u{fffd}[2J\" → \"-\""]);
        let long = |end: &str| format!("{}{end}", "x".repeat(100));
        assert_eq!(check(&long("a"), &long("b")).len(), 1, "they differ behind what is shown");
    }

    #[test]
    fn keys_that_are_no_words_are_quoted() {
        let labels = |value: &str| format!("metadata: {{annotations: {{\"a.b/c\": {value}}}}}");
        assert_eq!(check(&labels("x"), &labels("y")), ["metadata.annotations[\"a.b/c\"] x → y"]);
    }

    #[test]
    fn what_is_not_one_document_is_not_compared() {
        for bad in ["", "a: 1\n---\nb: 2\n", "a: [1", "a: 1\na: 2\n"] {
            assert_eq!(changes(bad, "a: 1\n"), None, "{bad}");
            assert_eq!(changes("a: 1\n", bad), None, "{bad}");
        }
    }
}
