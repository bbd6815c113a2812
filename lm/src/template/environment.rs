//! Jinja as transformers sets it up for chat templates: Python's string methods, `tojson`, `raise_exception`, `strftime_now`.

use std::fmt::Write as _;
use std::str::FromStr;

use minijinja::syntax::SyntaxConfig;
use minijinja::{Environment, Error, ErrorKind, Output, State, Value};

use super::{TemplateError, python};

/// The name under which the one template is kept.
pub(super) const NAME: &str = "chat_template";

/// Ample for any conversation; stops a template that would run on and on.
const FUEL: u64 = 100_000_000;

/// Compiles a chat template.
pub(super) fn compile(source: &str) -> Result<Environment<'static>, TemplateError> {
    let mut environment = Environment::new();
    let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
    environment.set_syntax(syntax.map_err(|error| TemplateError::Syntax(describe(&error)))?);
    environment.set_fuel(Some(FUEL));
    environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
    environment.set_formatter(|output: &mut Output, _: &mut State, value: &Value| {
        output.write_str(&python::text(value)).map_err(Error::from)
    });
    environment.add_filter("tojson", python::to_json);
    // Fuel counts instructions and not bytes: these can ask for gigabytes in one, and no chat template needs them.
    for bomb in ["format", "center"] {
        environment.remove_filter(bomb);
    }
    environment.add_filter("string", |value: &Value| python::text(value));
    // Nothing is not iterable in Python; an undefined variable is.
    environment.add_test("iterable", |value: &Value| !value.is_none() && value.try_iter().is_ok());
    environment.add_function("raise_exception", |message: String| -> Result<Value, Error> {
        Err(Error::new(ErrorKind::InvalidOperation, message))
    });
    environment.add_function("strftime_now", |_: String| -> Result<Value, Error> {
        Err(Error::new(ErrorKind::InvalidOperation, "the template writes today's date, and none is fixed"))
    });
    environment
        .add_template_owned(NAME, without_generation_tags(source))
        .map_err(|error| TemplateError::Syntax(describe(&error)))?;
    Ok(environment)
}

/// Lets `strftime_now` give a fixed date, at midnight.
pub(super) fn fix_date(environment: &mut Environment<'static>, date: Date) {
    environment.add_function("strftime_now", move |format: String| date.format(&format));
}

/// The message of an error and the line it stands in, without the library's own words where the template gives some.
pub(super) fn describe(error: &Error) -> String {
    let text = error.detail().map_or_else(|| error.kind().to_string(), str::to_owned);
    match error.line() {
        Some(line) => format!("{text} (line {line} of the template)"),
        None => text,
    }
}

/// `{% generation %}` marks responses for transformers' own masks; here it is a block that is always rendered.
fn without_generation_tags(source: &str) -> String {
    let mut result = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(start) = rest.find("{%") {
        let Some(length) = rest[start..].find("%}") else { break };
        let (before, tag) = (&rest[..start], &rest[start..start + length + 2]);
        let inner = tag[2..tag.len() - 2].trim_matches(['-', '+']).trim();
        result.push_str(before);
        match inner {
            "generation" => result.push_str(&tag.replace("generation", "if true")),
            "endgeneration" => result.push_str(&tag.replace("endgeneration", "endif")),
            _ => result.push_str(tag),
        }
        rest = &rest[start + tag.len()..];
    }
    result + rest
}

/// A calendar day.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Date {
    year: u16,
    month: u8,
    day: u8,
}

const MONTHS: [(&str, u8); 12] = [
    ("January", 31),
    ("February", 29),
    ("March", 31),
    ("April", 30),
    ("May", 31),
    ("June", 30),
    ("July", 31),
    ("August", 31),
    ("September", 30),
    ("October", 31),
    ("November", 30),
    ("December", 31),
];
const WEEKDAYS: [&str; 7] = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];

impl FromStr for Date {
    type Err = TemplateError;

    fn from_str(text: &str) -> Result<Self, TemplateError> {
        let parse = || {
            let (year, rest) = text.split_once('-')?;
            let (month, day) = rest.split_once('-')?;
            let lengths = [year.len(), month.len(), day.len()];
            let date = Self { year: year.parse().ok()?, month: month.parse().ok()?, day: day.parse().ok()? };
            let (_, days) = MONTHS.get(usize::from(date.month).checked_sub(1)?)?;
            let leap = date.year.is_multiple_of(4)
                && (!date.year.is_multiple_of(100) || date.year.is_multiple_of(400));
            let days = if date.month == 2 && !leap { 28 } else { *days };
            (lengths == [4, 2, 2] && (1..=days).contains(&date.day)).then_some(date)
        };
        parse().ok_or_else(|| TemplateError::Date(text.to_owned()))
    }
}

