//! The numbers: log likelihood ratios of one stratum, and mixtures of them. In nats, in 64-bit floats.
//!
//! Pure arithmetic on counts; it knows neither lanes nor time. Formulae and known answers: `docs/verdict.md`; the exact
//! kernel is Fisher's noncentral hypergeometric distribution, conditioned on the totals of the stratum.

use std::sync::LazyLock;

use serde::{Deserialize, Serialize};

/// Counts of one stratum: requests `n` and bad ones `k` (`k <= n`), of the canary and of stable.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Table {
    pub(crate) canary_n: u64,
    pub(crate) canary_k: u64,
    pub(crate) stable_n: u64,
    pub(crate) stable_k: u64,
}

impl Table {
    /// The same stratum with the two arms exchanged.
    pub(crate) const fn swapped(self) -> Self {
        Self { canary_n: self.stable_n, canary_k: self.stable_k, stable_n: self.canary_n, stable_k: self.canary_k }
    }

    /// Adds another stratum's counts.
    pub(crate) fn add(&mut self, other: Self) {
        self.canary_n = self.canary_n.saturating_add(other.canary_n);
        self.canary_k = self.canary_k.saturating_add(other.canary_k);
        self.stable_n = self.stable_n.saturating_add(other.stable_n);
        self.stable_k = self.stable_k.saturating_add(other.stable_k);
    }

    /// Requests of both arms.
    pub(crate) const fn requests(self) -> u64 {
        self.canary_n.saturating_add(self.stable_n)
    }

    /// The same, with no more bad requests than requests.
    pub(crate) fn sound(self) -> Self {
        Self { canary_k: self.canary_k.min(self.canary_n), stable_k: self.stable_k.min(self.stable_n), ..self }
    }

    /// Whether the stratum can say anything about a difference between the arms.
    pub(crate) const fn compares(self) -> bool {
        let bad = self.canary_k + self.stable_k;
        self.canary_n > 0 && self.stable_n > 0 && bad > 0 && bad < self.canary_n + self.stable_n
    }
}

/// Entries below which `ln n!` is looked up; above, Stirling's series is exact to the last bit.
const FACTORIALS: usize = 256;

static LN_FACTORIAL: LazyLock<[f64; FACTORIALS]> = LazyLock::new(|| {
    let mut table = [0.0; FACTORIALS];
    for n in 1..FACTORIALS {
        table[n] = table[n - 1] + (n as f64).ln();
    }
    table
});

/// `ln Γ(x)` for `x >= 10` by Stirling's series.
fn ln_gamma_large(x: f64) -> f64 {
    let r = 1.0 / x;
    let r2 = r * r;
    let series = r * (1.0 / 12.0 - r2 * (1.0 / 360.0 - r2 * (1.0 / 1260.0 - r2 / 1680.0)));
    (x - 0.5) * x.ln() - x + 0.5 * (2.0 * std::f64::consts::PI).ln() + series
}

/// `ln Γ(x)` for `x > 0`: shifted up by the recurrence where the series is not exact.
pub(crate) fn ln_gamma(x: f64) -> f64 {
    let (mut x, mut product) = (x, 1.0);
    while x < 16.0 {
        product *= x;
        x += 1.0;
    }
    ln_gamma_large(x) - product.ln()
}

fn ln_factorial(n: u64) -> f64 {
    match LN_FACTORIAL.get(n as usize) {
        Some(known) => *known,
        None => ln_gamma_large(n as f64 + 1.0),
    }
}

fn ln_choose(n: u64, k: u64) -> f64 {
    ln_factorial(n) - ln_factorial(k) - ln_factorial(n - k)
}

/// Relative size below which a term no longer adds to a sum.
const NEGLIGIBLE: f64 = 1e-13;

