//! Which operator replica's word counts, per route.
//!
//! Every replica sends the same routes, only not at the same moment. The newest `(uid, counter)` wins. Under one
//! counter, weight and revisions are fixed; the rest (endpoints, ports, timeouts) follows one replica, the *source*, until
//! it goes: two replicas that lag differently would otherwise flap. A route goes when no live replica that has
//! sent its full state has it: a replica that has just started, or lags, can delay a removal and never cause one. With
//! no replica left everything stays.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use proxy_api::v1beta1 as api;

/// One connection to one operator replica; higher is younger.
pub type StreamId = u64;

/// What every live replica said, and what is in force.
#[derive(Debug, Default)]
pub struct Merge {
    streams: BTreeMap<StreamId, Stream>,
    source: Option<StreamId>,
    held: BTreeMap<String, Arc<api::Route>>,
}

#[derive(Debug, Default)]
struct Stream {
    /// Has sent its full state.
    synced: bool,
    routes: BTreeMap<String, Arc<api::Route>>,
}

/// A difference to apply to the table, in this order.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// New or different.
    Upsert(Arc<api::Route>),
    /// Gone, by uid.
    Remove(String),
}

/// Why a route from a replica is not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fenced {
    /// The replica lags.
    #[error("counter {got} is older than {held}, which is in force")]
    Older {
        /// Received.
        got: u64,
        /// In force.
        held: u64,
    },
    /// Two different decisions under one counter.
    #[error("counter {counter} is in force with another weight or revision")]
    Different {
        /// Received and in force.
        counter: u64,
    },
}

impl Merge {
    /// Starts from what was in force before the process started.
    #[must_use]
    pub fn restored(routes: impl IntoIterator<Item = api::Route>) -> Self {
        let held = routes.into_iter().map(|route| (route.uid.clone(), Arc::new(route))).collect();
        Self { held, ..Self::default() }
    }

    /// What is in force.
    pub fn held(&self) -> impl Iterator<Item = &Arc<api::Route>> {
        self.held.values()
    }

    /// A replica is connected; its word counts from its snapshot on.
    pub fn connected(&mut self, id: StreamId) {
        self.streams.insert(id, Stream::default());
    }

    /// A replica's full state. Routes that it refuses to know are dropped if no other replica has them.
    pub fn snapshot(&mut self, id: StreamId, routes: Vec<api::Route>) -> Vec<Change> {
        let Some(stream) = self.streams.get_mut(&id) else { return Vec::new() };
        let routes = routes.into_iter().map(|route| (route.uid.clone(), Arc::new(route))).collect();
        let before = std::mem::replace(&mut stream.routes, routes);
        stream.synced = true;
        let mut uids: BTreeSet<String> = before.into_keys().chain(stream.routes.keys().cloned()).collect();
        if self.source.is_none() {
            self.source = Some(id);
        }
        uids.extend(self.held.keys().cloned());
        self.settle(uids)
    }

    /// One route of a replica is new or has changed.
    pub fn upsert(&mut self, id: StreamId, route: api::Route) -> Vec<Change> {
        let Some(stream) = self.streams.get_mut(&id) else { return Vec::new() };
        let uid = route.uid.clone();
        stream.routes.insert(uid.clone(), Arc::new(route));
        self.settle([uid])
    }

    /// A replica says that a route is gone.
    pub fn remove(&mut self, id: StreamId, uid: &str) -> Vec<Change> {
        let Some(stream) = self.streams.get_mut(&id) else { return Vec::new() };
        stream.routes.remove(uid);
        self.settle([uid.to_owned()])
    }

    /// A replica is gone; the oldest of the others is the source from now on.
    pub fn disconnected(&mut self, id: StreamId) -> Vec<Change> {
        self.streams.remove(&id);
        if self.source == Some(id) {
            self.source = self.streams.iter().find(|(_, stream)| stream.synced).map(|(id, _)| *id);
        }
        let uids: BTreeSet<String> = self.held.keys().cloned().collect();
        self.settle(uids)
    }

    /// What to answer to a replica that sent `route`.
    ///
    /// # Errors
    /// When it is not the route in force, and why.
    pub fn verdict(&self, route: &api::Route) -> Result<(), Fenced> {
        match self.held.get(&route.uid) {
            Some(held) => fence(held, route),
            None => Ok(()),
        }
    }

    fn settle(&mut self, uids: impl IntoIterator<Item = String>) -> Vec<Change> {
        let mut changes = Vec::new();
        for uid in uids {
            match (self.decide(&uid), self.held.get(&uid)) {
                (Some(route), held) if held != Some(&route) => {
                    self.held.insert(uid, Arc::clone(&route));
                    changes.push(Change::Upsert(route));
                }
                (None, Some(_)) => {
                    self.held.remove(&uid);
                    changes.push(Change::Remove(uid));
                }
                _ => {}
            }
        }
        // Removals first: a port that changes hands is free when its new owner comes.
        changes.sort_by_key(|change| matches!(change, Change::Upsert(_)));
        changes
    }

    fn decide(&self, uid: &str) -> Option<Arc<api::Route>> {
        let held = self.held.get(uid);
        let source = self.source.and_then(|id| self.streams.get(&id));
        let synced = || source.into_iter().chain(self.streams.values()).filter(|stream| stream.synced);
        if synced().next().is_none() {
            return held.cloned();
        }
        let offers = || synced().filter_map(|stream| stream.routes.get(uid));
        let newest = offers().map(|route| route.counter).max()?;
        let fits = |route: &&Arc<api::Route>| held.is_none_or(|held| fence(held, route).is_ok());
        // The source comes first in `offers`, so among equals its word counts.
        offers().filter(|route| route.counter == newest).find(fits).or(held).cloned()
    }
}

