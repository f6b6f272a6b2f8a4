//! What single values may be. Each function either makes the typed value or says what is wrong with this one.
#![deny(clippy::expect_used, clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use starling_model::names::is_label;
use starling_model::{Labels, NameInvalid};

use crate::agent::{ListenAddress, LoopbackRange, SeedAddress};
use crate::duration;
use crate::schema::{Bad, clip};
use crate::suggest::suggest;
use crate::tree::{Node, Value};

/// Longest path of a Unix socket: `sockaddr_un` holds 108 bytes, the last one is zero.
pub(crate) const SOCKET_PATH_BYTES_MAX: usize = 107;
/// Longest ordinary text.
const TEXT_BYTES_MAX: usize = 1_024;
/// Most elements of a list.
const LIST_MAX: usize = 256;
/// Where seeds listen unless they say otherwise.
const MESH_PORT: u16 = 7740;
/// Fewest addresses that the range of service addresses may hold.
const RANGE_ADDRESSES_MIN: u64 = 256;
/// Longest DNS name in text form.
const HOST_BYTES_MAX: usize = 253;

pub(crate) fn text(node: &Node) -> Result<&str, Bad> {
    bounded(TEXT_BYTES_MAX)(node)
}

/// A text of 1 to `max` bytes.
pub(crate) fn bounded(max: usize) -> impl Fn(&Node) -> Result<&str, Bad> {
    move |node| match &node.value {
        Value::String(text) if text.is_empty() => Err(Bad::new("is empty")),
        Value::String(text) if text.len() > max => {
            Err(Bad::new(format!("has {} bytes, at most {max} are allowed", text.len())))
        }
        Value::String(text) if text.chars().any(char::is_control) => Err(Bad::new("holds a control character")),
        Value::String(text) => Ok(text),
        Value::Integer(_) | Value::Boolean(_) => Err(wrong(node, "a string").note("put it in double quotes")),
        Value::Other(..) | Value::Array(_) | Value::Table(_) => Err(wrong(node, "a string")),
    }
}

pub(crate) fn wrong(node: &Node, want: &str) -> Bad {
    Bad::new(format!("must be {want}, not {}", node.value.kind()))
}

pub(crate) fn name<T>(parse: fn(&str) -> Result<T, NameInvalid>) -> impl Fn(&Node) -> Result<T, Bad> {
    move |node| {
        let text = text(node)?;
        parse(text).map_err(|_| {
            let lower = text.to_lowercase().replace(['_', ' '], "-");
            let label = "is not a name: 1 to 63 of a-z, 0-9 and '-', not '-' first or last";
            if is_label(text) {
                Bad::new("is a reserved word")
            } else if parse(&lower).is_ok() {
                Bad::new(label).note(format!("did you mean \"{lower}\"?"))
            } else {
                Bad::new(label)
            }
        })
    }
}

pub(crate) fn path(node: &Node) -> Result<PathBuf, Bad> {
    text(node).map(PathBuf::from)
}

pub(crate) fn socket_path(node: &Node) -> Result<PathBuf, Bad> {
    let text = text(node)?;
    if text.len() > SOCKET_PATH_BYTES_MAX {
        let message = format!("has {} bytes, the path of a Unix socket holds {SOCKET_PATH_BYTES_MAX}", text.len());
        return Err(Bad::new(message));
    }
    Ok(PathBuf::from(text))
}

pub(crate) fn address(node: &Node) -> Result<SocketAddr, Bad> {
    socket_addr(text(node)?)
}

fn socket_addr(text: &str) -> Result<SocketAddr, Bad> {
    if let Ok(address) = text.parse() {
        return Ok(address);
    }
    let bad = Bad::new("is not an address with a port");
    if text.parse::<IpAddr>().is_ok() {
        return Err(bad.note("the port is missing"));
    }
    match text.rsplit_once(':') {
        Some((_, port)) if port.parse::<u16>().is_err() => Err(bad.note("a port is a number up to 65535")),
        Some(("", port)) => Err(bad.note(format!("did you mean \"127.0.0.1:{port}\"?"))),
        Some(("localhost", port)) => Err(bad.note(format!("names do not stand here: \"127.0.0.1:{port}\""))),
        Some(("*", port)) => Err(bad.note(format!("all addresses are \"0.0.0.0:{port}\""))),
        Some(_) | None => Err(bad),
    }
}

