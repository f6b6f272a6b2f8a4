//! YAML text as values with the place of each, read by `serde-saphyr`.
//!
//! Strict: one meaning per text. `yes` and `on` are texts (YAML 1.2), `<<` merges nothing, tags of one's own are refused,
//! and a key stands once. Depth, nodes and aliases are bounded, so that no small text becomes a large value.
#![deny(clippy::expect_used, clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::{DuplicateKeyPolicy, Location, MergeKeyPolicy, Options, Spanned};
use starling_model::codes;

use crate::documents::limits::{YAML_ALIASES_MAX, YAML_DEPTH_MAX, YAML_NODES_MAX, YAML_TEXT_BYTES_MAX};
use crate::problem::Problem;
use crate::source::{At, Source};
use crate::tree::{Entry, NOTHING, Node, Table, Value};

/// Reads the YAML document that stands at `span` of the text of `source`.
///
/// # Errors
/// The first place where it is no YAML or over a bound; or every key that stands twice.
pub(crate) fn parse(source: &Arc<Source>, text: &str, span: &Range<usize>) -> Result<Node, Vec<Problem>> {
    let document = Document { source, text, span };
    let body = text.get(span.clone()).unwrap_or_default();
    match serde_saphyr::from_str_with_options::<Spanned<Yaml>>(body, options()) {
        Ok(yaml) => {
            let mut problems = Vec::new();
            let node = document.node(yaml, &mut problems);
            if problems.is_empty() { Ok(node) } else { Err(problems) }
        }
        Err(error) => {
            let place = document.at(error.location().unwrap_or(Location::UNKNOWN)).place();
            let message = error.without_snippet().to_string();
            // The place is told in our own form, once.
            let message = message.split(" at line ").next().unwrap_or_default().lines().next().unwrap_or_default();
            let message = crate::schema::clip(message);
            Err(vec![Problem {
                place,
                help: Some("YAML is `key: value`, lists as `- value`, two blanks for each level".to_owned()),
                ..Problem::new(codes::BAD_DOCUMENT, format!("this is not YAML that is read here: {message}"))
            }])
        }
    }
}

fn options() -> Options {
    serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_depth: YAML_DEPTH_MAX,
            flow_nesting_limit: YAML_DEPTH_MAX,
            max_nodes: YAML_NODES_MAX,
            max_events: YAML_NODES_MAX.saturating_mul(2),
            max_aliases: YAML_ALIASES_MAX,
            max_anchors: YAML_ALIASES_MAX,
            max_recorded_anchor_events: YAML_NODES_MAX,
            max_documents: 1,
            max_total_scalar_bytes: YAML_TEXT_BYTES_MAX,
            max_recorded_anchor_bytes: YAML_TEXT_BYTES_MAX,
        },
        // Both values arrive, so that every doubled key of a document is told, not the first alone.
        duplicate_keys: DuplicateKeyPolicy::PassThrough,
        merge_keys: MergeKeyPolicy::AsOrdinary,
        strict_booleans: true,
        reject_unsupported_tags: true,
        reject_tagged_field_names: true,
        with_snippet: false,
    }
}

/// One value as `serde-saphyr` hands it over.
enum Yaml {
    Nothing,
    Boolean(bool),
    Integer(i64),
    Other(&'static str, String),
    String(String),
    List(Vec<Spanned<Self>>),
    Table(Vec<(Spanned<String>, Spanned<Self>)>),
}

impl<'de> Deserialize<'de> for Yaml {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(AnyValue)
    }
}

struct AnyValue;

impl<'de> Visitor<'de> for AnyValue {
    type Value = Yaml;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E>(self) -> Result<Yaml, E> {
        Ok(Yaml::Nothing)
    }

