//! Real numbers to 192 bits, for what has no exact rational value.
//!
//! Two answers are called equal by these where they agree to [`AGREEMENT`] bits (some 28 decimal digits) at every point
//! they are evaluated at. Sums whose terms cancel to less than a part in 2^150 are zero.
use std::cmp::Ordering;
use std::sync::OnceLock;

use num_bigint::BigInt;
use num_integer::Integer;
use num_traits::{One, Signed, ToPrimitive, Zero};

use super::ratio::Ratio;

/// Bits that are kept of every number.
const PRECISION: u64 = 192;
/// Bits behind the point while a function is computed.
const WORKING: u64 = PRECISION + 64;
/// Bits that count when two numbers are compared.
pub(super) const AGREEMENT: u64 = 96;
/// A sum smaller than its terms by so many bits is zero.
const CANCELLED: i64 = 150;
/// Magnitudes beyond two to this power are refused.
const WIDEST: i64 = 1 << 40;

/// `mantissa * 2^exponent`; zero is `0 * 2^0`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Float {
    mantissa: BigInt,
    exponent: i64,
}

/// `value / 2^shift`, to the nearest; shifts left where `shift` is negative.
fn shifted(value: BigInt, shift: i64) -> BigInt {
    if shift <= 0 {
        return value << shift.unsigned_abs();
    }
    let half = BigInt::one() << (shift - 1);
    // Rounding by magnitude, so that a number and its negative have the same digits.
    if value.is_negative() { -((-value + half) >> shift) } else { (value + half) >> shift }
}

impl Float {
    fn new(mantissa: BigInt, exponent: i64) -> Self {
        let bits = mantissa.bits();
        if bits > PRECISION {
            let excess = (bits - PRECISION).cast_signed();
            Self { mantissa: shifted(mantissa, excess), exponent: exponent + excess }
        } else if mantissa.is_zero() {
            Self::zero()
        } else {
            Self { mantissa, exponent }
        }
    }

    pub(super) fn zero() -> Self {
        Self { mantissa: BigInt::zero(), exponent: 0 }
    }

    pub(super) fn whole(number: i64) -> Self {
        Self::new(number.into(), 0)
    }

    pub(super) fn from_ratio(ratio: &Ratio) -> Self {
        if ratio.is_whole() {
            return Self::new(ratio.numerator(), 0);
        }
        Self::new(ratio.numerator(), 0).over(&Self::new(ratio.denominator(), 0))
    }

    /// A number between 0 and 1 made of these bits.
    pub(super) fn from_bits(bits: u128) -> Self {
        Self::new(BigInt::from(bits), -128)
    }

    fn from_f64(number: f64) -> Self {
        Self::new(BigInt::from((number * 2_f64.powi(60)) as i128), -60)
    }

    /// For first guesses of numbers of moderate size.
    fn to_f64(&self) -> f64 {
        let excess = self.mantissa.bits().cast_signed() - 60;
        let top = shifted(self.mantissa.clone(), excess.max(0)).to_f64().unwrap_or(0.0);
        top * 2_f64.powi(i32::try_from(self.exponent + excess.max(0)).unwrap_or(i32::MAX))
    }

    /// Two to this power is more than the number's magnitude, by less than a factor of two.
    pub(super) fn magnitude(&self) -> i64 {
        if self.is_zero() { i64::MIN / 4 } else { self.mantissa.bits().cast_signed() + self.exponent }
    }

    pub(super) fn is_zero(&self) -> bool {
        self.mantissa.is_zero()
    }

    pub(super) fn is_negative(&self) -> bool {
        self.mantissa.is_negative()
    }

    /// Whether magnitudes stay where the arithmetic is sound.
    pub(super) fn is_sound(&self) -> bool {
        self.is_zero() || self.magnitude().abs() < WIDEST
    }

    pub(super) fn negative(&self) -> Self {
        Self { mantissa: -&self.mantissa, exponent: self.exponent }
    }

    pub(super) fn absolute(&self) -> Self {
        Self { mantissa: self.mantissa.abs(), exponent: self.exponent }
    }

    pub(super) fn plus(&self, other: &Self) -> Self {
        if self.is_zero() {
            return other.clone();
        }
        if other.is_zero() {
            return self.clone();
        }
        let (high, low) = if self.exponent >= other.exponent { (self, other) } else { (other, self) };
        let gap = high.exponent - low.exponent;
        let largest = self.magnitude().max(other.magnitude());
        if gap > 4 * PRECISION.cast_signed() {
            return if self.magnitude() > other.magnitude() { self.clone() } else { other.clone() };
        }
        let sum = Self::new((&high.mantissa << gap.unsigned_abs()) + &low.mantissa, low.exponent);
        if sum.magnitude() < largest - CANCELLED { Self::zero() } else { sum }
    }

