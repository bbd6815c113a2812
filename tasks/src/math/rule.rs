//! What decided a verdict.
use serde::{Deserialize, Serialize};

/// What decided a verdict: the comparison that found the answers equal, or the last that could have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Rule {
    /// Comparison of two numbers: exact for rational ones, else of their first hundred bits.
    Number,
    /// The same, though the two name different units; worth a look.
    NumberUnitsDiffer,
    /// A percentage and the hundredth of it without the sign.
    Percent,
    /// A decimal of many digits and what it is the rounding of.
    Rounded,
    /// A comma that marks decimals: `1,5` and `1.5`.
    DecimalComma,
    /// Digits in a base, which one side may leave out.
    Base,
    /// Comparison of two words or of a word and something else.
    Words,
    /// The letter of a choice, or what is written behind it.
    Choice,
    /// Expressions with variables, by their values at fixed points.
    Expression,
    /// Equations, up to a factor.
    Equation,
    /// `y = …` and what stands on its right.
    Definition,
    /// Inequalities that are not solved for a variable, up to a factor; and other relations.
    Inequality,
    /// Lists and sets, in any order.
    Set,
    /// The elements of a gold answer found in several boxes.
    SeveralBoxes,
    /// Tuples and intervals, their brackets included.
    Tuple,
    /// A tuple that one side writes without its parentheses.
    BareTuple,
    /// Intervals and points of the real line, joined.
    Reals,
    /// Matrices and vectors.
    Matrix,
    /// Ratios.
    Ratio,
    /// Times of day.
    Time,
    /// Infinities.
    Infinity,
    /// The empty set and words that say that nothing solves the problem.
    EmptySet,
    /// Answers of different kinds, such as an interval and a number.
    Kinds,
    /// The same text, of a form this grader does not understand.
    SameText,
    /// The rules of another grader; see [`super::Mode`].
    Mode,
    /// No comparison: an answer was missing, not understood or too long.
    None,
}

impl Rule {
    /// The rule's name in tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Number => "number",
            Self::NumberUnitsDiffer => "number_units_differ",
            Self::Percent => "percent",
            Self::Rounded => "rounded",
            Self::DecimalComma => "decimal_comma",
            Self::Base => "base",
            Self::Words => "words",
            Self::Choice => "choice",
            Self::Expression => "expression",
            Self::Equation => "equation",
            Self::Definition => "definition",
            Self::Inequality => "inequality",
            Self::Set => "set",
            Self::SeveralBoxes => "several_boxes",
            Self::Tuple => "tuple",
            Self::BareTuple => "bare_tuple",
            Self::Reals => "reals",
            Self::Matrix => "matrix",
            Self::Ratio => "ratio",
            Self::Time => "time",
            Self::Infinity => "infinity",
            Self::EmptySet => "empty_set",
            Self::Kinds => "kinds",
            Self::SameText => "same_text",
            Self::Mode => "mode",
            Self::None => "none",
        }
    }

    /// What it compares, in words.
    pub fn about(self) -> &'static str {
        match self {
            Self::Number => {
                "Comparison of two numbers: exact for rational ones, else of their first hundred bits"
            }
            Self::NumberUnitsDiffer => "The same, though the two name different units; worth a look",
            Self::Percent => "A percentage and the hundredth of it without the sign",
            Self::Rounded => "A decimal of many digits and what it is the rounding of",
            Self::DecimalComma => "A comma that marks decimals: `1,5` and `1.5`",
            Self::Base => "Digits in a base, which one side may leave out",
            Self::Words => "Comparison of two words or of a word and something else",
            Self::Choice => "The letter of a choice, or what is written behind it",
            Self::Expression => "Expressions with variables, by their values at fixed points",
            Self::Equation => "Equations, up to a factor",
            Self::Definition => "`y = …` and what stands on its right",
            Self::Inequality => {
                "Inequalities that are not solved for a variable, up to a factor; and other relations"
            }
            Self::Set => "Lists and sets, in any order",
            Self::SeveralBoxes => "The elements of a gold answer found in several boxes",
            Self::Tuple => "Tuples and intervals, their brackets included",
            Self::BareTuple => "A tuple that one side writes without its parentheses",
            Self::Reals => "Intervals and points of the real line, joined",
            Self::Matrix => "Matrices and vectors",
            Self::Ratio => "Ratios",
            Self::Time => "Times of day",
            Self::Infinity => "Infinities",
            Self::EmptySet => "The empty set and words that say that nothing solves the problem",
            Self::Kinds => "Answers of different kinds, such as an interval and a number",
            Self::SameText => "The same text, of a form this grader does not understand",
            Self::Mode => "The rules of another grader",
            Self::None => "No comparison: an answer was missing, not understood or too long",
        }
    }
}
