//! Numbers as people and models write them, read exactly.
//!
//! ```text
//! quantity = number [ "%" | "percent" ] [ unit ]
//! number   = product | product "/" product | whole fraction        the last: a mixed number
//! product  = power { "*" power }
//! power    = atom [ "^" whole | "^{" whole "}" ]
//! atom     = [ sign ] ( decimal | \frac{number}{number} | \frac12 | "(" number ")" )
//! decimal  = digits, thousands separated by "," or " ", [ "." digits ] [ "e" whole ]
//! ```
use num_bigint::BigInt;
use num_traits::{One, Pow, Signed, ToPrimitive, Zero};

use super::Policy;

/// Numbers that would take more bits than this are refused before they are computed.
const MOST_BITS: u64 = 20_000;
const DEEPEST: usize = 16;

/// A rational number, not in lowest terms, with what stands behind it.
#[derive(Debug)]
pub(super) struct Quantity {
    pub(super) numerator: BigInt,
    pub(super) denominator: BigInt,
    pub(super) percent: bool,
    pub(super) unit: Option<String>,
}

/// The number has more digits than the grader computes with.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct TooLarge;

/// Reads a stripped answer; `None` if it is no number.
pub(super) fn parse(text: &str, policy: &Policy) -> Result<Option<Quantity>, TooLarge> {
    let mut parser = Parser { rest: text, policy, depth: 0 };
    let (numerator, denominator) = match parser.number() {
        Ok(ratio) => ratio,
        Err(Stop::NotANumber) => return Ok(None),
        Err(Stop::TooLarge) => return Err(TooLarge),
    };
    let percent = parser.take('%') || parser.take_word("percent");
    let behind = parser.rest.trim();
    let Some((factor, unit)) = unit(behind, parser.rest.len() > behind.len() || percent) else {
        return Ok(None);
    };
    Ok(Some(Quantity { numerator: numerator * factor, denominator, percent, unit }))
}

/// The words behind a number: a factor such as "million", and a unit such as `cm^2`. `None` if what
/// is there is something else, as in `5x` or `42 or 43`.
fn unit(text: &str, set_off: bool) -> Option<(BigInt, Option<String>)> {
    const JOINING: [&str; 8] = ["or", "and", "to", "plus", "minus", "times", "over", "if"];
    if text.is_empty() {
        return Some((BigInt::one(), None));
    }
    if !set_off {
        return None;
    }
    let mut factor = BigInt::one();
    let mut unit: Vec<&str> = Vec::new();
    for word in text.split([' ', '/']).filter(|word| !word.is_empty()) {
        let (name, exponent) = word.split_once('^').unwrap_or((word, "2"));
        let is_name =
            !name.is_empty() && name.chars().all(|c| c.is_alphabetic() || matches!(c, '.' | '-' | '\''));
        if !is_name || !matches!(exponent, "2" | "3" | "{2}" | "{3}") || JOINING.contains(&name) {
            return None;
        }
        match scale(name) {
            Some(power) => factor *= BigInt::from(10_u32).pow(power),
            None => unit.push(word),
        }
    }
    // One bare letter may be a variable; with an exponent, or among words, it is a unit.
    let variable = unit.len() == 1 && unit[0].chars().count() == 1 && !"mgslh".contains(unit[0]);
    (!variable).then(|| (factor, (!unit.is_empty()).then(|| unit.join(" ").to_lowercase())))
}

fn scale(word: &str) -> Option<u32> {
    [("hundred", 2), ("thousand", 3), ("million", 6), ("billion", 9), ("trillion", 12)]
        .into_iter()
        .find_map(|(name, power)| (name == word).then_some(power))
}

enum Stop {
    NotANumber,
    TooLarge,
}

type Ratio = (BigInt, BigInt);

struct Parser<'a> {
    rest: &'a str,
    policy: &'a Policy,
    depth: usize,
}

impl<'a> Parser<'a> {
    fn number(&mut self) -> Result<Ratio, Stop> {
        self.depth += 1;
        if self.depth > DEEPEST {
            return Err(Stop::TooLarge);
        }
        let begin = self.rest;
        let first = self.product()?;
        let consumed = begin[..begin.len() - self.rest.len()].trim();
        let whole = consumed.trim_start_matches(['+', '-', ' ']).bytes().all(|byte| byte.is_ascii_digit());
        let value = if self.take('/') {
            quotient(first, self.product()?)?
        } else if whole && let Some(fraction) = self.fraction_of_mixed()? {
            if !self.policy.mixed_numbers {
                return Err(Stop::NotANumber);
            }
            let (numerator, denominator) = bounded(first.0.abs() * &fraction.1 + &fraction.0, fraction.1)?;
            (if consumed.starts_with('-') { -numerator } else { numerator }, denominator)
        } else {
            first
        };
        self.depth -= 1;
        Ok(value)
    }

