//! Caches → one [`World`] → one `rollout::Observation`. No writes, no judgement; the one read that is not from a cache
//! (what ails the canary's pods) is made by `trouble` only while pods are lacking.

mod trouble;
mod world;

use std::sync::Arc;

use crds::{
    Canary,
    names::{ANNOTATION_ABORT, ANNOTATION_HELD, ANNOTATION_PAUSE, ANNOTATION_PROMOTE, ANNOTATION_RETRY},
};
use kube::{ResourceExt, api::DynamicObject};
use rollout::{
    CanarySet, Check, Judgement, Native, Observation, Paused, Revision, Route, Setup, State, Target, TargetView,
    Template, Verbs,
};
use serde_json::Value;

pub use self::trouble::trouble;
pub use self::world::{World, apps, hash, number, replicas};
use crate::{feed, template};

/// The observation of this pass, but for what costs a call: `check` and `trouble` are passed in.
#[must_use]
pub fn observation(
    world: &World,
    state: &State,
    setup: Setup,
    route: Route,
    check: Check,
    judgement: Judgement,
    trouble: Option<String>,
) -> Observation {
    Observation {
        deleting: world.canary.metadata.deletion_timestamp.is_some(),
        setup,
        target: target(world, state),
        canary: canary_set(world, state, trouble),
        route,
        check,
        judgement,
        verbs: verbs(&world.canary),
    }
}

fn target(world: &World, state: &State) -> Target {
    let Some(deployment) =
        world.deployment.as_ref().filter(|deployment| deployment.metadata.deletion_timestamp.is_none())
    else {
        return Target::Missing;
    };
    let Some(raw) = world.template() else { return Target::Missing };
    let replicas = replicas(deployment);
    Target::Present(TargetView {
        uid: deployment.uid().unwrap_or_default(),
        template: template_view(world, state, raw),
        paused: paused(deployment),
        replicas,
        max_unavailable: max_unavailable(deployment, replicas),
        native: native(world, deployment, raw, replicas),
        other_pods: world
            .deployment_owned()
            .filter(|set| hash(set) != state.canary.as_ref().map(|canary| canary.0.as_str()))
            .map(|set| number(set, "/status/replicas").max(self::replicas(set)))
            .sum(),
    })
}

/// The revision of the set that runs this template; where none does, the one that ours would carry. Zero-sized sets of
/// older releases do not count: ours replaces them.
fn template_view(world: &World, state: &State, raw: &Value) -> Template {
    let set_template = |set: &DynamicObject| set.data.pointer("/spec/template").cloned().unwrap_or_default();
    let known = |revision: &Option<Revision>| {
        let set = world.replica_set(revision.as_ref()?)?;
        template::equal(&set_template(set), raw).then(|| revision.clone()).flatten()
    };
    let running = || {
        let mut active = world.deployment_owned().filter(|set| is_active(set));
        let set = active.find(|set| template::equal(&set_template(set), raw))?;
        hash(set).map(|hash| Revision(hash.to_owned()))
    };
    // A target at 0 replicas runs nothing; its newest set with this template is the one.
    let idle = || {
        let deployment = world.deployment.as_ref()?;
        let mut sets = world.deployment_owned();
        let set = sets.find(|set| replicas(deployment) == 0 && template::equal(&set_template(set), raw))?;
        hash(set).map(|hash| Revision(hash.to_owned()))
    };
    let revision = known(&state.stable)
        .or_else(|| known(&state.canary))
        .or_else(running)
        .or_else(idle)
        .unwrap_or_else(|| Revision(template::revision(raw)));
    let stable = state.stable.as_ref().and_then(|stable| world.replica_set(stable));
    let restart_only = stable.is_some_and(|set| template::differ_by_restart_only(&set_template(set), raw));
    Template { revision, restart_only }
}

fn is_active(set: &DynamicObject) -> bool {
    replicas(set) > 0 || number(set, "/status/replicas") > 0
}

/// Whose pause it is: the hold policy leaves its mark beside the field.
#[must_use]
pub fn paused(deployment: &DynamicObject) -> Paused {
    let paused = deployment.data.pointer("/spec/paused").and_then(Value::as_bool).unwrap_or(false);
    match (paused, deployment.annotations().contains_key(ANNOTATION_HELD)) {
        (false, _) => Paused::No,
        (true, true) => Paused::Held,
        (true, false) => Paused::ByManifest,
    }
}

