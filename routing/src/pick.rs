//! Power of two choices over peak EWMA (Mitzenmacher 2001; Finagle): draw two usable endpoints by weight, take the one
//! with the lower `latency x (in flight + 1)`. A Service may ask for another policy ([`crate::balance`]); what is usable,
//! and which are left when the view is poor, is the same for all.
//!
//! Usable is judged by three inputs: what the owner says (ready or not: final), what gossip says (a hint), what our own
//! traffic met. **Own success beats a gossiped death; own failure beats a gossiped life.** When under half of the
//! admissible endpoints look usable from here (Envoy's panic threshold), the view itself is doubted and all
//! admissible ones are used, but for those that gossip *and* our own traffic call dead.

use std::time::{Duration, Instant};

use starling_model::{MemberState, Readiness};

use crate::balance::{Balancing, gcd, point_of_turn};
use crate::decision::Draws;
use crate::grants::Standing;
use crate::limits::{COST_GRACE, COST_MARGIN, OWN_SUCCESS_HOLDS, PICK_DRAWS_MAX, SLOW_START_SHARE};
use crate::maglev::Maglev;
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
    /// Since when it is ready, or its node back, as seen from here; `None`: for long.
    pub ready_since: Option<Instant>,
    /// Turns that were taken, where endpoints take turns and this one counts them.
    pub turn: u32,
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

/// What is picked for.
#[derive(Clone, Copy)]
pub(crate) struct Wish<'a> {
    /// Endpoints that were tried already.
    pub(crate) avoid: &'a [EndpointIndex],
    pub(crate) draws: Draws,
    /// The number of the request's key, where endpoints are chosen by one.
    pub(crate) hashed: Option<(&'a Maglev, u64)>,
    /// The number of the copy; `None`: the request itself, which alone takes turns.
    pub(crate) copy: Option<u32>,
}

impl Wish<'_> {
    /// The `n`th drawn number, uniform over 64 bits.
    fn number(&self, n: u32) -> u64 {
        match self.copy {
            None => self.draws.pick(n),
            Some(copy) => self.draws.mirror_pick(copy, n),
        }
    }
}

/// Whether an endpoint takes part that gets only a share of what it would get. Per request and not per draw: of two
/// endpoints both are always drawn, so that a weight alone would keep nothing away from the new one.
fn takes_part(draws: Draws, position: u32, share: f64) -> bool {
    // Of 53 bits, which is what a share can tell apart.
    #[expect(clippy::cast_precision_loss, reason = "53 bits fit")]
    let coin = (draws.coin(position) >> 11) as f64 / (1_u64 << 53) as f64;
    coin < share
}

/// Picks an endpoint of the pool that is not to be avoided: its position in the service's endpoints, or `None` when none
/// may be used.
pub(crate) fn pick(field: Field<'_>, wish: &Wish<'_>) -> Option<u32> {
    if let Some(hashed) = wish.hashed {
        return by_hash(field, wish, hashed);
    }
    // The usual case touches two endpoints, however many there are: nothing tried yet, both draws usable.
    if wish.avoid.is_empty()
        && let Some(found) = quick(field, wish)
    {
        return Some(found);
    }
    careful(field, wish)
}

/// The endpoint that counts the turns of these, where they take turns.
pub(crate) fn turn_counter(field: Field<'_>) -> Option<EndpointIndex> {
    let first = field.pool.first()?;
    field.service.endpoints.get(first as usize).map(|endpoint| endpoint.index)
}

fn turn(field: Field<'_>) -> u32 {
    turn_counter(field).map_or(0, |index| (field.loads)(index).turn)
}

/// Whether a session may go on at the endpoint of this position.
pub(crate) fn may_take(field: Field<'_>, avoid: &[EndpointIndex], position: u32) -> bool {
    let Some(endpoint) = field.service.endpoints.get(position as usize) else { return false };
    if avoid.contains(&endpoint.index) || !field.pool.holds(position) {
        return false;
    }
    condition(endpoint, &(field.loads)(endpoint.index), field.now) == Condition::Usable
        || candidates(field, avoid).iter().any(|candidate| candidate.position == position)
}

