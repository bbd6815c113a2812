//! One form for each answer: equal answers have equal keys.
use super::sets::Piece;
use super::value::Value;

/// An answer in its canonical form.
#[derive(Debug, Clone)]
pub(super) enum Form {
    /// A number without variables: rational, real or complex.
    Number(Number),
    /// Digits in a base.
    Based {
        digits: String,
        base: u32,
    },
    Infinity {
        negative: bool,
    },
    /// Words alone, without case and articles: `even`, `no solution`, the letter of a choice.
    Words(String),
    /// The letter of a choice with what it stands for.
    Choice {
        letter: String,
        rest: Box<Self>,
    },
    /// An expression with variables, by its values at fixed points.
    Expression(Vec<Option<String>>),
    /// An equation, by the ratios of the difference of its sides at fixed points: it may be multiplied by a number.
    Equation {
        ratios: String,
        /// Where one side is a name: what it is said to be.
        defined: Option<Box<Self>>,
    },
    /// Inequalities that are not solved for a variable, and relations of other kinds.
    Relation(String),
    /// What a name is said to be.
    Named {
        name: String,
        value: Box<Self>,
    },
    /// Answers side by side, in any order.
    List(Vec<Self>),
    Set(Vec<Self>),
    /// A tuple, or an interval.
    Sequence {
        open: char,
        close: char,
        items: Vec<Self>,
    },
    /// Several intervals or points of the real line.
    Reals(Vec<Piece>),
    /// A union and its like of what is no part of the real line.
    Joined(&'static str, Vec<Self>),
    Matrix(Vec<Vec<Self>>),
    /// Three or more parts, up to a common factor.
    Ratio(Vec<Self>),
    /// A time of day or a duration; two parts of it may also be a ratio.
    Time {
        seconds: u32,
        /// Whether it is after noon, where that is said.
        after_noon: Option<bool>,
        quotient: Option<Box<Self>>,
    },
    /// Anything else, as text without spaces.
    Other(String),
    /// What is read but is too large to compute, as text; see [`Form::Other`].
    Beyond(String),
}

/// A number and how it was written.
#[derive(Debug, Clone)]
pub(super) struct Number {
    pub(super) value: Value,
    /// A text that equal values share.
    pub(super) key: String,
    /// The words behind it, not in the key.
    pub(super) unit: Option<String>,
    /// Whether a percent sign stood behind it and was left out.
    pub(super) percent: bool,
    /// The significant digits of a decimal, else 0.
    pub(super) decimals: usize,
}

impl Number {
    pub(super) fn new(value: Value) -> Self {
        Self { key: value.spelled(), value, unit: None, percent: false, decimals: 0 }
    }
}

impl Form {
    pub(super) fn number(value: Value) -> Self {
        Self::Number(Number::new(value))
    }

    /// A text that is the same for equal answers and for no others.
    pub(super) fn key(&self) -> String {
        match self {
            Self::Number(number) => number.key.clone(),
            Self::Based { digits, base } => format!("base{base}:{digits}"),
            Self::Infinity { negative } => if *negative { "-inf" } else { "inf" }.to_owned(),
            Self::Words(text) => format!("words:{text}"),
            Self::Choice { letter, .. } => format!("words:{letter}"),
            Self::Expression(points) => {
                let points: Vec<&str> = points.iter().map(|point| point.as_deref().unwrap_or("?")).collect();
                format!("expression:{}", points.join(","))
            }
            Self::Equation { ratios, .. } => format!("equation:{ratios}"),
            Self::Relation(key) => format!("relation:{key}"),
            Self::Named { name, value } => format!("{name}={}", value.key()),
            // A list and a set of the same elements are the same answer.
            Self::List(items) | Self::Set(items) => {
                let mut keys: Vec<String> = items.iter().map(Self::key).collect();
                keys.sort_unstable();
                format!("{{{}}}", keys.join(";"))
            }
            Self::Sequence { open, close, items } => format!("{open}{}{close}", keys(items)),
            Self::Reals(pieces) => {
                let pieces: Vec<String> = pieces.iter().map(|piece| piece.form().key()).collect();
                pieces.join("u")
            }
            Self::Joined(sign, items) => format!("{sign}{}", keys(items)),
            Self::Matrix(rows) => {
                let rows: Vec<String> = rows.iter().map(|row| keys(row)).collect();
                format!("matrix:{}", rows.join("/"))
            }
            Self::Ratio(parts) => format!("ratio:{}", keys(parts)),
            Self::Time { seconds, after_noon, .. } => {
                format!("time:{}", seconds + if *after_noon == Some(true) { 12 * 3600 } else { 0 })
            }
            Self::Other(text) | Self::Beyond(text) => format!("other:{text}"),
        }
    }

