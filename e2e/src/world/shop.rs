//! A namespace with one application as `docs/gitops/example` has it: people act on it through the real kubectl, and wait
//! for what comes of it. What there is of it is looked up in [`seen`](super::seen).

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use crds::{Canary, Phase};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Namespace;
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, ResourceExt as _};
use serde_json::json;

use super::{RELEASE, SOON, STORY_LABEL, World, phase_of, weight_of};
use crate::kubectl::{self, Side};
use crate::load::{self, Load};
use crate::manifests::Manifests;
use crate::visitor::Visitor;
use crate::watching;

/// One application in a namespace of its own.
pub struct Shop {
    /// The world it is in.
    pub world: Arc<World>,
    /// Its namespace.
    pub namespace: String,
    /// Name of Deployment, Service and Canary.
    pub name: String,
    git: Mutex<Manifests>,
}

impl Shop {
    /// Opens a namespace with the application of `manifests`, without its Canary, and waits until it is available.
    ///
    /// # Errors
    /// When something is refused, or the pods are not available in time.
    pub async fn bare(world: Arc<World>, story: &str, manifests: Manifests) -> Result<Self> {
        let namespaces: Api<Namespace> = Api::all(world.client.clone());
        let label: String = story.chars().take(60).collect::<String>().trim_end_matches('_').to_owned();
        let namespace = serde_json::from_value(json!({
            "metadata": { "generateName": "story-", "labels": { STORY_LABEL: label } }
        }))?;
        let namespace = namespaces.create(&PostParams::default(), &namespace).await?.name_any();
        let name = manifests.name().to_owned();
        let shop = Self { world, namespace, name, git: Mutex::new(manifests.clone()) };
        kubectl::apply(&shop.namespace, &manifests.without_canary(), Side::Client).await?;
        shop.until_available().await?;
        shop.until_reachable().await?;
        Ok(shop)
    }

    /// As [`Shop::bare`], then applies the Canary and waits until it is set up.
    ///
    /// # Errors
    /// As [`Shop::bare`].
    pub async fn open(world: Arc<World>, story: &str, manifests: Manifests) -> Result<Self> {
        let shop = Self::bare(world, story, manifests).await?;
        shop.adopt().await?;
        Ok(shop)
    }

    /// Applies the Canary and waits until it is set up.
    ///
    /// # Errors
    /// When it is refused or not set up in time.
    pub async fn adopt(&self) -> Result<Canary> {
        kubectl::apply(&self.namespace, &self.git().canary.to_string(), Side::Client).await?;
        self.until_phase(Phase::Initialized).await
    }

    /// What Git holds now.
    #[must_use]
    pub fn git(&self) -> Manifests {
        self.git.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Changes what Git holds and applies Deployment, Service and the rest but the Canary, as a pipeline does.
    /// Returns when the API server had taken it.
    ///
    /// # Errors
    /// When kubectl fails.
    pub async fn commit(&self, change: impl FnOnce(Manifests) -> Manifests) -> Result<Instant> {
        let next = change(self.git());
        *self.git.lock().unwrap_or_else(PoisonError::into_inner) = next.clone();
        kubectl::apply(&self.namespace, &next.without_canary(), Side::Client).await?;
        Ok(Instant::now())
    }

    /// As [`Shop::commit`], with the kind of apply that the caller chooses.
    ///
    /// # Errors
    /// When kubectl fails.
    pub async fn commit_as(&self, side: Side, change: impl FnOnce(Manifests) -> Manifests) -> Result<()> {
        let next = change(self.git());
        *self.git.lock().unwrap_or_else(PoisonError::into_inner) = next.clone();
        kubectl::apply(&self.namespace, &next.without_canary(), side).await.map(drop)
    }

    /// As [`Shop::commit`], the Canary alone.
    ///
    /// # Errors
    /// When kubectl fails.
    pub async fn commit_canary(&self, change: impl FnOnce(Manifests) -> Manifests) -> Result<()> {
        let next = change(self.git());
        *self.git.lock().unwrap_or_else(PoisonError::into_inner) = next.clone();
        kubectl::apply(&self.namespace, &next.canary.to_string(), Side::Client).await.map(drop)
    }

    /// Waits for a state of the Canary.
    ///
    /// # Errors
    /// When it does not come in `limit`; the message holds the last status.
    pub async fn until(&self, what: &str, limit: Duration, wanted: impl Fn(&Canary) -> bool) -> Result<Canary> {
        watching::until(self.canaries(), &self.name, what, limit, wanted, shown).await
    }

    /// Waits for a phase, as long as a release may take.
    ///
    /// # Errors
    /// As [`Shop::until`].
    pub async fn until_phase(&self, phase: Phase) -> Result<Canary> {
        self.until(&format!("phase {phase:?}"), RELEASE, |canary| phase_of(canary) == phase).await
    }

    /// Waits until the release of the last commit takes at least `weight` percent of the traffic.
    ///
    /// # Errors
    /// As [`Shop::until`].
    pub async fn until_weight(&self, weight: i32) -> Result<Canary> {
        self.until(&format!("weight {weight}"), RELEASE, |canary| weight_of(canary) >= weight).await
    }

    /// Waits until every replica of the Deployment is available and up to date.
    ///
    /// # Errors
    /// When that takes more than [`SOON`].
    pub async fn until_available(&self) -> Result<Deployment> {
        let is_available = |deployment: &Deployment| {
            let wanted = deployment.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1);
            deployment.status.as_ref().is_some_and(|status| {
                status.observed_generation >= deployment.metadata.generation
                    && status.available_replicas.unwrap_or(0) == wanted
                    && status.updated_replicas.unwrap_or(0) == wanted
                    && status.replicas.unwrap_or(0) == wanted
            })
        };
        let shown = |deployment: &Deployment| format!("{:?}", deployment.status);
        watching::until(self.deployments(), &self.name, "all replicas available", SOON, is_available, shown).await
    }