/// An address of this host, without a port.
pub(crate) fn ip(node: &Node) -> Result<IpAddr, Bad> {
    let text = text(node)?;
    match text.parse::<IpAddr>() {
        Ok(address) if address.is_multicast() => Err(Bad::new("is not an address of a host")),
        Ok(address) => Ok(address),
        Err(_) => Err(Bad::new("is not an IP address without a port, like \"192.0.2.7\"")),
    }
}

/// Where the mesh port listens: its number goes out to others, so the system cannot choose it.
pub(crate) fn mesh_listen(node: &Node) -> Result<SocketAddr, Bad> {
    let address = address(node)?;
    if address.port() == 0 {
        return Err(Bad::new("has port 0, but other hosts must know the port"));
    }
    Ok(address)
}

/// An address that others can dial.
pub(crate) fn dialled(node: &Node) -> Result<SocketAddr, Bad> {
    let address = mesh_listen(node)?;
    if address.ip().is_unspecified() || address.ip().is_multicast() {
        return Err(Bad::new("is not an address that other hosts can reach"));
    }
    Ok(address)
}

/// Where an instance is: somewhere on this host that can be connected to.
pub(crate) fn instance_address(node: &Node) -> Result<SocketAddr, Bad> {
    let address = address(node)?;
    check_instance_address(address).map_err(|message| {
        let note = format!("did you mean \"127.0.0.1:{}\"?", address.port());
        if address.port() == 0 { Bad::new(message) } else { Bad::new(message).note(note) }
    })?;
    Ok(address)
}

/// The rule of [`instance_address`], also for JSON.
pub(crate) fn check_instance_address(address: SocketAddr) -> Result<(), &'static str> {
    if address.port() == 0 {
        return Err("has port 0");
    }
    if address.ip().is_unspecified() || address.ip().is_multicast() {
        return Err("cannot be connected to");
    }
    Ok(())
}

pub(crate) fn loopback(node: &Node) -> Result<SocketAddr, Bad> {
    let address = address(node)?;
    if !address.ip().is_loopback() {
        return Err(Bad::new("is not a loopback address; it would be open to other hosts"));
    }
    Ok(address)
}

/// A value, or the word "off".
pub(crate) fn or_off<T>(parse: fn(&Node) -> Result<T, Bad>) -> impl Fn(&Node) -> Result<Option<T>, Bad> {
    move |node| match &node.value {
        Value::String(text) if text == "off" => Ok(None),
        Value::Boolean(false) => Err(Bad::new("must be a string").note("did you mean \"off\"?")),
        Value::String(_)
        | Value::Integer(_)
        | Value::Other(..)
        | Value::Boolean(_)
        | Value::Array(_)
        | Value::Table(_) => parse(node).map(Some),
    }
}

pub(crate) fn listen_address(node: &Node) -> Result<ListenAddress, Bad> {
    let text = text(node)?;
    match text.strip_prefix("unix:") {
        Some("") => Err(Bad::new("names no socket")),
        Some(path) if path.len() > SOCKET_PATH_BYTES_MAX => {
            Err(Bad::new(format!("has {} bytes, the path of a Unix socket holds {SOCKET_PATH_BYTES_MAX}", path.len())))
        }
        Some(path) => Ok(ListenAddress::Unix(PathBuf::from(path))),
        None if text.starts_with('/') => {
            Err(Bad::new("is not an address with a port").note(format!("did you mean \"unix:{}\"?", clip(text))))
        }
        None => socket_addr(text).map(ListenAddress::Tcp),
    }
}

