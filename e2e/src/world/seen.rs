//! What there is of a [`Shop`]: its objects and its pods, now or from now on. Changes nothing.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use crds::Canary;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::{Event, Pod, Service};
use kube::Api;
use kube::api::ListParams;

use super::{SOON, Shop};
use crate::watching::{PodWatch, Timeline};

impl Shop {
    /// Canaries of the namespace.
    #[must_use]
    pub fn canaries(&self) -> Api<Canary> {
        Api::namespaced(self.world.client.clone(), &self.namespace)
    }

    /// Deployments of the namespace.
    #[must_use]
    pub fn deployments(&self) -> Api<Deployment> {
        Api::namespaced(self.world.client.clone(), &self.namespace)
    }

    /// Pods of the namespace.
    #[must_use]
    pub fn pods(&self) -> Api<Pod> {
        Api::namespaced(self.world.client.clone(), &self.namespace)
    }

    /// The Canary as it is now.
    ///
    /// # Errors
    /// When it cannot be read.
    pub async fn canary(&self) -> Result<Canary> {
        self.canaries().get(&self.name).await.with_context(|| format!("cannot read Canary {}", self.name))
    }

    /// The Deployment as it is now.
    ///
    /// # Errors
    /// When it cannot be read.
    pub async fn deployment(&self) -> Result<Deployment> {
        self.deployments().get(&self.name).await.with_context(|| format!("cannot read Deployment {}", self.name))
    }

    /// Whether the Deployment is held.
    ///
    /// # Errors
    /// When it cannot be read.
    pub async fn is_paused(&self) -> Result<bool> {
        Ok(self.deployment().await?.spec.and_then(|spec| spec.paused).unwrap_or(false))
    }

    pub(super) async fn service(&self) -> Result<Service> {
        let services: Api<Service> = Api::namespaced(self.world.client.clone(), &self.namespace);
        Ok(services.get(&self.name).await?)
    }

    /// Address of a port of the Service.
    ///
    /// # Errors
    /// When the Service cannot be read or has no address yet.
    pub async fn address(&self, port: u16) -> Result<SocketAddr> {
        let address =
            self.service().await?.spec.and_then(|spec| spec.cluster_ip).context("the Service has no address")?;
        Ok(SocketAddr::new(address.parse().context("the Service has no address")?, port))
    }

    /// Records what the Canary goes through from now on.
    #[must_use]
    pub fn timeline(&self) -> Timeline {
        Timeline::start(self.canaries(), &self.name)
    }

    /// Records the application's pods, not those of the proxies; returns when those that run are known.
    ///
    /// # Errors
    /// When they are not seen in time.
    pub async fn watch_pods(&self) -> Result<PodWatch> {
        let watch = PodWatch::start(self.pods(), &format!("app={}", self.name));
        let there = self.app_pods().await?.len();
        let mut tick = tokio::time::interval(Duration::from_millis(20));
        let deadline = Instant::now() + SOON;
        while watch.live().len() < there {
            ensure!(Instant::now() < deadline, "the pods are not seen");
            tick.tick().await;
        }
        Ok(watch)
    }

    /// The application's pods that are not about to go.
    ///
    /// # Errors
    /// When they cannot be listed.
    pub async fn app_pods(&self) -> Result<Vec<Pod>> {
        let pods = self.pods().list(&ListParams::default().labels(&format!("app={}", self.name))).await?;
        Ok(pods.items.into_iter().filter(|pod| pod.metadata.deletion_timestamp.is_none()).collect())
    }

    /// The proxies' pods.
    ///
    /// # Errors
    /// When they cannot be listed.
    pub async fn proxies(&self) -> Result<Vec<Pod>> {
        let labels = ListParams::default().labels(crds::names::POOL_LABEL);
        Ok(self.pods().list(&labels).await?.items)
    }

    /// Replicas by pod-template hash, for the application.
    ///
    /// # Errors
    /// When they cannot be listed.
    pub async fn replica_sets(&self) -> Result<Vec<ReplicaSet>> {
        let sets: Api<ReplicaSet> = Api::namespaced(self.world.client.clone(), &self.namespace);
        Ok(sets.list(&ListParams::default().labels(&format!("app={}", self.name))).await?.items)
    }

    /// Reasons and notes of the Events about the Canary.
    ///
    /// # Errors
    /// When they cannot be listed.
    pub async fn events(&self) -> Result<Vec<(String, String)>> {
        let events: Api<Event> = Api::namespaced(self.world.client.clone(), &self.namespace);
        let about = ListParams::default().fields("involvedObject.kind=Canary");
        let events = events.list(&about).await?.items;
        Ok(events.into_iter().map(|e| (e.reason.unwrap_or_default(), e.message.unwrap_or_default())).collect())
    }
}
