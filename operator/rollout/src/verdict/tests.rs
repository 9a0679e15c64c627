//! Known answers of the lanes, and how the engine takes good and bad input.

mod hostile;
mod input;
mod known;
mod narrow;
mod steps;

use super::*;

/// Buckets that grow by 2^(1/8), from 1 ms.
fn mk_buckets() -> Buckets {
    Buckets::new((0..128).map(|i| 2_f64.powf(f64::from(i) / 8.0)).collect()).unwrap()
}

fn mk_engine(config: Config) -> Engine {
    Engine::new(config, mk_buckets()).unwrap()
}

fn mk_release() -> Release {
    Release { stable: "old".into(), canary: "new".into() }
}

/// Latencies around 100 ms, or `shift` buckets more.
fn mk_latency(n: u64, shift: u32) -> Vec<(u32, u64)> {
    let part = |at: u32| (n * u64::from(at + 1) / 10) - (n * u64::from(at) / 10);
    (0..10).map(|at| (49 + at + shift, part(at))).collect()
}

/// Counted requests of one second: canary n and k, stable n and k.
fn mk_delta(canary: (u64, u64), stable: (u64, u64)) -> Delta {
    let arm = |(n, k): (u64, u64)| ArmDelta {
        started: n,
        completed: n,
        errors: k,
        client_errors: 0,
        latency: mk_latency(n, 0),
    };
    Delta { stable: arm(stable), canary: arm(canary), ..Delta::default() }
}

fn mk_now(weight_percent: u8) -> Circumstances {
    Circumstances { elapsed_s: 1, weight_percent, audience: false, canary_pods: 1 }
}
