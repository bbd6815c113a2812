//! The script that a job's tasks run: readable, so that a person can look at it and start it again by hand.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::time::Duration;

use crate::folder::{Generation, Submission};
use crate::queue::Refused;

/// What a script starts, and how.
pub(crate) struct Start<'a> {
    /// This program, where every machine sees it.
    pub(crate) program: &'a Path,
    /// The store.
    pub(crate) store: &'a Path,
    /// The name of the node.
    pub(crate) node: &'a str,
    /// Shell lines before the worker.
    pub(crate) prelude: Option<&'a str>,
    /// What stands before the worker on its own line, each a word.
    pub(crate) launcher: &'a [String],
    /// The part, what the scheduler calls the attempt, and the machine, as the shell finds them out.
    pub(crate) part: &'a str,
    pub(crate) attempt: &'a str,
    pub(crate) host: &'a str,
    /// After so long the worker stops by itself.
    pub(crate) time: Option<Duration>,
}

/// The text of the script of a submission.
pub(crate) fn script(generation: &Generation, submission: &Submission, start: &Start<'_>) -> String {
    let mut text = head(&submission.name, start.node, start.prelude, start.launcher);
    let _ = write!(
        text,
        "{} --store {} worker {} --submission {} --part {}",
        quoted(&start.program.display().to_string()),
        quoted(&start.store.display().to_string()),
        quoted(&generation.path.display().to_string()),
        submission.number,
        start.part,
    );
    if let Some(time) = start.time {
        let _ = write!(text, " --time {}", time.as_secs());
    }
    let _ = writeln!(text, " --attempt {} --host {}", start.attempt, start.host);
    text
}

/// The lines before the program, and what stands before it on its own line.
pub(crate) fn head(name: &str, about: &str, prelude: Option<&str>, launcher: &[String]) -> String {
    let mut text = format!("#!/bin/sh\n# {name}: {}\n", about.replace('\n', " "));
    if let Some(prelude) = prelude {
        text.push_str(prelude.trim_end());
        text.push('\n');
    }
    // `exec`, so that signals for the script reach the worker.
    text.push_str("exec ");
    for word in launcher {
        text.push_str(&quoted(word));
        text.push(' ');
    }
    text
}

/// Writes a script where its job finds it.
pub(crate) fn keep(file: &Path, text: &str) -> Result<(), Refused> {
    fs::write(file, text).map_err(|error| Refused::Wrong(format!("{}: {error}", file.display())))
}

/// A word for the shell that stands for itself.
pub(crate) fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', "'\\''"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::folder::Part;

    #[test]
    fn the_shell_reads_every_word_as_it_is() {
        let directory = tempfile::tempdir().unwrap();
        let folder = directory.path().join("it's a $(store)");
        let generation = Generation { path: folder.clone(), shards: 1 };
        let submission = Submission { number: 3, name: "dag-x-3".into(), parts: vec![Part::Whole], id: None };
        let echo = directory.path().join("my prog");
        std::fs::write(&echo, "#!/bin/sh\nprintf '%s|' \"$@\"\n").unwrap();
        let mut permissions = std::fs::metadata(&echo).unwrap().permissions();
        std::os::unix::fs::PermissionsExt::set_mode(&mut permissions, 0o755);
        std::fs::set_permissions(&echo, permissions).unwrap();
        let start = Start {
            program: &echo,
            store: &folder,
            node: "a\nb",
            prelude: Some("JOB=7\n"),
            launcher: &["env".to_owned(), "X=it's".to_owned()],
            part: "whole",
            attempt: "\"$JOB.0\"",
            host: "\"${NODE:-n1}\"",
            time: Some(Duration::from_secs(90)),
        };
        let text = script(&generation, &submission, &start);
        let output = std::process::Command::new("sh").args(["-c", &text]).output().unwrap();
        let folder = folder.display();
        assert_eq!(
            String::from_utf8(output.stdout).unwrap(),
            format!(
                "--store|{folder}|worker|{folder}|--submission|3|--part|whole|--time|90|--attempt|7.0|--host|n1|"
            )
        );
    }
}
