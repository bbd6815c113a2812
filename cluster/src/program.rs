//! Runs a scheduler's command-line tool, and does not wait for it for ever.

use std::io::Read;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// How long a tool may take. Schedulers under load take seconds; one that is down makes its tools wait much longer.
const PATIENCE: Duration = Duration::from_secs(45);
/// How often to look whether it has ended.
const LOOK: Duration = Duration::from_millis(2);

/// What a tool said.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) success: bool,
    pub(crate) output: String,
    pub(crate) error: String,
}

/// Runs a tool to its end. An error says that it could not be started, or did not end.
pub(crate) fn run(mut command: Command) -> Result<Said, String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let spawned = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut child = spawned.map_err(|error| format!("`{name}` cannot start: {error}"))?;
    let output = reader(child.stdout.take());
    let error = reader(child.stderr.take());
    let success = wait(&mut child).map_err(|what| format!("`{name}` {what}"))?;
    let text = |reader: thread::JoinHandle<Vec<u8>>| {
        String::from_utf8_lossy(&reader.join().unwrap_or_default()).trim_end().to_owned()
    };
    Ok(Said { success, output: text(output), error: text(error) })
}

fn wait(child: &mut Child) -> Result<bool, String> {
    let began = Instant::now();
    loop {
        match child.try_wait() {
            Ok(Some(status)) => return Ok(status.success()),
            Ok(None) if began.elapsed() > PATIENCE => {
                // It is reaped here, so that no process of ours is left.
                let _ = child.kill();
                let _ = child.wait();
                return Err(format!("did not answer within {} s", PATIENCE.as_secs()));
            }
            Ok(None) => thread::sleep(LOOK),
            Err(error) => return Err(format!("cannot be waited for: {error}")),
        }
    }
}

/// Reads a pipe beside the others: a tool that fills one must not wait for us to have read the other.
fn reader(pipe: Option<impl Read + Send + 'static>) -> thread::JoinHandle<Vec<u8>> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut pipe) = pipe {
            // What was read until a fault is all there is.
            let _ = pipe.read_to_end(&mut bytes);
        }
        bytes
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_streams_are_read_however_much_is_said() {
        let mut command = Command::new("sh");
        command.args([
            "-c",
            "head -c 300000 /dev/zero | tr '\\0' e >&2; head -c 300000 /dev/zero | tr '\\0' o; exit 3",
        ]);
        let said = run(command).unwrap();
        assert_eq!((said.success, said.output.len(), said.error.len()), (false, 300_000, 300_000));
        assert!(run(Command::new("/no/such/program")).unwrap_err().contains("cannot start"));
    }
}
