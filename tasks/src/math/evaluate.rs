//! The value of an expression at fixed points: two expressions that agree at all of them are the same.
//!
//! Every step costs fuel, so no expression takes long, however short it is to write.
use num_integer::Integer;
use num_traits::ToPrimitive;

use super::complex::Complex;
use super::expression::{Constant, Node};
use super::float::{Float, pi};
use super::ratio::Ratio;
use super::value::{Value, hashed};
use super::{Percent, Policy};

/// Steps that evaluating one answer may take, at all points together; a step is of the order of a microsecond.
pub(super) const FUEL: u64 = 20_000;
/// Where expressions with variables are evaluated; see [`Evaluator::variable`].
pub(super) const POINTS: usize = 5;
/// The point at which all variables are negative.
pub(super) const NEGATIVE: usize = 2;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// It has no value there, or none that this grader knows.
    Undefined,
    /// It takes too long or is too large.
    Beyond,
}

pub(super) type Evaluated = Result<Value, Fault>;

pub(super) struct Evaluator<'a> {
    policy: &'a Policy,
    fuel: &'a mut u64,
    point: usize,
    /// The signs to take for `±`, one bit each.
    signs: u32,
    next_sign: u32,
    /// Whether degrees are angles here, as inside of a sine.
    pub(super) angle: bool,
    /// Indices of sums, innermost last.
    bound: Vec<(String, i64)>,
    /// Whether a real number was taken to a complex one, as by the root of a negative.
    pub(super) left_reals: bool,
}

impl<'a> Evaluator<'a> {
    pub(super) fn new(policy: &'a Policy, fuel: &'a mut u64, point: usize, signs: u32) -> Self {
        Self { policy, fuel, point, signs, next_sign: 0, angle: false, bound: Vec::new(), left_reals: false }
    }

    pub(super) fn spend(&mut self, steps: u64) -> Result<(), Fault> {
        *self.fuel = self.fuel.checked_sub(steps).ok_or(Fault::Beyond)?;
        Ok(())
    }

    /// The value where one variable is a whole number.
    pub(super) fn value_at(&mut self, node: &Node, variable: &str, at: i64) -> Evaluated {
        self.bound.push((variable.to_owned(), at));
        let value = self.value(node);
        self.bound.pop();
        value
    }

    pub(super) fn value(&mut self, node: &Node) -> Evaluated {
        self.spend(1)?;
        match node {
            Node::Number(numeral) => Ok(Value::Exact(numeral.value.clone())),
            Node::Symbol(name) => Ok(self.variable(name)),
            Node::Indexed(name, index) => {
                let index = self.spelled(index)?;
                Ok(self.variable(&format!("{name}_{index}")))
            }
            Node::Constant(Constant::I) => match self.bound_index("i") {
                Some(index) => Ok(Value::whole(index)),
                None => Ok(Value::Approximate(Complex::unit())),
            },
            Node::Constant(Constant::E) => {
                Ok(Value::real(Float::whole(1).exponential().ok_or(Fault::Beyond)?))
            }
            Node::Constant(Constant::Pi) => Ok(Value::real(pi())),
            Node::Add(terms) => {
                let mut sum = Value::whole(0);
                for term in terms {
                    let term = self.value(term)?;
                    sum = self.plus(&sum, &term)?;
                }
                Ok(sum)
            }
            Node::Multiply(factors) => {
                let mut product = Value::whole(1);
                for factor in factors {
                    let factor = self.value(factor)?;
                    product = self.times(&product, &factor)?;
                }
                Ok(product)
            }
            Node::Negative(inner) => Ok(negative(&self.value(inner)?)),
            Node::PlusMinus { flipped, of } => {
                let value = self.value(of)?;
                // All signs go together where there is a `∓` among them; `signs` then has all bits alike.
                let minus = (self.signs >> self.next_sign.min(31)) & 1 == 1;
                self.next_sign += 1;
                Ok(if minus == *flipped { value } else { negative(&value) })
            }
            Node::Divide(top, bottom) => {
                let (top, bottom) = (self.value(top)?, self.value(bottom)?);
                self.over(&top, &bottom)
            }
            Node::Power(base, exponent) => {
                let (base, exponent) = (self.value(base)?, self.value(exponent)?);
                self.power(&base, &exponent)
            }
            Node::Call(function, arguments) => self.call(*function, arguments),
            Node::Opaque(name, arguments) => {
                let mut spelled = format!("{name}(");
                for argument in arguments {
                    spelled.push_str(&self.spelled(argument)?);
                    spelled.push(';');
                }
                Ok(self.variable(&spelled))
            }
            Node::Over { product, index, bounds, body } => self.over_index(*product, index, bounds, body),
            Node::Degrees(inner) => {
                let value = self.value(inner)?;
                if !self.angle {
                    return Ok(value);
                }
                let turn = self.over(&Value::real(pi()), &Value::whole(180))?;
                self.times(&value, &turn)
            }
            Node::Percent(inner) => {
                let value = self.value(inner)?;
                match self.policy.percent {
                    Percent::Unit => Ok(value),
                    Percent::Factor => self.over(&value, &Value::whole(100)),
                }
            }
            Node::Unit(inner, _) => self.value(inner),
            Node::Colon(parts) => {
                let mut quotient = self.value(parts.first().ok_or(Fault::Undefined)?)?;
                for part in &parts[1..] {
                    let part = self.value(part)?;
                    quotient = self.over(&quotient, &part)?;
                }
                Ok(quotient)
            }
            _ => Err(Fault::Undefined),
        }
    }

