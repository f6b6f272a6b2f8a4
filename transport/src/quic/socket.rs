//! The UDP socket under QUIC, which counts what passes: handshakes, acks, retries and resets included.

use std::io::{self, IoSliceMut};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use quinn::udp::{RecvMeta, Transmit};
use quinn::{AsyncUdpSocket, Runtime, UdpPoller};

use super::stats::Counter;

/// Bytes of an IPv4 header without options, and of the UDP header.
const HEADERS_V4: u64 = 20 + 8;
/// The same with IPv6.
const HEADERS_V6: u64 = 40 + 8;

/// One direction.
#[derive(Debug, Default)]
pub(super) struct Passed {
    pub(super) packets: Counter,
    /// Payload of UDP.
    pub(super) bytes: Counter,
    /// What IP and UDP add to it.
    pub(super) header_bytes: Counter,
}

impl Passed {
    /// `length` bytes in packets of `segment`, the last of which may be shorter.
    fn note(&self, peer: SocketAddr, length: usize, segment: usize) {
        let packets = length.div_ceil(segment.max(1)).max(1) as u64;
        let headers = if peer.ip().to_canonical().is_ipv4() { HEADERS_V4 } else { HEADERS_V6 };
        self.packets.add(packets);
        self.bytes.add(length as u64);
        self.header_bytes.add(packets * headers);
    }
}

/// Both directions.
#[derive(Debug, Default)]
pub(super) struct Traffic {
    pub(super) sent: Passed,
    pub(super) received: Passed,
}

/// The runtime's socket with counters around it.
#[derive(Debug)]
pub(super) struct CountedSocket {
    socket: Arc<dyn AsyncUdpSocket>,
    traffic: Arc<Traffic>,
}

impl CountedSocket {
    pub(super) fn new(
        socket: std::net::UdpSocket,
        runtime: &dyn Runtime,
        traffic: Arc<Traffic>,
    ) -> io::Result<Arc<Self>> {
        Ok(Arc::new(Self { socket: runtime.wrap_udp_socket(socket)?, traffic }))
    }
}

impl AsyncUdpSocket for CountedSocket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Arc::clone(&self.socket).create_io_poller()
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        self.socket.try_send(transmit)?;
        let length = transmit.contents.len();
        self.traffic.sent.note(transmit.destination, length, transmit.segment_size.unwrap_or(length));
        Ok(())
    }

    fn poll_recv(
        &self,
        context: &mut Context<'_>,
        buffers: &mut [IoSliceMut<'_>],
        metas: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let count = ready!(self.socket.poll_recv(context, buffers, metas))?;
        for meta in metas.iter().take(count) {
            self.traffic.received.note(meta.addr, meta.len, meta.stride);
        }
        Poll::Ready(Ok(count))
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    fn max_transmit_segments(&self) -> usize {
        self.socket.max_transmit_segments()
    }

    fn max_receive_segments(&self) -> usize {
        self.socket.max_receive_segments()
    }

    fn may_fragment(&self) -> bool {
        self.socket.may_fragment()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_of_one_send_each_have_headers() {
        let check = |peer: &str, (length, segment), want| {
            let passed = Passed::default();
            passed.note(peer.parse().unwrap(), length, segment);
            assert_eq!(
                (passed.packets.get(), passed.bytes.get(), passed.header_bytes.get()),
                want,
                "{length}/{segment}"
            );
        };
        check("10.0.0.1:1", (100, 100), (1, 100, 28));
        check("10.0.0.1:1", (2_500, 1_200), (3, 2_500, 84));
        check("[2001:db8::1]:1", (2_400, 1_200), (2, 2_400, 96));
        check("[::ffff:10.0.0.1]:1", (1, 1), (1, 1, 28));
        check("10.0.0.1:1", (0, 0), (1, 0, 28));
    }
}
