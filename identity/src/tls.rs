//! rustls by our rules: the only file that knows provider, versions, groups and ALPN.
//!
//! TLS 1.3 only, aws-lc-rs, X25519MLKEM768 first. No tickets, no resumption, no early data: resumption would skip the
//! verifier and keep an identity that was revoked or rotated since. Both sides of gossip and traffic show a certificate,
//! and both verifiers are [`verify_peer`]; only questions about trust ([`ALPN_TRUST`]) are asked without one. Certificates come from [`CurrentIdentity`] at each handshake. The time is the
//! caller's.
//!
//! A server accepts a ClientHello only when it offers this server's ALPN. A client must still look at the negotiated
//! one: a foreign server may choose none.

use std::sync::Arc;

use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, aws_lc_rs, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::time_provider::TimeProvider;
use rustls::version::TLS13;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName, OtherError, PeerIncompatible,
    ServerConfig, SignatureScheme,
};
use starling_model::NodeName;

use crate::current::CurrentIdentity;
use crate::time::UnixTime;
use crate::verify::{Expected, PeerIdentity, PeerRefused, claimed_id, verify_peer};

/// Gossip over QUIC.
pub const ALPN_GOSSIP: &[u8] = b"starling-gossip/1";
/// Trust material for anybody, over QUIC.
pub const ALPN_TRUST: &[u8] = b"starling-trust/1";
/// Multiplexed traffic over TCP.
pub const ALPN_MUX: &[u8] = b"starling-mux/1";
/// One dedicated stream over TCP.
pub const ALPN_DATA: &[u8] = b"starling-data/1";

/// What dials put where rustls and quinn want a server name. It is never sent and proves nothing: the node is named by
/// the caller.
pub const SERVER_NAME: &str = "starling.invalid";

/// Tells the wall time; the agent passes its own, tests a fixed one.
pub type Clock = fn() -> UnixTime;

/// [`SERVER_NAME`] as rustls wants it.
///
/// # Panics
/// Never: the constant is a DNS name.
#[must_use]
pub fn server_name() -> ServerName<'static> {
    ServerName::try_from(SERVER_NAME).expect("invariant: the constant is a DNS name")
}

/// Accepts traffic from any node of our trust domain, many streams on a connection or one.
#[must_use]
pub fn data_server(current: &CurrentIdentity, clock: Clock) -> Arc<ServerConfig> {
    server(current, clock, &[ALPN_DATA, ALPN_MUX], Clients::Proven)
}

/// Dials traffic to one node and no other.
#[must_use]
pub fn data_client(current: &CurrentIdentity, expected: NodeName, clock: Clock) -> Arc<ClientConfig> {
    client(current, Some(expected), clock, &[ALPN_MUX])
}

/// The same for one dedicated stream. A server that does not know [`ALPN_DATA`] chooses [`ALPN_MUX`], so that it is told
/// from one that refuses us; who dials looks at what was chosen.
#[must_use]
pub fn dedicated_client(current: &CurrentIdentity, expected: NodeName, clock: Clock) -> Arc<ClientConfig> {
    client(current, Some(expected), clock, &[ALPN_DATA, ALPN_MUX])
}

/// Accepts gossip from any node of our trust domain, and questions about trust from anybody. A client without certificate
/// passes the handshake: who serves a connection looks at its protocol, and of all but [`ALPN_TRUST`] at its certificates.
#[must_use]
pub fn gossip_server(current: &CurrentIdentity, clock: Clock) -> Arc<ServerConfig> {
    server(current, clock, &[ALPN_GOSSIP, ALPN_TRUST], Clients::ProvenOrNone)
}

/// Asks anybody about trust, without a certificate of ours and whatever the other side shows: what it answers proves
/// itself.
#[must_use]
pub fn trust_client(clock: Clock) -> Arc<ClientConfig> {
    let mut config = ClientConfig::builder_with_details(provider(), Arc::new(FromClock(clock)))
        .with_protocol_versions(&[&TLS13])
        .expect("invariant: the provider has suites and groups of TLS 1.3")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anybody))
        .with_no_client_auth();
    config.alpn_protocols = vec![ALPN_TRUST.to_vec()];
    bare(&mut config);
    Arc::new(config)
}

