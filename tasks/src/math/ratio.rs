//! Exact rational numbers, always in lowest terms, of a bounded size.
use std::fmt;

use num_bigint::BigInt;
use num_integer::{Integer, Roots};
use num_traits::{One, Pow, Signed, ToPrimitive, Zero};

/// Numbers that would take more bits than this are refused before they are computed.
pub(super) const MOST_BITS: u64 = 20_000;

/// A rational number. The denominator is positive and shares no factor with the numerator.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Ratio(Terms);

/// Nearly all numbers of answers are small, and small ones are computed with many times faster. A number that fits is always
/// small, so equal numbers have equal terms.
#[derive(Clone, PartialEq, Eq)]
enum Terms {
    Small(i64, i64),
    Large(Box<(BigInt, BigInt)>),
}

use Terms::{Large, Small};

impl Ratio {
    /// `None` where the denominator is zero.
    pub(super) fn new(numerator: BigInt, denominator: BigInt) -> Option<Self> {
        if let (Some(top), Some(bottom)) = (numerator.to_i64(), denominator.to_i64()) {
            return Self::quotient(top.into(), bottom.into());
        }
        if denominator.is_zero() {
            return None;
        }
        let divisor = numerator.gcd(&denominator);
        let divisor = if denominator.is_negative() { -divisor } else { divisor };
        Some(Self::reduced(numerator / &divisor, denominator / divisor))
    }

    /// The quotient of two numbers whose magnitudes are below 2^127.
    pub(super) fn quotient(top: i128, bottom: i128) -> Option<Self> {
        if bottom == 0 {
            return None;
        }
        if bottom == 1 {
            let whole = i64::try_from(top).map(Self::whole);
            return Some(whole.unwrap_or_else(|_| Self::large(top.into())));
        }
        // The divisor of words is found much faster than that of double words.
        let divisor = match (u64::try_from(top.unsigned_abs()), u64::try_from(bottom.unsigned_abs())) {
            (Ok(top), Ok(bottom)) => i128::from(top.gcd(&bottom)),
            _ => top.gcd(&bottom),
        };
        let divisor = if bottom < 0 { -divisor } else { divisor };
        let (top, bottom) = (top / divisor, bottom / divisor);
        Some(match (i64::try_from(top), i64::try_from(bottom)) {
            (Ok(top), Ok(bottom)) => Self(Small(top, bottom)),
            _ => Self::reduced(top.into(), bottom.into()),
        })
    }

    /// Of terms that are in lowest terms already.
    fn reduced(numerator: BigInt, denominator: BigInt) -> Self {
        match (numerator.to_i64(), denominator.to_i64()) {
            (Some(top), Some(bottom)) => Self(Small(top, bottom)),
            _ => Self(Large(Box::new((numerator, denominator)))),
        }
    }

    pub(super) fn whole(number: i64) -> Self {
        Self(Small(number, 1))
    }

    /// A whole number of any size.
    pub(super) fn large(number: BigInt) -> Self {
        Self::reduced(number, BigInt::one())
    }

    pub(super) fn numerator(&self) -> BigInt {
        match &self.0 {
            Small(top, _) => BigInt::from(*top),
            Large(terms) => terms.0.clone(),
        }
    }

    pub(super) fn denominator(&self) -> BigInt {
        match &self.0 {
            Small(_, bottom) => BigInt::from(*bottom),
            Large(terms) => terms.1.clone(),
        }
    }

    pub(super) fn is_zero(&self) -> bool {
        self.0 == Small(0, 1)
    }

    pub(super) fn is_whole(&self) -> bool {
        match &self.0 {
            Small(_, bottom) => *bottom == 1,
            Large(terms) => terms.1.is_one(),
        }
    }

    pub(super) fn is_negative(&self) -> bool {
        match &self.0 {
            Small(top, _) => *top < 0,
            Large(terms) => terms.0.is_negative(),
        }
    }

    /// Whether the numerator is odd.
    pub(super) fn is_odd(&self) -> bool {
        match &self.0 {
            Small(top, _) => top % 2 != 0,
            Large(terms) => terms.0.is_odd(),
        }
    }

    /// The number as a small whole one.
    pub(super) fn to_i64(&self) -> Option<i64> {
        match &self.0 {
            Small(top, 1) => Some(*top),
            _ => None,
        }
    }

