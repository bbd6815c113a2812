//! From tokens to a tree: lists of relations of sets of sums of products of powers.
//!
//! ```text
//! list     = item { ( "," | ";" | "and" | "or" ) item }
//! item     = [ words "=" ] joined { relation joined } [ "%" | unit ]
//! joined   = colon { ( "∪" | "∩" | "∖" ) colon }
//! colon    = sum { ":" sum }
//! sum      = [ sign ] product { sign product }
//! product  = power { [ "*" | "/" ] power }
//! power    = primary { "!" | "°" | "%" } [ "^" exponent ]
//! ```
use super::Policy;
use super::expression::{Function, Join, Node, Relation};
use super::lexer::{Kind, Token};

/// Nested deeper than this, an answer is not looked at.
const DEEPEST: usize = 48;
/// Nor where so many factorials, quotients or unions are chained.
const LONGEST_CHAIN: usize = 200;

/// Why a text is no tree.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Stop {
    /// It is not mathematics, or none that this grader knows.
    NotMathematics,
    /// It is beyond the limits.
    TooDeep,
}

pub(super) type Parsed = Result<Node, Stop>;

/// Words that join two things: what has them behind a number is no quantity.
const JOINING: [&str; 17] = [
    "or", "and", "to", "plus", "minus", "times", "over", "if", "when", "for", "where", "with", "is", "not",
    "between", "than", "mod",
];

pub(super) struct Parser<'a> {
    pub(super) tokens: Vec<Token<'a>>,
    pub(super) at: usize,
    pub(super) policy: &'a Policy,
    depth: usize,
    chained: usize,
    /// Open bars: inside, a bar closes.
    pub(super) bars: usize,
    /// Whether an interval is open that began with `]`: inside, `[` closes.
    pub(super) reversed: bool,
}

/// Reads a whole answer.
pub(super) fn parse<'a>(tokens: Vec<Token<'a>>, policy: &'a Policy) -> Parsed {
    let mut parser = Parser { tokens, at: 0, policy, depth: 0, chained: 0, bars: 0, reversed: false };
    let node = parser.list()?;
    if parser.at < parser.tokens.len() { Err(Stop::NotMathematics) } else { Ok(node) }
}

