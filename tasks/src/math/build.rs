//! From the tree of an answer to its canonical form.
use super::Policy;
use super::evaluate::{Evaluator, FUEL, Fault, NEGATIVE, POINTS, negative};
use super::expression::{Constant, Function, Join, Node};
use super::form::{Form, Number};
use super::relations;
use super::sets;
use super::value::Value;

pub(super) type Built = Result<Form, Fault>;

/// Builds the forms of one answer, all its parts on one tank of fuel.
pub(super) struct Builder<'a> {
    pub(super) policy: &'a Policy,
    fuel: u64,
}

/// The form of a whole answer.
pub(super) fn form(node: &Node, policy: &Policy) -> Built {
    Ok(Builder { policy, fuel: FUEL }.form(node)?.unnamed())
}

impl Builder<'_> {
    pub(super) fn form(&mut self, node: &Node) -> Built {
        match node {
            Node::List(items, alternatives) => self.list(items, *alternatives),
            Node::Set(items) => {
                let mut items = self.elements(items)?;
                items.sort_by_cached_key(Form::key);
                items.dedup_by_key(|item| item.key());
                Ok(Form::Set(items))
            }
            Node::Sequence { open, close, items } => self.sequence(*open, *close, items),
            Node::Matrix(rows) => {
                let rows = rows.iter().map(|row| row.iter().map(|cell| self.form(cell)).collect());
                Ok(Form::Matrix(rows.collect::<Result<_, _>>()?))
            }
            Node::Joined(join, a, b) => self.joined(*join, a, b),
            Node::Reals => Ok(sets::form(vec![sets::Piece::all()])),
            Node::Relation(sides, signs) => relations::form(self, sides, signs),
            Node::Words(words) if words.chars().count() == 1 => self.form(&Node::Symbol(words.clone())),
            Node::Words(words) => Ok(Form::Words(words.clone())),
            Node::Infinity => Ok(Form::Infinity { negative: false }),
            Node::Negative(inner) if matches!(**inner, Node::Infinity) => {
                Ok(Form::Infinity { negative: true })
            }
            Node::PlusMinus { of, .. } if matches!(**of, Node::Infinity) => {
                Ok(Form::List(vec![Form::Infinity { negative: false }, Form::Infinity { negative: true }]))
            }
            Node::Negative(inner) if matches!(**inner, Node::Based { .. }) => match &**inner {
                Node::Based { digits, base } => Ok(Form::Based { digits: format!("-{digits}"), base: *base }),
                _ => Err(Fault::Undefined),
            },
            Node::Based { digits, base } => Ok(Form::Based { digits: digits.clone(), base: *base }),
            Node::Unit(inner, unit) => Ok(match self.form(inner)? {
                Form::Number(number) => Form::Number(Number { unit: Some(unit.clone()), ..number }),
                Form::Expression(points) => Form::Expression(points),
                Form::Infinity { negative } => Form::Infinity { negative },
                list @ (Form::List(_) | Form::Named { .. }) => list,
                _ => return Err(Fault::Undefined),
            }),
            Node::Degrees(inner) => {
                let form = self.form(inner)?;
                Ok(match form {
                    Form::Number(number) => {
                        Form::Number(Number { unit: Some("degrees".to_owned()), ..number })
                    }
                    other => other,
                })
            }
            Node::Percent(inner) => match self.expression(node)? {
                Form::Number(number) => {
                    let percent = self.policy.percent == super::Percent::Unit;
                    Ok(Form::Number(Number { percent, decimals: decimals(inner), ..number }))
                }
                other => Ok(other),
            },
            Node::Colon(parts) if parts.len() > 2 => self.ratio(parts),
            _ => self.expression(node),
        }
    }

    /// The elements of a list or set, each `±` giving two.
    fn elements(&mut self, items: &[Node]) -> Result<Vec<Form>, Fault> {
        let mut forms = Vec::with_capacity(items.len());
        for item in items {
            match self.form(item)? {
                Form::List(more) => forms.extend(more),
                other => forms.push(other),
            }
        }
        Ok(forms)
    }

    fn list(&mut self, items: &[Node], alternatives: bool) -> Built {
        // `2\pi k, k \in \mathbb{Z}`: where an index runs is no answer of its own.
        let rest: Vec<Node> = items.iter().filter(|item| !is_domain(item)).cloned().collect();
        let items = match rest.as_slice() {
            [] => items,
            [one] if items.len() > 1 => return self.form(one),
            rest => rest,
        };
        if let Some(reals) = relations::reals_of_list(self, items, alternatives)? {
            return Ok(sets::form(reals));
        }
        let mut forms = self.elements(items)?;
        // Names tell elements apart only where there are several: `x = 1, 2` are two values of one.
        let mut names: Vec<&str> = forms
            .iter()
            .filter_map(|form| match form {
                Form::Named { name, .. } => Some(name.as_str()),
                _ => None,
            })
            .collect();
        names.sort_unstable();
        let count = names.len();
        names.dedup();
        let keep = count == forms.len() && names.len() == count && count > 1;
        if !keep {
            forms = forms.into_iter().map(Form::unnamed).collect();
        }
        Ok(Form::List(forms))
    }

    fn sequence(&mut self, open: char, close: char, items: &[Node]) -> Built {
        let rows: Vec<&Vec<Node>> = items
            .iter()
            .filter_map(|item| match item {
                Node::Sequence { open: '[', close: ']', items } => Some(items),
                _ => None,
            })
            .collect();
        // Rows in brackets, all alike, are a matrix; `[0, 1], [2, 3]` in parentheses are not.
        if open == '['
            && close == ']'
            && rows.len() == items.len()
            && rows.windows(2).all(|two| two[0].len() == two[1].len())
        {
            let rows = rows.into_iter().map(|row| row.iter().map(|cell| self.form(cell)).collect());
            return Ok(Form::Matrix(rows.collect::<Result<_, _>>()?));
        }
        let items = items.iter().map(|item| self.form(item).map(Form::unnamed)).collect::<Result<_, _>>()?;
        Ok(Form::Sequence { open, close, items })
    }

    fn joined(&mut self, join: Join, a: &Node, b: &Node) -> Built {
        let (a, b) = (self.form(a)?, self.form(b)?);
        if let (Some(x), Some(y)) = (sets::pieces(&a), sets::pieces(&b)) {
            return Ok(sets::form(match join {
                Join::Union => sets::union([x, y].concat()),
                Join::Intersection => sets::intersection(&x, &y),
                Join::Difference => sets::intersection(&x, &sets::complement(&y)),
            }));
        }
        if let (Form::Set(mut x), Form::Set(y)) = (a.clone(), b.clone()) {
            let has = |set: &[Form], item: &Form| set.iter().any(|other| other.key() == item.key());
            match join {
                Join::Union => {
                    let more: Vec<Form> = y.into_iter().filter(|item| !has(&x, item)).collect();
                    x.extend(more);
                }
                Join::Intersection => x.retain(|item| has(&y, item)),
                Join::Difference => x.retain(|item| !has(&y, item)),
            }
            return Ok(Form::Set(x));
        }
        let mut parts = Vec::new();
        let sign = match join {
            Join::Union => "union:",
            Join::Intersection => "intersection:",
            Join::Difference => "difference:",
        };
        for part in [a, b] {
            match part {
                Form::Joined(other, more) if other == sign && join != Join::Difference => parts.extend(more),
                other => parts.push(other),
            }
        }
        if join != Join::Difference {
            parts.sort_by_cached_key(Form::key);
        }
        Ok(Form::Joined(sign, parts))
    }

    fn ratio(&mut self, parts: &[Node]) -> Built {
        let first = self.value(&parts[0], 0, 0)?;
        let quotients = parts.iter().map(|part| {
            let quotient = Node::Divide(Box::new(part.clone()), Box::new(parts[0].clone()));
            self.form(&quotient)
        });
        let quotients = quotients.collect::<Result<Vec<_>, _>>()?;
        if first.is_zero() { Err(Fault::Undefined) } else { Ok(Form::Ratio(quotients)) }
    }

    pub(super) fn value(&mut self, node: &Node, point: usize, signs: u32) -> Result<Value, Fault> {
        Evaluator::new(self.policy, &mut self.fuel, point, signs).value(node)
    }

    /// The slope and the value at 0 of an expression that is linear in its one variable.
    pub(super) fn linear(&mut self, node: &Node, variable: &str) -> Option<(Value, Value)> {
        let mut evaluator = Evaluator::new(self.policy, &mut self.fuel, 0, 0);
        let at_0 = evaluator.value_at(node, variable, 0).ok()?;
        let at_1 = evaluator.value_at(node, variable, 1).ok()?;
        let slope = evaluator.plus(&at_1, &negative(&at_0)).ok()?;
        // A straight line through two points that also goes through three others, whole and not.
        for at in [2, -3] {
            let expected = evaluator
                .times(&slope, &Value::whole(at))
                .and_then(|rise| evaluator.plus(&rise, &at_0))
                .ok()?;
            let value = evaluator.value_at(node, variable, at).ok()?;
            if !evaluator.plus(&value, &negative(&expected)).ok()?.is_zero() {
                return None;
            }
        }
        let x = evaluator.value(&Node::Symbol(variable.to_owned())).ok()?;
        let expected = evaluator.times(&slope, &x).and_then(|rise| evaluator.plus(&rise, &at_0)).ok()?;
        let value = evaluator.value(node).ok()?;
        let straight = evaluator.plus(&value, &negative(&expected)).ok()?.is_zero();
        (straight && !slope.is_zero() && slope.is_real() && at_0.is_real()).then_some((slope, at_0))
    }

    pub(super) fn quotient(&mut self, a: &Value, b: &Value) -> Result<Value, Fault> {
        Evaluator::new(self.policy, &mut self.fuel, 0, 0).over(a, b)
    }

    /// A number or an expression with variables; a list of them where there is `±` in it.
    pub(super) fn expression(&mut self, node: &Node) -> Built {
        let (count, coupled) = signs(node);
        if count > 3 {
            return Err(Fault::Beyond);
        }
        if count == 0 {
            return self.one(node, 0);
        }
        let choices: Vec<u32> = if coupled { vec![0, u32::MAX] } else { (0..1 << count).collect() };
        let mut forms =
            choices.into_iter().map(|signs| self.one(node, signs)).collect::<Result<Vec<_>, _>>()?;
        forms.sort_by_cached_key(Form::key);
        forms.dedup_by_key(|form| form.key());
        Ok(if forms.len() == 1 { forms.remove(0) } else { Form::List(forms) })
    }

    fn one(&mut self, node: &Node, signs: u32) -> Built {
        if !has_variables(node) {
            let value = self.value(node, 0, signs)?;
            let mut number = Number::new(value);
            number.decimals = decimals(node);
            return Ok(Form::Number(number));
        }
        let points = self.points(node, signs)?;
        // Variables that cancel leave a number: `2x/x`.
        let mut values = points.iter().flatten().map(|(_, key)| key);
        let first = values.next().ok_or(Fault::Undefined)?;
        if points.iter().all(Option::is_some) && values.all(|key| key == first) {
            let (value, _) = points.into_iter().flatten().next().ok_or(Fault::Undefined)?;
            return Ok(Form::number(value));
        }
        Ok(Form::Expression(points.into_iter().map(|point| point.map(|(_, key)| key)).collect()))
    }

    /// Values and their keys at all points; none where the expression has no value, or leaves the reals where all
    /// variables are negative, since there people differ on what a root is.
    pub(super) fn points(&mut self, node: &Node, signs: u32) -> Result<Vec<Option<(Value, String)>>, Fault> {
        let mut points = Vec::with_capacity(POINTS);
        for point in 0..POINTS {
            let mut evaluator = Evaluator::new(self.policy, &mut self.fuel, point, signs);
            evaluator.spend(5)?;
            let value = match evaluator.value(node) {
                Ok(value) if point == NEGATIVE && evaluator.left_reals => {
                    drop(value);
                    None
                }
                Ok(value) => Some(value),
                Err(Fault::Undefined) => None,
                // What is huge at the whole points may be small at the others.
                Err(Fault::Beyond) if self.fuel > 0 && point >= 3 => None,
                Err(Fault::Beyond) => return Err(Fault::Beyond),
            };
            points.push(value.map(|value| {
                let key = value.spelled();
                (value, key)
            }));
        }
        if points.iter().all(Option::is_none) { Err(Fault::Undefined) } else { Ok(points) }
    }
}

