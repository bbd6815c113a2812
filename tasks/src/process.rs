//! One run of a program: its own process group, its words to a file, asked to end in order when it must stop and killed with all
//! its children if it does not.

use std::ffi::OsString;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::os::fd::AsRawFd;
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
/// How much of the end of what a program said goes into an error.
const TAIL: u64 = 4096;

/// What a program gets to end in order before it is killed, unless a task gives it more.
pub(crate) const GRACE: Duration = Duration::from_secs(5);

/// Environment variables that every program gets, where they are set.
pub(crate) const HANDED_THROUGH: [&str; 7] =
    ["PATH", "HOME", "USER", "LANG", "LC_ALL", "TMPDIR", "CUDA_VISIBLE_DEVICES"];

/// A program about to run.
pub(crate) struct Program {
    pub(crate) argv: Vec<OsString>,
    pub(crate) env: Vec<(OsString, OsString)>,
    /// Where it runs.
    pub(crate) folder: PathBuf,
    pub(crate) stdout: File,
    pub(crate) stderr: File,
    /// The file behind `stderr`, and behind `stdout` where that is no output.
    pub(crate) log: PathBuf,
    pub(crate) stop: Stop,
}

/// How a program is asked to stop.
pub(crate) struct Stop {
    /// The signal that asks it.
    pub(crate) signal: i32,
    /// What it gets to end in order after that.
    pub(crate) grace: Duration,
    /// A locked file that the program inherits: whoever wants the lock afterwards waits for a program that outlived this
    /// process. Such a program is also sent SIGTERM when this process dies.
    pub(crate) lock: Option<File>,
}

impl Default for Stop {
    fn default() -> Self {
        Self { signal: libc::SIGTERM, grace: GRACE, lock: None }
    }
}

impl Program {
    /// Runs it to its end. What it says goes to a file rather than a pipe: no reader can fall behind, and a grandchild
    /// that keeps the pipe open cannot keep us waiting.
    ///
    /// `look` is called now and then while it runs and once when it has ended; what it finds wrong ends the program.
    pub(crate) fn run(
        self,
        cancel: &Cancel,
        mut look: impl FnMut() -> Result<(), TaskError>,
    ) -> Result<(), TaskError> {
        let (program, arguments) =
            self.argv.split_first().ok_or_else(|| TaskError::failed("there is no program to run"))?;
        let mut command = process::Command::new(program);
        command
            .args(arguments)
            .env_clear()
            .envs(self.env)
            .current_dir(&self.folder)
            .stdin(Stdio::null())
            .stdout(self.stdout)
            .stderr(self.stderr)
            .process_group(0);
        if let Some(lock) = &self.stop.lock {
            hold(&mut command, lock);
        }
        let mut child = command
            .spawn()
            .map_err(|error| TaskError::failed(format!("`{}` cannot start: {error}", program.display())))?;
        let group = Group(child.id());
        let (sender, ended) = mpsc::channel();
        thread::spawn(move || {
            // Nobody listens any more if the run was given up; the child is reaped all the same.
            let _ = sender.send(child.wait());
        });
        let status = loop {
            match ended.recv_timeout(LOOK) {
                Ok(status) => break status.map_err(|error| TaskError::io(&self.folder, error))?,
                Err(RecvTimeoutError::Timeout) if cancel.is_cancelled() => {
                    group.ask(self.stop.signal);
                    let _ = ended.recv_timeout(self.stop.grace);
                    group.signal(libc::SIGKILL);
                    return Err(TaskError::Cancelled);
                }
                Err(RecvTimeoutError::Timeout) => {
                    if let Err(error) = look() {
                        group.ask(libc::SIGTERM);
                        let _ = ended.recv_timeout(GRACE);
                        group.signal(libc::SIGKILL);
                        return Err(error);
                    }
                }
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(TaskError::failed("the thread that waits for the program is gone"));
                }
            }
        };
        // Children it left behind could still write to its outputs.
        group.signal(libc::SIGKILL);
        look()?;
        if status.success() {
            return Ok(());
        }
        let tail = tail(&self.log);
        let tail =
            if tail.is_empty() { "it said nothing".to_owned() } else { format!("it said at last:\n{tail}") };
        Err(TaskError::failed(format!("`{}` {}; {tail}", program.display(), describe(status))))
    }
}

/// Lets the program inherit the lock, and ties its life to this process.
fn hold(command: &mut process::Command, lock: &File) {
    let descriptor = lock.as_raw_fd();
    // SAFETY: between fork and exec only these two system calls are made, which take no memory and no lock. The descriptor is
    // open: the file outlives the command.
    unsafe {
        command.pre_exec(move || {
            if libc::fcntl(descriptor, libc::F_SETFD, 0) == -1 {
                return Err(std::io::Error::last_os_error());
            }
            #[cfg(target_os = "linux")]
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGTERM);
            Ok(())
        });
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

    /// Asks to end in order. Workers of `torchrun` on this machine are asked themselves: each has a session of its own, and
    /// asked through torchrun they would be killed after 30 seconds, which is less than a large checkpoint takes.
    fn ask(&self, signal: i32) {
        let workers = workers_of(self.0);
        if workers.is_empty() {
            return self.signal(signal);
        }
        for worker in workers {
            // SAFETY: `kill` takes no pointers. The id was that of a descendant a moment ago.
            unsafe {
                libc::kill(worker, signal);
            }
        }
    }
}

/// The processes below `ancestor` that torchrun has started: the topmost that carry its mark in their environment.
fn workers_of(ancestor: u32) -> Vec<i32> {
    let Ok(ancestor) = i32::try_from(ancestor) else { return Vec::new() };
    let processes: Vec<(i32, i32)> = std::fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            let id: i32 = entry.file_name().to_str()?.parse().ok()?;
            let stat = std::fs::read_to_string(entry.path().join("stat")).ok()?;
            // The name in parentheses may hold anything; after it come the state and the parent.
            let parent = stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()?;
            Some((id, parent))
        })
        .collect();
    let (mut workers, mut open) = (Vec::new(), vec![ancestor]);
    while let Some(parent) = open.pop() {
        for &(id, _) in processes.iter().filter(|(_, of)| *of == parent) {
            let environment = std::fs::read(format!("/proc/{id}/environ")).unwrap_or_default();
            let is_worker =
                environment.split(|byte| *byte == 0).any(|entry| entry.starts_with(b"TORCHELASTIC_RUN_ID="));
            if is_worker { workers.push(id) } else { open.push(id) }
        }
    }
    workers
}

fn describe(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("ended with exit code {code}"),
        (None, Some(signal)) => format!("was ended by signal {signal}"),
        (None, None) => "did not end well".to_owned(),
    }
}

/// Tells the last whole line of a log whenever it has grown.
pub(crate) fn last_line_to<'a>(
    progress: &'a Progress,
    log: &'a Path,
) -> impl FnMut() -> Result<(), TaskError> + 'a {
    let mut said = 0;
    move || {
        let length = std::fs::metadata(log).map_or(0, |metadata| metadata.len());
        if length > said
            && let Some(line) = tail(log).lines().last()
        {
            progress.message(line);
        }
        said = length;
        Ok(())
    }
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
