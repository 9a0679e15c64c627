//! What each pod of an arm answered, so that the verdict knows how far stable's own pods differ. Written like
//! [`crate::stats`]: a cell has one worker as its only writer. Holds the pods that an arm has, not those it had.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use proxy_api::latency;
use proxy_api::v1beta1 as api;

use crate::stats::{Buckets, add};

/// Pods of one arm that are told apart; the verdict follows no more. Further ones count for the arm only.
pub const MAX_PODS: usize = 64;

/// The pods of one arm, each with a cell per worker.
#[derive(Debug, Default)]
pub struct Pods(Mutex<BTreeMap<String, Vec<Arc<PodCell>>>>);

/// One worker's share of what one pod answered.
#[derive(Debug, Default)]
pub struct PodCell {
    completed: AtomicU64,
    errors: AtomicU64,
    /// Made with the first request: most workers meet most pods of a quiet service never.
    latency: OnceLock<Box<Buckets<{ latency::BUCKETS as usize }>>>,
}

impl PodCell {
    /// A request that the pod was given last is over.
    pub fn end(&self, failed: bool, took: Duration) {
        if failed {
            add(&self.errors, 1);
        }
        add(&self.completed, 1);
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        add(&self.latency.get_or_init(Box::default).0[latency::index(micros) as usize], 1);
    }
}

impl Pods {
    /// The cell of one worker of `workers` for `pod`; none if the pod has no name, or there are too many.
    #[must_use]
    pub fn cell(&self, pod: &str, worker: usize, workers: usize) -> Option<Arc<PodCell>> {
        if pod.is_empty() {
            return None;
        }
        let mut pods = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if pods.len() >= MAX_PODS && !pods.contains_key(pod) {
            pods.retain(|_, cells| in_use(cells));
            if pods.len() >= MAX_PODS {
                return None;
            }
        }
        let cells = pods.entry(pod.to_owned()).or_insert_with(|| (0..workers).map(|_| Arc::default()).collect());
        Some(Arc::clone(&cells[worker]))
    }

    /// The sums over all workers by pod; a pod that has left is told once more and then forgotten.
    #[must_use]
    pub fn counters(&self) -> Vec<api::PodCounters> {
        let mut pods = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let left: Vec<String> = pods.iter().filter(|(_, cells)| !in_use(cells)).map(|(pod, _)| pod.clone()).collect();
        let counters = pods.iter().map(|(pod, cells)| sum(pod, cells)).filter(|pod| pod.completed > 0).collect();
        for pod in left {
            pods.remove(&pod);
        }
        counters
    }
}

/// Whether a worker has the pod among its endpoints, or a request under way at it.
fn in_use(cells: &[Arc<PodCell>]) -> bool {
    cells.iter().any(|cell| Arc::strong_count(cell) > 1)
}

fn sum(pod: &str, cells: &[Arc<PodCell>]) -> api::PodCounters {
    let mut counters = api::PodCounters { pod: pod.to_owned(), ..Default::default() };
    let mut latency = [0_u64; latency::BUCKETS as usize];
    for cell in cells {
        // Failures before the whole: what is read never shows more of them than requests.
        counters.errors += cell.errors.load(Relaxed);
        counters.completed += cell.completed.load(Relaxed);
        let counts = cell.latency.get().into_iter().flat_map(|buckets| &buckets.0);
        for (sum, count) in latency.iter_mut().zip(counts) {
            *sum += count.load(Relaxed);
        }
    }
    let seen = (0..).zip(latency).filter(|(_, count)| *count > 0);
    (counters.latency_index, counters.latency_count) = seen.unzip();
    counters
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workers_are_added_up_by_pod() {
        let pods = Pods::default();
        let cells: Vec<_> =
            [("a", 0), ("a", 1), ("b", 1)].map(|(pod, worker)| pods.cell(pod, worker, 2).unwrap()).into();
        cells[0].end(false, Duration::from_millis(1));
        cells[1].end(true, Duration::from_millis(1));
        cells[1].end(true, Duration::from_secs(1));
        cells[2].end(false, Duration::from_secs(1));
        let told: Vec<_> = pods.counters().into_iter().map(|pod| (pod.pod, pod.completed, pod.errors)).collect();
        assert_eq!(told, [("a".to_owned(), 3, 2), ("b".to_owned(), 1, 0)]);
        assert_eq!(pods.counters()[0].latency_count, [2, 1]);
    }

    #[test]
    fn a_pod_that_left_is_told_once_more_and_begins_anew() {
        let pods = Pods::default();
        let cell = pods.cell("a", 0, 1).unwrap();
        cell.end(false, Duration::ZERO);
        drop(cell);
        assert_eq!(pods.counters().len(), 1);
        assert_eq!(pods.counters().len(), 0);
        let cell = pods.cell("a", 0, 1).unwrap();
        cell.end(false, Duration::ZERO);
        assert_eq!(pods.counters()[0].completed, 1);
    }

    #[test]
    fn the_number_of_pods_is_bounded_and_those_that_left_make_room() {
        let pods = Pods::default();
        let mut held: Vec<_> = (0..MAX_PODS).map(|i| pods.cell(&i.to_string(), 0, 1).unwrap()).collect();
        assert!(pods.cell("one more", 0, 1).is_none());
        assert!(pods.cell("", 0, 1).is_none());
        held.pop();
        assert!(pods.cell("one more", 0, 1).is_some());
    }
}
