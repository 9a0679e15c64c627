//! The numbers behind a decision, read off the engine for statuses and sentences.
//!
//! Reads only; nothing here moves evidence.

use super::engine::{ALONE, Engine, leading_lane};
use super::kernel::Table;
use super::lanes::{Lane, QUANTILES};
use super::report::{Cause, Decision, LaneReport, Verdict, Wait};
use super::trial::Trial;
use super::words::{Counted, Facts, Slowness};

impl Engine {
    /// What the engine says now.
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        let decision = self.decision();
        let facts = match &self.decided {
            Some(decided) => decided.facts.clone(),
            None => self.facts(decision),
        };
        let lanes = Lane::ALL.map(|lane| match &self.trial {
            Some(trial) => self.lane_report(trial, lane),
            None => LaneReport::nothing(lane),
        });
        Verdict { decision, mode: self.config.mode, facts, lanes }
    }

    fn lane_report(&self, trial: &Trial, lane: Lane) -> LaneReport {
        let table = match lane {
            Lane::Latency => trial.slow_seen[trial.evidence.worst_quantile()],
            Lane::ErrorRate | Lane::SloError => trial.seen,
            // Its strata close earlier than those of the others: at a crash these have nothing yet.
            Lane::Crash => trial.evidence.leading(lane).map_or(trial.seen, |epoch| epoch.crash_seen),
        };
        let margin = match lane {
            Lane::ErrorRate => trial.margins.error_odds,
            Lane::SloError => trial.margins.slo_odds,
            Lane::Crash => 3.0,
            Lane::Latency => trial.margins.latency[trial.evidence.worst_quantile()],
        };
        let evidence = trial.lanes[lane as usize];
        let (canary, stable) = counted(table);
        LaneReport {
            name: lane.name().to_owned(),
            canary,
            stable,
            evidence_log10: evidence.log10(),
            share_percent: self.share(lane.weight() * evidence),
            dispersion: match lane {
                Lane::ErrorRate | Lane::SloError => trial.dispersion[0],
                Lane::Crash => 1.0,
                Lane::Latency => trial.dispersion[1],
            },
            margin,
        }
    }

    /// Share of the way to a rollback, in percent.
    fn share(&self, evidence: f64) -> u8 {
        (100.0 * evidence.ln() / self.config.bound()).clamp(0.0, 100.0) as u8
    }

    pub(super) fn facts(&self, decision: Decision) -> Facts {
        let Some(trial) = &self.trial else { return Facts::default() };
        let lane = leading_lane(&trial.lanes);
        let epoch = trial.evidence.leading(lane);
        let judged = match (decision, epoch) {
            (Decision::Rollback(_) | Decision::Wait(Wait::Suspicious), Some(epoch)) => Some(epoch),
            _ => None,
        };
        let by_seconds = decision == Decision::Rollback(Cause::Evidence(Lane::Crash));
        let (canary, stable) =
            counted(judged.map_or(trial.step.seen, |e| if by_seconds { e.crash_seen } else { e.seen }));
        let alone = trial.is_alone();
        let bound = self.config.bound();
        let odds = match decision {
            Decision::Rollback(Cause::Evidence(Lane::ErrorRate)) => {
                trial.odds_at_least(bound).max(trial.margins.error_odds)
            }
            Decision::Rollback(Cause::Evidence(_)) => trial.odds_at_least(bound).max(trial.margins.slo_odds),
            _ => 1.0,
        };
        let seen = trial.step.seen.canary_n;
        let needed = trial.step.requests_missing(&self.config, trial.expected_rate(), alone) + seen;
        let proxies = self.proxies.unwrap_or(0);
        let [started_stable, started_canary] = trial.step.started();
        let one_in = match decision {
            Decision::Rollback(Cause::Alone) => trial.alone().min(600.0).exp() / ALONE,
            _ => self.evidence,
        };
        Facts {
            weight_percent: trial.weight_percent,
            audience: trial.audience,
            seconds: judged.map_or(trial.step.seconds, |e| trial.second - e.since_s),
            canary,
            stable,
            odds_at_least: odds,
            one_in,
            evidence_percent: self.share(self.evidence),
            slowness: self.slowness(trial, judged.map_or(&trial.slow_seen, |e| &e.slow)),
            needed: (seen, needed),
            eta_s: (seen > 0 && needed > seen).then(|| (needed - seen) * trial.step.seconds / seen),
            slo_percent: 100.0 * self.config.slo_error_rate,
            confidence_percent: 100.0 * (1.0 - self.config.beta),
            silent: (proxies.saturating_sub(self.reading.heard), proxies, self.reading.silent_s),
            split: (started_canary, started_canary + started_stable),
            idle_s: trial.idle_s,
            no_traffic: Some((
                self.config.no_traffic,
                u64::from(self.config.no_traffic_seconds).saturating_sub(trial.idle_s),
            )),
            latency_margin_percent: 100.0 * (trial.margins.latency[SHOWN_QUANTILE] - 1.0),
            pods_known: self.history.correlation(0).is_some(),
            client_errors: trial.client_errors() >= bound,
        }
    }

    fn slowness(&self, trial: &Trial, slow: &[Table; QUANTILES.len()]) -> Option<Slowness> {
        let at = trial.evidence.worst_quantile();
        let cut = trial.cuts.as_ref()?.slow[at];
        let (canary, stable) = counted(slow[at]);
        let quantile = |arm: usize, q| self.buckets.quantile_ms(&trial.latency[arm], q);
        Some(Slowness {
            quantile_percent: (100.0 * QUANTILES[at]) as u8,
            stable_ms: self.buckets.lower_ms(cut.stable),
            tolerated_ms: self.buckets.lower_ms(cut.canary),
            canary,
            stable,
            medians_ms: quantile(1, 0.5).zip(quantile(0, 0.5)),
            canary_ms: quantile(1, QUANTILES[at]),
        })
    }
}

/// The quantile whose margin is named: p95.
const SHOWN_QUANTILE: usize = 3;

fn counted(table: Table) -> (Counted, Counted) {
    (Counted { bad: table.canary_k, total: table.canary_n }, Counted { bad: table.stable_k, total: table.stable_n })
}
