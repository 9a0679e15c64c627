//! The config stream as the rest of the operator sees it: routes in, acknowledgements and counters out.
//!
//! [`Publisher`] holds the newest route of each Canary and says who has it in force; `book` decides what each stream gets,
//! `server` carries it, `lobby` bounds the connections that bring no stream, `counters` keeps what proxies counted last. It reads no Kubernetes object and builds no route.

mod book;
mod counters;
mod listener;
mod lobby;
mod server;

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::{Stream, StreamExt};
use proxy_api::v1beta1::{Ack, Counters, Limits, Route};
use rollout::verdict::Report;
use tokio::sync::broadcast;
use tokio::time::Instant;
use tokio_stream::wrappers::BroadcastStream;

use crate::admin::Metrics;
use crate::identity::Proxy;
use book::{Book, Next, StreamKey};

pub use lobby::ConnectionLimits;
pub use server::{ServeError, serve};

/// Changes that a reader may be behind by; past that it is told of every Canary instead.
const CHANGES_BEHIND: usize = 1_024;

/// Routes, and the proxies that serve them. Cheap to clone; nothing here waits.
#[derive(Clone)]
pub struct Publisher {
    shared: Arc<Shared>,
}

struct Shared {
    book: Mutex<Book>,
    changes: broadcast::Sender<Change>,
    metrics: Metrics,
}

/// What [`Publisher::set`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SetOutcome {
    /// The same route is held already.
    Unchanged,
    /// It is held and on its way to the proxies.
    Set,
    /// A higher counter is held for this uid: refused.
    Older,
}

/// A proxy's newest acknowledgement of one route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProxyAck {
    /// The proxy's pod.
    pub pod: String,
    /// Counter of the route that it applied or refused.
    pub counter: u64,
    /// Empty when applied.
    pub error: String,
}

/// Something changed for this Canary: an acknowledgement, or a proxy came or went.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Change {
    /// Namespace of the Canary.
    pub namespace: String,
    /// Its name.
    pub canary: String,
}

impl Change {
    fn of(route: &Route) -> Self {
        Self { namespace: route.namespace.clone(), canary: route.canary.clone() }
    }
}

impl Publisher {
    /// Holds no route and sends nothing until [`Publisher::synced`].
    #[must_use]
    pub fn new(metrics: &Metrics) -> Self {
        let (changes, _) = broadcast::channel(CHANGES_BEHIND);
        let shared = Shared { book: Mutex::default(), changes, metrics: metrics.clone() };
        Self { shared: Arc::new(shared) }
    }

    /// Holds `route` and sends it to the proxies of its namespace, unless it is held already or is older than what is.
    pub fn set(&self, route: Route) -> SetOutcome {
        self.book().set(route, Instant::now())
    }

    /// Sends `limits` to the proxies of `namespace`, which has a route, unless they are in force there already.
    pub fn limit(&self, namespace: &str, limits: &Limits) {
        self.book().limit(namespace, limits);
    }

    /// Takes the route of `uid` away from the proxies. False: none was held.
    pub fn remove(&self, uid: &str) -> bool {
        self.book().remove(uid)
    }

    /// Removes every route that is not `wanted`.
    pub fn retain(&self, wanted: impl Fn(&Route) -> bool) {
        let mut book = self.book();
        let gone: Vec<String> = book.routes().filter(|route| !wanted(route)).map(|route| route.uid.clone()).collect();
        for uid in gone {
            book.remove(&uid);
        }
    }

    /// The route that is held for `uid`.
    #[must_use]
    pub fn get(&self, uid: &str) -> Option<Arc<Route>> {
        self.book().get(uid)
    }

    /// All routes are known: proxies may be told, and told to drop the others. Once is enough.
    pub fn synced(&self) {
        self.book().sync();
    }

    /// The newest acknowledgement of `uid` by each connected proxy that has sent one, by pod.
    #[must_use]
    pub fn acked(&self, uid: &str) -> Vec<ProxyAck> {
        self.book().acked(uid)
    }