pub(crate) fn one_of<T: Copy>(words: &'static [(&'static str, T)]) -> impl Fn(&Node) -> Result<T, Bad> {
    move |node| {
        let text = text(node)?;
        if let Some((_, value)) = words.iter().find(|(word, _)| *word == text) {
            return Ok(*value);
        }
        let known: Vec<String> = words.iter().map(|(word, _)| format!("\"{word}\"")).collect();
        let bad = Bad::new(format!("is not one of {}", known.join(", ")));
        Err(match suggest(text, words.iter().map(|(word, _)| *word)) {
            Some(near) => bad.note(format!("did you mean \"{near}\"?")),
            None => bad,
        })
    }
}

pub(crate) fn period(low: Duration, high: Duration) -> impl Fn(&Node) -> Result<Duration, Bad> {
    move |node| {
        if let Value::Integer(number) = &node.value {
            return Err(wrong(node, "a string").note(format!("did you mean \"{number}s\"?")));
        }
        let period = duration::parse(text(node)?).map_err(|invalid| Bad::new(invalid.to_string()))?;
        if period < low || period > high {
            let (low, high) = (duration::format(low), duration::format(high));
            return Err(Bad::new(format!("is outside {low} to {high}")));
        }
        Ok(period)
    }
}

pub(crate) fn number(low: u32, high: u32) -> impl Fn(&Node) -> Result<u32, Bad> {
    move |node| match &node.value {
        Value::Integer(number) => {
            let fits = u32::try_from(*number).ok().filter(|number| (low..=high).contains(number));
            fits.ok_or_else(|| Bad::new(format!("is outside {low} to {high}")))
        }
        Value::String(text) if text.parse::<u32>().is_ok() => {
            Err(wrong(node, "an integer").note(format!("did you mean {text} without quotes?")))
        }
        Value::String(_) | Value::Other(..) | Value::Boolean(_) | Value::Array(_) | Value::Table(_) => {
            Err(wrong(node, "an integer"))
        }
    }
}

pub(crate) fn list<T>(node: &Node, element: impl Fn(&Node) -> Result<T, Bad>) -> Result<Vec<T>, Bad> {
    let nodes = match &node.value {
        Value::Array(nodes) => nodes,
        Value::String(_) => {
            return Err(wrong(node, "an array").note(format!("did you mean [{}]?", clip(&node.value.to_toml()))));
        }
        Value::Integer(_) | Value::Other(..) | Value::Boolean(_) | Value::Table(_) => {
            return Err(wrong(node, "an array"));
        }
    };
    if nodes.len() > LIST_MAX {
        return Err(Bad::new(format!("has {} elements, at most {LIST_MAX} are allowed", nodes.len())));
    }
    let each = |(at, node)| element(node).map_err(|bad| Bad { part: Some(usize::to_string(&at)), ..bad });
    nodes.iter().enumerate().map(each).collect()
}

pub(crate) fn seeds(node: &Node) -> Result<Vec<SeedAddress>, Bad> {
    list(node, |node| seed(text(node)?))
}

fn seed(text: &str) -> Result<SeedAddress, Bad> {
    const RULE: &str = "is not \"HOST:PORT\" or \"dns+srv://NAME\"";
    if let Some(name) = text.strip_prefix("dns+srv://") {
        return if is_host(name) { Ok(SeedAddress::Service(name.to_owned())) } else { Err(Bad::new(RULE)) };
    }
    if text.contains("://") {
        return Err(Bad::new(RULE));
    }
    if let Ok(address) = text.parse::<SocketAddr>() {
        return if address.port() == 0 || address.ip().is_unspecified() {
            Err(Bad::new("is not an address that can be dialled"))
        } else {
            Ok(SeedAddress::Host(address.to_string()))
        };
    }
    if let Ok(ip) = text.parse::<IpAddr>() {
        return Ok(SeedAddress::Host(SocketAddr::new(ip, MESH_PORT).to_string()));
    }
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) => (host, port.parse::<u16>().ok().filter(|port| *port > 0)),
        None => (text, Some(MESH_PORT)),
    };
    // Something like 10.0.0.300 is a slip, not a name: no top-level domain is all digits.
    let numeric = host.rsplit('.').next().is_some_and(|last| last.bytes().all(|b| b.is_ascii_digit()));
    match port {
        Some(port) if is_host(host) && !numeric => Ok(SeedAddress::Host(format!("{}:{port}", host.to_lowercase()))),
        Some(_) => Err(Bad::new(RULE)),
        None => Err(Bad::new(RULE).note("a port is a number from 1 to 65535")),
    }
}