    pub(super) fn minus(&self, other: &Self) -> Self {
        self.plus(&other.negative())
    }

    pub(super) fn times(&self, other: &Self) -> Self {
        Self::new(&self.mantissa * &other.mantissa, self.exponent + other.exponent)
    }

    /// The quotient; zero where the divisor is zero, which callers rule out.
    pub(super) fn over(&self, other: &Self) -> Self {
        if other.is_zero() {
            return Self::zero();
        }
        let lift = PRECISION + 2 + other.mantissa.bits().saturating_sub(self.mantissa.bits());
        let quotient = (&self.mantissa << lift) / &other.mantissa;
        Self::new(quotient, self.exponent - other.exponent - lift.cast_signed())
    }

    /// The square root of the magnitude.
    pub(super) fn root(&self) -> Self {
        let mut lift = (2 * PRECISION).saturating_sub(self.mantissa.bits());
        if (self.exponent - lift.cast_signed()).is_odd() {
            lift += 1;
        }
        let root = (self.mantissa.abs() << lift).sqrt();
        Self::new(root, (self.exponent - lift.cast_signed()) / 2)
    }

    pub(super) fn order(&self, other: &Self) -> Ordering {
        self.minus(other).mantissa.cmp(&BigInt::zero())
    }

    /// The largest whole number that is no larger, a hair's breadth below a whole number counting as that number.
    pub(super) fn floor(&self) -> Option<BigInt> {
        if self.magnitude() > 10_000 {
            return None;
        }
        let nearest = shifted(self.mantissa.clone(), -self.exponent);
        let off = Self::new(nearest.clone(), 0).minus(self);
        if off.magnitude() < -100 {
            return Some(nearest);
        }
        Some(if off.is_negative() { nearest } else { nearest - 1 })
    }

    fn unfixed(value: BigInt) -> Self {
        Self::new(value, -WORKING.cast_signed())
    }

    /// e to this power; `None` where it is beyond all bounds.
    pub(super) fn exponential(&self) -> Option<Self> {
        if self.magnitude() > 40 {
            return None;
        }
        // x = k ln 2 + r; e^r by its series on r / 256, squared eight times.
        let x = self.fixed_wide(64);
        let ln2 = ln2_wide();
        let half: BigInt = ln2 >> 1;
        let k = Integer::div_floor(&(&x + half), ln2);
        let r = shifted(x - &k * ln2, 64 + 8);
        let one = BigInt::one() << WORKING;
        let (mut sum, mut term, mut n) = (one.clone(), one, 0_u32);
        loop {
            n += 1;
            term = ((term * &r) >> WORKING) / n;
            if term.is_zero() || (term.is_negative() && (-&term).is_one()) {
                break;
            }
            sum += &term;
        }
        for _ in 0..8 {
            sum = (&sum * &sum) >> WORKING;
        }
        let power = Self::unfixed(sum);
        Some(Self { exponent: power.exponent + k.to_i64()?, ..power })
    }

    fn fixed_wide(&self, more: u64) -> BigInt {
        shifted(self.mantissa.clone(), -self.exponent - (WORKING + more).cast_signed())
    }

    /// The natural logarithm of the magnitude; callers rule out zero.
    pub(super) fn logarithm(&self) -> Self {
        let k = self.magnitude();
        let m = Self { mantissa: self.mantissa.abs(), exponent: self.exponent - k };
        // m is in [1/2, 1). Each step triples the digits that are right: y + 2 (m - e^y) / (m + e^y).
        let mut y = Self::from_f64(m.to_f64().ln());
        for _ in 0..2 {
            let Some(power) = y.exponential() else { break };
            let difference = m.raw_minus(&power);
            y = y.raw_plus(&difference.times(&Self::whole(2)).over(&m.plus(&power)));
        }
        y.plus(&Self::whole(k).times(&ln2()))
    }

    /// Sums in which nearly everything is meant to cancel.
    fn raw_plus(&self, other: &Self) -> Self {
        let low = self.exponent.min(other.exponent);
        if (self.exponent - low).max(other.exponent - low) > 8 * PRECISION.cast_signed() {
            return if self.magnitude() > other.magnitude() { self.clone() } else { other.clone() };
        }
        let lift = |number: &Self| &number.mantissa << (number.exponent - low).unsigned_abs();
        Self::new(lift(self) + lift(other), low)
    }

