//! Closed words that say why.

use prometheus_client::encoding::{EncodeLabelValue, LabelValueEncoder};

/// Why a connection or stream was turned away.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Turned {
    /// A listener, or all of them, serve as many connections as they may.
    Limit,
    /// The data thread does not keep up with new connections.
    Handover,
    /// A stream's open header is malformed.
    Header,
    /// A stream asks for an instance that is not ready here.
    NoInstance,
    /// A stream asks for the agent's own door, which is not served yet, or for a carry that the instance does not take.
    Carry,
    /// The system had no descriptor or memory for it.
    System,
    /// The agent drains.
    Draining,
    /// At a Gateway: not TLS, malformed, too long, or gone before it was complete.
    Hello,
    /// At a Gateway: no ClientHello in time.
    HelloTimeout,
    /// At a Gateway: no route for the server name, or none was named.
    ServerName,
    /// At a Gateway: the route leads to nothing that can be used now.
    Backend,
}

impl EncodeLabelValue for Turned {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> Result<(), std::fmt::Error> {
        let word = match self {
            Self::Limit => "limit",
            Self::Handover => "handover",
            Self::Header => "header",
            Self::NoInstance => "no_instance",
            Self::Carry => "carry",
            Self::System => "system",
            Self::Draining => "draining",
            Self::Hello => "client_hello",
            Self::HelloTimeout => "client_hello_timeout",
            Self::ServerName => "server_name",
            Self::Backend => "backend",
        };
        EncodeLabelValue::encode(&word, encoder)
    }
}

/// Why a connection between agents takes no new streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Retired {
    /// It was old.
    Age,
    /// This node shows a new leaf.
    Leaf,
}

impl Retired {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Age => "age",
            Self::Leaf => "leaf",
        }
    }
}
