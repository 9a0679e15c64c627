//! One pass: read → decide → write the journal → make the world match it → tell. The leader runs it for every Canary.
//!
//! Control flow only: reading is `reading` and `observe`, deciding is `rollout::step`, writing is `writing` and
//! `teardown`. A pass that fails or panics leaves every other Canary at its pace.

mod context;
mod error;
mod memory;
mod reading;
mod writing;

use std::{
    panic::AssertUnwindSafe,
    sync::Arc,
    time::{Duration, Instant},
};

use chrono::Utc;
use crds::{Canary, canary::Severity, names::FINALIZER};
use futures::{FutureExt, StreamExt, stream};
use kube::{
    ResourceExt,
    runtime::{
        controller::{self, Action, ReconcileReason, ReconcileRequest, applier},
        reflector::ObjectRef,
    },
};
use rollout::{Check, Phase, Reason, Route, Setup, State};

pub use self::{context::Context, error::Error};
use self::{
    reading::{check, judgement, set_up, trouble},
    writing::{add_finalizer, carry_out, persist},
};
use crate::{
    feed,
    observe::{self, World},
    status, teardown, validate,
    wakes::Wakes,
};

/// Canaries that are reconciled at the same time.
const CONCURRENCY: u16 = 16;
/// Longest time that one pass may take: a check (5 s), the writes (5 s each), a touch (2 s).
const PASS_DEADLINE: Duration = Duration::from_secs(60);
/// First and longest wait after a pass that failed.
const RETRY: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(60));

/// Reconciles every Canary, woken by `wakes`, until the future is dropped.
pub async fn run(context: Arc<Context>, wakes: Wakes) {
    let request = |obj_ref| ReconcileRequest { obj_ref, reason: ReconcileReason::Unknown };
    let all: Vec<_> =
        context.caches.canaries.state().iter().map(|canary| ObjectRef::from_obj(canary.as_ref())).collect();
    let wakes = stream::unfold(wakes, |mut wakes| async { Some((wakes.next().await, wakes)) });
    let queue = stream::iter(all).chain(wakes).map(move |key| Ok::<_, std::convert::Infallible>(request(key)));
    let store = context.caches.canaries.clone();
    let config = controller::Config::default().concurrency(CONCURRENCY);
    let reconciles = applier(
        |canary, context| Box::pin(guarded(canary, context)),
        |canary, error, context| retry(&canary, error, &context),
        Arc::clone(&context),
        store,
        Box::pin(queue),
        config,
    );
    // The outcome was logged and counted in `guarded`.
    let reconciles = reconciles.for_each(|_| futures::future::ready(()));
    tokio::select! {
        () = reconciles => {}
        () = context.forget_the_gone() => {}
    }
}

/// A pass with a deadline, that cannot take the others down.
async fn guarded(canary: Arc<Canary>, context: Arc<Context>) -> Result<Action, Error> {
    let started = Instant::now();
    let span = tracing::info_span!(
        "reconcile",
        k8s.namespace.name = canary.namespace().unwrap_or_default(),
        canary = canary.name_any(),
        generation = canary.metadata.generation.unwrap_or_default(),
    );
    let pass = tokio::time::timeout(PASS_DEADLINE, pass(&context, canary.clone()));
    let caught = tracing::Instrument::instrument(AssertUnwindSafe(pass).catch_unwind(), span.clone()).await;
    let outcome = match caught {
        Ok(Ok(outcome)) => outcome,
        Ok(Err(_)) => Err(Error::Deadline),
        Err(_) => Err(Error::Panicked),
    };
    let _entered = span.enter();
    match &outcome {
        Ok(_) => {
            context.remember(&canary).failures = 0;
            context.metrics.reconciled("done", started.elapsed());
        }
        Err(error) => {
            context.metrics.reconciled(error.class(), started.elapsed());
            if error.is_conflict() {
                tracing::debug!(error = %crate::telemetry::Chain(error), "pass started over");
            } else if error.is_leaving() {
                tracing::debug!(error = %crate::telemetry::Chain(error), "the namespace is being deleted");
            } else {
                tracing::warn!(error = %crate::telemetry::Chain(error), "pass failed, retrying");
            }
        }
    }
    outcome
}

fn retry(canary: &Canary, error: &Error, context: &Context) -> Action {
    let mut memory = context.remember(canary);
    memory.failures = memory.failures.saturating_add(1);
    Action::requeue(if error.is_conflict() { RETRY.0 } else { pause(memory.failures) })
}