/// Dials gossip: to one node, or to a seed that is known by its address only.
#[must_use]
pub fn gossip_client(current: &CurrentIdentity, expected: Option<NodeName>, clock: Clock) -> Arc<ClientConfig> {
    client(current, expected, clock, &[ALPN_GOSSIP])
}

/// The identity behind the certificates of a finished handshake, judged again by what we believe now.
///
/// # Errors
/// [`PeerRefused`] when trust or time changed meanwhile.
pub fn peer_of(
    certificates: &[CertificateDer<'_>],
    current: &CurrentIdentity,
    clock: Clock,
) -> Result<PeerIdentity, PeerRefused> {
    verify_peer(certificates, Expected::AnyOfOurTrustDomain, &current.trust(), clock())
}

/// The node that our own certificates name. Whether anybody believes them is for others to say.
#[must_use]
pub fn own_name(current: &CurrentIdentity) -> Option<NodeName> {
    current.leaf_chain().first().and_then(claimed_id).map(|id| id.node)
}

/// Our refusal inside an error of rustls, if it is one.
#[must_use]
pub fn refusal_of(error: &rustls::Error) -> Option<&PeerRefused> {
    let rustls::Error::InvalidCertificate(CertificateError::Other(OtherError(cause))) = error else { return None };
    cause.downcast_ref()
}

/// Whom a server lets finish a handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Clients {
    /// Who shows a certificate that holds.
    Proven,
    /// The same, and who shows none.
    ProvenOrNone,
}

fn server(
    current: &CurrentIdentity,
    clock: Clock,
    protocols: &'static [&'static [u8]],
    clients: Clients,
) -> Arc<ServerConfig> {
    let verifier = PeerVerifier { current: current.clone(), expected: None, clients };
    let mut config = ServerConfig::builder_with_details(provider(), Arc::new(FromClock(clock)))
        .with_protocol_versions(&[&TLS13])
        .expect("invariant: the provider has suites and groups of TLS 1.3")
        .with_client_cert_verifier(Arc::new(verifier))
        .with_cert_resolver(Arc::new(Resolver { current: current.clone(), protocols }));
    config.alpn_protocols = protocols.iter().map(|alpn| alpn.to_vec()).collect();
    config.send_tls13_tickets = 0;
    config.max_tls13_tickets = 0;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.max_early_data_size = 0;
    config.send_half_rtt_data = false;
    config.cert_compressors = Vec::new();
    config.cert_decompressors = Vec::new();
    Arc::new(config)
}

fn client(
    current: &CurrentIdentity,
    expected: Option<NodeName>,
    clock: Clock,
    protocols: &[&[u8]],
) -> Arc<ClientConfig> {
    let verifier = PeerVerifier { current: current.clone(), expected, clients: Clients::Proven };
    let mut config = ClientConfig::builder_with_details(provider(), Arc::new(FromClock(clock)))
        .with_protocol_versions(&[&TLS13])
        .expect("invariant: the provider has suites and groups of TLS 1.3")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_client_cert_resolver(Arc::new(Resolver { current: current.clone(), protocols: &[] }));
    config.alpn_protocols = protocols.iter().map(|alpn| alpn.to_vec()).collect();
    bare(&mut config);
    Arc::new(config)
}

/// No resumption, no early data, nothing to decompress.
fn bare(config: &mut ClientConfig) {
    config.resumption = Resumption::disabled();
    config.enable_early_data = false;
    config.enable_sni = false;
    config.cert_compressors = Vec::new();
    config.cert_decompressors = Vec::new();
}

/// ECDSA only: the handshake signature of a leaf, whose key is P-256.
static SIGNATURES: WebPkiSupportedAlgorithms = WebPkiSupportedAlgorithms {
    all: &[webpki::aws_lc_rs::ECDSA_P256_SHA256, webpki::aws_lc_rs::ECDSA_P384_SHA384],
    mapping: &[
        (SignatureScheme::ECDSA_NISTP256_SHA256, &[webpki::aws_lc_rs::ECDSA_P256_SHA256]),
        (SignatureScheme::ECDSA_NISTP384_SHA384, &[webpki::aws_lc_rs::ECDSA_P384_SHA384]),
    ],
};

