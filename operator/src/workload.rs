//! Writes to the target and its ReplicaSets: create, size, adopt, delete, unpause.
//!
//! Each makes the world a little more like `rollout::Desired` and nothing else; none waits. What cannot be undone
//! (adopt, unpause, delete) is conditional on the very object that was judged: a conflict ends the pass, and the next
//! one looks again. The objects and patches themselves are `patches`'.

mod patches;

use kube::{
    Api, Client, ResourceExt,
    api::{DeleteParams, DynamicObject, Patch, PatchParams, PostParams, Preconditions},
};
use rollout::{CanaryPods, Desired, Hold, Paused, Revision};
use serde_json::{Value, json};

use self::patches::{adoption, canary_set, reversion, same_template, unpause};
use crate::{
    api::{ApiError, call},
    observe::{World, apps, hash, max_surge, number, paused, replicas},
    template,
};

/// A write to the workload that was not made.
#[derive(Debug, thiserror::Error)]
pub enum WorkloadError {
    /// The object has changed since it was judged: look again at once.
    #[error("cannot {act}: what it was decided on has changed since it was read")]
    Stale {
        /// What was attempted, as in `adopt ReplicaSet web-5d9f`.
        act: String,
    },
    /// The API server refused or did not answer.
    #[error(transparent)]
    Api(#[from] ApiError),
}

/// Makes the workload what `desired` says. `drained`: no proxy sends traffic to other revisions' pods any more.
///
/// # Errors
/// The first write that failed; a later pass makes the rest.
pub async fn ensure(
    client: &Client,
    world: &World,
    desired: &Desired,
    revision: Option<&Revision>,
    drained: bool,
) -> Result<(), WorkloadError> {
    let workload =
        Workload { sets: Api::namespaced_with(client.clone(), &world.namespace, &apps("ReplicaSet")), client, world };
    if let Some(keep) = &desired.keep_only {
        workload.keep_only(keep).await?;
    }
    match (desired.canary, revision) {
        (CanaryPods::Keep, _) => {}
        (CanaryPods::None, _) => workload.delete_canaries(None).await?,
        (CanaryPods::Size(size), Some(revision)) => {
            if drained {
                workload.delete_canaries(Some(revision)).await?;
            }
            workload.size(revision, size).await?;
        }
        (CanaryPods::Adopt { replicas, available }, Some(revision)) => {
            workload.adopt(revision, replicas, available).await?;
        }
        (CanaryPods::Size(_) | CanaryPods::Adopt { .. }, None) => {}
    }
    match desired.hold {
        Hold::Keep => Ok(()),
        Hold::Release => workload.release_hold().await,
    }
}

/// Gives a held Deployment the template of its stable set back and unpauses it, in one write: no pod moves.
///
/// # Errors
/// [`WorkloadError::Stale`] if the Deployment has changed since it was read.
pub async fn revert(
    client: &Client,
    world: &World,
    deployment: &DynamicObject,
    stable: &DynamicObject,
) -> Result<(), WorkloadError> {
    let workload =
        Workload { sets: Api::namespaced_with(client.clone(), &world.namespace, &apps("ReplicaSet")), client, world };
    let name = deployment.name_any();
    workload
        .json_patch(&workload.deployments(), &name, format!("revert Deployment {name}"), reversion(deployment, stable))
        .await
}

struct Workload<'a> {
    client: &'a Client,
    world: &'a World,
    sets: Api<DynamicObject>,
}

