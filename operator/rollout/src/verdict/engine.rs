//! The engine of one Canary: takes seconds, holds on bad input, says what is to happen.
//!
//! It decides in this order: evidence of harm, then what makes the input unusable, then what makes the arms
//! incomparable, then whether the step has its own evidence. Bad input never moves evidence in either direction.

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::buckets::Buckets;
use super::config::{Config, ConfigError, Mode, Policy, SPLIT_FAULT, SUSPICION, WEAK_REQUESTS};
use super::counters::{Arm, Delta, PROXIES, Second};
use super::evidence::Evidence;
use super::history::{History, METRICS};
use super::lanes::{LANES, Lane};
use super::ledger::{Ledger, Reading};
use super::report::{Advance, Cause, Decision, Wait};
use super::trial::{Release, Trial};
use super::words::Facts;

/// What a second came with, besides its counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Circumstances {
    /// Seconds since the last call.
    pub elapsed_s: u32,
    /// The canary's share of traffic, 0 to 100.
    pub weight_percent: u8,
    /// That share is one of an audience, which stable's requests are not.
    pub audience: bool,
    /// Ready pods of the canary.
    pub canary_pods: u32,
}

/// The evidence of a release, for `Canary.status`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Journal {
    version: u32,
    trial: Trial,
    correlation: [f64; METRICS],
    decided: Option<Decided>,
}

/// A journal that cannot be carried on; begin the release anew.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum JournalError {
    /// Written by another version of the engine.
    #[error("the journal of the verdict has version {0}, not {JOURNAL_VERSION}")]
    Version(u32),
    /// A number that the engine never writes.
    #[error("the journal of the verdict holds impossible numbers")]
    Unsound,
}

impl Journal {
    /// Whose evidence it is.
    #[must_use]
    pub const fn release(&self) -> &Release {
        &self.trial.release
    }
}

const JOURNAL_VERSION: u32 = 2;
/// A longer silence of the caller is a jump of its clock.
const LONGEST_SECOND_MS: u64 = 10_000;
/// Seconds for which a step does not advance after bad input.
const TROUBLE_S: u32 = 10;
/// Seconds without requests after which that is named.
const IDLE_S: u64 = 30;
/// The share of α that the canary's errors alone may spend at full weight, on top.
pub(super) const ALONE: f64 = 10.0;

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Decided {
    cause: Cause,
    pub(super) facts: Facts,
}

/// Judges the releases of one Canary; lives as long as it.
#[derive(Clone, Debug)]
pub struct Engine {
    pub(super) config: Config,
    pub(super) buckets: Buckets,
    pub(super) history: History,
    pub(super) ledger: Ledger,
    delta: Delta,
    pub(super) trial: Option<Trial>,
    pub(super) decided: Option<Decided>,
    /// Evidence of harm as a ratio.
    pub(super) evidence: f64,
    last_ms: Option<u64>,
    /// Milliseconds that are not yet a whole second.
    rest_ms: u64,
    /// Bad input, and for how many more seconds it keeps a step from advancing.
    trouble: Option<(Wait, u32)>,
    pub(super) reading: Reading,
    /// Proxies that should report; `None` before any second was observed.
    pub(super) proxies: Option<u32>,
    weight_percent: u8,
    canary_pods: u32,
}

impl Engine {
    /// An engine that knows nothing yet. `buckets` are the bounds of the proxies' latency histogram.
    ///
    /// # Errors
    /// The first field of `config` outside its range.
    pub fn new(config: Config, buckets: Buckets) -> Result<Self, ConfigError> {
        config.validate()?;
        Ok(Self {
            history: History::new(&buckets),
            ledger: Ledger::new(buckets.count()),
            delta: Delta::default(),
            trial: None,
            decided: None,
            evidence: 1.0,
            last_ms: None,
            rest_ms: 0,
            trouble: None,
            reading: Reading::default(),
            proxies: None,
            weight_percent: 0,
            canary_pods: 0,
            config,
            buckets,
        })
    }

    /// Other choices of the user, from here on; margins follow with the next weight.
    ///
    /// # Errors
    /// The first field of `config` outside its range; the engine is then as before.
    pub fn configure(&mut self, config: Config) -> Result<(), ConfigError> {
        config.validate()?;
        self.config = config;
        Ok(())
    }

    /// Begins a release; the same release again changes nothing.
    pub fn begin(&mut self, release: Release) {
        if self.trial.as_ref().is_some_and(|t| t.release == release) {
            return;
        }
        self.end();
        self.ledger.follow(&release.stable, &release.canary);
        let mut trial = Trial::new(release, &self.config, &self.history);
        trial.resume(&self.buckets);
        self.trial = Some(trial);
    }

