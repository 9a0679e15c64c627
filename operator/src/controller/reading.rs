//! What a pass asks before it decides, beyond the caches: how far set-up is, the metrics, the verdict, what ails the
//! pods. Whatever the answer, it is explicit; a failure here is a reading, never an error of the pass.

use std::time::{Duration, Instant};

use chrono::Utc;
use crds::{canary::Severity, names::POD_TEMPLATE_HASH};
use k8s_openapi::api::core::v1::Pod;
use kube::{Api, api::ListParams};
use rollout::{Check, Judgement, Phase, Setup, State, verdict::Decision};

use super::Context;
use crate::{
    api::call,
    checks,
    observe::{self, World},
    setup,
};

/// How often at most the pods of one Canary are asked what ails them.
const TROUBLE_EVERY: Duration = Duration::from_secs(5);

/// A failure of set-up holds the release where it is; it must not keep a bad version on the traffic.
pub(super) async fn set_up(context: &Context, world: &World, state: &State) -> Setup {
    match setup::ensure(context, world, state).await {
        Ok(setup) => setup,
        // The Canary goes in a moment, and is taken out of the traffic then.
        Err(error) if error.is_leaving() => {
            Setup::Pending(format!("namespace {} is being deleted: nothing is set up in it", world.namespace))
        }
        Err(error) => {
            let chain = crate::telemetry::Chain(&error).to_string();
            tracing::warn!(error = %chain, "set-up failed, retrying");
            // The first sentence only: internals stay in the log.
            Setup::Pending(error.to_string())
        }
    }
}

/// The metrics, measured; what they cannot say is told once.
pub(super) async fn check(context: &Context, world: &World, state: &State) -> Check {
    let checked = checks::run(&context.measurer, &context.caches, &world.canary, state, Utc::now()).await;
    let mut memory = context.remember(&world.canary);
    memory.evidence.checked(state, checked.facts);
    if let Check::NoEvidence(reason) = &checked.check {
        let sentence = reason.to_string();
        if memory.told_trouble.as_ref() != Some(&sentence) {
            memory.told_trouble = Some(sentence.clone());
            drop(memory);
            let word = checked.trouble.unwrap_or("NoEvidence");
            context.desk.event(&world.canary, Severity::Warn, word, &format!("Check{}", state.counter), &sentence);
        }
    } else {
        memory.told_trouble = None;
    }
    checked.check
}

/// What the verdict says; where it is only told, it is told here, once for each word.
pub(super) fn judgement(context: &Context, world: &World, state: &State) -> Judgement {
    if !state.phase.is_release() || state.weight == 0 {
        return Judgement::NotAsked;
    }
    let verdict = context.verdicts.verdict(&world.canary, state);
    if let Some(verdict) = verdict.as_ref().filter(|verdict| verdict.enforced()) {
        context.remember(&world.canary).evidence.counted(state, verdict);
    }
    if let Some(verdict) = verdict.filter(|verdict| !verdict.enforced()) {
        let told = context.remember(&world.canary).told_verdict.replace(verdict.reason());
        if told != Some(verdict.reason()) {
            let severity =
                if matches!(verdict.decision, Decision::Rollback(_)) { Severity::Warn } else { Severity::Info };
            let note = format!("{} (verdict.mode warn: told only)", verdict.sentence());
            context.desk.event(&world.canary, severity, verdict.reason(), &format!("Verdict{}", state.counter), &note);
        }
        return Judgement::NotAsked;
    }
    context.verdicts.judgement(&world.canary, state)
}

/// What ails the canary's pods; asked while some are lacking, and not on every pass.
pub(super) async fn trouble(context: &Context, world: &World, state: &State) -> Option<String> {
    let revision = state.canary.as_ref().filter(|_| matches!(state.phase, Phase::Progressing | Phase::Promoting))?;
    let set = world.replica_set(revision)?;
    if observe::number(set, "/status/availableReplicas") >= observe::replicas(set) {
        context.remember(&world.canary).trouble = None;
        return None;
    }
    if let Some((asked, answer)) = &context.remember(&world.canary).trouble
        && asked.elapsed() < TROUBLE_EVERY
    {
        return answer.clone();
    }
    let api: Api<Pod> = Api::namespaced(context.client.clone(), &world.namespace);
    let selector = format!("{POD_TEMPLATE_HASH}={revision}");
    let answer = match call("list the canary's pods", api.list(&ListParams::default().labels(&selector))).await {
        Ok(pods) => observe::trouble(&pods.items),
        Err(_) => None,
    };
    context.remember(&world.canary).trouble = Some((Instant::now(), answer.clone()));
    answer
}
