//! The proxy's configuration: from every operator replica, and from disk before the first of them answers.
//!
//! [`client`] speaks to one replica and knows nothing of the others; `routing::merge` decides whose word counts;
//! [`Updates`] brings the result into force, tells the replica, and writes it down. With no replica everything stays.

pub mod client;
pub mod disk;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use proxy_api::v1beta1 as api;
use routing::Table;
use routing::limits::{self, Limits};
use routing::merge::{Change, Merge, StreamId};
use routing::table::Refusal;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

pub use client::Operator;

use crate::process::Proxy;
use crate::telemetry::Chain;

/// How often the operator's name is looked up for replicas that came or went.
const RESOLVE_INTERVAL: Duration = Duration::from_secs(3);
/// Operator replicas that are spoken to; more addresses than this are not followed.
const MAX_REPLICAS: usize = 8;
/// Messages that may wait to be applied; streams wait when it is full.
const EVENTS: usize = 256;

/// What happens on the stream to one replica.
#[derive(Debug)]
#[allow(clippy::large_enum_variant, reason = "nearly all of them are messages, and at most EVENTS wait")]
pub enum Event {
    /// The stream is open; acknowledgements go to `acks`.
    Connected(StreamId, mpsc::Sender<api::Ack>),
    /// The replica said something.
    Message(StreamId, Box<api::from_operator::Message>),
    /// The stream is over.
    Disconnected(StreamId),
}

/// Follows every replica of the operator, for ever.
pub async fn follow(operator: Operator, updates: &mut Updates, proxy: &Proxy) {
    let (events, mut received) = mpsc::channel(EVENTS);
    // On its own: a name server that hangs must not delay what the replicas say.
    let _connecting = AbortOnDrop(tokio::spawn(connect(Arc::new(operator), events)));
    while let Some(event) = received.recv().await {
        // All that is waiting goes into force at once: a burst costs one swap.
        let mut batch = vec![event];
        while let Ok(event) = received.try_recv() {
            batch.push(event);
        }
        updates.take(batch, proxy).await;
    }
}

/// Keeps one task per address of the operator.
async fn connect(operator: Arc<Operator>, events: mpsc::Sender<Event>) {
    let mut replicas: HashMap<SocketAddr, AbortOnDrop> = HashMap::new();
    let mut resolve = tokio::time::interval(RESOLVE_INTERVAL);
    resolve.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        resolve.tick().await;
        replicas.retain(|_, task| !task.0.is_finished());
        for address in resolved(&operator.target).await {
            if replicas.len() < MAX_REPLICAS {
                replicas.entry(address).or_insert_with(|| {
                    AbortOnDrop(tokio::spawn(client::follow(Arc::clone(&operator), address, events.clone())))
                });
            }
        }
    }
}