    /// Whether at least one proxy of the route's namespace is connected and every connected one has applied `counter` or
    /// a later one.
    #[must_use]
    pub fn in_force(&self, uid: &str, counter: u64) -> bool {
        self.book().in_force(uid, counter)
    }

    /// Pods of the proxies of `namespace` that have a stream to this replica.
    #[must_use]
    pub fn connected(&self, namespace: &str) -> BTreeSet<String> {
        self.book().connected(namespace)
    }

    /// The Canaries for which [`Publisher::acked`] or [`Publisher::connected`] have changed, from now on. A reader that
    /// falls behind loses nothing: it is then told of every Canary.
    pub fn changes(&self) -> impl Stream<Item = Change> + Send + 'static {
        let publisher = self.clone();
        BroadcastStream::new(self.shared.changes.subscribe()).flat_map(move |change| {
            let changes = match change {
                Ok(change) => vec![change],
                Err(_lagged) => publisher.book().routes().map(|route| Change::of(route)).collect(),
            };
            futures::stream::iter(changes)
        })
    }

    /// What the connected proxies counted for the route `uid` since `after`, each at most once, and what to pass as `after`
    /// next time; 0 at first.
    #[must_use]
    pub fn reports(&self, uid: &str, after: u64) -> (Vec<Report>, u64) {
        self.book().reports(uid, after)
    }

    /// Ends every stream and refuses new ones. Proxies go on with what they have.
    pub fn shutdown(&self) {
        self.book().close();
    }

    /// A proxy opened a stream. None: shut down.
    fn connect(&self, proxy: Proxy, incarnation: u64) -> Option<StreamKey> {
        let key = self.book().connect(proxy, incarnation)?;
        self.shared.metrics.proxies.inc();
        self.tell(&key.proxy.namespace);
        Some(key)
    }

    /// Its stream ended.
    fn disconnect(&self, key: &StreamKey) {
        self.shared.metrics.proxies.dec();
        if self.book().disconnect(key) {
            self.settle(&key.proxy.namespace);
            self.tell(&key.proxy.namespace);
        }
    }

    fn take(&self, key: &StreamKey) -> Next {
        self.book().take(key)
    }

    fn ack(&self, key: &StreamKey, ack: Ack) {
        let change = self.book().ack(key, ack);
        if let Some(change) = change {
            self.settle(&key.proxy.namespace);
            // No receiver: nobody reconciles in this replica.
            let _ = self.shared.changes.send(change);
        }
    }

    fn count(&self, key: &StreamKey, counters: Counters) {
        self.book().count(key, counters);
    }

    fn settle(&self, namespace: &str) {
        let took = self.book().settle(namespace, Instant::now());
        took.into_iter().for_each(|took| self.shared.metrics.route_acknowledged_seconds.observe(took.as_secs_f64()));
    }

    fn tell(&self, namespace: &str) {
        let changes = self.book().changes_in(namespace);
        for change in changes {
            let _ = self.shared.changes.send(change);
        }
    }

    /// The book is whole after every call, even one that panicked in between.
    fn book(&self) -> MutexGuard<'_, Book> {
        self.shared.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A proxy as the tests of other modules need it: what it says is taken as from a stream.
#[cfg(test)]
pub(crate) mod testing {
    use super::{Ack, Counters, Proxy, Publisher, StreamKey};

    pub(crate) struct Peer {
        publisher: Publisher,
        key: StreamKey,
    }

    impl Peer {
        pub(crate) fn connect(publisher: &Publisher, proxy: Proxy, incarnation: u64) -> Self {
            let key = publisher.connect(proxy, incarnation).expect("not shut down");
            Self { publisher: publisher.clone(), key }
        }

        pub(crate) fn ack(&self, ack: Ack) {
            self.publisher.ack(&self.key, ack);
        }

        pub(crate) fn count(&self, counters: Counters) {
            self.publisher.count(&self.key, counters);
        }
    }
}

#[cfg(test)]
mod tests;
