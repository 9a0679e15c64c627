//! Stable's last ten minutes: its rates, its latency quantiles, and how much its pods differ.
//!
//! Kept all the time, release or not, in a ring of minutes of fixed size. Everything read from it is from before the
//! stratum that it is used on.

use super::buckets::Buckets;
use super::counters::{Delta, PODS};
use super::lanes::QUANTILES;
use super::margins::{FOLLOWED, Spread};
use super::scatter::{Dispersion, between_pods, log_odds};

const MINUTES: usize = 10;
const MINUTE_S: u32 = 60;
const STRATUM_S: u32 = 5;
/// Errors, then slow at each quantile.
pub(crate) const METRICS: usize = 1 + QUANTILES.len();
/// Requests that stable must have seen before its quantiles mean anything.
const ENOUGH: u64 = 200;
/// Requests of one pod and minute below which its quantiles are not looked at.
const ENOUGH_PER_POD: u64 = 40;

#[derive(Clone, Debug)]
struct Minute {
    n: u64,
    k: u64,
    latency: Vec<u64>,
    dispersion: [Dispersion; METRICS],
    /// Requests of pods in strata, and how many pods times strata that were.
    pod_requests: u64,
    pod_strata: u64,
    pods: Vec<PodMinute>,
}

#[derive(Clone, Copy, Debug, Default)]
struct PodMinute {
    n: u64,
    k: u64,
    /// Logarithm of the followed quantiles.
    quantiles: Option<[f64; FOLLOWED.len()]>,
}

/// One pod in the open stratum.
#[derive(Clone, Copy, Debug, Default)]
struct PodStratum {
    n: u64,
    k: u64,
    slow: [u64; QUANTILES.len()],
}

#[derive(Clone, Debug)]
pub(crate) struct History {
    buckets: Buckets,
    /// Closed minutes and the open one, at `at`.
    ring: Vec<Minute>,
    at: usize,
    minute_s: u32,
    stratum_s: u32,
    stratum: Vec<PodStratum>,
    pod_latency: Vec<u64>,
    /// From which bucket on a request of stable is slow, per quantile; fixed before use.
    slow_from: Option<[u32; QUANTILES.len()]>,
    /// A release's own thresholds stand until it ends.
    pinned: bool,
    correlation: [Option<f64>; METRICS],
    /// What an earlier process knew, until there are ten minutes of own data.
    carried: Option<[f64; METRICS]>,
    carried_minutes: u32,
}

impl Minute {
    fn new(buckets: usize) -> Self {
        Self {
            n: 0,
            k: 0,
            latency: vec![0; buckets],
            dispersion: [Dispersion::default(); METRICS],
            pod_requests: 0,
            pod_strata: 0,
            pods: vec![PodMinute::default(); PODS],
        }
    }

    fn clear(&mut self) {
        let Self { n, k, latency, dispersion, pod_requests, pod_strata, pods } = self;
        (*n, *k, *pod_requests, *pod_strata) = (0, 0, 0, 0);
        latency.fill(0);
        *dispersion = [Dispersion::default(); METRICS];
        pods.fill(PodMinute::default());
    }
}

impl History {
    pub(crate) fn new(buckets: &Buckets) -> Self {
        Self {
            ring: vec![Minute::new(buckets.count()); MINUTES + 1],
            at: 0,
            minute_s: 0,
            stratum_s: 0,
            stratum: vec![PodStratum::default(); PODS],
            pod_latency: vec![0; PODS * buckets.count()],
            slow_from: None,
            pinned: false,
            correlation: [None; METRICS],
            carried: None,
            carried_minutes: 0,
            buckets: buckets.clone(),
        }
    }

    /// Forgets everything: stable is another version now.
    pub(crate) fn clear(&mut self) {
        self.ring.iter_mut().for_each(Minute::clear);
        self.stratum.fill(PodStratum::default());
        self.pod_latency.fill(0);
        self.slow_from = None;
        self.pinned = false;
        self.correlation = [None; METRICS];
        self.carried = None;
    }

