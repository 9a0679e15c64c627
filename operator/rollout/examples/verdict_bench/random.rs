//! Seeded random numbers and the three distributions that the worlds need.
//!
//! xoshiro256++ (Blackman and Vigna), Poisson and binomial by inversion where the mean is small and by Hörmann's
//! transformed rejection where it is not (1993).

/// A seeded generator.
#[derive(Clone, Debug)]
pub(crate) struct Random {
    state: [u64; 4],
    spare: Option<f64>,
}

/// Mean from which on rejection is faster than inversion.
const LARGE: f64 = 10.0;

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        let mut at = seed;
        let state = std::array::from_fn(|_| {
            at = at.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut z = at;
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            z ^ (z >> 31)
        });
        Self { state, spare: None }
    }

    fn next(&mut self) -> u64 {
        let [a, b, c, d] = &mut self.state;
        let out = a.wrapping_add(*d).rotate_left(23).wrapping_add(*a);
        let t = *b << 17;
        *c ^= *a;
        *d ^= *b;
        *b ^= *c;
        *a ^= *d;
        *c ^= t;
        *d = d.rotate_left(45);
        out
    }

    /// Uniform in (0, 1).
    pub(crate) fn uniform(&mut self) -> f64 {
        ((self.next() >> 11) as f64 + 0.5) / (1_u64 << 53) as f64
    }

    /// Standard normal.
    pub(crate) fn normal(&mut self) -> f64 {
        if let Some(spare) = self.spare.take() {
            return spare;
        }
        let radius = (-2.0 * self.uniform().ln()).sqrt();
        let (sin, cos) = (std::f64::consts::TAU * self.uniform()).sin_cos();
        self.spare = Some(radius * sin);
        radius * cos
    }

    pub(crate) fn poisson(&mut self, mean: f64) -> u64 {
        if mean <= 0.0 {
            return 0;
        }
        if mean < LARGE {
            let (mut k, mut p) = (0, (-mean).exp());
            let mut u = self.uniform();
            while u > p && k < 200 {
                u -= p;
                k += 1;
                p *= mean / k as f64;
            }
            return k;
        }
        let spread = mean.sqrt();
        let b = 0.931 + 2.53 * spread;
        let a = -0.059 + 0.02483 * b;
        let inverse_alpha = 1.1239 + 1.1328 / (b - 3.4);
        let v_r = 0.9277 - 3.6224 / (b - 2.0);
        loop {
            let u = self.uniform() - 0.5;
            let v = self.uniform();
            let us = 0.5 - u.abs();
            let k = ((2.0 * a / us + b) * u + mean + 0.43).floor();
            if us >= 0.07 && v <= v_r {
                return k as u64;
            }
            if k < 0.0 || (us < 0.013 && v > us) {
                continue;
            }
            let left = v.ln() + inverse_alpha.ln() - (a / (us * us) + b).ln();
            if left <= k * mean.ln() - mean - ln_factorial(k) {
                return k as u64;
            }
        }
    }

    pub(crate) fn binomial(&mut self, n: u64, p: f64) -> u64 {
        if n == 0 || p <= 0.0 {
            return 0;
        }
        if p >= 1.0 {
            return n;
        }
        if p > 0.5 {
            return n - self.binomial(n, 1.0 - p);
        }
        self.binomial_known(n, p, (-p).ln_1p())
    }

    /// The same for `p <= 0.5` whose `ln(1 - p)` is known.
    pub(crate) fn binomial_known(&mut self, n: u64, p: f64, ln_q: f64) -> u64 {
        let mean = n as f64 * p;
        if mean >= LARGE {
            return self.binomial_large(n as f64, p, mean);
        }
        let ratio = p / (1.0 - p);
        let mut term = (n as f64 * ln_q).exp();
        let mut u = self.uniform();
        let mut k = 0;
        while u > term && k < n {
            u -= term;
            term *= ratio * (n - k) as f64 / (k + 1) as f64;
            k += 1;
        }
        k
    }

    fn binomial_large(&mut self, n: f64, p: f64, mean: f64) -> u64 {
        let q = 1.0 - p;
        let spread = (mean * q).sqrt();
        let b = 1.15 + 2.53 * spread;
        let a = -0.0873 + 0.0248 * b + 0.01 * p;
        let c = mean + 0.5;
        let v_r = 0.92 - 4.2 / b;
        let alpha = (2.83 + 5.1 / b) * spread;
        let odds = (p / q).ln();
        let mode = ((n + 1.0) * p).floor();
        let h = ln_factorial(mode) + ln_factorial(n - mode);
        loop {
            let u = self.uniform() - 0.5;
            let v = self.uniform();
            let us = 0.5 - u.abs();
            let k = ((2.0 * a / us + b) * u + c).floor();
            if us >= 0.07 && v <= v_r {
                return k as u64;
            }
            if k < 0.0 || k > n {
                continue;
            }
            let v = (v * alpha / (a / (us * us) + b)).ln();
            if v <= h - ln_factorial(k) - ln_factorial(n - k) + (k - mode) * odds {
                return k as u64;
            }
        }
    }
}

/// `ln k!` by Stirling's series, shifted up where it is not exact.
fn ln_factorial(k: f64) -> f64 {
    let (mut x, mut product) = (k + 1.0, 1.0);
    while x < 10.0 {
        product *= x;
        x += 1.0;
    }
    let r = 1.0 / x;
    let series = r * (1.0 / 12.0 - r * r * (1.0 / 360.0 - r * r / 1260.0));
    (x - 0.5) * x.ln() - x + 0.918_938_533_204_672_8 + series - f64::ln(product)
}

/// Standard normal distribution function, to seven digits (Numerical Recipes' `erfc`).
pub(crate) fn normal_below(x: f64) -> f64 {
    let z = x.abs() / std::f64::consts::SQRT_2;
    let t = 1.0 / (1.0 + 0.5 * z);
    let tail = [
        0.170_872_77,
        -0.822_152_23,
        1.488_515_87,
        -1.135_203_98,
        0.278_868_07,
        -0.186_288_06,
        0.096_784_18,
        0.374_091_96,
        1.000_023_68,
    ]
    .into_iter()
    .fold(0.0, |sum, c| sum * t + c);
    let upper = 0.5 * t * (-z * z - 1.265_512_23 + t * tail).exp();
    if x > 0.0 { 1.0 - upper } else { upper }
}