fn is_domain(item: &Node) -> bool {
    let Node::Relation(sides, signs) = item else { return false };
    let set = matches!(&sides[..], [Node::Symbol(_), Node::Symbol(set)] if matches!(set.as_str(), "ℤ" | "ℕ" | "ℚ" | "ℂ"));
    set && signs == &[super::expression::Relation::Element]
}

/// The significant digits of a decimal.
fn decimals(node: &Node) -> usize {
    match node {
        Node::Number(numeral) => numeral.decimals,
        Node::Negative(inner) | Node::Percent(inner) | Node::Unit(inner, _) => decimals(inner),
        _ => 0,
    }
}

/// The parts of an expression.
pub(super) fn parts(node: &Node) -> Vec<&Node> {
    match node {
        Node::Add(items)
        | Node::Multiply(items)
        | Node::Call(_, items)
        | Node::Opaque(_, items)
        | Node::Colon(items)
        | Node::Set(items)
        | Node::List(items, _)
        | Node::Sequence { items, .. }
        | Node::Relation(items, _) => items.iter().collect(),
        Node::Negative(inner)
        | Node::PlusMinus { of: inner, .. }
        | Node::Degrees(inner)
        | Node::Percent(inner)
        | Node::Unit(inner, _)
        | Node::Indexed(_, inner) => vec![inner],
        Node::Divide(a, b) | Node::Power(a, b) | Node::Joined(_, a, b) => vec![a, b],
        Node::Over { bounds, body, .. } => vec![&bounds.0, &bounds.1, body],
        _ => Vec::new(),
    }
}

