//! Which way a new stream takes: beside others on a shared connection, or on a connection of its own.
//!
//! A connection of its own costs a handshake and two round trips, and saves framing and a copy for every byte. So it is
//! for streams that move much, and what a stream will move is known by what the streams of its service moved before: each
//! one counts as bulk or not, and newer ones count for more (an exponentially decaying mean, as of round-trip times in
//! RFC 6298). A running stream never changes lanes.
//!
//! No clock, no IO, no lock.

use std::hash::{BuildHasher as _, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};

use starling_model::ServiceKey;

/// A stream that moved this much in both directions together was bulk. The handshake costs what framing and copying cost
/// for about 1 MiB; above four times that a connection of its own pays even where every third guess is wrong.
pub const BULK_BYTES: u64 = 4 * 1024 * 1024;

/// Services whose streams are remembered, at most. Beyond it services with bulk drive each other out, and share.
pub const HISTORIES_MAX: usize = 1_024;
const _: () = assert!(HISTORIES_MAX.is_power_of_two() && HISTORIES_MAX <= 1 << 16);

/// All streams of a service were bulk.
const ALL: u16 = 4_096;

/// Share of bulk from which on streams get a connection of their own: two in a row from nothing, not one.
const BULK_SHARE_MIN: u16 = ALL * 3 / 8;

/// The newest stream counts for a quarter.
const NEWEST_WEIGHT: u16 = 4;

/// A way between two nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LaneKind {
    /// One stream of many on a connection (`starling-mux/1`).
    Shared,
    /// A connection of its own (`starling-data/1`).
    Dedicated,
}

impl LaneKind {
    /// One word for metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Shared => "shared",
            Self::Dedicated => "dedicated",
        }
    }
}

/// Which share of a service's streams was bulk, newer ones counted for more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BulkShare(u16);

impl BulkShare {
    /// The share after one more stream, which moved `bytes`.
    #[must_use]
    pub const fn after(self, bytes: u64) -> Self {
        let rest = self.0 - self.0 / NEWEST_WEIGHT;
        Self(if bytes >= BULK_BYTES { rest + ALL / NEWEST_WEIGHT } else { rest.saturating_sub(1) })
    }

    /// The lane of the next stream.
    #[must_use]
    pub const fn lane(self) -> LaneKind {
        if self.0 >= BULK_SHARE_MIN { LaneKind::Dedicated } else { LaneKind::Shared }
    }
}

/// What streams of each service moved. All data threads share one: a stream reads or writes one word of it, once.
///
/// Each service has one place, by its hash, and only services with bulk take theirs; who comes to a place that another
/// one holds begins it anew. Two threads that write at the same time may lose one of the two streams, which moves a share
/// a little.
#[derive(Debug)]
pub struct LaneHistory {
    places: Box<[AtomicU64]>,
    hasher: RandomState,
}

impl Default for LaneHistory {
    fn default() -> Self {
        Self { places: (0..HISTORIES_MAX).map(|_| AtomicU64::new(0)).collect(), hasher: RandomState::new() }
    }
}

/// What of a place is the share; the rest tells which service holds it, but for one in 2^48 others.
const SHARE_MASK: u64 = 0xffff;

impl LaneHistory {
    /// The lane for a new stream to `service`. One that nothing is known of shares.
    #[must_use]
    pub fn lane(&self, service: &ServiceKey) -> LaneKind {
        let (place, owner) = self.place(service);
        share(place.load(Ordering::Relaxed), owner).map_or(LaneKind::Shared, BulkShare::lane)
    }

    /// Remembers one stream to `service`, once: as soon as it has moved [`BULK_BYTES`], or at its end.
    pub fn moved(&self, service: &ServiceKey, bytes: u64) {
        let (place, owner) = self.place(service);
        let known = share(place.load(Ordering::Relaxed), owner);
        if known.is_none() && bytes < BULK_BYTES {
            // What nobody knows shares as well.
            return;
        }
        let BulkShare(share) = known.unwrap_or_default().after(bytes);
        place.store(owner | u64::from(share), Ordering::Relaxed);
    }

