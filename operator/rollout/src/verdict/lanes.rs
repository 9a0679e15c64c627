//! The four questions that are asked of each stratum, and the grids of alternatives that answer them.
//!
//! A lane turns the counts of one stratum into increments of log evidence, one per alternative. Error, SLO and crash
//! ask both "worse than stable?" and "bad at all?", and only the weaker answer counts.

use serde::{Deserialize, Serialize};

use super::config::{Config, FLOOR_OF_SLO};
use super::kernel::{self, Table};
use super::margins::Margins;

/// One question that is asked continuously.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Lane {
    /// Fails more often than stable, beyond the tolerated odds and a fifth of the SLO.
    ErrorRate,
    /// Above the SLO and worse than stable.
    SloError,
    /// Fails every fourth request or more, judged each second.
    Crash,
    /// Slower than stable at stable's own quantiles.
    Latency,
}

impl Lane {
    /// All lanes, in the order in which the engine keeps them.
    pub const ALL: [Self; LANES] = [Self::ErrorRate, Self::SloError, Self::Crash, Self::Latency];

    /// The share of α that the lane may spend; they sum to 1.
    #[must_use]
    pub const fn weight(self) -> f64 {
        match self {
            Self::ErrorRate => 0.30,
            Self::SloError => 0.20,
            Self::Crash => 0.10,
            Self::Latency => 0.40,
        }
    }

    /// The name in statuses and documents.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::ErrorRate => "error-rate",
            Self::SloError => "slo-error",
            Self::Crash => "crash",
            Self::Latency => "latency",
        }
    }
}

/// Number of lanes.
pub(crate) const LANES: usize = 4;
/// Latency thresholds: stable's quantiles.
pub(crate) const QUANTILES: [f64; 5] = [0.50, 0.75, 0.90, 0.95, 0.99];
/// Alternatives per latency threshold.
pub(crate) const LATENCY_GRID: usize = 7;
/// Components of the latency lane.
pub(crate) const LATENCY_PARTS: usize = QUANTILES.len() * LATENCY_GRID;

pub(crate) const ERROR_RATIOS: [f64; 9] = [1.6, 2.5, 4.0, 7.0, 12.0, 25.0, 60.0, 200.0, 1000.0];
const SLO_RATIOS: [f64; 10] = [1.3, 1.6, 2.5, 4.0, 7.0, 12.0, 25.0, 60.0, 200.0, 1000.0];
const CRASH_RATIOS: [f64; 5] = [2.0, 6.0, 20.0, 100.0, 1000.0];
/// Odds ratios of "slow".
pub(crate) const LATENCY_RATIOS: [f64; LATENCY_GRID] = [1.25, 1.6, 2.2, 3.2, 5.0, 10.0, 30.0];
const FLOOR_MULTIPLES: [f64; 9] = [2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 450.0];
pub(crate) const SLO_MULTIPLES: [f64; 9] = [1.5, 2.0, 3.0, 5.0, 8.0, 15.0, 30.0, 60.0, 95.0];
const CRASH_RATE: f64 = 0.25;
const CRASH_RATES: [f64; 5] = [0.35, 0.5, 0.7, 0.9, 0.99];
const CRASH_ODDS: f64 = 3.0;
/// No alternative failure rate lies above this one.
const HIGHEST_RATE: f64 = 0.95;

/// Increments of the two error lanes by one main stratum.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ErrorStep {
    pub(crate) error: [f64; 9],
    pub(crate) error_floor: [f64; 9],
    pub(crate) slo: [f64; 10],
    pub(crate) slo_floor: [f64; 9],
}

impl ErrorStep {
    /// `dispersion >= 1` tempers: it is the cluster size by which requests are taken to agree.
    pub(crate) fn new(table: Table, config: &Config, margins: &Margins, dispersion: f64) -> Self {
        let mut step = Self { error: [0.0; 9], error_floor: [0.0; 9], slo: [0.0; 10], slo_floor: [0.0; 9] };
        kernel::exact_grid(table, margins.error_odds, &ERROR_RATIOS, &mut step.error);
        kernel::exact_grid(table, margins.slo_odds, &SLO_RATIOS, &mut step.slo);
        let slo = config.slo_error_rate;
        multiples(table, slo * FLOOR_OF_SLO, &FLOOR_MULTIPLES, &mut step.error_floor);
        multiples(table, slo, &SLO_MULTIPLES, &mut step.slo_floor);
        temper(&mut step.error, dispersion);
        temper(&mut step.error_floor, dispersion);
        temper(&mut step.slo, dispersion);
        temper(&mut step.slo_floor, dispersion);
        step
    }
}

/// Increments of the crash lane by one crash stratum.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CrashStep {
    pub(crate) crash: [f64; 5],
    pub(crate) crash_floor: [f64; 5],
}

impl CrashStep {
    pub(crate) fn new(table: Table) -> Self {
        let mut step = Self { crash: [0.0; 5], crash_floor: [0.0; 5] };
        kernel::exact_grid(table, CRASH_ODDS, &CRASH_RATIOS, &mut step.crash);
        for (rate, out) in CRASH_RATES.iter().zip(&mut step.crash_floor) {
            *out = kernel::one_sample(table.canary_n, table.canary_k, CRASH_RATE, *rate);
        }
        step
    }
}

/// Increments of the latency lane by one main stratum: one table per threshold, each with its own dispersion.
pub(crate) fn latency_step(
    tables: &[Table; QUANTILES.len()],
    dispersion: &[f64; QUANTILES.len()],
) -> [f64; LATENCY_PARTS] {
    let mut out = [0.0; LATENCY_PARTS];
    for (i, (table, phi)) in tables.iter().zip(dispersion).enumerate() {
        let mut part = [0.0; LATENCY_GRID];
        kernel::exact_grid(*table, 1.0, &LATENCY_RATIOS, &mut part);
        temper(&mut part, *phi);
        out[i * LATENCY_GRID..(i + 1) * LATENCY_GRID].copy_from_slice(&part);
    }
    out
}

/// One-sample increments for the canary alone: alternatives are multiples of `p0`.
pub(crate) fn multiples<const N: usize>(table: Table, p0: f64, multiples: &[f64; N], out: &mut [f64; N]) {
    for (multiple, out) in multiples.iter().zip(out) {
        let p1 = (p0 * multiple).min(HIGHEST_RATE);
        *out = kernel::one_sample(table.canary_n, table.canary_k, p0, p1);
    }
}

fn temper(logs: &mut [f64], dispersion: f64) {
    for log in logs {
        *log /= dispersion;
    }
}
