//! Files, profile and `--set` to one document: what `extends` brings, then the file, then the profile.
//!
//! Values given by `--set` to params are kept apart, because they also come before an arm's parameters.

use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use super::LoadOptions;
use super::diagnostic::{Diagnostic, Diagnostics};
use super::source::{SourceId, Sources, Span};
use super::tree::{Field, Map, Tree, Value};
use super::yaml;

/// The fields of an experiment file.
pub(crate) const FIELDS: [&str; 14] = [
    "name", "about", "extends", "profile", "profiles", "seed", "params", "arms", "axes", "nodes", "run",
    "limits", "remote", "services",
];
/// The fields that a profile or a `--set` may overlay. Any other name in them is a param.
pub(crate) const SECTIONS: [&str; 9] =
    ["seed", "params", "arms", "axes", "nodes", "run", "limits", "remote", "services"];
/// The fields that hold maps.
const MAPS: [&str; 8] = ["profiles", "params", "arms", "axes", "nodes", "run", "limits", "services"];
/// How many files may extend one another.
const MAX_FILES: usize = 16;

/// An experiment with its files joined and its profile laid on.
pub(super) struct Document {
    /// The joined file.
    pub tree: Tree,
    /// What `--set` gives to params.
    pub sets: Tree,
    /// The paths that `--set` gives, with their places.
    pub set_paths: Vec<(String, Span)>,
    /// The profile that was chosen.
    pub profile: Option<Arc<str>>,
    /// The source that stands for the command line.
    pub command_line: SourceId,
    /// All that was read.
    pub sources: Sources,
    /// What is wrong so far.
    pub faults: Vec<Diagnostic>,
}

/// Reads the file at `path` and all that it extends.
pub(super) fn load(path: &Path, options: &LoadOptions<'_>) -> Result<Document, Diagnostics> {
    let mut sources = Sources::default();
    let command_line = sources.add("command line", options.directory, "");
    let mut faults = Vec::new();
    let Some(mut tree) = read_chain(path, options, &mut sources, &mut faults) else {
        return Err(Diagnostics::new(Arc::new(sources), faults));
    };
    let profile = choose_profile(&tree, options, &mut sources, &mut faults);
    let Ok(profile) = profile else {
        return Err(Diagnostics::new(Arc::new(sources), faults));
    };
    if let Some((_, overlay)) = &profile {
        tree = tree.overlaid(&as_sections(overlay, "profile", &mut faults));
    }
    let mut sets = Tree::empty_map(Span { source: command_line, start: 0, length: 0 });
    let mut set_paths = Vec::new();
    for (key, value) in &options.sets {
        let Some((set, path)) = read_set(key, value, options, &mut sources, &mut faults) else { continue };
        if !check_set_target(&tree, &path, &mut faults) {
            continue;
        }
        let overlay = as_sections(&set, "`--set`", &mut faults);
        if let Some(params) = overlay.get("params") {
            sets = sets.overlaid(&params.tree);
        }
        tree = tree.overlaid(&overlay);
        set_paths.push(path);
    }
    let profile = profile.map(|(name, _)| name);
    Ok(Document { tree, sets, set_paths, profile, command_line, sources, faults })
}

/// Reads `path`, then what it extends, and joins them. `None` if one of them cannot be read.
fn read_chain(
    path: &Path,
    options: &LoadOptions<'_>,
    sources: &mut Sources,
    faults: &mut Vec<Diagnostic>,
) -> Option<Tree> {
    let mut chain: Vec<Tree> = Vec::new();
    let mut visited: Vec<PathBuf> = Vec::new();
    let mut next = Some((path.to_owned(), None));
    while let Some((path, extends)) = next.take() {
        let absolute = normalised(&options.directory.join(&path));
        if let Some(first) = visited.iter().position(|other| *other == absolute) {
            let names: Vec<_> =
                visited[first..].iter().chain([&absolute]).map(|path| file_name(path)).collect();
            faults.push(fault_at(extends, format!("the files extend each other: {}", names.join(" → "))));
            return None;
        }
        if visited.len() == MAX_FILES {
            faults.push(fault_at(extends, format!("more than {MAX_FILES} files extend one another")));
            return None;
        }
        let text = match (options.read)(&absolute).map(String::from_utf8) {
            Ok(Ok(text)) => text,
            Ok(Err(_)) => {
                faults.push(fault_at(extends, format!("`{}` is not UTF-8 text", path.display())));
                return None;
            }
            Err(error) => {
                faults.push(fault_at(extends, format!("`{}` cannot be read: {error}", path.display())));
                return None;
            }
        };
        let directory = absolute.parent().unwrap_or(&absolute);
        let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
        let source = sources.add(&path.display().to_string(), directory, text);
        visited.push(absolute.clone());
        let tree = check_fields(&yaml::parse(sources, source, faults)?, faults);
        if let Some(field) = tree.get("extends") {
            if let Some(base) = field.tree.as_text().filter(|text| !text.is_empty()) {
                let base = normalised(&path.parent().unwrap_or(Path::new("")).join(&**base));
                next = Some((base, Some(field.tree.span)));
            } else {
                faults.push(Diagnostic::at(field.tree.span, "`extends` is the path of one file"));
            }
        }
        chain.push(tree);
    }
    chain.into_iter().rev().reduce(|below, above| below.overlaid(&above))
}

