//! Outlier detection: which endpoints of an arm are left out for a while because their answers fail one after the other
//! (Istio's `outlierDetection`, Envoy's consecutive detectors).
//!
//! Only leaves out, and only within an arm: which arm a request belongs to is decided before, and what was counted stays
//! counted. State is shared by the workers; time and codes come as arguments. Order: what a route asks for, one endpoint's
//! state, an arm.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use proxy_api::v1beta1 as api;

use crate::split::Arm;
use crate::table::Target;

/// Failures in a row that eject, where the route does not say: Envoy's and Istio's.
pub const DEFAULT_CONSECUTIVE_5XX: u32 = 5;
/// Time without a further ejection that forgives one, where the route does not say: Envoy's and Istio's.
pub const DEFAULT_INTERVAL: Duration = Duration::from_secs(10);
/// Length of a first ejection, where the route does not say: Envoy's and Istio's.
pub const DEFAULT_BASE_EJECTION_TIME: Duration = Duration::from_secs(30);
/// Share of an arm that may be ejected, where the route does not say. Istio's 10 would eject none of up to nine pods.
pub const DEFAULT_MAX_EJECTION_PERCENT: u32 = 50;
/// Longest ejection, unless the first one is longer: Envoy's `max_ejection_time`.
pub const MAX_EJECTION_TIME: Duration = Duration::from_secs(300);

/// What a route asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Answers of 500 to 599, or none, in a row; 0: not looked at.
    pub consecutive_5xx: u32,
    /// Answers of 502, 503 or 504, or none, in a row; 0: not looked at.
    pub consecutive_gateway: u32,
    /// Time without a further ejection that forgives one.
    pub interval: Duration,
    /// Length of a first ejection.
    pub base_ejection_time: Duration,
    /// Share of an arm that may be ejected at a time, 0..=100.
    pub max_ejection_percent: u32,
}

/// Why a policy cannot be carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Invalid {
    /// Above 100.
    #[error("maxEjectionPercent is {0}, must be at most 100")]
    Percent(u32),
}

impl Policy {
    /// What the message says, with defaults for what it does not.
    ///
    /// # Errors
    /// When a share is above the whole.
    pub fn compile(asked: &api::OutlierDetection) -> Result<Self, Invalid> {
        let millis = |value: u64, default| if value == 0 { default } else { Duration::from_millis(value) };
        let max_ejection_percent = asked.max_ejection_percent.unwrap_or(DEFAULT_MAX_EJECTION_PERCENT);
        if max_ejection_percent > 100 {
            return Err(Invalid::Percent(max_ejection_percent));
        }
        Ok(Self {
            consecutive_5xx: asked.consecutive_5xx_errors.unwrap_or(DEFAULT_CONSECUTIVE_5XX),
            consecutive_gateway: asked.consecutive_gateway_errors.unwrap_or(0),
            interval: millis(asked.interval_ms, DEFAULT_INTERVAL),
            base_ejection_time: millis(asked.base_ejection_time_ms, DEFAULT_BASE_EJECTION_TIME),
            max_ejection_percent,
        })
    }

    /// Length of an ejection after which an endpoint was ejected `times` in a row: Envoy's rule, the base times their
    /// number, up to [`MAX_EJECTION_TIME`].
    fn ejection_time(&self, times: u32) -> Duration {
        self.base_ejection_time.saturating_mul(times).min(MAX_EJECTION_TIME.max(self.base_ejection_time))
    }

    /// Whether one more of `endpoints` may be ejected while `ejected` are: never the last one that serves.
    fn allows(&self, ejected: usize, endpoints: usize) -> bool {
        let share = (ejected + 1) * 100 <= endpoints * self.max_ejection_percent as usize;
        share && ejected + 1 < endpoints
    }
}

/// One endpoint, as all workers see it. Times are milliseconds since the same start for all callers.
#[derive(Debug, Default)]
pub struct Health {
    /// Failures in a row.
    failures: AtomicU32,
    /// Gateway failures in a row.
    gateway_failures: AtomicU32,
    /// End of the last ejection; 0: there was none.
    until_ms: AtomicU64,
    /// Ejections in a row, as of `until_ms`.
    times: AtomicU32,
}

impl Health {
    /// Whether it is left out now; the time is asked for only if it ever was.
    #[must_use]
    pub fn ejected(&self, now: impl FnOnce() -> Duration) -> bool {
        self.until_ms.load(Relaxed) != 0 && self.ejected_for(now()).is_some()
    }

    /// How long it is left out still; `None` if it serves.
    #[must_use]
    pub fn ejected_for(&self, now: Duration) -> Option<Duration> {
        let until = Duration::from_millis(self.until_ms.load(Relaxed));
        until.checked_sub(now).filter(|left| !left.is_zero())
    }

