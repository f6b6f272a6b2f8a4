//! The only place where the program prints: data to standard output, messages to standard error.
//!
//! A reader that has gone (`starling members | head -1`) ends the writing quietly.

use std::io::{self, IsTerminal as _, Write};

use serde::de::{MapAccess, SeqAccess, Visitor};
use serde::ser::{SerializeMap as _, SerializeSeq as _};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::cli::errors::{CliError, Exit};
use crate::cli::look::for_locale;

/// Data, to standard output.
///
/// # Errors
/// When nobody reads any more, or the disk is full.
pub(crate) fn data(bytes: &[u8]) -> io::Result<()> {
    let mut stream = io::stdout().lock();
    stream.write_all(bytes)?;
    stream.flush()
}

/// A message, to standard error. A failure to write it has nowhere to go.
pub(crate) fn message(text: &str) {
    let mut stream = io::stderr().lock();
    let _ = stream.write_all(for_locale(text).as_bytes()).and_then(|()| stream.flush());
}

/// What a failure to write data means: a reader that has gone is no failure.
pub(crate) fn written(result: io::Result<()>) -> Result<Exit, CliError> {
    match result {
        Ok(()) => Ok(Exit::Done),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(Exit::Done),
        Err(error) => Err(CliError::plain(Exit::Bad, "cannot write to standard output").cause(error.to_string())),
    }
}

/// Prints text for people and ends the command well.
pub(crate) fn print(text: &str) -> Result<Exit, CliError> {
    written(data(for_locale(text).as_bytes()))
}

/// Prints a text of somebody else's as it is, but for what would steer a terminal, if it goes to one.
pub(crate) fn print_source(text: &str) -> Result<Exit, CliError> {
    let shown = if io::stdout().is_terminal() { for_terminal(text) } else { text.to_owned() };
    written(data(shown.as_bytes()))
}

/// Line ends and tabs stay.
fn for_terminal(text: &str) -> String {
    let steers = |c: char| c.is_control() && !matches!(c, '\n' | '\t');
    text.chars().map(|c| if steers(c) { '\u{fffd}' } else { c }).collect()
}

/// Prints a JSON document as YAML.
pub(crate) fn print_yaml(json: &[u8]) -> Result<Exit, CliError> {
    written(data(to_yaml(json)?.as_bytes()))
}

/// Prints a JSON body byte for byte; only on a terminal is a missing final line feed added.
pub(crate) fn print_body(body: &[u8]) -> Result<Exit, CliError> {
    let mut bytes = body.to_vec();
    if io::stdout().is_terminal() && bytes.last() != Some(&b'\n') {
        bytes.push(b'\n');
    }
    written(data(&bytes))
}

/// Prints a JSON body as one of several, each on its line.
pub(crate) fn print_line(body: &[u8]) -> Result<Exit, CliError> {
    written(data(&[body.trim_ascii_end(), b"\n"].concat()))
}

/// A value of our own as the JSON document of a command.
pub(crate) fn to_json(value: &impl Serialize) -> Result<Vec<u8>, CliError> {
    let mut bytes = serde_json::to_vec(value)
        .map_err(|error| CliError::plain(Exit::Bad, "the answer cannot be written as JSON").cause(error.to_string()))?;
    bytes.push(b'\n');
    Ok(bytes)
}

/// A JSON document as YAML, its keys in the same order.
fn to_yaml(json: &[u8]) -> Result<String, CliError> {
    let no = |cause: String| CliError::plain(Exit::Bad, "the answer cannot be written as YAML").cause(cause);
    let value: Ordered = serde_json::from_slice(json).map_err(|error| no(error.to_string()))?;
    serde_saphyr::to_string(&value).map_err(|error| no(error.to_string()))
}

/// Any JSON value, with its keys in the order in which they came.
#[derive(Debug)]
enum Ordered {
    Null,
    Bool(bool),
    Integer(i64),
    Unsigned(u64),
    Float(f64),
    Text(String),
    List(Vec<Self>),
    Map(Vec<(String, Self)>),
}

impl Serialize for Ordered {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Null => serializer.serialize_unit(),
            Self::Bool(value) => serializer.serialize_bool(*value),
            Self::Integer(value) => serializer.serialize_i64(*value),
            Self::Unsigned(value) => serializer.serialize_u64(*value),
            Self::Float(value) => serializer.serialize_f64(*value),
            Self::Text(value) => serializer.serialize_str(value),
            Self::List(values) => {
                let mut list = serializer.serialize_seq(Some(values.len()))?;
                for value in values {
                    list.serialize_element(value)?;
                }
                list.end()
            }
            Self::Map(values) => {
                let mut map = serializer.serialize_map(Some(values.len()))?;
                for (key, value) in values {
                    map.serialize_entry(key, value)?;
                }
                map.end()
            }
        }
    }
}

impl<'de> Deserialize<'de> for Ordered {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(OrderedVisitor)
    }
}

struct OrderedVisitor;

impl<'de> Visitor<'de> for OrderedVisitor {
    type Value = Ordered;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Ordered, E> {
        Ok(Ordered::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Ordered, E> {
        Ok(Ordered::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Ordered, E> {
        Ok(Ordered::Integer(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Ordered, E> {
        Ok(Ordered::Unsigned(value))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Ordered, E> {
        Ok(Ordered::Float(value))
    }

    fn visit_str<E>(self, value: &str) -> Result<Ordered, E> {
        Ok(Ordered::Text(value.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Ordered, A::Error> {
        let mut values = Vec::new();
        while let Some(value) = access.next_element()? {
            values.push(value);
        }
        Ok(Ordered::List(values))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Ordered, A::Error> {
        let mut values = Vec::new();
        while let Some(entry) = access.next_entry()? {
            values.push(entry);
        }
        Ok(Ordered::Map(values))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn yaml_keeps_the_order_and_the_types_of_json() {
        let json =
            br#"{"zone":"a","items":[{"name":"vm-1","epoch":"1795014041","rtt":null,"n":3,"f":0.5,"on":true}],"e":[]}"#;
        let yaml = to_yaml(json).unwrap();
        assert!(yaml.find("zone").unwrap() < yaml.find("items").unwrap(), "{yaml}");
        let again: serde_json::Value = serde_saphyr::from_str(&yaml).unwrap();
        let want: serde_json::Value = serde_json::from_slice(json).unwrap();
        assert_eq!(again, want, "{yaml}");
    }

    #[test]
    fn what_steers_a_terminal_is_shown_and_not_done() {
        let hostile = "# a\u{1b}]0;title\u{7}\u{1b}[2J\r\n\tb: \u{9b}1m é\n";
        assert_eq!(for_terminal(hostile), "# a\u{fffd}]0;title\u{fffd}\u{fffd}[2J\u{fffd}\n\tb: \u{fffd}1m é\n");
    }

    #[test]
    fn garbage_is_an_error_and_no_panic() {
        assert_eq!(to_yaml(b"{").unwrap_err().exit(), Exit::Bad);
    }
}
