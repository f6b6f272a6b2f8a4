//! Power of two choices over peak EWMA (Mitzenmacher 2001; Finagle): draw two usable endpoints by weight, take the one
//! with the lower `latency x (in flight + 1)`.
//!
//! Usable is judged by three inputs: what the owner says (ready or not: final), what gossip says (a hint), what our own
//! traffic met. **Own success beats a gossiped death; own failure beats a gossiped life.** When under half of the
//! admissible endpoints look usable from here (Envoy's panic threshold), the view itself is doubted and all
//! admissible ones are used, but for those that gossip *and* our own traffic call dead.

use std::time::{Duration, Instant};

use starling_model::{MemberState, Readiness};

use crate::decision::Draws;
use crate::grants::Standing;
use crate::limits::{COST_GRACE, COST_MARGIN, OWN_SUCCESS_HOLDS, PICK_DRAWS_MAX};
use crate::table::{Endpoint, EndpointIndex, Part, Pool, Service};

/// What this node's own traffic knows of one endpoint, read at decision time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// Peak EWMA as of now; `None` before the first answer.
    pub latency: Option<Duration>,
    /// Requests or connections under way from here.
    pub in_flight: u32,
    /// After failed connections: not before this moment, unless nothing else is left.
    pub failing_until: Option<Instant>,
    /// The last answer, if none of our attempts failed since.
    pub last_success: Option<Instant>,
}

/// How an endpoint stands, from here and now; what tables show as HEALTH and WHY.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condition {
    /// Gets traffic.
    Usable,
    /// Its owner says that its check fails.
    Unready,
    /// Its owner finishes it.
    Draining,
    /// Its node left.
    Left,
    /// Membership calls its node dead and our own traffic does not contradict.
    NodeDead,
    /// Our own connections fail, until then.
    Failing(Instant),
    /// Its node's address is not known yet.
    NoAddress,
    /// Announced with weight 0.
    NoWeight,
    /// Its node may not serve the service.
    Ungranted(Standing),
}

/// Judges one endpoint. The order is the order of certainty.
#[must_use]
pub fn condition(endpoint: &Endpoint, load: &Load, now: Instant) -> Condition {
    if endpoint.member == MemberState::Left {
        return Condition::Left;
    }
    if !endpoint.standing.is_accepted() {
        return Condition::Ungranted(endpoint.standing);
    }
    match endpoint.readiness {
        Readiness::Ready => {}
        Readiness::Unready => return Condition::Unready,
        Readiness::Draining => return Condition::Draining,
    }
    if endpoint.address.is_none() {
        return Condition::NoAddress;
    }
    if endpoint.weight.get() == 0 {
        return Condition::NoWeight;
    }
    if let Some(until) = load.failing_until.filter(|until| *until > now) {
        return Condition::Failing(until);
    }
    let succeeded = load.last_success.is_some_and(|at| now.saturating_duration_since(at) < OWN_SUCCESS_HOLDS);
    if endpoint.member == MemberState::Dead && !succeeded {
        return Condition::NodeDead;
    }
    Condition::Usable
}

/// True when gossip and our own traffic agree that it is gone; not even a doubted view tries it.
fn surely_gone(endpoint: &Endpoint, load: &Load, now: Instant) -> bool {
    endpoint.member == MemberState::Dead && load.failing_until.is_some_and(|until| until > now)
}

/// What a pick is made from.
#[derive(Clone, Copy)]
pub(crate) struct Field<'a> {
    pub(crate) service: &'a Service,
    pub(crate) pool: &'a Pool,
    pub(crate) now: Instant,
    pub(crate) loads: &'a dyn Fn(EndpointIndex) -> Load,
}

/// Picks an endpoint of the pool that is not to be avoided: its position in the service's endpoints, or `None` when none
/// may be used. `number` gives the nth drawn number, uniform over 64 bits.
pub(crate) fn pick(field: Field<'_>, avoid: &[EndpointIndex], number: impl Fn(u32) -> u64) -> Option<u32> {
    // The usual case touches two endpoints, however many there are: nothing tried yet, both draws usable.
    if avoid.is_empty()
        && let Some(found) = quick(field, &number)
    {
        return Some(found);
    }
    careful(field, avoid, &number)
}

