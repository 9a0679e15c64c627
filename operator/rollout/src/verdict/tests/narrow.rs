//! Latencies that fill only one, two or a few far buckets: a cache, a queue, a simulated service.

use super::*;

/// The proxies' own bounds: eight parts per power of two of microseconds.
fn mk_log_linear() -> Buckets {
    let lower_us = |i: u32| if i < 8 { u64::from(i) } else { (8 + u64::from(i % 8)) << (i / 8 - 1) };
    Buckets::new((0..192).map(|i| lower_us(i) as f64 / 1_000.0).collect()).unwrap()
}

/// `n` requests spread over buckets by shares in percent; what is left goes to the first.
fn spread(n: u64, shares: &[(u32, u64)], shift: u32) -> Vec<(u32, u64)> {
    let mut out: Vec<_> = shares.iter().map(|(bucket, percent)| (bucket + shift, n * percent / 100)).collect();
    out[0].1 += n - out.iter().map(|(_, count)| count).sum::<u64>();
    out
}

/// Seconds at weight 10 until the decision of a release whose arms differ by `shift` buckets, at most 120.
fn judged(buckets: &Buckets, config: &Config, shares: &[(u32, u64)], shift: u32) -> (u32, Decision) {
    let mut engine = Engine::new(config.clone(), buckets.clone()).unwrap();
    let mut delta = mk_delta((0, 0), (1_000, 0));
    delta.stable.latency = spread(1_000, shares, 0);
    for _ in 0..600 {
        engine.absorb(&delta, mk_now(0));
    }
    engine.begin(mk_release());
    let mut delta = mk_delta((100, 0), (900, 0));
    delta.stable.latency = spread(900, shares, 0);
    delta.canary.latency = spread(100, shares, shift);
    for second in 1..=120 {
        engine.absorb(&delta, mk_now(10));
        if !matches!(engine.decision(), Decision::Wait(_)) {
            return (second, engine.decision());
        }
    }
    (120, engine.decision())
}

/// Buckets of about 2 ms, 8 ms, 130 ms and 30 s, and all positions within a power of two.
fn places() -> impl Iterator<Item = u32> {
    [80, 96, 128, 184].into_iter().flat_map(|first| (0..8).map(move |part| first + part)).filter(|place| *place < 188)
}

fn shapes(place: u32) -> [Vec<(u32, u64)>; 5] {
    [
        vec![(place, 100)],
        vec![(place, 90), (place + 1, 10)],
        vec![(place, 10), (place + 1, 90)],
        vec![(place - 40, 70), (place, 30)],
        vec![(place - 40, 50), (place, 50)],
    ]
}

#[test]
fn a_canary_as_narrow_as_stable_advances_after_a_minute() {
    for shares in places().filter(|place| *place < 184).flat_map(shapes) {
        let (second, decision) = judged(&mk_log_linear(), &Config::default(), &shares, 0);
        assert_eq!((second, decision), (60, Decision::Advance(Advance::NonInferior)), "{shares:?}");
    }
}

#[test]
fn a_canary_twice_as_slow_as_a_narrow_stable_is_taken_off() {
    for shares in places().flat_map(shapes) {
        // Eight buckets are a factor of two; five milliseconds are always tolerated.
        let shift = if shares[0].0 < 88 { 24 } else { 8 };
        if shares.last().is_some_and(|(last, _)| last + shift > 191) {
            continue;
        }
        let (second, decision) = judged(&mk_log_linear(), &Config::default(), &shares, shift);
        assert_eq!(decision, Decision::Rollback(Cause::Evidence(Lane::Latency)), "{shares:?}");
        assert!(second <= 60, "{second} s, {shares:?}");
    }
}

#[test]
fn what_no_bound_can_tell_never_advances_on_latency() {
    // All in the last bucket, which has no upper bound: a canary ten times as slow looks the same.
    let (second, decision) = judged(&mk_log_linear(), &Config::default(), &[(191, 100)], 0);
    assert_eq!((second, decision), (120, Decision::Wait(Wait::CollectingData)));
}