    fn raw_minus(&self, other: &Self) -> Self {
        self.raw_plus(&other.negative())
    }

    /// Sine and cosine; `None` where the angle is too large to be reduced.
    pub(super) fn sine_and_cosine(&self) -> Option<(Self, Self)> {
        if self.magnitude() > 40 {
            return None;
        }
        let x = self.fixed_wide(64);
        let quarter: BigInt = pi_wide() >> 1;
        let half: BigInt = &quarter >> 1;
        let turns = Integer::div_floor(&(&x + half), &quarter);
        let r = shifted(x - &turns * &quarter, 64);
        let square = (&r * &r) >> WORKING;
        let one = BigInt::one() << WORKING;
        let series = |first: BigInt, start: u32| {
            let (mut sum, mut term, mut n) = (first.clone(), first, start);
            while !term.is_zero() && n < 400 {
                term = -((term * &square) >> WORKING) / (n * (n + 1));
                sum += &term;
                n += 2;
            }
            let value = Self::unfixed(sum);
            // What is left of an exact zero.
            if value.magnitude() < -CANCELLED - 20 { Self::zero() } else { value }
        };
        let (sine, cosine) = (series(r.clone(), 2), series(one, 1));
        Some(match turns.mod_floor(&BigInt::from(4)).to_u32()? {
            0 => (sine, cosine),
            1 => (cosine, sine.negative()),
            2 => (sine.negative(), cosine.negative()),
            _ => (cosine.negative(), sine),
        })
    }

    /// The angle whose tangent this is.
    pub(super) fn arctangent(&self) -> Option<Self> {
        if self.is_zero() {
            return Some(Self::zero());
        }
        if self.magnitude() > 1 {
            let rest = Self::whole(1).over(self).arctangent()?;
            let quarter = pi().over(&Self::whole(2));
            return Some(if self.is_negative() { quarter.negative() } else { quarter }.minus(&rest));
        }
        if self.magnitude() < -200 {
            return Some(self.clone());
        }
        // tan(a - y) = (x cos y - sin y) / (cos y + x sin y), whose argument is about its tangent.
        let mut y = Self::from_f64(self.to_f64().atan());
        for _ in 0..2 {
            let (sine, cosine) = y.sine_and_cosine()?;
            let over = self.times(&cosine).raw_minus(&sine);
            y = y.raw_plus(&over.over(&cosine.plus(&self.times(&sine))));
        }
        Some(y)
    }

    /// The nearest number of `bits` bits.
    pub(super) fn rounded(&self, grid: i64) -> (BigInt, i64) {
        let mut mantissa = shifted(self.mantissa.clone(), grid - self.exponent);
        let mut exponent = grid;
        if mantissa.is_zero() {
            return (mantissa, 0);
        }
        let zeros = mantissa.trailing_zeros().unwrap_or(0);
        mantissa >>= zeros;
        exponent += zeros.cast_signed();
        (mantissa, exponent)
    }

    /// The number without the last bits, on which two ways of computing it differ.
    pub(super) fn settled(&self) -> Self {
        let (mantissa, exponent) = self.rounded(self.magnitude() - 160);
        Self { mantissa, exponent }
    }

    /// The rational number of small terms that this is but for a rounding error.
    pub(super) fn rational(&self) -> Option<Ratio> {
        const LARGEST: u128 = 1 << 40;
        if self.is_zero() {
            return Some(Ratio::whole(0));
        }
        if !(-24..=60).contains(&self.magnitude()) {
            return None;
        }
        // The continued fraction of the first bits: where a term is vast, what came before it is all there is.
        let bits = 120 - self.magnitude().max(0);
        let mut a = shifted(self.mantissa.abs(), -self.exponent - bits).to_u128()?;
        let mut b = 1_u128 << bits;
        let (mut p0, mut q0, mut p1, mut q1) = (0_u128, 1_u128, 1_u128, 0_u128);
        while b > 0 {
            let term = a / b;
            if q1 > 0 && term > 1 << 32 {
                break;
            }
            let (p, q) = (term.checked_mul(p1)?.checked_add(p0)?, term.checked_mul(q1)?.checked_add(q0)?);
            if q > LARGEST {
                return None;
            }
            (p0, q0, p1, q1) = (p1, q1, p, q);
            (a, b) = (b, a - term * b);
        }
        let magnitude = Ratio::quotient(p1.try_into().ok()?, q1.try_into().ok()?)?;
        let ratio = if self.is_negative() { magnitude.negative() } else { magnitude };
        self.minus(&Self::from_ratio(&ratio)).is_zero().then_some(ratio)
    }
}

