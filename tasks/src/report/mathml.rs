//! LaTeX in running text, as MathML.
//!
//! Browsers draw MathML without fonts, styles or scripts of ours. What is no LaTeX, or is beyond the converter, stays as written.
use math_core::{LatexToMathML, MathCoreConfig, MathDisplay};
use serde::{Serialize, Serializer};

/// A longer formula stays as written: the converter recurses over it.
const LONGEST: usize = 4000;
/// A more deeply nested one likewise.
const DEEPEST: usize = 60;

/// Commands that the converter lacks. A boxed answer is drawn in a colour that nobody else uses here, which is how it is found
/// again in the markup.
const MACROS: [(&str, &str); 5] = [
    ("boxed", r"{\color{Goldenrod}#1}"),
    ("fbox", r"{\color{Goldenrod}#1}"),
    ("dotsm", r"\cdots"),
    ("dotsb", r"\cdots"),
    ("dotsc", r"\ldots"),
];
const BOXED: (&str, &str) = (r#" style="color:#FFDB57;""#, r#" class="boxed""#);
/// Commands that the converter has under another name, with a text as their argument, which no macro can hold.
const RENAMED: [(&str, &str); 2] = [(r"\mbox{", r"\text{"), (r"\textnormal{", r"\text{")];

/// A piece of running text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Piece {
    /// As written.
    Text(String),
    /// A `math` element.
    Math(String),
}

impl Serialize for Piece {
    /// A text is a string, and MathML a string in a list.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Text(text) => text.serialize(serializer),
            Self::Math(markup) => [markup].serialize(serializer),
        }
    }
}

/// Turns LaTeX into MathML.
pub(super) struct Renderer(LatexToMathML);

impl Renderer {
    pub(super) fn new() -> Self {
        let macros = MACROS.map(|(name, meaning)| (name.to_owned(), meaning.to_owned())).into();
        let config = MathCoreConfig { macros, ..MathCoreConfig::default() };
        // The macros are constants, and a test reads each of them.
        Self(LatexToMathML::new(config).unwrap_or_default())
    }

    /// The pieces of a text; nothing where all of it stays as written.
    pub(super) fn pieces(&self, text: &str) -> Vec<Piece> {
        let mut pieces = Vec::new();
        let mut plain = 0;
        let mut at = 0;
        while let Some(found) = text[at..].find(['$', '\\']) {
            at += found;
            let Some(formula) = Formula::at(text, at) else {
                // An escaped character opens nothing, and neither does the backslash of a longer command.
                let skipped = text[at..].chars().take(if text[at..].starts_with('\\') { 2 } else { 1 });
                at += skipped.map(char::len_utf8).sum::<usize>();
                continue;
            };
            if let Some(markup) = self.markup(formula.latex, formula.display) {
                if plain < at {
                    pieces.push(Piece::Text(text[plain..at].to_owned()));
                }
                pieces.push(Piece::Math(markup));
                plain = formula.end;
            }
            at = formula.end;
        }
        if !pieces.is_empty() && plain < text.len() {
            pieces.push(Piece::Text(text[plain..].to_owned()));
        }
        pieces
    }

    /// One formula, without delimiters.
    pub(super) fn markup(&self, latex: &str, display: MathDisplay) -> Option<String> {
        if latex.len() > LONGEST || depth(latex) > DEEPEST || latex.trim().is_empty() {
            return None;
        }
        let latex = RENAMED.iter().fold(latex.to_owned(), |latex, (from, to)| latex.replace(from, to));
        let markup = self.0.convert_with_local_state(&latex, display).ok()?.mathml;
        Some(markup.replace(BOXED.0, BOXED.1))
    }
}

