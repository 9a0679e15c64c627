//! The last report of each proxy, and the differences that are counted from it exactly once.
//!
//! A duplicate or late report counts nothing; a restarted proxy, a gap, a change of weight or counters that fall only
//! set a new baseline: the requests in between are never counted, for neither arm.

mod totals;

use std::mem;

use super::config::SILENT_S;
use super::counters::{Arm, Delta, PODS, PROXIES, Report, Second};
use totals::Totals;

/// Seconds after which a silent proxy's next report is only a baseline.
const LONGEST_GAP_S: u32 = 10;
/// Requests between two reports of a proxy that are still believed; more would be a million a second.
const MOST_REQUESTS: u64 = 10_000_000;
/// Seconds after which a silent proxy or pod is forgotten.
const FORGET_S: u32 = 900;

/// What became of the reports of one second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Reading {
    /// Reports whose counters fell, disagreed with each other, or named impossible buckets.
    pub(crate) broken: u32,
    /// Reports of a config older than the weight in force.
    pub(crate) stale: u32,
    /// Reports that were counted.
    pub(crate) counted: u32,
    /// Proxies that have reported within [`SILENT_S`].
    pub(crate) heard: u32,
    /// The shortest silence of another one, in seconds. It may be gone for good: who should report, the caller says.
    pub(crate) silent_s: u32,
    /// Stable's pods are another version than before.
    pub(crate) new_stable: bool,
}

#[derive(Clone, Debug)]
struct PodTotals {
    slot: u32,
    completed: u64,
    errors: u64,
    latency: Vec<u64>,
}

#[derive(Clone, Debug)]
struct Proxy {
    name: String,
    incarnation: u64,
    sequence: u64,
    silent_s: u32,
    /// `since_counter` for which the baseline holds; `None`: the next report only sets it.
    since: Option<u64>,
    stable: Totals,
    canary: Totals,
    in_flight: [u64; 2],
    pods: Vec<PodTotals>,
}

#[derive(Clone, Debug)]
struct Pod {
    name: String,
    silent_s: u32,
}

/// The last report of each proxy.
#[derive(Clone, Debug)]
pub(crate) struct Ledger {
    buckets: usize,
    proxies: Vec<Proxy>,
    pods: Vec<Option<Pod>>,
    stable: String,
    canary: String,
    scratch: [Totals; 2],
}

impl Ledger {
    pub(crate) fn new(buckets: usize) -> Self {
        let empty = Totals::new(buckets);
        Self {
            buckets,
            proxies: Vec::new(),
            pods: Vec::new(),
            stable: String::new(),
            canary: String::new(),
            scratch: [empty.clone(), empty],
        }
    }

    /// Counts only these revisions from here on. An empty canary: whatever serves as stable.
    pub(crate) fn follow(&mut self, stable: &str, canary: &str) {
        if self.stable != stable || self.canary != canary {
            stable.clone_into(&mut self.stable);
            canary.clone_into(&mut self.canary);
            for proxy in &mut self.proxies {
                proxy.canary.reset();
            }
            self.rebase();
        }
    }

    /// No release: only stable is counted, whichever version that is.
    pub(crate) fn watch(&mut self) {
        self.canary.clear();
    }

    /// Makes every proxy's next report a baseline.
    pub(crate) fn rebase(&mut self) {
        for proxy in &mut self.proxies {
            proxy.since = None;
        }
    }

    /// Requests of an arm that began and did not end, at proxies that report.
    pub(crate) fn in_flight(&self, arm: Arm) -> u64 {
        let heard = self.proxies.iter().filter(|proxy| !proxy.is_silent());
        heard.map(|p| p.in_flight[arm as usize]).fold(0, u64::saturating_add)
    }

    /// Adds to `delta` what the reports of `second` say for the first time.
    pub(crate) fn read(&mut self, second: &Second<'_>, elapsed_s: u32, delta: &mut Delta) -> Reading {
        let mut reading = Reading::default();
        self.grow_older(elapsed_s);
        for report in second.reports {
            self.take(report, second.since_counter, delta, &mut reading);
        }
        reading.heard = self.proxies.iter().filter(|proxy| !proxy.is_silent()).count() as u32;
        let silences = self.proxies.iter().filter(|proxy| proxy.is_silent()).map(|proxy| proxy.silent_s);
        reading.silent_s = silences.min().unwrap_or(0);
        reading
    }

    fn grow_older(&mut self, elapsed_s: u32) {
        for proxy in &mut self.proxies {
            proxy.silent_s = proxy.silent_s.saturating_add(elapsed_s);
        }
        self.proxies.retain(|p| p.silent_s < FORGET_S);
        for slot in 0..self.pods.len() {
            let Some(pod) = &mut self.pods[slot] else { continue };
            pod.silent_s = pod.silent_s.saturating_add(elapsed_s);
            if pod.silent_s >= FORGET_S {
                self.pods[slot] = None;
                for proxy in &mut self.proxies {
                    proxy.pods.retain(|p| p.slot as usize != slot);
                }
            }
        }
    }

