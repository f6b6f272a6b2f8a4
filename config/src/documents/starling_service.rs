//! `Service` of `starling/v1`: ports with their protocols, subsets, and how its endpoints are chosen.
#![deny(clippy::expect_used, clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use std::collections::BTreeMap;
use std::num::NonZeroU16;
use std::time::Duration;

use http::HeaderName;
use starling_model::limits::LABEL_BYTES_MAX;
use starling_model::{Labels, PortName, Protocol, SubsetName, codes};

use super::fields::Fields;
use super::limits::{SERVICE_PORTS_MAX, SLOW_START_MAX, SUBSETS_MAX};
use super::text;
use crate::schema::Bad;
use crate::tree::{Node, Value};
use crate::values::{self, bounded, one_of};

/// What localities are told by unless said otherwise.
const LOCALITY_LABEL: &str = "zone";

/// The `spec` of our Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StarlingService {
    /// All of these labels must be an instance's; `None`: the instances that announce the Service's name.
    pub selector: Option<Labels>,
    /// Empty: the ports that instances announce.
    pub ports: Vec<StarlingPort>,
    /// Named parts of its instances.
    pub subsets: BTreeMap<SubsetName, Labels>,
    /// How an endpoint is chosen.
    pub load_balancing: LoadBalancing,
    /// For how long a new endpoint's share rises; `None`: as built in.
    pub slow_start: Option<Duration>,
}

/// One port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StarlingPort {
    /// Instances announce themselves for it.
    pub name: PortName,
    /// What applications connect to.
    pub port: NonZeroU16,
    /// What is spoken there.
    pub protocol: Protocol,
}

/// How an endpoint is chosen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LoadBalancing {
    /// The rule.
    pub policy: Policy,
    /// Whether near endpoints come first; without effect in this release.
    pub locality: Option<Locality>,
}

/// Which endpoint takes a request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Policy {
    /// Of two draws the one with the lower latency times load.
    #[default]
    PeakEwma,
    /// Of two draws the one with fewer requests in flight.
    LeastRequest,
    /// In turn.
    RoundRobin,
    /// By weight alone.
    Random,
    /// The same key goes to the same endpoint, as long as it is there.
    Maglev(HashKey),
}

/// What a consistent hash is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HashKey {
    /// `header:x-user`
    Header(HeaderName),
    /// `cookie:session`
    Cookie(String),
    /// `source`: who calls.
    Source,
    /// `path`
    Path,
}

/// Near endpoints first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Locality {
    /// Endpoints with the caller's value of this label are near.
    pub label: String,
    /// All requests stay near while at least this share of the near endpoints, in percent, is healthy.
    pub prefer: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Word {
    PeakEwma,
    LeastRequest,
    RoundRobin,
    Random,
    Maglev,
}

pub(super) fn read(fields: &mut Fields<'_, '_>) -> Option<StarlingService> {
    let selector = fields.optional("selector", text::labels);
    let ports = fields.tables("ports", SERVICE_PORTS_MAX, port);
    fields.unique("ports", "name");
    let again = |at: usize, port: &StarlingPort| ports.iter().take(at).any(|earlier| earlier.port == port.port);
    if let Some((_, port)) = ports.iter().enumerate().find(|(at, port)| again(*at, port)) {
        fields.bad("ports", Bad::new(format!("name port {} twice", port.port)));
    }
    let subsets = fields.map("subsets", SUBSETS_MAX, |name, node| {
        let name =
            SubsetName::new(name).map_err(|_| Bad::new("stands under a name that is no label of a-z, 0-9, '-'"))?;
        text::labels(node).map(|labels| (name, labels))
    });
    let load_balancing = fields.table("loadBalancing", load_balancing);
    let load_balancing = if fields.has("loadBalancing") { load_balancing } else { Some(LoadBalancing::default()) };
    let slow_start = fields.optional("slowStart", text::period(Duration::ZERO, SLOW_START_MAX));
    let subsets = subsets.into_iter().collect();
    Some(StarlingService { selector, ports, subsets, load_balancing: load_balancing?, slow_start })
}

fn port(fields: &mut Fields<'_, '_>) -> Option<StarlingPort> {
    const PROTOCOLS: &[(&str, Protocol)] =
        &[("http", Protocol::Http), ("grpc", Protocol::Grpc), ("tcp", Protocol::Tcp)];
    let name = fields.required("name", values::name(PortName::new));
    let port = fields.required("port", text::port);
    let protocol = fields.required("protocol", one_of(PROTOCOLS));
    Some(StarlingPort { name: name?, port: port?, protocol: protocol? })
}

fn load_balancing(fields: &mut Fields<'_, '_>) -> Option<LoadBalancing> {
    const WORDS: &[(&str, Word)] = &[
        ("peak-ewma", Word::PeakEwma),
        ("least-request", Word::LeastRequest),
        ("round-robin", Word::RoundRobin),
        ("random", Word::Random),
        ("maglev", Word::Maglev),
    ];
    let default = if fields.has("policy") { None } else { Some(Word::PeakEwma) };
    let word = fields.optional("policy", one_of(WORDS)).or(default);
    let key = fields.optional("key", hash_key);
    match word {
        Some(Word::Maglev) => fields.demand("key"),
        Some(Word::PeakEwma | Word::LeastRequest | Word::RoundRobin | Word::Random) if fields.has("key") => {
            fields.bad_key("key", Bad::new("means something for policy maglev only"));
        }
        Some(Word::PeakEwma | Word::LeastRequest | Word::RoundRobin | Word::Random) | None => {}
    }
    if fields.has("locality") {
        let message = "locality has no effect in this release: near and far endpoints are one pool".to_owned();
        fields.warn("locality", codes::DOCUMENT_IDLE, message);
    }
    let locality = fields.table("locality", |fields| {
        let label = fields.optional("label", |node| bounded(LABEL_BYTES_MAX)(node).map(str::to_owned));
        let prefer = fields.required("prefer", text::percent);
        Some(Locality { label: label.unwrap_or_else(|| LOCALITY_LABEL.to_owned()), prefer: prefer? })
    });
    let policy = match word? {
        Word::PeakEwma => Policy::PeakEwma,
        Word::LeastRequest => Policy::LeastRequest,
        Word::RoundRobin => Policy::RoundRobin,
        Word::Random => Policy::Random,
        Word::Maglev => Policy::Maglev(key?),
    };
    Some(LoadBalancing { policy, locality })
}

fn hash_key(node: &Node) -> Result<HashKey, Bad> {
    let bad = || Bad::new("is not one of header:NAME, cookie:NAME, source, path");
    let Value::String(text) = &node.value else { return Err(bad()) };
    match text.split_once(':') {
        None if text == "source" => Ok(HashKey::Source),
        None if text == "path" => Ok(HashKey::Path),
        Some(("header", name)) => HeaderName::from_bytes(name.as_bytes()).map(HashKey::Header).map_err(|_| bad()),
        Some(("cookie", name)) if HeaderName::from_bytes(name.as_bytes()).is_ok() => {
            Ok(HashKey::Cookie(name.to_owned()))
        }
        Some(_) | None => Err(bad()),
    }
}