/// The share of its usual requests that an endpoint gets: rising in a line while it is new.
fn risen(service: &Service, load: &Load, now: Instant) -> f64 {
    let Some(since) = load.ready_since else { return 1.0 };
    let age = now.saturating_duration_since(since);
    if age >= service.slow_start {
        return 1.0;
    }
    SLOW_START_SHARE + (1.0 - SLOW_START_SHARE) * age.as_secs_f64() / service.slow_start.as_secs_f64()
}

fn quick(field: Field<'_>, wish: &Wish<'_>) -> Option<u32> {
    match (&field.service.balancing, wish.copy) {
        (Balancing::PeakEwma | Balancing::Maglev(_), None) => {
            two_draws(field, wish.draws, |n| wish.draws.pick(n), lighter_by_latency)
        }
        (Balancing::PeakEwma | Balancing::Maglev(_), Some(_)) => {
            two_draws(field, wish.draws, |n| wish.number(n), lighter_by_latency)
        }
        (Balancing::LeastRequest, _) => two_draws(field, wish.draws, |n| wish.number(n), lighter_by_requests),
        (Balancing::RoundRobin, None) => {
            let position = field.pool.in_turn(turn(field))?;
            is_fit(field, wish.draws, position).then_some(position)
        }
        (Balancing::RoundRobin, Some(_)) | (Balancing::Random, _) => {
            let position = field.pool.at(Draws::below(wish.number(0), field.pool.total()))?;
            is_fit(field, wish.draws, position).then_some(position)
        }
    }
}

/// Usable, and taking part in this request.
fn is_fit(field: Field<'_>, draws: Draws, position: u32) -> bool {
    let Field { service, pool, now, loads } = field;
    let Some(endpoint) = service.endpoints.get(position as usize) else { return false };
    let load = loads(endpoint.index);
    condition(endpoint, &load, now) == Condition::Usable
        && (load.ready_since.is_none() || pool.len() == 1 || takes_part(draws, position, risen(service, &load, now)))
}

fn two_draws(
    field: Field<'_>,
    draws: Draws,
    number: impl Fn(u32) -> u64,
    lighter: impl Fn((u32, Burden), (u32, Burden)) -> u32,
) -> Option<u32> {
    let Field { service, pool, now, loads } = field;
    let total = pool.total();
    let mut first: Option<(u32, Burden)> = None;
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
        if load.ready_since.is_some() && pool.len() > 1 && !takes_part(draws, position, risen(service, &load, now)) {
            continue;
        }
        match first {
            None if pool.len() == 1 => return Some(position),
            None => first = Some((position, Burden::of(&load))),
            Some(held) => return Some(lighter(held, (position, Burden::of(&load)))),
        }
    }
    None
}

fn careful(field: Field<'_>, wish: &Wish<'_>) -> Option<u32> {
    let candidates = candidates(field, wish.avoid);
    let fresh = || candidates.iter().filter(|c| !wish.avoid.contains(&c.index));
    let part = |c: &&Candidate| c.share >= 1.0 || takes_part(wish.draws, c.position, c.share);
    let mut taking: Vec<&Candidate> = fresh().filter(part).collect();
    if taking.is_empty() {
        // All of them are new.
        taking = fresh().collect();
    }
    let total: u64 = taking.iter().map(|c| c.weight).sum();
    if total == 0 {
        return None;
    }
    let at = |mut point: u64, skip: Option<u32>| -> Option<&Candidate> {
        taking.iter().copied().filter(|c| Some(c.position) != skip).find(|c| {
            let hit = point < c.weight;
            point = point.saturating_sub(c.weight);
            hit
        })
    };
    let drawn = || at(Draws::below(wish.number(0), total), None);
    let lighter = match (&field.service.balancing, wish.copy) {
        (Balancing::RoundRobin, None) => {
            let unit = taking.iter().fold(0, |unit, c| gcd(unit, c.weight));
            let equal = taking.iter().all(|c| c.weight == unit);
            return at(point_of_turn(turn(field), (total, unit), equal), None).map(|c| c.position);
        }
        (Balancing::RoundRobin, Some(_)) | (Balancing::Random, _) => return drawn().map(|c| c.position),
        (Balancing::PeakEwma | Balancing::Maglev(_), _) => lighter_by_latency,
        (Balancing::LeastRequest, _) => lighter_by_requests,
    };
    let one = drawn()?;
    let others = total - one.weight;
    let two = (others > 0).then(|| at(Draws::below(wish.number(1), others), Some(one.position))).flatten();
    let Some(two) = two else { return Some(one.position) };
    Some(lighter((one.position, Burden::of(&one.load)), (two.position, Burden::of(&two.load))))
}

