//! What an answer says, as a tree.
use super::ratio::Ratio;

/// A part of an answer. Numbers, lists and relations are one kind of tree because answers mix them: the ends of an
/// interval are expressions, the elements of a set may be pairs.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Node {
    /// A number as written.
    Number(Numeral),
    /// Digits in a base: `2516_8`.
    Based {
        digits: String,
        base: u32,
    },
    /// A variable, or anything else that has a name.
    Symbol(String),
    /// A name with an index that is an expression: `a_{n+1}`.
    Indexed(String, Box<Self>),
    /// Positive infinity.
    Infinity,
    /// i, e and π.
    Constant(Constant),
    Add(Vec<Self>),
    Multiply(Vec<Self>),
    Negative(Box<Self>),
    Divide(Box<Self>, Box<Self>),
    Power(Box<Self>, Box<Self>),
    /// A function of known meaning.
    Call(Function, Vec<Self>),
    /// A function of which only the name is known: equal for equal arguments.
    Opaque(String, Vec<Self>),
    /// A sum or product over an index: the name of the index, its first and last value, what is added.
    Over {
        product: bool,
        index: String,
        bounds: Box<(Self, Self)>,
        body: Box<Self>,
    },
    /// Plus or minus; `sign` tells `±` from `∓`.
    PlusMinus {
        flipped: bool,
        of: Box<Self>,
    },
    /// An angle in degrees.
    Degrees(Box<Self>),
    Percent(Box<Self>),
    /// `3:2`, `1:2:3`.
    Colon(Vec<Self>),
    /// Comma-separated, without brackets; whether "or" stood between.
    List(Vec<Self>, bool),
    /// `(a, b]`, with its brackets as written but for their size.
    Sequence {
        open: char,
        close: char,
        items: Vec<Self>,
    },
    /// `\{a, b\}`.
    Set(Vec<Self>),
    Matrix(Vec<Vec<Self>>),
    /// Sets joined: union, intersection, difference.
    Joined(Join, Box<Self>, Box<Self>),
    /// All reals.
    Reals,
    /// `a < b <= c`.
    Relation(Vec<Self>, Vec<Relation>),
    /// A value and the words behind it.
    Unit(Box<Self>, String),
    /// Words that stand for a part of an answer, such as an element of a list.
    Words(String),
}

/// A number as written.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Numeral {
    pub(super) value: Ratio,
    /// The significant digits of one that has a decimal point, else 0.
    pub(super) decimals: usize,
    /// Whether commas or spaces set its thousands apart.
    pub(super) grouped: bool,
    /// Whether it is digits only.
    pub(super) plain: bool,
}

impl Numeral {
    pub(super) fn whole(number: i64) -> Self {
        Self::of(Ratio::whole(number))
    }

    /// A whole number of digits only.
    pub(super) fn of(value: Ratio) -> Self {
        Self { value, decimals: 0, grouped: false, plain: true }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Constant {
    I,
    E,
    Pi,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Join {
    Union,
    Intersection,
    Difference,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Relation {
    Equal,
    /// `≈`: what follows is not the answer where something exact precedes it.
    About,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
    Element,
    /// `≡ … (mod n)` and others that are only compared with themselves.
    Other(&'static str),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Function {
    Root,
    Sin,
    Cos,
    Tan,
    Cot,
    Sec,
    Csc,
    Arcsin,
    Arccos,
    Arctan,
    Sinh,
    Cosh,
    Tanh,
    Exp,
    /// With its base as the second argument where it is not e.
    Log,
    Absolute,
    Floor,
    Ceiling,
    Factorial,
    DoubleFactorial,
    Binomial,
    Minimum,
    Maximum,
    Gcd,
    Lcm,
    RealPart,
    ImaginaryPart,
}

impl Function {
    /// The function of that name, in LaTeX or in plain text.
    pub(super) fn named(name: &str) -> Option<Self> {
        Some(match name {
            "sqrt" => Self::Root,
            "sin" => Self::Sin,
            "cos" => Self::Cos,
            "tan" | "tg" => Self::Tan,
            "cot" | "ctg" | "cotan" => Self::Cot,
            "sec" => Self::Sec,
            "csc" | "cosec" => Self::Csc,
            "arcsin" | "asin" => Self::Arcsin,
            "arccos" | "acos" => Self::Arccos,
            "arctan" | "atan" | "arctg" => Self::Arctan,
            "sinh" => Self::Sinh,
            "cosh" => Self::Cosh,
            "tanh" => Self::Tanh,
            "exp" => Self::Exp,
            "ln" | "log" | "lg" => Self::Log,
            "abs" => Self::Absolute,
            "floor" => Self::Floor,
            "ceil" | "ceiling" => Self::Ceiling,
            "factorial" => Self::Factorial,
            "min" => Self::Minimum,
            "max" => Self::Maximum,
            "gcd" => Self::Gcd,
            "lcm" => Self::Lcm,
            "Re" => Self::RealPart,
            "Im" => Self::ImaginaryPart,
            _ => return None,
        })
    }

    pub(super) fn is_trigonometric(self) -> bool {
        matches!(self, Self::Sin | Self::Cos | Self::Tan | Self::Cot | Self::Sec | Self::Csc)
    }

    /// The function that undoes it, as in `\sin^{-1}`.
    pub(super) fn inverse(self) -> Option<Self> {
        Some(match self {
            Self::Sin => Self::Arcsin,
            Self::Cos => Self::Arccos,
            Self::Tan => Self::Arctan,
            _ => return None,
        })
    }
}
