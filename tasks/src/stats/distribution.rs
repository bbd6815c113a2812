//! The normal and Student's t: quantiles and tails, from the incomplete beta function.

/// Two-sided tail of Student's t: the chance of a value at least this far from zero.
pub fn t_two_sided(t: f64, degrees: f64) -> f64 {
    if t.is_infinite() {
        return 0.0;
    }
    incomplete_beta(degrees / (degrees + t * t), degrees / 2.0, 0.5)
}

/// The t whose central interval holds `confidence` of the distribution: 12.706 for 0.95 and one degree
/// of freedom, 1.960 for very many. By bisection on the tail, which is exact to the last digits shown.
pub fn t_quantile(confidence: f64, degrees: f64) -> f64 {
    let (mut low, mut high) = (0.0, 1.0);
    while t_two_sided(high, degrees) > 1.0 - confidence && high < 1e9 {
        high *= 2.0;
    }
    for _ in 0..100 {
        let middle = f64::midpoint(low, high);
        if t_two_sided(middle, degrees) > 1.0 - confidence {
            low = middle;
        } else {
            high = middle;
        }
    }
    f64::midpoint(low, high)
}

/// The chance that a standard normal is above `z`. The t distribution with so many degrees of freedom
/// that they no longer show.
pub fn normal_upper_tail(z: f64) -> f64 {
    let tail = t_two_sided(z, 1e9) / 2.0;
    if z < 0.0 { 1.0 - tail } else { tail }
}

/// The regularised incomplete beta function, by Lentz's continued fraction (Abramowitz and Stegun
/// 26.5.8), on the side where it converges fast.
fn incomplete_beta(x: f64, a: f64, b: f64) -> f64 {
    if x <= 0.0 {
        return 0.0;
    }
    if x >= 1.0 {
        return 1.0;
    }
    if x > (a + 1.0) / (a + b + 2.0) {
        return 1.0 - incomplete_beta(1.0 - x, b, a);
    }
    let front = (a * x.ln() + b * (-x).ln_1p() + ln_gamma(a + b) - ln_gamma(a) - ln_gamma(b)).exp() / a;
    let guard = |value: f64| if value.abs() < 1e-300 { 1e-300 } else { value };
    let (mut c, mut d) = (1.0, 1.0 / guard(1.0 - (a + b) * x / (a + 1.0)));
    let mut fraction = d;
    for i in 1..=300 {
        let m = f64::from(i);
        let even = m * (b - m) * x / ((a + 2.0 * m - 1.0) * (a + 2.0 * m));
        d = 1.0 / guard(1.0 + even * d);
        c = guard(1.0 + even / c);
        fraction *= d * c;
        let odd = -(a + m) * (a + b + m) * x / ((a + 2.0 * m) * (a + 2.0 * m + 1.0));
        d = 1.0 / guard(1.0 + odd * d);
        c = guard(1.0 + odd / c);
        fraction *= d * c;
        if (d * c - 1.0).abs() < 1e-15 {
            break;
        }
    }
    front * fraction
}

/// The logarithm of the gamma function for positive x: Stirling's series, after shifting x above 10.
fn ln_gamma(x: f64) -> f64 {
    let (mut x, mut shift) = (x, 0.0);
    while x < 10.0 {
        shift -= x.ln();
        x += 1.0;
    }
    let inverse = 1.0 / (x * x);
    let series = (1.0 / 12.0 - inverse * (1.0 / 360.0 - inverse * (1.0 / 1260.0 - inverse / 1680.0))) / x;
    shift + (x - 0.5) * x.ln() - x + (2.0 * std::f64::consts::PI).ln() / 2.0 + series
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_those_of_the_tables() {
        for (degrees, expected) in
            [(1.0, 12.7062), (4.0, 2.7764), (29.0, 2.0452), (499.0, 1.9647), (1e7, 1.9600)]
        {
            let found = t_quantile(0.95, degrees);
            assert!((found - expected).abs() < 5e-5, "{degrees}: {found}");
        }
        assert!((t_quantile(0.99, 10.0) - 3.1693).abs() < 5e-5);
    }

    #[test]
    fn tails_are_those_of_the_tables() {
        assert!((t_two_sided(2.0, 10.0) - 0.073_388).abs() < 1e-6);
        assert!((t_two_sided(-2.0, 10.0) - 0.073_388).abs() < 1e-6);
        assert_eq!((t_two_sided(0.0, 10.0), t_two_sided(f64::INFINITY, 10.0)), (1.0, 0.0));
        assert!((normal_upper_tail(1.959_964) - 0.025).abs() < 1e-7);
        assert!((normal_upper_tail(-1.0) - 0.841_345).abs() < 1e-6);
    }
}
