//! Equations, inequalities, membership: what a relation says about its variable, or the relation up to a factor.
use super::build::{Builder, Built, has_variables, mentions, name, only_variable, sign};
use super::evaluate::{Fault, negative};
use super::expression::{Function, Node, Relation};
use super::form::{Form, Number};
use super::sets::{self, Piece};
use super::value::Value;

/// The form of a chain of relations.
pub(super) fn form(builder: &mut Builder, sides: &[Node], signs: &[Relation]) -> Built {
    // `x = 1/3 ≈ 0.33`: what is only about right follows what is right.
    if let Some(about) = signs.iter().position(|sign| *sign == Relation::About)
        && signs[..about].contains(&Relation::Equal)
    {
        return form(builder, &sides[..=about], &signs[..about]);
    }
    if signs.iter().all(|sign| matches!(sign, Relation::Equal | Relation::About)) {
        return equation(builder, sides);
    }
    if let (&[Relation::Element], [_, set]) = (signs, sides) {
        return match name(&sides[0]) {
            Some(_) => builder.form(set),
            None => Err(Fault::Undefined),
        };
    }
    if signs.iter().all(is_inequality) {
        if let Some((_, reals)) = reals(builder, sides, signs)? {
            return Ok(sets::form(reals));
        }
        return inequality(builder, sides, signs);
    }
    let sides = sides.iter().map(|side| Ok(builder.form(side)?.key())).collect::<Result<Vec<_>, Fault>>()?;
    Ok(Form::Relation(format!("{signs:?}:{}", sides.join(","))))
}

fn is_inequality(sign: &Relation) -> bool {
    use Relation::{Greater, GreaterOrEqual, Less, LessOrEqual, NotEqual};
    matches!(sign, Less | LessOrEqual | Greater | GreaterOrEqual | NotEqual)
}

fn equation(builder: &mut Builder, sides: &[Node]) -> Built {
    let (Some(first), Some(last)) = (sides.first(), sides.last()) else { return Err(Fault::Undefined) };
    // A calculation: its result counts.
    if sides.iter().all(|side| !has_variables(side)) && name(first).is_none() {
        return match (name(last), builder.form(last)) {
            (Some(name), _) => Ok(Form::Named { name, value: Box::new(builder.form(first)?) }),
            (None, form) => form,
        };
    }
    let (named, value) = match (name(first), name(last)) {
        (Some(named), _) => (named, last),
        // `5 = x`.
        (None, Some(named)) if sides.len() == 2 => (named, first),
        _ => return difference(builder, sides, None),
    };
    // A name is that of the value alone if it is not in it.
    if mentions(value, &named) {
        return difference(builder, sides, None);
    }
    let form = builder.form(value);
    let is_function = matches!(first, Node::Opaque(..));
    let constant = !has_variables(value) || !matches!(form, Ok(Form::Expression(_)));
    match form {
        Ok(form) if constant || is_function => {
            Ok(Form::Named { name: named, value: Box::new(form.unnamed()) })
        }
        Ok(form) => difference(builder, sides, Some(form)),
        Err(Fault::Undefined) => difference(builder, sides, None),
        Err(fault) => Err(fault),
    }
}

/// An equation by the ratios of the difference of its sides, so that it may be multiplied by any number.
fn difference(builder: &mut Builder, sides: &[Node], defined: Option<Form>) -> Built {
    let [left, right] = sides else { return Err(Fault::Undefined) };
    let difference = minus(left, right);
    let points = builder.points(&difference, 0)?;
    let unit = points.iter().flatten().find(|(value, _)| !value.is_zero());
    let Some((unit, _)) = unit else { return Err(Fault::Undefined) };
    let ratios = ratios(&points, &unit.clone());
    Ok(Form::Equation { ratios, defined: defined.map(Box::new) })
}

fn ratios(points: &[Option<(Value, String)>], unit: &Value) -> String {
    let unit = unit.to_complex();
    let ratio = |value: &Value| {
        value.to_complex().over(&unit).and_then(super::complex::Complex::checked).map(Value::Approximate)
    };
    let spelled = points.iter().map(|point| match point {
        Some((value, _)) => ratio(value).map_or_else(|| "?".to_owned(), |ratio| ratio.spelled()),
        None => "?".to_owned(),
    });
    spelled.collect::<Vec<_>>().join(",")
}

fn minus(left: &Node, right: &Node) -> Node {
    Node::Add(vec![left.clone(), Node::Negative(Box::new(right.clone()))])
}

