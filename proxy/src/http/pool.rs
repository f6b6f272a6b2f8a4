//! Clients of one data thread: HTTP/1.1 ones that idle, HTTP/2 ones that many requests share; streams to peers,
//! connections to local instances.
//!
//! A client is taken by one request and comes back when its answer was read to the end. Nothing is shared between
//! threads, so nothing is locked. What has been idle for too long is dropped by a sweep, before the other side does it.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use http::Response;
use http::request::Parts;
use starling_model::{NodeName, ServiceKey};
use starling_transport::data::Lane;
use starling_transport::mux::Fault;

use crate::Map;
use crate::header::Carry;
use crate::http::body::RequestBody;
use crate::http::client::{Http1, Reply, SendFailed, Sending};
use crate::http::h2::client::{self as http2, Http2};
use crate::http::upgrade::Switched;
use crate::limits::{INSTANCE_IDLE_TIMEOUT, POOL_AGE_MAX, POOL_IDLE_MAX, POOL_IDLE_PER_KEY_MAX, POOL_IDLE_TIMEOUT};

/// What a client leads to. Two requests with equal keys may use one client after the other.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum PoolKey {
    /// A stream to an endpoint (by its birth, which no other endpoint ever has) on behalf of a source, which the stream
    /// names once for all its requests.
    Peer { birth: u64, source: Option<ServiceKey>, carry: Carry },
    /// A connection to a local instance.
    Instance(SocketAddr),
}

/// Who shares HTTP/2 connections to a local instance: what one caller resets never ends another's.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct SharedKey {
    pub(crate) instance: SocketAddr,
    pub(crate) node: NodeName,
    /// As it was granted, never as it was only claimed: claims are without number.
    pub(crate) source: Option<ServiceKey>,
}

impl PoolKey {
    fn idle_timeout(&self) -> Duration {
        match self {
            Self::Peer { .. } => POOL_IDLE_TIMEOUT,
            Self::Instance(_) => INSTANCE_IDLE_TIMEOUT,
        }
    }
}

/// What sends requests.
#[derive(Debug)]
pub(crate) enum Sender {
    /// In one hand at a time.
    Http1(Http1),
    /// Shared; the place is given back when this is dropped.
    Http2(Http2, Place),
}

impl Sender {
    fn is_closed(&self) -> bool {
        match self {
            Self::Http1(sender) => sender.is_closed(),
            Self::Http2(sender, place) => sender.is_closed() || place.0.is_dead.get(),
        }
    }

    fn is_ready(&self) -> bool {
        match self {
            Self::Http1(sender) => sender.is_ready(),
            Self::Http2(sender, _) => !sender.is_closed(),
        }
    }
}

/// One request's place on a connection that many share.
#[derive(Debug)]
pub(crate) struct Place(Rc<Seats>);

#[derive(Debug, Default)]
struct Seats {
    taken: Cell<u32>,
    /// A request could not be sent on it.
    is_dead: Cell<bool>,
}

impl Place {
    /// The first of a connection that was opened just now.
    pub(crate) fn first() -> Self {
        Self::take(&Rc::default())
    }

    fn take(seats: &Rc<Seats>) -> Self {
        seats.taken.set(seats.taken.get() + 1);
        Self(seats.clone())
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.taken.set(self.0.taken.get().saturating_sub(1));
    }
}

/// A request under way, up to the head of its answer.
pub(crate) enum Sent {
    Http1(Sending),
    Http2(http2::Sending),
}

impl Sent {
    /// The head of a request that nobody has answered, where it was kept.
    pub(crate) fn take_head(&mut self) -> Option<Box<Parts>> {
        match self {
            Self::Http1(sending) => sending.take_head(),
            Self::Http2(_) => None,
        }
    }
}

impl Future for Sent {
    type Output = Result<Response<Reply>, SendFailed>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.get_mut() {
            Self::Http1(sending) => Pin::new(sending).poll(cx),
            Self::Http2(sending) => Pin::new(sending).poll(cx),
        }
    }
}