/// The file with only the fields that a file has, each of the right shape; the others are faults.
fn check_fields(tree: &Tree, faults: &mut Vec<Diagnostic>) -> Tree {
    let Value::Map(map) = &tree.value else {
        let what = if matches!(tree.value, Value::Null) {
            "the file is empty"
        } else {
            "an experiment is a map of fields"
        };
        faults.push(Diagnostic::at(tree.span, what).help("the smallest experiment is `nodes: {}`"));
        return Tree::empty_map(tree.span);
    };
    let mut kept = Map::new();
    for (name, field) in map.iter() {
        if !FIELDS.contains(&&**name) {
            let fault = Diagnostic::at(field.key, format!("an experiment has no field `{name}`"))
                .suggest(name, FIELDS);
            faults.push(fault.help("values of your own stand under `params:`"));
        } else if MAPS.contains(&&**name) && !matches!(field.tree.value, Value::Map(_) | Value::Null) {
            faults.push(Diagnostic::at(
                field.tree.span,
                format!("`{name}` is a map, not {}", field.tree.what()),
            ));
        } else if !matches!(field.tree.value, Value::Null) {
            kept.insert(Arc::clone(name), field.clone());
        }
    }
    Tree::new(tree.span, Value::Map(Arc::new(kept)))
}

/// The profile asked for, or the file's default. `Err` if there is none of that name, which has been reported.
fn choose_profile(
    tree: &Tree,
    options: &LoadOptions<'_>,
    sources: &mut Sources,
    faults: &mut Vec<Diagnostic>,
) -> Result<Option<(Arc<str>, Tree)>, ()> {
    let (name, span) = if let Some(name) = &options.profile {
        let source = sources.add("--profile", options.directory, name);
        (Arc::<str>::from(name.as_str()), Span { source, start: 0, length: name.len() as u32 })
    } else if let Some(field) = tree.get("profile") {
        let Some(name) = field.tree.as_text() else {
            faults.push(Diagnostic::at(field.tree.span, "`profile` is the name of the default profile"));
            return Err(());
        };
        (Arc::clone(name), field.tree.span)
    } else {
        return Ok(None);
    };
    let profiles = tree.get("profiles").and_then(|field| field.tree.as_map());
    if let Some(field) = profiles.and_then(|profiles| profiles.get(&name)) {
        return joined_profile(&name, field, profiles, faults).map(|tree| Some((name, tree)));
    }
    let names = profiles.into_iter().flat_map(Map::keys).map(|name| &**name);
    let fault = Diagnostic::at(span, format!("there is no profile `{name}`")).suggest(&name, names);
    let has_none = profiles.is_none_or(Map::is_empty);
    faults.push(if has_none {
        fault.help("the file has no `profiles:`; leave `--profile` out")
    } else {
        fault
    });
    Err(())
}

/// A profile laid on the one it extends, and that on what it extends.
fn joined_profile(
    name: &Arc<str>,
    field: &Field,
    profiles: Option<&Map>,
    faults: &mut Vec<Diagnostic>,
) -> Result<Tree, ()> {
    let (mut field, mut names, mut above) = (field, vec![Arc::clone(name)], Vec::new());
    loop {
        let tree = match &field.tree.value {
            Value::Null => &Tree::empty_map(field.key),
            Value::Map(_) => &field.tree,
            _ => {
                let message = format!("a profile is a map, not {}", field.tree.what());
                faults.push(Diagnostic::at(field.tree.span, message));
                return Err(());
            }
        };
        let own = tree.as_map().into_iter().flatten().filter(|(name, _)| &***name != "extends");
        let own: Map = own.map(|(name, field)| (Arc::clone(name), field.clone())).collect();
        above.push(Tree::new(tree.span, Value::Map(own.into())));
        let Some(extends) = tree.get("extends") else { break };
        let at = |message: String| Diagnostic::at(extends.tree.span, message);
        let Some(base) = extends.tree.as_text() else {
            faults.push(at("a profile extends one other, by its name".to_owned()));
            return Err(());
        };
        if names.contains(base) {
            faults.push(at(format!("the profiles extend each other: {} → {base}", names.join(" → "))));
            return Err(());
        }
        let Some(found) = profiles.and_then(|profiles| profiles.get(base)) else {
            let known = profiles.into_iter().flat_map(Map::keys).map(|name| &**name);
            faults.push(at(format!("there is no profile `{base}`")).suggest(base, known));
            return Err(());
        };
        names.push(Arc::clone(base));
        field = found;
    }
    let joined = above.into_iter().rev().reduce(|below, above| below.overlaid(&above));
    Ok(joined.expect("a profile extends at least itself"))
}

