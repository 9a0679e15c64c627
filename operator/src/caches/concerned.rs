//! Which Canaries an event of another object concerns.

use crds::{
    Canary,
    names::{CANARY_LABEL, POOL_NAME},
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::{
    ResourceExt,
    runtime::reflector::{ObjectRef, Store},
};

use crate::{services, wakes::Waker};

/// What an event of one kind wakes.
#[derive(Clone, Copy)]
pub(super) enum Wakes {
    /// Canaries of the namespace whose target, Service or label the object's name or label is.
    Related,
    /// Every Canary of the namespace.
    Namespace,
    /// Every Canary.
    All,
}

/// Wakes the Canaries that an event of `object` concerns.
pub(super) fn wake(waker: &Waker, canaries: &Store<Canary>, object: &ObjectMeta, wakes: Wakes) {
    let concerned = canaries.state_filter(|canary| match wakes {
        Wakes::All => true,
        Wakes::Namespace => canary.metadata.namespace == object.namespace,
        Wakes::Related => canary.metadata.namespace == object.namespace && is_related(canary, object),
    });
    for canary in concerned {
        waker.wake(&ObjectRef::from_obj(canary.as_ref()));
    }
}

fn is_related(canary: &Canary, object: &ObjectMeta) -> bool {
    let target = canary.spec.target_ref.name.as_str();
    let service = services::service_name(canary);
    let name = object.name.as_deref().unwrap_or_default();
    let owners = object.owner_references.as_deref().unwrap_or_default();
    let label = object.labels.as_ref().and_then(|labels| labels.get(CANARY_LABEL));
    name == target
        || name == service
        || name == POOL_NAME
        || label.is_some_and(|label| *label == canary.name_any())
        || owners.iter().any(|owner| owner.name == target || Some(&owner.uid) == canary.metadata.uid.as_ref())
        // An orphan between the Canary and the Deployment.
        || (owners.is_empty() && name.starts_with(&format!("{target}-")))
}