    /// The largest whole number that is no larger.
    pub(super) fn floor(&self) -> Self {
        match &self.0 {
            Small(top, bottom) => Self::whole(top.div_floor(bottom)),
            Large(terms) => Self::large(terms.0.div_floor(&terms.1)),
        }
    }

    /// The bits of the numerator and of the denominator.
    pub(super) fn bits(&self) -> (u64, u64) {
        let bits = |number: i64| u64::from(64 - number.unsigned_abs().leading_zeros());
        match &self.0 {
            Small(top, bottom) => (bits(*top), bits(*bottom)),
            Large(terms) => (terms.0.bits(), terms.1.bits()),
        }
    }

    fn most_bits(&self) -> u64 {
        let (top, bottom) = self.bits();
        top.max(bottom)
    }

    fn bounded(self) -> Option<Self> {
        (self.most_bits() <= MOST_BITS).then_some(self)
    }

    pub(super) fn negative(&self) -> Self {
        match &self.0 {
            Small(top, bottom) if *top > i64::MIN => Self(Small(-top, *bottom)),
            _ => Self::reduced(-self.numerator(), self.denominator()),
        }
    }

    /// `None`, here and below, where the result has too many digits or does not exist.
    pub(super) fn plus(&self, other: &Self) -> Option<Self> {
        if let (Small(a, b), Small(c, d)) = (&self.0, &other.0) {
            let (a, b, c, d) = (i128::from(*a), i128::from(*b), i128::from(*c), i128::from(*d));
            return Self::quotient(a * d + c * b, b * d);
        }
        let (b, d) = (self.denominator(), other.denominator());
        Self::new(self.numerator() * &d + other.numerator() * &b, b * d)?.bounded()
    }

    pub(super) fn times(&self, other: &Self) -> Option<Self> {
        if let (Small(a, b), Small(c, d)) = (&self.0, &other.0) {
            return Self::quotient(i128::from(*a) * i128::from(*c), i128::from(*b) * i128::from(*d));
        }
        Self::new(self.numerator() * other.numerator(), self.denominator() * other.denominator())?.bounded()
    }

    pub(super) fn over(&self, other: &Self) -> Option<Self> {
        if let (Small(a, b), Small(c, d)) = (&self.0, &other.0) {
            return Self::quotient(i128::from(*a) * i128::from(*d), i128::from(*b) * i128::from(*c));
        }
        Self::new(self.numerator() * other.denominator(), self.denominator() * other.numerator())?.bounded()
    }

    /// A whole power. Powers of 0 and ±1 stay small whatever the exponent.
    pub(super) fn power(&self, exponent: &Self) -> Option<Self> {
        if self.is_zero() {
            if exponent.is_negative() {
                return None;
            }
            return Some(Self::whole(i64::from(exponent.is_zero())));
        }
        if self.most_bits() == 1 {
            return Some(if exponent.is_odd() { self.clone() } else { Self::whole(1) });
        }
        let size = u32::try_from(exponent.to_i64()?.unsigned_abs()).ok()?;
        // A number of b bits is at least 2^(b-1), so its power has more than size * (b-1) bits.
        if (self.most_bits() - 1).saturating_mul(size.into()) > MOST_BITS {
            return None;
        }
        let small = match &self.0 {
            Small(top, bottom) => top.checked_pow(size).zip(bottom.checked_pow(size)),
            Large(_) => None,
        };
        let power = match small {
            Some((top, bottom)) => Self(Small(top, bottom)),
            None => Self::reduced(Pow::pow(self.numerator(), size), Pow::pow(self.denominator(), size)),
        };
        if exponent.is_negative() { Self::whole(1).over(&power) } else { power.bounded() }
    }

    /// The root of that degree, where it is rational.
    pub(super) fn root(&self, degree: u32) -> Option<Self> {
        if degree == 0 || (self.is_negative() && degree.is_multiple_of(2)) {
            return None;
        }
        match &self.0 {
            Small(top, bottom) => {
                let exact = |number: i64| {
                    let root = number.nth_root(degree);
                    (root.checked_pow(degree) == Some(number)).then_some(root)
                };
                Some(Self(Small(exact(*top)?, exact(*bottom)?)))
            }
            Large(terms) => {
                let exact = |number: &BigInt| {
                    let root = number.nth_root(degree);
                    (Pow::pow(&root, degree) == *number).then_some(root)
                };
                Some(Self::reduced(exact(&terms.0)?, exact(&terms.1)?))
            }
        }
    }

