//! Expressions and templates over the rows of a table, in Jinja's language, bounded in work and in size.
//!
//! They are written by the author of an experiment and see data; data is never itself read as a template.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::sync::LazyLock;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Serde, Value as Jinja};
use minijinja::{Environment, Error, ErrorKind, UndefinedBehavior};
use serde_json::{Map, Value};

use crate::table::Row;

/// Instructions that one rendering may take. A prompt takes hundreds.
const FUEL: u64 = 1_000_000;
/// Bytes that one rendering may write.
const LONGEST_TEXT: usize = 16 << 20;

/// Compiled expressions borrow the environment, so there is one for the whole process.
static ENVIRONMENT: LazyLock<Environment<'static>> = LazyLock::new(environment);

fn environment() -> Environment<'static> {
    let mut environment = Environment::new();
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    environment.set_fuel(Some(FUEL));
    // `answer.split('#### ')[1]`: the methods that authors know from Python.
    environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
    let syntax = SyntaxConfig::builder().keep_trailing_newline(true).build();
    environment.set_syntax(syntax.expect("the usual delimiters do not clash"));
    environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
    // Fuel counts instructions and not bytes: these can ask for gigabytes in one.
    for bomb in ["indent", "format", "center"] {
        environment.remove_filter(bomb);
    }
    environment.add_filter("tojson", to_json);
    environment.add_filter("extract", extract);
    environment.add_filter("fromjson", from_json);
    environment.add_filter("required", required);
    environment
}

/// `value | tojson`, as Jinja has it, but for an indentation that would fill the memory.
fn to_json(value: &Jinja, indent: Option<Jinja>, options: Kwargs) -> Result<Jinja, Error> {
    let named: Option<Jinja> = options.peek("indent")?;
    let width = indent.as_ref().or(named.as_ref()).and_then(|width| i64::try_from(width.clone()).ok());
    if width.is_some_and(|width| !(0..=64).contains(&width)) {
        return Err(Error::new(ErrorKind::InvalidOperation, "an `indent` is from 0 to 64"));
    }
    minijinja::filters::tojson(value, indent, options)
}

/// `text | extract('#### (.+)')`: the first group of the first match (the whole match where there is no group), or none.
fn extract(text: &str, pattern: &str) -> Result<Option<String>, Error> {
    let pattern = regex::Regex::new(pattern).map_err(|error| {
        Error::new(ErrorKind::InvalidOperation, format!("`{pattern}` is no pattern: {error}"))
    })?;
    let found = pattern.captures(text).and_then(|groups| groups.get(1).or_else(|| groups.get(0)));
    Ok(found.map(|found| found.as_str().to_owned()))
}

/// `text | fromjson`: the JSON value that a text holds.
fn from_json(text: &str) -> Result<Jinja, Error> {
    serde_json::from_str::<Value>(text)
        .map(|value| Jinja::from(Serde(&value)))
        .map_err(|error| Error::new(ErrorKind::InvalidOperation, format!("the text is not JSON: {error}")))
}

/// `value | required`: the value, which must be there: an absent field is an error, and not null. `required('help')` says
/// what to do about it.
fn required(value: Jinja, help: Option<String>) -> Result<Jinja, Error> {
    let is_blank = value.as_str().is_some_and(|text| text.trim().is_empty());
    if !value.is_undefined() && !value.is_none() && !is_blank {
        return Ok(value);
    }
    let help = help.unwrap_or_else(|| {
        "name the field that has it, or leave such rows out by `bad_rows: drop`".to_owned()
    });
    Err(Error::new(ErrorKind::InvalidOperation, format!("a value is required and not there: {help}")))
}

/// An expression such as `r1.match and oss.match`, read once and evaluated for every row.
pub struct Expression(minijinja::Expression<'static, 'static>);