/// `ln Z(ψ)`, the normaliser of the stratum given its totals, summed outwards from the largest term.
fn ln_normaliser(table: Table, psi: f64) -> f64 {
    let (n_c, n_s) = (table.canary_n, table.stable_n);
    let bad = table.canary_k + table.stable_k;
    let (low, high) = (bad.saturating_sub(n_s), n_c.min(bad));
    let mode = mode(n_c, n_s, bad, psi).clamp(low, high);
    let (nc, ns, k) = (n_c as f64, n_s as f64, bad as f64);
    let mut sum = 1.0;
    let mut term = 1.0;
    for x in mode..high {
        let x = x as f64;
        term *= (nc - x) * (k - x) * psi / ((x + 1.0) * (ns - k + x + 1.0));
        sum += term;
        if term < NEGLIGIBLE * sum {
            break;
        }
    }
    term = 1.0;
    for x in (low..mode).rev() {
        let x = x as f64;
        term *= (x + 1.0) * (ns - k + x + 1.0) / ((nc - x) * (k - x) * psi);
        sum += term;
        if term < NEGLIGIBLE * sum {
            break;
        }
    }
    ln_choose(n_c, mode) + ln_choose(n_s, bad - mode) + mode as f64 * psi.ln() + f64::ln(sum)
}

/// The `x` with the largest term: the smaller root of a quadratic, in the form that is stable for every ψ, 1 included.
fn mode(n_c: u64, n_s: u64, bad: u64, psi: f64) -> u64 {
    let (nc, ns, k) = (n_c as f64, n_s as f64, bad as f64);
    let a = psi - 1.0;
    let b = -((nc + k) * psi + ns - k + 2.0);
    let c = nc * k * psi - (ns - k + 1.0);
    let root = 2.0 * c / (-b + (b * b - 4.0 * a * c).max(0.0).sqrt());
    root.ceil().max(0.0) as u64
}

/// Log likelihood ratio of odds ratio `psi1` against `psi0`, given the stratum's totals; 0 where nothing compares.
pub(crate) fn exact(table: Table, psi0: f64, psi1: f64) -> f64 {
    let mut out = [0.0];
    exact_grid(table, psi0, &[psi1 / psi0], &mut out);
    out[0]
}

/// [`exact`] for each alternative `psi0 * ratio`.
pub(crate) fn exact_grid<const N: usize>(table: Table, psi0: f64, ratios: &[f64; N], out: &mut [f64; N]) {
    if !table.compares() {
        *out = [0.0; N];
        return;
    }
    let null = ln_normaliser(table, psi0);
    for (ratio, out) in ratios.iter().zip(out) {
        *out = table.canary_k as f64 * ratio.ln() - (ln_normaliser(table, psi0 * ratio) - null);
    }
}

/// Log likelihood ratio of a failure probability `p1` against `p0` for `k` of `n`.
pub(crate) fn one_sample(n: u64, k: u64, p0: f64, p1: f64) -> f64 {
    k as f64 * (p1 / p0).ln() + (n - k) as f64 * ((1.0 - p1) / (1.0 - p0)).ln()
}

/// Logarithm of the uniform mixture of likelihood ratios given by their logarithms.
pub(crate) fn mixture(logs: &[f64]) -> f64 {
    let top = logs.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    // Below e^-40 of the largest a part adds nothing to a 64-bit sum, and underflow is slow.
    let sum: f64 = logs.iter().map(|l| l - top).filter(|d| *d > -40.0).map(f64::exp).sum();
    top + (sum / logs.len() as f64).ln()
}

