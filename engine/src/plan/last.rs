//! `LastActions`: the last action of every node of an experiment, so that a plan can say what has changed.
//!
//! One file per experiment and profile, a line per node, written by runs when it changes. It is disposable: without it
//! nodes are decided the same, only the reasons are poorer.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io;
use std::path::PathBuf;

use dag_cache::{Digest, Layout};

use crate::files;
use crate::key::ActionKey;

/// Node name → its last action.
#[derive(Debug, Default)]
pub struct LastActions {
    path: PathBuf,
    text: String,
    /// Built from the text by the first look-up: a run that finds everything done asks for nothing.
    actions: std::cell::OnceCell<BTreeMap<String, ActionKey>>,
}

impl LastActions {
    /// What the runs of this experiment and profile have left; nothing, if that is missing or damaged.
    pub fn load(layout: &Layout, experiment: &str, profile: Option<&str>) -> Self {
        let name = format!("{experiment}\0{}", profile.unwrap_or_default());
        Self::read(layout.last(&Digest::of(name.as_bytes())))
    }

    /// What the file at `path` holds.
    pub fn read(path: PathBuf) -> Self {
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        Self { path, text, actions: std::cell::OnceCell::new() }
    }

    /// All of it.
    pub fn actions(&self) -> &BTreeMap<String, ActionKey> {
        self.actions.get_or_init(|| {
            let line = |line: &str| {
                let (action, node) = line.split_once(' ')?;
                Some((node.to_owned(), ActionKey(action.parse().ok()?)))
            };
            self.text.lines().filter_map(line).collect()
        })
    }

    /// The last action of `node`.
    pub fn get(&self, node: &str) -> Option<ActionKey> {
        self.actions().get(node).copied()
    }

    /// Writes what a run has found: `found` in any order, the rest as it was. Nothing is written if nothing changed.
    pub fn update<'a>(
        &self,
        found: impl Iterator<Item = (&'a str, ActionKey)>,
        whole: bool,
    ) -> io::Result<()> {
        let mut found: Vec<(&str, ActionKey)> = found.collect();
        if !whole {
            let new: std::collections::BTreeSet<&str> = found.iter().map(|&(node, _)| node).collect();
            let kept = self.actions().iter().filter(|(node, _)| !new.contains(node.as_str()));
            found.extend(kept.map(|(node, action)| (node.as_str(), *action)));
        }
        found.sort_unstable();
        let mut text = String::with_capacity(found.len() * 80);
        for (node, action) in found {
            writeln!(text, "{action} {node}").expect("writing to memory does not fail");
        }
        if text == self.text { Ok(()) } else { files::replace(&self.path, text.as_bytes()) }
    }

    /// Where it is kept.
    pub fn path(&self) -> &std::path::Path {
        &self.path
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_one_run_writes_the_next_one_reads() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::new(dir.path());
        let key = |text: &str| ActionKey(Digest::of(text.as_bytes()));
        let first = LastActions::load(&layout, "e", None);
        assert_eq!(first.get("a"), None);
        first.update([("b@x/1", key("b")), ("a", key("a"))].into_iter(), true).unwrap();
        let second = LastActions::load(&layout, "e", None);
        assert_eq!(second.get("b@x/1"), Some(key("b")));
        second.update([("a", key("c"))].into_iter(), false).unwrap();
        let third = LastActions::load(&layout, "e", None);
        assert_eq!((third.get("a"), third.get("b@x/1")), (Some(key("c")), Some(key("b"))));
        assert_eq!(LastActions::load(&layout, "e", Some("paper")).get("a"), None);
    }
}
