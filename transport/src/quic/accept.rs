//! Who may start a handshake: retry tokens under pressure, caps per source, silence for the rest.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tracing::debug;

use super::limits::{PENDING_MAX, PENDING_PER_SOURCE_MAX, RETRY_ABOVE, SOURCES_MAX, STARTED_PER_SECOND_MAX};
use super::{Inner, peer};

/// What caps count by: an IPv4 address, an IPv6 /64, and on loopback the port too, because there every agent of a
/// demonstration shares one address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum SourceKey {
    V4([u8; 4]),
    V6([u8; 8]),
    Loopback(u16),
}

impl SourceKey {
    fn of(address: SocketAddr) -> Self {
        let ip = address.ip().to_canonical();
        match ip {
            _ if ip.is_loopback() => Self::Loopback(address.port()),
            IpAddr::V4(ip) => Self::V4(ip.octets()),
            IpAddr::V6(ip) => Self::V6(ip.octets().first_chunk().copied().unwrap_or_default()),
        }
    }
}

#[derive(Clone, Copy, Debug)]
struct Source {
    pending: usize,
    second: Instant,
    started: usize,
}

/// What to do with one incoming handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Admission {
    Accept,
    Retry,
    Ignore,
}

/// The books of who is shaking hands.
#[derive(Debug, Default)]
pub(super) struct Sources {
    by_source: BTreeMap<SourceKey, Source>,
    pending: usize,
    /// Addresses of members: a mesh that restarts dials all at once.
    known: BTreeSet<IpAddr>,
}

impl Sources {
    pub(super) fn set_known(&mut self, known: impl IntoIterator<Item = IpAddr>) {
        self.known = known.into_iter().map(|ip| ip.to_canonical()).take(SOURCES_MAX).collect();
    }

    fn admit(&mut self, from: SocketAddr, is_validated: bool, now: Instant) -> Admission {
        if self.pending >= PENDING_MAX {
            return Admission::Ignore;
        }
        if self.pending > RETRY_ABOVE && !is_validated {
            return Admission::Retry;
        }
        let key = SourceKey::of(from);
        if self.by_source.len() >= SOURCES_MAX && !self.by_source.contains_key(&key) {
            self.by_source.retain(|_, source| source.pending > 0 || !is_over(source.second, now));
            if self.by_source.len() >= SOURCES_MAX {
                return Admission::Ignore;
            }
        }
        let is_known = self.known.contains(&from.ip().to_canonical());
        let source = self.by_source.entry(key).or_insert(Source { pending: 0, second: now, started: 0 });
        if is_over(source.second, now) {
            (source.second, source.started) = (now, 0);
        }
        let is_too_many = source.pending >= PENDING_PER_SOURCE_MAX || source.started >= STARTED_PER_SECOND_MAX;
        match (is_too_many, is_known) {
            (false, _) => {}
            // Anybody can write a member's address on a packet: it is exempt once it has answered from there.
            (true, true) if !is_validated => return Admission::Retry,
            (true, true) => {}
            (true, false) => return Admission::Ignore,
        }
        source.pending += 1;
        source.started += 1;
        self.pending += 1;
        Admission::Accept
    }

    fn finished(&mut self, from: SocketAddr) {
        self.pending = self.pending.saturating_sub(1);
        if let Some(source) = self.by_source.get_mut(&SourceKey::of(from)) {
            source.pending = source.pending.saturating_sub(1);
        }
    }
}

fn is_over(second: Instant, now: Instant) -> bool {
    now.saturating_duration_since(second) >= Duration::from_secs(1)
}

/// One handshake in the books, until it is over either way.
pub(super) struct Pending {
    inner: Arc<Inner>,
    from: SocketAddr,
}

impl Drop for Pending {
    fn drop(&mut self) {
        self.inner.sources().finished(self.from);
    }
}