/// One client.
#[derive(Debug)]
pub(crate) struct Client {
    sender: Sender,
    /// Why its stream ended, once it has.
    pub(crate) fault: Rc<Cell<Option<Fault>>>,
    /// It has carried a request before, so the other side may have closed it meanwhile.
    pub(crate) reused: bool,
    /// It was opened for one request, which asks for another protocol.
    pub(crate) may_switch: bool,
    /// The connection under its stream; none under a connection to a local instance.
    lane: Option<Lane>,
    born: Instant,
}

impl Client {
    /// A fresh one; whatever notes why its stream ends shares `fault`.
    pub(crate) fn new(sender: Sender, fault: Rc<Cell<Option<Fault>>>, lane: Option<Lane>) -> Self {
        Self { sender, fault, reused: false, may_switch: false, lane, born: Instant::now() }
    }

    /// Sends one request; its answer's head.
    pub(crate) fn send(&mut self, head: Box<Parts>, body: RequestBody) -> Sent {
        match &mut self.sender {
            Sender::Http1(sender) => Sent::Http1(sender.send(head, body)),
            Sender::Http2(sender, _) => Sent::Http2(sender.send(head, body)),
        }
    }

    /// What carries bytes both ways once its answer has switched protocols.
    pub(crate) fn switched(&self) -> Option<Switched> {
        match &self.sender {
            Sender::Http1(sender) if self.may_switch => sender.take_far(),
            Sender::Http1(_) | Sender::Http2(..) => None,
        }
    }

    /// Its answer is not wanted, and what is left of its request neither.
    pub(crate) fn abandon(&self) {
        match &self.sender {
            Sender::Http1(sender) => sender.abandon(),
            Sender::Http2(..) => {}
        }
    }

    /// It took no request: nobody else should try.
    pub(crate) fn give_up(&self) {
        match &self.sender {
            Sender::Http1(_) => {}
            Sender::Http2(_, place) => place.0.is_dead.set(true),
        }
    }

    /// Another client of the same connection, if that takes several requests.
    fn shared(&self) -> Option<Self> {
        let Sender::Http2(sender, Place(seats)) = &self.sender else { return None };
        let sender = Sender::Http2(sender.clone(), Place::take(seats));
        let (fault, lane) = (self.fault.clone(), self.lane.clone());
        Some(Self { sender, fault, reused: true, may_switch: false, lane, born: self.born })
    }

    pub(crate) fn is_shared(&self) -> bool {
        matches!(self.sender, Sender::Http2(..))
    }

    /// Requests on its connection, as whoever keeps it for others sees it: its own place is none.
    fn requests(&self) -> u32 {
        match &self.sender {
            Sender::Http1(_) => 0,
            Sender::Http2(_, Place(seats)) => seats.taken.get().saturating_sub(1),
        }
    }

    /// Requests that its connection takes at a time.
    fn room(&self) -> u32 {
        match &self.sender {
            Sender::Http1(_) => 1,
            Sender::Http2(sender, _) => sender.room(),
        }
    }

    /// A handle on the connection under its stream, if it has one.
    pub(crate) fn lane(&self) -> Option<Lane> {
        self.lane.clone()
    }

    /// Closed, or on a connection that should get no more work: a silent host must not hold a request until its
    /// deadline.
    fn is_spent(&self, now: Instant) -> bool {
        self.sender.is_closed() || self.lane.as_ref().is_some_and(|lane| !lane.takes_work(now))
    }
}

/// Connections that carry requests at the same time, all of one [`SharedKey`]; each with the last moment it was seen in use.
#[derive(Debug, Default)]
pub(crate) struct Shared(Vec<(Client, Instant)>);

impl Shared {
    /// A client of the connection with the fewest requests, if one has room.
    pub(crate) fn take(&mut self, now: Instant) -> Option<Client> {
        self.0.retain(|(client, _)| !client.is_spent(now));
        let with_room = self.0.iter().filter(|(client, _)| client.requests() < client.room());
        with_room.min_by_key(|(client, _)| client.requests())?.0.shared()
    }

