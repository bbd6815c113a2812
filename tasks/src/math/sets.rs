//! Parts of the real line: intervals and points, joined, cut and put in order.
use std::cmp::Ordering;

use super::float::Float;
use super::form::{Form, Number};

/// An end of an interval; `None` is infinity, on the side where it stands.
pub(super) type End = Option<Number>;

/// An interval, or a point where both ends are one.
#[derive(Debug, Clone)]
pub(super) struct Piece {
    pub(super) low: End,
    pub(super) high: End,
    pub(super) low_closed: bool,
    pub(super) high_closed: bool,
}

fn real(number: &Number) -> Float {
    number.value.to_real().unwrap_or_else(Float::zero)
}

fn order(a: &Number, b: &Number) -> Ordering {
    if a.key == b.key { Ordering::Equal } else { real(a).order(&real(b)) }
}

/// Of two low ends.
fn order_low(a: &Piece, b: &Piece) -> Ordering {
    match (&a.low, &b.low) {
        (None, None) => Ordering::Equal,
        (None, _) => Ordering::Less,
        (_, None) => Ordering::Greater,
        (Some(x), Some(y)) => order(x, y).then(b.low_closed.cmp(&a.low_closed)),
    }
}

/// Of two high ends.
fn order_high(a: &Piece, b: &Piece) -> Ordering {
    match (&a.high, &b.high) {
        (None, None) => Ordering::Equal,
        (None, _) => Ordering::Greater,
        (_, None) => Ordering::Less,
        (Some(x), Some(y)) => order(x, y).then(a.high_closed.cmp(&b.high_closed)),
    }
}

impl Piece {
    pub(super) fn all() -> Self {
        Self { low: None, high: None, low_closed: false, high_closed: false }
    }

    pub(super) fn point(number: Number) -> Self {
        Self { low: Some(number.clone()), high: Some(number), low_closed: true, high_closed: true }
    }

    fn is_point(&self) -> bool {
        matches!((&self.low, &self.high), (Some(low), Some(high)) if low.key == high.key)
    }

    fn is_empty(&self) -> bool {
        match (&self.low, &self.high) {
            (Some(low), Some(high)) => match order(low, high) {
                Ordering::Less => false,
                Ordering::Equal => !(self.low_closed && self.high_closed),
                Ordering::Greater => true,
            },
            _ => false,
        }
    }

    pub(super) fn form(&self) -> Form {
        let end = |end: &End, negative| {
            end.clone().map_or(Form::Infinity { negative }, |mut number| {
                number.unit = None;
                Form::Number(number)
            })
        };
        if let (true, Some(low)) = (self.is_point(), &self.low) {
            return Form::Set(vec![Form::Number(low.clone())]);
        }
        Form::Sequence {
            open: if self.low_closed { '[' } else { '(' },
            close: if self.high_closed { ']' } else { ')' },
            items: vec![end(&self.low, true), end(&self.high, false)],
        }
    }

    fn negative(&self) -> Self {
        let end = |end: &End| {
            end.as_ref().map(|number| Number::new(super::value::Value::real(real(number).negative())))
        };
        Self {
            low: end(&self.high),
            high: end(&self.low),
            low_closed: self.high_closed,
            high_closed: self.low_closed,
        }
    }
}

/// Whether `a` reaches `b`, which begins no earlier, without a gap.
fn touches(a: &Piece, b: &Piece) -> bool {
    match (&a.high, &b.low) {
        (Some(high), Some(low)) => match order(high, low) {
            Ordering::Greater => true,
            Ordering::Equal => a.high_closed || b.low_closed,
            Ordering::Less => false,
        },
        _ => true,
    }
}

/// In order, without overlaps.
pub(super) fn union(mut pieces: Vec<Piece>) -> Vec<Piece> {
    pieces.retain(|piece| !piece.is_empty());
    pieces.sort_by(order_low);
    let mut out: Vec<Piece> = Vec::with_capacity(pieces.len());
    for piece in pieces {
        match out.last_mut() {
            Some(last) if touches(last, &piece) => {
                if order_high(last, &piece) == Ordering::Less {
                    last.high = piece.high;
                    last.high_closed = piece.high_closed;
                }
            }
            _ => out.push(piece),
        }
    }
    out
}

pub(super) fn intersection(a: &[Piece], b: &[Piece]) -> Vec<Piece> {
    let mut out = Vec::new();
    for x in a {
        for y in b {
            let low = if order_low(x, y) == Ordering::Less { y } else { x };
            let high = if order_high(x, y) == Ordering::Less { x } else { y };
            out.push(Piece {
                low: low.low.clone(),
                low_closed: low.low_closed,
                high: high.high.clone(),
                high_closed: high.high_closed,
            });
        }
    }
    union(out)
}

/// All reals that are not in it.
pub(super) fn complement(pieces: &[Piece]) -> Vec<Piece> {
    let mut out = Vec::new();
    let mut rest = Some((None, false));
    for piece in pieces {
        if let (Some((low, low_closed)), Some(high)) = (rest.take(), &piece.low) {
            out.push(Piece { low, low_closed, high: Some(high.clone()), high_closed: !piece.low_closed });
        }
        rest = piece.high.as_ref().map(|high| (Some(high.clone()), !piece.high_closed));
    }
    if let Some((low, low_closed)) = rest {
        out.push(Piece { low, low_closed, high: None, high_closed: false });
    }
    union(out)
}

/// All x of which |x| is in it.
pub(super) fn absolute(pieces: &[Piece]) -> Vec<Piece> {
    let zero = Number::new(super::value::Value::whole(0));
    let positive = [Piece { low: Some(zero), high: None, low_closed: true, high_closed: false }];
    let mut right = intersection(pieces, &positive);
    right.extend(right.clone().iter().map(Piece::negative));
    union(right)
}

/// The part of the real line that a form is, where it is one.
pub(super) fn pieces(form: &Form) -> Option<Vec<Piece>> {
    let finite = |form: &Form| match form {
        Form::Number(number) if number.value.is_real() => Some(number.clone()),
        _ => None,
    };
    match form {
        Form::Reals(pieces) => Some(pieces.clone()),
        Form::Set(items) => {
            items.iter().map(|item| finite(item).map(Piece::point)).collect::<Option<Vec<_>>>().map(union)
        }
        Form::Sequence { open, close, items } => {
            let [low, high] = items.as_slice() else { return None };
            let low = match low {
                Form::Infinity { negative: true } => None,
                other => Some(finite(other)?),
            };
            let high = match high {
                Form::Infinity { negative: false } => None,
                other => Some(finite(other)?),
            };
            Some(union(vec![Piece { low, high, low_closed: *open == '[', high_closed: *close == ']' }]))
        }
        _ => None,
    }
}

/// The simplest form of a part of the real line.
pub(super) fn form(mut pieces: Vec<Piece>) -> Form {
    if pieces.iter().all(Piece::is_point) {
        return Form::Set(pieces.into_iter().filter_map(|piece| piece.low).map(Form::Number).collect());
    }
    if pieces.len() == 1 { pieces.remove(0).form() } else { Form::Reals(pieces) }
}
