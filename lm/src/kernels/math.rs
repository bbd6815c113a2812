//! Elementary functions and sums with fixed rounding: the same bits on every instruction set.

/// Partial sums of a reduction: element `i` goes to partial sum `i mod LANES`.
pub const LANES: usize = 16;

/// The natural exponential, to about one unit in the last place, between the smallest and the largest normal number.
///
/// Without branches, so that loops over it are vectorised.
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    /// Adding this rounds to an integer, which then stands in the low bits.
    const ROUND: f32 = 12_582_912.0;
    /// ln 2 in two parts, the first short enough that its product with an exponent is exact.
    const LN_2_HIGH: f32 = 355.0 / 512.0;
    const LN_2_LOW: f32 = -2.121_944_4e-4;
    let x = x.clamp(-87.3, 88.3);
    let rounded = x.mul_add(std::f32::consts::LOG2_E, ROUND);
    let exponent = rounded - ROUND;
    let rest = exponent.mul_add(-LN_2_LOW, exponent.mul_add(-LN_2_HIGH, x));
    let mut series = 1.0 / 5040.0;
    for coefficient in [1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0] {
        series = rest.mul_add(series, coefficient);
    }
    series * f32::from_bits(rounded.to_bits().wrapping_add(127) << 23)
}

/// The natural logarithm of a positive normal number.
pub fn ln(x: f64) -> f64 {
    let bits = x.to_bits();
    let mut exponent = ((bits >> 52).cast_signed() - 1023) as f64;
    let mut mantissa = f64::from_bits(bits & ((1 << 52) - 1) | (1023 << 52));
    if mantissa > std::f64::consts::SQRT_2 {
        mantissa *= 0.5;
        exponent += 1.0;
    }
    // ln m = 2 artanh((m - 1) / (m + 1)); the argument is below 0.172, so twelve terms exhaust the precision.
    let ratio = (mantissa - 1.0) / (mantissa + 1.0);
    let square = ratio * ratio;
    let series = (0..12).rev().fold(0.0_f64, |sum, term| sum.mul_add(square, 1.0 / f64::from(2 * term + 1)));
    exponent.mul_add(std::f64::consts::LN_2, 2.0 * ratio * series)
}

/// The sigmoid function.
#[expect(clippy::inline_always, reason = "compiled for the instruction set of the calling loop")]
#[inline(always)]
pub(crate) fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

/// Folds `terms(element index)` over `0..count`, in [`LANES`] partial results and then a fixed tree.
#[expect(clippy::inline_always, reason = "compiled for the instruction set of the calling loop")]
#[inline(always)]
pub(crate) fn fold(
    count: usize,
    start: f32,
    term: impl Fn(usize) -> f32,
    combine: impl Fn(f32, f32) -> f32,
) -> f32 {
    let mut partial = [start; LANES];
    let whole = count / LANES * LANES;
    for first in (0..whole).step_by(LANES) {
        for (lane, partial) in partial.iter_mut().enumerate() {
            *partial = combine(*partial, term(first + lane));
        }
    }
    for index in whole..count {
        partial[index - whole] = combine(partial[index - whole], term(index));
    }
    let mut width = LANES / 2;
    while width > 0 {
        for lane in 0..width {
            partial[lane] = combine(partial[lane], partial[lane + width]);
        }
        width /= 2;
    }
    partial[0]
}

/// The sum of the elements.
#[expect(clippy::inline_always, reason = "compiled for the instruction set of the calling loop")]
#[inline(always)]
pub(crate) fn sum(values: &[f32]) -> f32 {
    fold(values.len(), 0.0, |index| values[index], |left, right| left + right)
}

/// The largest element.
#[expect(clippy::inline_always, reason = "compiled for the instruction set of the calling loop")]
#[inline(always)]
pub(crate) fn max(values: &[f32]) -> f32 {
    fold(values.len(), f32::NEG_INFINITY, |index| values[index], f32::max)
}

/// The sum of the products of two slices of one length.
#[expect(clippy::inline_always, reason = "compiled for the instruction set of the calling loop")]
#[inline(always)]
pub(crate) fn dot(left: &[f32], right: &[f32]) -> f32 {
    let right = &right[..left.len()];
    fold(left.len(), 0.0, |index| left[index] * right[index], |sum, product| sum + product)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_close() {
        for step in -8700..8800 {
            let x = step as f32 / 100.0;
            let exact = f64::from(x).exp();
            assert!((f64::from(exp(x)) - exact).abs() <= 2e-7 * exact, "exp({x})");
        }
        assert!(exp(f32::NEG_INFINITY) < 1.3e-38);
        assert!((exp(0.0) - 1.0).abs() < f32::EPSILON);
    }

    #[test]
    fn ln_is_close() {
        for x in [1e-30, 0.1, 0.5, 0.999_999, 1.0, 1.5, 2.0, 3.0, 1e3, 49_152.0, 1e30] {
            assert!((ln(x) - x.ln()).abs() <= 1e-15 * x.ln().abs().max(1.0), "ln({x})");
        }
    }

    #[test]
    fn sums_count_every_element() {
        for length in [0_usize, 1, 15, 16, 17, 100] {
            let values: Vec<f32> = (1..=length).map(|value| value as f32).collect();
            let exact = (length * (length + 1) / 2) as f32;
            assert!((sum(&values) - exact).abs() < 0.5);
            assert!((dot(&values, &vec![2.0; length]) - 2.0 * exact).abs() < 0.5);
            assert!(length == 0 || (max(&values) - length as f32).abs() < 0.5);
        }
    }
}
