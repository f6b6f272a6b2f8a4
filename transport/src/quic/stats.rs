//! What the network has done, in numbers.

use std::sync::atomic::{AtomicU64, Ordering};

use super::close::DownReason;
use super::socket::{Passed, Traffic};

/// A counter that anybody may raise.
#[derive(Debug, Default)]
pub(super) struct Counter(AtomicU64);

impl Counter {
    pub(super) fn add(&self, more: u64) {
        self.0.fetch_add(more, Ordering::Relaxed);
    }

    pub(super) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        #[derive(Debug, Default)]
        pub(super) struct Counters {
            $(pub(super) $name: Counter,)*
        }

        /// What the network has done, as plain counters.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct NetStats {
            $($(#[$doc])* pub $name: u64,)*
            /// Connections open now.
            pub connections: u64,
            /// Connections that were closed because the pair had another.
            pub duplicates: u64,
            /// Pairs that were disconnected, by reason: in the order of [`DownReason::ALL`].
            pub ended: [u64; DownReason::ALL.len()],
            /// UDP packets sent.
            pub udp_packets_sent: u64,
            /// Their payload: all of QUIC, handshakes and acks included.
            pub udp_bytes_sent: u64,
            /// The same with the headers of IP and UDP, an estimate: no options, no link layer.
            pub wire_bytes_sent: u64,
            /// UDP packets received.
            pub udp_packets_received: u64,
            /// Their payload.
            pub udp_bytes_received: u64,
            /// The same with the headers of IP and UDP.
            pub wire_bytes_received: u64,
        }

        impl Counters {
            pub(super) fn read(&self, traffic: &Traffic) -> NetStats {
                let wire = |passed: &Passed| passed.bytes.get() + passed.header_bytes.get();
                NetStats {
                    $($name: self.$name.get(),)*
                    udp_packets_sent: traffic.sent.packets.get(),
                    udp_bytes_sent: traffic.sent.bytes.get(),
                    wire_bytes_sent: wire(&traffic.sent),
                    udp_packets_received: traffic.received.packets.get(),
                    udp_bytes_received: traffic.received.bytes.get(),
                    wire_bytes_received: wire(&traffic.received),
                    ..NetStats::default()
                }
            }
        }
    };
}

counters! {
    /// Datagrams handed to QUIC.
    datagrams_sent,
    /// Bytes of them.
    datagram_bytes_sent,
    /// Datagrams not sent: no connection, too large, or no room for the congestion window.
    datagrams_dropped_out,
    /// Datagrams put into the inbox.
    datagrams_received,
    /// Bytes of them.
    datagram_bytes_received,
    /// Datagrams dropped because the inbox was full.
    datagrams_dropped_inbox,
    /// Bytes of frames handed to QUIC.
    frame_bytes_sent,
    /// Frames of exchanges received.
    frames_received,
    /// Bytes of them.
    frame_bytes_received,
    /// Frames not sent: no connection, exchange over, queue full, too large.
    frames_dropped,
    /// Exchanges that broke a rule or a deadline.
    exchanges_broken,
    /// Handshakes of peers that became connections.
    handshakes_accepted,
    /// Handshakes that failed or were refused.
    handshakes_refused,
    /// Handshakes that were not answered: too many of their source, or of all.
    handshakes_ignored,
    /// Handshakes whose source was asked to prove its address.
    handshakes_retried,
    /// Handshakes of our dials that became connections.
    handshakes_dialled,
    /// Connections replaced because of their age.
    renewals,
    /// Hellos of another mesh.
    other_mesh,
    /// Dials that became connections or found one.
    dials,
    /// Dials that came to nothing.
    dials_failed,
    /// Questions about trust that were answered.
    trust_answered,
    /// Questions about trust that were none, or not whole in time.
    trust_refused,
    /// Questions about trust that were not read: too many at once, or of their source.
    trust_busy,
    /// Answers to our questions about trust.
    trust_asked,
    /// Our questions about trust that got no answer.
    trust_unanswered,
    /// Connections closed because trust changed.
    swept,
    /// Reports of failed dials that nobody had room for.
    reports_dropped,
}
