//! `key=value` arguments.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::str::FromStr;

/// The arguments of one tool.
#[derive(Debug)]
pub(crate) struct Arguments(BTreeMap<String, String>);

/// The tool's name, and the rest.
pub(crate) fn read(mut words: impl Iterator<Item = String>) -> (String, Arguments) {
    let tool = words.next().unwrap_or_default();
    let pair = |word: String| match word.split_once('=') {
        Some((key, value)) => (key.to_owned(), value.to_owned()),
        None => (word, "1".to_owned()),
    };
    (tool, Arguments(words.map(pair).collect()))
}

impl Arguments {
    /// A value with a default.
    pub(crate) fn get<T: FromStr>(&self, key: &str, default: T) -> Result<T, String> {
        match self.0.get(key) {
            None => Ok(default),
            Some(text) => text.parse().map_err(|_| format!("{key}={text} cannot be read")),
        }
    }

    /// An address that must be given.
    pub(crate) fn address(&self, key: &str) -> Result<SocketAddr, String> {
        let text = self.0.get(key).ok_or_else(|| format!("{key}=ADDR is needed"))?;
        text.parse().map_err(|_| format!("{key}={text} is not an address with a port"))
    }
}