    /// Waits until kube-proxy lets connections to the Service through: it writes its rules once a second, and refuses them
    /// until then although the pods are ready.
    ///
    /// # Errors
    /// When that takes more than [`SOON`].
    async fn until_reachable(&self) -> Result<()> {
        let address = self.address(80).await?;
        let mut tick = tokio::time::interval(Duration::from_millis(20));
        let deadline = Instant::now() + SOON;
        while let Err(error) = tokio::net::TcpStream::connect(address).await {
            ensure!(Instant::now() < deadline, "the Service is not reachable: {error}");
            tick.tick().await;
        }
        Ok(())
    }

    /// Sets an annotation of the Canary; `None` removes it.
    ///
    /// # Errors
    /// When the API server refuses it.
    pub async fn annotate(&self, key: &str, value: Option<&str>) -> Result<()> {
        let patch = json!({ "metadata": { "annotations": { key: value } } });
        self.canaries().patch(&self.name, &PatchParams::default(), &Patch::Merge(&patch)).await?;
        Ok(())
    }

    /// Scales the Deployment through its scale subresource, as an HPA does.
    ///
    /// # Errors
    /// When the API server refuses it.
    pub async fn scale(&self, replicas: i32) -> Result<()> {
        let patch = json!({ "spec": { "replicas": replicas } });
        self.deployments().patch_scale(&self.name, &PatchParams::default(), &Patch::Merge(&patch)).await?;
        Ok(())
    }

    /// Puts load on the Service. Its connections live for a minute and more, and stay where kube-proxy led them at first:
    /// where the Service is led to the proxies, kube-proxy must have followed.
    ///
    /// # Errors
    /// As [`Shop::address`] and [`Visitor::of`].
    pub async fn load(&self, rps: u32) -> Result<Load> {
        let selector = self.service().await?.spec.and_then(|spec| spec.selector).unwrap_or_default();
        if selector.contains_key(crds::names::POOL_LABEL) {
            Visitor::of(self).await?;
        }
        let host = format!("{}.{}.svc", self.name, self.namespace);
        Ok(Load::start(load::Settings::new(self.address(80).await?, &host, rps)))
    }

    /// Removes the Canary and waits until it is gone.
    ///
    /// # Errors
    /// When it is still there after [`SOON`].
    pub async fn remove_canary(&self) -> Result<()> {
        kubectl::kubectl(&["delete", "canary", &self.name, "--namespace", &self.namespace, "--wait=false"]).await?;
        watching::gone(self.canaries(), &self.name, SOON).await
    }
}

fn shown(canary: &Canary) -> String {
    let Some(status) = &canary.status else { return "without a status".to_owned() };
    format!("{:?} at weight {}: {} ({})", status.phase, status.canary_weight, status.message, status.reason)
}
