//! How much stable's own pods differ, as estimates from counts: within seconds (bursts) and for good (nodes, caches).
//!
//! The first tempers evidence, the second widens margins. Pure functions of sums; who keeps the sums is `history`.

/// Sums over strata of the squared deviations of pods from their stratum, and of what chance alone would give.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Dispersion {
    /// Σ (k - expected)².
    seen: f64,
    /// The same if pods differed by chance only.
    chance: f64,
    /// Degrees of freedom.
    free: f64,
}

impl Dispersion {
    /// Adds one stratum: per pod its requests and its bad ones.
    pub(crate) fn add(&mut self, pods: impl Iterator<Item = (u64, u64)> + Clone) {
        let (n, k, count) = pods
            .clone()
            .filter(|(n, _)| *n > 0)
            .fold((0, 0, 0_u32), |(n, k, c), (pod_n, pod_k)| (n + pod_n, k + pod_k, c + 1));
        if k == 0 || k == n || count < 2 {
            return;
        }
        let (n, k) = (n as f64, k as f64);
        for (pod_n, pod_k) in pods {
            let share = pod_n as f64 / n;
            self.seen += (pod_k as f64 - k * share).powi(2);
            self.chance += k * share * (1.0 - share) * (n - k) / (n - 1.0);
        }
        self.free += f64::from(count - 1);
    }

    /// Both together.
    pub(crate) fn merged(self, other: Self) -> Self {
        Self { seen: self.seen + other.seen, chance: self.chance + other.chance, free: self.free + other.free }
    }

    /// A ratio of sums: averaging per-stratum ratios would underweigh rare bursts fivefold.
    pub(crate) fn ratio(self) -> f64 {
        if self.chance > 0.0 { self.seen / self.chance } else { 1.0 }
    }

    /// Correlation of requests on one pod within a stratum, 0 to 1; `per_pod` is the mean of requests per pod and
    /// stratum. `None` when there is too little to estimate it.
    pub(crate) fn correlation(self, per_pod: f64) -> Option<f64> {
        if self.free <= 5.0 || per_pod <= 1.5 {
            return None;
        }
        let excess = self.ratio() - 1.0 + (2.0 / self.free).sqrt();
        Some((1.25 * excess / (per_pod - 1.0)).clamp(0.0, 1.0))
    }
}

/// Standard deviation between pods beyond sampling error, by the method of moments (DerSimonian and Laird), from each
/// pod's value and sampling variance. 0 unless the pods differ by more than chance does in 99 of 100 cases: where alike
/// pods pass, the deviation is a gross one, and widened odds let a canary through that fails ten times as often. At 19 of
/// 20 that were 2 of 400 releases (B10); pods that do differ are told as well at either (table E).
pub(crate) fn between_pods(pods: &[(f64, f64)]) -> f64 {
    let count = pods.len();
    if count < 2 {
        return 0.0;
    }
    let weight: f64 = pods.iter().map(|(_, v)| 1.0 / v).sum();
    let mean = pods.iter().map(|(y, v)| y / v).sum::<f64>() / weight;
    let spread: f64 = pods.iter().map(|(y, v)| (y - mean).powi(2) / v).sum();
    let free = (count - 1) as f64;
    if spread <= chi_squared_99(free) {
        return 0.0;
    }
    let squares: f64 = pods.iter().map(|(_, v)| 1.0 / (v * v)).sum();
    ((spread - free) / (weight - squares / weight)).max(0.0).sqrt()
}

/// Log-odds of failing and its sampling variance.
pub(crate) fn log_odds(n: u64, k: u64) -> (f64, f64) {
    let (bad, good) = (k as f64 + 0.5, (n - k) as f64 + 0.5);
    ((bad / good).ln(), 1.0 / bad + 1.0 / good)
}

/// 99 % quantile of χ², by Wilson and Hilferty.
fn chi_squared_99(free: f64) -> f64 {
    let a = 2.0 / (9.0 * free);
    free * (1.0 - a + 2.326 * a.sqrt()).powi(3)
}

/// 99 % quantile of Student's t for few degrees of freedom.
const T_99: [f64; 10] = [31.821, 6.965, 4.541, 3.747, 3.365, 3.143, 2.998, 2.896, 2.821, 2.764];

/// Log of the difference between the canary's mean and stable's that pods alone explain in 99 of 100 releases. The
/// deviation is itself estimated from `stable` pods, hence Student's t and not a fixed multiple.
pub(crate) fn explained(deviation: f64, canary_pods: u32, stable_pods: usize) -> f64 {
    if stable_pods < 2 || deviation <= 0.0 {
        return 0.0;
    }
    let free = stable_pods - 1;
    let t = T_99.get(free - 1).copied().unwrap_or(2.326 + 3.73 / free as f64);
    let pods = 1.0 / f64::from(canary_pods.max(1)) + 1.0 / stable_pods as f64;
    t * deviation * pods.sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dispersion_meets_its_known_answer() {
        let strata: [[(u64, u64); 4]; 4] = [
            [(100, 1), (100, 0), (100, 2), (100, 1)],
            [(100, 12), (100, 1), (100, 0), (100, 1)],
            [(100, 0), (100, 0), (100, 0), (100, 0)],
            [(90, 2), (110, 1), (100, 1), (100, 3)],
        ];
        let mut dispersion = Dispersion::default();
        strata.iter().for_each(|s| dispersion.add(s.iter().copied()));
        assert!((dispersion.ratio() - 5.583261552).abs() < 1e-9, "{}", dispersion.ratio());
        assert_eq!(dispersion.free, 9.0);
        let rho = dispersion.correlation(100.0).unwrap();
        assert!((rho - 0.063821541).abs() < 1e-9, "{rho}");
    }

    #[test]
    fn one_pod_or_no_failure_says_nothing_about_scatter() {
        let mut dispersion = Dispersion::default();
        dispersion.add([(100, 7)].into_iter());
        dispersion.add([(100, 0), (100, 0)].into_iter());
        assert_eq!(dispersion, Dispersion::default());
        assert_eq!(dispersion.correlation(100.0), None);
    }

    #[test]
    fn pods_that_differ_by_chance_only_widen_nothing() {
        let alike = [log_odds(10_000, 100), log_odds(10_000, 104), log_odds(10_000, 97), log_odds(10_000, 99)];
        assert_eq!(between_pods(&alike), 0.0);
        // χ² of 9 with 3 degrees of freedom: alike pods come to that in 3 of 100 cases.
        let by_chance = [log_odds(10_000, 100), log_odds(10_000, 130), log_odds(10_000, 90), log_odds(10_000, 95)];
        assert_eq!(between_pods(&by_chance), 0.0);
        let apart = [log_odds(10_000, 60), log_odds(10_000, 104), log_odds(10_000, 170), log_odds(10_000, 99)];
        let deviation = between_pods(&apart);
        assert!((0.3..0.6).contains(&deviation), "{deviation}");
        assert!(explained(deviation, 1, 4) > explained(deviation, 4, 4));
    }

    #[test]
    fn the_chi_squared_quantile_is_right_to_a_percent() {
        for (free, wanted) in [(1.0, 6.635), (3.0, 11.345), (9.0, 21.666)] {
            assert!((chi_squared_99(free) / wanted - 1.0_f64).abs() < 0.01, "{free}");
        }
    }
}
