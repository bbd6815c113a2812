//! The LaTeX or plain text of an answer, cut into tokens that say the same in fewer forms.
use std::borrow::Cow;

use super::Policy;
use super::expression::{Function, Numeral};
use super::numeral::{self, TooLarge};
use super::vocabulary::{IGNORED, MARKS, PLAIN_COMMANDS, PROSE, SHORT_WORDS, STYLES, UNITS, greek};

/// A token, and whether a space stood before it.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Token<'t> {
    pub(super) kind: Kind<'t>,
    pub(super) spaced: bool,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Kind<'t> {
    /// A number, and its digits where it has no point.
    Number(Numeral, &'t str),
    /// A variable of one letter.
    Letter(char),
    /// A word of prose.
    Word(&'t str),
    /// A command or function by its name.
    Command(&'t str),
    /// Signs and brackets; see [`MARKS`](super::vocabulary::MARKS) for what stands for what.
    Mark(char),
    Begin(&'t str),
    End,
    /// `\\`.
    RowEnd,
}

/// Cuts an answer with [`single_backslashes`] into tokens. `grouping` says whether `1,234` is one number.
pub(super) fn tokens<'t>(text: &'t str, policy: &Policy, grouping: bool) -> Result<Vec<Token<'t>>, TooLarge> {
    let mut lexer = Lexer { policy, grouping, tokens: Vec::with_capacity(text.len().min(32)), spaced: false };
    lexer.read(text, false, 0)?;
    Ok(lexer.tokens)
}

/// The name of a command that begins the text.
pub(super) fn command_name(text: &str) -> &str {
    &text[..text.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(text.len())]
}

/// Some sources double every backslash: `\\frac` for `\frac`, `\\\\` for a row's end.
pub(super) fn single_backslashes(text: &str) -> Cow<'_, str> {
    const OFTEN: [&str; 26] = [
        "frac", "dfrac", "tfrac", "begin", "left", "right", "sqrt", "text", "boxed", "pi", "le", "leq", "ge",
        "geq", "cdot", "times", "infty", "pm", "cup", "in", "circ", "mathrm", "end", "quad", "sin", "cos",
    ];
    if !text.contains("\\\\") {
        return text.into();
    }
    let all = text.contains("\\\\begin") || text.contains("\\\\end{") && text.contains("\\\\\\\\");
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        out.push_str(&rest[..at]);
        let run = rest[at..].bytes().take_while(|byte| *byte == b'\\').count();
        let after = &rest[at + run..];
        let halved = run.is_multiple_of(2) && (all || run == 2 && OFTEN.contains(&command_name(after)));
        out.extend(std::iter::repeat_n('\\', if halved { run / 2 } else { run }));
        rest = after;
    }
    out.push_str(rest);
    out.into()
}

struct Lexer<'t, 'p> {
    policy: &'p Policy,
    grouping: bool,
    tokens: Vec<Token<'t>>,
    spaced: bool,
}

