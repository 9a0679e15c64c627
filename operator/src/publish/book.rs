//! Routes, streams and acknowledgements, by namespace; what each stream is owed next is in `stream`. Pure: time comes in as
//! an argument.

mod stream;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use proxy_api::v1beta1::{Ack, Counters, Limits, Route};
use rollout::verdict::Report;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use self::stream::Stream;
pub(super) use self::stream::{Next, StreamKey};
use super::counters::Inbox;
use super::{Change, ProxyAck, SetOutcome};
use crate::identity::Proxy;

/// Everything that the publisher holds.
#[derive(Default)]
pub(super) struct Book {
    namespaces: BTreeMap<String, Namespace>,
    /// Namespace of each held route.
    homes: BTreeMap<String, String>,
    counters: Inbox,
    phase: Phase,
    next_id: u64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Phase {
    /// The routes are not all known: a Snapshot now would remove some.
    #[default]
    Cold,
    Synced,
    /// Streams end, and none begins.
    Closed,
}

#[derive(Default)]
struct Namespace {
    routes: BTreeMap<String, Arc<Route>>,
    limits: Option<Limits>,
    /// By pod: a pod has one stream, its newest.
    streams: BTreeMap<String, Stream>,
    /// Counters on their way: uid → counter, when it was set.
    awaited: BTreeMap<String, (u64, Instant)>,
}

impl Book {
    /// Holds `route` from now on.
    pub(super) fn set(&mut self, route: Route, now: Instant) -> SetOutcome {
        let uid = route.uid.clone();
        let held = self.get(&uid);
        let is_news = match &held {
            Some(held) if **held == route => return SetOutcome::Unchanged,
            Some(held) if held.counter > route.counter => return SetOutcome::Older,
            Some(held) => held.counter < route.counter,
            None => true,
        };
        if held.is_some_and(|held| held.namespace != route.namespace) {
            // A uid does not move; should it, the old namespace must not keep the route.
            self.remove(&uid);
        }
        let route = Arc::new(route);
        self.homes.insert(uid.clone(), route.namespace.clone());
        let is_synced = self.phase == Phase::Synced;
        let namespace = self.namespaces.entry(route.namespace.clone()).or_default();
        if is_news && is_synced && !namespace.streams.is_empty() {
            namespace.awaited.insert(uid.clone(), (route.counter, now));
        }
        namespace.routes.insert(uid.clone(), route);
        namespace.owe(&uid, is_synced);
        SetOutcome::Set
    }

    /// Limits of the proxies of a namespace, which has routes, from now on.
    pub(super) fn limit(&mut self, namespace: &str, limits: &Limits) {
        let is_synced = self.phase == Phase::Synced;
        let Some(namespace) = self.namespaces.get_mut(namespace) else { return };
        if namespace.limits.as_ref() == Some(limits) {
            return;
        }
        namespace.limits = Some(limits.clone());
        for stream in namespace.streams.values_mut() {
            stream.is_owed_limits = true;
            if is_synced {
                stream.wake.notify_one();
            }
        }
    }

    /// Holds the route no longer. False: there was none.
    pub(super) fn remove(&mut self, uid: &str) -> bool {
        let Some(home) = self.homes.remove(uid) else { return false };
        let is_synced = self.phase == Phase::Synced;
        if let Some(namespace) = self.namespaces.get_mut(&home) {
            namespace.routes.remove(uid);
            namespace.awaited.remove(uid);
            namespace.owe(uid, is_synced);
        }
        self.prune(&home);
        true
    }

    pub(super) fn get(&self, uid: &str) -> Option<Arc<Route>> {
        self.home(uid)?.routes.get(uid).cloned()
    }

    pub(super) fn routes(&self) -> impl Iterator<Item = &Arc<Route>> {
        self.namespaces.values().flat_map(|namespace| namespace.routes.values())
    }

