//! What is to happen now: whether anything keeps a step from advancing, and else whether it has its own evidence.

use super::Engine;
use crate::verdict::config::{Mode, Policy, SPLIT_FAULT, SUSPICION, WEAK_REQUESTS};
use crate::verdict::counters::Arm;
use crate::verdict::report::{Advance, Cause, Decision, Wait};
use crate::verdict::trial::Trial;

/// Seconds without requests after which that is named.
const IDLE_S: u64 = 30;

impl Engine {
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
}
