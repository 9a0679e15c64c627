//! One pass: read → decide → write the journal → make the world match it → tell. The leader runs it for every Canary.
//!
//! Control flow only: reading is `observe`, deciding is `rollout::step`, writing is `setup`, `workload`, `services` and
//! `teardown`. A pass that fails or panics leaves every other Canary at its pace.

use std::{
    collections::{BTreeSet, HashMap},
    panic::AssertUnwindSafe,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use chrono::Utc;
use crds::{
    Canary,
    canary::Severity,
    names::{FINALIZER, POD_TEMPLATE_HASH},
};
use futures::{FutureExt, StreamExt, stream};
use k8s_openapi::api::core::v1::{Pod, Service};
use kube::{
    Api, Client, ResourceExt,
    api::{ListParams, Patch, PatchParams, PostParams},
    runtime::{
        controller::{self, Action, ReconcileReason, ReconcileRequest, applier},
        reflector::ObjectRef,
    },
};
use rollout::{Check, Judgement, Phase, Reason, Route, Setup, State, verdict::Decision};
use serde_json::json;
use tokio::sync::mpsc;

use crate::{
    admin::Metrics,
    api::{ApiError, call},
    authority::Authority,
    caches::{Caches, Key},
    checks,
    evidence::Evidence,
    feed,
    measure::Measurer,
    observe::{self, World},
    pool::PoolSettings,
    publish::Publisher,
    report::Desk,
    services, setup, status,
    table::{Bindings, Table},
    teardown, validate,
    verdict::Verdicts,
    workload::{self, WorkloadError},
};

/// Canaries that are reconciled at the same time.
const CONCURRENCY: u16 = 16;
/// Longest time that one pass may take: a check (5 s), the writes (5 s each), a touch (2 s).
const PASS_DEADLINE: Duration = Duration::from_secs(60);
/// First and longest wait after a pass that failed.
const RETRY: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(60));
/// How often at most the pods of one Canary are asked what ails them.
const TROUBLE_EVERY: Duration = Duration::from_secs(5);

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
struct Memory {
    /// The object as it was last written: the cache may lag behind our own write.
    written: Option<Arc<Canary>>,
    failures: u32,
    trouble: Option<(Instant, Option<String>)>,
    warned: BTreeSet<String>,
    restored: Option<Instant>,
    cleared: bool,
    evidence: Evidence,
    told_trouble: Option<String>,
    told_verdict: Option<&'static str>,
}

