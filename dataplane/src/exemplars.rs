//! Traces that stand for numbers: of each bucket of durations and of each status code, the newest request whose span waits
//! for the collector. Bounded per worker and series, and made with the first such request; one that is not sampled never
//! comes here.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::{Duration, SystemTime};

use crate::stats::BOUNDS_MICROS;

/// Status codes of one series that have an exemplar; beyond it the oldest makes room.
const MAX_CODES: usize = 16;

/// A sampled request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exemplar {
    /// Its trace.
    pub trace_id: u128,
    /// The proxy's span in it.
    pub span_id: u64,
    /// To the last byte of its answer.
    pub took: Duration,
    /// When that was.
    pub ended: SystemTime,
}

/// The newest ones of a series.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Shown {
    /// By the place of the bucket in [`BOUNDS_MICROS`], or one past its end.
    pub buckets: BTreeMap<usize, Exemplar>,
    /// By status code, 0 if none was sent.
    pub codes: BTreeMap<u16, Exemplar>,
}

/// One worker's share of a series: it writes, a scrape reads.
#[derive(Debug, Default)]
pub struct Exemplars(Mutex<Shown>);

impl Exemplars {
    /// A request of `code` was sampled. Never waits: while a scrape reads, the next one will do.
    pub fn note(&self, code: u16, exemplar: Exemplar) {
        let Ok(mut kept) = self.0.try_lock() else { return };
        let micros = u64::try_from(exemplar.took.as_micros()).unwrap_or(u64::MAX);
        kept.buckets.insert(BOUNDS_MICROS.partition_point(|bound| *bound < micros), exemplar);
        kept.codes.insert(code, exemplar);
        if kept.codes.len() > MAX_CODES {
            let oldest = kept.codes.iter().min_by_key(|(_, exemplar)| exemplar.ended).map(|(code, _)| *code);
            oldest.and_then(|code| kept.codes.remove(&code));
        }
    }

    /// Takes into `shown` what is newer than what is there.
    pub fn add_to(&self, shown: &mut Shown) {
        let Ok(kept) = self.0.lock() else { return };
        newest(&mut shown.buckets, &kept.buckets);
        newest(&mut shown.codes, &kept.codes);
    }
}

fn newest<K: Ord + Copy>(shown: &mut BTreeMap<K, Exemplar>, kept: &BTreeMap<K, Exemplar>) {
    for (key, exemplar) in kept {
        let entry = shown.entry(*key).or_insert(*exemplar);
        if entry.ended < exemplar.ended {
            *entry = *exemplar;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exemplar(trace_id: u128, micros: u64) -> Exemplar {
        let ended = SystemTime::UNIX_EPOCH + Duration::from_secs(trace_id as u64);
        Exemplar { trace_id, span_id: 1, took: Duration::from_micros(micros), ended }
    }

    #[test]
    fn the_newest_of_all_workers_is_shown_in_its_own_bucket() {
        let (one, other) = (Exemplars::default(), Exemplars::default());
        one.note(200, exemplar(1, 500));
        one.note(200, exemplar(2, 501));
        other.note(200, exemplar(3, 2));
        other.note(503, exemplar(4, u64::MAX));
        let mut shown = Shown::default();
        one.add_to(&mut shown);
        other.add_to(&mut shown);
        let traces = |of: Vec<&Exemplar>| of.into_iter().map(|exemplar| exemplar.trace_id).collect::<Vec<_>>();
        assert_eq!(shown.buckets.keys().copied().collect::<Vec<_>>(), [0, 1, BOUNDS_MICROS.len()]);
        assert_eq!(traces(shown.buckets.values().collect()), [3, 2, 4]);
        assert_eq!(traces(shown.codes.values().collect()), [3, 4]);
    }

    #[test]
    fn codes_are_bounded_and_the_oldest_goes() {
        let kept = Exemplars::default();
        for code in 200..220 {
            kept.note(code, exemplar(code.into(), 1));
        }
        let mut shown = Shown::default();
        kept.add_to(&mut shown);
        assert_eq!((shown.codes.len(), shown.codes.keys().next()), (MAX_CODES, Some(&204)));
    }

    #[test]
    fn who_is_read_does_not_make_the_worker_wait() {
        let kept = Exemplars::default();
        let reading = kept.0.lock().unwrap();
        kept.note(200, exemplar(1, 1));
        assert!(reading.codes.is_empty());
    }
}
