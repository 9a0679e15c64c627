//! The evidence of harm: e-processes of four lanes, started at several times, mixed into one number.
//!
//! Each *epoch* holds one e-process per lane that began at a certain minute, so that a canary that goes bad late is
//! not protected by its healthy past (e-detectors: Shin, Ramdas and Rinaldo 2022). At most [`LIVE`] epochs grow; of
//! more, one is *frozen* at its value, which a stopped e-process allows. Values only; the order of calls is the
//! engine's.

use std::ops::Range;

use serde::{Deserialize, Serialize};

use super::kernel::{Table, mixture};
use super::lanes::{CrashStep, ErrorStep, LANES, LATENCY_PARTS, Lane, QUANTILES};

/// Epochs that may grow at once.
pub(crate) const LIVE: usize = 16;
/// Epochs that a journal carries; the others are frozen into it.
pub(crate) const JOURNALLED: usize = 4;
/// Log evidence is kept below this, so that sums of ratios stay finite.
const HIGHEST: f64 = 600.0;

/// Where the parts of an epoch lie among its logarithms: against stable and by itself for error, SLO and crash, and
/// latency.
const PARTS: [Range<usize>; 7] = [0..9, 9..18, 18..28, 28..37, 37..42, 42..47, 47..LOGS];
/// Logarithms per epoch.
const LOGS: usize = 47 + LATENCY_PARTS;

/// One e-process per lane, all begun at the same time: log likelihood ratios per alternative.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Epoch {
    /// Which epoch of the release this is; the first is 0.
    index: u32,
    #[serde(with = "all_logs")]
    logs: [f64; LOGS],
    /// The mixture of each part, kept because it is asked for each second.
    #[serde(skip)]
    mixed: [f64; PARTS.len()],
    /// Second of the release in which it began.
    pub(crate) since_s: u64,
    /// Requests and errors since then.
    pub(crate) seen: Table,
    /// The same in crash strata, which close earlier.
    pub(crate) crash_seen: Table,
    /// Requests and slow ones since then, per quantile.
    pub(crate) slow: [Table; QUANTILES.len()],
}

impl Epoch {
    fn new(index: u32, since_s: u64) -> Self {
        Self {
            index,
            logs: [0.0; LOGS],
            mixed: [0.0; PARTS.len()],
            since_s,
            seen: Table::default(),
            crash_seen: Table::default(),
            slow: [Table::default(); QUANTILES.len()],
        }
    }

    /// The share of the evidence that this epoch was given when it started: 1/2, then 1/(2j(j+1)).
    fn share(&self) -> f64 {
        share(self.index)
    }

    fn log(&self, lane: Lane) -> f64 {
        let [error, error_floor, slo, slo_floor, crash, crash_floor, latency] = self.mixed;
        match lane {
            Lane::ErrorRate => error.min(error_floor),
            Lane::SloError => slo.min(slo_floor),
            Lane::Crash => crash.min(crash_floor),
            Lane::Latency => latency,
        }
    }

    fn latency(&self) -> &[f64] {
        &self.logs[PARTS[6].clone()]
    }

    /// Adds increments to the parts from `first` on.
    fn add<const N: usize>(&mut self, first: usize, steps: [&[f64]; N], cap: f64) {
        for (at, step) in steps.into_iter().enumerate() {
            let part = first + at;
            add_mixed(&mut self.logs[PARTS[part].clone()], step, cap, &mut self.mixed[part]);
        }
    }

    fn mix(&mut self) {
        for (part, mixed) in PARTS.into_iter().zip(&mut self.mixed) {
            *mixed = mixture(&self.logs[part]);
        }
    }
}

fn share(index: u32) -> f64 {
    let j = f64::from(index);
    if index == 0 { 0.5 } else { 0.5 / (j * (j + 1.0)) }
}

/// All evidence of harm of one release.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Evidence {
    epochs: Vec<Epoch>,
    /// Per lane, the weighted value of the epochs that no longer grow.
    frozen: [f64; LANES],
    /// Index of the next epoch to start.
    next: u32,
}

impl Evidence {
    /// Nothing known yet; the first epoch has begun.
    pub(crate) fn new() -> Self {
        let mut epochs = Vec::with_capacity(LIVE + 1);
        epochs.push(Epoch::new(0, 0));
        Self { epochs, frozen: [0.0; LANES], next: 1 }
    }

    /// A main stratum's errors, in every epoch; `cap` bounds what each lane may gain.
    pub(crate) fn add_errors(&mut self, table: Table, step: &ErrorStep, cap: f64) {
        for epoch in &mut self.epochs {
            epoch.seen.add(table);
            epoch.add(0, [&step.error, &step.error_floor, &step.slo, &step.slo_floor], cap);
        }
    }

    /// A main stratum's latencies, in every epoch.
    pub(crate) fn add_latency(&mut self, tables: &[Table; QUANTILES.len()], step: &[f64; LATENCY_PARTS], cap: f64) {
        for epoch in &mut self.epochs {
            epoch.slow.iter_mut().zip(tables).for_each(|(sum, table)| sum.add(*table));
            epoch.add(6, [step], cap);
        }
    }

    /// A crash stratum, in every epoch. No cap: a canary that fails everything for a second is taken off, by design.
    pub(crate) fn add_crash(&mut self, table: Table, step: &CrashStep) {
        for epoch in &mut self.epochs {
            epoch.crash_seen.add(table);
            epoch.add(4, [&step.crash, &step.crash_floor], f64::INFINITY);
        }
    }