/// Inequalities by the signs and ratios of the differences of their sides: they may be multiplied by a positive number.
fn inequality(builder: &mut Builder, sides: &[Node], signs: &[Relation]) -> Built {
    let mut keys = Vec::new();
    for (two, sign_between) in sides.windows(2).zip(signs) {
        let (left, right, strict) = match sign_between {
            Relation::Less => (&two[0], &two[1], "<"),
            Relation::LessOrEqual => (&two[0], &two[1], "<="),
            Relation::Greater => (&two[1], &two[0], "<"),
            Relation::GreaterOrEqual => (&two[1], &two[0], "<="),
            _ => (&two[0], &two[1], "!="),
        };
        let points = builder.points(&minus(left, right), 0)?;
        let unit = points.iter().flatten().map(|(value, _)| value).find(|value| !value.is_zero());
        let unit = unit.ok_or(Fault::Undefined)?;
        let unit = match (strict, sign(unit)) {
            (_, None) => return Err(Fault::Undefined),
            ("!=", _) | (_, Some(false)) => unit.clone(),
            (_, Some(true)) => Value::Approximate(unit.to_complex().negative()),
        };
        keys.push(format!("{strict}{}", ratios(&points, &unit)));
    }
    keys.sort_unstable();
    Ok(Form::Relation(keys.join("&")))
}

/// The variable of inequalities with numbers and the reals they leave it, where they are such.
fn reals(
    builder: &mut Builder,
    sides: &[Node],
    signs: &[Relation],
) -> Result<Option<(String, Vec<Piece>)>, Fault> {
    let variable = |side: &Node| match side {
        Node::Call(Function::Absolute, inner) if inner.len() == 1 => name(&inner[0]).map(|name| (name, true)),
        other => name(other).map(|name| (name, false)),
    };
    let (at, other) = match sides {
        [_, _] if has_variables(&sides[0]) => (0, [None, Some((&sides[1], signs[0]))]),
        [_, _] => (1, [Some((&sides[0], signs[0])), None]),
        [_, _, _] => (1, [Some((&sides[0], signs[0])), Some((&sides[2], signs[1]))]),
        _ => return Ok(None),
    };
    let Some((variable, absolute)) = variable(&sides[at]) else { return linear(builder, sides, signs) };
    let mut reals = vec![Piece::all()];
    for (index, (bound, sign)) in
        other.into_iter().enumerate().filter_map(|(index, bound)| Some((index, bound?)))
    {
        let number = match builder.form(bound)? {
            Form::Number(number) if number.value.is_real() => Some(number),
            Form::Infinity { .. } => None,
            _ => return Ok(None),
        };
        // With the variable on the left.
        let sign = if index == 0 { flipped(sign) } else { sign };
        let Some(piece) = piece(number, sign) else { return Ok(None) };
        reals = sets::intersection(&reals, &piece);
    }
    Ok(Some((variable, if absolute { sets::absolute(&reals) } else { reals })))
}

/// `2x + 1 < 7` and its like, solved.
fn linear(
    builder: &mut Builder,
    sides: &[Node],
    signs: &[Relation],
) -> Result<Option<(String, Vec<Piece>)>, Fault> {
    let ([left, right], [sign_between]) = (sides, signs) else { return Ok(None) };
    let difference = minus(left, right);
    let Some(variable) = only_variable(&difference) else { return Ok(None) };
    let Some((slope, at_0)) = builder.linear(&difference, &variable) else { return Ok(None) };
    let bound = builder.quotient(&negative(&at_0), &slope)?;
    let falling = sign(&slope) == Some(true);
    let relation = if falling { flipped(*sign_between) } else { *sign_between };
    Ok(piece(Some(Number::new(bound)), relation).map(|reals| (variable, reals)))
}

fn flipped(sign: Relation) -> Relation {
    match sign {
        Relation::Less => Relation::Greater,
        Relation::LessOrEqual => Relation::GreaterOrEqual,
        Relation::Greater => Relation::Less,
        Relation::GreaterOrEqual => Relation::LessOrEqual,
        other => other,
    }
}

/// The numbers of which the relation to `number` holds; without one it is that to infinity.
fn piece(number: Option<Number>, sign: Relation) -> Option<Vec<Piece>> {
    let Some(number) = number else { return Some(vec![Piece::all()]) };
    let below =
        |closed| Piece { low: None, high: Some(number.clone()), low_closed: false, high_closed: closed };
    let above =
        |closed| Piece { low: Some(number.clone()), high: None, low_closed: closed, high_closed: false };
    Some(match sign {
        Relation::Less => vec![below(false)],
        Relation::LessOrEqual => vec![below(true)],
        Relation::Greater => vec![above(false)],
        Relation::GreaterOrEqual => vec![above(true)],
        Relation::NotEqual => vec![below(false), above(false)],
        _ => return None,
    })
}

/// Inequalities side by side on one variable: those that hold together where they can, else either.
pub(super) fn reals_of_list(
    builder: &mut Builder,
    items: &[Node],
    alternatives: bool,
) -> Result<Option<Vec<Piece>>, Fault> {
    let mut parts: Vec<Vec<Piece>> = Vec::new();
    let mut variable = None;
    for item in items {
        let Node::Relation(sides, signs) = item else { return Ok(None) };
        if !signs.iter().all(is_inequality) {
            return Ok(None);
        }
        let Some((name, reals)) = reals(builder, sides, signs)? else { return Ok(None) };
        if *variable.get_or_insert_with(|| name.clone()) != name {
            return Ok(None);
        }
        parts.push(reals);
    }
    let both = parts.iter().fold(vec![Piece::all()], |both, part| sets::intersection(&both, part));
    Ok(Some(if alternatives || both.is_empty() { sets::union(parts.concat()) } else { both }))
}
