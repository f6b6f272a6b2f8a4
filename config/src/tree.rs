//! Values with the place of each: what the layers of settings are made of before they get types.
#![deny(clippy::expect_used, clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;

use starling_model::codes;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::problem::Problem;
use crate::source::{At, Source};

/// Largest file that is read: settings of one host are some KiB, so a larger file is another kind of file.
const FILE_BYTES_MAX: usize = 1 << 20;

/// Most syntax errors told for one file: after some, the parser only guesses.
const SYNTAX_ERRORS_MAX: usize = 5;

/// One table, by key.
pub(crate) type Table = BTreeMap<String, Entry>;

/// How sentences name the value of a key that has none (`key:` or `key: null`).
pub(crate) const NOTHING: &str = "nothing";

/// A value and the place of its key.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) key_at: At,
    pub(crate) node: Node,
}

/// A value and its place.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub(crate) value: Value,
    pub(crate) at: At,
}

/// What TOML and YAML can hold.
#[derive(Clone, Debug)]
pub(crate) enum Value {
    String(String),
    Integer(i64),
    /// An integer too large, a float, a date, YAML's null: known, never wanted, kept as written.
    Other(&'static str, String),
    Boolean(bool),
    Array(Vec<Node>),
    Table(Table),
}

impl Value {
    /// With its article, for sentences.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::String(_) => "a string",
            Self::Integer(_) => "an integer",
            Self::Other(kind, _) => kind,
            Self::Boolean(_) => "a boolean",
            Self::Array(_) => "an array",
            Self::Table(_) => "a table",
        }
    }

    /// The table, if it is one.
    pub(crate) fn as_table(&self) -> Option<&Table> {
        match self {
            Self::Table(table) => Some(table),
            Self::String(_) | Self::Integer(_) | Self::Other(..) | Self::Boolean(_) | Self::Array(_) => None,
        }
    }

    /// True for YAML's null.
    pub(crate) fn is_nothing(&self) -> bool {
        matches!(self, Self::Other(NOTHING, _))
    }

    /// As TOML on one line.
    pub(crate) fn to_toml(&self) -> String {
        let mut text = String::new();
        self.write(&mut text);
        text
    }

    fn write(&self, out: &mut String) {
        match self {
            Self::String(text) => out.push_str(&toml::Value::String(text.clone()).to_string()),
            Self::Integer(number) => drop(write!(out, "{number}")),
            Self::Other(_, text) => out.push_str(text),
            Self::Boolean(flag) => drop(write!(out, "{flag}")),
            Self::Array(nodes) => {
                out.push('[');
                for (at, node) in nodes.iter().enumerate() {
                    out.push_str(if at == 0 { "" } else { ", " });
                    node.value.write(out);
                }
                out.push(']');
            }
            Self::Table(table) if table.is_empty() => out.push_str("{}"),
            Self::Table(table) => {
                for (at, (key, entry)) in table.iter().enumerate() {
                    out.push_str(if at == 0 { "{ " } else { ", " });
                    let _ = write!(out, "{} = ", bare_or_quoted(key));
                    entry.node.value.write(out);
                }
                out.push_str(" }");
            }
        }
    }
}

/// A key as TOML writes it.
pub(crate) fn bare_or_quoted(key: &str) -> String {
    let bare = !key.is_empty() && key.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-".contains(&b));
    if bare { key.to_owned() } else { toml::Value::String(key.to_owned()).to_string() }
}

/// Parses one file.
///
/// # Errors
/// Every syntax error that can be told apart, with its place.
pub(crate) fn parse_file(path: &str, text: &str) -> Result<(Arc<Source>, Table), Vec<Problem>> {
    if text.len() > FILE_BYTES_MAX {
        let message = format!("{path} has {} bytes, at most {FILE_BYTES_MAX} are read", text.len());
        return Err(vec![Problem::new(codes::BAD_SETTING, message)]);
    }
    let source = Arc::new(Source::file(path, text));
    let (table, errors) = DeTable::parse_recoverable(text);
    if errors.is_empty() {
        return Ok((Arc::clone(&source), convert_table(table.get_ref(), &source)));
    }
    let mut problems: Vec<Problem> = Vec::new();
    for error in errors {
        let at = At { source: Arc::clone(&source), span: error.span().unwrap_or(0..0) };
        let problem = Problem { place: at.place(), ..syntax(error.message()) };
        // Errors that follow from the first one on a line only confuse.
        if problems.iter().all(|told| told.line() != problem.line()) {
            problems.push(problem);
        }
    }
    problems.sort_by_key(Problem::line);
    problems.truncate(SYNTAX_ERRORS_MAX);
    Err(problems)
}

