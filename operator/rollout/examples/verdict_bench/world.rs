//! The worlds: Poisson arrivals, lognormal latency (median 100 ms, σ 0.6), four stable pods and one canary pod.
//!
//! A world is healthy (the canary is no worse than tolerated) or harmful (it is, from a certain second on); both may
//! have bursts, incidents, cold starts and odd pods.

use std::collections::HashMap;
use std::rc::Rc;

use rollout::verdict::{Buckets, Delta};

use crate::random::{Random, normal_below};

/// Stable's pods; the canary has one.
pub(crate) const STABLE_PODS: usize = 4;
const CANARY: usize = STABLE_PODS;
const MEDIAN_MS: f64 = 100.0;
const SIGMA: f64 = 0.6;
/// The same where latency is constant: all of it lies in two buckets.
const CONSTANT_SIGMA: f64 = 0.01;
/// Flagger's latency limit in the comparisons.
pub(crate) const LIMIT_MS: f64 = 500.0;

/// What disturbs a world.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Disturbance {
    None,
    /// Both arms 8 % errors and twice the latency, for 30 s, every 5 min on average.
    SharedIncidents,
    /// Each pod on its own 20 % errors and three times the latency, for 3 s, every 2 min on average.
    PodBursts,
    /// The canary twice the latency and three times the errors, for its first 30 s.
    ColdStart,
    /// The canary's pod differs: standard deviations of its log-odds of failing and of its log-latency.
    OddCanary {
        odds: f64,
        latency: f64,
    },
    /// Every pod differs from the others so.
    OddPods {
        odds: f64,
        latency: f64,
    },
    /// Every request takes as long as the others: a cache, a queue, a service that only waits.
    ConstantLatency,
}

/// Errors and latency of both arms.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct World {
    /// Failure rate of stable, and of the canary until `onset_s`.
    pub(crate) base: f64,
    /// Failure rate of the canary.
    pub(crate) canary: f64,
    /// Latency of the canary as a multiple.
    pub(crate) slower: f64,
    /// Second from which on the canary differs.
    pub(crate) onset_s: u32,
    pub(crate) disturbance: Disturbance,
}

impl World {
    pub(crate) const fn healthy(base: f64) -> Self {
        Self { base, canary: base, slower: 1.0, onset_s: 0, disturbance: Disturbance::None }
    }

    pub(crate) const fn errors(base: f64, canary: f64) -> Self {
        Self { canary, ..Self::healthy(base) }
    }

    pub(crate) const fn slow(slower: f64) -> Self {
        Self { slower, ..Self::healthy(0.001) }
    }

    pub(crate) const fn disturbed(base: f64, disturbance: Disturbance) -> Self {
        Self { disturbance, ..Self::healthy(base) }
    }
}

/// Failure rate at odds `ratio` times those of `base`.
pub(crate) fn at_odds(base: f64, ratio: f64) -> f64 {
    let odds = ratio * base / (1.0 - base);
    odds / (1.0 + odds)
}

/// The proxies' own histogram: log-linear, eight parts per power of two of microseconds.
pub(crate) fn buckets() -> Buckets {
    let lower_us = |i: u32| if i < 8 { u64::from(i) } else { (8 + u64::from(i % 8)) << (i / 8 - 1) };
    Buckets::new((0..192).map(|i| lower_us(i) as f64 / 1_000.0).collect()).expect("the bounds rise")
}

/// Latency as cumulative shares per bucket.
#[derive(Debug)]
struct Shape {
    first: usize,
    below: Vec<f64>,
    /// Share of a bucket among those that are not below it, and the logarithm of the rest.
    conditional: Vec<(f64, f64)>,
    over_limit: f64,
}