/// A pass that did not come to its end.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// What was read has changed: start over at once.
    #[error("the Canary changed while it was being decided")]
    Conflict(#[source] ApiError),
    #[error("cannot make the workload match the journal")]
    Workload(#[from] WorkloadError),
    #[error("cannot make the Services match the journal")]
    Services(#[source] ApiError),
    #[error("cannot take the Canary out of the traffic")]
    Teardown(#[from] teardown::TeardownError),
    #[error(transparent)]
    Api(#[from] ApiError),
    #[error(transparent)]
    Journal(#[from] status::Unreadable),
    #[error("the pass panicked; this is a defect, please report it with the log")]
    Panicked,
    #[error("the pass took longer than {} s", PASS_DEADLINE.as_secs())]
    Deadline,
}

impl Error {
    /// Class for the metric.
    #[must_use]
    pub const fn class(&self) -> &'static str {
        match self {
            Self::Conflict(_) | Self::Workload(WorkloadError::Stale(_)) => "conflict",
            Self::Workload(WorkloadError::Api(_)) => "workload",
            Self::Services(_) => "services",
            Self::Teardown(_) => "teardown",
            Self::Api(_) => "api",
            Self::Journal(_) => "journal",
            Self::Panicked => "panic",
            Self::Deadline => "deadline",
        }
    }

    /// As [`ApiError::is_leaving`].
    fn is_leaving(&self) -> bool {
        match self {
            Self::Conflict(error) | Self::Services(error) | Self::Api(error) => error.is_leaving(),
            Self::Workload(WorkloadError::Api(error)) => error.is_leaving(),
            Self::Teardown(error) => error.is_leaving(),
            Self::Workload(WorkloadError::Stale(_)) | Self::Journal(_) | Self::Panicked | Self::Deadline => false,
        }
    }
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

    fn remember(&self, canary: &Canary) -> MemoryGuard<'_> {
        let uid = canary.uid().unwrap_or_default();
        let mut guard = self.lock();
        guard.entry(uid.clone()).or_default();
        MemoryGuard { guard, uid }
    }

    /// The newer of the cached object and the one that we wrote last.
    fn newest(&self, cached: Arc<Canary>) -> Arc<Canary> {
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

struct MemoryGuard<'a> {
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

/// Reconciles every Canary, woken by `wakes`, until the future is dropped.
pub async fn run(context: Arc<Context>, wakes: mpsc::Receiver<Key>) {
    let request = |obj_ref| ReconcileRequest { obj_ref, reason: ReconcileReason::Unknown };
    let all: Vec<_> =
        context.caches.canaries.state().iter().map(|canary| ObjectRef::from_obj(canary.as_ref())).collect();
    let wakes = stream::unfold(wakes, |mut wakes| async { wakes.recv().await.map(|key| (key, wakes)) });
    let queue = stream::iter(all).chain(wakes).map(move |key| Ok::<_, std::convert::Infallible>(request(key)));
    let store = context.caches.canaries.clone();
    let config = controller::Config::default().concurrency(CONCURRENCY);
    let reconciles = applier(
        |canary, context| Box::pin(guarded(canary, context)),
        |canary, error, context| retry(&canary, error, &context),
        context,
        store,
        Box::pin(queue),
        config,
    );
    // The outcome was logged and counted in `guarded`.
    reconciles.for_each(|_| futures::future::ready(())).await;
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
            if error.class() == "conflict" {
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
    let doubled = RETRY.0.saturating_mul(1 << memory.failures.min(10));
    Action::requeue(if error.class() == "conflict" { RETRY.0 } else { doubled.min(RETRY.1) })
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
    let route =
        Route { acknowledged: context.acknowledged(&world, state.counter), stable_endpoints: feed::covered(&world) };
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

async fn add_finalizer(context: &Context, canary: &Canary) -> Result<Action, Error> {
    let finalizers: Vec<String> = canary.finalizers().iter().cloned().chain([FINALIZER.to_owned()]).collect();
    let patch = json!({ "metadata": { "resourceVersion": canary.resource_version(), "finalizers": finalizers } });
    let api = context.canaries(&canary.namespace().unwrap_or_default());
    let act = format!("add the finalizer to Canary {}", canary.name_any());
    match call(act, api.patch(&canary.name_any(), &PatchParams::default(), &Patch::Merge(patch))).await {
        Ok(written) => {
            context.remember(canary).written = Some(Arc::new(written));
            Ok(Action::requeue(Duration::ZERO))
        }
        Err(error) if error.is_not_found() => Ok(Action::await_change()),
        Err(error) if error.is_conflict() => Err(Error::Conflict(error)),
        Err(error) => Err(error.into()),
    }
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

/// A failure of set-up holds the release where it is; it must not keep a bad version on the traffic.
async fn set_up(context: &Context, world: &World, state: &State) -> Setup {
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

async fn check(context: &Context, world: &World, state: &State) -> Check {
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
fn judgement(context: &Context, world: &World, state: &State) -> Judgement {
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
async fn trouble(context: &Context, world: &World, state: &State) -> Option<String> {
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

/// Writes the journal by compare-and-swap, if it says anything new, and lets the proxies have it at once.
async fn persist(context: &Context, mut world: World, state: &State) -> Result<World, Error> {
    let now = Utc::now();
    let due = context.verdicts.is_due(&world.canary, state);
    if !due && world.canary.status.as_ref() == Some(&status::encode(&world.canary, state, now)) {
        return Ok(world);
    }
    let mut status = status::encode(&world.canary, &with_numbers(context, &world.canary, state), now);
    if let Some(said) = context.verdicts.status(&world.canary, state) {
        status.verdict = Some(said);
    }
    let mut wanted = Canary::clone(&world.canary);
    wanted.status = Some(status);
    let api = context.canaries(&world.namespace);
    let name = wanted.name_any();
    let act = format!("write the status of Canary {name}");
    let written = match call(act, api.replace_status(&name, &PostParams::default(), &wanted)).await {
        Ok(written) => Arc::new(written),
        Err(error) if error.is_conflict() || error.is_not_found() => return Err(Error::Conflict(error)),
        Err(error) => return Err(error.into()),
    };
    context.verdicts.written(&written);
    context.remember(&written).written = Some(written.clone());
    world.canary = written;
    if let Some(route) = feed::route(&world) {
        context.publisher.set(route);
    }
    Ok(world)
}

/// `state` with the verdict's numbers of this moment: they move each second, and are written when something is.
fn with_numbers(context: &Context, canary: &Canary, state: &State) -> State {
    let Reason::Verdict(wait, _) = state.reason else { return state.clone() };
    match context.verdicts.verdict(canary, state).filter(|verdict| verdict.decision == Decision::Wait(wait)) {
        Some(verdict) => State { reason: Reason::Verdict(wait, verdict.sentence()), ..state.clone() },
        None => state.clone(),
    }
}

/// A Canary that was refused must not fight for the arms of the one that has the Service.
fn owns_arms(world: &World, service: &Service) -> bool {
    let table = Table::parse(world.table.as_deref());
    world.canary.metadata.deletion_timestamp.is_none() && table.is_owner(&world.canary.name_any(), &service.name_any())
}

async fn carry_out(context: &Context, world: &World, decision: &rollout::Decision, drained: bool) -> Result<(), Error> {
    if let Some(service) = world.service.as_deref().filter(|service| owns_arms(world, service)) {
        let arms = services::arms(&world.canary, &world.selector(), service, world.primary_service.as_deref());
        services::ensure(&context.client, &arms.primary, world.primary_service.as_deref())
            .await
            .map_err(Error::Services)?;
        match &arms.canary {
            Some(canary) => {
                services::ensure(&context.client, canary, world.canary_service.as_deref())
                    .await
                    .map_err(Error::Services)?;
            }
            None => {
                let seen = world.canary_service.as_deref();
                services::delete(&context.client, &world.namespace, seen).await.map_err(Error::Services)?;
            }
        }
    }
    workload::ensure(&context.client, world, &decision.desired, decision.state.canary.as_ref(), drained).await?;
    Ok(())
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
            | rollout::Happening::Weight(_)
            | rollout::Happening::Held(_)
            | rollout::Happening::Shown { .. }
            | rollout::Happening::CheckFailed { .. } => {}
        }
    }
}