impl<'a> Parser<'a> {
    pub(super) fn peek(&self) -> Option<&Kind<'a>> {
        self.tokens.get(self.at).map(|token| &token.kind)
    }

    pub(super) fn peek_at(&self, ahead: usize) -> Option<&Kind<'a>> {
        self.tokens.get(self.at + ahead).map(|token| &token.kind)
    }

    pub(super) fn mark(&self) -> Option<char> {
        match self.peek() {
            Some(Kind::Mark(mark)) => Some(*mark),
            _ => None,
        }
    }

    pub(super) fn take(&mut self, mark: char) -> bool {
        let taken = self.mark() == Some(mark);
        self.at += usize::from(taken);
        taken
    }

    pub(super) fn expect(&mut self, mark: char) -> Result<(), Stop> {
        if self.take(mark) { Ok(()) } else { Err(Stop::NotMathematics) }
    }

    pub(super) fn word(&self) -> Option<&'a str> {
        match self.peek() {
            Some(Kind::Word(word)) => Some(word),
            _ => None,
        }
    }

    /// Goes one level down; every way of nesting comes through here.
    pub(super) fn nested(&mut self, read: impl FnOnce(&mut Self) -> Parsed) -> Parsed {
        if self.depth == DEEPEST {
            return Err(Stop::TooDeep);
        }
        self.depth += 1;
        let node = read(self);
        self.depth -= 1;
        node
    }

    /// Counts what makes a tree deep without nesting.
    pub(super) fn chain(&mut self) -> Result<(), Stop> {
        self.chained += 1;
        if self.chained > LONGEST_CHAIN { Err(Stop::TooDeep) } else { Ok(()) }
    }

    /// A separator of items; whether it is "or".
    fn separator(&mut self) -> Option<bool> {
        let or = match self.peek()? {
            Kind::Mark(',' | ';' | '∧') | Kind::RowEnd | Kind::Word("and") => false,
            Kind::Mark('∨') | Kind::Word("or") => true,
            _ => return None,
        };
        self.at += 1;
        Some(or)
    }

    fn is_end(&self) -> bool {
        if self.reversed && self.mark() == Some('[') {
            return true;
        }
        matches!(self.peek(), None | Some(Kind::End | Kind::Mark(')' | ']' | '}' | '⦄' | '⟩')))
    }

    /// Comma-separated items up to a closing bracket or the end.
    pub(super) fn list(&mut self) -> Parsed {
        let mut items = Vec::new();
        let mut alternatives = false;
        loop {
            items.push(self.item()?);
            let mut separated = false;
            while let Some(or) = self.separator() {
                separated = true;
                alternatives |= or;
            }
            if self.is_end() {
                break;
            }
            if !separated {
                return Err(Stop::NotMathematics);
            }
        }
        Ok(if items.len() == 1 { items.remove(0) } else { Node::List(items, alternatives) })
    }

    pub(super) fn item(&mut self) -> Parsed {
        if self.word().is_some() {
            return self.words();
        }
        // `≈ 3.5` leaves out what it is about.
        let _ = self.take('≈') || self.take('=');
        let first = self.joined()?;
        self.relation(first)
    }

    /// Relations behind what was read, and units behind those.
    fn relation(&mut self, first: Node) -> Parsed {
        let mut sides = vec![first];
        let mut relations = Vec::new();
        while let Some(relation) = self.relation_sign() {
            relations.push(relation);
            // A side may be words, as in "x = no solution".
            sides.push(if self.word().is_some() { self.words()? } else { self.joined()? });
        }
        if relations.first() == Some(&Relation::Other("≡"))
            && let Some(Kind::Command("pmod" | "mod" | "bmod")) = self.peek()
        {
            self.at += 1;
            relations.push(Relation::Other("mod"));
            sides.push(self.joined()?);
        }
        if let Some(last) = sides.pop() {
            sides.push(self.unit(last)?);
        }
        Ok(if relations.is_empty() { sides.remove(0) } else { Node::Relation(sides, relations) })
    }

    fn relation_sign(&mut self) -> Option<Relation> {
        let relation = match self.mark()? {
            '=' => Relation::Equal,
            '≈' => Relation::About,
            '≠' => Relation::NotEqual,
            '<' => Relation::Less,
            '≤' => Relation::LessOrEqual,
            '>' => Relation::Greater,
            '≥' => Relation::GreaterOrEqual,
            '∈' => Relation::Element,
            '≡' => Relation::Other("≡"),
            '→' => Relation::Other("→"),
            '⇒' => Relation::Other("⇒"),
            '∼' => Relation::Other("∼"),
            '∣' => Relation::Other("∣"),
            _ => return None,
        };
        self.at += 1;
        Some(relation)
    }

    /// Words: an item of their own, or the name of what follows.
    fn words(&mut self) -> Parsed {
        let mut words: Vec<String> = Vec::new();
        while let Some(word) = self.word().filter(|word| !matches!(*word, "and" | "or")) {
            words.push(word.to_lowercase());
            self.at += 1;
        }
        let words = words.join(" ");
        if words.is_empty() {
            return Err(Stop::NotMathematics);
        }
        match self.mark() {
            Some('=' | '≈') => self.relation(Node::Symbol(words)),
            Some(':') => {
                self.at += 1;
                let value = self.joined()?;
                let value = self.unit(value)?;
                Ok(Node::Relation(vec![Node::Symbol(words), value], vec![Relation::Equal]))
            }
            _ => Ok(Node::Words(words)),
        }
    }

    /// The percent sign, factor or unit behind a value.
    fn unit(&mut self, value: Node) -> Parsed {
        let mut value = value;
        if self.take('%') || self.word().is_some_and(|word| matches!(word, "percent" | "percentage" | "pct"))
        {
            if !matches!(self.tokens[self.at - 1].kind, Kind::Mark('%')) {
                self.at += 1;
            }
            value = Node::Percent(Box::new(value));
        }
        let mut unit = String::new();
        let mut opened = 0_u32;
        loop {
            match self.peek() {
                Some(Kind::Word("and" | "or")) => break,
                Some(Kind::Word(word)) if JOINING.contains(word) && !matches!(value, Node::Number(_)) => {
                    return Err(Stop::NotMathematics);
                }
                Some(Kind::Word(word)) if unit.is_empty() && JOINING.contains(word) => {
                    return Err(Stop::NotMathematics);
                }
                Some(Kind::Word(word)) => {
                    if let Some(power) = scale(word).filter(|_| unit.is_empty()) {
                        let ten = Node::Number(super::expression::Numeral::whole(10_i64.pow(power)));
                        value = Node::Multiply(vec![value, ten]);
                    } else {
                        if !unit.is_empty() && !unit.ends_with('/') {
                            unit.push(' ');
                        }
                        unit.push_str(&word.to_lowercase());
                    }
                }
                Some(Kind::Letter(letter)) if !unit.is_empty() || self.is_unit_letter() => {
                    unit.push(*letter);
                }
                Some(Kind::Mark('^')) if !unit.is_empty() => {
                    let (number, length) = match (self.peek_at(1), self.peek_at(2), self.peek_at(3)) {
                        (Some(Kind::Number(number, _)), ..) => (number, 1),
                        (Some(Kind::Mark('{')), Some(Kind::Number(number, _)), Some(Kind::Mark('}'))) => {
                            (number, 3)
                        }
                        (Some(Kind::Mark('{')), Some(Kind::Mark('-')), Some(Kind::Number(number, _))) => {
                            (number, 4)
                        }
                        _ => return Err(Stop::NotMathematics),
                    };
                    unit.push_str(&format!("^{}", number.value.numerator()));
                    self.at += length;
                }
                Some(Kind::Mark('/' | '*')) if !unit.is_empty() => unit.push('/'),
                Some(Kind::Mark('-' | '\'')) if !unit.is_empty() => {}
                Some(Kind::Mark('(')) if matches!(self.peek_at(1), Some(Kind::Word(_))) => opened += 1,
                Some(Kind::Mark(')')) if opened > 0 => opened -= 1,
                // Numbers may stand among words: "18 vlogs for the 72 of the month".
                Some(Kind::Number(..)) if unit.contains(' ') => {}
                _ => break,
            }
            self.at += 1;
        }
        Ok(if unit.is_empty() { value } else { Node::Unit(Box::new(value), unit) })
    }

    /// A single letter behind a number and a space that can only be metres, grams and their like.
    pub(super) fn is_unit_letter(&self) -> bool {
        let Some(Token { kind: Kind::Letter(letter), spaced: true }) = self.tokens.get(self.at) else {
            return false;
        };
        let ends = match self.peek_at(1) {
            None | Some(Kind::Mark(',' | ';' | '/') | Kind::Word(_)) => true,
            Some(Kind::Mark('^')) => {
                matches!(self.peek_at(2), Some(Kind::Number(..) | Kind::Mark('{')))
            }
            _ => false,
        };
        ends && "mgslhL".contains(*letter)
    }

    pub(super) fn joined(&mut self) -> Parsed {
        let mut node = self.colon()?;
        loop {
            let join = match self.peek() {
                Some(Kind::Mark('∪')) => Join::Union,
                Some(Kind::Mark('∩')) => Join::Intersection,
                Some(Kind::Mark('∖')) => Join::Difference,
                Some(Kind::Letter('U')) if matches!(node, Node::Sequence { .. } | Node::Set(_)) => {
                    Join::Union
                }
                _ => return Ok(node),
            };
            self.at += 1;
            self.chain()?;
            let right = self.colon()?;
            node = Node::Joined(join, Box::new(node), Box::new(right));
        }
    }

    fn colon(&mut self) -> Parsed {
        let mut parts = vec![self.sum()?];
        while self.mark() == Some(':') {
            self.at += 1;
            parts.push(self.sum()?);
        }
        Ok(if parts.len() == 1 { parts.remove(0) } else { Node::Colon(parts) })
    }

    pub(super) fn sum(&mut self) -> Parsed {
        let mut terms = Vec::new();
        loop {
            // Any number of signs: "--3" is 3.
            let (mut negative, mut either, mut signed) = (false, None, false);
            loop {
                match self.mark() {
                    Some('+') => {}
                    Some('-') => negative = !negative,
                    Some('±') => either = Some(false),
                    Some('∓') => either = Some(true),
                    _ => break,
                }
                signed = true;
                self.at += 1;
            }
            if !signed && !terms.is_empty() {
                break;
            }
            let mut term = self.product()?;
            if negative {
                term = Node::Negative(Box::new(term));
            }
            if let Some(flipped) = either {
                term = Node::PlusMinus { flipped, of: Box::new(term) };
            }
            terms.push(term);
        }
        Ok(if terms.len() == 1 { terms.remove(0) } else { Node::Add(terms) })
    }

    pub(super) fn product(&mut self) -> Parsed {
        let mut factors = vec![self.power()?];
        loop {
            if self.take('*') {
                factors.push(self.signed_power()?);
            } else if self.take('/') {
                let divisor = self.signed_power()?;
                self.chain()?;
                let over = product_of(std::mem::take(&mut factors));
                factors.push(Node::Divide(Box::new(over), Box::new(divisor)));
            } else if let Some(Kind::Command(name @ ("choose" | "over"))) = self.peek() {
                // `{10 \choose 3}`, `{1 \over 2}`.
                let choose = *name == "choose";
                self.at += 1;
                let (top, bottom) = (product_of(factors), self.nested(Self::product)?);
                return Ok(if choose {
                    Node::Call(Function::Binomial, vec![top, bottom])
                } else {
                    Node::Divide(Box::new(top), Box::new(bottom))
                });
            } else if self.continues(factors.last()) {
                factors.push(self.power()?);
            } else {
                return Ok(product_of(factors));
            }
        }
    }

    fn signed_power(&mut self) -> Parsed {
        let mut negative = false;
        while matches!(self.mark(), Some('-' | '+')) {
            negative ^= self.mark() == Some('-');
            self.at += 1;
        }
        let power = self.power()?;
        Ok(if negative { Node::Negative(Box::new(power)) } else { power })
    }

    /// Whether what follows multiplies the factor before it without a sign.
    pub(super) fn continues(&self, before: Option<&Node>) -> bool {
        let after_number = matches!(before, Some(Node::Number(_) | Node::Based { .. }));
        match self.peek() {
            // Two numbers side by side are no product, but for powers of them.
            Some(Kind::Number(..)) => !after_number || self.peek_at(1) == Some(&Kind::Mark('^')),
            Some(Kind::Letter('U')) => !matches!(before, Some(Node::Sequence { .. } | Node::Set(_))),
            Some(Kind::Letter(_)) => !(after_number && self.is_unit_letter()),
            Some(Kind::Command(name)) => !matches!(*name, "pmod" | "mod" | "bmod" | "choose" | "over"),
            Some(Kind::Mark('[')) => !self.reversed,
            Some(Kind::Mark('(')) => !matches!(self.peek_at(1), Some(Kind::Word(_))),
            Some(Kind::Mark('|')) => self.bars == 0,
            Some(Kind::Mark('{' | '⌊' | '⌈' | '√' | '∞') | Kind::Begin(_)) => true,
            _ => false,
        }
    }

    pub(super) fn power(&mut self) -> Parsed {
        self.nested(|parser| {
            let mut base = parser.primary()?;
            loop {
                base = match parser.mark() {
                    Some('!') => {
                        parser.at += 1;
                        let function =
                            if parser.take('!') { Function::DoubleFactorial } else { Function::Factorial };
                        Node::Call(function, vec![base])
                    }
                    Some('°') => {
                        parser.at += 1;
                        Node::Degrees(Box::new(base))
                    }
                    Some('%') => {
                        parser.at += 1;
                        Node::Percent(Box::new(base))
                    }
                    Some('^') => {
                        parser.at += 1;
                        let exponent = parser.exponent()?;
                        Node::Power(Box::new(base), Box::new(exponent))
                    }
                    _ => return Ok(base),
                };
                parser.chain()?;
            }
        })
    }

    /// What follows `^`; `a^b^c` is a^(b^c).
    pub(super) fn exponent(&mut self) -> Parsed {
        self.signed_power()
    }
}

fn scale(word: &str) -> Option<u32> {
    [("hundred", 2), ("thousand", 3), ("million", 6), ("billion", 9), ("trillion", 12)]
        .into_iter()
        .find_map(|(name, power)| (name == word).then_some(power))
}

pub(super) fn product_of(mut factors: Vec<Node>) -> Node {
    if factors.len() == 1 { factors.remove(0) } else { Node::Multiply(factors) }
}