    /// Adds what stable did in `elapsed_s` seconds.
    pub(crate) fn add(&mut self, delta: &Delta, elapsed_s: u32) {
        let minute = &mut self.ring[self.at];
        minute.n += delta.stable.completed;
        minute.k += delta.stable.errors;
        for (bucket, count) in &delta.stable.latency {
            if let Some(total) = minute.latency.get_mut(*bucket as usize) {
                *total += count;
            }
        }
        for (pod, n, k) in &delta.pods {
            if let Some(pod) = self.stratum.get_mut(*pod as usize) {
                pod.n += n;
                pod.k += k;
            }
        }
        for (pod, bucket, count) in &delta.pod_latency {
            let width = self.buckets.count();
            let at = *pod as usize * width + (*bucket as usize).min(width - 1);
            let (Some(total), Some(stratum)) = (self.pod_latency.get_mut(at), self.stratum.get_mut(*pod as usize))
            else {
                continue;
            };
            *total += count;
            for (slow, from) in stratum.slow.iter_mut().zip(self.slow_from.iter().flatten()) {
                *slow += if bucket >= from { *count } else { 0 };
            }
        }
        self.stratum_s += elapsed_s;
        self.minute_s += elapsed_s;
        if self.stratum_s >= STRATUM_S {
            self.stratum_s = 0;
            self.close_stratum();
        }
        if self.minute_s >= MINUTE_S {
            self.minute_s = 0;
            self.close_minute();
        }
    }

    fn close_stratum(&mut self) {
        let minute = &mut self.ring[self.at];
        for (total, pod) in minute.pods.iter_mut().zip(&self.stratum) {
            total.n += pod.n;
            total.k += pod.k;
        }
        let pods = self.stratum.iter();
        minute.dispersion[0].add(pods.clone().map(|p| (p.n, p.k.min(p.n))));
        if self.slow_from.is_some() {
            for (quantile, dispersion) in minute.dispersion[1..].iter_mut().enumerate() {
                dispersion.add(pods.clone().map(|p| (p.n, p.slow[quantile].min(p.n))));
            }
        }
        minute.pod_requests += pods.map(|p| p.n).sum::<u64>();
        let active = self.active_pods() as u64;
        self.ring[self.at].pod_strata += active;
        self.stratum.fill(PodStratum::default());
        self.estimate();
    }

    fn active_pods(&self) -> usize {
        (0..PODS).filter(|pod| self.ring.iter().any(|m| m.pods[*pod].n > 0)).count()
    }

    fn estimate(&mut self) {
        let requests: u64 = self.ring.iter().map(|m| m.pod_requests).sum();
        let strata: u64 = self.ring.iter().map(|m| m.pod_strata).sum();
        let per_pod = requests as f64 / strata.max(1) as f64;
        for (metric, correlation) in self.correlation.iter_mut().enumerate() {
            let sums = self.ring.iter().fold(Dispersion::default(), |sum, m| sum.merged(m.dispersion[metric]));
            *correlation = sums.correlation(per_pod);
        }
    }

    fn close_minute(&mut self) {
        let width = self.buckets.count();
        let minute = &mut self.ring[self.at];
        for (pod, total) in minute.pods.iter_mut().enumerate() {
            let counts = &self.pod_latency[pod * width..(pod + 1) * width];
            if counts.iter().sum::<u64>() >= ENOUGH_PER_POD {
                let at = |q| self.buckets.quantile_ms(counts, q).map(f64::ln);
                total.quantiles = at(FOLLOWED[0]).zip(at(FOLLOWED[1])).map(|(a, b)| [a, b]);
            }
        }
        self.pod_latency.fill(0);
        self.at = (self.at + 1) % self.ring.len();
        self.ring[self.at].clear();
        self.carried_minutes = self.carried_minutes.saturating_add(1);
        if self.carried_minutes >= MINUTES as u32 {
            self.carried = None;
        }
        if !self.pinned {
            self.slow_from = self.quantiles();
        }
    }