    /// Carries on a release from a journal of an earlier process. The seconds in between are not counted.
    ///
    /// # Errors
    /// [`JournalError`]; the engine is then as before.
    pub fn restore(&mut self, journal: &Journal) -> Result<(), JournalError> {
        let Journal { version, trial, correlation, decided } = journal;
        if *version != JOURNAL_VERSION {
            return Err(JournalError::Version(*version));
        }
        if !trial.is_sound(&self.buckets) || !correlation.iter().all(|rho| (0.0..=1.0).contains(rho)) {
            return Err(JournalError::Unsound);
        }
        self.end();
        self.ledger.follow(&trial.release.stable, &trial.release.canary);
        self.history.carried(*correlation);
        let mut trial = trial.clone();
        trial.resume(&self.buckets);
        if let Some(cuts) = &trial.cuts {
            self.history.keep(cuts.slow.map(|c| c.stable));
        }
        self.evidence = trial.weigh();
        self.trial = Some(trial);
        self.decided.clone_from(decided);
        Ok(())
    }

    /// Ends a release; what is known of stable stays.
    pub fn end(&mut self) {
        if self.trial.take().is_some() {
            self.history.unpin();
        }
        self.decided = None;
        self.evidence = 1.0;
        self.trouble = None;
    }

    /// What a restart needs; `None` without a release.
    #[must_use]
    pub fn journal(&self) -> Option<Journal> {
        self.trial.as_ref().map(|trial| Journal {
            version: JOURNAL_VERSION,
            trial: trial.journalled(),
            correlation: self.history.carry(),
            decided: self.decided.clone(),
        })
    }

    /// Takes what was learned in one second.
    pub fn observe(&mut self, second: &Second<'_>) {
        if self.config.mode == Mode::Off {
            return;
        }
        if self.trial.is_none() {
            self.ledger.watch();
        }
        let elapsed_s = self.elapsed(second.unix_ms);
        let mut delta = std::mem::take(&mut self.delta);
        delta.clear();
        self.reading = self.ledger.read(second, elapsed_s, &mut delta);
        self.proxies = Some(second.proxies.min(PROXIES as u32));
        self.note_trouble(elapsed_s);
        if self.reading.new_stable {
            self.history.clear();
        }
        let now = Circumstances {
            elapsed_s,
            weight_percent: second.weight_percent.min(100),
            audience: second.audience,
            canary_pods: second.canary_pods,
        };
        if self.is_unheard()
            && let Some(trial) = &mut self.trial
        {
            // Not to hear of requests is not to have none.
            trial.idle_s = 0;
        }
        self.absorb(&delta, now);
        self.delta = delta;
    }

    /// Takes one second that is already counted; [`Engine::observe`] does this with what the reports say.
    pub fn absorb(&mut self, delta: &Delta, now: Circumstances) {
        self.weight_percent = now.weight_percent;
        self.canary_pods = now.canary_pods;
        let judged = now.weight_percent > 0 && self.decided.is_none();
        if let Some(trial) = &mut self.trial
            && judged
        {
            if now.canary_pods == 0 {
                trial.discard_open();
            } else if trial.pass(delta, now, &self.config, &self.buckets, &mut self.history) {
                self.evidence = trial.weigh();
                self.judge();
            }
        }
        self.history.add(delta, now.elapsed_s);
        self.age_suspicion(u64::from(now.elapsed_s));
    }

    /// Whole seconds since the last call. A clock that runs back or leaps makes this second count for nothing.
    fn elapsed(&mut self, unix_ms: u64) -> u32 {
        let Some(last) = self.last_ms.replace(unix_ms) else { return 1 };
        match unix_ms.checked_sub(last) {
            Some(passed) if passed <= LONGEST_SECOND_MS => {
                let total = self.rest_ms + passed;
                self.rest_ms = total % 1_000;
                (total / 1_000) as u32
            }
            _ => {
                self.rest_ms = 0;
                self.ledger.rebase();
                if let Some(trial) = &mut self.trial {
                    trial.discard_open();
                }
                self.trouble = Some((Wait::ClockJumped, TROUBLE_S));
                1
            }
        }
    }

    fn note_trouble(&mut self, elapsed_s: u32) {
        self.trouble =
            self.trouble.and_then(|(wait, left)| Some((wait, left.checked_sub(elapsed_s).filter(|l| *l > 0)?)));
        if self.reading.broken > 0 {
            self.trouble = Some((Wait::BrokenCounters, TROUBLE_S));
        } else if self.reading.stale > 0 && self.reading.counted == 0 && self.trouble.is_none() {
            self.trouble = Some((Wait::StaleConfig, 2));
        }
    }

    /// Latches a rollback as soon as the evidence is there.
    fn judge(&mut self) {
        let Some(trial) = &self.trial else { return };
        let bound = self.config.bound();
        let cause = if self.evidence.ln() >= bound {
            Some(Cause::Evidence(leading_lane(&trial.lanes)))
        } else if trial.alone() >= bound + ALONE.ln() {
            Some(Cause::Alone)
        } else {
            None
        };
        if let Some(cause) = cause {
            self.decide(cause);
        }
    }

    fn decide(&mut self, cause: Cause) {
        let facts = self.facts(Decision::Rollback(cause));
        self.decided = Some(Decided { cause, facts });
    }

