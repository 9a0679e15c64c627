//! What every pass uses, and what is remembered of a Canary between passes. Decides nothing.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use crds::{Canary, canary::Severity};
use kube::{Api, Client, ResourceExt};

use crate::{
    admin::Metrics, authority::Authority, caches::Caches, evidence::Evidence, measure::Measurer, observe::World,
    pool::PoolSettings, publish::Publisher, report::Desk, table::Bindings, verdict::Verdicts,
};

/// What every pass uses.
pub struct Context {
    pub client: Client,
    pub caches: Caches,
    pub publisher: Publisher,
    pub measurer: Measurer,
    pub desk: Desk,
    pub metrics: Metrics,
    pub authority: Authority,
    pub pool: PoolSettings,
    pub bindings: Bindings,
    pub verdicts: Verdicts,
    memory: Mutex<HashMap<String, Memory>>,
}

/// What is remembered of a Canary between passes; losing it costs a repeated read, never a decision.
#[derive(Default)]
pub(super) struct Memory {
    /// The object as it was last written: the cache may lag behind our own write.
    pub(super) written: Option<Arc<Canary>>,
    pub(super) failures: u32,
    pub(super) trouble: Option<(Instant, Option<String>)>,
    pub(super) warned: BTreeSet<String>,
    pub(super) restored: Option<Instant>,
    pub(super) cleared: bool,
    pub(super) evidence: Evidence,
    pub(super) told_trouble: Option<String>,
    pub(super) told_verdict: Option<&'static str>,
}

impl Context {
    /// A context with nothing remembered.
    #[must_use]
    #[allow(clippy::too_many_arguments)]
    pub fn new(
        client: Client,
        caches: Caches,
        publisher: Publisher,
        measurer: Measurer,
        desk: Desk,
        metrics: Metrics,
        authority: Authority,
        pool: PoolSettings,
    ) -> Self {
        Self {
            client,
            caches,
            publisher,
            measurer,
            desk,
            metrics,
            authority,
            pool,
            bindings: Bindings::default(),
            verdicts: Verdicts::default(),
            memory: Mutex::default(),
        }
    }

    /// The API of the Canaries of one namespace.
    #[must_use]
    pub fn canaries(&self, namespace: &str) -> Api<Canary> {
        Api::namespaced(self.client.clone(), namespace)
    }

    /// Settings of a pool, with the CA's bundle of this moment.
    #[must_use]
    pub fn pool_settings(&self) -> PoolSettings {
        PoolSettings { ca_bundle: self.authority.ca_bundle(), ..self.pool.clone() }
    }

    /// Whether every live proxy of the namespace has acknowledged `counter`, and there is one.
    #[must_use]
    pub fn acknowledged(&self, world: &World, counter: u64) -> bool {
        let acks = self.publisher.acked(&world.canary.uid().unwrap_or_default());
        !world.live_proxies.is_empty()
            && world.live_proxies.iter().all(|proxy| {
                let name = proxy.name_any();
                acks.iter().any(|ack| ack.pod == name && ack.error.is_empty() && ack.counter >= counter)
            })
    }

    /// Writes an Event for each warning that was not written before.
    pub fn warn_once(&self, canary: &Canary, warnings: Vec<String>) {
        for warning in warnings {
            if self.remember(canary).warned.insert(warning.clone()) {
                self.desk.event(
                    canary,
                    Severity::Warn,
                    "Warning",
                    &warning.chars().take(40).collect::<String>(),
                    &warning,
                );
            }
        }
    }

    /// Time left of a drain that began when this was first asked.
    #[must_use]
    pub fn drain_left(&self, canary: &Canary, drain: Duration) -> Option<Duration> {
        let since = *self.remember(canary).restored.get_or_insert_with(Instant::now);
        drain.checked_sub(since.elapsed()).filter(|left| !left.is_zero())
    }

    /// Whether no pod of the Canary's was left when a removal last looked; it does not ask again then.
    #[must_use]
    pub fn is_cleared(&self, canary: &Canary) -> bool {
        self.remember(canary).cleared
    }

    /// No pod of the Canary's is left, and none comes any more.
    pub fn cleared(&self, canary: &Canary) {
        self.remember(canary).cleared = true;
    }

    /// Forgets a Canary that is gone.
    pub fn forget(&self, canary: &Canary) {
        self.lock().remove(&canary.uid().unwrap_or_default());
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Memory>> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn remember(&self, canary: &Canary) -> MemoryGuard<'_> {
        let uid = canary.uid().unwrap_or_default();
        let mut guard = self.lock();
        guard.entry(uid.clone()).or_default();
        MemoryGuard { guard, uid }
    }

    /// The newer of the cached object and the one that we wrote last.
    pub(super) fn newest(&self, cached: Arc<Canary>) -> Arc<Canary> {
        let mut memory = self.remember(&cached);
        match memory.written.clone() {
            Some(written) if version(&written) > version(&cached) => written,
            _ => {
                memory.written = None;
                cached
            }
        }
    }
}

/// Resource versions of one resource may be compared as numbers (KEP-5504, Kubernetes 1.35).
fn version(canary: &Canary) -> u64 {
    canary.resource_version().and_then(|version| version.parse().ok()).unwrap_or(0)
}

pub(super) struct MemoryGuard<'a> {
    guard: MutexGuard<'a, HashMap<String, Memory>>,
    uid: String,
}

impl std::ops::Deref for MemoryGuard<'_> {
    type Target = Memory;

    fn deref(&self) -> &Memory {
        self.guard.get(&self.uid).expect("entry is made with the guard")
    }
}

impl std::ops::DerefMut for MemoryGuard<'_> {
    fn deref_mut(&mut self) -> &mut Memory {
        self.guard.get_mut(&self.uid).expect("entry is made with the guard")
    }
}