    /// Stable's latencies as counts per bucket, if enough was seen.
    pub(crate) fn latencies(&self) -> Option<Vec<u64>> {
        let mut counts = vec![0; self.buckets.count()];
        for minute in &self.ring {
            counts.iter_mut().zip(&minute.latency).for_each(|(sum, count)| *sum += count);
        }
        (counts.iter().sum::<u64>() >= ENOUGH).then_some(counts)
    }

    /// The bounds nearest to stable's quantiles, if enough was seen.
    fn quantiles(&self) -> Option<[u32; QUANTILES.len()]> {
        let counts = self.latencies()?;
        let mut out = [0; QUANTILES.len()];
        for (q, out) in QUANTILES.iter().zip(&mut out) {
            *out = self.buckets.bound(&counts, *q)?;
        }
        Some(out)
    }

    /// Uses a release's thresholds for the scatter, too.
    pub(crate) const fn keep(&mut self, slow_from: [u32; QUANTILES.len()]) {
        self.slow_from = Some(slow_from);
        self.pinned = true;
    }

    /// The release is over: thresholds follow stable again.
    pub(crate) const fn unpin(&mut self) {
        self.pinned = false;
    }

    /// Requests and errors of stable.
    pub(crate) fn totals(&self) -> (u64, u64) {
        self.ring.iter().fold((0, 0), |(n, k), m| (n + m.n, k + m.k))
    }

    /// Correlation of requests on one pod, per metric; `None` where it cannot be told.
    pub(crate) fn correlation(&self, metric: usize) -> Option<f64> {
        match (self.correlation[metric], self.carried) {
            (own, Some(carried)) => Some(own.unwrap_or(0.0).max(carried[metric])),
            (own, None) => own,
        }
    }

    /// What a journal carries of the scatter.
    pub(crate) fn carry(&self) -> [f64; METRICS] {
        std::array::from_fn(|metric| self.correlation(metric).unwrap_or(0.0))
    }

    /// Takes over what an earlier process knew.
    pub(crate) fn carried(&mut self, correlation: [f64; METRICS]) {
        self.carried = Some(correlation.map(|rho| rho.clamp(0.0, 1.0)));
        self.carried_minutes = 0;
    }

    /// How much stable's own pods differ for good.
    pub(crate) fn spread(&self) -> Spread {
        let mut odds = Vec::with_capacity(PODS);
        let mut quantiles = [Vec::with_capacity(PODS), Vec::with_capacity(PODS)];
        for pod in 0..PODS {
            let minutes = self.ring.iter().map(|m| m.pods[pod]);
            let (n, k) = minutes.clone().fold((0, 0), |(n, k), m| (n + m.n, k + m.k));
            if n > 0 {
                odds.push(log_odds(n, k.min(n)));
            }
            for (followed, out) in quantiles.iter_mut().enumerate() {
                out.extend(mean_and_variance(minutes.clone().filter_map(|m| m.quantiles.map(|q| q[followed]))));
            }
        }
        Spread {
            pods: odds.len() as u32,
            odds: between_pods(&odds),
            latency: quantiles.map(|mut pods| {
                pool(&mut pods);
                between_pods(&pods)
            }),
        }
    }
}

/// Mean over minutes and the variance of that mean, with the number of minutes folded in; needs three minutes.
fn mean_and_variance(values: impl Iterator<Item = f64> + Clone) -> Option<(f64, f64)> {
    let count = values.clone().count();
    if count < 3 {
        return None;
    }
    let mean = values.clone().sum::<f64>() / count as f64;
    let variance = values.map(|v| (v - mean).powi(2)).sum::<f64>() / (count - 1) as f64;
    Some((mean, variance / count as f64))
}

/// All pods scatter alike from minute to minute; a single pod's own scatter is too noisy to weigh it by.
fn pool(pods: &mut [(f64, f64)]) {
    let mean = pods.iter().map(|(_, v)| v).sum::<f64>() / pods.len().max(1) as f64;
    pods.iter_mut().for_each(|(_, v)| *v = mean.max(1e-8));
}