    /// The routes are complete: streams get what they are owed.
    pub(super) fn sync(&mut self) {
        if self.phase == Phase::Cold {
            self.phase = Phase::Synced;
            self.streams().for_each(|stream| stream.wake.notify_one());
        }
    }

    /// Ends every stream.
    pub(super) fn close(&mut self) {
        self.phase = Phase::Closed;
        self.streams().for_each(|stream| stream.ended.cancel());
    }

    fn streams(&self) -> impl Iterator<Item = &Stream> {
        self.namespaces.values().flat_map(|namespace| namespace.streams.values())
    }

    /// Registers a stream in the place of an older one of the same pod. None: the operator stops.
    pub(super) fn connect(&mut self, proxy: Proxy, incarnation: u64) -> Option<StreamKey> {
        if self.phase == Phase::Closed {
            return None;
        }
        self.next_id += 1;
        let key = StreamKey { proxy, id: self.next_id, wake: Arc::default(), ended: CancellationToken::new() };
        let namespace = self.namespaces.entry(key.proxy.namespace.clone()).or_default();
        if let Some(old) = namespace.streams.insert(key.proxy.pod.clone(), Stream::new(&key, incarnation)) {
            self.counters.gone(&old.source);
            old.ended.cancel();
        }
        Some(key)
    }

    /// The stream has ended. False: it was replaced before.
    pub(super) fn disconnect(&mut self, key: &StreamKey) -> bool {
        let Some(namespace) = self.namespaces.get_mut(&key.proxy.namespace) else { return false };
        if namespace.streams.get(&key.proxy.pod).is_none_or(|stream| stream.id != key.id) {
            return false;
        }
        if let Some(stream) = namespace.streams.remove(&key.proxy.pod) {
            self.counters.gone(&stream.source);
        }
        if namespace.streams.is_empty() {
            // Nobody is left to acknowledge: there is nothing to measure.
            namespace.awaited.clear();
        }
        self.prune(&key.proxy.namespace);
        true
    }

    /// What the stream gets now.
    pub(super) fn take(&mut self, key: &StreamKey) -> Next {
        let phase = self.phase;
        let limits = self.namespaces.get(&key.proxy.namespace).and_then(|namespace| namespace.limits.clone());
        let Some((stream, routes)) = self.stream(key) else { return Next::End };
        match phase {
            Phase::Closed => Next::End,
            Phase::Cold => Next::Nothing,
            Phase::Synced => stream.next(routes, limits),
        }
    }

    /// Notes an acknowledgement. The change is None when it tells nothing new, or of a route that is not held.
    pub(super) fn ack(&mut self, key: &StreamKey, ack: Ack) -> Option<Change> {
        let pod = key.proxy.pod.clone();
        let tick = self.counters.tick();
        let (stream, routes) = self.stream(key)?;
        let route = routes.get(&ack.uid)?;
        let change = Change { namespace: route.namespace.clone(), canary: route.canary.clone() };
        let ack_of_pod = ProxyAck { pod, counter: ack.counter, error: ack.error };
        let is_news = stream.acks.get(&ack.uid) != Some(&ack_of_pod);
        if is_news && ack_of_pod.error.is_empty() {
            stream.acked.insert(ack.uid.clone(), tick);
        }
        stream.acks.insert(ack.uid, ack_of_pod);
        is_news.then_some(change)
    }

    /// Times from `set` to the last acknowledgement, for the counters of `namespace` that are now in force everywhere.
    pub(super) fn settle(&mut self, namespace: &str, now: Instant) -> Vec<Duration> {
        let Some(namespace) = self.namespaces.get_mut(namespace) else { return Vec::new() };
        let streams = &namespace.streams;
        let in_force = |uid: &str, counter: u64| streams.values().all(|stream| stream.has(uid, counter));
        namespace
            .awaited
            .extract_if(.., |uid, (counter, _)| in_force(uid, *counter))
            .map(|(_, (_, since))| now.saturating_duration_since(since))
            .collect()
    }

