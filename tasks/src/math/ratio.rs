//! Exact rational numbers, always in lowest terms, of a bounded size.
use num_bigint::BigInt;
use num_integer::Integer;
use num_traits::{One, Pow, Signed, ToPrimitive, Zero};

/// Numbers that would take more bits than this are refused before they are computed.
pub(super) const MOST_BITS: u64 = 20_000;

/// A rational number. The denominator is positive and shares no factor with the numerator.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Ratio {
    pub(super) numerator: BigInt,
    pub(super) denominator: BigInt,
}

impl Ratio {
    /// `None` where the denominator is zero.
    pub(super) fn new(numerator: BigInt, denominator: BigInt) -> Option<Self> {
        if denominator.is_zero() {
            return None;
        }
        if denominator.is_one() {
            return Some(Self { numerator, denominator });
        }
        // Nearly all are small, and the divisor of large numbers is found by shifting them, which is slow.
        let divisor = match (numerator.to_i64(), denominator.to_i64()) {
            (Some(top), Some(bottom)) => BigInt::from(i128::from(top).gcd(&i128::from(bottom))),
            _ => numerator.gcd(&denominator),
        };
        let divisor = if denominator.is_negative() { -divisor } else { divisor };
        Some(if divisor.is_one() {
            Self { numerator, denominator }
        } else {
            Self { numerator: numerator / &divisor, denominator: denominator / divisor }
        })
    }

    pub(super) fn whole(number: impl Into<BigInt>) -> Self {
        Self { numerator: number.into(), denominator: BigInt::one() }
    }

    pub(super) fn is_zero(&self) -> bool {
        self.numerator.is_zero()
    }

    pub(super) fn is_whole(&self) -> bool {
        self.denominator.is_one()
    }

    pub(super) fn is_negative(&self) -> bool {
        self.numerator.is_negative()
    }

    /// The number as a small whole one.
    pub(super) fn to_i64(&self) -> Option<i64> {
        self.is_whole().then(|| self.numerator.to_i64()).flatten()
    }

    fn bits(&self) -> u64 {
        self.numerator.bits().max(self.denominator.bits())
    }

    pub(super) fn is_small(&self) -> bool {
        self.bits() <= MOST_BITS
    }

    fn bounded(self) -> Option<Self> {
        self.is_small().then_some(self)
    }

    pub(super) fn negative(&self) -> Self {
        Self { numerator: -&self.numerator, denominator: self.denominator.clone() }
    }

    /// `None`, here and below, where the result has too many digits or does not exist.
    pub(super) fn plus(&self, other: &Self) -> Option<Self> {
        if self.is_whole() && other.is_whole() {
            return Self::whole(&self.numerator + &other.numerator).bounded();
        }
        let numerator = &self.numerator * &other.denominator + &other.numerator * &self.denominator;
        Self::new(numerator, &self.denominator * &other.denominator)?.bounded()
    }

    pub(super) fn times(&self, other: &Self) -> Option<Self> {
        Self::new(&self.numerator * &other.numerator, &self.denominator * &other.denominator)?.bounded()
    }

    pub(super) fn over(&self, other: &Self) -> Option<Self> {
        Self::new(&self.numerator * &other.denominator, &self.denominator * &other.numerator)?.bounded()
    }

    /// A whole power. Powers of 0 and ±1 stay small whatever the exponent.
    pub(super) fn power(&self, exponent: &BigInt) -> Option<Self> {
        if self.is_zero() {
            return match exponent.sign() {
                num_bigint::Sign::Minus => None,
                num_bigint::Sign::NoSign => Some(Self::whole(1)),
                num_bigint::Sign::Plus => Some(self.clone()),
            };
        }
        if self.bits() == 1 {
            let odd = exponent.is_odd();
            return Some(if odd { self.clone() } else { Self::whole(1) });
        }
        let size = exponent.abs().to_u32()?;
        // A number of b bits is at least 2^(b-1), so its power has more than size * (b-1) bits.
        if (self.bits() - 1).saturating_mul(size.into()) > MOST_BITS {
            return None;
        }
        let power = Self {
            numerator: Pow::pow(&self.numerator, size),
            denominator: Pow::pow(&self.denominator, size),
        };
        if exponent.is_negative() { Self::whole(1).over(&power) } else { power.bounded() }
    }

    /// The root of that degree, where it is rational.
    pub(super) fn root(&self, degree: u32) -> Option<Self> {
        if degree == 0 || (self.is_negative() && degree.is_multiple_of(2)) {
            return None;
        }
        let exact = |number: &BigInt| {
            let root = number.nth_root(degree);
            (Pow::pow(&root, degree) == *number).then_some(root)
        };
        Some(Self { numerator: exact(&self.numerator)?, denominator: exact(&self.denominator)? })
    }

    /// A whole number of decimal digits, or `None` where there are too many.
    pub(super) fn from_digits(digits: &str) -> Option<BigInt> {
        // A decimal digit takes more than three bits.
        if 3 * digits.len() as u64 > MOST_BITS {
            return None;
        }
        digits.parse().ok()
    }

    /// Ten to that power.
    pub(super) fn ten_to(exponent: impl Into<BigInt>) -> Option<Self> {
        Self::whole(10).power(&exponent.into())
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
        assert_eq!(ratio(-2, 3).power(&BigInt::from(-3)), Some(ratio(-27, 8)));
        assert_eq!(ratio(4, 9).root(2), Some(ratio(2, 3)));
        assert_eq!(ratio(-8, 27).root(3), Some(ratio(-2, 3)));
        assert_eq!(ratio(2, 1).root(2), None);
    }

    #[test]
    fn what_would_be_huge_is_refused() {
        assert_eq!(ratio(9, 1).power(&BigInt::from(10_u64.pow(12))), None);
        assert_eq!(ratio(-1, 1).power(&BigInt::from(10_u64.pow(12) + 1)), Some(ratio(-1, 1)));
        assert_eq!(ratio(0, 1).power(&BigInt::from(-1)), None);
        assert_eq!(Ratio::from_digits(&"7".repeat(10_000)), None);
    }
}
