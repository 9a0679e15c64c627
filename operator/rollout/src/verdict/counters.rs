//! What the proxies count, as cumulative values, and what is newly counted in a second.
//!
//! Types only. How the second comes from the first is `ledger`.

/// Which pods a request was sent to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arm {
    /// The version that serves users.
    Stable,
    /// The version that is judged.
    Canary,
}

/// Cumulative counters of one arm since the proxy's start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ArmCounters {
    /// Config under which the newest of these requests was routed.
    pub counter: u64,
    /// Pod-template hash that the arm had.
    pub revision: String,
    /// The arm; `None` if the proxy names one that this version does not know.
    pub arm: Option<Arm>,
    /// Requests begun.
    pub started: u64,
    /// Requests completed without error, 4xx aside.
    pub succeeded: u64,
    /// Requests completed with 4xx.
    pub client_errors: u64,
    /// 5xx, connect failure, reset, timeout, no endpoint.
    pub errors: u64,
    /// Requests begun and not completed; not cumulative.
    pub in_flight: u64,
    /// Completed requests by bucket of their time to the last byte: bucket and count.
    pub latency: Vec<(u32, u64)>,
    /// The same by pod, as far as the proxy knows; only stable's are used.
    pub pods: Vec<PodCounters>,
}

/// Cumulative counters of one pod since the proxy's start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodCounters {
    /// Name or address of the pod.
    pub pod: String,
    /// Requests completed.
    pub completed: u64,
    /// As in [`ArmCounters::errors`].
    pub errors: u64,
    /// As in [`ArmCounters::latency`].
    pub latency: Vec<(u32, u64)>,
}

/// One message of one proxy.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Name of the proxy.
    pub proxy: String,
    /// Changes with each start of the proxy.
    pub incarnation: u64,
    /// Rises with each message of an incarnation.
    pub sequence: u64,
    /// What it counted for this Canary.
    pub arms: Vec<ArmCounters>,
}

/// What the operator learned in one second.
#[derive(Clone, Copy, Debug)]
pub struct Second<'a> {
    /// The operator's clock.
    pub unix_ms: u64,
    /// The canary's share of traffic, 0 to 100, as acknowledged by all proxies.
    pub weight_percent: u8,
    /// That share is one of an audience; everybody else's requests are stable's, and counted with them.
    pub audience: bool,
    /// [`ArmCounters::counter`] from which on that weight applies.
    pub since_counter: u64,
    /// Ready pods of the canary.
    pub canary_pods: u32,
    /// Ready pods of stable.
    pub stable_pods: u32,
    /// Proxies that should report.
    pub proxies: u32,
    /// The reports that came since the last second, in any order.
    pub reports: &'a [Report],
}

/// Requests of one arm since the second before.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ArmDelta {
    /// Requests begun.
    pub started: u64,
    /// Requests completed.
    pub completed: u64,
    /// Of those, the failed ones.
    pub errors: u64,
    /// Of those, the ones answered 4xx.
    pub client_errors: u64,
    /// Completed requests by bucket; a bucket may come more than once.
    pub latency: Vec<(u32, u64)>,
}

/// What was newly counted in one second, by all proxies together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Delta {
    /// Stable's requests.
    pub stable: ArmDelta,
    /// The canary's requests.
    pub canary: ArmDelta,
    /// Stable's requests by pod: pod number below [`PODS`], completed, failed.
    pub pods: Vec<(u32, u64, u64)>,
    /// Stable's latencies by pod: pod number, bucket, count.
    pub pod_latency: Vec<(u32, u32, u64)>,
}

impl Delta {
    /// Empties it and keeps its memory.
    pub fn clear(&mut self) {
        for arm in [&mut self.stable, &mut self.canary] {
            let ArmDelta { started, completed, errors, client_errors, latency } = arm;
            for count in [started, completed, errors, client_errors] {
                *count = 0;
            }
            latency.clear();
        }
        self.pods.clear();
        self.pod_latency.clear();
    }
}

/// Most proxies that are remembered; further ones are not counted.
pub const PROXIES: usize = 64;
/// Most pods of stable whose scatter is followed; further ones count for the arm only.
pub const PODS: usize = 64;