fn provider() -> Arc<CryptoProvider> {
    let groups = vec![aws_lc_rs::kx_group::X25519MLKEM768, aws_lc_rs::kx_group::X25519];
    let provider = aws_lc_rs::default_provider();
    Arc::new(CryptoProvider { kx_groups: groups, signature_verification_algorithms: SIGNATURES, ..provider })
}

#[derive(Debug)]
struct FromClock(Clock);

impl TimeProvider for FromClock {
    fn current_time(&self) -> Option<rustls::pki_types::UnixTime> {
        Some((self.0)().to_pki())
    }
}

/// Gives our leaf of this moment, on either side.
#[derive(Debug)]
struct Resolver {
    current: CurrentIdentity,
    /// Of a server; clients have no use for it.
    protocols: &'static [&'static [u8]],
}

impl ResolvesServerCert for Resolver {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        // rustls goes on when the client offers no ALPN at all; we do not: one purpose, one set of limits.
        hello.alpn()?.any(|offered| self.protocols.contains(&offered)).then(|| self.current.certified())
    }
}

impl rustls::client::ResolvesClientCert for Resolver {
    fn resolve(&self, _hints: &[&[u8]], _schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.current.certified())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// [`verify_peer`] in rustls' clothes, for servers and clients.
#[derive(Debug)]
struct PeerVerifier {
    current: CurrentIdentity,
    /// Dialling: this node, if it is known.
    expected: Option<NodeName>,
    clients: Clients,
}

impl PeerVerifier {
    fn verify(
        &self,
        leaf: &CertificateDer<'_>,
        issuers: &[CertificateDer<'_>],
        side: &'static str,
        now: UnixTime,
    ) -> Result<(), rustls::Error> {
        // Certificates borrow from the handshake's buffer, so this copies pointers.
        let chain: Vec<CertificateDer<'_>> =
            std::iter::once(leaf).chain(issuers).map(|der| CertificateDer::from(der.as_ref())).collect();
        let expected = self.expected.as_ref().map_or(Expected::AnyOfOurTrustDomain, Expected::Exactly);
        match verify_peer(&chain, expected, &self.current.trust(), now) {
            Ok(_) => Ok(()),
            Err(refused) => {
                self.current.refusal_log().note(&refused, claimed_id(leaf).as_ref(), side, now);
                Err(CertificateError::Other(OtherError(Arc::new(refused))).into())
            }
        }
    }

    fn signature(
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, leaf, signed, &SIGNATURES)
    }
}

fn no_tls12() -> rustls::Error {
    PeerIncompatible::Tls12NotOffered.into()
}

impl ServerCertVerifier for PeerVerifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        issuers: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        now: rustls::pki_types::UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.verify(leaf, issuers, "dialled", UnixTime::from_pki(now))?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _leaf: &CertificateDer<'_>,
        _signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(no_tls12())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Self::signature(message, leaf, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        SIGNATURES.supported_schemes()
    }
}

/// Believes every server; the handshake's own signature is checked all the same.
#[derive(Debug)]
struct Anybody;

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _leaf: &CertificateDer<'_>,
        _issuers: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: rustls::pki_types::UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _leaf: &CertificateDer<'_>,
        _signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(no_tls12())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        PeerVerifier::signature(message, leaf, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        SIGNATURES.supported_schemes()
    }
}

impl ClientCertVerifier for PeerVerifier {
    fn offer_client_auth(&self) -> bool {
        true
    }

    fn client_auth_mandatory(&self) -> bool {
        self.clients == Clients::Proven
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        // No hints: a client shows the one chain that it has, and a list here would be older than the bundle in force.
        &[]
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        issuers: &[CertificateDer<'_>],
        now: rustls::pki_types::UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        self.verify(leaf, issuers, "accepted", UnixTime::from_pki(now))?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _leaf: &CertificateDer<'_>,
        _signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(no_tls12())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Self::signature(message, leaf, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        SIGNATURES.supported_schemes()
    }
}

#[cfg(test)]
mod tests;