impl Expression {
    /// Reads an expression. The error says what is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        ENVIRONMENT.compile_expression_owned(text.to_owned()).map(Self).map_err(|error| describe(&error))
    }

    /// The names it reads, dotted where it reads a field: `r1.match`.
    pub fn names(&self) -> BTreeSet<String> {
        self.0.undeclared_variables(true).into_iter().collect()
    }

    /// Its value over `scope`.
    pub fn value(&self, scope: &Scope) -> Result<Value, String> {
        let value = self.0.eval(&scope.0).map_err(|error| describe(&error))?;
        serde_json::to_value(value).map_err(|error| error.to_string())
    }

    /// Whether it holds over `scope`, by Jinja's rules of truth.
    pub fn holds(&self, scope: &Scope) -> Result<bool, String> {
        self.0.eval(&scope.0).map(|value| value.is_true()).map_err(|error| describe(&error))
    }
}

/// What an expression sees: the columns of a row by name, dotted names as nested fields.
pub struct Scope(Jinja);

impl Scope {
    /// The columns of one row. The whole row is there too, as `row`, for columns whose names are no identifiers.
    pub fn of(row: &Row) -> Self {
        let mut scope = nest(row);
        scope.entry("row").or_insert_with(|| Value::Object(row.clone()));
        Self(Jinja::from(Serde(&scope)))
    }
}

/// `{"r1.match": true}` as `{"r1": {"match": true}}`; a plain column wins over a dotted one that would go through it.
fn nest(row: &Row) -> Map<String, Value> {
    let mut nested = Map::new();
    for (name, value) in row {
        match name.split_once('.') {
            Some((outer, inner)) if !row.contains_key(outer) => {
                let fields = nested.entry(outer).or_insert_with(|| Value::Object(Map::new()));
                if let Some(fields) = fields.as_object_mut() {
                    fields.insert(inner.to_owned(), value.clone());
                }
            }
            _ => {
                nested.insert(name.clone(), value.clone());
            }
        }
    }
    nested
}