/// How many `±` and `∓` there are, and whether there is a `∓`.
fn signs(node: &Node) -> (u32, bool) {
    let own = match node {
        Node::PlusMinus { flipped, .. } => (1, *flipped),
        _ => (0, false),
    };
    parts(node).into_iter().map(signs).fold(own, |a, b| (a.0 + b.0, a.1 || b.1))
}

pub(super) fn has_variables(node: &Node) -> bool {
    match node {
        Node::Symbol(_) | Node::Indexed(..) | Node::Opaque(..) => true,
        Node::Over { index, bounds, body, .. } => {
            has_variables(&bounds.0) || has_variables(&bounds.1) || has_other_variables(body, index)
        }
        other => parts(other).into_iter().any(has_variables),
    }
}

fn has_other_variables(node: &Node, index: &str) -> bool {
    match node {
        Node::Symbol(name) => name != index,
        Node::Indexed(..) | Node::Opaque(..) => true,
        other => parts(other).into_iter().any(|part| has_other_variables(part, index)),
    }
}

/// The one variable of an expression, where it has just one and that is a plain name.
pub(super) fn only_variable(node: &Node) -> Option<String> {
    fn collect(node: &Node, names: &mut Vec<String>) -> bool {
        match node {
            Node::Symbol(name) => {
                if !names.contains(name) {
                    names.push(name.clone());
                }
                true
            }
            Node::Indexed(..) | Node::Opaque(..) | Node::Over { .. } => false,
            other => parts(other).into_iter().all(|part| collect(part, names)),
        }
    }
    let mut names = Vec::new();
    (collect(node, &mut names) && names.len() == 1).then(|| names.remove(0))
}

