//! The script that a job's tasks run: readable, so that a person can look at it and submit it again by hand.

use std::fmt::Write as _;
use std::path::Path;

use super::options::Options;
use crate::folder::{Generation, Part, Submission};

/// What the script starts.
pub(super) struct Start<'a> {
    /// This program, where every machine sees it.
    pub(super) program: &'a Path,
    /// The store.
    pub(super) store: &'a Path,
    /// The name of the node.
    pub(super) node: &'a str,
}

/// The text of the script of a submission.
pub(super) fn script(
    options: &Options,
    generation: &Generation,
    submission: &Submission,
    start: &Start<'_>,
) -> String {
    let mut text = format!("#!/bin/sh\n# {}: {}\n", submission.name, start.node.replace('\n', " "));
    if let Some(prelude) = &options.prelude {
        text.push_str(prelude.trim_end());
        text.push('\n');
    }
    // `exec`, so that signals for the script reach the worker.
    text.push_str("exec ");
    if let Some(image) = &options.container {
        let store = start.store.display();
        let mut mounts = format!("{store}:{store}");
        if let Some(more) = &options.container_mounts {
            mounts = format!("{mounts},{more}");
        }
        let _ = write!(
            text,
            "srun --ntasks=1 --container-image={} --container-mounts={} ",
            quoted(image),
            quoted(&mounts)
        );
    }
    let part = if submission.parts == [Part::Whole] { "whole" } else { "\"$SLURM_ARRAY_TASK_ID\"" };
    let _ = write!(
        text,
        "{} --store {} worker {} --submission {} --part {part}",
        quoted(&start.program.display().to_string()),
        quoted(&start.store.display().to_string()),
        quoted(&generation.path.display().to_string()),
        submission.number,
    );
    if let Some(time) = options.stop_after() {
        let _ = write!(text, " --time {}", time.as_secs());
    }
    text.push_str(" --attempt \"${SLURM_JOB_ID}.${SLURM_RESTART_COUNT:-0}\" --host \"${SLURMD_NODENAME:-$(hostname)}\"\n");
    text
}

/// A word for the shell that stands for itself.
fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', "'\\''"))
}

/// The tasks of an array as `--array` takes them: `0-3,7`.
pub(super) fn indices(parts: &[Part]) -> String {
    let mut numbers: Vec<u32> = parts
        .iter()
        .filter_map(|part| match part {
            Part::Shard(number) => Some(*number),
            Part::Whole => None,
        })
        .collect();
    numbers.sort_unstable();
    let ranges = numbers.chunk_by(|one, next| next - one == 1).map(|range| match range {
        [only] => only.to_string(),
        [first, .., last] => format!("{first}-{last}"),
        [] => String::new(),
    });
    ranges.collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arrays_are_written_short() {
        let parts: Vec<Part> = [9, 0, 1, 2, 3, 7, 8].map(Part::Shard).into();
        assert_eq!(indices(&parts), "0-3,7-9");
        assert_eq!(indices(&[Part::Shard(5)]), "5");
    }

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
        let options =
            Options { prelude: Some("SLURM_JOB_ID=7\nSLURMD_NODENAME=n1\n".into()), ..Options::default() };
        let start = Start { program: &echo, store: &folder, node: "a\nb" };
        let text = script(&options, &generation, &submission, &start);
        let output = std::process::Command::new("sh").args(["-c", &text]).output().unwrap();
        let folder = folder.display();
        assert_eq!(
            String::from_utf8(output.stdout).unwrap(),
            format!("--store|{folder}|worker|{folder}|--submission|3|--part|whole|--attempt|7.0|--host|n1|")
        );
    }
}