    /// A whole number of decimal digits, or `None` where there are too many.
    pub(super) fn from_digits(digits: &str) -> Option<Self> {
        // A decimal digit takes more than three bits.
        if 3 * digits.len() as u64 > MOST_BITS {
            return None;
        }
        if digits.len() < 19 {
            return digits.parse().ok().map(Self::whole);
        }
        digits.parse().ok().map(Self::large)
    }

    /// Ten to that power.
    pub(super) fn ten_to(exponent: i64) -> Option<Self> {
        Self::whole(10).power(&Self::whole(exponent))
    }
}

impl fmt::Display for Ratio {
    fn fmt(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        match &self.0 {
            Small(top, bottom) => write!(formatter, "{top}/{bottom}"),
            Large(terms) => write!(formatter, "{}/{}", terms.0, terms.1),
        }
    }
}

/// Names are made of the text of indices, so it says the same for a number of any size.
impl fmt::Debug for Ratio {
    fn fmt(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        let (numerator, denominator) = (self.numerator(), self.denominator());
        formatter
            .debug_struct("Ratio")
            .field("numerator", &numerator)
            .field("denominator", &denominator)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ratio(numerator: i64, denominator: i64) -> Ratio {
        Ratio::new(numerator.into(), denominator.into()).unwrap()
    }

    #[test]
    fn arithmetic_is_exact_and_in_lowest_terms() {
        assert_eq!(ratio(2, -4), ratio(-1, 2));
        assert_eq!(ratio(1, 3).plus(&ratio(1, 6)), Some(ratio(1, 2)));
        assert_eq!(ratio(2, 3).times(&ratio(3, 2)), Some(ratio(1, 1)));
        assert_eq!(ratio(2, 3).over(&ratio(0, 1)), None);
        assert_eq!(ratio(-2, 3).power(&ratio(-3, 1)), Some(ratio(-27, 8)));
        assert_eq!(ratio(4, 9).root(2), Some(ratio(2, 3)));
        assert_eq!(ratio(-8, 27).root(3), Some(ratio(-2, 3)));
        assert_eq!(ratio(2, 1).root(2), None);
    }

    #[test]
    fn small_and_large_terms_are_one_arithmetic() {
        let numbers = [1, -1, 2, -3, 10, 4_294_967_291, i64::MAX, i64::MAX - 24, i64::MIN, i64::MIN + 1];
        for (a, b) in numbers.into_iter().flat_map(|a| numbers.map(|b| (a, b))) {
            let (x, y) = (ratio(a, b), ratio(b, 3));
            let both = |ratio: &Ratio| (ratio.numerator(), ratio.denominator());
            let ((p, q), (r, s)) = (both(&x), both(&y));
            assert_eq!(x.plus(&y), Ratio::new(&p * &s + &r * &q, &q * &s), "{a} {b}");
            assert_eq!(x.times(&y), Ratio::new(&p * &r, &q * &s), "{a} {b}");
            assert_eq!(x.over(&y), Ratio::new(&p * &s, &q * &r), "{a} {b}");
            assert_eq!(x.negative().negative(), x);
            assert_eq!(x.power(&Ratio::whole(3)).and_then(|cube| cube.root(3)), Some(x.clone()));
            assert_eq!(format!("{x} {x:?}"), format!("{p}/{q} Ratio {{ numerator: {p}, denominator: {q} }}"));
        }
    }

    #[test]
    fn what_would_be_huge_is_refused() {
        assert_eq!(ratio(9, 1).power(&ratio(10_i64.pow(12), 1)), None);
        assert_eq!(ratio(-1, 1).power(&ratio(10_i64.pow(12) + 1, 1)), Some(ratio(-1, 1)));
        assert_eq!(ratio(0, 1).power(&ratio(-1, 1)), None);
        assert_eq!(Ratio::from_digits(&"7".repeat(10_000)), None);
    }
}
