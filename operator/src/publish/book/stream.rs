//! One stream: what it is owed, and what its proxy has acknowledged. Pure.
//!
//! It is owed *names* of routes, not messages: whatever it takes is built from the newest state, so a slow proxy gets less,
//! never something old, and the debt is bounded by [`DEBT_LIMIT`], past which it is one Snapshot.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use proxy_api::v1beta1::from_operator::Message;
use proxy_api::v1beta1::{FromOperator, Limits, Removal, Route, Snapshot};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::identity::Proxy;
use crate::publish::ProxyAck;
use crate::publish::counters::Source;

/// Most changed routes that a stream is owed one by one. A whole namespace is seldom larger, and a Snapshot of it is then
/// cheaper than the changes.
const DEBT_LIMIT: usize = 64;

/// One proxy that is connected.
pub(super) struct Stream {
    pub(super) id: u64,
    pub(super) source: Source,
    owed: Owed,
    pub(super) is_owed_limits: bool,
    pub(super) acks: BTreeMap<String, ProxyAck>,
    /// When each of `acks` came, in the order of `Inbox`.
    pub(super) acked: BTreeMap<String, u64>,
    pub(super) wake: Arc<Notify>,
    pub(super) ended: CancellationToken,
}

enum Owed {
    Snapshot,
    Routes(BTreeSet<String>),
}

/// Names one stream from its registration to its end.
#[derive(Clone)]
pub(in crate::publish) struct StreamKey {
    pub(in crate::publish) proxy: Proxy,
    pub(in crate::publish) id: u64,
    /// Signalled when [`Book::take`](super::Book::take) may have something.
    pub(in crate::publish) wake: Arc<Notify>,
    /// Cancelled when the stream was replaced or the operator stops.
    pub(in crate::publish) ended: CancellationToken,
}

/// What a stream gets.
pub(in crate::publish) enum Next {
    Message(Box<FromOperator>),
    /// Ask again after the wake.
    Nothing,
    /// The stream ends: it was replaced, or the operator stops.
    End,
}

impl Stream {
    pub(super) fn new(key: &StreamKey, incarnation: u64) -> Self {
        let StreamKey { proxy, id, wake, ended } = key.clone();
        let source = Source { proxy: format!("{}/{}", proxy.namespace, proxy.pod).into(), incarnation };
        let (acks, acked) = (BTreeMap::new(), BTreeMap::new());
        Self { id, source, owed: Owed::Snapshot, is_owed_limits: false, acks, acked, wake, ended }
    }

    /// What it gets now; `routes` and `limits` are those of its namespace.
    pub(super) fn next(&mut self, routes: &BTreeMap<String, Arc<Route>>, limits: Option<Limits>) -> Next {
        match (&mut self.owed, limits) {
            (Owed::Snapshot, limits) => {
                self.owed = Owed::Routes(BTreeSet::new());
                self.is_owed_limits = false;
                let routes = routes.values().map(|route| Route::clone(route)).collect();
                message(Message::Snapshot(Snapshot { routes, limits }))
            }
            (Owed::Routes(_), Some(limits)) if self.is_owed_limits => {
                self.is_owed_limits = false;
                message(Message::Limits(limits))
            }
            (Owed::Routes(uids), _) => match uids.pop_first() {
                None => Next::Nothing,
                Some(uid) => match routes.get(&uid) {
                    Some(route) => message(Message::Upsert(Route::clone(route))),
                    None => message(Message::Remove(Removal { uid })),
                },
            },
        }
    }

    /// It is owed the newest of `uid`.
    pub(super) fn owe(&mut self, uid: &str) {
        if let Owed::Routes(uids) = &mut self.owed {
            uids.insert(uid.to_owned());
            if uids.len() > DEBT_LIMIT {
                self.owed = Owed::Snapshot;
            }
        }
    }

    /// Whether its proxy has `counter` of `uid` in force, or a later one.
    pub(super) fn has(&self, uid: &str, counter: u64) -> bool {
        self.acks.get(uid).is_some_and(|ack| ack.counter >= counter && ack.error.is_empty())
    }
}

fn message(message: Message) -> Next {
    Next::Message(Box::new(FromOperator { message: Some(message) }))
}