struct AbortOnDrop(JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn resolved(target: &str) -> Vec<SocketAddr> {
    let looked_up = tokio::time::timeout(RESOLVE_INTERVAL, tokio::net::lookup_host(target)).await;
    match looked_up {
        Ok(Ok(addresses)) => addresses.collect(),
        Ok(Err(error)) => {
            tracing::debug!(%error, operator = target, "cannot resolve the operator");
            Vec::new()
        }
        Err(_) => Vec::new(),
    }
}

/// The configuration in force and where it comes from.
#[derive(Debug)]
pub struct Updates {
    merge: Merge,
    table: Table,
    /// Routes that could not be compiled, by uid, with the reason; tried again with every change.
    refused: HashMap<String, String>,
    acks: HashMap<StreamId, mpsc::Sender<api::Ack>>,
    /// Those in force, if an operator said any.
    limits: Option<api::Limits>,
    state_dir: Option<PathBuf>,
    /// A full state was seen: what is in force may be called a configuration.
    configured: bool,
}

impl Updates {
    /// Nothing yet but `table`, which is empty.
    #[must_use]
    pub fn new(state_dir: Option<PathBuf>, table: Table) -> Self {
        Self {
            merge: Merge::default(),
            table,
            refused: HashMap::new(),
            acks: HashMap::new(),
            limits: None,
            state_dir,
            configured: false,
        }
    }

    /// Brings back into force what was when the process before this one ended, if that was written down.
    pub async fn restore(&mut self, proxy: &Proxy) {
        let Some(directory) = &self.state_dir else { return };
        match disk::read(directory) {
            Ok(None) => {}
            Ok(Some(snapshot)) => {
                tracing::info!(routes = snapshot.routes.len(), "configuration restored from disk");
                self.merge = Merge::restored(snapshot.routes);
                self.configured = true;
                if let Some(limits) = snapshot.limits {
                    self.limit(limits, proxy);
                }
                let changes = self.merge.held().cloned().map(Change::Upsert).collect();
                self.apply(changes, proxy).await;
            }
            Err(error) => tracing::warn!(error = %Chain(&error), "configuration on disk is not used"),
        }
    }

    /// Takes what the replicas said into force and answers them.
    pub async fn take(&mut self, events: Vec<Event>, proxy: &Proxy) {
        let mut changes = Vec::new();
        let mut answers = Vec::new();
        let (mut first, mut limited) = (false, false);
        for event in events {
            match event {
                Event::Connected(id, acks) => {
                    self.acks.insert(id, acks);
                    self.merge.connected(id);
                }
                Event::Disconnected(id) => {
                    self.acks.remove(&id);
                    changes.extend(self.merge.disconnected(id));
                }
                Event::Message(id, message) => {
                    use api::from_operator::Message;
                    match *message {
                        Message::Snapshot(snapshot) => {
                            first |= !std::mem::replace(&mut self.configured, true);
                            if let Some(said) = snapshot.limits {
                                limited |= self.limit(said, proxy);
                            }
                            answers.extend(snapshot.routes.iter().map(|route| (id, route.clone())));
                            changes.extend(self.merge.snapshot(id, snapshot.routes));
                        }
                        Message::Upsert(route) => {
                            answers.push((id, route.clone()));
                            changes.extend(self.merge.upsert(id, route));
                        }
                        Message::Limits(said) => limited |= self.limit(said, proxy),
                        Message::Remove(removal) => changes.extend(self.merge.remove(id, &removal.uid)),
                    }
                }
            }
        }
        let applied = first || !changes.is_empty();
        if applied {
            self.apply(changes, proxy).await;
        }
        if applied || limited {
            self.write_down().await;
        }
        for (id, route) in answers {
            self.answer(id, &route);
        }
    }

    /// Brings limits into force, unless what is holds already or is newer; whether it did.
    fn limit(&mut self, said: api::Limits, proxy: &Proxy) -> bool {
        if self.limits.as_ref() == Some(&said) || !limits::supersedes(&said, self.limits.as_ref()) {
            return false;
        }
        let shared = proxy.shared();
        let in_force = shared.registry.limits();
        match Limits::read(&said, in_force.default()) {
            Ok(limits) => {
                in_force.set(limits);
                tracing::info!(?limits, "limits are in force");
                self.limits = Some(said);
                true
            }
            Err(error) => {
                tracing::warn!(%error, "limits are not taken, those before stay");
                false
            }
        }
    }

    /// Compiles the changes and returns when every worker serves by them.
    async fn apply(&mut self, changes: Vec<Change>, proxy: &Proxy) {
        let mut pending: Vec<Arc<api::Route>> = Vec::new();
        for change in changes {
            match change {
                Change::Remove(uid) => {
                    self.refused.remove(&uid);
                    self.table = self.table.without(&uid);
                }
                Change::Upsert(route) => pending.push(route),
            }
        }
        // A port that was taken may have come free.
        let again = self.merge.held().filter(|route| self.refused.contains_key(&route.uid)).cloned();
        pending.extend(again.collect::<Vec<_>>());
        for route in pending {
            match self.table.upsert(&route) {
                Ok(table) => {
                    self.table = table;
                    self.refused.remove(&route.uid);
                }
                Err(error) => {
                    // The operator is told all the same, and holds the release.
                    if let (Refusal::Rules(_), Ok(table)) = (&error, self.table.upsert_with_old_rules(&route)) {
                        self.table = table;
                    }
                    let error = Chain(&error);
                    tracing::warn!(canary = route.canary, counter = route.counter, %error, "route refused");
                    self.refused.insert(route.uid.clone(), error.to_string());
                }
            }
        }
        let errors = proxy.apply(self.table.clone()).await;
        for (port, error) in errors {
            tracing::error!(port, error, "port is not served");
            if let Some(port) = self.table.ports().get(&port) {
                let uid = port.route.uid.clone();
                self.refused.insert(uid, format!("cannot listen on port {}: {error}", port.number));
            }
        }
    }

    fn answer(&mut self, id: StreamId, route: &api::Route) {
        let error = match (self.merge.verdict(route), self.refused.get(&route.uid)) {
            (Err(fenced), _) => fenced.to_string(),
            (Ok(()), Some(refused)) => refused.clone(),
            (Ok(()), None) => String::new(),
        };
        let ack = api::Ack { uid: route.uid.clone(), counter: route.counter, error };
        if let Some(acks) = self.acks.get(&id)
            && acks.try_send(ack).is_err()
        {
            // It is not reading: dropping the sender ends the stream, and the next one starts with the full state.
            self.acks.remove(&id);
        }
    }

    async fn write_down(&self) {
        let Some(directory) = self.state_dir.clone() else { return };
        let routes = self.merge.held().map(|route| route.as_ref().clone()).collect();
        let snapshot = api::Snapshot { routes, limits: self.limits.clone() };
        let written = tokio::task::spawn_blocking(move || disk::write(&directory, &snapshot)).await;
        if let Ok(Err(error)) = written {
            tracing::warn!(error = %Chain(&error), "configuration is not on disk");
        }
    }
}