fn quick(field: Field<'_>, number: &impl Fn(u32) -> u64) -> Option<u32> {
    let Field { service, pool, now, loads } = field;
    let total = pool.total();
    let mut first: Option<(u32, Load)> = None;
    for n in 0..PICK_DRAWS_MAX {
        let position = pool.at(Draws::below(number(n), total))?;
        let endpoint = service.endpoints.get(position as usize)?;
        if first.is_some_and(|(held, _)| held == position) {
            continue;
        }
        let load = loads(endpoint.index);
        if condition(endpoint, &load, now) != Condition::Usable {
            // The view may be poor: let the careful path weigh the whole pool.
            return None;
        }
        match first {
            None if pool.len() == 1 => return Some(position),
            None => first = Some((position, load)),
            Some((held, held_load)) => return Some(lighter((held, held_load), (position, load))),
        }
    }
    None
}

fn careful(field: Field<'_>, avoid: &[EndpointIndex], number: &impl Fn(u32) -> u64) -> Option<u32> {
    let candidates = candidates(field, avoid);
    let fresh: Vec<&Candidate> = candidates.iter().filter(|c| !avoid.contains(&c.index)).collect();
    let total: u64 = fresh.iter().map(|c| c.weight).sum();
    if total == 0 {
        return None;
    }
    let draw = |n: u32, skip: Option<u32>| -> Option<&Candidate> {
        let total: u64 = fresh.iter().filter(|c| Some(c.position) != skip).map(|c| c.weight).sum();
        let mut point = (total > 0).then(|| Draws::below(number(n), total))?;
        fresh.iter().copied().filter(|c| Some(c.position) != skip).find(|c| {
            let hit = point < c.weight;
            point = point.saturating_sub(c.weight);
            hit
        })
    };
    let one = draw(0, None)?;
    let Some(two) = draw(1, Some(one.position)) else { return Some(one.position) };
    Some(lighter((one.position, one.load), (two.position, two.load)))
}

/// An endpoint in the running for one pick.
struct Candidate {
    position: u32,
    index: EndpointIndex,
    weight: u64,
    load: Load,
}

fn candidates(field: Field<'_>, avoid: &[EndpointIndex]) -> Vec<Candidate> {
    let Field { service, pool, now, loads } = field;
    let mut usable = Vec::new();
    let mut doubtful = Vec::new();
    let mut gone = Vec::new();
    for position in pool.positions() {
        let Some(endpoint) = service.endpoints.get(position as usize) else { continue };
        let load = loads(endpoint.index);
        let candidate = Candidate { position, index: endpoint.index, weight: u64::from(endpoint.weight.get()), load };
        if condition(endpoint, &load, now) == Condition::Usable {
            usable.push(candidate);
        } else if surely_gone(endpoint, &load, now) {
            gone.push(candidate);
        } else {
            doubtful.push(candidate);
        }
    }
    let all = usable.len() + doubtful.len() + gone.len();
    let panic = usable.len() * 2 < all;
    // A retry that has used up the usable ones may still try the doubtful ones.
    let exhausted = usable.iter().all(|c| avoid.contains(&c.index));
    if panic || exhausted {
        usable.append(&mut doubtful);
    }
    if usable.is_empty() { gone } else { usable }
}

/// The one with the clearly lower cost, else the one that was drawn first. An endpoint without a sample is judged as
/// the other one, so that it neither draws the herd nor starves.
///
/// "Clearly" keeps equals equal: with two endpoints and little traffic both are in every draw, and without a margin the
/// one that was faster by a hair would take everything.
fn lighter(one: (u32, Load), two: (u32, Load)) -> u32 {
    let latency = |load: &Load, other: &Load| load.latency.or(other.latency).unwrap_or(COST_GRACE);
    let cost = |load: &Load, other: &Load| {
        (latency(load, other) + COST_GRACE).as_secs_f64() * (f64::from(load.in_flight) + 1.0)
    };
    if cost(&two.1, &one.1) * COST_MARGIN < cost(&one.1, &two.1) { two.0 } else { one.0 }
}

/// See [`Service::shares`]: by weight among the candidates of now.
pub(crate) fn shares(service: &Service, now: Instant, loads: &dyn Fn(EndpointIndex) -> Load) -> Vec<f64> {
    let mut shares = vec![0.0; service.endpoints.len()];
    let Some(pool) = service.pool(Part::default()) else { return shares };
    for (position, share) in pool_shares(Field { service, pool, now, loads }) {
        if let Some(place) = shares.get_mut(position as usize) {
            *place = share;
        }
    }
    shares
}

/// Positions with their shares of new requests, of the candidates of now.
#[expect(clippy::cast_precision_loss, reason = "a share is shown with one digit after the point")]
pub(crate) fn pool_shares(field: Field<'_>) -> Vec<(u32, f64)> {
    let candidates = candidates(field, &[]);
    let total = candidates.iter().map(|c| c.weight).sum::<u64>().max(1) as f64;
    candidates.iter().map(|c| (c.position, c.weight as f64 / total)).collect()
}