/// An upper bound on how deep the parts of a formula lie in each other: every opening of a group counts, and so does every command
/// that takes the next as its argument.
fn depth(latex: &str) -> usize {
    let (mut depth, mut deepest, mut run) = (0_usize, 0, 0);
    let mut rest = latex;
    while let Some(first) = rest.chars().next() {
        let length = if first == '\\' { command_length(rest) } else { first.len_utf8() };
        let (token, after) = rest.split_at(length);
        rest = after;
        match token {
            "{" | r"\left" | r"\begin" => depth += 1,
            "}" | r"\right" | r"\end" => depth = depth.saturating_sub(1),
            _ => {}
        }
        // `\sqrt\sqrt\sqrt x`, `x^\hat\hat x`: a run of commands without anything between may be one inside the other.
        run = if first == '\\' || token == "^" || token == "_" || token == "[" { run + 1 } else { 0 };
        deepest = deepest.max(depth + run);
    }
    deepest
}

fn command_length(text: &str) -> usize {
    let letters = text[1..].bytes().take_while(u8::is_ascii_alphabetic).count();
    if letters > 0 { 1 + letters } else { 1 + text[1..].chars().next().map_or(0, char::len_utf8) }
}

/// A formula in a text.
struct Formula<'a> {
    latex: &'a str,
    display: MathDisplay,
    /// Where the text goes on.
    end: usize,
}

/// Environments that are formulas of their own.
const ENVIRONMENTS: [&str; 9] =
    ["align", "align*", "aligned", "equation", "equation*", "gather", "gather*", "cases", "pmatrix"];

impl<'a> Formula<'a> {
    /// The formula that begins at `at`, where there is one.
    fn at(text: &'a str, at: usize) -> Option<Self> {
        let rest = &text[at..];
        let between = |open: &str, close: &str, display| {
            let inner = rest.strip_prefix(open)?;
            let length = inner.find(close)?;
            Some(Self { latex: &inner[..length], display, end: at + open.len() + length + close.len() })
        };
        if rest.starts_with("$$") {
            return between("$$", "$$", MathDisplay::Block);
        }
        if rest.starts_with('$') {
            return Self::in_dollars(text, at);
        }
        if rest.starts_with(r"\[") {
            return between(r"\[", r"\]", MathDisplay::Block);
        }
        if rest.starts_with(r"\(") {
            return between(r"\(", r"\)", MathDisplay::Inline);
        }
        if let Some(name) = rest.strip_prefix(r"\begin{") {
            let name = &name[..name.find('}')?];
            if !ENVIRONMENTS.contains(&name) {
                return None;
            }
            let close = format!(r"\end{{{name}}}");
            let length = rest.find(&close)? + close.len();
            return Some(Self { latex: &rest[..length], display: MathDisplay::Block, end: at + length });
        }
        if rest.starts_with(r"\boxed{") {
            let length = balanced(rest)?;
            return Some(Self { latex: &rest[..length], display: MathDisplay::Inline, end: at + length });
        }
        None
    }

    /// A formula between two single dollars: not `$5 and $6`. The dollars stand close to it, or both with space and
    /// something that is no prose between; no digit follows, and no line is empty.
    fn in_dollars(text: &'a str, at: usize) -> Option<Self> {
        let inner = &text[at + 1..];
        let mut length = inner.find('$')?;
        while inner[..length].ends_with('\\') {
            length += 1 + inner[length + 1..].find('$')?;
        }
        let latex = &inner[..length];
        let is_tight = !latex.starts_with(char::is_whitespace) && !latex.ends_with(char::is_whitespace);
        let is_loose = latex.starts_with(char::is_whitespace) && latex.ends_with(char::is_whitespace);
        let is_followed = inner[length + 1..].starts_with(|next: char| next.is_ascii_digit());
        let is_formula = is_tight || (is_loose && latex.contains(['\\', '^', '_', '=']));
        (is_formula && !is_followed && !latex.contains("\n\n")).then_some(Self {
            latex,
            display: MathDisplay::Inline,
            end: at + 1 + length + 1,
        })
    }
}

