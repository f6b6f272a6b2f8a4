//! Sync exchanges: one bidirectional stream each, frames with a length before them (`frame.rs`).

use std::collections::btree_map::Entry;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use quinn::{RecvStream, SendStream, VarInt};
use starling_model::NodeName;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tracing::debug;

use super::frame::FrameReader;
use super::limits::{
    EXCHANGE_DEADLINE, EXCHANGES_MAX, FRAME_BYTES_MAX, FRAME_DEADLINE, QUEUE_BYTES_MAX, QUEUE_LEN_MAX,
};
use super::{Inner, NetEvent};

/// Set in the numbers of exchanges that peers began; ours are chosen by the machine and have it clear.
pub const INBOUND_BIT: u64 = 1 << 63;

/// Said on a stream that broke a rule or a deadline.
const BROKEN: VarInt = VarInt::from_u32(1);

/// The way to an exchange's writer.
#[derive(Clone, Debug)]
pub(super) struct Outlet {
    frames: mpsc::Sender<(Bytes, bool)>,
    waiting: Arc<AtomicUsize>,
}

/// What leaves on one exchange.
struct Inlet {
    frames: mpsc::Receiver<(Bytes, bool)>,
    waiting: Arc<AtomicUsize>,
}

fn outlet() -> (Outlet, Inlet) {
    let (sender, receiver) = mpsc::channel(QUEUE_LEN_MAX);
    let waiting = Arc::new(AtomicUsize::new(0));
    (Outlet { frames: sender, waiting: Arc::clone(&waiting) }, Inlet { frames: receiver, waiting })
}

/// Takes an exchange off the table when its task ends, however it ends.
struct Listed {
    inner: Arc<Inner>,
    key: (NodeName, u64),
}

impl Drop for Listed {
    fn drop(&mut self) {
        self.inner.exchanges().remove(&self.key);
    }
}

/// Sends a frame; the first one of an exchange of ours opens its stream. An empty frame says nothing and is for finishing
/// our half only. Drops are counted.
pub(super) fn send(inner: &Arc<Inner>, to: &NodeName, exchange: u64, frame: Bytes, last: bool) {
    if (frame.is_empty() && !last) || frame.len() > FRAME_BYTES_MAX {
        inner.counters.frames_dropped.add(1);
        return;
    }
    let mut fresh = None;
    let mut exchanges = inner.exchanges();
    let is_full = exchanges.len() >= EXCHANGES_MAX;
    let outlet = match exchanges.entry((to.clone(), exchange)) {
        Entry::Occupied(held) => held.get().clone(),
        Entry::Vacant(free) => {
            let link = inner.table().current(to).map(|link| link.connection.clone());
            let (Some(connection), false, false) = (link, exchange & INBOUND_BIT != 0, is_full) else {
                inner.counters.frames_dropped.add(1);
                return;
            };
            let (outlet, inlet) = outlet();
            free.insert(outlet.clone());
            fresh = Some((connection, inlet));
            outlet
        }
    };
    drop(exchanges);
    // After the lock: a runtime that shuts down drops the task here, and with it the entry.
    if let Some((connection, inlet)) = fresh {
        let listed = Listed { inner: Arc::clone(inner), key: (to.clone(), exchange) };
        tokio::spawn(begin(listed, connection, inlet));
    }
    let length = frame.len();
    let waiting = outlet.waiting.fetch_add(length, Ordering::Relaxed) + length;
    if waiting > QUEUE_BYTES_MAX || outlet.frames.try_send((frame, last)).is_err() {
        outlet.waiting.fetch_sub(length, Ordering::Relaxed);
        inner.counters.frames_dropped.add(1);
    }
}

/// An exchange of ours.
async fn begin(listed: Listed, connection: quinn::Connection, inlet: Inlet) {
    // Waits while the peer has its eight streams in use.
    match timeout(FRAME_DEADLINE, connection.open_bi()).await {
        Ok(Ok((send, receive))) => run(listed, send, receive, inlet).await,
        Ok(Err(_)) | Err(_) => listed.inner.counters.exchanges_broken.add(1),
    }
}

