//! One run: a world, a plan of weights, and who judges.

use rollout::verdict::{Buckets, Circumstances, Config, Decision, Delta, Engine, Release};

use crate::random::Random;
use crate::world::{Seen, Traffic, World};

/// How weights follow each other.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Plan {
    /// One weight up to a horizon in seconds.
    Held(u8, u32),
    /// 10, 25, 50, promoted.
    Rollout,
}

/// Who judges.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Judge {
    /// The verdict engine.
    Engine,
    /// The same, with the operator restarted every minute.
    Restarted,
    /// Flagger's rule: interval in seconds and threshold; success rate of 99 % and p99 of 500 ms.
    Flagger(u32, u32),
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    RolledBack,
    Promoted,
    Open,
}

/// What came of a run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Outcome {
    pub(crate) end: End,
    pub(crate) seconds: u32,
    /// Canary requests that failed until then.
    pub(crate) failed: u64,
}

const WEIGHTS: [u8; 3] = [10, 25, 50];
/// A rollout that lasts longer is left open.
const LONGEST_ROLLOUT_S: u32 = 7_200;
const HISTORY_S: u32 = 600;

pub(crate) fn run(world: World, rps: f64, plan: Plan, judge: Judge, buckets: &Buckets, seed: u64) -> Outcome {
    let mut traffic = Traffic::new(world, rps, buckets.clone(), seed);
    match judge {
        Judge::Flagger(interval, threshold) => flagger(&mut traffic, plan, interval, threshold),
        Judge::Engine => engine(&mut traffic, plan, buckets, None),
        Judge::Restarted => {
            let first = (60.0 * Random::new(!seed).uniform()) as u32;
            engine(&mut traffic, plan, buckets, Some(first))
        }
    }
}

/// An engine that has watched stable for ten minutes, with its release begun.
pub(crate) fn prepared(traffic: &mut Traffic, buckets: &Buckets) -> Engine {
    let mut engine = Engine::new(Config::default(), buckets.clone()).expect("the defaults are in range");
    let mut delta = Delta::default();
    let lump = if traffic.is_steady() { 5 } else { 1 };
    for _ in 0..HISTORY_S / lump {
        traffic.before(lump, &mut delta);
        engine.absorb(&delta, Circumstances { elapsed_s: lump, weight_percent: 0, audience: false, canary_pods: 0 });
    }
    engine.begin(Release { stable: "old".into(), canary: "new".into() });
    engine
}

fn engine(traffic: &mut Traffic, plan: Plan, buckets: &Buckets, restart: Option<u32>) -> Outcome {
    let mut engine = prepared(traffic, buckets);
    let (mut weights, horizon, held) = match plan {
        Plan::Held(weight, horizon) => (vec![weight].into_iter(), horizon, true),
        Plan::Rollout => (WEIGHTS.to_vec().into_iter(), LONGEST_ROLLOUT_S, false),
    };
    let mut weight = weights.next().expect("a plan has a weight");
    let mut delta = Delta::default();
    let mut failed = 0;
    for second in 1..=horizon {
        traffic.second(weight, &mut delta);
        failed += delta.canary.errors;
        engine.absorb(&delta, Circumstances { elapsed_s: 1, weight_percent: weight, audience: false, canary_pods: 1 });
        match engine.decision() {
            Decision::Rollback(_) => return Outcome { end: End::RolledBack, seconds: second, failed },
            Decision::Advance(_) if !held => match weights.next() {
                Some(next) => weight = next,
                None => return Outcome { end: End::Promoted, seconds: second, failed },
            },
            Decision::Advance(_) | Decision::Wait(_) => {}
        }
        if restart.is_some_and(|first| second % 60 == first) {
            engine = restarted(&engine, buckets);
        }
    }
    Outcome { end: End::Open, seconds: horizon, failed }
}

/// What a new leader makes of the status: the journal through JSON, nothing else.
fn restarted(engine: &Engine, buckets: &Buckets) -> Engine {
    let journal = serde_json::to_string(&engine.journal().expect("a release runs")).expect("a journal is JSON");
    let mut next = Engine::new(Config::default(), buckets.clone()).expect("the defaults are in range");
    let journal = serde_json::from_str(&journal).expect("a journal is read back");
    next.restore(&journal).expect("a journal of the same version is sound");
    next
}

/// Flagger's rule (fluxcd/flagger 15bd6ad): the count of failed checks is compared at the start of a tick, it never
/// falls, a passed check advances at once, and no data is a failed check. Counts are exact over the whole interval,
/// which is kinder than Prometheus.
fn flagger(traffic: &mut Traffic, plan: Plan, interval: u32, threshold: u32) -> Outcome {
    let (mut weights, horizon, held) = match plan {
        Plan::Held(weight, horizon) => (vec![weight].into_iter(), horizon, true),
        Plan::Rollout => (WEIGHTS.to_vec().into_iter(), LONGEST_ROLLOUT_S, false),
    };
    let mut weight = weights.next().expect("a plan has a weight");
    let (mut failed_checks, mut failed) = (0, 0);
    for tick in 1..=horizon / interval {
        let mut seen = Seen::default();
        for _ in 0..interval {
            let second = traffic.canary_second(weight);
            seen.requests += second.requests;
            seen.failed += second.failed;
            seen.over_limit += second.over_limit;
        }
        failed += seen.failed;
        let seconds = tick * interval;
        if failed_checks >= threshold {
            return Outcome { end: End::RolledBack, seconds, failed };
        }
        let in_percent = 100.0 / seen.requests as f64;
        let passed = seen.requests > 0
            && 100.0 - in_percent * seen.failed as f64 >= 99.0
            && in_percent * seen.over_limit as f64 <= 1.0;
        if !passed {
            failed_checks += 1;
        } else if !held {
            match weights.next() {
                Some(next) => weight = next,
                None => return Outcome { end: End::Promoted, seconds, failed },
            }
        }
    }
    Outcome { end: End::Open, seconds: horizon, failed }
}