impl Float {
    /// Some digits, for people.
    pub(super) fn shown(&self) -> String {
        let size = self.magnitude();
        if self.is_zero() || (-900..900).contains(&size) {
            return format!("{}", self.to_f64());
        }
        // m * 2^e = 10^(log10): the digits of the power's fraction.
        let ten = Self::whole(10).logarithm();
        let logarithm = self.logarithm().over(&ten);
        let Some(whole) = logarithm.floor() else { return format!("2^{size}") };
        let fraction = logarithm.minus(&Self::new(whole.clone(), 0)).to_f64();
        format!("{}{:.6}e{whole}", if self.is_negative() { "-" } else { "" }, 10_f64.powf(fraction))
    }
}

/// The sum of 1 / (n x^n) over odd n, with alternating signs or without, `bits` bits behind the point.
fn inverse_series(x: u32, bits: u64, alternating: bool) -> BigInt {
    let square = x * x;
    let mut term = (BigInt::one() << bits) / x;
    let (mut sum, mut n, mut minus) = (term.clone(), 1_u32, false);
    while !term.is_zero() {
        term /= square;
        n += 2;
        minus = alternating && !minus;
        let part = &term / n;
        sum = if minus { sum - part } else { sum + part };
    }
    sum
}

fn ln2_wide() -> &'static BigInt {
    static LN2: OnceLock<BigInt> = OnceLock::new();
    LN2.get_or_init(|| 2 * inverse_series(3, WORKING + 64, false))
}

fn pi_wide() -> &'static BigInt {
    static PI: OnceLock<BigInt> = OnceLock::new();
    PI.get_or_init(|| {
        4 * (4 * inverse_series(5, WORKING + 64, true) - inverse_series(239, WORKING + 64, true))
    })
}

fn ln2() -> Float {
    Float::new(ln2_wide().clone(), -(WORKING + 64).cast_signed())
}

pub(super) fn pi() -> Float {
    Float::new(pi_wide().clone(), -(WORKING + 64).cast_signed())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn near(value: &Float, expected: f64) {
        assert!((value.to_f64() - expected).abs() < 1e-14, "{} and {expected}", value.to_f64());
    }

    #[track_caller]
    fn same(a: &Float, b: &Float) {
        assert!(a.minus(b).is_zero(), "{a:?} and {b:?}");
    }

    #[test]
    fn functions_agree_with_those_of_doubles() {
        for x in [0.1, 0.5, 0.75, 1.0, 1.5, 2.0, 3.7, 10.25, -0.3, -1.0, -7.5] {
            let float = Float::from_f64(x);
            let (sine, cosine) = float.sine_and_cosine().unwrap();
            near(&sine, x.sin());
            near(&cosine, x.cos());
            near(&float.arctangent().unwrap(), x.atan());
            near(&float.logarithm(), x.abs().ln());
            near(&float.root(), x.abs().sqrt());
            assert!((float.exponential().unwrap().to_f64() / x.exp() - 1.0).abs() < 1e-14);
        }
        near(&pi(), std::f64::consts::PI);
    }

    #[test]
    fn functions_undo_each_other_to_full_precision() {
        for number in [2, 3, 5, 7, 1000] {
            let x = Float::whole(number);
            same(&x.logarithm().exponential().unwrap(), &x);
            same(&x.root().times(&x.root()), &x);
            let (sine, cosine) = x.arctangent().unwrap().sine_and_cosine().unwrap();
            same(&sine.over(&cosine), &x);
            same(&sine.times(&sine).plus(&cosine.times(&cosine)), &Float::whole(1));
        }
        same(&Float::whole(1).arctangent().unwrap().times(&Float::whole(4)), &pi());
        assert!(pi().sine_and_cosine().unwrap().0.is_zero());
        assert!(Float::whole(1).exponential().unwrap().logarithm().minus(&Float::whole(1)).is_zero());
    }

    #[test]
    fn rationals_are_recognised_and_irrationals_are_not() {
        let third = Ratio::new(1.into(), 3.into()).unwrap();
        assert_eq!(Float::from_ratio(&third).rational(), Some(third.clone()));
        assert_eq!(Float::from_ratio(&third).negative().rational(), Some(third.negative()));
        assert_eq!(Float::whole(2).root().rational(), None);
        assert_eq!(pi().rational(), None);
        assert_eq!(Float::whole(9).root().rational(), Some(Ratio::whole(3)));
    }

    #[test]
    fn the_vast_is_refused() {
        let vast = Float { mantissa: BigInt::one(), exponent: 50 };
        assert_eq!(vast.exponential(), None);
        assert!(vast.sine_and_cosine().is_none());
    }
}