impl Date {
    fn weekday(self) -> &'static str {
        // Sakamoto's method: months count from March on, so that the leap day ends the year.
        const SHIFT: [u16; 12] = [0, 3, 2, 5, 0, 3, 5, 1, 4, 6, 2, 4];
        let year = self.year - u16::from(self.month < 3);
        let shift = SHIFT[usize::from(self.month) - 1];
        WEEKDAYS[usize::from((year + year / 4 - year / 100 + year / 400 + shift + u16::from(self.day)) % 7)]
    }

    fn format(self, format: &str) -> Result<String, Error> {
        let Self { year, month, day } = self;
        let month_name = MONTHS[usize::from(month) - 1].0;
        let mut text = String::new();
        let mut characters = format.chars();
        while let Some(character) = characters.next() {
            if character != '%' {
                text.push(character);
                continue;
            }
            match characters.next() {
                Some('Y') => write!(text, "{year:04}"),
                Some('y') => write!(text, "{:02}", year % 100),
                Some('m') => write!(text, "{month:02}"),
                Some('d') => write!(text, "{day:02}"),
                Some('B') => write!(text, "{month_name}"),
                Some('b') => write!(text, "{}", &month_name[..3]),
                Some('A') => write!(text, "{}", self.weekday()),
                Some('a') => write!(text, "{}", &self.weekday()[..3]),
                Some('H' | 'M' | 'S') => write!(text, "00"),
                Some('%') => write!(text, "%"),
                other => {
                    let directive = other.map(String::from).unwrap_or_default();
                    let message = format!("strftime_now does not know `%{directive}`");
                    return Err(Error::new(ErrorKind::InvalidOperation, message));
                }
            }
            .expect("writing to a string cannot fail");
        }
        Ok(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn render(source: &str) -> Result<String, String> {
        let mut environment = compile(source).map_err(|error| error.to_string())?;
        fix_date(&mut environment, "2024-02-29".parse().unwrap());
        let template = environment.get_template(NAME).unwrap();
        template.render(minijinja::context! { word => "é<a>\n", n => 3 }).map_err(|error| describe(&error))
    }

    #[test]
    fn json_is_written_as_python_writes_it() {
        assert_eq!(
            render("{{ {'b': [1, none, true], 'a': word} | tojson }}").unwrap(),
            r#"{"b": [1, null, true], "a": "é<a>\n"}"#
        );
        assert_eq!(render("{{ [word] | tojson(ensure_ascii=true) }}").unwrap(), r#"["\u00e9<a>\n"]"#);
        assert_eq!(
            render("{{ {'b': [1, 2.0], 'a': {}} | tojson(separators=(',', ':'), sort_keys=true) }}").unwrap(),
            r#"{"a":{},"b":[1,2.0]}"#
        );
        assert_eq!(
            render("{{ none }}{{ true }}{{ [1.0, 'a'] }}{{ undefined }}{{ 1 | string }}").unwrap(),
            "NoneTrue[1.0, 'a']1"
        );
        assert_eq!(
            render("{{ {'a': [1, 2], 'b': []} | tojson(indent=2) }}").unwrap(),
            "{\n  \"a\": [\n    1,\n    2\n  ],\n  \"b\": []\n}"
        );
    }

    #[test]
    fn blocks_leave_no_white_space() {
        assert_eq!(render("a\n  {% if true %}\nb\n  {% endif %}\nc\n").unwrap(), "a\nb\nc");
        assert_eq!(
            render("{% for i in range(n) %}{% if i == 1 %}{% continue %}{% endif %}{{ i }}{% endfor %}")
                .unwrap(),
            "02"
        );
        assert_eq!(render("{{ 'a,b'.split(',')[-1].upper() + word[1:].strip() }}").unwrap(), "B<a>");
    }

    #[test]
    fn generation_marks_are_transparent() {
        let source =
            "a {%- generation -%} {{ n }} {%- endgeneration %} b{% set generation = 1 %}{{ generation }}";
        assert_eq!(render(source).unwrap(), "a3 b1");
    }

    #[test]
    fn errors_tell_the_line() {
        assert_eq!(
            render("\n{{ raise_exception('no ' + 'tools') }}").unwrap_err(),
            "no tools (line 2 of the template)"
        );
        assert!(render("a\n{% if %}").unwrap_err().contains("line 2"), "{:?}", render("a\n{% if %}"));
        assert!(
            render("{% for i in range(100000) %}{% for j in range(100000) %}{% endfor %}{% endfor %}")
                .is_err()
        );
    }

    #[test]
    fn dates_are_fixed_and_checked() {
        assert_eq!(
            render("{{ strftime_now('%A, %d %B %Y | %a %b %y-%m 100%%') }}").unwrap(),
            "Thursday, 29 February 2024 | Thu Feb 24-02 100%"
        );
        assert!(render("{{ strftime_now('%Q') }}").unwrap_err().contains("`%Q`"));
        let unfixed = compile("{{ strftime_now('%Y') }}").unwrap();
        assert!(unfixed.get_template(NAME).unwrap().render(()).is_err());
        for text in ["2023-02-29", "2024-13-01", "2024-1-1", "x", "2024-04-31", "2024-01-00"] {
            assert!(text.parse::<Date>().is_err(), "{text}");
        }
        assert_eq!("2025-08-05".parse::<Date>().unwrap().weekday(), "Tuesday");
        assert_eq!("2000-01-01".parse::<Date>().unwrap().weekday(), "Saturday");
    }
}
