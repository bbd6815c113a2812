//! Placeholders in the arguments of a command: read once, expanded to paths.

use std::ffi::OsString;
use std::path::PathBuf;

use indexmap::IndexMap;

/// Where placeholders lead.
pub(super) trait Paths {
    /// The artifacts in an input.
    fn inputs(&self, name: &str) -> Vec<PathBuf>;
    /// The local files of a name.
    fn files(&self, name: &str) -> Vec<PathBuf>;
    /// Where an output goes.
    fn output(&self, name: &str) -> PathBuf;
}

/// One argument, as its literal parts and its placeholders. It borrows from the text, since the arguments of a hundred
/// thousand nodes are checked before one of them is used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Word<'t>(Vec<Part<'t>>);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part<'t> {
    Text(&'t str),
    Input(&'t str),
    File(&'t str),
    Output(&'t str),
}

/// What a placeholder stands for.
#[derive(Clone, Copy)]
enum Kind {
    Input,
    File,
    Output,
}

/// How each kind begins.
const KINDS: [(&str, Kind); 3] =
    [("{inputs.", Kind::Input), ("{files.", Kind::File), ("{outputs.", Kind::Output)];

impl<'t> Word<'t> {
    /// Reads an argument. Braces that begin no placeholder are text.
    pub(super) fn parse(text: &'t str) -> Result<Self, String> {
        let mut parts = Vec::new();
        // The text that is no part yet, and how much of it is known to be literal.
        let (mut rest, mut literal) = (text, 0);
        while let Some(brace) = rest[literal..].find('{') {
            let (before, from) = rest.split_at(literal + brace);
            let Some((kind, inside)) =
                KINDS.into_iter().find_map(|(opening, kind)| Some((kind, from.strip_prefix(opening)?)))
            else {
                literal = before.len() + 1;
                continue;
            };
            let (name, after) =
                inside.split_once('}').ok_or_else(|| format!("`{from}` has no closing brace"))?;
            if !before.is_empty() {
                parts.push(Part::Text(before));
            }
            parts.push(match kind {
                Kind::Input => Part::Input(name),
                Kind::File => Part::File(name),
                Kind::Output => Part::Output(name),
            });
            (rest, literal) = (after, 0);
        }
        if !rest.is_empty() {
            parts.push(Part::Text(rest));
        }
        Ok(Self(parts))
    }

    /// What is wrong with its placeholders, as far as it can be known without inputs.
    pub(super) fn unknown(&self, files: &IndexMap<String, String>, outputs: &[String]) -> Option<String> {
        self.0.iter().find_map(|part| match *part {
            Part::File(name) if !files.contains_key(name) => Some(format!("`files:` has no `{name}`")),
            Part::Output(name) if !outputs.iter().any(|output| output == name) => {
                Some(format!("`outputs:` has no `{name}`"))
            }
            _ => None,
        })
    }

    /// The arguments it becomes: one, unless it is a single placeholder of several paths.
    pub(super) fn expand(&self, paths: &dyn Paths) -> Result<Vec<OsString>, String> {
        match self.0.as_slice() {
            [Part::Input(name)] => some(name, paths.inputs(name)),
            [Part::File(name)] => some(name, paths.files(name)),
            _ => Ok(vec![self.join(paths)?]),
        }
    }

    /// The one text it becomes.
    pub(super) fn join(&self, paths: &dyn Paths) -> Result<OsString, String> {
        let mut joined = OsString::new();
        for part in &self.0 {
            match part {
                Part::Text(text) => joined.push(text),
                Part::Input(name) => joined.push(single(name, paths.inputs(name))?),
                Part::File(name) => joined.push(single(name, paths.files(name))?),
                Part::Output(name) => joined.push(paths.output(name)),
            }
        }
        Ok(joined)
    }
}

fn some(name: &str, paths: Vec<PathBuf>) -> Result<Vec<OsString>, String> {
    if paths.is_empty() {
        return Err(format!("nothing enters as `{name}`"));
    }
    Ok(paths.into_iter().map(Into::into).collect())
}

fn single(name: &str, paths: Vec<PathBuf>) -> Result<PathBuf, String> {
    let count = paths.len();
    let mut paths = paths.into_iter();
    match (paths.next(), paths.next()) {
        (Some(path), None) => Ok(path),
        (None, _) => Err(format!("nothing enters as `{name}`")),
        _ => Err(format!("`{name}` is {count} paths; it can be only an argument of its own")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Fixed;
    impl Paths for Fixed {
        fn inputs(&self, name: &str) -> Vec<PathBuf> {
            match name {
                "one" => vec!["/i/one".into()],
                "two" => vec!["/i/1".into(), "/i/2".into()],
                _ => Vec::new(),
            }
        }
        fn files(&self, name: &str) -> Vec<PathBuf> {
            vec![format!("/f/{name}").into()]
        }
        fn output(&self, name: &str) -> PathBuf {
            format!("/o/{name}").into()
        }
    }

    fn expand(text: &str) -> Result<Vec<OsString>, String> {
        Word::parse(text)?.expand(&Fixed)
    }

    #[test]
    fn placeholders_become_paths_and_other_braces_stay() {
        assert_eq!(expand("{inputs.one}"), Ok(vec!["/i/one".into()]));
        assert_eq!(
            expand("--in={inputs.one},{files.x}:{outputs.y}"),
            Ok(vec!["--in=/i/one,/f/x:/o/y".into()])
        );
        assert_eq!(expand("{inputs.two}"), Ok(vec!["/i/1".into(), "/i/2".into()]));
        for plain in ["", "{}", "{print $1}", "{\"a\": {}}", "{input.one}", "$(x)", "; rm -rf `x` \n * '"] {
            assert_eq!(expand(plain), Ok(vec![plain.into()]));
        }
    }

    #[test]
    fn what_has_no_path_is_an_error() {
        assert!(expand("x{inputs.two}").unwrap_err().contains("2 paths"));
        assert!(expand("{inputs.none}").unwrap_err().contains("nothing enters"));
        assert!(expand("{inputs.one").is_err());
        let word = Word::parse("{files.x}").unwrap();
        assert!(word.unknown(&IndexMap::new(), &[]).is_some());
    }
}