/// An exchange of the peer. quinn allows it eight streams, so these tasks are bounded.
pub(super) fn serve(inner: &Arc<Inner>, from: &NodeName, send: SendStream, receive: RecvStream) {
    let exchange = inner.next_exchange() | INBOUND_BIT;
    let key = (from.clone(), exchange);
    let mut exchanges = inner.exchanges();
    if exchanges.len() >= EXCHANGES_MAX {
        inner.counters.exchanges_broken.add(1);
        return;
    }
    let (outlet, inlet) = outlet();
    exchanges.insert(key.clone(), outlet);
    drop(exchanges);
    let listed = Listed { inner: Arc::clone(inner), key };
    tokio::spawn(run(listed, send, receive, inlet));
}

/// Both directions of one exchange. Dropping the task resets what is open.
async fn run(listed: Listed, mut send: SendStream, mut receive: RecvStream, mut inlet: Inlet) {
    let activity = Activity::new();
    let both = async {
        tokio::try_join!(read(&listed, &mut receive, &activity), write(&listed, &mut send, &mut inlet, &activity))
            .is_ok()
    };
    let is_whole = tokio::select! {
        is_whole = both => is_whole,
        () = activity.ceases() => false,
    };
    if !is_whole {
        listed.inner.counters.exchanges_broken.add(1);
        debug!(member = %listed.key.0, exchange = listed.key.1, "sync exchange broken off");
        let _ = send.reset(BROKEN);
        let _ = receive.stop(BROKEN);
    }
}

/// When a whole frame last moved on an exchange, in either direction.
struct Activity {
    start: Instant,
    last_ms: AtomicU64,
}

impl Activity {
    fn new() -> Self {
        Self { start: Instant::now(), last_ms: AtomicU64::new(0) }
    }

    fn note(&self) {
        let now = u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last_ms.store(now, Ordering::Relaxed);
    }

    /// Returns once no frame has moved for [`FRAME_DEADLINE`], or the exchange lasts too long.
    async fn ceases(&self) {
        loop {
            let last = Duration::from_millis(self.last_ms.load(Ordering::Relaxed));
            let now = self.start.elapsed();
            let end = (last + FRAME_DEADLINE).min(EXCHANGE_DEADLINE);
            if now >= end {
                return;
            }
            tokio::time::sleep(end - now).await;
        }
    }
}

/// The exchange broke a rule, or its connection ended.
struct Broken;

/// Hands on frames until the peer has finished.
async fn read(listed: &Listed, receive: &mut RecvStream, activity: &Activity) -> Result<(), Broken> {
    let (from, exchange) = &listed.key;
    let mut reader = FrameReader::default();
    while let Some(chunk) = receive.read_chunk(reader.wants(), true).await.map_err(|_| Broken)? {
        let Some(frame) = reader.take(&chunk.bytes).map_err(|_| Broken)? else { continue };
        listed.inner.counters.frames_received.add(1);
        listed.inner.counters.frame_bytes_received.add(frame.len() as u64);
        let event = NetEvent::Sync { from: from.clone(), exchange: *exchange, frame };
        // Waits for the reader: an exchange is worth slowing its peer down, unlike a datagram.
        listed.inner.inbox.send(event).await.map_err(|_| Broken)?;
        activity.note();
    }
    if reader.is_between_frames() { Ok(()) } else { Err(Broken) }
}

/// Sends what the machine gives until it says that it was the last.
async fn write(listed: &Listed, send: &mut SendStream, inlet: &mut Inlet, activity: &Activity) -> Result<(), Broken> {
    loop {
        let (frame, last) = inlet.frames.recv().await.ok_or(Broken)?;
        if frame.is_empty() {
            return send.finish().map_err(|_| Broken);
        }
        let frame_len = frame.len();
        inlet.waiting.fetch_sub(frame_len, Ordering::Relaxed);
        let length = u32::try_from(frame.len()).unwrap_or(u32::MAX).to_le_bytes();
        let mut parts = [Bytes::copy_from_slice(&length), frame];
        send.write_all_chunks(&mut parts).await.map_err(|_| Broken)?;
        listed.inner.counters.frame_bytes_sent.add(frame_len as u64);
        activity.note();
        if last {
            return send.finish().map_err(|_| Broken);
        }
    }
}