impl<'t> Lexer<'t, '_> {
    fn push(&mut self, kind: Kind<'t>) {
        self.tokens.push(Token { kind, spaced: std::mem::take(&mut self.spaced) });
    }

    fn last_is(&self, mark: char) -> bool {
        self.tokens.last().is_some_and(|token| token.kind == Kind::Mark(mark))
    }

    fn read(&mut self, text: &'t str, prose: bool, depth: usize) -> Result<(), TooLarge> {
        let mut rest = text;
        while let Some(c) = rest.chars().next() {
            let after = &rest[c.len_utf8()..];
            if let Some(number) = numeral::read(rest, self.grouping)? {
                rest = &rest[number.length..];
                let word = !self.policy.leading_zeros
                    && number.digits.len() > 1
                    && number.digits.starts_with('0')
                    && number.numeral.plain;
                self.push(if word {
                    Kind::Word(number.digits)
                } else {
                    Kind::Number(number.numeral, number.digits)
                });
                continue;
            }
            rest = match c {
                '\\' => self.command(after, prose, depth)?,
                c if c.is_alphabetic() => self.letters(rest, prose),
                _ => self.mark(c, after),
            };
        }
        Ok(())
    }

    fn mark(&mut self, c: char, after: &'t str) -> &'t str {
        let pair = |second: char| after.strip_prefix(second);
        match c {
            c if c.is_whitespace() || c == '~' => self.spaced = true,
            // Delimiters and signs of currencies, which have a block of their own but for the oldest.
            '$' | '¢'..='¥' | '\u{20a0}'..='\u{20cf}' | '\u{200b}' | '\u{feff}' | '`' | '。' => {}
            '−' | '–' | '—' | '‐' | '‑' => self.push(Kind::Mark('-')),
            '×' | '·' | '⋅' | '∗' => self.push(Kind::Mark('*')),
            '÷' => self.push(Kind::Mark('/')),
            '*' if after.starts_with('*') => {
                self.push(Kind::Mark('^'));
                return &after[1..];
            }
            '<' if let Some(rest) = pair('=') => {
                self.push(Kind::Mark('≤'));
                return rest;
            }
            '>' if let Some(rest) = pair('=') => {
                self.push(Kind::Mark('≥'));
                return rest;
            }
            '!' if let Some(rest) = pair('=') => {
                self.push(Kind::Mark('≠'));
                return rest;
            }
            '=' if let Some(rest) = pair('=').or_else(|| pair('<')) => {
                self.push(Kind::Mark(if after.starts_with('=') { '=' } else { '≤' }));
                return rest;
            }
            ':' if let Some(rest) = pair('=') => {
                self.push(Kind::Mark('='));
                return rest;
            }
            '⩽' | '≦' => self.push(Kind::Mark('≤')),
            '⩾' | '≧' => self.push(Kind::Mark('≥')),
            'º' | '˚' | '°' => self.degrees(),
            '′' | '’' => self.push(Kind::Mark('\'')),
            '，' | '、' => self.push(Kind::Mark(',')),
            '（' => self.push(Kind::Mark('(')),
            '）' => self.push(Kind::Mark(')')),
            '：' => self.push(Kind::Mark(':')),
            '²' | '³' => {
                self.push(Kind::Mark('^'));
                self.push(Kind::Number(Numeral::whole(if c == '²' { 2 } else { 3 }), ""));
            }
            // A full stop.
            '.' => self.spaced = true,
            c => self.push(Kind::Mark(c)),
        }
        after
    }

    /// An exponent goes with its mark: `90^\circ` is `90°`.
    fn degrees(&mut self) {
        if self.last_is('^') {
            self.tokens.pop();
        }
        self.push(Kind::Mark('°'));
    }

    fn letters(&mut self, rest: &'t str, prose: bool) -> &'t str {
        const COMMON: [&str; 5] = ["and", "or", "percent", "percentage", "pct"];
        let end = rest.char_indices().find(|(_, c)| !c.is_alphabetic()).map_or(rest.len(), |(at, _)| at);
        let (run, after) = rest.split_at(end);
        let mut chars = run.chars();
        let first = chars.next().unwrap_or_default();
        if let Some(name) = greek(first).filter(|_| chars.clone().next().is_none()) {
            self.push(Kind::Command(name));
            return after;
        }
        if chars.next().is_none() {
            self.push(match first {
                'ℝ' => Kind::Command("reals"),
                _ if prose => Kind::Word(run),
                c => Kind::Letter(c),
            });
            return after;
        }
        if let Some(common) = COMMON.iter().find(|word| word.eq_ignore_ascii_case(run)) {
            self.push(Kind::Word(common));
        } else if prose {
            self.push(Kind::Word(run));
        } else if let Some((_, mark)) = MARKS
            .iter()
            .find(|(name, _)| *name == run && PLAIN_COMMANDS.contains(&run))
            .filter(|_| run != "in" || self.spaced)
        {
            self.push(Kind::Mark(*mark));
        } else if Function::named(run).is_some() || PLAIN_COMMANDS.contains(&run) && run != "in" {
            self.push(Kind::Command(run));
        } else if UNITS.contains(&run)
            || SHORT_WORDS.contains(&run)
            || run.chars().count() > 3
            || !run.is_ascii()
        {
            self.function_and_letters(run);
        } else {
            // A product of variables.
            run.chars().for_each(|c| self.push(Kind::Letter(c)));
        }
        after
    }

    /// `sinx`, or a word.
    fn function_and_letters(&mut self, run: &'t str) {
        const PREFIXES: [&str; 7] = ["sqrt", "arctan", "sin", "cos", "tan", "log", "exp"];
        let split = PREFIXES.iter().find_map(|name| Some((*name, run.strip_prefix(name)?)));
        match split {
            Some((name, argument)) if argument.chars().count() == 1 => {
                self.push(Kind::Command(name));
                self.push(Kind::Letter(argument.chars().next().unwrap_or_default()));
            }
            _ => self.push(Kind::Word(run)),
        }
    }

    /// What follows a backslash; gives what follows the command.
    fn command(&mut self, rest: &'t str, prose: bool, depth: usize) -> Result<&'t str, TooLarge> {
        let mut name = command_name(rest);
        if name.is_empty() {
            let Some(symbol) = rest.chars().next() else { return Ok(rest) };
            match symbol {
                '\\' => self.push(Kind::RowEnd),
                '{' => self.push(Kind::Mark('⦃')),
                '}' => self.push(Kind::Mark('⦄')),
                '%' => self.push(Kind::Mark('%')),
                '|' => self.push(Kind::Mark('|')),
                '&' => self.push(Kind::Word("and")),
                ',' | ';' | ':' | ' ' | '>' | '\n' => self.spaced = true,
                _ => {}
            }
            return Ok(&rest[symbol.len_utf8()..]);
        }
        // A space command that runs into a letter, `\quadx`, is a slip of the pen.
        for space in ["qquad", "quad"] {
            if name.starts_with(space) && name != space {
                name = &name[..space.len()];
            }
        }
        let after = &rest[name.len()..];
        if IGNORED.contains(&name) {
            self.spaced |= name.ends_with("quad");
            // `\right.` closes nothing.
            let silent = matches!(name, "left" | "right").then(|| after.strip_prefix('.')).flatten();
            return Ok(silent.unwrap_or(after));
        }
        if PROSE.contains(&name) {
            return self.argument(after, true, depth);
        }
        if name == "mathbb" {
            let (content, rest) = group(after);
            match content.trim() {
                "R" => self.push(Kind::Command("reals")),
                other => self.push(Kind::Letter(match other {
                    "Z" => 'ℤ',
                    "N" => 'ℕ',
                    "Q" => 'ℚ',
                    "C" => 'ℂ',
                    other => other.chars().next().unwrap_or('?'),
                })),
            }
            return Ok(rest);
        }
        if STYLES.contains(&name) {
            return self.styled(name, after, prose, depth);
        }
        Ok(match name {
            "begin" => {
                let (environment, mut rest) = group(after);
                if matches!(environment, "array" | "tabular") {
                    rest = group(rest).1;
                }
                self.push(Kind::Begin(environment));
                rest
            }
            "end" => {
                self.push(Kind::End);
                group(after).1
            }
            "circ" | "degree" | "textdegree" | "prime"
                if self.last_two('^', '{') && after.trim_start().starts_with('}') =>
            {
                self.tokens.truncate(self.tokens.len() - 2);
                self.push(Kind::Mark(if name == "prime" { '\'' } else { '°' }));
                &after.trim_start()[1..]
            }
            "circ" | "degree" | "textdegree" => {
                self.degrees();
                after
            }
            "prime" => {
                if self.last_is('^') {
                    self.tokens.pop();
                }
                self.push(Kind::Mark('\''));
                after
            }
            "not" => {
                let equal = after.trim_start().strip_prefix('=');
                self.push(Kind::Mark(if equal.is_some() { '≠' } else { '∼' }));
                equal.unwrap_or(after)
            }
            "dfrac" | "tfrac" | "cfrac" | "nicefrac" | "sfrac" => self.plain_command("frac", after),
            "dbinom" | "tbinom" => self.plain_command("binom", after),
            name => {
                if let Some((_, mark)) = MARKS.iter().find(|(command, _)| *command == name) {
                    self.push(Kind::Mark(*mark));
                    return Ok(after);
                }
                self.plain_command(name, after)
            }
        })
    }

    fn plain_command(&mut self, name: &'t str, after: &'t str) -> &'t str {
        self.push(Kind::Command(name));
        after
    }

    fn last_two(&self, first: char, second: char) -> bool {
        let marks = [first, second].map(Kind::Mark);
        self.tokens.len() >= 2
            && self.tokens[self.tokens.len() - 2..].iter().map(|token| &token.kind).eq(marks.iter())
    }

    fn styled(&mut self, name: &str, after: &'t str, prose: bool, depth: usize) -> Result<&'t str, TooLarge> {
        let (content, rest) = group(after.strip_prefix('*').unwrap_or(after));
        let content = content.trim();
        let letters = content.chars().count() > 1 && content.chars().all(char::is_alphabetic);
        if name == "operatorname" && Function::named(content).is_some() {
            self.push(Kind::Command(content));
        } else if letters && matches!(name, "mathrm" | "operatorname" | "mathsf") {
            self.spaced = true;
            self.push(Kind::Word(content));
        } else if name == "mathrm" && content.len() == 1 && "mgslhJNWKVACLT".contains(content) {
            // Upright single letters are units where they follow a number.
            self.spaced = true;
            self.push(Kind::Word(content));
        } else if depth < 16 {
            self.read(content, prose, depth + 1)?;
        } else {
            self.push(Kind::Mark('?'));
        }
        Ok(rest)
    }

    fn argument(&mut self, after: &'t str, prose: bool, depth: usize) -> Result<&'t str, TooLarge> {
        let (content, rest) = group(after);
        self.spaced = true;
        if depth < 16 {
            self.read(content, prose, depth + 1)?;
        } else {
            self.push(Kind::Mark('?'));
        }
        self.spaced = true;
        Ok(rest)
    }
}

/// The content of a group in braces and what follows it; without braces, the next character.
pub(super) fn group(text: &str) -> (&str, &str) {
    let text = text.trim_start();
    let Some(inside) = text.strip_prefix('{') else {
        let end = text.chars().next().map_or(0, char::len_utf8);
        return if text.starts_with('\\') { ("", text) } else { text.split_at(end) };
    };
    let (mut depth, mut escaped) = (1, false);
    for (at, c) in inside.char_indices() {
        match c {
            _ if escaped => {
                escaped = false;
                continue;
            }
            '\\' => escaped = true,
            '{' => depth += 1,
            '}' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return (&inside[..at], &inside[at + 1..]);
        }
    }
    (inside, "")
}
