//! The engine of one Canary: takes seconds, holds on bad input, says what is to happen.
//!
//! It decides in this order: evidence of harm, then what makes the input unusable, then what makes the arms
//! incomparable, then whether the step has its own evidence (the last three: `decision`). Bad input never moves evidence in
//! either direction. What survives a restart is `journal`.

mod decision;
mod journal;

use serde::{Deserialize, Serialize};

use super::buckets::Buckets;
use super::config::{Config, ConfigError, Mode, SUSPICION};
use super::counters::{Delta, PROXIES, Second};
use super::evidence::Evidence;
use super::history::History;
use super::lanes::{LANES, Lane};
use super::ledger::{Ledger, Reading};
use super::report::{Cause, Decision, Wait};
use super::trial::{Release, Trial};
use super::words::Facts;
pub use journal::{Journal, JournalError};

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

/// A longer silence of the caller is a jump of its clock.
const LONGEST_SECOND_MS: u64 = 10_000;
/// Seconds for which a step does not advance after bad input.
const TROUBLE_S: u32 = 10;
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

    /// Ends a release; what is known of stable stays.
    pub fn end(&mut self) {
        if self.trial.take().is_some() {
            self.history.unpin();
        }
        self.decided = None;
        self.evidence = 1.0;
        self.trouble = None;
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

    /// Whether proxies that should report do not. One that is gone is no silent one; without any, nothing is known.
    fn is_unheard(&self) -> bool {
        self.proxies.is_some_and(|proxies| proxies == 0 || self.reading.heard < proxies)
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