    /// The `\frac{1}{3}` or `1/3` that makes a whole number before it a mixed one.
    fn fraction_of_mixed(&mut self) -> Result<Option<Ratio>, Stop> {
        let next = self.rest.trim_start_matches(' ');
        let latex = next.starts_with("\\frac");
        if !latex && !next.starts_with(|c: char| c.is_ascii_digit()) {
            return Ok(None);
        }
        self.rest = next;
        let fraction = if latex {
            self.latex_fraction()?
        } else {
            let (numerator, denominator) = (self.digits(), self.take('/').then(|| self.digits()));
            match (numerator, denominator) {
                (Some(numerator), Some(Some(denominator))) => quotient(
                    (digits_value(numerator)?, BigInt::one()),
                    (digits_value(denominator)?, BigInt::one()),
                )?,
                _ => return Err(Stop::NotANumber),
            }
        };
        // `2 5/3` is no mixed number.
        if fraction.0.is_negative() || fraction.0 >= fraction.1 {
            Err(Stop::NotANumber)
        } else {
            Ok(Some(fraction))
        }
    }

    fn product(&mut self) -> Result<Ratio, Stop> {
        let mut value = self.power()?;
        while self.take('*') {
            let factor = self.power()?;
            value = bounded(value.0 * factor.0, value.1 * factor.1)?;
        }
        Ok(value)
    }

    fn power(&mut self) -> Result<Ratio, Stop> {
        let negative = self.sign();
        let base = self.atom()?;
        let value = if self.take('^') {
            let braced = self.take('{');
            let inverse = self.sign();
            let exponent =
                self.digits().ok_or(Stop::NotANumber)?.parse::<u64>().map_err(|_| Stop::TooLarge)?;
            if braced && !self.take('}') {
                return Err(Stop::NotANumber);
            }
            let (numerator, denominator) = raise(&base, exponent)?;
            if inverse {
                quotient((BigInt::one(), BigInt::one()), (numerator, denominator))?
            } else {
                (numerator, denominator)
            }
        } else {
            base
        };
        Ok(if negative { (-value.0, value.1) } else { value })
    }

    fn atom(&mut self) -> Result<Ratio, Stop> {
        self.skip_spaces();
        if self.rest.starts_with("\\frac") {
            return self.latex_fraction();
        }
        for (open, close) in [('(', ')'), ('{', '}')] {
            if self.take(open) {
                let value = self.number()?;
                return if self.take(close) { Ok(value) } else { Err(Stop::NotANumber) };
            }
        }
        self.decimal()
    }

    fn latex_fraction(&mut self) -> Result<Ratio, Stop> {
        self.rest = &self.rest["\\frac".len()..];
        let numerator = self.fraction_argument()?;
        let denominator = self.fraction_argument()?;
        quotient(numerator, denominator)
    }

    /// `{number}`, or the single digit of `\frac12`.
    fn fraction_argument(&mut self) -> Result<Ratio, Stop> {
        self.skip_spaces();
        if self.take('{') {
            let value = self.number()?;
            return if self.take('}') { Ok(value) } else { Err(Stop::NotANumber) };
        }
        let digit = self.rest.chars().next().and_then(|c| c.to_digit(10)).ok_or(Stop::NotANumber)?;
        self.rest = &self.rest[1..];
        Ok((BigInt::from(digit), BigInt::one()))
    }