    /// Policies that take a canary off after a time.
    fn age_suspicion(&mut self, elapsed_s: u64) {
        let Some(trial) = &mut self.trial else { return };
        trial.suspicious_s = if self.evidence >= SUSPICION { trial.suspicious_s + elapsed_s } else { 0 };
        if self.decided.is_some() || self.weight_percent == 0 {
            return;
        }
        let shared = u64::from(self.config.shared_degradation_seconds);
        let cause = if trial.suspicious_s >= u64::from(self.config.suspicion_deadline_seconds) {
            Cause::SuspicionDeadline
        } else if shared > 0 && trial.degraded_s >= shared {
            Cause::SharedDegradation
        } else {
            match self.decision() {
                Decision::Rollback(cause) => cause,
                Decision::Advance(_) | Decision::Wait(_) => return,
            }
        };
        self.decide(cause);
    }

    /// What is to happen, without the numbers behind it.
    #[must_use]
    pub fn decision(&self) -> Decision {
        if let Some(decided) = &self.decided {
            return Decision::Rollback(decided.cause);
        }
        if self.config.mode == Mode::Off {
            return Decision::Wait(Wait::Off);
        }
        let Some(trial) = &self.trial else { return Decision::Wait(Wait::Idle) };
        if self.weight_percent == 0 {
            return Decision::Wait(Wait::Idle);
        }
        match self.hindrance(trial) {
            Some(Wait::NoTraffic) => self.without_traffic(trial),
            Some(wait) => Decision::Wait(wait),
            None => self.step_decision(trial),
        }
    }

    /// Whether proxies that should report do not. One that is gone is no silent one; without any, nothing is known.
    fn is_unheard(&self) -> bool {
        self.proxies.is_some_and(|proxies| proxies == 0 || self.reading.heard < proxies)
    }

    /// What keeps a step from advancing whatever it has seen.
    fn hindrance(&self, trial: &Trial) -> Option<Wait> {
        if let Some((wait, _)) = self.trouble {
            return Some(wait);
        }
        let weight = f64::from(self.weight_percent) / 100.0;
        let [canary, stable] = [Arm::Canary, Arm::Stable].map(|arm| self.ledger.in_flight(arm) as f64);
        let share = weight / (1.0 - weight).max(0.01);
        let checks = [
            (self.is_unheard(), Wait::MetricsUnavailable),
            (self.canary_pods == 0, Wait::NoEndpoints),
            (trial.idle_s >= IDLE_S, Wait::NoTraffic),
            (trial.split_fault >= SPLIT_FAULT.ln(), Wait::TrafficSplitMismatch),
            (trial.degraded_s > 0, Wait::SharedDegradation),
            (self.evidence >= SUSPICION, Wait::Suspicious),
            (trial.stable_degraded, Wait::StableDegraded),
            (self.weight_percent < 100 && canary > 10.0 + 5.0 * stable * share, Wait::Hanging),
        ];
        checks.into_iter().find_map(|(holds, wait)| holds.then_some(wait))
    }

    fn without_traffic(&self, trial: &Trial) -> Decision {
        if trial.idle_s < u64::from(self.config.no_traffic_seconds) {
            return Decision::Wait(Wait::NoTraffic);
        }
        match self.config.no_traffic {
            Policy::Hold => Decision::Wait(Wait::NoTraffic),
            Policy::Advance => Decision::Advance(Advance::NoTraffic),
            Policy::Rollback => Decision::Rollback(Cause::NoTraffic),
        }
    }

    fn step_decision(&self, trial: &Trial) -> Decision {
        let step = &trial.step;
        let collecting = Decision::Wait(Wait::CollectingData);
        if step.seconds < u64::from(self.config.min_step_seconds) {
            return collecting;
        }
        let alone = trial.is_alone();
        let enough = -self.config.beta.ln();
        if step.errors_fine(alone) >= enough && (alone || step.latency_fine() >= enough) {
            return Decision::Advance(Advance::NonInferior);
        }
        if step.seconds < u64::from(self.config.max_step_seconds) || step.seen.canary_n < WEAK_REQUESTS {
            return collecting;
        }
        match self.config.weak_evidence {
            Policy::Advance => Decision::Advance(Advance::WeakEvidence),
            Policy::Hold => collecting,
            Policy::Rollback => Decision::Rollback(Cause::WeakEvidence),
        }
    }

    /// Evidence of harm as a ratio; 1/α takes the canary off.
    #[must_use]
    pub const fn evidence(&self) -> f64 {
        self.evidence
    }
}

/// The lane that brings most of the evidence that counts.
pub(super) fn leading_lane(lanes: &[f64; LANES]) -> Lane {
    let [error, slo, _, latency] = *lanes;
    let crash = Evidence::total(&[0.0, 0.0, lanes[Lane::Crash as usize], 0.0]);
    if crash >= Evidence::total(&[error, slo, 0.0, latency]) {
        return Lane::Crash;
    }
    [Lane::ErrorRate, Lane::SloError, Lane::Latency]
        .into_iter()
        .max_by(|a, b| {
            let weighed = |lane: Lane| lane.weight() * lanes[lane as usize];
            weighed(*a).total_cmp(&weighed(*b))
        })
        .unwrap_or(Lane::ErrorRate)
}
