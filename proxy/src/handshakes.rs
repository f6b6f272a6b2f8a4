//! Peers' connections until they are proven: on threads apart, so that no request waits for a handshake, bounded in all and
//! for each source. A data thread sees only who is proven.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use starling_transport::data::{DialError, Proven, Prover};
use tokio::runtime::Handle;
use tracing::debug;

use crate::limits::{HANDSHAKES_MAX, HANDSHAKES_PER_SOURCE_MAX};
use crate::listen::{Handover, Lane, Permit};
use crate::metrics::{Direction, ProxyMetrics, Turned};

/// Who lets peers in.
#[derive(Debug)]
pub(crate) struct Handshakes {
    runtime: Handle,
    prover: Prover,
    metrics: ProxyMetrics,
    places: Arc<Places>,
}

impl Handshakes {
    /// Handshakes are done on `runtime`; where it has ended, connections are closed.
    pub(crate) fn new(runtime: Handle, prover: Prover, metrics: ProxyMetrics) -> Self {
        Self { runtime, prover, metrics, places: Arc::default() }
    }

    /// Finds out who has connected, and hands a proven peer to `lane`. What is over a limit is closed at once and counted.
    pub(crate) fn begin(&self, socket: TcpStream, lane: Lane, permit: Permit) {
        // A peer that is gone already needs no place.
        let Ok(address) = socket.peer_addr() else { return };
        let Some(place) = self.places.take(address) else { return self.metrics.turned_away(Turned::Limit) };
        let (prover, metrics) = (self.prover.clone(), self.metrics.clone());
        self.runtime.spawn(async move {
            let proven = prove(&prover, socket, &lane.home).await;
            drop(place);
            match proven {
                Ok(proven) => {
                    metrics.handshake(Direction::Inbound, "success");
                    if lane.handovers.try_send(Handover::Peer(Box::new(proven), permit)).is_err() {
                        metrics.turned_away(Turned::Handover);
                    }
                }
                Err(error) => {
                    metrics.handshake(Direction::Inbound, error.reason());
                    debug!(%address, reason = error.reason(), %error, "data connection refused");
                }
            }
        });
    }
}

async fn prove(prover: &Prover, socket: TcpStream, home: &Handle) -> Result<Proven, DialError> {
    let socket = tokio::net::TcpStream::from_std(socket).map_err(|error| DialError::Closed(error.to_string()))?;
    let mut proven = prover.prove(socket).await?;
    proven.move_to(home)?;
    Ok(proven)
}

/// Handshakes under way. A stranger costs nothing but a connection that says nothing, so no source gets all the places.
#[derive(Debug, Default)]
struct Places(Mutex<Taken>);

#[derive(Debug, Default)]
struct Taken {
    all: usize,
    by_source: HashMap<Source, usize>,
}

/// What places count by: an IPv4 address, an IPv6 /64; on loopback the port too, where many agents share an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Source {
    V4([u8; 4]),
    V6([u8; 8]),
    Loopback(u16),
}

impl Source {
    fn of(address: SocketAddr) -> Self {
        match address.ip().to_canonical() {
            // What the kernel gives a dialler that names no source.
            ip if ip == Ipv4Addr::LOCALHOST || ip == Ipv6Addr::LOCALHOST => Self::Loopback(address.port()),
            IpAddr::V4(ip) => Self::V4(ip.octets()),
            IpAddr::V6(ip) => Self::V6(ip.octets().first_chunk().copied().unwrap_or_default()),
        }
    }
}

impl Places {
    fn taken(&self) -> MutexGuard<'_, Taken> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place for a connection from `address`, until the guard is dropped; none if there are too many.
    fn take(self: &Arc<Self>, address: SocketAddr) -> Option<Place> {
        let mut taken = self.taken();
        let source = Source::of(address);
        let own = taken.by_source.get(&source).copied().unwrap_or_default();
        if taken.all >= HANDSHAKES_MAX || own >= HANDSHAKES_PER_SOURCE_MAX {
            return None;
        }
        taken.all += 1;
        taken.by_source.insert(source, own + 1);
        drop(taken);
        Some(Place { places: self.clone(), source })
    }
}

/// Counts a handshake until it is over, one way or the other.
#[derive(Debug)]
struct Place {
    places: Arc<Places>,
    source: Source,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.places.taken();
        taken.all = taken.all.saturating_sub(1);
        if let Some(own) = taken.by_source.get_mut(&self.source) {
            *own = own.saturating_sub(1);
            if *own == 0 {
                taken.by_source.remove(&self.source);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[test]
    fn no_source_takes_all_places_and_all_places_are_bounded() {
        let places = Arc::new(Places::default());
        let mut held: Vec<Place> =
            (0..HANDSHAKES_PER_SOURCE_MAX).map(|_| places.take(at("10.0.0.1:1")).unwrap()).collect();
        assert!(places.take(at("10.0.0.1:2")).is_none(), "another port is the same source");
        assert!(places.take(at("[::ffff:10.0.0.1]:3")).is_none(), "and so is its mapped form");
        let first: Option<Place> = places.take(at("[2001:db8::1]:1"));
        assert!(first.is_some(), "another source has places of its own");
        drop(first);
        while let Some(place) = places.take(at(&format!("127.0.0.1:{}", 1 + held.len()))) {
            held.push(place);
        }
        assert_eq!(held.len(), HANDSHAKES_MAX);
        drop(held);
        let taken = places.taken();
        assert!((taken.all, taken.by_source.len()) == (0, 0), "nothing is remembered of who is gone");
    }
}