/// Takes handshakes until the endpoint closes. Owns nothing; each connection gets a task of its own.
pub(super) async fn run(inner: Arc<Inner>) {
    while let Some(incoming) = inner.endpoint.accept().await {
        let from = incoming.remote_address();
        let is_validated = incoming.remote_address_validated();
        let admission = inner.sources().admit(from, is_validated, Instant::now());
        match admission {
            Admission::Ignore => {
                inner.counters.handshakes_ignored.add(1);
                // Silence is cheaper than a refusal, and tells a flood nothing.
                incoming.ignore();
            }
            Admission::Retry => {
                inner.counters.handshakes_retried.add(1);
                if let Err(error) = incoming.retry() {
                    error.into_incoming().ignore();
                }
            }
            Admission::Accept => {
                let pending = Pending { inner: Arc::clone(&inner), from };
                match incoming.accept() {
                    Ok(connecting) => drop(tokio::spawn(peer::accepted(Arc::clone(&inner), connecting, pending))),
                    Err(error) => debug!(%from, %error, "gossip handshake refused"),
                }
            }
        }
    }
    inner.is_closed.store(true, Ordering::Relaxed);
    inner.changed.notify_one();
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ip: [u8; 4]) -> SocketAddr {
        SocketAddr::from((ip, 4_000))
    }

    fn check(sources: &mut Sources, from: SocketAddr, is_validated: bool, now: Instant, want: Admission) {
        assert_eq!(sources.admit(from, is_validated, now), want, "{from}, {} pending", sources.pending);
    }

    #[test]
    fn one_source_has_few_handshakes_at_once_and_in_a_second() {
        let (mut sources, now) = (Sources::default(), Instant::now());
        for _ in 0..PENDING_PER_SOURCE_MAX {
            check(&mut sources, at([10, 0, 0, 1]), false, now, Admission::Accept);
        }
        check(&mut sources, at([10, 0, 0, 1]), false, now, Admission::Ignore);
        check(&mut sources, at([10, 0, 0, 2]), false, now, Admission::Accept);
        for _ in PENDING_PER_SOURCE_MAX..STARTED_PER_SECOND_MAX {
            sources.finished(at([10, 0, 0, 1]));
            check(&mut sources, at([10, 0, 0, 1]), false, now, Admission::Accept);
        }
        sources.finished(at([10, 0, 0, 1]));
        check(&mut sources, at([10, 0, 0, 1]), false, now, Admission::Ignore);
        check(&mut sources, at([10, 0, 0, 1]), false, now + Duration::from_secs(1), Admission::Accept);
    }

    #[test]
    fn under_pressure_addresses_are_to_be_proven_and_members_are_exempt_then() {
        let (mut sources, now) = (Sources::default(), Instant::now());
        let mut next = 0_u32;
        let mut fresh = || {
            next += 1;
            SocketAddr::from(((0x0b00_0000 + next).to_be_bytes(), 1))
        };
        for _ in 0..=RETRY_ABOVE {
            check(&mut sources, fresh(), false, now, Admission::Accept);
        }
        check(&mut sources, fresh(), false, now, Admission::Retry);
        let member = at([10, 0, 0, 1]);
        sources.set_known([member.ip()]);
        for _ in 0..=PENDING_PER_SOURCE_MAX {
            check(&mut sources, member, true, now, Admission::Accept);
        }
        check(&mut sources, member, false, now, Admission::Retry);
        // Above the caps of one source a member is asked to prove its address, others are not heard.
        while sources.pending > RETRY_ABOVE {
            sources.finished(at([12, 0, 0, 1]));
        }
        check(&mut sources, member, false, now, Admission::Retry);
        check(&mut sources, member, true, now, Admission::Accept);
        while sources.pending < PENDING_MAX {
            check(&mut sources, fresh(), true, now, Admission::Accept);
        }
        check(&mut sources, member, true, now, Admission::Ignore);
    }

    #[test]
    fn an_ipv6_source_is_its_network() {
        let first: SocketAddr = "[2001:db8::1]:1".parse().unwrap();
        let second: SocketAddr = "[2001:db8::2]:2".parse().unwrap();
        let other: SocketAddr = "[2001:db8:0:1::1]:1".parse().unwrap();
        assert_eq!(SourceKey::of(first), SourceKey::of(second));
        assert_ne!(SourceKey::of(first), SourceKey::of(other));
        let mapped: SocketAddr = "[::ffff:10.0.0.1]:1".parse().unwrap();
        assert_eq!(SourceKey::of(mapped), SourceKey::of(at([10, 0, 0, 1])));
    }

    #[test]
    fn remembered_sources_are_bounded() {
        let (mut sources, now) = (Sources::default(), Instant::now());
        for n in 0..SOURCES_MAX {
            let from = SocketAddr::from((u32::try_from(0x0b00_0000 + n).unwrap().to_be_bytes(), 1));
            check(&mut sources, from, true, now, Admission::Accept);
            sources.finished(from);
        }
        check(&mut sources, at([10, 0, 0, 1]), true, now, Admission::Ignore);
        check(&mut sources, at([10, 0, 0, 1]), true, now + Duration::from_secs(1), Admission::Accept);
    }
}
