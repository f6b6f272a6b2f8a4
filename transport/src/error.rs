//! Why a connection to a peer did not come about, in layers: the network, TLS and certificates, our own first words.

use std::io;

use starling_identity::PeerRefused;
use starling_model::{Code, MeshId, NodeName, codes};

/// A certificate that we refused, and why.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{detail}")]
pub struct CertificateRefusal {
    /// One word, as in `PeerRefused::REASONS`.
    pub reason: &'static str,
    /// The catalogue entry.
    pub code: Code,
    /// The sentence.
    pub detail: String,
}

impl From<&PeerRefused> for CertificateRefusal {
    fn from(refused: &PeerRefused) -> Self {
        Self { reason: refused.reason(), code: refused.code(), detail: refused.to_string() }
    }
}

impl CertificateRefusal {
    /// Reads the refusal out of what QUIC keeps of an error of rustls, which is its text:
    /// `invalid peer certificate: Other(OtherError(NotChained))`.
    pub(crate) fn in_text(text: &str) -> Option<Self> {
        let (_, debug) = text.split_once("OtherError(")?;
        let debug = debug.strip_suffix("))").unwrap_or(debug);
        let name: String = debug.chars().take_while(char::is_ascii_alphanumeric).collect();
        let mut word = String::with_capacity(name.len() + 4);
        for (at, letter) in name.char_indices() {
            if letter.is_ascii_uppercase() && at > 0 {
                word.push('-');
            }
            word.push(letter.to_ascii_lowercase());
        }
        let reason = PeerRefused::REASONS.into_iter().find(|reason| *reason == word)?;
        let code = match reason {
            "chain-size" | "malformed" => codes::CHAIN_MALFORMED,
            "san-count" | "not-spiffe" | "unbound-name" => codes::NOT_SPIFFE,
            "other-mesh" => codes::OTHER_MESH,
            "leaf-profile" => codes::LEAF_PROFILE,
            "not-chained" | "expired" => codes::CERTIFICATE_EXPIRED,
            "leaf-expired" | "not-yet-valid" => codes::CLOCKS_DIFFER,
            "path-shape" => codes::PATH_SHAPE,
            _ => codes::UNEXPECTED_PEER,
        };
        Some(Self { reason, code, detail: format!("{reason}: {debug}") })
    }
}

/// Why a dial failed. Cheap to clone, because it is remembered for a short while.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DialError {
    /// Nobody answered within the deadline.
    #[error("no answer within 3 s")]
    Timeout,
    /// The host answered that nobody listens, or that it cannot be reached.
    #[error("the address cannot be reached: {0}")]
    Unreachable(io::ErrorKind),
    /// We refused the peer's certificate.
    #[error("the peer's certificate was refused: {0}")]
    PeerCertificate(CertificateRefusal),
    /// The peer refused ours; its log has the reason, the wire only the alert.
    #[error("the peer refused our certificate: {0}")]
    OurCertificate(String),
    /// The peer speaks another protocol on this port.
    #[error("the peer does not speak this protocol")]
    OtherProtocol,
    /// The peer's mesh has another id, though its certificate fits.
    #[error("the peer belongs to mesh {}", .0.short())]
    OtherMesh(MeshId),
    /// No protocol version in common.
    #[error("the peer speaks protocol versions {min} to {max}")]
    NoCommonVersion {
        /// The least version of the peer.
        min: u16,
        /// Its greatest.
        max: u16,
    },
    /// The address is our own, or another host uses our name.
    #[error("{0}, the peer's name, is our own")]
    OurOwnName(NodeName),
    /// TLS or QUIC failed otherwise.
    #[error("the handshake failed: {0}")]
    Handshake(String),
    /// The peer closed the connection during its first words.
    #[error("the peer closed the connection: {0}")]
    Closed(String),
    /// Too many dials at once, or none because of shutdown.
    #[error("not dialled: {0}")]
    NotDialled(&'static str),
}

impl DialError {
    /// The catalogue entry that a person should see, if there is something to see: a seed list may well name this node
    /// itself.
    #[must_use]
    pub fn code(&self) -> Option<Code> {
        Some(match self {
            Self::NotDialled(_) | Self::OurOwnName(_) => return None,
            Self::Timeout | Self::Unreachable(_) | Self::OtherProtocol | Self::Handshake(_) | Self::Closed(_) => {
                codes::NO_QUIC_ANSWER
            }
            // A chain to another root is what a mesh of the same trust domain shows.
            Self::PeerCertificate(refused) if refused.reason == "not-chained" => codes::OTHER_MESH,
            Self::PeerCertificate(refused) => refused.code,
            Self::OurCertificate(_) | Self::OtherMesh(_) => codes::OTHER_MESH,
            Self::NoCommonVersion { .. } => codes::NO_COMMON_PROTOCOL,
        })
    }

    /// One word for metrics and logs.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Timeout => "timeout",
            Self::Unreachable(_) => "unreachable",
            Self::PeerCertificate(refused) => refused.reason,
            Self::OurCertificate(_) => "refused-by-peer",
            Self::OtherProtocol => "other-protocol",
            Self::OtherMesh(_) => "other-mesh",
            Self::NoCommonVersion { .. } => "no-common-version",
            Self::OurOwnName(_) => "own-name",
            Self::Handshake(_) => "handshake",
            Self::Closed(_) => "closed",
            Self::NotDialled(_) => "not-dialled",
        }
    }
}

/// Alerts by which a TLS server refuses a client's certificate or protocol, before it has read any application data
/// (RFC 8446, 6.2).
pub(crate) fn refusal_of_alert(alert: rustls::AlertDescription) -> Option<DialError> {
    use rustls::AlertDescription as Alert;
    if alert == Alert::NoApplicationProtocol {
        return Some(DialError::OtherProtocol);
    }
    let refusals = [
        Alert::BadCertificate,
        Alert::UnsupportedCertificate,
        Alert::CertificateRevoked,
        Alert::CertificateExpired,
        Alert::CertificateUnknown,
        Alert::UnknownCA,
        Alert::AccessDenied,
        Alert::CertificateRequired,
        Alert::HandshakeFailure,
    ];
    refusals.contains(&alert).then(|| DialError::OurCertificate(format!("alert {alert:?}")))
}

/// What rustls says, in our words.
pub(crate) fn of_rustls(error: &rustls::Error) -> DialError {
    if let Some(refused) = starling_identity::tls::refusal_of(error) {
        return DialError::PeerCertificate(refused.into());
    }
    if matches!(error, rustls::Error::NoApplicationProtocol) {
        return DialError::OtherProtocol;
    }
    let told = if let rustls::Error::AlertReceived(alert) = error { refusal_of_alert(*alert) } else { None };
    told.unwrap_or_else(|| DialError::Handshake(error.to_string()))
}

/// What an IO error of a TLS stream means: rustls hides its errors inside.
pub(crate) fn of_io(error: &io::Error) -> DialError {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
        Some(inner) => of_rustls(inner),
        None => DialError::Unreachable(error.kind()),
    }
}