/// A DNS name; underscores may stand in it because SRV names have them.
fn is_host(text: &str) -> bool {
    let text = text.strip_suffix('.').unwrap_or(text);
    text.len() <= HOST_BYTES_MAX && text.split('.').all(|label| is_label(&label.to_lowercase().replace('_', "x")))
}

pub(crate) fn hosts(node: &Node) -> Result<Vec<String>, Bad> {
    list(node, |node| {
        let text = text(node)?;
        if is_host(text) { Ok(text.to_lowercase()) } else { Err(Bad::new("is not a host name (no port, no scheme)")) }
    })
}

pub(crate) fn domain(node: &Node) -> Result<String, Bad> {
    let text = text(node)?;
    // Two labels of a service and its namespace stand before it.
    const DOMAIN_BYTES_MAX: usize = 120;
    if text.len() > DOMAIN_BYTES_MAX || !text.split('.').all(is_label) {
        return Err(Bad::new("is not a domain: lower-case labels joined by dots, without a dot at the end"));
    }
    Ok(text.to_owned())
}

pub(crate) fn labels(node: &Node) -> Result<Labels, Bad> {
    let Value::Table(table) = &node.value else { return Err(wrong(node, "a table like { zone = \"a\" }")) };
    let mut map = BTreeMap::new();
    for (key, entry) in table {
        let Value::String(value) = &entry.node.value else {
            let bad = wrong(&entry.node, "a string").note("label values stand in double quotes");
            return Err(Bad { part: Some(key.clone()), ..bad });
        };
        if let Err(message) = Labels::new(BTreeMap::from([(key.clone(), value.clone())])) {
            return Err(Bad { part: Some(key.clone()), ..Bad::new(format!("is no label: {message}")) });
        }
        map.insert(key.clone(), value.clone());
    }
    Labels::new(map).map_err(|message| Bad::new(format!("holds {message}")))
}

pub(crate) fn range(node: &Node) -> Result<LoopbackRange, Bad> {
    let bad = || Bad::new("is not an IPv4 range like 127.77.0.0/16");
    let (address, prefix) = text(node)?.split_once('/').ok_or_else(bad)?;
    let address: std::net::Ipv4Addr = address.parse().map_err(|_| bad())?;
    let prefix: u8 = prefix.parse().ok().filter(|prefix| *prefix <= 32).ok_or_else(bad)?;
    let addresses = 1_u64.checked_shl(32_u32.saturating_sub(prefix.into())).unwrap_or(0);
    let host_bits = u64::from(address.to_bits()).checked_rem(addresses).unwrap_or(0);
    if !address.is_loopback() || prefix < 8 {
        return Err(Bad::new("is not within 127.0.0.0/8"));
    }
    if addresses < RANGE_ADDRESSES_MIN {
        return Err(Bad::new(format!("holds {addresses} addresses, at least {RANGE_ADDRESSES_MIN} are needed")));
    }
    if host_bits != 0 {
        return Err(Bad::new(format!("is not the first address of a /{prefix}")));
    }
    Ok(LoopbackRange { address, prefix })
}

/// A path of an HTTP request, as a health check asks for it.
pub(crate) fn http_path(text: &str) -> Result<(), &'static str> {
    let plain = text.len() <= TEXT_BYTES_MAX && text.bytes().all(|b| b.is_ascii_graphic() && b != b'#');
    if text.starts_with('/') && plain { Ok(()) } else { Err("is not a path like /healthz") }
}