pub(super) fn mentions(node: &Node, name: &str) -> bool {
    matches!(node, Node::Symbol(other) if other == name)
        || parts(node).into_iter().any(|part| mentions(part, name))
}

/// A name, where the node is nothing else: `x`, `a_n`, `f(x)`, `AB`, `\angle A`, `V_1 : V_2`, `(x, y)`.
pub(super) fn name(node: &Node) -> Option<String> {
    let is_point = |name: &str| {
        let mut chars = name.chars();
        chars.next().is_some_and(char::is_uppercase) && chars.all(|c| c == '\'' || c.is_uppercase())
    };
    match node {
        Node::Symbol(name) => Some(name.clone()),
        Node::Indexed(name, index) => Some(format!("{name}_{index:?}")),
        Node::Opaque(name, _) if name != "determinant" => Some(format!("{node:?}")),
        Node::Constant(Constant::E) => Some("e".to_owned()),
        Node::Constant(Constant::I) => Some("i".to_owned()),
        Node::Multiply(factors) => {
            // `m\angle A`, the measure of it.
            let measure = matches!(&factors[..2], [Node::Symbol(m), Node::Symbol(angle)] if m == "m" && angle == "angle");
            let names: Option<Vec<&str>> = factors[usize::from(measure)..]
                .iter()
                .map(|factor| match factor {
                    Node::Symbol(name) if is_point(name) || name.len() > 2 => Some(name.as_str()),
                    _ => None,
                })
                .collect();
            names.map(|names| names.concat())
        }
        Node::Call(Function::Absolute, inner) => match inner.first() {
            Some(Node::Multiply(_)) => name(&inner[0]),
            _ => None,
        },
        Node::Colon(items) | Node::Sequence { items, .. } => {
            let names: Option<Vec<String>> = items.iter().map(name).collect();
            names.map(|names| names.join(":"))
        }
        _ => None,
    }
}

/// Whether the number is negative, where it is real.
pub(super) fn sign(value: &Value) -> Option<bool> {
    match value {
        Value::Exact(ratio) => Some(ratio.is_negative()),
        Value::Approximate(_) => value.to_real().map(|real| real.is_negative()),
    }
}
