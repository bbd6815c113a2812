//! The functions that expressions may call.
use num_bigint::BigInt;
use num_integer::Integer;
use num_traits::{One, Signed, Zero};

use super::complex::Complex;
use super::evaluate::{Evaluated, Evaluator, Fault, negative};
use super::expression::{Function, Node};
use super::float::{Float, pi};
use super::ratio::Ratio;
use super::value::Value;

impl Evaluator<'_> {
    pub(super) fn call(&mut self, function: Function, arguments: &[Node]) -> Evaluated {
        let outer = self.angle;
        self.angle = function.is_trigonometric();
        let mut values = Vec::with_capacity(arguments.len());
        for argument in arguments {
            values.push(self.value(argument)?);
        }
        self.angle = outer;
        let first = values.first().ok_or(Fault::Undefined)?;
        self.spend(10)?;
        let real = || first.to_real().ok_or(Fault::Undefined);
        match function {
            Function::Root => self.root(first),
            Function::Sin | Function::Cos | Function::Tan | Function::Cot | Function::Sec | Function::Csc => {
                self.spend(10)?;
                let (sine, cosine) = first.to_complex().sine_and_cosine().ok_or(Fault::Beyond)?;
                let one = Complex::whole(1);
                let value = match function {
                    Function::Sin => Some(sine),
                    Function::Cos => Some(cosine),
                    Function::Tan => sine.over(&cosine),
                    Function::Cot => cosine.over(&sine),
                    Function::Sec => one.over(&cosine),
                    _ => one.over(&sine),
                };
                value.ok_or(Fault::Undefined).and_then(|value| self.approximate(Some(value)))
            }
            Function::Arcsin | Function::Arccos => {
                self.spend(30)?;
                let x = real()?;
                let rest = Float::whole(1).minus(&x.times(&x));
                if rest.is_negative() {
                    return Err(Fault::Undefined);
                }
                let quarter = pi().over(&Float::whole(2));
                let angle = if rest.is_zero() {
                    if x.is_negative() { quarter.negative() } else { quarter.clone() }
                } else {
                    x.over(&rest.root()).arctangent().ok_or(Fault::Beyond)?
                };
                let angle = if function == Function::Arcsin { angle } else { quarter.minus(&angle) };
                self.approximate(Some(Complex::real(angle)))
            }
            Function::Arctan => {
                self.spend(30)?;
                let angle = real()?.arctangent().ok_or(Fault::Beyond)?;
                self.approximate(Some(Complex::real(angle)))
            }
            Function::Sinh | Function::Cosh | Function::Tanh => {
                self.spend(20)?;
                let z = first.to_complex();
                let (up, down) = (z.exponential(), z.negative().exponential());
                let (up, down) = (up.ok_or(Fault::Beyond)?, down.ok_or(Fault::Beyond)?);
                let (difference, sum) = (up.minus(&down), up.plus(&down));
                let two = Complex::whole(2);
                let value = match function {
                    Function::Sinh => difference.over(&two),
                    Function::Cosh => sum.over(&two),
                    _ => difference.over(&sum),
                };
                self.approximate(value)
            }
            Function::Exp => {
                self.spend(10)?;
                let power = first.to_complex().exponential();
                self.approximate(power)
            }
            Function::Log => {
                self.spend(30)?;
                let mut logarithm = |value: &Value| {
                    self.left_reals |= value.to_real().is_some_and(|real| real.is_negative());
                    value.to_complex().logarithm().ok_or(Fault::Undefined)
                };
                let above = logarithm(first)?;
                let value = match values.get(1) {
                    Some(base) => above.over(&logarithm(base)?).ok_or(Fault::Undefined)?,
                    None => above,
                };
                self.approximate(Some(value))
            }
            Function::Absolute => match first {
                Value::Exact(ratio) if ratio.is_negative() => Ok(Value::Exact(ratio.negative())),
                Value::Exact(_) => Ok(first.clone()),
                Value::Approximate(complex) => {
                    let modulus = complex.modulus();
                    self.approximate(Some(Complex::real(modulus)))
                }
            },
            Function::Floor | Function::Ceiling => {
                let up = function == Function::Ceiling;
                let number = if up { negative(first) } else { first.clone() };
                let floor = match &number {
                    Value::Exact(ratio) => ratio.floor(),
                    Value::Approximate(_) => {
                        let floor = number.to_real().and_then(|real| real.floor());
                        Ratio::large(floor.ok_or(Fault::Undefined)?)
                    }
                };
                Ok(Value::Exact(if up { floor.negative() } else { floor }))
            }
            Function::Factorial | Function::DoubleFactorial => {
                let step = if function == Function::Factorial { 1 } else { 2 };
                let n = match first.exact().filter(Ratio::is_whole) {
                    Some(whole) if !whole.is_negative() => whole.to_i64().ok_or(Fault::Beyond)?,
                    _ => return Err(Fault::Undefined),
                };
                self.falling(n, step, n / step)
            }
            Function::Binomial => {
                let n = first.clone();
                let k = values.get(1).and_then(Value::to_i64).ok_or(Fault::Undefined)?;
                // The smaller of the two that are the same.
                let k = match n.to_i64() {
                    Some(n) if n >= 0 && k > n / 2 => n - k,
                    _ => k,
                };
                if k < 0 {
                    return Ok(Value::whole(0));
                }
                if let Some(n) = n.to_i64() {
                    return self.binomial(n, k);
                }
                let mut product = Value::whole(1);
                for j in 0..k {
                    let factor = self.plus(&n, &Value::whole(-j))?;
                    product = self.times(&product, &factor)?;
                    product = self.over(&product, &Value::whole(j + 1))?;
                }
                Ok(product)
            }
            Function::Minimum | Function::Maximum => {
                let mut best = first.clone();
                for value in &values[1..] {
                    let (a, b) =
                        (value.to_real().ok_or(Fault::Undefined)?, best.to_real().ok_or(Fault::Undefined)?);
                    if (a.order(&b) == std::cmp::Ordering::Less) == (function == Function::Minimum) {
                        best = value.clone();
                    }
                }
                Ok(best)
            }
            Function::Gcd | Function::Lcm => {
                let mut total = BigInt::zero();
                for value in &values {
                    let number = value.exact().filter(Ratio::is_whole).ok_or(Fault::Undefined)?.numerator();
                    self.spend(number.bits())?;
                    total = match (function, total.is_zero()) {
                        (_, true) => number.abs(),
                        (Function::Gcd, _) => total.gcd(&number),
                        _ => total.lcm(&number),
                    };
                }
                Ok(Value::Exact(Ratio::large(total)))
            }
            Function::RealPart => Ok(Value::real(first.to_complex().real)),
            Function::ImaginaryPart => Ok(Value::real(first.to_complex().imaginary)),
        }
    }

    /// Of two whole numbers: every product on the way is whole.
    fn binomial(&mut self, n: i64, k: i64) -> Evaluated {
        let mut product = BigInt::one();
        for j in 0..k {
            product = product * (n - j) / (j + 1);
            self.spend(1 + product.bits() / 1024)?;
            if product.bits() > super::ratio::MOST_BITS {
                return Err(Fault::Beyond);
            }
        }
        Ok(Value::Exact(Ratio::large(product)))
    }

    /// n (n - step) (n - 2 step) …, so many factors.
    fn falling(&mut self, n: i64, step: i64, count: i64) -> Evaluated {
        self.spend(count.unsigned_abs())?;
        let mut product = BigInt::one();
        // As many factors as fit in a word at a time.
        let mut word = 1_i64;
        for factor in (0..count).map(|j| n - j * step) {
            if let Some(more) = word.checked_mul(factor) {
                word = more;
            } else {
                product *= word;
                word = factor;
            }
        }
        product *= word;
        if product.bits() > super::ratio::MOST_BITS {
            return self.approximate(Some(Complex::real(Float::from_ratio(&Ratio::large(product)))));
        }
        Ok(Value::Exact(Ratio::large(product)))
    }
}
