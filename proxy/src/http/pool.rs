//! Idle HTTP/1.1 clients of one data thread: streams to peers, connections to local instances.
//!
//! A client is taken by one request and comes back when its answer was read to the end. Nothing is shared between
//! threads, so nothing is locked. What has been idle for too long is dropped by a sweep, before the other side does it.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use hyper::client::conn::http1::SendRequest;
use starling_model::ServiceKey;
use starling_transport::data::Lane;
use starling_transport::mux::Fault;

use crate::http::body::RequestBody;
use crate::http::upgrade::FarTask;
use crate::limits::{INSTANCE_IDLE_TIMEOUT, POOL_AGE_MAX, POOL_IDLE_MAX, POOL_IDLE_PER_KEY_MAX, POOL_IDLE_TIMEOUT};

/// What a client leads to. Two requests with equal keys may use one client after the other.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum PoolKey {
    /// A stream to an endpoint (by its birth, which no other endpoint ever has) on behalf of a source, which the stream
    /// names once for all its requests.
    Peer { birth: u64, source: Option<ServiceKey> },
    /// A connection to a local instance.
    Instance(SocketAddr),
}

impl PoolKey {
    fn idle_timeout(&self) -> Duration {
        match self {
            Self::Peer { .. } => POOL_IDLE_TIMEOUT,
            Self::Instance(_) => INSTANCE_IDLE_TIMEOUT,
        }
    }
}

/// What a client is opened for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Use {
    /// Requests, one after the other.
    Requests,
    /// One request that asks for another protocol: it takes no client that others used, and leaves none.
    Upgrade,
}

/// One hyper client.
#[derive(Debug)]
pub(crate) struct Client {
    pub(crate) sender: SendRequest<RequestBody>,
    /// Why its stream ended, once it has.
    pub(crate) fault: Rc<Cell<Option<Fault>>>,
    /// It has carried a request before, so the other side may have closed it meanwhile.
    pub(crate) reused: bool,
    /// Yields the stream when the answer switched protocols; only of one that was opened for that.
    pub(crate) far: Option<FarTask>,
    /// The connection under its stream; none under a connection to a local instance.
    lane: Option<Lane>,
    born: Instant,
}

impl Client {
    /// A fresh one; whatever notes why its stream ends shares `fault`.
    pub(crate) fn new(sender: SendRequest<RequestBody>, fault: Rc<Cell<Option<Fault>>>, lane: Option<Lane>) -> Self {
        Self { sender, fault, reused: false, far: None, lane, born: Instant::now() }
    }

    /// A handle on the connection under its stream, if it has one.
    pub(crate) fn lane(&self) -> Option<Lane> {
        self.lane.clone()
    }

    /// Closed, or on a connection that should get no more work: a silent host must not hold a request until its
    /// deadline.
    fn is_spent(&self) -> bool {
        self.sender.is_closed() || self.lane.as_ref().is_some_and(|lane| !lane.takes_work())
    }
}

#[derive(Debug)]
struct Idle {
    client: Client,
    since: Instant,
}

/// All idle clients of the thread.
#[derive(Debug, Default)]
pub(crate) struct Pool {
    idle: RefCell<HashMap<PoolKey, Vec<Idle>>>,
    count: Cell<usize>,
}

impl Pool {
    /// The client used last, so that surplus ones grow old; dead ones are dropped on the way.
    pub(crate) fn take(&self, key: &PoolKey) -> Option<Client> {
        let mut idle = self.idle.borrow_mut();
        let clients = idle.get_mut(key)?;
        let mut at = clients.len();
        while let Some(next) = at.checked_sub(1) {
            at = next;
            let found = clients.get(at)?;
            if found.client.is_spent() {
                clients.swap_remove(at);
                self.count.set(self.count.get() - 1);
            } else if found.client.sender.is_ready() {
                self.count.set(self.count.get() - 1);
                return Some(clients.swap_remove(at).client);
            }
        }
        None
    }

    /// Takes a client back. Over a limit it is dropped, which closes it.
    pub(crate) fn put(&self, key: PoolKey, mut client: Client, now: Instant) {
        let old = now.saturating_duration_since(client.born) >= POOL_AGE_MAX;
        if old || client.is_spent() || self.count.get() >= POOL_IDLE_MAX {
            return;
        }
        let mut idle = self.idle.borrow_mut();
        let clients = idle.entry(key).or_default();
        if clients.len() < POOL_IDLE_PER_KEY_MAX {
            client.reused = true;
            clients.push(Idle { client, since: now });
            self.count.set(self.count.get() + 1);
        }
    }

    /// Drops what is closed or has been idle for too long.
    pub(crate) fn sweep(&self, now: Instant) {
        let mut idle = self.idle.borrow_mut();
        idle.retain(|key, clients| {
            clients.retain(|idle| {
                !idle.client.is_spent() && now.saturating_duration_since(idle.since) < key.idle_timeout()
            });
            !clients.is_empty()
        });
        self.count.set(idle.values().map(Vec::len).sum());
    }

    /// Drops everything.
    pub(crate) fn clear(&self) {
        self.idle.borrow_mut().clear();
        self.count.set(0);
    }
}
