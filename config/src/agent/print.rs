//! `agent --print-config`: every setting with its value and origin, as a file that could be used again.

use std::fmt::Write as _;

use super::{Loaded, Origin, Setting, settings};
use crate::schema::{Field, Form, Shape, join};
use crate::source::{At, Source};
use crate::tree::{Node, Table, Value, bare_or_quoted};

/// Every setting of the merged layers. A merged table of labels is told label by label, since each has its own origin.
pub(crate) fn origins(merged: &Table) -> Vec<Setting> {
    let mut list = Vec::new();
    walk(settings::TOP, merged, "", &mut list);
    list
}

fn walk(fields: &'static [Field], table: &Table, path: &str, list: &mut Vec<Setting>) {
    for field in fields {
        let key = join(path, field.name);
        let node = table.get(field.name).map(|entry| &entry.node);
        match (&field.shape, node) {
            (Shape::Table(inner), Some(Node { value: Value::Table(table), .. })) => walk(inner, table, &key, list),
            (Shape::Table(inner), _) => walk(inner, &Table::new(), &key, list),
            (Shape::Leaf(Form::Pairs, _), Some(Node { value: Value::Table(table), .. })) if !table.is_empty() => {
                list.extend(
                    table.iter().map(|(label, entry)| setting(join(&key, &bare_or_quoted(label)), &entry.node)),
                );
            }
            (Shape::Leaf(..) | Shape::Tables(_), Some(node)) => list.push(setting(key, node)),
            (Shape::Leaf(..) | Shape::Tables(_), None) => {
                list.push(Setting { key, value: String::new(), origin: Origin::Default, unset: field.rule });
            }
        }
    }
}

fn setting(key: String, node: &Node) -> Setting {
    Setting { key, value: node.value.to_toml(), origin: origin(&node.at), unset: "" }
}

fn origin(at: &At) -> Origin {
    match &*at.source {
        Source::Default => Origin::Default,
        Source::File { path, .. } => Origin::File { path: path.clone(), line: at.line() },
        Source::Environment(name) => Origin::Environment(name.clone()),
        Source::Flag(key) => Origin::Flag(key.clone()),
    }
}

impl Loaded {
    /// All settings as TOML, each with its origin as a comment. Reading the text again gives the same settings.
    #[must_use]
    pub fn to_toml(&self) -> String {
        // TOML wants what stands at the top before the first table.
        let (mut top, mut tables): (Vec<_>, Vec<_>) =
            self.origins.iter().partition(|setting| !setting.key.contains('.'));
        let mut text = String::new();
        let width = |settings: &[&Setting]| settings.iter().map(|setting| setting.key.len()).max().unwrap_or(0);
        write_settings(&mut text, &mut top, "", width(&self.origins.iter().collect::<Vec<_>>()).min(24));
        while let Some(first) = tables.first() {
            let section = first.key.split('.').next().unwrap_or_default().to_owned();
            let (mut here, rest): (Vec<_>, Vec<_>) =
                tables.iter().partition(|setting| setting.key.split('.').next() == Some(section.as_str()));
            let _ = writeln!(text, "[{section}]");
            let column = width(&here).saturating_sub(section.len() + 1);
            write_settings(&mut text, &mut here, &format!("{section}."), column);
            tables = rest;
        }
        text
    }

    /// Where one setting comes from.
    #[must_use]
    pub fn origin(&self, key: &str) -> Option<&Origin> {
        self.origins.iter().find(|setting| setting.key == key).map(|setting| &setting.origin)
    }
}

fn write_settings(text: &mut String, settings: &mut [&Setting], prefix: &str, width: usize) {
    for setting in settings {
        let key = setting.key.strip_prefix(prefix).unwrap_or(&setting.key);
        let _ = if setting.value.is_empty() {
            writeln!(text, "# {key} is not set: {}", setting.unset)
        } else {
            writeln!(text, "{key:width$} = {:24}   # {}", setting.value, setting.origin)
        };
    }
}