    fn decimal(&mut self) -> Result<Ratio, Stop> {
        let mut digits = self.digits().unwrap_or_default().to_owned();
        if !self.policy.leading_zeros && digits.len() > 1 && digits.starts_with('0') {
            return Err(Stop::NotANumber);
        }
        // Thousands: one to three digits, then groups of exactly three behind one kind of separator.
        if (1..=3).contains(&digits.len())
            && !digits.starts_with('0')
            && let Some(separator) = self.rest.chars().next().filter(|c| matches!(c, ',' | ' '))
        {
            while let Some(group) = thousands(self.rest, separator) {
                digits.push_str(group);
                self.rest = &self.rest[1 + group.len()..];
            }
        }
        let mut places = 0;
        if let Some(after) = self.rest.strip_prefix('.') {
            let end = after.find(|c: char| !c.is_ascii_digit()).unwrap_or(after.len());
            if digits.is_empty() && end == 0 {
                return Err(Stop::NotANumber);
            }
            digits.push_str(&after[..end]);
            places = end as u64;
            self.rest = &after[end..];
        }
        if digits.is_empty() {
            return Err(Stop::NotANumber);
        }
        let ten = (BigInt::from(10_u32), BigInt::one());
        let mut value = (digits_value(&digits)?, raise(&ten, places)?.0);
        if let Some((exponent, after)) = scientific(self.rest) {
            self.rest = after;
            let (power, _) = raise(&ten, exponent.unsigned_abs())?;
            value = if exponent < 0 {
                bounded(value.0, value.1 * power)?
            } else {
                bounded(value.0 * power, value.1)?
            };
        }
        Ok(value)
    }

    fn sign(&mut self) -> bool {
        let mut negative = false;
        loop {
            if self.take('-') {
                negative = !negative;
            } else if !self.take('+') {
                return negative;
            }
        }
    }

    fn digits(&mut self) -> Option<&'a str> {
        self.skip_spaces();
        let end = self.rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(self.rest.len());
        let (digits, rest) = self.rest.split_at(end);
        self.rest = rest;
        (end > 0).then_some(digits)
    }

    fn take(&mut self, character: char) -> bool {
        let taken = self.rest.trim_start_matches(' ').strip_prefix(character);
        self.rest = taken.unwrap_or(self.rest);
        taken.is_some()
    }

    fn take_word(&mut self, word: &str) -> bool {
        let taken = self.rest.trim_start_matches(' ').strip_prefix(word);
        self.rest = taken.unwrap_or(self.rest);
        taken.is_some()
    }

    fn skip_spaces(&mut self) {
        self.rest = self.rest.trim_start_matches(' ');
    }
}

/// The three digits behind `separator`, if exactly three are there.
fn thousands(rest: &str, separator: char) -> Option<&str> {
    let after = rest.strip_prefix(separator)?;
    let end = after.find(|c: char| !c.is_ascii_digit()).unwrap_or(after.len());
    (end == 3).then(|| &after[..3])
}

/// The exponent of `e3`, `E-3`, and what follows it.
fn scientific(rest: &str) -> Option<(i64, &str)> {
    let after = rest.strip_prefix(['e', 'E'])?;
    let digits = after.strip_prefix(['-', '+']).unwrap_or(after);
    let end = digits.find(|c: char| !c.is_ascii_digit()).unwrap_or(digits.len());
    let length = after.len() - digits.len() + end;
    let exponent = after[..length].parse().ok()?;
    Some((exponent, &after[length..]))
}

fn digits_value(digits: &str) -> Result<BigInt, Stop> {
    // A decimal digit takes more than three bits.
    if 3 * digits.len() as u64 > MOST_BITS {
        return Err(Stop::TooLarge);
    }
    digits.parse().map_err(|_| Stop::NotANumber)
}

fn raise((numerator, denominator): &Ratio, exponent: u64) -> Result<Ratio, Stop> {
    let bits = numerator.bits().max(denominator.bits());
    if bits > 1 && bits.saturating_mul(exponent) > MOST_BITS {
        return Err(Stop::TooLarge);
    }
    // Powers of 0 and ±1 stay small whatever the exponent; only its parity matters.
    let exponent = if bits > 1 {
        exponent.to_u32().ok_or(Stop::TooLarge)?
    } else {
        exponent.min(2 + exponent % 2) as u32
    };
    Ok((numerator.pow(exponent), denominator.pow(exponent)))
}

fn quotient(a: Ratio, b: Ratio) -> Result<Ratio, Stop> {
    if b.0.is_zero() {
        return Err(Stop::NotANumber);
    }
    let (numerator, denominator) = bounded(a.0 * b.1, a.1 * b.0)?;
    Ok(if denominator.is_negative() { (-numerator, -denominator) } else { (numerator, denominator) })
}

fn bounded(numerator: BigInt, denominator: BigInt) -> Result<Ratio, Stop> {
    if numerator.bits().max(denominator.bits()) > MOST_BITS {
        return Err(Stop::TooLarge);
    }
    Ok((numerator, denominator))
}