/// Parses one value, as it stands behind `=`.
///
/// # Errors
/// The first syntax error.
pub(crate) fn parse_value(text: &str, source: &Arc<Source>) -> Result<Value, Box<Problem>> {
    match DeValue::parse(text) {
        Ok(value) => Ok(convert(value.get_ref(), source)),
        Err(error) => Err(Box::new(Problem { place: At::whole(source).place(), ..syntax(error.message()) })),
    }
}

fn syntax(message: &str) -> Problem {
    Problem {
        help: Some(
            "TOML is `key = value`, strings in double quotes, tables as [name]: https://toml.io/en/v1.0.0".into(),
        ),
        ..Problem::new(codes::BAD_SETTING, format!("this is not TOML: {message}"))
    }
}

fn convert_table(table: &DeTable<'_>, source: &Arc<Source>) -> Table {
    let entry = |(key, value): (&Spanned<std::borrow::Cow<'_, str>>, &Spanned<DeValue<'_>>)| {
        let key_at = At { source: Arc::clone(source), span: key.span() };
        let at = At { source: Arc::clone(source), span: value.span() };
        let node = Node { value: convert(value.get_ref(), source), at };
        (key.get_ref().clone().into_owned(), Entry { key_at, node })
    };
    table.iter().map(entry).collect()
}

fn convert(value: &DeValue<'_>, source: &Arc<Source>) -> Value {
    match value {
        DeValue::String(text) => Value::String(text.clone().into_owned()),
        DeValue::Integer(number) => match i64::from_str_radix(number.as_str(), number.radix()) {
            Ok(number) => Value::Integer(number),
            Err(_) => Value::Other("too large an integer", number.to_string()),
        },
        DeValue::Float(number) => Value::Other("a fraction", number.to_string()),
        DeValue::Boolean(flag) => Value::Boolean(*flag),
        DeValue::Datetime(time) => Value::Other("a date", time.to_string()),
        DeValue::Array(array) => Value::Array(
            array
                .iter()
                .map(|node| Node {
                    value: convert(node.get_ref(), source),
                    at: At { source: Arc::clone(source), span: node.span() },
                })
                .collect(),
        ),
        DeValue::Table(table) => Value::Table(convert_table(table, source)),
    }
}

/// Puts `over` onto `base`: tables merge key by key, everything else is replaced.
pub(crate) fn merge(base: &mut Table, over: Table) {
    for (key, entry) in over {
        match (base.get_mut(&key).map(|held| &mut held.node.value), entry) {
            (Some(Value::Table(held)), Entry { node: Node { value: Value::Table(over), .. }, .. }) => merge(held, over),
            (_, entry) => drop(base.insert(key, entry)),
        }
    }
}

/// The value at a path of keys.
pub(crate) fn lookup<'a>(table: &'a Table, path: &[&str]) -> Option<&'a Node> {
    let (first, rest) = path.split_first()?;
    let node = &table.get(*first)?.node;
    if rest.is_empty() { Some(node) } else { lookup(node.value.as_table()?, rest) }
}

/// Puts a value at a path, making the tables on the way; the tables are of the value's own source.
pub(crate) fn place_at(table: &mut Table, path: &[&str], node: Node) {
    let Some((first, rest)) = path.split_first() else { return };
    let at = node.at.clone();
    if rest.is_empty() {
        table.insert((*first).to_owned(), Entry { key_at: at, node });
        return;
    }
    let entry = table
        .entry((*first).to_owned())
        .or_insert_with(|| Entry { key_at: at.clone(), node: Node { value: Value::Table(Table::new()), at } });
    if let Value::Table(inner) = &mut entry.node.value {
        place_at(inner, rest, node);
    }
}