    /// Takes counters of the routes and revisions that this proxy may speak of.
    pub(super) fn count(&mut self, key: &StreamKey, message: Counters) {
        let Some((stream, routes)) = stream_of(&mut self.namespaces, key) else { return };
        if message.incarnation != stream.source.incarnation {
            return;
        }
        self.counters.record(&stream.source, message, |uid| routes.contains_key(uid));
    }

    /// What the proxies counted for `uid` since `after`, and what to pass as `after` next time.
    pub(super) fn reports(&self, uid: &str, after: u64) -> (Vec<Report>, u64) {
        let streams = self.home(uid).into_iter().flat_map(|namespace| namespace.streams.values());
        let reports = streams.filter_map(|stream| {
            let counter = stream.acks.get(uid).filter(|ack| ack.error.is_empty()).map_or(0, |ack| ack.counter);
            let since = stream.acked.get(uid).copied().unwrap_or(0);
            self.counters.report(&stream.source, uid, after, (counter, since))
        });
        (reports.collect(), self.counters.now())
    }

    /// Acknowledgements of `uid` by the connected proxies, by pod.
    pub(super) fn acked(&self, uid: &str) -> Vec<ProxyAck> {
        let streams = self.home(uid).into_iter().flat_map(|namespace| namespace.streams.values());
        streams.filter_map(|stream| stream.acks.get(uid).cloned()).collect()
    }

    /// At least one proxy is connected, and each has `counter` of `uid` in force.
    pub(super) fn in_force(&self, uid: &str, counter: u64) -> bool {
        let streams = self.home(uid).map(|namespace| &namespace.streams);
        streams.is_some_and(|all| !all.is_empty() && all.values().all(|stream| stream.has(uid, counter)))
    }

    pub(super) fn connected(&self, namespace: &str) -> BTreeSet<String> {
        let streams = self.namespaces.get(namespace).map(|namespace| namespace.streams.keys());
        streams.into_iter().flatten().cloned().collect()
    }

    /// One change for each route of `namespace`.
    pub(super) fn changes_in(&self, namespace: &str) -> Vec<Change> {
        let routes = self.namespaces.get(namespace).into_iter().flat_map(|namespace| namespace.routes.values());
        routes.map(|route| Change::of(route)).collect()
    }

    fn home(&self, uid: &str) -> Option<&Namespace> {
        self.namespaces.get(self.homes.get(uid)?)
    }

    fn stream(&mut self, key: &StreamKey) -> Option<(&mut Stream, &BTreeMap<String, Arc<Route>>)> {
        stream_of(&mut self.namespaces, key)
    }

    /// Drops the entry of a namespace with neither routes nor proxies.
    fn prune(&mut self, namespace: &str) {
        let is_empty = |held: &Namespace| held.routes.is_empty() && held.streams.is_empty();
        if self.namespaces.get(namespace).is_some_and(is_empty) {
            self.namespaces.remove(namespace);
        }
    }
}

/// The stream of `key` if it has not been replaced, and the routes of its namespace.
fn stream_of<'a>(
    namespaces: &'a mut BTreeMap<String, Namespace>,
    key: &StreamKey,
) -> Option<(&'a mut Stream, &'a BTreeMap<String, Arc<Route>>)> {
    let Namespace { routes, streams, .. } = namespaces.get_mut(&key.proxy.namespace)?;
    let stream = streams.get_mut(&key.proxy.pod).filter(|stream| stream.id == key.id)?;
    Some((stream, routes))
}

impl Namespace {
    /// Every stream is owed the newest of `uid`, be it a route or its removal.
    fn owe(&mut self, uid: &str, is_synced: bool) {
        let is_held = self.routes.contains_key(uid);
        for stream in self.streams.values_mut() {
            if !is_held {
                stream.acks.remove(uid);
                stream.acked.remove(uid);
            }
            stream.owe(uid);
            if is_synced {
                stream.wake.notify_one();
            }
        }
    }
}