    /// Ejections in a row that are not forgiven yet; one is for each whole interval in which it served.
    #[must_use]
    pub fn ejections(&self, interval: Duration, now: Duration) -> u32 {
        let served = now.saturating_sub(Duration::from_millis(self.until_ms.load(Relaxed)));
        let forgiven = served.as_millis() / interval.as_millis().max(1);
        self.times.load(Relaxed).saturating_sub(u32::try_from(forgiven).unwrap_or(u32::MAX))
    }

    /// An answer of `code` came, or stands for one that did not. Whether failures are now as many as the policy bears; then
    /// they are counted anew.
    fn answer(&self, code: u16, policy: &Policy) -> bool {
        let tip = |count: &AtomicU32, failed: bool, limit: u32| {
            if !failed {
                // Read first: in the usual case nobody takes the line from the other workers.
                if count.load(Relaxed) != 0 {
                    count.store(0, Relaxed);
                }
                return false;
            }
            let reached = count.fetch_add(1, Relaxed) + 1 >= limit && limit != 0;
            if reached {
                count.store(0, Relaxed);
            }
            reached
        };
        let by_5xx = tip(&self.failures, code >= 500, policy.consecutive_5xx);
        let by_gateway = tip(&self.gateway_failures, matches!(code, 502..=504), policy.consecutive_gateway);
        by_5xx || by_gateway
    }
}

/// The endpoints of a route, and what was done about them; kept over changes of the route.
#[derive(Debug)]
pub struct Outliers {
    policy: Policy,
    endpoints: BTreeMap<(SocketAddr, String), Arc<Health>>,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    /// Ejections are decided one after the other: two workers must not eject the last two endpoints at once.
    deciding: Mutex<()>,
    stable: AtomicU64,
    canary: AtomicU64,
}

impl Outliers {
    /// The state for these endpoints: that of `previous` for those that it had, by address and pod.
    #[must_use]
    pub fn new<'a>(policy: Policy, targets: impl Iterator<Item = &'a Target>, previous: Option<&Self>) -> Self {
        let known = |key: &(SocketAddr, String)| previous.and_then(|before| before.endpoints.get(key)).cloned();
        let endpoints = targets.map(|target| {
            let key = (target.address, target.pod.clone());
            let health = known(&key).unwrap_or_default();
            (key, health)
        });
        let shared = previous.map_or_else(Arc::default, |before| Arc::clone(&before.shared));
        Self { policy, endpoints: endpoints.collect(), shared }
    }

    /// Time without a further ejection that forgives one.
    #[must_use]
    pub fn interval(&self) -> Duration {
        self.policy.interval
    }

    /// Ejections from `arm` since the route has the policy.
    #[must_use]
    pub fn ejections(&self, arm: Arm) -> u64 {
        self.shared.ejections(arm).load(Relaxed)
    }

    /// One arm of one port.
    #[must_use]
    pub fn ward(&self, arm: Arm, targets: &[Target]) -> Ward {
        let health = |target: &Target| self.endpoints.get(&(target.address, target.pod.clone())).cloned();
        let endpoints = targets.iter().map(|target| health(target).unwrap_or_default()).collect();
        Ward { policy: self.policy, arm, endpoints, shared: Arc::clone(&self.shared) }
    }
}

impl Shared {
    fn ejections(&self, arm: Arm) -> &AtomicU64 {
        match arm {
            Arm::Stable => &self.stable,
            Arm::Canary => &self.canary,
        }
    }
}

/// An arm whose endpoints are looked after, in the order of the arm.
#[derive(Debug)]
pub struct Ward {
    policy: Policy,
    arm: Arm,
    endpoints: Vec<Arc<Health>>,
    shared: Arc<Shared>,
}

impl Ward {
    /// The endpoints' state.
    #[must_use]
    pub fn endpoints(&self) -> &[Arc<Health>] {
        &self.endpoints
    }

    /// How many are left out now.
    #[must_use]
    pub fn active(&self, now: Duration) -> usize {
        self.endpoints.iter().filter(|health| health.ejected_for(now).is_some()).count()
    }

    /// An endpoint of the arm gave an answer of `code`, or none, which counts as 502, 503 or 504. Whether it is ejected by
    /// that.
    pub fn answer(&self, health: &Health, code: u16, now: Duration) -> bool {
        health.answer(code, &self.policy) && self.eject(health, now)
    }

    fn eject(&self, health: &Health, now: Duration) -> bool {
        let _deciding = self.shared.deciding.lock().unwrap_or_else(PoisonError::into_inner);
        // Requests that were under way when it was ejected do not eject it a second time.
        if health.ejected_for(now).is_some() || !self.policy.allows(self.active(now), self.endpoints.len()) {
            return false;
        }
        let times = health.ejections(self.policy.interval, now).saturating_add(1);
        let until = now + self.policy.ejection_time(times);
        health.times.store(times, Relaxed);
        health.until_ms.store(u64::try_from(until.as_millis()).unwrap_or(u64::MAX), Relaxed);
        self.shared.ejections(self.arm).fetch_add(1, Relaxed);
        true
    }
}

#[cfg(test)]
mod tests;
