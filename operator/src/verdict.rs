//! One `rollout::verdict` engine per Canary, fed each second from what the proxies counted. The leader only.
//!
//! Runs beside the passes and asks the API server for nothing: it reads caches and the publisher, and wakes a pass when
//! the verdict's word has changed or its journal is due. What a pass needs of it: [`Verdicts::judgement`], and for the
//! status [`Verdicts::status`]. A release is on trial from its first acknowledged weight until it leaves the journal.

use std::{
    collections::{HashMap, HashSet},
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use crds::{Canary, Phase, verdict::VerdictStatus};
use kube::{ResourceExt, runtime::reflector::ObjectRef};
use proxy_api::{latency, v1beta1::Route};
use rollout::{
    Failure, Judgement, Reason, State,
    verdict::{Buckets, Config, Decision, Engine, Journal, Mode, Release, Second, Verdict, Wait},
};
use tokio::time::MissedTickBehavior;

use crate::{caches::Caches, publish::Publisher, status, telemetry::Chain, validate, wakes::Waker};

/// How often engines are fed; proxies report as often.
const EVERY: Duration = Duration::from_secs(1);
/// The journal is written this often if nothing else is: so much evidence may be lost with an operator.
const JOURNAL_EVERY: Duration = Duration::from_secs(60);
/// Reports of the configuration before are expected for this many seconds after a change, and left out.
const TURNOVER_S: u32 = 5;

/// The engines, by uid of the Canary.
#[derive(Default)]
pub struct Verdicts {
    courts: Mutex<HashMap<String, Court>>,
}

/// One Canary's engine, and how far it was fed.
struct Court {
    engine: Engine,
    generation: Option<i64>,
    release: Option<Release>,
    /// The canary's share in force at every proxy, and the route's counter from which on it is.
    weight: u8,
    /// That share is one of an audience.
    audience: bool,
    since: u64,
    since_s: u32,
    /// Up to where the proxies' reports were taken.
    taken: u64,
    reason: &'static str,
    written: Instant,
}

impl Verdicts {
    /// Feeds every engine once a second, for ever.
    pub async fn run(&self, caches: &Caches, publisher: &Publisher, waker: &Waker) {
        let mut ticks = tokio::time::interval(EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let canaries = caches.canaries.state();
            let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            let unix_ms = u64::try_from(unix.as_millis()).unwrap_or(u64::MAX);
            let living: HashSet<&str> = canaries.iter().filter_map(|canary| canary.metadata.uid.as_deref()).collect();
            self.lock().retain(|uid, _| living.contains(uid.as_str()));
            for canary in &canaries {
                if self.feed(canary, publisher, unix_ms) {
                    waker.wake(&ObjectRef::from_obj(canary.as_ref()));
                }
            }
        }
    }

    /// One second of one Canary. True: its pass has something to do.
    pub fn feed(&self, canary: &Canary, publisher: &Publisher, unix_ms: u64) -> bool {
        let uid = canary.uid().unwrap_or_default();
        let mut courts = self.lock();
        let Some(route) = publisher.get(&uid) else { return false };
        if courts.get(&uid).is_none_or(|court| court.generation != canary.metadata.generation) {
            match (config(canary), courts.get_mut(&uid)) {
                (None, _) => drop(courts.remove(&uid)),
                (Some(config), Some(court)) => court.configure(config, canary.metadata.generation),
                // A Canary without traffic needs no engine, which takes some 150 KiB.
                (Some(_), None) if route.weight == 0 && !has_traffic(publisher, &uid) => {}
                (Some(config), None) => {
                    if let Some(court) = Court::new(config, canary.metadata.generation) {
                        courts.insert(uid.clone(), court);
                    }
                }
            }
        }
        courts.get_mut(&uid).is_some_and(|court| court.feed(canary, &route, publisher, unix_ms))
    }

    /// What the verdict says to a release that stands at `state`.
    #[must_use]
    pub fn judgement(&self, canary: &Canary, state: &State) -> Judgement {
        match self.verdict(canary, state) {
            None if config(canary).is_none_or(|config| config.mode != Mode::Enforce) => Judgement::NotAsked,
            None => Judgement::Open(collecting()),
            Some(verdict) if !verdict.enforced() => Judgement::NotAsked,
            Some(verdict) => {
                let next = state.steps.get(state.step + 1).and_then(|weight| u8::try_from(*weight).ok());
                match verdict.decision {
                    Decision::Rollback(cause) => Judgement::Condemned(Failure::Verdict(cause, verdict.sentence())),
                    _ if !self.is_at(canary, state) => Judgement::Open(collecting()),
                    Decision::Advance(ground) => {
                        let sentence = next.map_or_else(|| verdict.sentence(), |next| verdict.sentence_towards(next));
                        Judgement::Fine(ground, sentence)
                    }
                    Decision::Wait(wait) => Judgement::Open(Reason::Verdict(wait, verdict.sentence())),
                }
            }
        }
    }

    /// The verdict on the release of `state`, if that is on trial.
    #[must_use]
    pub fn verdict(&self, canary: &Canary, state: &State) -> Option<Verdict> {
        let courts = self.lock();
        let court = courts.get(&canary.uid()?)?;
        (court.release.as_ref()? == &release(state)?).then(|| court.engine.verdict())
    }

    /// For the status: the verdict of this moment, and its journal.
    #[must_use]
    pub fn status(&self, canary: &Canary, state: &State) -> Option<VerdictStatus> {
        let verdict = self.verdict(canary, state)?;
        let courts = self.lock();
        let journal = courts.get(&canary.uid()?)?.engine.journal().filter(|_| state.phase.is_release());
        Some(status::verdict(&verdict, journal.and_then(|journal| serde_json::to_value(journal).ok())))
    }

    /// Whether the journal has not been written for too long.
    #[must_use]
    pub fn is_due(&self, canary: &Canary, state: &State) -> bool {
        let courts = self.lock();
        let court = canary.uid().and_then(|uid| courts.get(&uid));
        court.is_some_and(|court| state.phase.is_release() && court.is_due())
    }

    /// The status was written.
    pub fn written(&self, canary: &Canary) {
        let uid = canary.uid().unwrap_or_default();
        if let Some(court) = self.lock().get_mut(&uid) {
            court.written = Instant::now();
        }
    }

    /// The engine has seen the weight of `state` in force.
    fn is_at(&self, canary: &Canary, state: &State) -> bool {
        let courts = self.lock();
        let court = canary.uid().and_then(|uid| courts.get(&uid));
        court.is_some_and(|court| u32::from(court.weight) == state.weight)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Court>> {
        self.courts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Court {
    fn new(config: Config, generation: Option<i64>) -> Option<Self> {
        let bounds = (0..latency::BUCKETS).map(|index| latency::lower_bound(index) as f64 / 1_000.0).collect();
        let buckets = Buckets::new(bounds).expect("the proxies' bounds rise");
        // What is refused here was refused by `validate`, which tells.
        let engine = Engine::new(config, buckets).ok()?;
        Some(Self {
            engine,
            generation,
            release: None,
            weight: 0,
            audience: false,
            since: 0,
            since_s: 0,
            taken: 0,
            reason: "",
            written: Instant::now(),
        })
    }

    fn configure(&mut self, config: Config, generation: Option<i64>) {
        if self.engine.configure(config).is_ok() {
            self.generation = generation;
        }
    }

    fn feed(&mut self, canary: &Canary, route: &Route, publisher: &Publisher, unix_ms: u64) -> bool {
        let (mut reports, taken) = publisher.reports(&route.uid, self.taken);
        self.taken = taken;
        let releasing = self.follow(canary, route, publisher.in_force(&route.uid, route.counter));
        self.since_s = self.since_s.saturating_add(1);
        if self.since_s <= TURNOVER_S {
            reports.retain(|report| report.arms.iter().any(|arm| arm.counter >= self.since));
        }
        self.engine.observe(&Second {
            unix_ms,
            weight_percent: self.weight,
            audience: self.audience,
            since_counter: self.since,
            canary_pods: pods(route, |listener| listener.canary.len()),
            stable_pods: pods(route, |listener| listener.stable.len()),
            proxies: u32::try_from(publisher.connected(&route.namespace).len()).unwrap_or(u32::MAX),
            reports: &reports,
        });
        let reason = self.engine.decision().reason();
        let changed = std::mem::replace(&mut self.reason, reason) != reason;
        releasing && (changed || self.is_due())
    }

    /// Takes over what is in force; whether a release is on trial.
    fn follow(&mut self, canary: &Canary, route: &Route, in_force: bool) -> bool {
        let phase = canary.status.as_ref().map(|status| status.phase).unwrap_or_default();
        let judged = matches!(phase, Phase::Progressing | Phase::Promoting);
        if !judged && self.release.take().is_some() {
            self.engine.end();
        }
        let weight = u8::try_from(route.weight.min(100)).unwrap_or(100);
        let audience = !route.audience.is_empty();
        if in_force && (weight, audience) != (self.weight, self.audience) {
            (self.weight, self.audience, self.since, self.since_s) = (weight, audience, route.counter, 0);
        }
        let release = Release { stable: route.stable_revision.clone(), canary: route.canary_revision.clone() };
        if self.weight > 0 && in_force && judged && self.release.as_ref() != Some(&release) {
            self.open(canary, release);
        }
        self.release.is_some()
    }

    /// Begins a trial, or goes on with the one that the status remembers.
    fn open(&mut self, canary: &Canary, release: Release) {
        let remembered = if self.release.is_none() { journal(canary) } else { None };
        self.engine.begin(release.clone());
        if let Some(journal) = remembered.filter(|journal| *journal.release() == release) {
            match self.engine.restore(&journal) {
                Ok(()) => {
                    tracing::info!(
                        k8s.namespace.name = canary.namespace(),
                        canary = canary.name_any(),
                        "verdict goes on with the evidence of its journal"
                    )
                }
                Err(error) => tracing::warn!(
                    k8s.namespace.name = canary.namespace(),
                    canary = canary.name_any(),
                    error = %Chain(&error),
                    "verdict begins anew"
                ),
            }
        }
        self.release = Some(release);
    }

    fn is_due(&self) -> bool {
        self.written.elapsed() >= JOURNAL_EVERY
    }
}

fn collecting() -> Reason {
    Reason::Verdict(Wait::CollectingData, "the first requests at this weight are awaited".to_owned())
}

/// None: off, or refused, which the pass tells.
fn config(canary: &Canary) -> Option<Config> {
    validate::verdict(&canary.spec).ok().filter(|config| config.mode != Mode::Off)
}

fn release(state: &State) -> Option<Release> {
    Some(Release { stable: state.stable.as_ref()?.0.clone(), canary: state.canary.as_ref()?.0.clone() })
}

fn journal(canary: &Canary) -> Option<Journal> {
    let journal = canary.status.as_ref()?.verdict.as_ref()?.journal.clone()?;
    serde_json::from_value(journal)
        .inspect_err(|error| {
            tracing::warn!(
                k8s.namespace.name = canary.namespace(),
                canary = canary.name_any(),
                error = %Chain(error),
                "journal of the verdict not readable"
            );
        })
        .ok()
}

fn has_traffic(publisher: &Publisher, uid: &str) -> bool {
    publisher.reports(uid, 0).0.iter().flat_map(|report| &report.arms).any(|arm| arm.started > 0)
}

fn pods(route: &Route, count: impl Fn(&proxy_api::v1beta1::Listener) -> usize) -> u32 {
    let split = route.listeners.iter().filter(|listener| listener.split);
    u32::try_from(split.map(count).max().unwrap_or(0)).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests;