    /// Lets others use the connection of a fresh client too. Over a limit it stays with that one request.
    pub(crate) fn put(&mut self, client: &Client) {
        if let Some(shared) = client.shared().filter(|_| self.0.len() < POOL_IDLE_PER_KEY_MAX) {
            self.0.push((shared, Instant::now()));
        }
    }

    /// Lets go of what is closed, old, or has carried nothing for a while; requests under way go on.
    fn sweep(&mut self, now: Instant) {
        self.0.retain_mut(|(client, used)| {
            if client.requests() > 0 {
                *used = now;
            }
            let idle = now.saturating_duration_since(*used) >= INSTANCE_IDLE_TIMEOUT;
            !(client.is_spent(now) || idle || now.saturating_duration_since(client.born) >= POOL_AGE_MAX)
        });
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
    idle: RefCell<Map<PoolKey, Vec<Idle>>>,
    shared: RefCell<Map<SharedKey, Rc<RefCell<Shared>>>>,
    count: Cell<usize>,
}

impl Pool {
    /// The client used last, so that surplus ones grow old; dead ones are dropped on the way.
    pub(crate) fn take(&self, key: &PoolKey, now: Instant) -> Option<Client> {
        let mut idle = self.idle.borrow_mut();
        let clients = idle.get_mut(key)?;
        let mut at = clients.len();
        while let Some(next) = at.checked_sub(1) {
            at = next;
            let found = clients.get(at)?;
            if found.client.is_spent(now) {
                clients.swap_remove(at);
                self.count.set(self.count.get() - 1);
            } else if found.client.sender.is_ready() {
                self.count.set(self.count.get() - 1);
                return Some(clients.swap_remove(at).client);
            }
        }
        None
    }

    /// The connections that are shared under this key. Over a limit of keys they are the caller's alone.
    pub(crate) fn shared(&self, key: SharedKey) -> Rc<RefCell<Shared>> {
        let mut all = self.shared.borrow_mut();
        match all.get(&key) {
            Some(shared) => shared.clone(),
            None if all.len() < POOL_IDLE_MAX => all.entry(key).or_default().clone(),
            None => Rc::default(),
        }
    }

    /// Takes a client back. One that is shared was never away. Over a limit it is dropped, which closes it.
    pub(crate) fn put(&self, key: PoolKey, mut client: Client, now: Instant) {
        let old = now.saturating_duration_since(client.born) >= POOL_AGE_MAX;
        if old || client.is_spent(now) || client.is_shared() || self.count.get() >= POOL_IDLE_MAX {
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
                !idle.client.is_spent(now) && now.saturating_duration_since(idle.since) < key.idle_timeout()
            });
            !clients.is_empty()
        });
        self.count.set(idle.values().map(Vec::len).sum());
        self.shared.borrow_mut().retain(|_, shared| {
            shared.borrow_mut().sweep(now);
            !shared.borrow().0.is_empty() || Rc::strong_count(shared) > 1
        });
    }

    /// Drops everything.
    pub(crate) fn clear(&self) {
        self.idle.borrow_mut().clear();
        self.shared.borrow_mut().clear();
        self.count.set(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::H2_INSTANCE_STREAMS_MAX;

    #[tokio::test]
    async fn a_shared_connection_takes_so_many_requests_and_no_more() {
        let many = async {
            let (near, _far) = tokio::io::duplex(1 << 16);
            let sender = Http2::begin(near).await.unwrap();
            let first = Client::new(Sender::Http2(sender, Place::first()), Rc::default(), None);
            let mut shared = Shared::default();
            shared.put(&first);
            let mut taken: Vec<Client> =
                (1..H2_INSTANCE_STREAMS_MAX).map(|_| shared.take(Instant::now()).unwrap()).collect();
            assert!(shared.take(Instant::now()).is_none(), "one more opens a connection of its own");
            drop(taken.pop());
            assert!(shared.take(Instant::now()).is_some(), "a place that was given back is taken again");
        };
        tokio::task::LocalSet::new().run_until(many).await;
    }
}
