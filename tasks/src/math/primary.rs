//! The smallest parts of an expression: numbers, names, functions, fractions, brackets, matrices.
use super::expression::{Constant, Function, Node, Numeral, Relation};
use super::lexer::{Kind, Token};
use super::parser::{Parsed, Parser, Stop, product_of};
use super::ratio::Ratio;

/// Names whose parentheses are those of a function.
const FUNCTION_NAMES: &str = "fghFGH";

impl Parser<'_> {
    pub(super) fn primary(&mut self) -> Parsed {
        let Some(token) = self.tokens.get(self.at) else { return Err(Stop::NotMathematics) };
        match token.kind.clone() {
            Kind::Number(numeral, digits) => {
                self.at += 1;
                self.number(numeral, digits)
            }
            Kind::Letter(letter) => {
                self.at += 1;
                self.symbol(letter)
            }
            Kind::Command(name) => {
                self.at += 1;
                self.command(name)
            }
            Kind::Mark(mark) => {
                self.at += 1;
                self.bracketed(mark)
            }
            Kind::Begin(environment) => {
                self.at += 1;
                self.matrix(environment)
            }
            Kind::Word(_) | Kind::End | Kind::RowEnd => Err(Stop::NotMathematics),
        }
    }

    /// A number, the fraction of a mixed one, or digits in a base.
    fn number(&mut self, numeral: Numeral, digits: &str) -> Parsed {
        if self.mark() == Some('_') && !digits.is_empty() {
            self.at += 1;
            return self.base(digits);
        }
        if !numeral.plain && !numeral.grouped {
            return Ok(Node::Number(numeral));
        }
        let begin = self.at;
        let fraction = match self.peek() {
            Some(Kind::Command("frac")) => {
                self.at += 1;
                let (top, bottom) = (self.argument()?, self.argument()?);
                Some((top, bottom))
            }
            Some(Kind::Number(top, _)) if self.tokens[self.at].spaced && top.plain => {
                match (self.peek_at(1), self.peek_at(2)) {
                    (Some(Kind::Mark('/')), Some(Kind::Number(bottom, _))) if bottom.plain => {
                        let parts = (Node::Number(top.clone()), Node::Number(bottom.clone()));
                        self.at += 3;
                        Some(parts)
                    }
                    _ => None,
                }
            }
            _ => None,
        };
        let (Some((Node::Number(top), Node::Number(bottom))), false) = (fraction, numeral.value.is_zero())
        else {
            self.at = begin;
            return Ok(Node::Number(numeral));
        };
        // `2 \frac{5}{3}` is a product, if anything.
        let proper = top.plain && bottom.plain && top.value.numerator() < bottom.value.numerator();
        let mixed = top.value.over(&bottom.value).and_then(|part| part.plus(&numeral.value));
        match mixed {
            Some(value) if proper && self.policy.mixed_numbers => {
                Ok(Node::Number(Numeral { value, decimals: 0, grouped: false, plain: false }))
            }
            _ => Err(Stop::NotMathematics),
        }
    }

    /// The base behind digits: `_8`, `_{10}`, `_{\text{eight}}`.
    fn base(&mut self, digits: &str) -> Parsed {
        const NAMES: [(&str, u32); 12] = [
            ("two", 2),
            ("three", 3),
            ("four", 4),
            ("five", 5),
            ("six", 6),
            ("seven", 7),
            ("eight", 8),
            ("nine", 9),
            ("ten", 10),
            ("eleven", 11),
            ("twelve", 12),
            ("sixteen", 16),
        ];
        let braced = self.take('{');
        let base = match self.peek() {
            Some(Kind::Number(number, _)) => number.value.to_i64().and_then(|base| u32::try_from(base).ok()),
            Some(Kind::Word(word)) => {
                NAMES.iter().find(|(name, _)| *name == word.to_lowercase()).map(|(_, base)| *base)
            }
            _ => None,
        };
        self.at += 1;
        if braced {
            self.expect('}')?;
        }
        let base = base.filter(|base| (2..=36).contains(base)).ok_or(Stop::NotMathematics)?;
        let trimmed = digits.trim_start_matches('0');
        let bare = trimmed.is_empty() || trimmed.starts_with('.');
        Ok(Node::Based { digits: format!("{}{trimmed}", if bare { "0" } else { "" }), base })
    }

    fn symbol(&mut self, letter: char) -> Parsed {
        if self.mark() != Some('_') {
            match letter {
                'i' => return Ok(Node::Constant(Constant::I)),
                'e' => return Ok(Node::Constant(Constant::E)),
                _ => {}
            }
        }
        self.named(letter.to_string(), FUNCTION_NAMES.contains(letter))
    }

    /// A name with its index, its primes and, if it is a function's, its arguments.
    fn named(&mut self, mut name: String, function: bool) -> Parsed {
        let mut index = None;
        if self.take('_') {
            index = Some(self.index()?);
        }
        while self.take('\'') {
            name.push('\'');
        }
        let called = matches!(self.tokens.get(self.at), Some(Token { kind: Kind::Mark('('), spaced: false }));
        if function && called {
            self.at += 1;
            let arguments = self.nested(Self::list)?;
            self.expect(')')?;
            let mut all = match arguments {
                Node::List(items, _) => items,
                one => vec![one],
            };
            all.extend(index);
            return Ok(Node::Opaque(name, all));
        }
        Ok(match index {
            Some(Node::Words(word)) => Node::Symbol(format!("{name}_{word}")),
            Some(index) => Node::Indexed(name, Box::new(index)),
            None => Node::Symbol(name),
        })
    }

    fn index(&mut self) -> Parsed {
        if self.take('{') {
            let index = self.nested(Self::list)?;
            self.expect('}')?;
            return Ok(index);
        }
        match self.peek().cloned() {
            Some(Kind::Word(word)) => {
                self.at += 1;
                Ok(Node::Words(word.to_lowercase()))
            }
            Some(Kind::Letter(letter)) => {
                self.at += 1;
                Ok(Node::Symbol(letter.to_string()))
            }
            _ => self.argument(),
        }
    }

    /// The argument of a command: a group, or one token, of a number one digit.
    pub(super) fn argument(&mut self) -> Parsed {
        if self.take('{') {
            let node = self.nested(Self::list)?;
            self.expect('}')?;
            return Ok(node);
        }
        if let Some(Kind::Number(_, digits)) = self.peek().cloned()
            && digits.len() > 1
            && digits.bytes().all(|byte| byte.is_ascii_digit())
        {
            let (first, rest) = digits.split_at(1);
            let numeral = |digits: &str| Ratio::from_digits(digits).map(Numeral::of).ok_or(Stop::TooDeep);
            let node = Node::Number(numeral(first)?);
            self.tokens[self.at] = Token { kind: Kind::Number(numeral(rest)?, rest), spaced: false };
            return Ok(node);
        }
        self.nested(Self::primary)
    }

    fn command(&mut self, name: &str) -> Parsed {
        match name {
            "frac" => {
                // `\frac919` can only be meant as 9/19.
                let run = matches!(self.peek(), Some(Kind::Number(numeral, digits)) if numeral.plain && digits.len() > 2);
                let top = self.argument()?;
                let bottom = if run { self.nested(Self::primary)? } else { self.argument()? };
                Ok(Node::Divide(Box::new(top), Box::new(bottom)))
            }
            "sqrt" => self.root(),
            "binom" => {
                let (top, bottom) = (self.argument()?, self.argument()?);
                Ok(Node::Call(Function::Binomial, vec![top, bottom]))
            }
            "pi" => match self.mark() {
                Some('_') => self.named("pi".to_owned(), false),
                _ => Ok(Node::Constant(Constant::Pi)),
            },
            "reals" => Ok(Node::Reals),
            "sum" | "prod" => self.over(name == "prod"),
            "overline" | "bar" | "vec" | "hat" | "tilde" | "overrightarrow" | "widehat" | "dot" => {
                let argument = self.argument()?;
                let name = if name == "bar" { "overline" } else { name };
                Ok(Node::Opaque(name.to_owned(), vec![argument]))
            }
            "mathbb" | "pmod" | "mod" | "bmod" | "choose" | "over" | "cases" | "perp" | "parallel" => {
                Err(Stop::NotMathematics)
            }
            name => match Function::named(name) {
                Some(function) => self.call(function, name),
                None => self.named(name.to_owned(), false),
            },
        }
    }

    fn root(&mut self) -> Parsed {
        let degree = if self.take('[') {
            let degree = self.nested(Self::sum)?;
            self.expect(']')?;
            Some(degree)
        } else {
            None
        };
        let of = match self.mark() {
            // `\sqrt 12` is meant to be the root of 12.
            None if matches!(self.peek(), Some(Kind::Number(..))) => self.nested(Self::primary)?,
            _ => self.argument()?,
        };
        Ok(match degree {
            None => Node::Call(Function::Root, vec![of]),
            Some(degree) => {
                let one = Node::Number(Numeral::whole(1));
                Node::Power(Box::new(of), Box::new(Node::Divide(Box::new(one), Box::new(degree))))
            }
        })
    }

    /// `\sum_{k=1}^{n} …`, of the product behind it.
    fn over(&mut self, product: bool) -> Parsed {
        self.expect('_')?;
        let (lower, index) = match self.argument()? {
            Node::Relation(mut sides, relations) if relations == [Relation::Equal] && sides.len() == 2 => {
                let lower = sides.pop();
                match (sides.pop(), lower) {
                    (Some(Node::Symbol(index)), Some(lower)) => (lower, index),
                    (Some(Node::Constant(Constant::I)), Some(lower)) => (lower, "i".to_owned()),
                    _ => return Err(Stop::NotMathematics),
                }
            }
            _ => return Err(Stop::NotMathematics),
        };
        self.expect('^')?;
        let upper = self.argument()?;
        let body = self.nested(Self::product)?;
        Ok(Node::Over { product, index, bounds: Box::new((lower, upper)), body: Box::new(body) })
    }

    fn call(&mut self, mut function: Function, name: &str) -> Parsed {
        let mut base = (name == "lg").then(|| Node::Number(Numeral::whole(10)));
        let mut power = None;
        for _ in 0..2 {
            if function == Function::Log && self.take('_') {
                base = Some(match self.peek().cloned() {
                    Some(Kind::Number(numeral, _)) => {
                        self.at += 1;
                        Node::Number(numeral)
                    }
                    _ => self.argument()?,
                });
            } else if self.take('^') {
                let braced = self.take('{');
                let exponent = if braced { self.nested(Self::sum)? } else { self.exponent()? };
                if braced {
                    self.expect('}')?;
                }
                let minus_one = Node::Negative(Box::new(Node::Number(Numeral::whole(1))));
                match function.inverse().filter(|_| exponent == minus_one) {
                    Some(inverse) => function = inverse,
                    None => power = Some(exponent),
                }
            }
        }
        let mut arguments = self.arguments()?;
        arguments.extend(base);
        let call = Node::Call(function, arguments);
        Ok(match power {
            Some(power) => Node::Power(Box::new(call), Box::new(power)),
            None => call,
        })
    }

    /// What a function is applied to: what its brackets hold, or the product behind it up to a sign or another function.
    fn arguments(&mut self) -> Result<Vec<Node>, Stop> {
        let close = match self.mark() {
            Some('(') => Some(')'),
            Some('{') => Some('}'),
            Some('[') => Some(']'),
            Some('⦃') => Some('⦄'),
            _ => None,
        };
        if let Some(close) = close {
            self.at += 1;
            let content = self.nested(Self::list)?;
            self.expect(close)?;
            return Ok(match content {
                Node::List(items, _) => items,
                one => vec![one],
            });
        }
        let negative = self.take('-');
        let mut factors = vec![self.power()?];
        while self.continues(factors.last())
            && !matches!(self.peek(), Some(Kind::Command(name)) if Function::named(name).is_some_and(|f| f != Function::Root))
        {
            factors.push(self.power()?);
        }
        let product = product_of(factors);
        Ok(vec![if negative { Node::Negative(Box::new(product)) } else { product }])
    }

    fn bracketed(&mut self, open: char) -> Parsed {
        let outer = (std::mem::take(&mut self.bars), std::mem::replace(&mut self.reversed, open == ']'));
        let node = match open {
            '(' | '[' | ']' | '⟨' => self.sequence(open),
            '{' => self.group(),
            '⦃' => self.set(),
            '∅' => Ok(Node::Set(Vec::new())),
            '∞' => Ok(Node::Infinity),
            '√' => {
                let of = self.nested(Self::primary)?;
                Ok(Node::Call(Function::Root, vec![of]))
            }
            '|' => {
                self.bars = 1;
                let inner = self.nested(Self::sum)?;
                self.expect('|')?;
                Ok(Node::Call(Function::Absolute, vec![inner]))
            }
            '⌊' | '⌈' => {
                let inner = self.nested(Self::sum)?;
                self.expect(if open == '⌊' { '⌋' } else { '⌉' })?;
                let function = if open == '⌊' { Function::Floor } else { Function::Ceiling };
                Ok(Node::Call(function, vec![inner]))
            }
            _ => Err(Stop::NotMathematics),
        }?;
        (self.bars, self.reversed) = outer;
        Ok(node)
    }

    /// Parentheses and brackets: a group where they match and hold one item, else a sequence or interval.
    fn sequence(&mut self, open: char) -> Parsed {
        let content = self.nested(Self::list)?;
        let close = match self.mark() {
            Some(close @ (')' | ']' | '⟩')) => close,
            // `]a, b[` is the open interval.
            Some('[') if open == ']' => '[',
            _ => return Err(Stop::NotMathematics),
        };
        self.at += 1;
        let (open, close) = match (open, close) {
            (']', close) => ('(', if close == '[' { ')' } else { close }),
            ('⟨', '⟩') => ('(', ')'),
            brackets => brackets,
        };
        match content {
            Node::List(items, false) => Ok(Node::Sequence { open, close, items }),
            Node::List(..) => Err(Stop::NotMathematics),
            // `(204)_5`.
            Node::Number(numeral) if self.mark() == Some('_') && numeral.plain => {
                self.at += 1;
                self.base(&numeral.value.numerator().to_string())
            }
            one if (open, close) == ('(', ')') || (open, close) == ('[', ']') => match one {
                // Rows in brackets are a matrix in plain text: [[1, 2], [3, 4]].
                Node::Sequence { .. } if open == '[' => Ok(Node::Sequence { open, close, items: vec![one] }),
                // A number in parentheses takes no fraction as a mixed one would, and no unit.
                one => Ok(one),
            },
            _ => Err(Stop::NotMathematics),
        }
    }

    /// Bare braces: a group, or a set where commas stand in them.
    fn group(&mut self) -> Parsed {
        if self.take('}') {
            return Ok(Node::Set(Vec::new()));
        }
        let content = self.nested(Self::list)?;
        self.expect('}')?;
        Ok(match content {
            Node::List(items, _) => Node::Set(items),
            one => one,
        })
    }

    fn set(&mut self) -> Parsed {
        if self.take('⦄') {
            return Ok(Node::Set(Vec::new()));
        }
        let begin = self.at;
        if let Some(condition) = self.condition() {
            return Ok(condition);
        }
        self.at = begin;
        let content = self.nested(Self::list)?;
        self.expect('⦄')?;
        Ok(Node::Set(match content {
            Node::List(items, _) => items,
            one => vec![one],
        }))
    }

    /// `x : x > 3 }` and its like: what the condition says.
    fn condition(&mut self) -> Option<Node> {
        let Some(Kind::Letter(_)) = self.peek() else { return None };
        self.at += 1;
        if self.take('∈') {
            let Node::Reals = self.primary().ok()? else { return None };
        }
        if !(self.take('∣') || self.take('|') || self.take(':')) {
            return None;
        }
        let condition = self.nested(Self::list).ok()?;
        self.expect('⦄').ok()?;
        matches!(condition, Node::Relation(..) | Node::List(..)).then_some(condition)
    }

    fn matrix(&mut self, environment: &str) -> Parsed {
        let known = environment.trim_end_matches('*').ends_with("matrix") || environment == "array";
        if !known {
            return Err(Stop::NotMathematics);
        }
        let mut rows = vec![Vec::new()];
        loop {
            match self.peek() {
                Some(Kind::End) => {
                    self.at += 1;
                    break;
                }
                Some(Kind::RowEnd) => {
                    self.at += 1;
                    rows.push(Vec::new());
                }
                Some(Kind::Mark('&')) => self.at += 1,
                None => return Err(Stop::NotMathematics),
                _ => {
                    let cell = self.nested(Self::item)?;
                    if let Some(row) = rows.last_mut() {
                        row.push(cell);
                    }
                }
            }
        }
        rows.retain(|row| !row.is_empty());
        let matrix = Node::Matrix(rows);
        // Bars make it a determinant, which is another thing than the matrix.
        Ok(if environment.starts_with(['v', 'V']) {
            Node::Opaque("determinant".to_owned(), vec![matrix])
        } else {
            matrix
        })
    }
}