fn fence(held: &api::Route, offered: &api::Route) -> Result<(), Fenced> {
    let decision = |r: &api::Route| (r.weight, r.stable_revision.clone(), r.canary_revision.clone());
    if offered.counter < held.counter {
        return Err(Fenced::Older { got: offered.counter, held: held.counter });
    }
    if offered.counter == held.counter && decision(offered) != decision(held) {
        return Err(Fenced::Different { counter: held.counter });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mk(uid: &str, counter: u64, weight: u32, pod: &str) -> api::Route {
        let stable = vec![api::Endpoint { address: "10.0.0.1".into(), port: 80, pod: pod.into(), zone: String::new() }];
        let listeners = vec![api::Listener { port: 15_000, stable, ..Default::default() }];
        api::Route { uid: uid.into(), counter, weight, listeners, ..Default::default() }
    }

    fn upserted(changes: &[Change]) -> Vec<(&str, u64, &str)> {
        changes
            .iter()
            .map(|change| match change {
                Change::Upsert(r) => (r.uid.as_str(), r.counter, r.listeners[0].stable[0].pod.as_str()),
                Change::Remove(uid) => (uid.as_str(), 0, "removed"),
            })
            .collect()
    }

    #[test]
    fn the_newest_counter_wins_and_an_older_one_is_fenced() {
        let mut merge = Merge::default();
        merge.connected(1);
        merge.connected(2);
        merge.snapshot(1, vec![mk("a", 5, 10, "x")]);
        assert_eq!(upserted(&merge.snapshot(2, vec![mk("a", 6, 25, "y")])), [("a", 6, "y")]);
        assert_eq!(merge.upsert(1, mk("a", 5, 10, "z")), []);
        assert_eq!(merge.verdict(&mk("a", 5, 10, "z")), Err(Fenced::Older { got: 5, held: 6 }));
    }

    #[test]
    fn an_equal_counter_changes_endpoints_and_nothing_else() {
        let mut merge = Merge::default();
        merge.connected(1);
        merge.snapshot(1, vec![mk("a", 5, 10, "x")]);
        assert_eq!(upserted(&merge.upsert(1, mk("a", 5, 10, "y"))), [("a", 5, "y")]);
        assert_eq!(merge.upsert(1, mk("a", 5, 11, "z")), []);
        assert_eq!(merge.verdict(&mk("a", 5, 11, "z")), Err(Fenced::Different { counter: 5 }));
    }

    #[test]
    fn endpoints_follow_the_source_and_move_to_another_replica_when_it_goes() {
        let mut merge = Merge::default();
        merge.connected(1);
        merge.connected(2);
        merge.snapshot(1, vec![mk("a", 5, 10, "x")]);
        assert_eq!(merge.snapshot(2, vec![mk("a", 5, 10, "late")]), []);
        assert_eq!(upserted(&merge.disconnected(1)), [("a", 5, "late")]);
        assert_eq!(upserted(&merge.upsert(2, mk("a", 5, 10, "now"))), [("a", 5, "now")]);
    }

    #[test]
    fn a_lagging_replica_left_alone_cannot_turn_a_route_back() {
        let mut merge = Merge::default();
        merge.connected(1);
        merge.connected(2);
        merge.snapshot(1, vec![mk("a", 7, 0, "new")]);
        merge.snapshot(2, vec![mk("a", 6, 50, "old")]);
        assert_eq!(merge.disconnected(1), []);
        assert_eq!(merge.held().next().unwrap().counter, 7);
    }

    #[test]
    fn a_route_goes_only_when_no_synced_replica_has_it() {
        let mut merge = Merge::default();
        merge.connected(1);
        merge.connected(2);
        merge.snapshot(1, vec![mk("a", 5, 10, "x")]);
        assert_eq!(merge.snapshot(2, vec![]), [], "a replica that lags removes nothing");
        assert_eq!(upserted(&merge.remove(1, "a")), [("a", 0, "removed")]);
    }

    #[test]
    fn a_replica_that_has_not_sent_its_state_has_no_say() {
        let mut merge = Merge::restored([mk("a", 5, 10, "disk")]);
        merge.connected(1);
        assert_eq!(merge.held().count(), 1);
        assert_eq!(merge.disconnected(1), []);
        merge.connected(2);
        assert_eq!(upserted(&merge.snapshot(2, vec![])), [("a", 0, "removed")]);
    }

    #[test]
    fn with_every_replica_gone_everything_stays() {
        let mut merge = Merge::default();
        merge.connected(1);
        merge.snapshot(1, vec![mk("a", 5, 10, "x")]);
        assert_eq!(merge.disconnected(1), []);
        assert_eq!(merge.held().count(), 1);
    }

    #[test]
    fn a_port_that_changes_hands_is_freed_first() {
        let mut merge = Merge::default();
        merge.connected(1);
        merge.snapshot(1, vec![mk("b", 5, 10, "x")]);
        let changes = merge.snapshot(1, vec![mk("a", 1, 0, "y")]);
        assert_eq!(upserted(&changes), [("b", 0, "removed"), ("a", 1, "y")]);
    }
}