    /// Begins one more epoch; beyond [`LIVE`] the one that is missed least stops growing.
    pub(crate) fn start_epoch(&mut self, second: u64) {
        self.epochs.push(Epoch::new(self.next, second));
        self.next = self.next.saturating_add(1);
        self.thin(LIVE);
    }

    /// Freezes epochs until `most` are left: each time the one whose neighbours are nearest in age, so that the ages of
    /// those left form a geometric ladder. The first and the newest stay.
    fn thin(&mut self, most: usize) {
        while self.epochs.len() > most.max(2) {
            let now = f64::from(self.next);
            let age = |e: &Epoch| now - f64::from(e.index);
            let gap = |i: usize| age(&self.epochs[i - 1]) / age(&self.epochs[i + 1]);
            let nearest = (1..self.epochs.len() - 1)
                .min_by(|a, b| gap(*a).total_cmp(&gap(*b)))
                .expect("three epochs have one in the middle");
            let epoch = self.epochs.remove(nearest);
            for (lane, frozen) in Lane::ALL.into_iter().zip(&mut self.frozen) {
                *frozen += epoch.share() * epoch.log(lane).min(HIGHEST).exp();
            }
        }
    }

    /// Evidence of one lane as a ratio; its mean under a tolerable canary is at most 1.
    pub(crate) fn lane(&self, lane: Lane) -> f64 {
        let live: f64 = self.epochs.iter().map(|e| e.share() * e.log(lane).min(HIGHEST).exp()).sum();
        // Not yet started epochs count as 1; all shares sum to 1, and 1/2 - Σ 1/(2j(j+1)) telescopes.
        let waiting = 0.5 / f64::from(self.next);
        self.frozen[lane as usize] + live + waiting
    }

    /// The evidence of the release: the crash lane has its own clock and thus its own share of α, the others are
    /// averaged.
    pub(crate) fn total(lanes: &[f64; LANES]) -> f64 {
        let [error, slo, crash, latency] = *lanes;
        let weighed =
            Lane::ErrorRate.weight() * error + Lane::SloError.weight() * slo + Lane::Latency.weight() * latency;
        weighed.max(Lane::Crash.weight() * crash)
    }

    /// The latency threshold whose alternatives hold most of the evidence, as an index into the quantiles.
    pub(crate) fn worst_quantile(&self) -> usize {
        let mut best = (0, f64::NEG_INFINITY);
        for epoch in &self.epochs {
            for (i, log) in epoch.latency().iter().enumerate() {
                let weighed = log + epoch.share().ln();
                if weighed > best.1 {
                    best = (i / super::lanes::LATENCY_GRID, weighed);
                }
            }
        }
        best.0
    }

    /// The epoch that holds most of a lane's evidence.
    pub(crate) fn leading(&self, lane: Lane) -> Option<&Epoch> {
        let weight = |epoch: &Epoch| epoch.share().ln() + epoch.log(lane);
        self.epochs.iter().max_by(|a, b| weight(a).total_cmp(&weight(b)))
    }

    /// A copy small enough for a status: the ladder thinned, each number rounded down (which keeps it valid).
    pub(crate) fn journalled(&self) -> Self {
        let mut copy = self.clone();
        copy.thin(JOURNALLED);
        for epoch in &mut copy.epochs {
            epoch.logs.iter_mut().for_each(|log| *log = (*log * 1e4).floor() / 1e4);
            epoch.mix();
        }
        copy
    }

    /// Whether numbers that came from outside can be used.
    pub(crate) fn is_sound(&self) -> bool {
        let usable = |log: &f64| log.is_finite() && *log <= 1e6;
        let rising = self.epochs.windows(2).all(|w| w[0].index < w[1].index);
        (1..=LIVE).contains(&self.epochs.len())
            && rising
            && self.epochs.last().is_some_and(|e| e.index < self.next)
            && self.frozen.iter().all(|f| f.is_finite() && *f >= 0.0)
            && self.epochs.iter().flat_map(|e| &e.logs).all(usable)
    }

    /// After reading a journal: recomputes what it does not carry, and makes room, so that memory never grows later.
    pub(crate) fn resume(&mut self) {
        self.epochs.iter_mut().for_each(Epoch::mix);
        self.epochs.reserve(LIVE + 1 - self.epochs.len());
    }
}

/// Adds one stratum's increments; what the mixture gains beyond `cap` is taken off every part again.
pub(crate) fn add(logs: &mut [f64], step: &[f64], cap: f64) {
    add_mixed(logs, step, cap, &mut mixture(logs));
}

/// [`add`] where the mixture is known, which is then kept up to date.
fn add_mixed(logs: &mut [f64], step: &[f64], cap: f64, mixed: &mut f64) {
    if step.iter().all(|s| *s == 0.0) {
        return;
    }
    for (log, step) in logs.iter_mut().zip(step) {
        *log += step;
    }
    let after = mixture(logs);
    let excess = (after - *mixed - cap).max(0.0);
    if excess > 0.0 {
        logs.iter_mut().for_each(|log| *log -= excess);
    }
    *mixed = after - excess;
}

/// serde knows arrays up to 32.
mod all_logs {
    use serde::{Deserialize, Deserializer, Serializer, de::Error as _};

    use super::LOGS;

    pub(super) fn serialize<S: Serializer>(logs: &[f64; LOGS], to: S) -> Result<S::Ok, S::Error> {
        to.collect_seq(logs)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<[f64; LOGS], D::Error> {
        let logs = Vec::<f64>::deserialize(from)?;
        <[f64; LOGS]>::try_from(logs).map_err(|_| D::Error::custom("an epoch has 82 logarithms"))
    }
}
