//! What a story stands on: the cluster with Sluice installed, and shops in it.
//!
//! A [`Shop`] is a namespace with one application. People act on it ([`Shop::commit`]), time and pods are watched, and the
//! namespace goes when the story is over.

mod seen;
mod shop;

use std::time::Duration;

use anyhow::Result;
use crds::{Canary, Phase};
use k8s_openapi::api::core::v1::Namespace;
use kube::api::{DeleteParams, ListParams};
use kube::{Api, Client, ResourceExt as _};

pub use self::shop::Shop;
use crate::cluster::Cluster;
use crate::slack;

/// Label of every namespace of a story, by which leftovers are found.
pub const STORY_LABEL: &str = "sluice.dev/story";
/// How long things may take that take seconds.
pub const SOON: Duration = Duration::from_secs(60);
/// How long a release may take at the stories' pace.
pub const RELEASE: Duration = Duration::from_secs(120);

/// The cluster with Sluice on it. Shared by all stories.
pub struct World {
    /// With the administrator's rights.
    pub client: Client,
    /// Its parts can be stopped and started; its audit log can be read.
    pub cluster: Cluster,
    /// Receives what AlertProviders send; stories tell theirs by the path.
    pub slack: slack::Receiver,
}

impl World {
    /// Removes the namespaces that earlier, killed runs left. Does not wait for them to be gone.
    ///
    /// # Errors
    /// When the API server does not answer.
    pub async fn remove_leftovers(&self) -> Result<()> {
        let namespaces: Api<Namespace> = Api::all(self.client.clone());
        for namespace in namespaces.list(&ListParams::default().labels(STORY_LABEL)).await? {
            let _ = namespaces.delete(&namespace.name_any(), &DeleteParams::background()).await;
        }
        Ok(())
    }

    /// Whether a namespace of an earlier story is still going.
    ///
    /// # Errors
    /// When the API server does not answer.
    pub async fn is_leaving(&self) -> Result<bool> {
        let namespaces: Api<Namespace> = Api::all(self.client.clone());
        let stories = namespaces.list(&ListParams::default().labels(STORY_LABEL)).await?;
        Ok(stories.items.iter().any(|namespace| namespace.metadata.deletion_timestamp.is_some()))
    }
}

/// The phase in the status; the first one where there is none yet.
#[must_use]
pub fn phase_of(canary: &Canary) -> Phase {
    canary.status.as_ref().map(|status| status.phase).unwrap_or_default()
}

/// The weight in the status, in percent.
#[must_use]
pub fn weight_of(canary: &Canary) -> i32 {
    canary.status.as_ref().map_or(0, |status| status.canary_weight)
}

/// The message in the status.
#[must_use]
pub fn message_of(canary: &Canary) -> String {
    canary.status.as_ref().map(|status| status.message.clone()).unwrap_or_default()
}