impl Shape {
    fn new(buckets: &Buckets, factor: f64, sigma: f64) -> Self {
        let share_below = |ms: f64| normal_below((ms / (MEDIAN_MS * factor)).ln() / sigma);
        let all: Vec<f64> = (1..buckets.count() as u32).map(|i| share_below(buckets.lower_ms(i))).collect();
        let first = all.partition_point(|p| *p < 1e-7);
        let end = all.partition_point(|p| *p < 1.0 - 1e-7);
        let below = all[first..=end.min(all.len() - 1)].to_vec();
        let mut before = 0.0;
        let conditional = below
            .iter()
            .map(|p| {
                let share = ((p - before) / (1.0 - before)).clamp(0.0, 1.0);
                before = *p;
                (share, (-share).ln_1p())
            })
            .collect();
        Self { first, below, conditional, over_limit: 1.0 - share_below(LIMIT_MS) }
    }
}

#[derive(Clone, Copy, Debug)]
struct Pod {
    odds: f64,
    factor: f64,
    burst_left: u32,
}

/// Makes the traffic of one run.
pub(crate) struct Traffic {
    random: Random,
    world: World,
    rps: f64,
    buckets: Buckets,
    shapes: HashMap<u64, Rc<Shape>>,
    pods: [Pod; STABLE_PODS + 1],
    incident_left: u32,
    /// Seconds since the canary got its first traffic.
    second: u32,
    started: bool,
}

/// What Flagger sees of the canary in one second.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Seen {
    pub(crate) requests: u64,
    pub(crate) failed: u64,
    pub(crate) over_limit: u64,
}

impl Traffic {
    pub(crate) fn new(world: World, rps: f64, buckets: Buckets, seed: u64) -> Self {
        let mut random = Random::new(seed);
        let (all, canary) = match world.disturbance {
            Disturbance::OddPods { odds, latency } => ((odds, latency), (odds, latency)),
            Disturbance::OddCanary { odds, latency } => ((0.0, 0.0), (odds, latency)),
            _ => ((0.0, 0.0), (0.0, 0.0)),
        };
        let pods = std::array::from_fn(|at| {
            let (odds, latency) = if at == CANARY { canary } else { all };
            Pod { odds: (odds * random.normal()).exp(), factor: (latency * random.normal()).exp(), burst_left: 0 }
        });
        Self { random, world, rps, buckets, shapes: HashMap::new(), pods, incident_left: 0, second: 0, started: false }
    }

    /// Whether seconds may be lumped together before the release.
    pub(crate) const fn is_steady(&self) -> bool {
        !matches!(self.world.disturbance, Disturbance::SharedIncidents | Disturbance::PodBursts)
    }

    /// Stable alone, for `seconds`.
    pub(crate) fn before(&mut self, seconds: u32, delta: &mut Delta) {
        delta.clear();
        self.disturb();
        for pod in 0..STABLE_PODS {
            self.serve(pod, f64::from(seconds) * self.rps / STABLE_PODS as f64, delta);
        }
    }

    /// One second at a weight in percent.
    pub(crate) fn second(&mut self, weight: u8, delta: &mut Delta) {
        delta.clear();
        self.started = true;
        self.disturb();
        let share = f64::from(weight) / 100.0;
        for pod in 0..STABLE_PODS {
            self.serve(pod, self.rps * (1.0 - share) / STABLE_PODS as f64, delta);
        }
        self.serve(CANARY, self.rps * share, delta);
        self.second += 1;
    }

    /// One second of the canary alone, as much as Flagger looks at.
    pub(crate) fn canary_second(&mut self, weight: u8) -> Seen {
        self.started = true;
        self.disturb();
        let (failing, factor) = self.nature(CANARY);
        let requests = self.random.poisson(self.rps * f64::from(weight) / 100.0);
        let over = self.shape(factor).over_limit;
        let seen = Seen {
            requests,
            failed: self.random.binomial(requests, failing),
            over_limit: self.random.binomial(requests, over),
        };
        self.second += 1;
        seen
    }

