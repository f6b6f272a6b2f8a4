//! Every setting of quinn, with its reason.

use std::sync::Arc;
use std::time::Duration;

use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn::{EndpointConfig, IdleTimeout, NoneTokenLog, NoneTokenStore, TransportConfig, VarInt};
use starling_identity::CurrentIdentity;
use starling_identity::tls::{self, Clock};
use starling_model::NodeName;

use super::keys::{ID_BYTES, QuicKeys};
use super::{DATAGRAM_BYTES_MAX, NetError};

/// Streams of each kind that a peer may have open: one uni stream for the hello, the rest for exchanges. Every allowed
/// stream costs memory on an idle connection (31 KiB with 8, 64 KiB with 256).
const STREAMS_MAX: u32 = 8;

/// A stream's window: a few documents.
const STREAM_WINDOW_BYTES: u32 = 256 * 1024;

/// A connection's window in either direction: what a peer can make us hold.
const CONNECTION_WINDOW_BYTES: u32 = 2 * 1024 * 1024;

/// Received datagrams that wait for the task: fifty of the largest.
const DATAGRAMS_IN_BYTES: usize = 64 * 1024;

/// Datagrams that wait for the congestion window: few, because stale probes are worth nothing.
pub(super) const DATAGRAMS_OUT_BYTES: usize = 8 * 1024;

/// What every path carries (RFC 9000, 14), pinned: discovery doubles the bytes of a handshake and gossip has no use for
/// larger packets.
const MTU_BYTES: u16 = 1_200;

/// A link sees a probe every 16 periods on average; one that saw none for a minute is closed.
const IDLE_MAX: Duration = Duration::from_secs(60);

/// First estimate of the round trip: a lost first packet is repeated after 0.3 s, not after 1 s. Hosts of one mesh are
/// rarely further apart.
const RTT_INITIAL: Duration = Duration::from_millis(100);

/// Packets of handshakes that nobody has looked at yet: connections, bytes of each, bytes of all.
const INCOMING_MAX: usize = 256;
const INCOMING_BYTES: u64 = 64 * 1024;
const INCOMING_BYTES_ALL: u64 = 8 * 1024 * 1024;

// Of each packet a short header spends 1 flags + the id + 4 packet number + 16 tag, and the frame up to 9 (RFC 9221).
const _: () = assert!(DATAGRAM_BYTES_MAX + 1 + ID_BYTES + 4 + 16 + 9 == MTU_BYTES as usize);
const _: () = assert!(DATAGRAM_BYTES_MAX < DATAGRAMS_OUT_BYTES && DATAGRAMS_OUT_BYTES < DATAGRAMS_IN_BYTES);

pub(super) fn transport() -> Arc<TransportConfig> {
    let mut config = TransportConfig::default();
    config
        .max_concurrent_bidi_streams(STREAMS_MAX.into())
        .max_concurrent_uni_streams(STREAMS_MAX.into())
        .stream_receive_window(STREAM_WINDOW_BYTES.into())
        .receive_window(CONNECTION_WINDOW_BYTES.into())
        .send_window(CONNECTION_WINDOW_BYTES.into())
        .datagram_receive_buffer_size(Some(DATAGRAMS_IN_BYTES))
        .datagram_send_buffer_size(DATAGRAMS_OUT_BYTES)
        .initial_mtu(MTU_BYTES)
        .min_mtu(MTU_BYTES)
        .mtu_discovery_config(None)
        .initial_rtt(RTT_INITIAL)
        .keep_alive_interval(None)
        .max_idle_timeout(idle());
    Arc::new(config)
}

fn idle() -> Option<IdleTimeout> {
    let millis = VarInt::from_u32(u32::try_from(IDLE_MAX.as_millis()).unwrap_or(u32::MAX));
    Some(IdleTimeout::from(millis))
}

pub(super) fn endpoint(keys: QuicKeys) -> EndpointConfig {
    let mut config = EndpointConfig::new(Arc::new(keys.reset_key()));
    config.cid_generator(move || Box::new(keys.id_generator()));
    config
}

pub(super) fn server(
    current: &CurrentIdentity,
    clock: Clock,
    transport: &Arc<TransportConfig>,
) -> Result<quinn::ServerConfig, NetError> {
    let crypto = tls::gossip_server(current, clock);
    let crypto = QuicServerConfig::try_from(crypto).map_err(|_| NetError::NoInitialSuite)?;
    let mut config = quinn::ServerConfig::with_crypto(Arc::new(crypto));
    config
        .transport_config(Arc::clone(transport))
        .max_incoming(INCOMING_MAX)
        .incoming_buffer_size(INCOMING_BYTES)
        .incoming_buffer_size_total(INCOMING_BYTES_ALL);
    // Address tokens for later connections: nobody here keeps them, and their filter would take memory.
    config.validation_token.sent(0).log(Arc::new(NoneTokenLog));
    Ok(config)
}

pub(super) fn client(
    current: &CurrentIdentity,
    expected: Option<NodeName>,
    clock: Clock,
    transport: &Arc<TransportConfig>,
) -> Result<quinn::ClientConfig, NetError> {
    let crypto = tls::gossip_client(current, expected, clock);
    let crypto = QuicClientConfig::try_from(crypto).map_err(|_| NetError::NoInitialSuite)?;
    let mut config = quinn::ClientConfig::new(Arc::new(crypto));
    config.transport_config(Arc::clone(transport)).token_store(Arc::new(NoneTokenStore));
    Ok(config)
}
