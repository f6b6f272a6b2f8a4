//! What the node tells the data plane at start.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use starling_model::{NodeName, PortName, ServiceKey, TrustDomain};

use crate::access_log::AccessLog;

/// Where a listener waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ListenAddress {
    /// A TCP address; port 0 takes a free one.
    Tcp(SocketAddr),
    /// A Unix socket; one that nobody serves any more is replaced.
    Unix(PathBuf),
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// A fixed local entrance to a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upstream {
    /// The service it leads to.
    pub service: ServiceKey,
    /// Which of its ports; `None` takes any.
    pub port: Option<PortName>,
    /// Where applications reach it.
    pub listen: ListenAddress,
    /// The local service whose identity its calls carry; `None` is the bare node.
    pub source: Option<ServiceKey>,
}

/// The data plane's settings, all checked.
#[derive(Clone, Debug)]
pub struct ProxyConfig {
    /// This node.
    pub node: NodeName,
    /// Its mesh's trust domain.
    pub trust_domain: TrustDomain,
    /// The DNS domain of the mesh, lower case.
    pub domain: String,
    /// Where peers' traffic arrives (7740/tcp).
    pub data_listen: SocketAddr,
    /// The HTTP outbound: Host-routed, and as an HTTP proxy.
    pub http_listen: Option<SocketAddr>,
    /// At which of this host's addresses Gateways listen; `None`: they do not.
    pub gateway_listen: Option<IpAddr>,
    /// Fixed entrances.
    pub upstreams: Vec<Upstream>,
    /// Where the end of each request and connection is told; `None`: nowhere.
    pub access_log: Option<Arc<AccessLog>>,
    /// How long connections between agents take new streams, give or take a fifth.
    pub connection_age: Duration,
    /// Data threads; 0 takes one for every two cores, at most [`crate::limits::THREADS_MAX`].
    pub threads: usize,
}
