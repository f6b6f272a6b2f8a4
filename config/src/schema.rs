//! Which keys there are, what each may hold, and the one walk that finds everything wrong in a layer.

use starling_model::codes;

use crate::problem::Problem;
use crate::suggest::suggest;
use crate::tree::{Node, Table, Value};

/// One known key of a table.
#[derive(Debug)]
pub(crate) struct Field {
    pub(crate) name: &'static str,
    pub(crate) shape: Shape,
    /// What may stand there, as the end of the sentence "NAME is ...".
    pub(crate) rule: &'static str,
    pub(crate) need: Need,
    /// Set for settings that are known, checked and kept, but that nothing acts on yet: what they wait for.
    pub(crate) later: Option<&'static str>,
}

/// Whether a key may be left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Need {
    /// It has a default, or is absent for good.
    Optional,
    /// The table means nothing without it.
    Required,
}

/// What stands behind a key.
#[derive(Debug)]
pub(crate) enum Shape {
    /// One value.
    Leaf(Form, fn(&Node) -> Result<(), Bad>),
    /// A table of known keys.
    Table(&'static [Field]),
    /// An array of tables of known keys.
    Tables(&'static [Field]),
}

/// How a value is written where there is no TOML: in a variable or a flag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// The whole text.
    Text,
    /// `a,b`, or a TOML array.
    List,
    /// `a=1,b=2`, or a TOML table.
    Pairs,
    /// As behind `=` in a file.
    Toml,
}

/// What is wrong with one value: the end of the sentence "KEY = VALUE ...".
#[derive(Debug)]
pub(crate) struct Bad {
    pub(crate) message: String,
    pub(crate) note: Option<String>,
    /// Which element of an array or which key of a table, when not the whole.
    pub(crate) part: Option<String>,
}

impl Bad {
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), note: None, part: None }
    }

    pub(crate) fn note(self, note: impl Into<String>) -> Self {
        Self { note: Some(note.into()), ..self }
    }
}

impl Field {
    pub(crate) const fn leaf(name: &'static str, form: Form, check: fn(&Node) -> Result<(), Bad>) -> Self {
        Self { name, shape: Shape::Leaf(form, check), rule: "", need: Need::Optional, later: None }
    }

    pub(crate) const fn table(name: &'static str, fields: &'static [Self]) -> Self {
        Self { name, shape: Shape::Table(fields), rule: "", need: Need::Optional, later: None }
    }

    pub(crate) const fn tables(name: &'static str, fields: &'static [Self]) -> Self {
        Self { name, shape: Shape::Tables(fields), rule: "", need: Need::Optional, later: None }
    }

    pub(crate) const fn rule(self, rule: &'static str) -> Self {
        Self { rule, ..self }
    }

    pub(crate) const fn required(self) -> Self {
        Self { need: Need::Required, ..self }
    }

    pub(crate) const fn later(self, later: &'static str) -> Self {
        Self { later: Some(later), ..self }
    }
}

/// Finds everything wrong in tables of one schema.
#[derive(Debug)]
pub(crate) struct Checker<'a> {
    /// What an unknown key is called in messages: `setting` or `field`.
    pub(crate) noun: &'static str,
    /// All keys of the schema, for a key that stands in the wrong table.
    pub(crate) everywhere: &'a [String],
    /// The default of a key, as TOML.
    pub(crate) default_of: &'a dyn DefaultOf,
    pub(crate) problems: Vec<Problem>,
}

/// Where the checker learns defaults for its help lines.
pub(crate) trait DefaultOf: std::fmt::Debug {
    /// The default of a dotted key, as TOML, if it has one.
    fn default_of(&self, key: &str) -> Option<String>;
}