    fn bound_index(&self, name: &str) -> Option<i64> {
        self.bound.iter().rev().find(|(index, _)| index == name).map(|(_, value)| *value)
    }

    /// The value of a variable: real numbers above 1, between 0 and 1 and below -1, for roots, logarithms and absolute
    /// values to differ; and twice whole numbers, for what only they have.
    fn variable(&self, name: &str) -> Value {
        if let Some(index) = self.bound_index(name) {
            return Value::whole(index);
        }
        let bits = hashed(name, self.point as u64);
        let part = Float::from_bits(bits);
        match self.point {
            0 => Value::real(Float::whole(1).plus(&part).plus(&part)),
            1 => Value::real(part),
            NEGATIVE => Value::real(Float::whole(1).plus(&part).negative()),
            3 => Value::whole(3 + (bits % 17) as i64),
            _ => Value::whole(7 + (bits % 41) as i64),
        }
    }

    fn spelled(&mut self, node: &Node) -> Result<String, Fault> {
        match self.value(node) {
            Ok(value) => {
                self.spend(5)?;
                Ok(value.spelled())
            }
            // An index such as `1,2`.
            Err(Fault::Undefined) => Ok(format!("{node:?}")),
            Err(beyond) => Err(beyond),
        }
    }

    pub(super) fn approximate(&mut self, value: Option<Complex>) -> Evaluated {
        self.spend(2)?;
        value.and_then(Complex::checked).map(Value::Approximate).ok_or(Fault::Beyond)
    }

    /// Work with many digits costs more.
    pub(super) fn exact(
        &mut self,
        a: &Value,
        b: &Value,
        result: Option<Ratio>,
    ) -> Result<Option<Value>, Fault> {
        self.spend((a.bits() + b.bits()) / 64)?;
        Ok(result.map(Value::Exact))
    }

    pub(super) fn plus(&mut self, a: &Value, b: &Value) -> Evaluated {
        if let (Value::Exact(x), Value::Exact(y)) = (a, b)
            && let Some(sum) = self.exact(a, b, x.plus(y))?
        {
            return Ok(sum);
        }
        self.approximate(Some(a.to_complex().plus(&b.to_complex())))
    }

    pub(super) fn times(&mut self, a: &Value, b: &Value) -> Evaluated {
        if let (Value::Exact(x), Value::Exact(y)) = (a, b)
            && let Some(product) = self.exact(a, b, x.times(y))?
        {
            return Ok(product);
        }
        if a.is_zero() || b.is_zero() {
            return Ok(Value::whole(0));
        }
        self.approximate(Some(a.to_complex().times(&b.to_complex())))
    }

