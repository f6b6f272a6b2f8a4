//! The listeners of Gateways on this node: opened and closed as the table says, while everything else goes on.
//!
//! A port that cannot be bound is told once and tried again; the others are served. When a listener goes, its port is closed
//! to new connections, and those under way live on.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU16;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use starling_model::{Code, NodeName};
use tokio::task::{AbortHandle, JoinSet};
use tracing::{info, warn};

use crate::config::ListenAddress;
use crate::limits::GATEWAY_BIND_RETRY;
use crate::listen::{self, Acceptor, Entry, Purpose};
use crate::snapshot::ProxyShared;
use crate::worker::Phase;

/// A port that Gateways ask of this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GatewayPort {
    /// Where it is, or should be.
    pub address: SocketAddr,
    /// Why nobody listens there, in the system's words, with the catalogue's entry; `None`: it is served.
    pub failure: Option<(Code, String)>,
}

/// What the accept thread needs for them.
#[derive(Debug)]
pub(crate) struct GatewayDoors {
    pub(crate) address: IpAddr,
    pub(crate) node: NodeName,
    pub(crate) shared: Arc<ProxyShared>,
}

/// Owns the listeners of Gateways; ends when the data plane closes. Safe to drop at its only `.await`: all listeners are
/// closed with it.
pub(crate) async fn follow(doors: GatewayDoors, total: Arc<AtomicUsize>, acceptor: Arc<Acceptor>) {
    let mut phase = acceptor.phase.clone();
    let mut tasks = JoinSet::new();
    let mut open: BTreeMap<NonZeroU16, AbortHandle> = BTreeMap::new();
    // One for all of them, closed ones too: strangers connect here, and must leave room for peers and local applications.
    let count = Arc::<AtomicUsize>::default();
    loop {
        let ports = doors.change(&mut open, |bound| {
            let serving = listen::serve(bound, count.clone(), total.clone(), acceptor.clone());
            tasks.spawn(serving)
        });
        let again = ports.iter().any(|port| port.failure.is_some());
        doors.shared.gateway_ports.store(Arc::new(ports));
        tokio::select! {
            () = doors.shared.published.notified() => {}
            () = tokio::time::sleep(GATEWAY_BIND_RETRY), if again => {}
            _ = phase.wait_for(|phase| *phase >= Phase::Closing) => return,
        }
        // Those that were closed are taken off.
        while tasks.try_join_next().is_some() {}
    }
}

impl GatewayDoors {
    /// Closes what is not wanted any more, opens what is not open.
    fn change(
        &self,
        open: &mut BTreeMap<NonZeroU16, AbortHandle>,
        mut serve: impl FnMut(listen::Bound) -> AbortHandle,
    ) -> Vec<GatewayPort> {
        let table = self.shared.table.load_full();
        let wanted: Vec<NonZeroU16> = table.gateways().ports(&self.node).collect();
        open.retain(|port, listener| {
            let stays = wanted.contains(port) && !listener.is_finished();
            if !stays {
                listener.abort();
                info!(%port, "a listener of a Gateway is closed");
            }
            stays
        });
        let before = self.shared.gateway_ports.load_full();
        let one = |port: NonZeroU16| {
            let address = SocketAddr::new(self.address, port.get());
            if open.contains_key(&port) {
                return GatewayPort { address, failure: None };
            }
            match listen::bind(Purpose::Gateway, &ListenAddress::Tcp(address), Entry::Gateway(port)) {
                Ok(bound) => {
                    open.insert(port, serve(bound));
                    info!(%port, "a listener of a Gateway is open");
                    GatewayPort { address, failure: None }
                }
                Err(error) => {
                    let told = GatewayPort { address, failure: Some((error.code(), error.source.to_string())) };
                    if !before.contains(&told) {
                        warn!(code = %error.code(), %port, error = %error.source, "a listener of a Gateway cannot be opened");
                    }
                    told
                }
            }
        };
        wanted.into_iter().map(one).collect()
    }
}