fn native(world: &World, deployment: &DynamicObject, raw: &Value, replicas: u32) -> Native {
    let generation = deployment.metadata.generation.unwrap_or_default();
    let observed = deployment.data.pointer("/status/observedGeneration").and_then(Value::as_i64).unwrap_or_default();
    if observed < generation {
        return Native::Moving;
    }
    let active: Vec<_> = world.deployment_owned().filter(|set| is_active(set)).collect();
    let equal =
        |set: &DynamicObject| set.data.pointer("/spec/template").is_some_and(|template| template::equal(template, raw));
    let settled = |set: &Arc<DynamicObject>| hash(set).map(|hash| Native::Settled(Revision(hash.to_owned())));
    if paused(deployment) != Paused::No {
        return match active.as_slice() {
            [only] => settled(only).unwrap_or(Native::Moving),
            [] => world.deployment_owned().find(|set| equal(set)).and_then(settled).unwrap_or(Native::Moving),
            _ => Native::Torn,
        };
    }
    let complete = ["/status/replicas", "/status/updatedReplicas", "/status/availableReplicas"]
        .iter()
        .all(|pointer| number(deployment, pointer) == replicas);
    match active.as_slice() {
        [only] if complete && equal(only) => settled(only).unwrap_or(Native::Moving),
        [] if replicas == 0 => {
            world.deployment_owned().find(|set| equal(set)).and_then(settled).unwrap_or(Native::Moving)
        }
        _ => Native::Moving,
    }
}

/// `maxUnavailable` in pods, as the Deployment controller resolves it (percent rounded down; surge rounded up, and one
/// pod where both come to none).
fn max_unavailable(deployment: &DynamicObject, replicas: u32) -> u32 {
    let rolling = |field: &str| deployment.data.pointer(&format!("/spec/strategy/rollingUpdate/{field}")).cloned();
    let resolve = |value: Option<Value>, round_up: bool| match value {
        Some(Value::Number(number)) => number.as_u64().and_then(|number| u32::try_from(number).ok()).unwrap_or(0),
        Some(Value::String(text)) => {
            let percent = text.trim_end_matches('%').parse::<u64>().unwrap_or(0);
            let scaled = u64::from(replicas) * percent;
            u32::try_from(if round_up { scaled.div_ceil(100) } else { scaled / 100 }).unwrap_or(0)
        }
        _ => 0,
    };
    if deployment.data.pointer("/spec/strategy/type").and_then(Value::as_str) == Some("Recreate") {
        return 0;
    }
    let unavailable = resolve(rolling("maxUnavailable"), false);
    if unavailable == 0 && resolve(rolling("maxSurge"), true) == 0 { 1 } else { unavailable }
}

/// `maxSurge` in pods.
#[must_use]
pub fn max_surge(deployment: &DynamicObject, replicas: u32) -> u32 {
    match deployment.data.pointer("/spec/strategy/rollingUpdate/maxSurge") {
        Some(Value::Number(number)) => number.as_u64().and_then(|number| u32::try_from(number).ok()).unwrap_or(0),
        Some(Value::String(text)) => {
            let percent = text.trim_end_matches('%').parse::<u64>().unwrap_or(0);
            u32::try_from((u64::from(replicas) * percent).div_ceil(100)).unwrap_or(0)
        }
        _ => 0,
    }
}

fn canary_set(world: &World, state: &State, trouble: Option<String>) -> Option<CanarySet> {
    let set = world.replica_set(state.canary.as_ref()?)?;
    let ours = world.owned_by_canary(set);
    // A set of an older release that went by the same name; ours replaces it.
    if !ours && !is_active(set) {
        return None;
    }
    let available = number(set, "/status/availableReplicas");
    let behind = feed::overlap(world);
    Some(CanarySet {
        desired: replicas(set),
        pods: number(set, "/status/replicas"),
        // A pod takes traffic once its endpoint has reached the route, a moment after it is available: a weight that
        // came before it would count as the canary's failure.
        available: if ours { available.min(behind.both + behind.canary) } else { available },
        adopted: !ours,
        trouble,
    })
}

fn verbs(canary: &Canary) -> Verbs {
    let revision = |name: &str| canary.annotations().get(name).map(|revision| Revision(revision.clone()));
    Verbs {
        promote: revision(ANNOTATION_PROMOTE),
        abort: revision(ANNOTATION_ABORT),
        pause: revision(ANNOTATION_PAUSE),
        retry: revision(ANNOTATION_RETRY),
    }
}