impl Workload<'_> {
    async fn size(&self, revision: &Revision, size: u32) -> Result<(), WorkloadError> {
        let Some(deployment) = &self.world.deployment else { return Ok(()) };
        match self.world.replica_set(revision) {
            Some(set) if self.is_canarys(set) => {
                if replicas(set) == size {
                    return Ok(());
                }
                let patch = json!({ "spec": { "replicas": size } });
                let act = format!("scale ReplicaSet {} to {size}", set.name_any());
                call(act, self.sets.patch(&set.name_any(), &PatchParams::default(), &Patch::Merge(patch))).await?;
                Ok(())
            }
            // Left from an older release under the same name: it goes first.
            Some(set) if replicas(set) == 0 => self.delete(set).await,
            Some(_) => Ok(()),
            None => {
                self.delete_equal_leftovers().await?;
                let set = canary_set(&self.world.canary, deployment, revision, size);
                let act = format!("create ReplicaSet {}", set.name_any());
                match call(act, self.sets.create(&PostParams::default(), &set)).await {
                    // Created by the pass before; the cache has not seen it yet.
                    Err(error) if error.is_conflict() => Ok(()),
                    Err(error) => Err(error.into()),
                    Ok(_) => Ok(()),
                }
            }
        }
    }

    /// The Deployment controller takes the *oldest* set with an equal template for the new one: a leftover of an earlier
    /// release would be rolled out instead of the judged set.
    async fn delete_equal_leftovers(&self) -> Result<(), WorkloadError> {
        let Some(raw) = self.world.template() else { return Ok(()) };
        for set in self.world.deployment_owned() {
            let equal = set.data.pointer("/spec/template").is_some_and(|template| template::equal(template, raw));
            if equal && replicas(set) == 0 && number(set, "/status/replicas") == 0 {
                self.delete(set).await?;
            }
        }
        Ok(())
    }

    async fn delete_canaries(&self, but: Option<&Revision>) -> Result<(), WorkloadError> {
        for set in self.world.canary_owned() {
            if but.is_none_or(|but| hash(set) != Some(but.0.as_str())) {
                self.delete(set).await?;
            }
        }
        Ok(())
    }

    async fn delete(&self, set: &DynamicObject) -> Result<(), WorkloadError> {
        let params = DeleteParams {
            preconditions: Some(Preconditions { uid: set.uid(), resource_version: None }),
            ..DeleteParams::background()
        };
        match call(format!("delete ReplicaSet {}", set.name_any()), self.sets.delete(&set.name_any(), &params)).await {
            Err(error) if error.is_not_found() => Ok(()),
            Err(error) => Err(error.into()),
            Ok(_) => Ok(()),
        }
    }

    /// Gives the judged set to the Deployment, if one fresh read of both finds it as it was judged.
    async fn adopt(&self, revision: &Revision, wanted: u32, available: u32) -> Result<(), WorkloadError> {
        let (Some(deployment), Some(set)) = (&self.world.deployment, self.world.replica_set(revision)) else {
            return Ok(());
        };
        let deployments = self.deployments();
        let (name, set_name) = (deployment.name_any(), set.name_any());
        let act = format!("adopt ReplicaSet {set_name}");
        let deployment = call(format!("read Deployment {name}"), deployments.get(&name)).await?;
        let set = call(format!("read ReplicaSet {set_name}"), self.sets.get(&set_name)).await?;
        let judged = replicas(&deployment) == wanted
            && replicas(&set) == wanted
            && number(&set, "/status/availableReplicas") >= available
            && paused(&deployment) == Paused::Held
            && same_template(&deployment, &set);
        if !judged {
            return Err(WorkloadError::Stale { act });
        }
        let patch = adoption(&set, wanted, wanted + max_surge(&deployment, wanted));
        self.json_patch(&self.sets, &set_name, act, patch).await
    }

    /// Removes `paused` from the very Deployment whose template was compared.
    async fn release_hold(&self) -> Result<(), WorkloadError> {
        let Some(deployment) = &self.world.deployment else { return Ok(()) };
        let patch = Value::Array(unpause(deployment).into());
        let name = deployment.name_any();
        self.json_patch(&self.deployments(), &name, format!("unpause Deployment {name}"), patch).await
    }

    async fn keep_only(&self, keep: &Revision) -> Result<(), WorkloadError> {
        for set in self.world.deployment_owned() {
            if hash(set) != Some(keep.0.as_str()) && replicas(set) > 0 {
                let patch = json!([
                    { "op": "test", "path": "/metadata/resourceVersion", "value": set.resource_version() },
                    { "op": "replace", "path": "/spec/replicas", "value": 0 },
                ]);
                let name = set.name_any();
                self.json_patch(&self.sets, &name, format!("scale ReplicaSet {name} to 0"), patch).await?;
            }
        }
        Ok(())
    }

    async fn json_patch(
        &self,
        api: &Api<DynamicObject>,
        name: &str,
        act: String,
        patch: Value,
    ) -> Result<(), WorkloadError> {
        let patch: json_patch::Patch = serde_json::from_value(patch).expect("the patch is written above");
        match call(act.clone(), api.patch(name, &PatchParams::default(), &Patch::<()>::Json(patch))).await {
            Ok(_) => Ok(()),
            // A right that is lacking is no change: it is told, and not tried again five times a second.
            Err(error) if error.is_conflict() || error.is_invalid() => {
                tracing::debug!(error = %crate::telemetry::Chain(&error), "conditional write refused");
                Err(WorkloadError::Stale { act })
            }
            Err(error) => Err(error.into()),
        }
    }

    fn deployments(&self) -> Api<DynamicObject> {
        Api::namespaced_with(self.client.clone(), &self.world.namespace, &apps("Deployment"))
    }

    fn is_canarys(&self, set: &DynamicObject) -> bool {
        self.world.canary_owned().any(|owned| owned.uid() == set.uid())
    }
}
