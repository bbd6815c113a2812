//! Whether two forms are one answer, and by what rule.
//!
//! Equal keys decide nearly always, so that equality is an equivalence and answers can be counted as votes. The rules below
//! them compare what was written differently on purpose, as `2516_8` and `2516`; each is its own [`Rule`], so that it can be
//! looked at, and the laxer ones are up to the policy.
use super::expression::Numeral;
use super::float::Float;
use super::form::{Form, Number};
use super::sets;
use super::text::says_no_solution;
use super::value::Value;
use super::{Percent, Policy, Rule, Units, lexer, parser};

/// More elements than this are matched by their keys alone.
const MOST_PAIRS: usize = 24;

/// The rule by which the two are equal, or `None`.
pub(super) fn equal(a: &Form, b: &Form, policy: &Policy) -> Option<Rule> {
    if let (Form::Number(x), Form::Number(y)) = (a, b) {
        return numbers(x, y, policy);
    }
    if a.key() == b.key() {
        return Some(rule(a, b));
    }
    across(a, b, policy).or_else(|| across(b, a, policy))
}

/// The rule that compares such forms, whatever it finds.
pub(super) fn rule(a: &Form, b: &Form) -> Rule {
    match (a, b) {
        (Form::Other(_) | Form::Beyond(_), _) | (_, Form::Other(_) | Form::Beyond(_)) => Rule::SameText,
        (Form::Words(_), Form::Choice { .. }) | (Form::Choice { .. }, _) => Rule::Choice,
        (Form::Words(_), _) | (_, Form::Words(_)) => Rule::Words,
        (Form::Number(_), Form::Number(_)) => Rule::Number,
        (Form::Expression(_) | Form::Number(_), Form::Expression(_) | Form::Number(_)) => Rule::Expression,
        (Form::Equation { .. }, _) => Rule::Equation,
        (Form::Relation(_), _) => Rule::Inequality,
        (Form::List(_) | Form::Set(_), _) => Rule::Set,
        (Form::Sequence { .. }, _) => Rule::Tuple,
        (Form::Reals(_) | Form::Joined(..), _) => Rule::Reals,
        (Form::Matrix(_), _) => Rule::Matrix,
        (Form::Based { .. }, _) => Rule::Base,
        (Form::Ratio(_), _) => Rule::Ratio,
        (Form::Time { .. }, _) => Rule::Time,
        (Form::Infinity { .. }, Form::Infinity { .. }) => Rule::Infinity,
        _ => Rule::Kinds,
    }
}

fn numbers(a: &Number, b: &Number, policy: &Policy) -> Option<Rule> {
    let units_differ = matches!((&a.unit, &b.unit), (Some(x), Some(y)) if singular(x) != singular(y));
    if units_differ && policy.units == Units::Match {
        return None;
    }
    if a.key == b.key {
        return Some(if units_differ { Rule::NumberUnitsDiffer } else { Rule::Number });
    }
    hundredth(a, b, policy)
        .or_else(|| hundredth(b, a, policy))
        .or_else(|| rounded(a, b, policy))
        .or_else(|| rounded(b, a, policy))
}

/// Units without the s of a plural and marks.
fn singular(unit: &str) -> String {
    let words = unit.split(' ').map(|word| if word.len() > 2 { word.trim_end_matches('s') } else { word });
    words.collect::<Vec<_>>().join(" ")
}

/// `33.5%` and `0.335`: a percent sign on one side means hundredths.
fn hundredth(a: &Number, b: &Number, policy: &Policy) -> Option<Rule> {
    if policy.percent != Percent::Unit || !policy.percent_of_one || !a.percent || b.percent {
        return None;
    }
    let (a, b) = (a.value.exact()?, b.value.exact()?);
    (a.over(&super::ratio::Ratio::whole(100))? == b).then_some(Rule::Percent)
}

/// A decimal of many digits and what it is the rounding of, which is no decimal: `1.4142135623730951` and `\sqrt{2}`.
fn rounded(decimal: &Number, other: &Number, policy: &Policy) -> Option<Rule> {
    let digits = u32::try_from(decimal.decimals).ok()?;
    if policy.rounded_digits == 0 || digits < policy.rounded_digits || other.decimals > 0 {
        return None;
    }
    // A whole number is itself.
    if other.value.exact().is_some_and(|ratio| ratio.is_whole()) {
        return None;
    }
    let (x, y) = (decimal.value.to_real()?, other.value.to_real()?);
    // One of the last digit, of which doubles that are printed have one or two too many.
    let digits = digits.min(15).saturating_sub(1);
    let off = x.minus(&y).times(&Float::whole(10_i64.pow(digits)));
    (off.absolute().order(&y.absolute()) != std::cmp::Ordering::Greater).then_some(Rule::Rounded)
}

