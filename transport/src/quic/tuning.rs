//! Every setting of quinn, with its reason.

use std::sync::Arc;
use std::time::Duration;

use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn::{EndpointConfig, IdleTimeout, NoneTokenLog, NoneTokenStore, TransportConfig, VarInt};
use starling_identity::CurrentIdentity;
use starling_identity::tls::{self, Clock};
use starling_model::NodeName;

use super::keys::QuicKeys;
use super::limits::{
    CONNECTION_WINDOW_BYTES, DATAGRAMS_IN_BYTES, DATAGRAMS_OUT_BYTES, IDLE_MAX, INCOMING_BYTES, INCOMING_BYTES_ALL,
    INCOMING_MAX, KEEP_ALIVE, MTU_BYTES, STREAM_WINDOW_BYTES, STREAMS_MAX,
};
use super::{KeepAlive, NetError};

/// First estimate of the round trip: a lost first packet is repeated after 0.3 s, not after 1 s. Hosts of one mesh are
/// rarely further apart.
const RTT_INITIAL: Duration = Duration::from_millis(100);

pub(super) fn transport(keep_alive: KeepAlive) -> Arc<TransportConfig> {
    let mut config = TransportConfig::default();
    config
        .max_concurrent_bidi_streams(STREAMS_MAX.into())
        .max_concurrent_uni_streams(STREAMS_MAX.into())
        .stream_receive_window(STREAM_WINDOW_BYTES.into())
        .receive_window(CONNECTION_WINDOW_BYTES.into())
        .send_window(CONNECTION_WINDOW_BYTES.into())
        .datagram_receive_buffer_size(Some(DATAGRAMS_IN_BYTES))
        .datagram_send_buffer_size(DATAGRAMS_OUT_BYTES)
        // quinn keeps a send buffer of ten packets per connection for it, 12 KiB, and gossip rarely sends two in a row.
        .enable_segmentation_offload(false)
        .initial_mtu(MTU_BYTES)
        .min_mtu(MTU_BYTES)
        .mtu_discovery_config(None)
        .initial_rtt(RTT_INITIAL)
        .keep_alive_interval(match keep_alive {
            KeepAlive::ByProbes => None,
            KeepAlive::BetweenSites => Some(KEEP_ALIVE),
        })
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

pub(super) fn trust_client(clock: Clock, transport: &Arc<TransportConfig>) -> Result<quinn::ClientConfig, NetError> {
    quic_client(tls::trust_client(clock), transport)
}

pub(super) fn client(
    current: &CurrentIdentity,
    expected: Option<NodeName>,
    clock: Clock,
    transport: &Arc<TransportConfig>,
) -> Result<quinn::ClientConfig, NetError> {
    quic_client(tls::gossip_client(current, expected, clock), transport)
}

fn quic_client(
    crypto: Arc<rustls::ClientConfig>,
    transport: &Arc<TransportConfig>,
) -> Result<quinn::ClientConfig, NetError> {
    let crypto = QuicClientConfig::try_from(crypto).map_err(|_| NetError::NoInitialSuite)?;
    let mut config = quinn::ClientConfig::new(Arc::new(crypto));
    config.transport_config(Arc::clone(transport)).token_store(Arc::new(NoneTokenStore));
    Ok(config)
}
