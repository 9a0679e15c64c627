//! What every pass uses. Decides nothing.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use crds::{Canary, canary::Severity};
use kube::{Api, Client, ResourceExt};

use super::memory::{Memories, MemoryGuard};
use crate::{
    admin::Metrics, authority::Authority, caches::Caches, measure::Measurer, observe::World, pool::PoolSettings,
    publish::Publisher, report::Desk, table::Bindings, verdict::Verdicts,
};

/// How often what is remembered of Canaries that are gone is forgotten.
const FORGET_EVERY: Duration = Duration::from_secs(60);

/// What every pass uses.
pub struct Context {
    /// For writes, each through `api::call`.
    pub client: Client,
    /// For reads.
    pub caches: Caches,
    /// Routes to the proxies, and what they acknowledge.
    pub publisher: Publisher,
    /// Prometheus.
    pub measurer: Measurer,
    /// Events and alerts.
    pub desk: Desk,
    /// The operator's own.
    pub metrics: Metrics,
    /// The CA, whose bundle the pools get.
    pub authority: Authority,
    /// Without the bundle: see [`Context::pool_settings`].
    pub pool: PoolSettings,
    /// What was written of the bindings, as the caches lag.
    pub bindings: Bindings,
    /// The engines that compare canary and stable.
    pub verdicts: Verdicts,
    memories: Memories,
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
            memories: Memories::default(),
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

    /// Writes an Event for each of `warnings`, everything that is warned of now, that was not among the last ones.
    pub fn warn_once(&self, canary: &Canary, warnings: Vec<String>) {
        let news = self.remember(canary).warn(warnings);
        for warning in news {
            let action: String = warning.chars().take(40).collect();
            self.desk.event(canary, Severity::Warn, "Warning", &action, &warning);
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

    /// Forgets a Canary that is let go.
    pub fn forget(&self, canary: &Canary) {
        self.memories.forget(canary);
    }

    /// Forgets the Canaries that are gone, now and then, for ever.
    pub(super) async fn forget_the_gone(&self) {
        loop {
            tokio::time::sleep(FORGET_EVERY).await;
            self.memories.keep(&self.caches.canaries.state());
        }
    }

    pub(super) fn remember(&self, canary: &Canary) -> MemoryGuard<'_> {
        self.memories.of(canary)
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
