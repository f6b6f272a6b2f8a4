//! How one endpoint of several is chosen, made ready for picks.

use std::fmt;

use starling_config::documents::starling_service::{HashKey, Policy};

use crate::decision::{Draws, RequestFacts};
use crate::maglev::{Entry, Maglev, hash_key};
use crate::session::{Mark, cookies};
use crate::table::{Endpoint, Service};

/// A service's policy, with what it needs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Balancing {
    /// Of two draws the one with the lower latency times load.
    #[default]
    PeakEwma,
    /// Of two draws the one with fewer requests in flight.
    LeastRequest,
    /// In turn, the heavier more often.
    RoundRobin,
    /// By weight alone.
    Random,
    /// By a key of the request; without it as [`Self::PeakEwma`].
    Maglev(Box<Maglev>),
}

/// Who chose, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ChosenBy {
    /// `peak-ewma`
    PeakEwma,
    /// `least-request`
    LeastRequest,
    /// `round-robin`
    RoundRobin,
    /// `random`
    Random,
    /// `maglev by header x-user`
    Maglev(HashKey),
    /// `peak-ewma, since maglev finds no header x-user`
    NoKey(HashKey),
    /// `session`
    Session,
}

fn key_name(key: &HashKey) -> String {
    match key {
        HashKey::Header(name) => format!("header {name}"),
        HashKey::Cookie(name) => format!("cookie {name}"),
        HashKey::Source => "source".to_owned(),
        HashKey::Path => "path".to_owned(),
    }
}

impl fmt::Display for ChosenBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PeakEwma => f.write_str("peak-ewma"),
            Self::LeastRequest => f.write_str("least-request"),
            Self::RoundRobin => f.write_str("round-robin"),
            Self::Random => f.write_str("random"),
            Self::Maglev(key) => write!(f, "maglev by {}", key_name(key)),
            Self::NoKey(key) => write!(f, "peak-ewma, since maglev finds no {}", key_name(key)),
            Self::Session => f.write_str("session"),
        }
    }
}

impl ChosenBy {
    /// True where the request itself, and no draw, says which endpoint it is.
    pub(crate) fn is_certain(&self) -> bool {
        match self {
            Self::Maglev(_) | Self::Session => true,
            Self::PeakEwma | Self::LeastRequest | Self::RoundRobin | Self::Random | Self::NoKey(_) => false,
        }
    }
}

impl Balancing {
    /// For the endpoints of a service; `previous` only saves work.
    pub(crate) fn new(policy: &Policy, endpoints: &[Endpoint], previous: Option<&Self>) -> Self {
        match policy {
            Policy::PeakEwma => Self::PeakEwma,
            Policy::LeastRequest => Self::LeastRequest,
            Policy::RoundRobin => Self::RoundRobin,
            Policy::Random => Self::Random,
            Policy::Maglev(key) => {
                let admitted = (0u32..).zip(endpoints).filter(|(_, endpoint)| endpoint.admissible());
                let entry = |(position, endpoint): (u32, &Endpoint)| Entry {
                    mark: Mark::of(&endpoint.id),
                    weight: endpoint.weight.get(),
                    position,
                };
                let held = previous.and_then(|held| match held {
                    Self::Maglev(held) => Some(&**held),
                    Self::PeakEwma | Self::LeastRequest | Self::RoundRobin | Self::Random => None,
                });
                Self::Maglev(Box::new(Maglev::new(key.clone(), admitted.map(entry).collect(), held)))
            }
        }
    }

    /// The table, and the number of the request's key in it; `None` where the policy is another one, or the request has no
    /// such key.
    pub(crate) fn hashed(&self, request: &RequestFacts<'_>) -> Option<(&Maglev, u64)> {
        match self {
            Self::Maglev(maglev) => Some((maglev, key_of(&maglev.key, request)?)),
            Self::PeakEwma | Self::LeastRequest | Self::RoundRobin | Self::Random => None,
        }
    }