    pub(super) fn over(&mut self, a: &Value, b: &Value) -> Evaluated {
        if b.is_zero() {
            return Err(Fault::Undefined);
        }
        if let (Value::Exact(x), Value::Exact(y)) = (a, b)
            && let Some(quotient) = self.exact(a, b, x.over(y))?
        {
            return Ok(quotient);
        }
        self.approximate(a.to_complex().over(&b.to_complex()))
    }

    fn power(&mut self, base: &Value, exponent: &Value) -> Evaluated {
        self.spend(2)?;
        if let Value::Exact(b) = base
            && b.is_zero()
        {
            return match exponent.to_real() {
                Some(exponent) if exponent.is_zero() => Ok(Value::whole(1)),
                Some(exponent) if !exponent.is_negative() => Ok(Value::whole(0)),
                _ => Err(Fault::Undefined),
            };
        }
        if let Value::Exact(e) = exponent {
            if e.is_whole() {
                if let Value::Exact(b) = base
                    && let Some(power) = b.power(e)
                {
                    self.spend(b.bits().0 / 64)?;
                    return Ok(Value::Exact(power));
                }
                return match exponent.small_exponent() {
                    Some(small) if small.abs() < 1 << 40 => {
                        self.spend(u64::from(64 - small.unsigned_abs().leading_zeros()) / 2)?;
                        self.approximate(base.to_complex().whole_power(small))
                    }
                    _ => Err(Fault::Beyond),
                };
            }
            if let Some(degree) = e.denominator().to_u32().filter(|degree| *degree <= 1000) {
                if let Value::Exact(b) = base
                    && let Some(root) = b.root(degree)
                {
                    return self.power(&Value::Exact(root), &Value::Exact(Ratio::large(e.numerator())));
                }
                if degree == 2 {
                    let root = self.root(base)?;
                    return self.power(&root, &Value::Exact(Ratio::large(e.numerator())));
                }
                // The odd root of a negative number is meant to be the real one.
                if let Some(real) = base.to_real()
                    && real.is_negative()
                    && degree.is_odd()
                {
                    let power = self.power(&Value::real(real.negative()), exponent)?;
                    return Ok(if e.is_odd() { negative(&power) } else { power });
                }
            }
        }
        self.left_reals |= base.to_real().is_some_and(|base| base.is_negative());
        let (base, exponent) = (base.to_complex(), exponent.to_complex());
        if base.is_zero() {
            return Err(Fault::Undefined);
        }
        self.spend(40)?;
        self.approximate(base.power(&exponent))
    }

    pub(super) fn root(&mut self, value: &Value) -> Evaluated {
        if let Value::Exact(ratio) = value
            && let Some(root) = ratio.root(2)
        {
            return Ok(Value::Exact(root));
        }
        self.left_reals |= value.to_real().is_some_and(|real| real.is_negative());
        self.spend(3)?;
        self.approximate(Some(value.to_complex().root()))
    }

    fn over_index(&mut self, product: bool, index: &str, bounds: &(Node, Node), body: &Node) -> Evaluated {
        let whole = |value: Value| value.to_i64().ok_or(Fault::Undefined);
        let (from, to) = (whole(self.value(&bounds.0)?)?, whole(self.value(&bounds.1)?)?);
        let mut total = Value::whole(i64::from(product));
        let mut at = from;
        while at <= to {
            self.bound.push((index.to_owned(), at));
            let part = self.value(body);
            self.bound.pop();
            total = if product { self.times(&total, &part?)? } else { self.plus(&total, &part?)? };
            at += 1;
        }
        Ok(total)
    }
}

pub(super) fn negative(value: &Value) -> Value {
    match value {
        Value::Exact(ratio) => Value::Exact(ratio.negative()),
        Value::Approximate(complex) => Value::Approximate(complex.negative()),
    }
}