    fn take(&mut self, report: &Report, since: u64, delta: &mut Delta, reading: &mut Reading) {
        self.notice_stable(report, reading);
        let Some(at) = self.proxy(report) else { return };
        let proxy = &mut self.proxies[at];
        let gap = mem::take(&mut proxy.silent_s) > LONGEST_GAP_S;
        let known = proxy.incarnation == report.incarnation;
        if known && report.sequence <= proxy.sequence {
            return;
        }
        proxy.incarnation = report.incarnation;
        proxy.sequence = report.sequence;
        let baseline = proxy.since.take();
        if !known {
            proxy.stable.reset();
            proxy.canary.reset();
            proxy.pods.clear();
        }
        let sums = self.sum(report, at);
        let proxy = &mut self.proxies[at];
        let Some(in_flight) = sums else {
            reading.broken += 1;
            return;
        };
        proxy.in_flight = in_flight;
        let [stable, canary] = &self.scratch;
        let fell = known && baseline.is_some() && !(stable.follows(&proxy.stable) && canary.follows(&proxy.canary));
        let newest = report.arms.iter().map(|a| a.counter).max().unwrap_or(0);
        if fell {
            reading.broken += 1;
        } else if newest < since {
            reading.stale += 1;
        } else if known && !gap && baseline == Some(since) {
            stable.emit(&proxy.stable, &mut delta.stable);
            canary.emit(&proxy.canary, &mut delta.canary);
            reading.counted += 1;
        }
        if newest >= since {
            proxy.since = Some(since);
        }
        proxy.stable.copy(stable);
        proxy.canary.copy(canary);
        self.take_pods(at, report, known && !fell && baseline.is_some(), delta);
    }

    /// While nothing is judged, stable is what the newest config calls stable.
    fn notice_stable(&mut self, report: &Report, reading: &mut Reading) {
        if !self.canary.is_empty() {
            return;
        }
        let newest = report.arms.iter().filter(|a| a.arm == Some(Arm::Stable)).max_by_key(|a| a.counter);
        if let Some(newest) = newest
            && newest.revision != self.stable
        {
            reading.new_stable = !self.stable.is_empty();
            newest.revision.clone_into(&mut self.stable);
            self.rebase();
        }
    }

    fn proxy(&mut self, report: &Report) -> Option<usize> {
        if let Some(at) = self.proxies.iter().position(|p| p.name == report.proxy) {
            return Some(at);
        }
        if self.proxies.len() == PROXIES {
            return None;
        }
        let empty = Totals::new(self.buckets);
        self.proxies.push(Proxy {
            name: report.proxy.clone(),
            // Never equal to a first report's pair: that one only sets the baseline.
            incarnation: !report.incarnation,
            sequence: 0,
            silent_s: 0,
            since: None,
            stable: empty.clone(),
            canary: empty,
            in_flight: [0; 2],
            pods: Vec::new(),
        });
        Some(self.proxies.len() - 1)
    }

    /// Fills the scratch totals from a report; the requests in flight, or `None` if its numbers cannot be. An arm that
    /// the report leaves out stands where it stood.
    fn sum(&mut self, report: &Report, at: usize) -> Option<[u64; 2]> {
        let mut in_flight = [0_u64; 2];
        let mut seen = [false; 2];
        self.scratch.iter_mut().for_each(Totals::reset);
        for counters in &report.arms {
            let Some(arm) = counters.arm else { continue };
            let revision = match arm {
                Arm::Stable => &self.stable,
                Arm::Canary => &self.canary,
            };
            if counters.revision == *revision {
                in_flight[arm as usize] = in_flight[arm as usize].saturating_add(counters.in_flight);
                seen[arm as usize] = true;
                self.scratch[arm as usize].add(counters)?;
            }
        }
        let proxy = &self.proxies[at];
        for (arm, before) in [(Arm::Stable, &proxy.stable), (Arm::Canary, &proxy.canary)] {
            if !seen[arm as usize] {
                self.scratch[arm as usize].copy(before);
            }
        }
        Some(in_flight)
    }

    fn take_pods(&mut self, at: usize, report: &Report, counts: bool, delta: &mut Delta) {
        let arms = report.arms.iter().filter(|a| a.arm == Some(Arm::Stable) && a.revision == self.stable);
        for counters in arms.flat_map(|a| &a.pods) {
            let Some(slot) = slot(&mut self.pods, &counters.pod) else { continue };
            let pods = &mut self.proxies[at].pods;
            let known = pods.iter().position(|p| p.slot == slot);
            let index = known.unwrap_or(pods.len());
            if known.is_none() {
                pods.push(PodTotals { slot, completed: 0, errors: 0, latency: vec![0; self.buckets] });
            }
            let pod = &mut pods[index];
            let (completed, errors) =
                (counters.completed.checked_sub(pod.completed), counters.errors.checked_sub(pod.errors));
            if let (true, Some(_), Some(completed), Some(errors)) = (counts, known, completed, errors)
                && errors <= completed
                && completed <= MOST_REQUESTS
            {
                delta.pods.push((slot, completed, errors));
                for (bucket, count) in &counters.latency {
                    let before = pod.latency.get(*bucket as usize).copied().unwrap_or(u64::MAX);
                    if *count > before && count - before <= MOST_REQUESTS {
                        delta.pod_latency.push((slot, *bucket, count - before));
                    }
                }
            }
            pod.completed = counters.completed;
            pod.errors = counters.errors;
            for (bucket, count) in &counters.latency {
                if let Some(total) = pod.latency.get_mut(*bucket as usize) {
                    *total = *count;
                }
            }
        }
    }
}

impl Proxy {
    const fn is_silent(&self) -> bool {
        self.silent_s > SILENT_S
    }
}

/// The number of a pod, which stays while it is heard of.
fn slot(pods: &mut Vec<Option<Pod>>, name: &str) -> Option<u32> {
    let at = pods.iter().position(|p| p.as_ref().is_some_and(|p| p.name == name));
    if let Some(at) = at {
        if let Some(pod) = &mut pods[at] {
            pod.silent_s = 0;
        }
        return Some(at as u32);
    }
    let pod = Some(Pod { name: name.to_owned(), silent_s: 0 });
    if let Some(free) = pods.iter().position(Option::is_none) {
        pods[free] = pod;
        return Some(free as u32);
    }
    if pods.len() == PODS {
        return None;
    }
    pods.push(pod);
    Some(pods.len() as u32 - 1)
}