    fn visit_none<E>(self) -> Result<Yaml, E> {
        Ok(Yaml::Nothing)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Yaml, D::Error> {
        Yaml::deserialize(deserializer)
    }

    fn visit_bool<E>(self, flag: bool) -> Result<Yaml, E> {
        Ok(Yaml::Boolean(flag))
    }

    fn visit_i64<E>(self, number: i64) -> Result<Yaml, E> {
        Ok(Yaml::Integer(number))
    }

    fn visit_u64<E>(self, number: u64) -> Result<Yaml, E> {
        Ok(i64::try_from(number).map_or_else(|_| large(number), Yaml::Integer))
    }

    fn visit_i128<E>(self, number: i128) -> Result<Yaml, E> {
        Ok(i64::try_from(number).map_or_else(|_| large(number), Yaml::Integer))
    }

    fn visit_u128<E>(self, number: u128) -> Result<Yaml, E> {
        Ok(i64::try_from(number).map_or_else(|_| large(number), Yaml::Integer))
    }

    fn visit_f64<E>(self, number: f64) -> Result<Yaml, E> {
        Ok(Yaml::Other("a fraction", number.to_string()))
    }

    fn visit_str<E>(self, text: &str) -> Result<Yaml, E> {
        Ok(Yaml::String(text.to_owned()))
    }

    fn visit_string<E>(self, text: String) -> Result<Yaml, E> {
        Ok(Yaml::String(text))
    }

    fn visit_bytes<E>(self, bytes: &[u8]) -> Result<Yaml, E> {
        Ok(Yaml::Other("bytes", format!("{} bytes", bytes.len())))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Yaml, A::Error> {
        let mut all = Vec::new();
        while let Some(element) = list.next_element()? {
            all.push(element);
        }
        Ok(Yaml::List(all))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Yaml, A::Error> {
        let mut all = Vec::new();
        while let Some(entry) = map.next_entry()? {
            all.push(entry);
        }
        Ok(Yaml::Table(all))
    }
}

fn large(number: impl fmt::Display) -> Yaml {
    Yaml::Other("too large an integer", number.to_string())
}

/// Where the values of one document stand.
struct Document<'a> {
    source: &'a Arc<Source>,
    text: &'a str,
    span: &'a Range<usize>,
}

impl Document<'_> {
    fn node(&self, yaml: Spanned<Yaml>, problems: &mut Vec<Problem>) -> Node {
        let at = self.at(yaml.referenced);
        let value = match yaml.value {
            Yaml::Nothing => Value::Other(NOTHING, "null".to_owned()),
            Yaml::Boolean(flag) => Value::Boolean(flag),
            Yaml::Integer(number) => Value::Integer(number),
            // As written: a number too large for its type would be shown rounded.
            Yaml::Other(kind, text) => {
                Value::Other(kind, self.text.get(at.span.clone()).map_or(text, crate::schema::clip))
            }
            Yaml::String(text) => Value::String(text),
            Yaml::List(all) => Value::Array(all.into_iter().map(|element| self.node(element, problems)).collect()),
            Yaml::Table(all) => {
                let mut table = Table::new();
                for (key, value) in all {
                    let key_at = self.at(key.referenced);
                    let node = self.node(value, problems);
                    if let Some(first) = table.get(&key.value) {
                        problems.push(twice(&key.value, &key_at, first));
                    } else {
                        table.insert(key.value, Entry { key_at, node });
                    }
                }
                Value::Table(table)
            }
        };
        Node { value, at }
    }

    /// The stretch of a value; the document's first byte where none is known.
    fn at(&self, location: Location) -> At {
        let offset = |bytes: Option<u64>| bytes.and_then(|bytes| usize::try_from(bytes).ok());
        let within = offset(location.span().byte_offset()).unwrap_or_else(|| self.byte_of(location));
        let len = offset(location.span().byte_len()).unwrap_or(0);
        let start = self.span.start.saturating_add(within).min(self.span.end);
        let end = start.saturating_add(len).min(self.span.end);
        // The span of a block ends where the next one begins; what is shown ends with its text.
        let shown = self.text.get(start..end).map_or(0, |text| text.trim_end().len());
        At { source: Arc::clone(self.source), span: start..start.saturating_add(shown) }
    }
}

impl Document<'_> {
    /// The byte of a place that is known by line and column alone, as errors of the scanner are.
    fn byte_of(&self, location: Location) -> usize {
        let body = self.text.get(self.span.clone()).unwrap_or_default();
        let nth = |number: u64| usize::try_from(number).ok().and_then(|number| number.checked_sub(1)).unwrap_or(0);
        let before: usize = body.split_inclusive('\n').take(nth(location.line())).map(str::len).sum();
        let line = body.get(before..).unwrap_or_default().split('\n').next().unwrap_or_default();
        let within: usize = line.chars().take(nth(location.column())).map(char::len_utf8).sum();
        before.saturating_add(within)
    }
}

fn twice(key: &str, at: &At, first: &Entry) -> Problem {
    Problem {
        place: at.place(),
        note: Some(format!("the first one is in line {}", first.key_at.line())),
        ..Problem::new(codes::BAD_DOCUMENT, format!("the key `{}` stands twice", crate::schema::clip(key)))
    }
}

#[cfg(test)]
mod tests;
