//! Which Canaries something has happened to: each key at most once, until its reader takes it.
//!
//! A set with a bell rather than a queue: it never drops a key, and a reader that is behind finds each key once and whatever
//! is newest in the caches. It holds the Canaries that something has happened to since its reader last looked, those that are
//! gone included: every reader reads, also the one that has nothing to do with them yet ([`Wakes::discard`]). Nothing here
//! waits but the reader.

use std::{
    collections::{HashSet, VecDeque},
    sync::{Arc, Mutex, PoisonError},
};

use crds::Canary;
use kube::runtime::reflector::ObjectRef;
use tokio::sync::Notify;

/// Names one Canary.
pub type Key = ObjectRef<Canary>;

/// Receives the keys of Canaries that an event concerns. Cheap to clone.
#[derive(Clone)]
pub struct Waker {
    readers: Vec<Arc<Pending>>,
}

/// One reader's keys.
pub struct Wakes {
    pending: Arc<Pending>,
}

#[derive(Default)]
struct Pending {
    keys: Mutex<Keys>,
    bell: Notify,
}

#[derive(Default)]
struct Keys {
    waiting: HashSet<Key>,
    order: VecDeque<Key>,
}

impl Waker {
    /// A waker with `count` readers, each of which sees every key.
    #[must_use]
    pub fn new(count: usize) -> (Self, Vec<Wakes>) {
        let readers: Vec<_> = (0..count).map(|_| Arc::<Pending>::default()).collect();
        let wakes = readers.iter().map(|pending| Wakes { pending: Arc::clone(pending) }).collect();
        (Self { readers }, wakes)
    }

    /// Wakes the passes of one Canary; one that waits already is not woken twice.
    pub fn wake(&self, key: &Key) {
        for pending in &self.readers {
            pending.add(key);
        }
    }
}

impl Wakes {
    /// The key that has waited longest; waits for one without end. A key that is woken while it is being worked on comes
    /// again. Cancel safe: no key is lost.
    pub async fn next(&mut self) -> Key {
        loop {
            if let Some(key) = self.pending.take() {
                return key;
            }
            // A bell that was rung before this is heard all the same.
            self.pending.bell.notified().await;
        }
    }

    /// Takes every key and does nothing, for ever: for a reader that will look at every Canary when its time has come.
    pub async fn discard(&mut self) {
        loop {
            self.next().await;
        }
    }
}

impl Pending {
    fn add(&self, key: &Key) {
        let mut keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        if keys.waiting.insert(key.clone()) {
            keys.order.push_back(key.clone());
            self.bell.notify_one();
        }
    }

    fn take(&self) -> Option<Key> {
        let mut keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        let key = keys.order.pop_front()?;
        keys.waiting.remove(&key);
        Some(key)
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    fn key(name: &str) -> Key {
        ObjectRef::new(name).within("shop")
    }

    fn taken(wakes: &mut Wakes) -> Vec<String> {
        std::iter::from_fn(|| wakes.next().now_or_never()).map(|key| key.name).collect()
    }

    #[test]
    fn each_reader_gets_each_key_once_in_the_order_of_their_first_wake() {
        let (waker, mut wakes) = Waker::new(2);
        for _ in 0..100_000 {
            waker.wake(&key("web"));
            waker.wake(&key("api"));
        }
        for reader in &mut wakes {
            assert_eq!(taken(reader), ["web", "api"]);
        }
    }

    #[test]
    fn a_key_that_is_woken_while_it_is_worked_on_comes_again() {
        let (waker, mut wakes) = Waker::new(1);
        waker.wake(&key("web"));
        assert_eq!(taken(&mut wakes[0]), ["web"]);
        waker.wake(&key("web"));
        assert_eq!(taken(&mut wakes[0]), ["web"]);
    }

    #[test]
    fn a_reader_that_discards_holds_no_names_and_gets_what_comes_afterwards() {
        let (waker, mut wakes) = Waker::new(1);
        for number in 0..1_000 {
            waker.wake(&key(&format!("preview-{number}")));
            assert_eq!(wakes[0].discard().now_or_never(), None);
        }
        let keys = wakes[0].pending.keys.lock().expect("no panic");
        assert_eq!((keys.waiting.len(), keys.order.len()), (0, 0));
        drop(keys);
        waker.wake(&key("web"));
        assert_eq!(taken(&mut wakes[0]), ["web"]);
    }

    #[tokio::test]
    async fn a_reader_that_waits_is_woken() {
        let (waker, mut wakes) = Waker::new(1);
        let mut reader = wakes.remove(0);
        let waits = tokio::spawn(async move { reader.next().await });
        tokio::task::yield_now().await;
        waker.wake(&key("web"));
        assert_eq!(waits.await.expect("no panic").name, "web");
    }
}