/// A template such as `Solve: {{ problem }}`, read once and rendered for every row.
pub struct Template(Environment<'static>);

const NAME: &str = "template";

impl Template {
    /// Reads a template. The error says what is wrong with it.
    pub fn parse(source: &str) -> Result<Self, String> {
        let mut environment = environment();
        environment.add_template_owned(NAME, source.to_owned()).map_err(|error| describe(&error))?;
        Ok(Self(environment))
    }

    /// The text it gives over `scope`.
    pub fn render(&self, scope: &Scope) -> Result<String, String> {
        let template = self.0.get_template(NAME).map_err(|error| describe(&error))?;
        let mut out = Bounded(Vec::new());
        template.render_captured_to(&scope.0, &mut out).map_err(|error| describe(&error))?;
        String::from_utf8(out.0).map_err(|error| error.to_string())
    }
}

/// Takes no more than [`LONGEST_TEXT`] bytes.
struct Bounded(Vec<u8>);

impl std::io::Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        if self.0.len() + bytes.len() > LONGEST_TEXT {
            return Err(std::io::Error::other("the text gets longer than 16 MiB"));
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// The error with what it says of its causes, on one line.
fn describe(error: &Error) -> String {
    let mut text = error.detail().map_or_else(|| error.kind().to_string(), str::to_owned);
    let mut cause = std::error::Error::source(error);
    while let Some(inner) = cause {
        write!(text, ": {inner}").expect("writing to a string succeeds");
        cause = inner.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn scope(row: Value) -> Scope {
        let Value::Object(row) = row else { panic!("a row is an object") };
        Scope::of(&row)
    }

    fn value(expression: &str, row: Value) -> Result<Value, String> {
        Expression::parse(expression)?.value(&scope(row))
    }

    #[test]
    fn columns_are_names_and_dotted_columns_are_fields() {
        assert_eq!(value("question", json!({ "question": "q" })), Ok(json!("q")));
        assert_eq!(
            value("r1.match and oss.match", json!({ "r1.match": true, "oss.match": false })),
            Ok(json!(false))
        );
        assert_eq!(value("row['odd name']", json!({ "odd name": 3 })), Ok(json!(3)));
        assert_eq!(
            value("messages[1].content", json!({ "messages": [{}, { "content": "c" }] })),
            Ok(json!("c"))
        );
        assert_eq!(value("answer.split('#### ')[1]", json!({ "answer": "so #### 4" })), Ok(json!("4")));
        assert_eq!(value("metadata | fromjson", json!({ "metadata": "{\"a\": 1}" })), Ok(json!({ "a": 1 })));
    }

    #[test]
    fn no_template_fills_the_memory() {
        let doubled = |grown: &str| {
            format!(
                "{{% set ns = namespace(s='x') %}}{{% for i in range(60) %}}{{% set ns.s = {grown} %}}{{% endfor %}}{{{{ ns.s }}}}"
            )
        };
        let bombs = [
            "{{ 'a' * 3000000000 }}".to_owned(),
            "{{ [1, 2] | tojson(indent=2000000000) }}".to_owned(),
            "{{ [1, 2] | tojson(2000000000) }}".to_owned(),
            "{{ 'x' | indent(2000000000) }}".to_owned(),
            "{% for i in range(100000000) %}{{ i }}{% endfor %}".to_owned(),
            doubled("ns.s ~ ns.s"),
            doubled("ns.s.replace('x', 'xx')"),
            doubled("[ns.s, ns.s] | join('')"),
        ];
        for bomb in bombs {
            let rendered = Template::parse(&bomb).and_then(|template| template.render(&scope(json!({}))));
            assert!(rendered.is_err(), "{bomb}");
        }
        let laid_out = Template::parse("{{ [1] | tojson(indent=2) }}").unwrap().render(&scope(json!({})));
        assert_eq!(laid_out.as_deref(), Ok("[\n  1\n]"));
    }

    #[test]
    fn a_pattern_gives_its_group() {
        let answer = "48/2 = <<48/2=24>>24\n#### 1,024";
        let row = json!({ "answer": answer });
        assert_eq!(value("answer | extract('####\\\\s*(.+)') | replace(',', '')", row), Ok(json!("1024")));
        assert_eq!(value("answer | extract('####')", json!({ "answer": "none" })), Ok(Value::Null));
        assert!(value("answer | extract('(')", json!({ "answer": "" })).is_err());
    }

    #[test]
    fn what_is_not_there_is_an_error_and_not_an_empty_text() {
        assert!(value("missing", json!({})).is_ok_and(|value| value.is_null()));
        assert!(Template::parse("{{ missing }}").unwrap().render(&scope(json!({}))).is_err());
        assert!(Template::parse("{% if %}").is_err());
    }

    #[test]
    fn what_is_required_is_there() {
        let expected = "(metadata | fromjson).expected_answer | required";
        assert_eq!(value(expected, json!({ "metadata": "{\"expected_answer\": \"7\"}" })), Ok(json!("7")));
        for absent in ["{}", "{\"expected_answer\": null}", "{\"expected_answer\": \" \"}"] {
            let error = value(expected, json!({ "metadata": absent })).unwrap_err();
            assert!(error.contains("a value is required and not there: name the field"), "{error}");
        }
        let helped = value("answer | required('look there')", json!({})).unwrap_err();
        assert!(helped.ends_with("not there: look there"), "{helped}");
    }

    #[test]
    fn the_names_of_an_expression_are_known_before_it_runs() {
        let names = Expression::parse("r1.match and oss.match and level > 3").unwrap().names();
        assert_eq!(names.into_iter().collect::<Vec<_>>(), ["level", "oss.match", "r1.match"]);
    }

    #[test]
    fn endless_and_oversized_templates_are_stopped() {
        let endless = "{% for a in range(9999) %}{% for b in range(9999) %}{% endfor %}{% endfor %}";
        assert!(Template::parse(endless).unwrap().render(&scope(json!({}))).is_err());
        let long = "{% for a in range(9999) %}{{ text }}{% endfor %}";
        let row = json!({ "text": "x".repeat(10_000) });
        assert!(Template::parse(long).unwrap().render(&scope(row)).unwrap_err().contains("16 MiB"));
    }
}