/// The wait after so many failures in a row.
fn pause(failures: u32) -> Duration {
    let doubled = RETRY.0.saturating_mul(1 << failures.saturating_sub(1).min(10));
    doubled.min(RETRY.1)
}

async fn pass(context: &Context, cached: Arc<Canary>) -> Result<Action, Error> {
    let canary = context.newest(cached);
    let deleting = canary.metadata.deletion_timestamp.is_some();
    let finalized = canary.finalizers().iter().any(|finalizer| finalizer == FINALIZER);
    match (deleting, finalized) {
        (true, false) => return Ok(Action::await_change()),
        (false, false) => return add_finalizer(context, &canary).await,
        (true, true) | (false, true) => {}
    }
    let world = World::read(&context.caches, canary);
    let state = status::decode(&world.canary, Utc::now())?;
    let valid = validate::plan(&world.canary.spec);
    let valid = valid.and_then(|plan| validate::verdict(&world.canary.spec).map(|_| plan));
    let plan = match valid {
        Ok(plan) => plan,
        // Nothing is planned any more, and a spec that cannot be carried out must not keep the object for ever.
        Err(_) if deleting => validate::plan_without_analysis(&world.canary.spec),
        Err(invalid) => return refuse(context, world, state, invalid.to_string()).await,
    };
    let setup = if deleting { Setup::Ready } else { set_up(context, &world, &state).await };
    let overlap = feed::overlap(&world);
    let route = Route {
        acknowledged: context.acknowledged(&world, state.counter),
        stable_endpoints: overlap.both,
        other_endpoints: overlap.stable,
    };
    let now = Utc::now();
    let check = match rollout::check_due_in(&plan, &state, now) {
        Some(due) if due.is_zero() => check(context, &world, &state).await,
        Some(_) | None => Check::NotMade,
    };
    let trouble = trouble(context, &world, &state).await;
    let judgement = judgement(context, &world, &state);
    let seen = observe::observation(&world, &state, setup, route, check, judgement, trouble);
    let now = Utc::now();
    let decision = rollout::step(&plan, &state, &seen, now);
    let world = persist(context, world, &decision.state).await?;
    let drained = decision.state.counter == state.counter && route.acknowledged;
    // A Canary that was never let in owns nothing, and must not lay hands on what its elder owns.
    let let_in = decision.state.phase != Phase::Initializing || !matches!(seen.setup, Setup::Refused(_));
    if let_in {
        carry_out(context, &world, &decision, drained).await?;
    }
    tell(context, &world, &state, &decision);
    if deleting {
        let again = teardown::run(context, &world, &decision.state).await?;
        return Ok(again.map_or_else(Action::await_change, Action::requeue));
    }
    Ok(Action::requeue(decision.requeue_after.to_std().unwrap_or_default()))
}

/// A spec that cannot be carried out: everything stays as it is, and the status says which field it is.
async fn refuse(context: &Context, world: World, state: State, why: String) -> Result<Action, Error> {
    let reason = Reason::Refused(why.clone());
    if state.reason != reason {
        context.desk.event(&world.canary, Severity::Warn, reason.code(), "Validate", &why);
    }
    persist(context, world, &State { reason, ..state }).await?;
    Ok(Action::await_change())
}

fn tell(context: &Context, world: &World, before: &State, decision: &rollout::Decision) {
    for happening in &decision.happenings {
        let facts = context.remember(&world.canary).evidence.of(before, happening);
        context.desk.tell(&world.canary, &decision.state, happening, &facts, Utc::now());
        match happening {
            rollout::Happening::Promoted => context.metrics.release("promoted"),
            rollout::Happening::RolledBack(_) => context.metrics.release("rolled_back"),
            rollout::Happening::Restarted { .. } => context.metrics.release("superseded"),
            rollout::Happening::Reverted => context.metrics.release("reverted"),
            rollout::Happening::Initialized
            | rollout::Happening::Started { .. }
            | rollout::Happening::CopiesBegan(_)
            | rollout::Happening::CopiesEnded(_)
            | rollout::Happening::Weight(_)
            | rollout::Happening::Everybody
            | rollout::Happening::Held(_)
            | rollout::Happening::Shown { .. }
            | rollout::Happening::CheckFailed { .. } => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_wait_is_the_shortest_and_they_double_up_to_the_longest() {
        let waits: Vec<_> = (1..=10).map(|failures| pause(failures).as_millis()).collect();
        assert_eq!(waits, [200, 400, 800, 1_600, 3_200, 6_400, 12_800, 25_600, 51_200, 60_000]);
        assert_eq!((pause(0), pause(u32::MAX)), RETRY);
    }
}