    fn place(&self, service: &ServiceKey) -> (&AtomicU64, u64) {
        let hash = self.hasher.hash_one(service);
        // The low bits choose the place, the others name the owner.
        let at = usize::try_from(hash & SHARE_MASK).unwrap_or(0) % self.places.len();
        (&self.places[at], hash & !SHARE_MASK)
    }
}

fn share(place: u64, owner: u64) -> Option<BulkShare> {
    let known = u16::try_from(place & SHARE_MASK).ok().filter(|share| *share > 0 && place & !SHARE_MASK == owner);
    known.map(BulkShare)
}

#[cfg(test)]
mod tests {
    use starling_model::Namespace;

    use super::*;

    const SMALL: u64 = BULK_BYTES - 1;

    fn service(number: usize) -> ServiceKey {
        ServiceKey::parse(&format!("s-{number}"), &Namespace::default()).unwrap()
    }

    /// The lane after these streams: `B` was bulk, `s` was not.
    fn check(streams: &str, want: LaneKind) {
        let bytes = |stream: u8| if stream == b'B' { BULK_BYTES } else { SMALL };
        let share = streams.bytes().fold(BulkShare::default(), |share, stream| share.after(bytes(stream)));
        assert_eq!(share.lane(), want, "{streams}: {share:?}");
        let history = LaneHistory::default();
        streams.bytes().for_each(|stream| history.moved(&service(1), bytes(stream)));
        assert_eq!(history.lane(&service(1)), want, "{streams}");
        assert_eq!(history.lane(&service(2)), LaneKind::Shared, "of others nothing is said");
    }

    #[test]
    fn streams_that_usually_move_much_get_a_connection_of_their_own() {
        check("", LaneKind::Shared);
        check("B", LaneKind::Shared);
        check("BB", LaneKind::Dedicated);
        check("ssssBB", LaneKind::Dedicated);
        check("BsB", LaneKind::Dedicated);
        check("BssB", LaneKind::Shared);
    }

    #[test]
    fn small_streams_bring_a_service_back() {
        check("BBs", LaneKind::Shared);
        check(&"B".repeat(100), LaneKind::Dedicated);
        check(&("B".repeat(100) + "sss"), LaneKind::Dedicated);
        check(&("B".repeat(100) + "ssss"), LaneKind::Shared);
        check(&("B".repeat(100) + &"s".repeat(100)), LaneKind::Shared);
        check(&"Bss".repeat(50), LaneKind::Shared);
        check(&"Bs".repeat(50), LaneKind::Dedicated);
    }

    #[test]
    fn the_share_stays_within_its_ends() {
        let all = (0..1_000).fold(BulkShare::default(), |share, _| share.after(u64::MAX));
        assert!(all.0 <= ALL && all.0 > ALL - 8, "{all:?}");
        let none = (0..1_000).fold(all, |share, _| share.after(0));
        assert_eq!(none, BulkShare::default());
    }

    #[test]
    fn beyond_the_bound_services_drive_each_other_out() {
        let history = LaneHistory::default();
        let many = 3 * HISTORIES_MAX;
        for number in 0..many {
            history.moved(&service(number), BULK_BYTES);
            history.moved(&service(number), BULK_BYTES);
            assert_eq!(history.lane(&service(number)), LaneKind::Dedicated, "{number}");
        }
        let kept = |history: &LaneHistory| {
            (0..many).filter(|number| history.lane(&service(*number)) == LaneKind::Dedicated).count()
        };
        let before = kept(&history);
        assert!((HISTORIES_MAX / 2..=HISTORIES_MAX).contains(&before), "{before}");
        // Services without bulk drive nobody out.
        (many..2 * many).for_each(|number| history.moved(&service(number), SMALL));
        assert_eq!(kept(&history), before);
    }
}