/// An overlay with its free names under `params`, which is where they belong.
fn as_sections(overlay: &Tree, whose: &str, faults: &mut Vec<Diagnostic>) -> Tree {
    let (mut sections, mut params) = (Map::new(), Map::new());
    for (name, field) in overlay.as_map().into_iter().flatten() {
        if SECTIONS.contains(&&**name) {
            if MAPS.contains(&&**name) && field.tree.as_map().is_none() {
                faults.push(Diagnostic::at(
                    field.tree.span,
                    format!("`{name}` is a map, not {}", field.tree.what()),
                ));
                continue;
            }
            sections.insert(Arc::clone(name), field.clone());
        } else if FIELDS.contains(&&**name) {
            faults.push(Diagnostic::at(field.key, format!("{whose} cannot change `{name}`")));
        } else {
            params.insert(Arc::clone(name), field.clone());
        }
    }
    if !params.is_empty() {
        let free = Tree::new(overlay.span, Value::Map(Arc::new(params)));
        let declared =
            sections.get("params").map_or_else(|| Tree::empty_map(overlay.span), |field| field.tree.clone());
        sections.insert("params".into(), Field { key: overlay.span, tree: declared.overlaid(&free) });
    }
    Tree::new(overlay.span, Value::Map(Arc::new(sections)))
}

/// `a.b=value` as a map of one path, and that path.
fn read_set(
    key: &str,
    value: &str,
    options: &LoadOptions<'_>,
    sources: &mut Sources,
    faults: &mut Vec<Diagnostic>,
) -> Option<(Tree, (String, Span))> {
    let source = sources.add("--set", options.directory, &format!("{key}={value}"));
    let span = Span { source, start: 0, length: key.len() as u32 };
    if key.split('.').any(str::is_empty) {
        faults.push(
            Diagnostic::at(span, format!("`{key}` is not a path")).help("write `--set name.field=value`"),
        );
        return None;
    }
    let start = Span { start: span.length + 1, length: 0, ..span };
    let mut tree = yaml::parse_inline(value, start, faults)?;
    for segment in key.rsplit('.') {
        let map = Map::from([(segment.into(), Field { key: span, tree })]);
        tree = Tree::new(span, Value::Map(Arc::new(map)));
    }
    let path = key.strip_prefix("params.").unwrap_or(key);
    Some((tree, (path.to_owned(), span)))
}

/// A `--set` of a section must hit something that is there; params are checked once all uses of them are known.
fn check_set_target(tree: &Tree, (path, span): &(String, Span), faults: &mut Vec<Diagnostic>) -> bool {
    let mut segments = path.split('.');
    let (Some(section), Some(name)) = (segments.next(), segments.next()) else { return true };
    if !["nodes", "arms", "axes", "services"].contains(&section) {
        return true;
    }
    let entries = tree.get(section).and_then(|field| field.tree.as_map());
    let exists = entries.is_some_and(|entries| entries.contains_key(name));
    if !exists {
        let names = entries.into_iter().flat_map(Map::keys).map(|name| &**name);
        faults.push(Diagnostic::at(*span, format!("`{section}` has no `{name}`")).suggest(name, names));
    }
    exists
}

fn fault_at(span: Option<Span>, message: String) -> Diagnostic {
    match span {
        Some(span) => Diagnostic::at(span, message),
        None => Diagnostic::new(message),
    }
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned()
}

/// `path` without `.` and with `..` applied, by its text alone.
pub(crate) fn normalised(path: &Path) -> PathBuf {
    let mut out = PathBuf::with_capacity(path.as_os_str().len());
    for component in path.components() {
        match component {
            Component::CurDir => {}
            Component::ParentDir if matches!(out.components().next_back(), Some(Component::Normal(_))) => {
                out.pop();
            }
            other => out.push(other),
        }
    }
    out
}
