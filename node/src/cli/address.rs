//! Where the agent answers: `unix:///run/starling/api.sock` or `http://127.0.0.1:7741`.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use starling_config::ConfigDir;

/// The socket of an agent with the default configuration directory.
pub(crate) const SOCKET_DEFAULT: &str = "/run/starling/api.sock";

/// Port of the local API where an `http://` address names none.
const PORT_DEFAULT: u16 = 7741;

/// Where the agent answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Address {
    /// A Unix socket: reads and writes.
    Unix(PathBuf),
    /// Loopback TCP, `host:port`: reads.
    Http(String),
}

/// Why a text is no address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not an agent's address: write unix:///PATH or http://HOST:PORT{hint}")]
pub(crate) struct AddressInvalid {
    text: String,
    hint: &'static str,
}

impl Address {
    /// The address in force: a given one, else the socket of the given configuration directory, else the default.
    pub(crate) fn choose(given: Option<&Self>, config_dir: Option<&Path>) -> Self {
        if let Some(address) = given {
            return address.clone();
        }
        match config_dir {
            Some(dir) if !ConfigDir::new(dir).is_standard() => {
                // An address is absolute, so that it can be copied from a message.
                let socket = dir.join("api.sock");
                Self::Unix(std::path::absolute(&socket).unwrap_or(socket))
            }
            Some(_) | None => Self::Unix(PathBuf::from(SOCKET_DEFAULT)),
        }
    }

    /// What stands in the Host header.
    pub(crate) fn authority(&self) -> &str {
        match self {
            Self::Unix(_) => "localhost",
            Self::Http(authority) => authority,
        }
    }
}

impl FromStr for Address {
    type Err = AddressInvalid;

    fn from_str(text: &str) -> Result<Self, AddressInvalid> {
        let no = |hint| Err(AddressInvalid { text: text.to_owned(), hint });
        if let Some(rest) = text.strip_prefix("unix:") {
            let path = rest.strip_prefix("//").unwrap_or(rest);
            return if path.starts_with('/') {
                Ok(Self::Unix(PathBuf::from(path)))
            } else {
                no(" (the path is absolute, so there are three slashes)")
            };
        }
        if let Some(rest) = text.strip_prefix("http://") {
            let authority = rest.strip_suffix('/').unwrap_or(rest);
            let host_ends = authority.rfind(']').map_or(0, |at| at + 1);
            let port = authority.get(host_ends..).and_then(|tail| tail.rsplit_once(':')).map(|(_, port)| port);
            let host = port.map_or(authority, |port| authority.get(..authority.len() - port.len() - 1).unwrap_or(""));
            let bad_host = host.is_empty() || host.contains(|c: char| "/?#@ ".contains(c) || c.is_control());
            return match port.map(str::parse::<u16>) {
                _ if bad_host => no(""),
                Some(Err(_)) => no(" (the port is a number from 1 to 65535)"),
                Some(Ok(_)) => Ok(Self::Http(authority.to_owned())),
                None => Ok(Self::Http(format!("{authority}:{PORT_DEFAULT}"))),
            };
        }
        no(if text.starts_with("https:") {
            " (the local API has no TLS)"
        } else if text.starts_with('/') {
            " (a path needs unix:// in front)"
        } else {
            ""
        })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix://{}", path.display()),
            Self::Http(authority) => write!(f, "http://{authority}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_a_socket_or_a_host_with_port() {
        let check = |text: &str, want: &str| {
            assert_eq!(text.parse::<Address>().map(|address| address.to_string()).as_deref(), Ok(want), "{text}");
        };
        check("unix:///run/starling/api.sock", "unix:///run/starling/api.sock");
        check("unix:/tmp/a.sock", "unix:///tmp/a.sock");
        check("http://127.0.0.1:7741", "http://127.0.0.1:7741");
        check("http://127.0.0.1:7741/", "http://127.0.0.1:7741");
        check("http://localhost", "http://localhost:7741");
        check("http://[::1]:9", "http://[::1]:9");
        check("http://[::1]", "http://[::1]:7741");
    }

    #[test]
    fn everything_else_is_refused_with_a_hint() {
        let check = |text: &str, hint: &str| {
            let error = text.parse::<Address>().unwrap_err().to_string();
            assert!(error.contains(hint), "{error}");
        };
        check("https://127.0.0.1:7741", "no TLS");
        check("/run/starling/api.sock", "needs unix://");
        check("unix://relative", "absolute");
        check("unix:", "absolute");
        check("http://", "write unix:///PATH");
        check("http://:7741", "write unix:///PATH");
        check("http://host:70000", "port is a number");
        check("http://host:", "port is a number");
        check("http://host:1/v1", "write unix:///PATH");
        check("http://u@host:1", "write unix:///PATH");
        check("127.0.0.1:7741", "write unix:///PATH");
        check("", "write unix:///PATH");
    }

    #[test]
    fn the_configuration_directory_names_the_socket() {
        let check = |dir: Option<&str>, want: &str| {
            assert_eq!(Address::choose(None, dir.map(Path::new)).to_string(), want);
        };
        check(None, "unix:///run/starling/api.sock");
        check(Some("/etc/starling"), "unix:///run/starling/api.sock");
        check(Some("/tmp/x"), "unix:///tmp/x/api.sock");
        let here = std::env::current_dir().unwrap();
        check(Some("lab"), &format!("unix://{}/lab/api.sock", here.display()));
        let given = Address::Http("h:1".to_owned());
        assert_eq!(Address::choose(Some(&given), Some(Path::new("/tmp/x"))), given);
    }
}