/// Evidence (nats) that the canary's share of `canary + stable` requests is not `weight` (0 < weight < 1): a
/// Beta-binomial with the concentration that Netflix's reference code uses (100 times the assignment).
pub(crate) fn sample_ratio(canary: u64, stable: u64, weight: f64) -> f64 {
    let ln_beta = |a: f64, b: f64| ln_gamma(a) + ln_gamma(b) - ln_gamma(a + b);
    let (c, s) = (canary as f64, stable as f64);
    let (a, b) = (100.0 * weight, 100.0 * (1.0 - weight));
    ln_beta(a + c, b + s) - ln_beta(a, b) - c * weight.ln() - s * (1.0 - weight).ln()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn mk_table(canary_n: u64, canary_k: u64, stable_n: u64, stable_k: u64) -> Table {
        Table { canary_n, canary_k, stable_n, stable_k }
    }

    fn near(seen: f64, wanted: f64) {
        assert!((seen - wanted).abs() <= 1e-9, "seen {seen:.12}, wanted {wanted:.12}");
    }

    /// Computed with exact integer binomials and 40-digit arithmetic, by other code.
    #[test]
    fn the_exact_kernel_meets_its_known_answers() {
        let known = [
            (mk_table(10, 1, 90, 0), 1.0, 9.0, 1.609437912),
            (mk_table(50, 5, 450, 1), 1.5, 18.0, 6.864938243),
            (mk_table(50, 0, 450, 4), 1.5, 6.0, -1.414946799),
            (mk_table(100, 50, 900, 450), 1.0, 1.6, -2.471042318),
            (mk_table(100, 62, 900, 450), 1.0, 1.6, 2.613794415),
            (mk_table(500, 30, 500, 5), 1.0, 4.0, 9.735667939),
            (mk_table(3, 2, 12, 0), 1.5, 60.0, 2.745272912),
            (mk_table(2500, 130, 2500, 25), 1.5, 10.5, 17.998059914),
            (mk_table(50, 0, 450, 4), 2.0, 1.0, 0.380347776),
            (mk_table(50, 1, 450, 0), 2.0, 1.0, -0.597837001),
        ];
        for (table, psi0, psi1, wanted) in known {
            near(exact(table, psi0, psi1), wanted);
        }
    }

    #[test]
    fn the_one_sample_kernel_meets_its_known_answers() {
        near(one_sample(50, 0, 0.01, 0.001), 0.452491776);
        near(one_sample(50, 1, 0.002, 0.032), 1.277050460);
        near(one_sample(100, 60, 0.25, 0.5), 25.370226509);
        near(one_sample(667, 0, 0.005, 0.0005), 3.009781994);
    }

    #[test]
    fn the_sample_ratio_meets_its_known_answers() {
        near(sample_ratio(60, 940, 0.1), 8.158466394);
        near(sample_ratio(100, 900, 0.1), -1.206604800);
        near(sample_ratio(0, 60, 0.1), 1.402794019);
    }

    #[test]
    fn factorials_agree_on_both_sides_of_the_table() {
        for n in [200_u64, 254, 255] {
            assert!((ln_factorial(n) - ln_gamma_large(n as f64 + 1.0)).abs() < 1e-11, "{n}");
        }
    }

    /// E[e^ℓ] over every outcome of the stratum when the odds ratio is `psi`.
    fn mean_of_e(n_c: u64, n_s: u64, bad: u64, psi0: f64, ratios: &[f64], psi: f64) -> f64 {
        let (low, high) = (bad.saturating_sub(n_s), n_c.min(bad));
        let (mut total, mut mean) = (0.0, 0.0);
        for k in low..=high {
            let p = (ln_choose(n_c, k) + ln_choose(n_s, bad - k) + k as f64 * psi.ln()).exp();
            let table = mk_table(n_c, k, n_s, bad - k);
            let logs: Vec<f64> = ratios.iter().map(|r| exact(table, psi0, psi0 * r)).collect();
            total += p;
            mean += p * mixture(&logs).exp();
        }
        mean / total
    }

    #[test]
    fn evidence_of_a_tolerated_canary_has_mean_at_most_one_for_every_small_stratum() {
        for n_c in 1..=12 {
            for n_s in 1..=12 {
                for bad in 0..=(n_c + n_s) {
                    for psi in [0.5, 1.0, 1.5] {
                        let mean = mean_of_e(n_c, n_s, bad, 1.5, &[1.6, 4.0, 60.0], psi);
                        assert!(mean <= 1.0 + 1e-9, "{n_c} {n_s} {bad} at {psi}: {mean}");
                    }
                }
            }
        }
    }

    #[test]
    fn exchanging_arms_and_inverting_odds_changes_nothing() {
        for (n_c, k_c, n_s, k_s) in [(50, 3, 450, 4), (7, 7, 63, 0), (100, 62, 900, 450)] {
            let table = mk_table(n_c, k_c, n_s, k_s);
            for (a, b) in [(1.5, 6.0), (1.0, 1.25), (2.0, 1.0)] {
                near(exact(table.swapped(), 1.0 / a, 1.0 / b), exact(table, a, b));
                near(exact(table, b, a), -exact(table, a, b));
            }
        }
    }

    #[test]
    fn enumeration_meets_the_exhaustive_known_answer() {
        let grid = [1.6, 2.5, 4.0, 7.0, 12.0, 25.0, 60.0, 200.0, 1000.0];
        for (psi, wanted) in [(1.5, 1.0), (1.0, 0.300820), (0.5, 0.142632)] {
            let mean = mean_of_e(20, 180, 9, 1.5, &grid, psi);
            assert!((mean - wanted).abs() < 1e-6, "{psi}: {mean}");
        }
    }
}