    /// The way for requests that have what it needs.
    pub(crate) fn way(&self) -> ChosenBy {
        match self {
            Self::PeakEwma => ChosenBy::PeakEwma,
            Self::LeastRequest => ChosenBy::LeastRequest,
            Self::RoundRobin => ChosenBy::RoundRobin,
            Self::Random => ChosenBy::Random,
            Self::Maglev(maglev) => ChosenBy::Maglev(maglev.key.clone()),
        }
    }

    pub(crate) fn chosen_by(&self, request: &RequestFacts<'_>) -> ChosenBy {
        match self {
            Self::PeakEwma => ChosenBy::PeakEwma,
            Self::LeastRequest => ChosenBy::LeastRequest,
            Self::RoundRobin => ChosenBy::RoundRobin,
            Self::Random => ChosenBy::Random,
            Self::Maglev(maglev) if key_of(&maglev.key, request).is_some() => ChosenBy::Maglev(maglev.key.clone()),
            Self::Maglev(maglev) => ChosenBy::NoKey(maglev.key.clone()),
        }
    }
}

fn key_of(key: &HashKey, request: &RequestFacts<'_>) -> Option<u64> {
    match key {
        HashKey::Header(name) => {
            let values: Vec<&[u8]> = request.http?.headers.get_all(name).iter().map(|value| value.as_bytes()).collect();
            (!values.is_empty()).then(|| hash_key(&values))
        }
        HashKey::Cookie(name) => cookies(request.http?.headers, name).next().map(|value| hash_key(&[value])),
        HashKey::Path => Some(hash_key(&[request.http?.path.as_bytes()])),
        // Who calls is a node and, where it says one, its service: callers of one service on several hosts are several.
        HashKey::Source => {
            let node = request.node.map_or("", |node| node.as_str());
            let service = request.source.map(|source| (source.namespace.as_str(), source.name.as_str()));
            let (namespace, name) = service.unwrap_or_default();
            Some(hash_key(&[node.as_bytes(), namespace.as_bytes(), name.as_bytes()]))
        }
    }
}

/// The point of a rotation over `total` that turn number `turn` comes to, when every weight is a multiple of `unit`.
///
/// A whole cycle comes by each endpoint as often as its weight says; steps of about the golden section spread the heavy
/// ones over it. Without weights (a unit is one endpoint) the steps go from one to the next.
pub(crate) fn point_of_turn(turn: u32, (total, unit): (u64, u64), equal: bool) -> u64 {
    let cycle = total.checked_div(unit).unwrap_or_default().max(1);
    let step = if equal { 1 } else { golden_step(cycle) };
    let nth = u128::from(turn) * u128::from(step) % u128::from(cycle);
    u64::try_from(nth).unwrap_or_default() * unit
}

/// A step near 0.618 of the cycle that comes by all of it.
fn golden_step(cycle: u64) -> u64 {
    let golden = Draws::below(0x9e37_79b9_7f4a_7c15, cycle).max(1);
    (golden..cycle).find(|step| gcd(*step, cycle) == 1).unwrap_or(1)
}

pub(crate) fn gcd(mut a: u64, mut b: u64) -> u64 {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}

impl Service {
    /// The endpoint of this mark.
    pub(crate) fn marked(&self, mark: Mark) -> Option<u32> {
        let at = self.marks.binary_search_by_key(&mark, |(mark, _)| *mark).ok()?;
        self.marks.get(at).map(|(_, position)| *position)
    }
}

/// Marks of endpoints, in order.
pub(crate) fn marks(endpoints: &[Endpoint]) -> Vec<(Mark, u32)> {
    let mut all: Vec<(Mark, u32)> =
        endpoints.iter().zip(0u32..).map(|(endpoint, at)| (Mark::of(&endpoint.id), at)).collect();
    all.sort_unstable();
    all
}

#[cfg(test)]
mod tests;
