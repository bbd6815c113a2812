//! Values of expressions: exact where they are rational and small, else to 192 bits.
use super::complex::Complex;
use super::float::{AGREEMENT, Float};
use super::ratio::Ratio;

/// The value of an expression at a point.
#[derive(Debug, Clone)]
pub(super) enum Value {
    Exact(Ratio),
    Approximate(Complex),
}

impl Value {
    pub(super) fn whole(number: i64) -> Self {
        Self::Exact(Ratio::whole(number))
    }

    pub(super) fn real(number: Float) -> Self {
        Self::Approximate(Complex::real(number))
    }

    pub(super) fn to_complex(&self) -> Complex {
        match self {
            Self::Exact(ratio) => Complex::real(Float::from_ratio(ratio)),
            Self::Approximate(complex) => complex.clone(),
        }
    }

    pub(super) fn to_real(&self) -> Option<Float> {
        let complex = self.to_complex();
        complex.is_real().then_some(complex.real)
    }

    pub(super) fn is_real(&self) -> bool {
        match self {
            Self::Exact(_) => true,
            Self::Approximate(complex) => complex.is_real(),
        }
    }

    pub(super) fn is_zero(&self) -> bool {
        match self {
            Self::Exact(ratio) => ratio.is_zero(),
            Self::Approximate(complex) => complex.is_zero(),
        }
    }

    /// The rational number it is, as far as can be told.
    pub(super) fn exact(&self) -> Option<Ratio> {
        match self {
            Self::Exact(ratio) => Some(ratio.clone()),
            Self::Approximate(complex) if complex.is_real() => complex.real.rational(),
            Self::Approximate(_) => None,
        }
    }

    pub(super) fn to_i64(&self) -> Option<i64> {
        self.exact()?.to_i64()
    }

    /// Digits, for work to be paid by.
    pub(super) fn bits(&self) -> u64 {
        match self {
            Self::Exact(ratio) => ratio.bits().0 + ratio.bits().1,
            Self::Approximate(_) => 0,
        }
    }

    /// A text that equal values share and others do not.
    pub(super) fn spelled(&self) -> String {
        if let Some(ratio) = self.exact() {
            // Thousands of digits are written faster in base 16.
            let is_long = ratio.bits().0 + ratio.bits().1 > 1024;
            return if is_long {
                format!("{:#x}/{:#x}", ratio.numerator(), ratio.denominator())
            } else {
                ratio.to_string()
            };
        }
        let complex = self.to_complex();
        let (real, imaginary) = (complex.real.settled(), complex.imaginary.settled());
        // Both parts on the grid of the larger one.
        let grid = real.magnitude().max(imaginary.magnitude()) - AGREEMENT.cast_signed();
        let part = |number: &Float| {
            if let Some(ratio) = number.rational() {
                return ratio.to_string();
            }
            let (mantissa, exponent) = number.rounded(grid);
            format!("~{mantissa}*2^{exponent}")
        };
        if imaginary.is_zero() { part(&real) } else { format!("{}+i*{}", part(&real), part(&imaginary)) }
    }

    /// What people read: some digits of it.
    pub(super) fn shown(&self) -> String {
        if let Some(ratio) = self.exact() {
            let text = ratio.numerator().to_string();
            let text =
                if text.len() > 40 { format!("{}… ({} digits)", &text[..20], text.len()) } else { text };
            return if ratio.is_whole() { text } else { format!("{text}/{}", ratio.denominator()) };
        }
        let complex = self.to_complex();
        let part = |number: &Float| number.shown();
        if complex.is_real() {
            part(&complex.real)
        } else {
            format!("{} + {}i", part(&complex.real), part(&complex.imaginary))
        }
    }

    /// A small whole exponent.
    pub(super) fn small_exponent(&self) -> Option<i64> {
        match self {
            Self::Exact(ratio) => ratio.to_i64(),
            Self::Approximate(_) => None,
        }
    }
}

/// A number that looks random but is the same for the same name and point.
pub(super) fn hashed(name: &str, salt: u64) -> u128 {
    let half = |seed: u64| {
        let mut state = 0xcbf2_9ce4_8422_2325 ^ seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        for byte in name.bytes() {
            state = (state ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
        // The finish of splitmix64: the bits of short names spread over all.
        state = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        state = (state ^ (state >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        state ^ (state >> 31)
    };
    (u128::from(half(salt.wrapping_add(1))) << 64) | u128::from(half(salt.wrapping_add(0x5bd1_e995)))
}
