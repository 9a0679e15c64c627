//! What an endpoint is expected to cost, by the latency that was seen of it. Finagle's peak EWMA: up at once, down slowly,
//! and fading in silence, so that an endpoint that was slow once is tried again. Time is passed in.

use std::time::Duration;

/// Time after which an observed latency has lost 63 % of its influence; Linkerd's and Finagle's value.
pub const DECAY: Duration = Duration::from_secs(10);
/// Latency assumed of an endpoint that has answered nothing yet and has no [peers](PeakEwma::among).
pub const INITIAL: Duration = Duration::from_millis(50);

/// Latency of one endpoint: jumps to a peak at once, comes down slowly.
#[derive(Clone, Copy, Debug)]
pub struct PeakEwma {
    micros: f64,
    at: Duration,
}

impl PeakEwma {
    /// An endpoint that has answered nothing; `now` is the time since any fixed start.
    #[must_use]
    pub fn new(now: Duration) -> Self {
        Self { micros: INITIAL.as_micros() as f64, at: now }
    }

    /// An endpoint that has answered nothing, among others that are weighed at `peers` microseconds now: taken for as good
    /// as the median of them. A fixed guess would starve it among fast ones until the guess has faded, and flood it among
    /// slow ones.
    #[must_use]
    pub fn among(peers: &mut [f64], now: Duration) -> Self {
        peers.sort_by(f64::total_cmp);
        peers.get(peers.len() / 2).map_or(Self::new(now), |median| Self { micros: *median, at: now })
    }

    /// Takes one answer into account that took `latency`.
    pub fn observe(&mut self, latency: Duration, now: Duration) {
        let sample = latency.as_micros() as f64;
        if sample >= self.micros {
            self.micros = sample;
        } else {
            let keep = self.kept(now);
            self.micros = self.micros * keep + sample * (1.0 - keep);
        }
        self.at = now;
    }

    /// Expected cost of one more request while `in_flight` are under way; lower is better. Fades while nothing is
    /// observed.
    #[must_use]
    pub fn load(&self, in_flight: u32, now: Duration) -> f64 {
        (self.micros * self.kept(now) + 1.0) * f64::from(in_flight + 1)
    }

    /// The latency as it is weighed now, in microseconds.
    #[must_use]
    pub fn micros(&self, now: Duration) -> f64 {
        self.micros * self.kept(now)
    }

    fn kept(&self, now: Duration) -> f64 {
        (-now.saturating_sub(self.at).as_secs_f64() / DECAY.as_secs_f64()).exp()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peak_counts_at_once_and_fades_with_time() {
        let second = Duration::from_secs(1);
        let mut ewma = PeakEwma::new(Duration::ZERO);
        ewma.observe(Duration::from_secs(2), second);
        assert!(ewma.load(0, second) > 1.9e6);
        assert!(ewma.load(3, second) > 3.0 * ewma.load(0, second));
        ewma.observe(Duration::from_millis(1), 21 * second);
        assert!(ewma.load(0, 21 * second) < 0.4e6);
        assert!(ewma.load(0, 81 * second) < 0.01e6);
    }

    #[test]
    fn a_new_endpoint_is_taken_for_the_median_of_its_peers() {
        let now = Duration::from_secs(9);
        assert!((PeakEwma::among(&mut [2_000_000.0, 900.0, 1_100.0], now).micros(now) - 1_100.0).abs() < 1e-6);
        assert!((PeakEwma::among(&mut [], now).micros(now) - 50_000.0).abs() < 1e-6);
    }
}