/// How long a command with its argument in braces is.
fn balanced(text: &str) -> Option<usize> {
    let mut depth = 0_usize;
    let mut is_escaped = false;
    for (at, character) in text.char_indices().take(LONGEST) {
        match character {
            _ if is_escaped => is_escaped = false,
            '\\' => is_escaped = true,
            '{' => depth += 1,
            '}' => {
                depth = depth.checked_sub(1)?;
                if depth == 0 {
                    return Some(at + 1);
                }
            }
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str) -> String {
        let pieces = Renderer::new().pieces(text).into_iter();
        pieces
            .map(|piece| match piece {
                Piece::Text(text) => text,
                Piece::Math(markup) => format!("⟨{}⟩", markup.replace("<math>", "").replace("</math>", "")),
            })
            .collect()
    }

    #[test]
    fn formulas_are_found_and_money_is_not() {
        assert_eq!(shown("so $x$ is \\(7\\)."), "so ⟨<mi>x</mi>⟩ is ⟨<mn>7</mn>⟩.");
        assert_eq!(shown("$ a = 2 $ holds"), "⟨<mi>a</mi><mo>=</mo><mn>2</mn>⟩ holds");
        for prose in [
            "$5 and $6",
            "from $5-$6",
            "\\$3 or \\$4",
            "a $ sign",
            "cost $2\n\nand$",
            "C:\\dir",
            "$",
            "\\",
            "\\é",
            "$\\",
        ] {
            assert_eq!(shown(prose), "", "{prose}");
        }
        assert!(shown(r"\[ \frac12 \] then $$y$$").contains("⟩ then ⟨"));
        assert!(shown("\\begin{align}a&=b\\end{align}").contains("<mtable"));
    }

    #[test]
    fn the_boxed_answer_is_marked() {
        let boxed = r#"<mrow class="boxed"><mn>18</mn></mrow>"#;
        assert_eq!(shown(r"so \boxed{18}!"), format!("so ⟨{boxed}⟩!"));
        assert_eq!(shown(r"$\boxed{18}$"), format!("⟨{boxed}⟩"));
        assert_eq!(shown(r"\boxed{18"), "");
        for (name, _) in MACROS {
            assert!(
                Renderer::new().markup(&format!(r"\{name}{{x}}"), MathDisplay::Inline).is_some(),
                "{name}"
            );
        }
        assert_eq!(shown(r"$\mbox{cm}$"), "⟨<mtext>cm</mtext>⟩");
    }

    #[test]
    fn what_is_beyond_the_converter_stays_as_written() {
        assert_eq!(
            shown(r"$\href{javascript:alert(1)}{x}$ and $y$"),
            r"$\href{javascript:alert(1)}{x}$ and ⟨<mi>y</mi>⟩"
        );
        assert!(shown("$a<b>c</math><script>$").contains("<mo>&lt;</mo>"));
    }

    #[test]
    fn no_formula_ends_the_process() {
        let renderer = Renderer::new();
        let deep = [
            "{",
            "\\left(",
            "\\sqrt",
            "\\sqrt[",
            "x^",
            "x^{",
            "\\frac{1}{",
            "\\boxed{",
            "\\boxed",
            "\\not",
            "\\begin{matrix}",
            "\\text{",
            "\\mathrm",
            "\\hat",
            "\\hat{",
            "\\overset{a}",
            "\\color{red}",
            "\\",
            "&",
            "\\\\",
            "'",
            "\\big(",
            "\\middle|",
            "\\operatorname{",
            "\\substack{",
            "\\lim_",
            "_{",
            "\\mathbb\\mathbf",
            "\u{202e}\0\u{2028}",
            "$",
        ];
        for part in deep {
            for text in [
                part.repeat(LONGEST / part.len()),
                part.repeat(70),
                format!("{}x{}", part.repeat(50), "}".repeat(50)),
            ] {
                renderer.markup(&text, MathDisplay::Block);
                renderer.pieces(&format!("${text}$ \\[{text}\\] \\boxed{{{text}}}"));
            }
        }
        assert_eq!(
            renderer.markup(&format!("{}x{}", "{".repeat(80), "}".repeat(80)), MathDisplay::Inline),
            None
        );
    }
}