/// The endpoint that a key means, or the next that it means if that one may not be used.
fn by_hash(field: Field<'_>, wish: &Wish<'_>, (maglev, key): (&Maglev, u64)) -> Option<u32> {
    let first = maglev.positions(key).find(|position| field.pool.holds(*position));
    if let Some(position) = first
        && let Some(endpoint) = field.service.endpoints.get(position as usize)
        && !wish.avoid.contains(&endpoint.index)
        && condition(endpoint, &(field.loads)(endpoint.index), field.now) == Condition::Usable
    {
        return Some(position);
    }
    let candidates = candidates(field, wish.avoid);
    let fresh = candidates.iter().filter(|candidate| !wish.avoid.contains(&candidate.index));
    let mut allowed: Vec<u32> = fresh.map(|candidate| candidate.position).collect();
    allowed.sort_unstable();
    let is_allowed = |position: u32| allowed.binary_search(&position).is_ok();
    maglev.positions(key).find(|position| is_allowed(*position)).or_else(|| maglev.highest(key, is_allowed))
}

/// An endpoint in the running for one pick.
struct Candidate {
    position: u32,
    index: EndpointIndex,
    weight: u64,
    /// Of its weight, see [`risen`].
    share: f64,
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
        let (weight, share) = (u64::from(endpoint.weight.get()), risen(service, &load, now));
        let candidate = Candidate { position, index: endpoint.index, weight, share, load };
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

/// What two endpoints are compared by.
#[derive(Clone, Copy)]
struct Burden {
    latency: Option<Duration>,
    in_flight: u32,
}

impl Burden {
    fn of(load: &Load) -> Self {
        Self { latency: load.latency, in_flight: load.in_flight }
    }
}

/// The one with the clearly lower cost, else the one that was drawn first. An endpoint without a sample is judged as
/// the other one, so that it neither draws the herd nor starves.
///
/// "Clearly" keeps equals equal: with two endpoints and little traffic both are in every draw, and without a margin the
/// one that was faster by a hair would take everything.
fn lighter_by_latency(one: (u32, Burden), two: (u32, Burden)) -> u32 {
    let latency = |of: &Burden, other: &Burden| of.latency.or(other.latency).unwrap_or(COST_GRACE);
    let cost =
        |of: &Burden, other: &Burden| (latency(of, other) + COST_GRACE).as_secs_f64() * (f64::from(of.in_flight) + 1.0);
    if cost(&two.1, &one.1) * COST_MARGIN < cost(&one.1, &two.1) { two.0 } else { one.0 }
}

/// The one with fewer requests under way, else the one that was drawn first.
fn lighter_by_requests(one: (u32, Burden), two: (u32, Burden)) -> u32 {
    if two.1.in_flight < one.1.in_flight { two.0 } else { one.0 }
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
    // A table of hashes knows no slow start.
    let hashed = match &field.service.balancing {
        Balancing::Maglev(_) => true,
        Balancing::PeakEwma | Balancing::LeastRequest | Balancing::RoundRobin | Balancing::Random => false,
    };
    let weight = |c: &Candidate| c.weight as f64 * if hashed { 1.0 } else { c.share };
    let total = candidates.iter().map(weight).sum::<f64>();
    if total <= 0.0 {
        return Vec::new();
    }
    candidates.iter().map(|c| (c.position, weight(c) / total)).collect()
}