/// Rules between different forms; tried both ways round.
fn across(a: &Form, b: &Form, policy: &Policy) -> Option<Rule> {
    match (a, b) {
        (Form::List(x) | Form::Set(x), Form::List(y) | Form::Set(y)) => elements(x, y, policy),
        (Form::List(items) | Form::Set(items), one)
            if items.len() == 1 && !matches!(one, Form::Sequence { .. }) =>
        {
            equal(&items[0], one, policy)
        }
        (Form::Sequence { open, close, items }, Form::Sequence { open: o, close: c, items: others }) => {
            ((open, close) == (o, c)).then(|| in_order(items, others, policy, Rule::Tuple)).flatten()
        }
        // `(1, 2)` and `1, 2` in that order.
        (Form::Sequence { open: '(', close: ')', items }, Form::List(others)) if policy.bare_tuples => {
            in_order(items, others, policy, Rule::BareTuple)
        }
        (Form::Sequence { items, .. }, Form::Matrix(rows)) => {
            let column = rows.iter().all(|row| row.len() == 1);
            let cells: Vec<Form> = rows.iter().flatten().cloned().collect();
            (column || rows.len() == 1).then(|| in_order(items, &cells, policy, Rule::Matrix)).flatten()
        }
        (Form::Matrix(x), Form::Matrix(y)) => {
            let alike = x.len() == y.len() && x.iter().zip(y).all(|(x, y)| x.len() == y.len());
            let cells = |rows: &[Vec<Form>]| rows.iter().flatten().cloned().collect::<Vec<_>>();
            alike.then(|| in_order(&cells(x), &cells(y), policy, Rule::Matrix)).flatten()
        }
        (Form::Reals(x), Form::Reals(y)) => {
            let forms = |pieces: &[sets::Piece]| pieces.iter().map(sets::Piece::form).collect::<Vec<_>>();
            in_order(&forms(x), &forms(y), policy, Rule::Reals)
        }
        (Form::Expression(x), Form::Expression(y)) => agree(x, y).then_some(Rule::Expression),
        // `y = 2x + 3` and `2x + 3`.
        (Form::Equation { defined: Some(value), .. }, Form::Expression(_)) if policy.definitions => {
            equal(value, b, policy).map(|_| Rule::Definition)
        }
        (Form::Named { value, .. }, other) => equal(value, other, policy),
        (Form::Based { digits, .. }, Form::Number(number)) if !policy.bases => {
            let same = number
                .value
                .exact()
                .is_some_and(|ratio| ratio.is_whole() && ratio.numerator().to_string() == *digits);
            same.then_some(Rule::Base)
        }
        (Form::Choice { rest, .. }, other) => equal(rest, other, policy).map(|_| Rule::Choice),
        (Form::Words(words), Form::Set(items)) if items.is_empty() && says_no_solution(words) => {
            Some(Rule::EmptySet)
        }
        // `xy`, which may be a word or a product.
        (Form::Words(words), Form::Expression(_) | Form::Number(_)) if words.chars().count() <= 3 => {
            let words = lexer::single_backslashes(words);
            let tokens = lexer::tokens(&words, policy, false).ok()?;
            let form = super::build::form(&parser::parse(tokens, policy).ok()?, policy).ok()?;
            let understood = matches!(form, Form::Expression(_) | Form::Number(_));
            understood.then(|| equal(&form, b, policy)).flatten()
        }
        (Form::Time { seconds, after_noon, .. }, Form::Time { seconds: s, after_noon: n, .. }) => {
            // A half of the day that only one side names.
            let half = after_noon.is_some() != n.is_some() && seconds % 43_200 == s % 43_200;
            let hour = |seconds: u32, after_noon| seconds + if after_noon == Some(true) { 43_200 } else { 0 };
            let same = hour(*seconds, *after_noon) == hour(*s, *n);
            (same || half && (*seconds <= 43_200 && *s <= 43_200)).then_some(Rule::Time)
        }
        (Form::Time { quotient: Some(quotient), .. }, other) => {
            equal(quotient, other, policy).map(|_| Rule::Ratio)
        }
        _ => None,
    }
}

fn in_order(a: &[Form], b: &[Form], policy: &Policy, rule: Rule) -> Option<Rule> {
    let same = a.len() == b.len() && a.iter().zip(b).all(|(a, b)| equal(a, b, policy).is_some());
    same.then_some(rule)
}

/// Elements in any order, each matched with one that is equal.
fn elements(a: &[Form], b: &[Form], policy: &Policy) -> Option<Rule> {
    let named = |items: &[Form]| items.iter().any(|item| matches!(item, Form::Named { .. }));
    if a.len() != b.len() || a.len() > MOST_PAIRS || named(a) && named(b) {
        return None;
    }
    let mut rest: Vec<&Form> = b.iter().collect();
    for item in a {
        let at = rest.iter().position(|other| equal(item, other, policy).is_some())?;
        rest.swap_remove(at);
    }
    Some(Rule::Set)
}

/// Whether two expressions agree at every point where both have a value, and have one in common.
fn agree(a: &[Option<String>], b: &[Option<String>]) -> bool {
    let mut both = a.iter().zip(b).filter_map(|(a, b)| a.as_ref().zip(b.as_ref())).peekable();
    both.peek().is_some() && both.all(|(a, b)| a == b)
}

/// The number that a decimal comma makes: `1,22` is 1.22.
pub(super) fn decimal_comma(text: &str) -> Option<Form> {
    let digits = text.trim_start_matches('-');
    let (whole, places) = digits.split_once(',')?;
    let all_digits = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    if !all_digits(whole) || !all_digits(places) || places.len() == 3 {
        return None;
    }
    let Numeral { value, decimals, .. } =
        super::numeral::read(&format!("{whole}.{places}"), false).ok()??.numeral;
    let value = if text.starts_with('-') { value.negative() } else { value };
    let number = Number { decimals, ..Number::new(Value::Exact(value)) };
    Some(Form::Number(number))
}
