//! What came of all runs of a cell, and the work of getting there.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use rollout::verdict::Buckets;

use crate::catalogue::Cell;
use crate::run::{End, Outcome, run};

/// Outcomes by cell.
#[derive(Debug, Default)]
pub(crate) struct Results {
    cells: Vec<(Cell, Vec<Outcome>)>,
}

/// A seed that depends on the world and on the run only, so that a smaller set is a part of the larger one.
fn seed(base: u64, cell: &Cell, run: u32) -> u64 {
    let text = format!("{:?} {}", cell.world, cell.rps);
    let hash = text.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3));
    base.wrapping_add(hash).wrapping_add(u64::from(run).wrapping_mul(0x9e37_79b9_7f4a_7c15))
}

/// Runs per piece of work.
const PIECE: u32 = 25;

impl Results {
    /// Runs every cell on `threads` threads; `progress` hears how many runs of how many are done.
    pub(crate) fn compute(
        cells: &[(Cell, u32)],
        base: u64,
        threads: usize,
        buckets: &Buckets,
        progress: impl Fn(usize, usize) + Sync,
    ) -> Self {
        let mut pieces = Vec::new();
        for (at, (cell, runs)) in cells.iter().enumerate() {
            for from in (0..*runs).step_by(PIECE as usize) {
                pieces.push((at, *cell, from, (from + PIECE).min(*runs)));
            }
        }
        // Long runs first, so that no thread is left with one at the end.
        pieces.sort_by_key(|(_, cell, ..)| std::cmp::Reverse(cell.rps));
        let total = cells.iter().map(|(_, runs)| *runs as usize).sum();
        let (next, done) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let outcomes: Vec<Mutex<Vec<(u32, Outcome)>>> = cells.iter().map(|_| Mutex::default()).collect();
        std::thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(|| {
                    while let Some((at, cell, from, to)) = pieces.get(next.fetch_add(1, Ordering::Relaxed)).copied() {
                        let part: Vec<_> = (from..to)
                            .map(|r| {
                                (
                                    r,
                                    run(
                                        cell.world,
                                        f64::from(cell.rps),
                                        cell.plan,
                                        cell.judge,
                                        buckets,
                                        seed(base, &cell, r),
                                    ),
                                )
                            })
                            .collect();
                        outcomes[at].lock().expect("no run panics").extend(part);
                        let done = done.fetch_add((to - from) as usize, Ordering::Relaxed) + (to - from) as usize;
                        progress(done, total);
                    }
                });
            }
        });
        let ordered = |outcomes: Mutex<Vec<(u32, Outcome)>>| {
            let mut outcomes = outcomes.into_inner().expect("no run panics");
            outcomes.sort_by_key(|(run, _)| *run);
            outcomes.into_iter().map(|(_, outcome)| outcome).collect()
        };
        Self { cells: cells.iter().map(|(cell, _)| *cell).zip(outcomes.into_iter().map(ordered)).collect() }
    }

    /// The outcomes of a cell; empty if it was not run.
    pub(crate) fn of(&self, cell: Cell) -> Summary<'_> {
        let found = self.cells.iter().find(|(c, _)| *c == cell);
        Summary { outcomes: found.map_or(&[], |(_, outcomes)| outcomes) }
    }
}

/// Numbers of one cell.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Summary<'a> {
    outcomes: &'a [Outcome],
}

impl Summary<'_> {
    pub(crate) const fn runs(&self) -> usize {
        self.outcomes.len()
    }

    pub(crate) fn rolled_back(&self) -> usize {
        self.outcomes.iter().filter(|o| o.end == End::RolledBack).count()
    }

    pub(crate) fn rolled_back_percent(&self) -> f64 {
        100.0 * self.rolled_back() as f64 / self.runs().max(1) as f64
    }

    /// Seconds to the rollback at quantile `q` of all runs; a run without one counts as longer than any.
    pub(crate) fn detection_s(&self, q: f64) -> Option<f64> {
        let mut seconds: Vec<f64> = self
            .outcomes
            .iter()
            .map(|o| if o.end == End::RolledBack { f64::from(o.seconds) } else { f64::INFINITY })
            .collect();
        quantile(&mut seconds, q).filter(|s| s.is_finite())
    }

    /// Seconds to whatever end at quantile `q`.
    pub(crate) fn end_s(&self, q: f64) -> Option<f64> {
        quantile(&mut self.outcomes.iter().map(|o| f64::from(o.seconds)).collect::<Vec<_>>(), q)
    }

    /// Median of failed canary requests over the runs that were rolled back.
    pub(crate) fn failed(&self) -> Option<f64> {
        let back = self.outcomes.iter().filter(|o| o.end == End::RolledBack);
        quantile(&mut back.map(|o| o.failed as f64).collect::<Vec<_>>(), 0.5)
    }

    /// Mean of failed canary requests over all runs.
    pub(crate) fn mean_failed(&self) -> f64 {
        self.outcomes.iter().map(|o| o.failed as f64).sum::<f64>() / self.runs().max(1) as f64
    }
}

fn quantile(values: &mut [f64], q: f64) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let rank = (q * values.len() as f64).ceil() as usize;
    values.get(rank.saturating_sub(1)).copied()
}
