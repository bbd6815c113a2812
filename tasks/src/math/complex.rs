//! Complex numbers of [`Float`]s, on the principal branches.
use super::float::{Float, pi};

/// A complex number.
#[derive(Debug, Clone)]
pub(super) struct Complex {
    pub(super) real: Float,
    pub(super) imaginary: Float,
}

impl Complex {
    pub(super) fn real(real: Float) -> Self {
        Self { real, imaginary: Float::zero() }
    }

    pub(super) fn whole(number: i64) -> Self {
        Self::real(Float::whole(number))
    }

    pub(super) fn unit() -> Self {
        Self { real: Float::zero(), imaginary: Float::whole(1) }
    }

    pub(super) fn is_real(&self) -> bool {
        self.imaginary.is_zero()
    }

    pub(super) fn is_zero(&self) -> bool {
        self.real.is_zero() && self.imaginary.is_zero()
    }

    /// `None` where it is too large or too small to compute with; a part that is but a rounding error of the other is zero.
    pub(super) fn checked(self) -> Option<Self> {
        if !self.real.is_sound() || !self.imaginary.is_sound() {
            return None;
        }
        let gap = self.real.magnitude() - self.imaginary.magnitude();
        Some(if gap > 140 {
            Self::real(self.real)
        } else if gap < -140 {
            Self { real: Float::zero(), ..self }
        } else {
            self
        })
    }

    pub(super) fn negative(&self) -> Self {
        Self { real: self.real.negative(), imaginary: self.imaginary.negative() }
    }

    pub(super) fn plus(&self, other: &Self) -> Self {
        Self { real: self.real.plus(&other.real), imaginary: self.imaginary.plus(&other.imaginary) }
    }

    pub(super) fn minus(&self, other: &Self) -> Self {
        self.plus(&other.negative())
    }

    pub(super) fn times(&self, other: &Self) -> Self {
        if self.is_real() && other.is_real() {
            return Self::real(self.real.times(&other.real));
        }
        Self {
            real: self.real.times(&other.real).minus(&self.imaginary.times(&other.imaginary)),
            imaginary: self.real.times(&other.imaginary).plus(&self.imaginary.times(&other.real)),
        }
    }

    pub(super) fn over(&self, other: &Self) -> Option<Self> {
        if other.is_zero() {
            return None;
        }
        if other.is_real() {
            return Some(Self {
                real: self.real.over(&other.real),
                imaginary: self.imaginary.over(&other.real),
            });
        }
        let norm = other.real.times(&other.real).plus(&other.imaginary.times(&other.imaginary));
        let product = self.times(&other.conjugate());
        Some(Self { real: product.real.over(&norm), imaginary: product.imaginary.over(&norm) })
    }

    pub(super) fn conjugate(&self) -> Self {
        Self { real: self.real.clone(), imaginary: self.imaginary.negative() }
    }

    pub(super) fn modulus(&self) -> Float {
        if self.is_real() {
            return self.real.absolute();
        }
        self.real.times(&self.real).plus(&self.imaginary.times(&self.imaginary)).root()
    }

    /// The angle, in (-π, π].
    pub(super) fn argument(&self) -> Option<Float> {
        if self.is_real() {
            return Some(if self.real.is_negative() { pi() } else { Float::zero() });
        }
        if self.real.is_zero() {
            let quarter = pi().over(&Float::whole(2));
            return Some(if self.imaginary.is_negative() { quarter.negative() } else { quarter });
        }
        let angle = self.imaginary.over(&self.real).arctangent()?;
        Some(match (self.real.is_negative(), self.imaginary.is_negative()) {
            (false, _) => angle,
            (true, false) => angle.plus(&pi()),
            (true, true) => angle.minus(&pi()),
        })
    }

    pub(super) fn root(&self) -> Self {
        if self.is_real() {
            let root = self.real.root();
            return if self.real.is_negative() {
                Self { real: Float::zero(), imaginary: root }
            } else {
                Self::real(root)
            };
        }
        let half = |number: Float| number.over(&Float::whole(2)).root();
        let modulus = self.modulus();
        let imaginary = half(modulus.minus(&self.real));
        Self {
            real: half(modulus.plus(&self.real)),
            imaginary: if self.imaginary.is_negative() { imaginary.negative() } else { imaginary },
        }
    }

    pub(super) fn exponential(&self) -> Option<Self> {
        let size = self.real.exponential()?;
        if self.is_real() {
            return Some(Self::real(size));
        }
        let (sine, cosine) = self.imaginary.sine_and_cosine()?;
        Self { real: size.times(&cosine), imaginary: size.times(&sine) }.checked()
    }

    pub(super) fn logarithm(&self) -> Option<Self> {
        if self.is_zero() {
            return None;
        }
        Some(Self { real: self.modulus().logarithm(), imaginary: self.argument()? })
    }

    /// A whole power, by squaring.
    pub(super) fn whole_power(&self, exponent: i64) -> Option<Self> {
        let (mut power, mut base, mut left) = (Self::whole(1), self.clone(), exponent.unsigned_abs());
        while left > 0 {
            if left & 1 == 1 {
                power = power.times(&base).checked()?;
            }
            left >>= 1;
            if left > 0 {
                base = base.times(&base).checked()?;
            }
        }
        if exponent < 0 { Self::whole(1).over(&power) } else { Some(power) }
    }

    pub(super) fn power(&self, exponent: &Self) -> Option<Self> {
        if self.is_zero() {
            let positive = exponent.is_real() && !exponent.real.is_zero() && !exponent.real.is_negative();
            return positive.then(|| self.clone());
        }
        exponent.times(&self.logarithm()?).checked()?.exponential()
    }

    /// Sine and cosine, by e^iz where the angle is not real.
    pub(super) fn sine_and_cosine(&self) -> Option<(Self, Self)> {
        if self.is_real() {
            let (sine, cosine) = self.real.sine_and_cosine()?;
            return Some((Self::real(sine), Self::real(cosine)));
        }
        let up = self.times(&Self::unit()).exponential()?;
        let down = self.times(&Self::unit()).negative().exponential()?;
        let two = Self::whole(2);
        Some((up.minus(&down).over(&two.times(&Self::unit()))?, up.plus(&down).over(&two)?))
    }
}
