//! Bounded ways between tasks: a queue that counts what it drops, and a mailbox that keeps the newest per key.
//!
//! Nothing in the agent waits without a bound. Where losing is harmless the newest is dropped and counted ([`Queue`]);
//! where only the last value matters, newer replaces older ([`Mailbox`]), so its bound is the number of keys.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{Notify, mpsc};

/// Sending half of a bounded queue that never waits: when full, the newest is dropped and counted.
#[derive(Debug)]
pub struct Queue<T> {
    name: &'static str,
    sender: mpsc::Sender<T>,
    dropped: Arc<AtomicU64>,
}

impl<T> Clone for Queue<T> {
    fn clone(&self) -> Self {
        Self { name: self.name, sender: self.sender.clone(), dropped: Arc::clone(&self.dropped) }
    }
}

impl<T> Queue<T> {
    /// A queue of at most `len_max` items.
    #[must_use]
    pub fn new(name: &'static str, len_max: usize) -> (Self, mpsc::Receiver<T>) {
        let (sender, receiver) = mpsc::channel(len_max);
        (Self { name, sender, dropped: Arc::new(AtomicU64::new(0)) }, receiver)
    }

    /// Puts one item in, unless the queue is full or its reader is gone. Returns whether it went in.
    pub fn offer(&self, item: T) -> bool {
        let sent = self.sender.try_send(item).is_ok();
        if !sent {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
        sent
    }

    /// Waits for room. Use it only where the reader never waits for the writer.
    ///
    /// Returns whether the reader is still there.
    pub async fn send(&self, item: T) -> bool {
        self.sender.send(item).await.is_ok()
    }

    /// Its name in metrics.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// Items waiting.
    #[must_use]
    pub fn depth(&self) -> usize {
        self.sender.max_capacity().saturating_sub(self.sender.capacity())
    }

    /// Items dropped since the start.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }
}

/// A mailbox: for each key the newest value waits, and a reader is woken. Writers never wait and nothing is lost but
/// values that a newer one replaced.
#[derive(Debug)]
pub struct Mailbox<K, V> {
    inner: Arc<MailboxInner<K, V>>,
}

#[derive(Debug)]
struct MailboxInner<K, V> {
    waiting: Mutex<BTreeMap<K, V>>,
    woken: Notify,
}

impl<K, V> Clone for Mailbox<K, V> {
    fn clone(&self) -> Self {
        Self { inner: Arc::clone(&self.inner) }
    }
}

impl<K: Ord, V> Default for Mailbox<K, V> {
    fn default() -> Self {
        Self { inner: Arc::new(MailboxInner { waiting: Mutex::new(BTreeMap::new()), woken: Notify::new() }) }
    }
}

impl<K: Ord, V> Mailbox<K, V> {
    /// Puts a value in, replacing what waits under the key.
    pub fn put(&self, key: K, value: V) {
        self.inner.waiting.lock().unwrap_or_else(PoisonError::into_inner).insert(key, value);
        self.inner.woken.notify_one();
    }

    /// Changes what waits under the key, beginning with the default when nothing does.
    pub fn merge(&self, key: K, change: impl FnOnce(&mut V))
    where
        V: Default,
    {
        change(self.inner.waiting.lock().unwrap_or_else(PoisonError::into_inner).entry(key).or_default());
        self.inner.woken.notify_one();
    }

    /// Takes everything that waits, in key order.
    #[must_use]
    pub fn take(&self) -> BTreeMap<K, V> {
        std::mem::take(&mut *self.inner.waiting.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Keys waiting.
    #[must_use]
    pub fn depth(&self) -> usize {
        self.inner.waiting.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Waits until something was put in since the last wait. Safe to drop: a wake-up that was not taken stays.
    pub async fn wait(&self) {
        self.inner.woken.notified().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_queue_drops_the_newest_and_counts_it() {
        let (queue, mut receiver) = Queue::new("test", 2);
        assert!(queue.offer(1) && queue.offer(2));
        assert!(!queue.offer(3));
        assert_eq!((queue.depth(), queue.dropped()), (2, 1));
        assert_eq!(receiver.try_recv(), Ok(1));
        assert!(queue.offer(4));
        assert_eq!((receiver.try_recv(), receiver.try_recv()), (Ok(2), Ok(4)));
    }

    #[test]
    fn a_mailbox_keeps_the_newest_of_each_key() {
        let mailbox = Mailbox::default();
        mailbox.put("a", 1);
        mailbox.put("b", 1);
        mailbox.put("a", 2);
        assert_eq!(mailbox.take(), BTreeMap::from([("a", 2), ("b", 1)]));
        assert_eq!(mailbox.depth(), 0);
    }
}