impl Checker<'_> {
    /// Checks one table against its known keys; `path` is its dotted name, empty at the top.
    pub(crate) fn table(&mut self, fields: &'static [Field], table: &Table, path: &str, owner: Option<&Node>) {
        for (key, entry) in table {
            match fields.iter().find(|field| field.name == key) {
                Some(field) => self.field(field, &entry.node, &join(path, key)),
                None => self.unknown(fields, key, entry.key_at.place(), path),
            }
        }
        for field in fields.iter().filter(|field| field.need == Need::Required && !table.contains_key(field.name)) {
            self.problems.push(Problem {
                place: owner.and_then(|node| node.at.place()),
                note: Some(format!("`{}` is missing", field.name)),
                help: Some(format!("{} is {}", field.name, field.rule)),
                ..Problem::new(codes::BAD_SETTING, format!("{path} needs `{}`", field.name))
            });
        }
    }

    /// Checks what stands behind one known key.
    pub(crate) fn field(&mut self, field: &'static Field, node: &Node, key: &str) {
        match (&field.shape, &node.value) {
            (Shape::Leaf(_, check), _) => {
                if let Err(bad) = check(node) {
                    self.bad(field, node, key, bad);
                }
            }
            (Shape::Table(fields), Value::Table(table)) => self.table(fields, table, key, Some(node)),
            (Shape::Tables(fields), Value::Array(nodes)) => {
                for (at, node) in nodes.iter().enumerate() {
                    let key = format!("{key}[{at}]");
                    match node.value.as_table() {
                        Some(table) => self.table(fields, table, &key, Some(node)),
                        None => {
                            let message = format!("must be a table, not {}", node.value.kind());
                            self.bad(field, node, &key, Bad::new(message));
                        }
                    }
                }
            }
            (Shape::Table(_), other) => {
                self.bad(field, node, key, Bad::new(format!("must be a table, not {}", other.kind())));
            }
            (Shape::Tables(_), other) => {
                let bad = Bad::new(format!("must be an array of tables, not {}", other.kind()));
                self.bad(field, node, key, bad.note(format!("write [[{key}]]")));
            }
        }
    }

    fn bad(&mut self, field: &Field, node: &Node, key: &str, bad: Bad) {
        let (key, node) =
            bad.part.as_deref().and_then(|part| part_of(node, key, part)).unwrap_or((key.to_owned(), node));
        let default = self.default_of.default_of(&key).map(|default| format!("; the default is {default}"));
        let rule = Some(field.rule).filter(|rule| !rule.is_empty());
        self.problems.push(Problem {
            place: node.at.place(),
            note: bad.note,
            help: rule.map(|rule| format!("{} is {rule}{}", field.name, default.unwrap_or_default())),
            ..Problem::new(codes::BAD_SETTING, format!("{key} = {} {}", clip(&node.value.to_toml()), bad.message))
        });
    }

    fn unknown(&mut self, fields: &[Field], key: &str, place: Option<crate::problem::Place>, path: &str) {
        let names = || fields.iter().map(|field| field.name);
        let full = join(path, key);
        let elsewhere = || {
            let same_name = |known: &&String| known.rsplit('.').next() == Some(key) && **known != full;
            self.everywhere.iter().find(same_name).map(String::as_str)
        };
        let note = match (suggest(key, names()), elsewhere()) {
            (Some(near), _) => Some(format!("did you mean `{near}`?")),
            (None, Some(other)) => Some(format!("did you mean `{other}`?")),
            (None, None) => None,
        };
        let owner = if path.is_empty() { "at the top".to_owned() } else { format!("of {path}") };
        self.problems.push(Problem {
            place,
            note,
            help: Some(format!("known {owner}: {}", names().collect::<Vec<_>>().join(", "))),
            ..Problem::new(codes::UNKNOWN_SETTING, format!("unknown {} `{}`", self.noun, clip(&full)))
        });
    }
}

fn part_of<'a>(node: &'a Node, key: &str, part: &str) -> Option<(String, &'a Node)> {
    match &node.value {
        Value::Array(nodes) => nodes.get(part.parse::<usize>().ok()?).map(|node| (format!("{key}[{part}]"), node)),
        Value::Table(table) => table.get(part).map(|entry| (join(key, part), &entry.node)),
        Value::String(_) | Value::Integer(_) | Value::Other(..) | Value::Boolean(_) => None,
    }
}

/// A key within a table, dotted.
pub(crate) fn join(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

/// All dotted keys of a schema in its order; arrays of tables count as one.
pub(crate) fn dotted(fields: &[Field], path: &str) -> Vec<String> {
    fields
        .iter()
        .flat_map(|field| {
            let key = join(path, field.name);
            match &field.shape {
                Shape::Table(inner) => dotted(inner, &key),
                Shape::Leaf(..) | Shape::Tables(_) => vec![key],
            }
        })
        .collect()
}

/// The head of a text that may be long, without control bytes.
pub(crate) fn clip(text: &str) -> String {
    const SHOWN: usize = 80;
    let mut head: String = text.chars().take(SHOWN).map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect();
    if text.chars().nth(SHOWN).is_some() {
        head.push('…');
    }
    head
}
