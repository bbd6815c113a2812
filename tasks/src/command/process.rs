//! One run of a program: its own process group, its words to a file, killed with all its children when asked to stop.

use std::ffi::OsString;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{self, ExitStatus, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use dag_engine::context::{Cancel, Progress};
use dag_engine::task::TaskError;

/// How often to look whether to stop, and at what the program has said.
const LOOK: Duration = Duration::from_millis(100);
/// What a program gets to end in order before it is killed.
const GRACE: Duration = Duration::from_secs(5);
/// How much of the end of what a program said goes into an error.
const TAIL: u64 = 4096;

/// A program about to run.
pub(super) struct Program {
    pub(super) argv: Vec<OsString>,
    pub(super) env: Vec<(OsString, OsString)>,
    /// Where it runs.
    pub(super) folder: PathBuf,
    pub(super) stdout: File,
    pub(super) stderr: File,
    /// The file behind `stderr`, and behind `stdout` where that is no output.
    pub(super) log: PathBuf,
}

impl Program {
    /// Runs it to its end. What it says goes to a file rather than a pipe: no reader can fall behind, and a grandchild
    /// that keeps the pipe open cannot keep us waiting.
    pub(super) fn run(self, cancel: &Cancel, progress: &Progress) -> Result<(), TaskError> {
        let (program, arguments) =
            self.argv.split_first().ok_or_else(|| TaskError::failed("there is no program to run"))?;
        let mut child = process::Command::new(program)
            .args(arguments)
            .env_clear()
            .envs(self.env)
            .current_dir(&self.folder)
            .stdin(Stdio::null())
            .stdout(self.stdout)
            .stderr(self.stderr)
            .process_group(0)
            .spawn()
            .map_err(|error| TaskError::failed(format!("`{}` cannot start: {error}", program.display())))?;
        let group = Group(child.id());
        let (sender, ended) = mpsc::channel();
        thread::spawn(move || {
            // Nobody listens any more if the run was given up; the child is reaped all the same.
            let _ = sender.send(child.wait());
        });
        let mut said = 0;
        let status = loop {
            match ended.recv_timeout(LOOK) {
                Ok(status) => break status.map_err(|error| TaskError::io(&self.folder, error))?,
                Err(RecvTimeoutError::Timeout) if cancel.is_cancelled() => {
                    group.signal(libc::SIGTERM);
                    let _ = ended.recv_timeout(GRACE);
                    group.signal(libc::SIGKILL);
                    return Err(TaskError::Cancelled);
                }
                Err(RecvTimeoutError::Timeout) => said = tell_last_line(&self.log, said, progress),
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(TaskError::failed("the thread that waits for the program is gone"));
                }
            }
        };
        // Children it left behind could still write to its outputs.
        group.signal(libc::SIGKILL);
        if status.success() {
            return Ok(());
        }
        let tail = tail(&self.log);
        let tail =
            if tail.is_empty() { "it said nothing".to_owned() } else { format!("it said at last:\n{tail}") };
        Err(TaskError::failed(format!("`{}` {}; {tail}", program.display(), describe(status))))
    }
}

/// A process group, by the id of its leader.
struct Group(u32);

impl Group {
    fn signal(&self, signal: i32) {
        let Ok(group) = i32::try_from(self.0) else { return };
        // SAFETY: `kill` takes no pointers; a negative id means the group, which is the child's own.
        unsafe {
            libc::kill(-group, signal);
        }
    }
}

fn describe(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("ended with exit code {code}"),
        (None, Some(signal)) => format!("was ended by signal {signal}"),
        (None, None) => "did not end well".to_owned(),
    }
}

/// Tells the last whole line that the program has written since `said` bytes, and gives the bytes there are.
fn tell_last_line(log: &Path, said: u64, progress: &Progress) -> u64 {
    let length = std::fs::metadata(log).map_or(0, |metadata| metadata.len());
    if length > said
        && let Some(line) = tail(log).lines().last()
    {
        progress.message(line);
    }
    length
}

/// The end of a file, from the start of a line where it was cut.
fn tail(path: &Path) -> String {
    let read = || -> std::io::Result<(Vec<u8>, bool)> {
        let mut file = File::open(path)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(TAIL)))?;
        let mut bytes = Vec::new();
        file.take(TAIL).read_to_end(&mut bytes)?;
        Ok((bytes, length > TAIL))
    };
    let Ok((bytes, was_cut)) = read() else { return String::new() };
    let text = String::from_utf8_lossy(&bytes);
    let text = match text.split_once('\n') {
        Some((_, rest)) if was_cut => rest,
        _ => &text,
    };
    text.trim_end().to_owned()
}