    fn disturb(&mut self) {
        match self.world.disturbance {
            Disturbance::SharedIncidents => {
                self.incident_left = match self.incident_left.checked_sub(1) {
                    Some(left) => left,
                    None if self.random.uniform() < 1.0 / 300.0 => 30,
                    None => 0,
                };
            }
            Disturbance::PodBursts => {
                for at in 0..self.pods.len() {
                    let starts = self.pods[at].burst_left == 0 && self.random.uniform() < 1.0 / 120.0;
                    let left = &mut self.pods[at].burst_left;
                    *left = if starts { 3 } else { left.saturating_sub(1) };
                }
            }
            Disturbance::None
            | Disturbance::ColdStart
            | Disturbance::OddCanary { .. }
            | Disturbance::OddPods { .. }
            | Disturbance::ConstantLatency => {}
        }
    }

    /// Failure rate and latency factor of a pod in this second.
    fn nature(&self, pod: usize) -> (f64, f64) {
        let World { base, canary, slower, onset_s, disturbance } = self.world;
        let harmed = pod == CANARY && self.second >= onset_s;
        let (mut failing, mut factor) = if harmed { (canary, slower) } else { (base, 1.0) };
        factor *= self.pods[pod].factor;
        if self.pods[pod].odds != 1.0 {
            failing = at_odds(failing, self.pods[pod].odds);
        }
        if self.pods[pod].burst_left > 0 {
            (failing, factor) = (failing.max(0.2), 3.0 * factor);
        }
        if self.incident_left > 0 {
            (failing, factor) = (failing.max(0.08), 2.0 * factor);
        }
        if disturbance == Disturbance::ColdStart && pod == CANARY && self.second < 30 {
            (failing, factor) = (3.0 * failing, 2.0 * factor);
        }
        (failing, factor)
    }

    fn shape(&mut self, factor: f64) -> Rc<Shape> {
        if self.shapes.len() > 64 {
            self.shapes.clear();
        }
        let constant = self.world.disturbance == Disturbance::ConstantLatency;
        let sigma = if constant { CONSTANT_SIGMA } else { SIGMA };
        let shape = || Rc::new(Shape::new(&self.buckets, factor, sigma));
        Rc::clone(self.shapes.entry(factor.to_bits()).or_insert_with(shape))
    }

    fn serve(&mut self, pod: usize, mean: f64, delta: &mut Delta) {
        let n = self.random.poisson(mean);
        if n == 0 {
            return;
        }
        let (failing, factor) = self.nature(pod);
        let k = self.random.binomial(n, failing);
        let arm = if pod == CANARY { &mut delta.canary } else { &mut delta.stable };
        arm.started += n;
        arm.completed += n;
        arm.errors += k;
        if pod != CANARY {
            delta.pods.push((pod as u32, n, k));
        }
        let shape = self.shape(factor);
        self.latencies(&shape, pod, n, delta);
    }

    fn latencies(&mut self, shape: &Shape, pod: usize, n: u64, delta: &mut Delta) {
        let mut put = |at: usize, count: u64| {
            let bucket = (shape.first + at) as u32;
            if pod == CANARY {
                delta.canary.latency.push((bucket, count));
            } else {
                delta.stable.latency.push((bucket, count));
                delta.pod_latency.push((pod as u32, bucket, count));
            }
        };
        if n < 30 {
            for _ in 0..n {
                let u = self.random.uniform();
                put(shape.below.partition_point(|p| *p < u), 1);
            }
            return;
        }
        let mut left = n;
        for (at, (share, ln_rest)) in shape.conditional.iter().enumerate() {
            let count = if at + 1 == shape.conditional.len() {
                left
            } else if *share <= 0.5 {
                self.random.binomial_known(left, *share, *ln_rest)
            } else {
                self.random.binomial(left, *share)
            };
            if count > 0 {
                put(at, count);
            }
            left -= count;
            if left == 0 {
                break;
            }
        }
    }
}