    /// Whether the grader knows what it says.
    pub(super) fn is_understood(&self) -> bool {
        !matches!(self, Self::Other(_) | Self::Beyond(_))
    }

    /// What the grader took it for, in a word or two.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Number(_) => "number",
            Self::Based { .. } => "number in a base",
            Self::Infinity { .. } => "infinity",
            Self::Words(_) => "words",
            Self::Choice { .. } => "choice",
            Self::Expression(_) => "expression",
            Self::Equation { .. } => "equation",
            Self::Relation(_) => "relation",
            Self::Named { .. } => "named value",
            Self::List(_) => "list",
            Self::Set(_) => "set",
            Self::Sequence { .. } => "tuple or interval",
            Self::Reals(_) => "set of reals",
            Self::Joined(..) => "joined sets",
            Self::Matrix(_) => "matrix",
            Self::Ratio(_) => "ratio",
            Self::Time { .. } => "time",
            Self::Other(_) => "text, not understood",
            Self::Beyond(_) => "too large to compute",
        }
    }

    /// Without the name a value was given.
    pub(super) fn unnamed(self) -> Self {
        match self {
            Self::Named { value, .. } => *value,
            other => other,
        }
    }

    /// For people: what it says, shortened.
    pub(super) fn shown(&self) -> String {
        let list = |items: &[Self]| items.iter().map(Self::shown).collect::<Vec<_>>().join(", ");
        match self {
            Self::Number(number) => {
                let percent = if number.percent { " %" } else { "" };
                let unit = number.unit.as_ref().map(|unit| format!(" {unit}")).unwrap_or_default();
                format!("{}{percent}{unit}", number.value.shown())
            }
            Self::Infinity { negative } => if *negative { "-∞" } else { "∞" }.to_owned(),
            Self::Words(text) => text.clone(),
            Self::Choice { letter, rest } => format!("{letter}: {}", rest.shown()),
            Self::Expression(points) => {
                let first = points.iter().flatten().next().map_or("?", String::as_str);
                format!("at the first point {first:.40}")
            }
            Self::Equation { defined: Some(value), .. } => format!("… = {}", value.shown()),
            Self::Named { name, value } => format!("{name} = {}", value.shown()),
            Self::List(items) => list(items),
            Self::Set(items) => format!("{{{}}}", list(items)),
            Self::Sequence { open, close, items } => format!("{open}{}{close}", list(items)),
            Self::Reals(pieces) => {
                pieces.iter().map(|piece| piece.form().shown()).collect::<Vec<_>>().join(" ∪ ")
            }
            Self::Matrix(rows) => {
                format!("[{}]", rows.iter().map(|row| list(row)).collect::<Vec<_>>().join("; "))
            }
            Self::Ratio(parts) => parts.iter().map(Self::shown).collect::<Vec<_>>().join(" : "),
            Self::Time { seconds, .. } => format!("{}:{:02}", seconds / 3600, seconds / 60 % 60),
            other => {
                let key = other.key();
                let text: String = key.chars().take(80).collect();
                if text.len() < key.len() { format!("{text}…") } else { text }
            }
        }
    }
}

fn keys(items: &[Form]) -> String {
    items.iter().map(Form::key).collect::<Vec<_>>().join(",")
}
