//! Where supervisors run: as processes of this machine, or as jobs of Slurm.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use dag_cache::process_started;
use dag_engine::service::{Service, ServiceSite};

use super::files::{Attempt, Folder};
use super::process::signal_group;
use crate::folder::Part;
use crate::queue::{Ending, Handle, Refused, Standing, Trouble};
use crate::slurm::{self, Job, Slurm};

/// Runs supervisors.
pub(super) trait Place {
    /// Starts one; gives what finds it again.
    fn submit(&mut self, folder: &Folder, attempt: Attempt, name: &str) -> Result<String, Refused>;

    /// What finds the one of this name, if it was started.
    fn find(&self, name: &str) -> Result<Option<String>, Trouble>;

    /// Where they stand, by name. One that is not listed is not known (any more).
    fn standings(&mut self, handles: &[Handle]) -> Result<BTreeMap<String, Standing>, Trouble>;

    /// Asks them to end.
    fn cancel(&mut self, handles: &[Handle]) -> Result<(), Trouble>;

    /// Nobody waits for them any more.
    fn forget(&mut self, handles: &[Handle]);

    /// Ends what a supervisor that died has left behind.
    fn bury(&self, folder: &Folder, attempt: Attempt);

    /// How long a supervisor may be unknown, or over without a word, before it counts as lost.
    fn grace(&self) -> Duration;
}

/// This machine.
pub(super) struct Local<'a> {
    service: &'a Service,
    site: &'a ServiceSite,
    children: BTreeMap<String, Child>,
}

impl<'a> Local<'a> {
    pub(super) fn new(service: &'a Service, site: &'a ServiceSite) -> Self {
        Self { service, site, children: BTreeMap::new() }
    }

    /// The GPUs of one replica.
    fn gpus(&self, replica: u32) -> Vec<String> {
        let each = self.service.resources.gpus as usize;
        let own = self.site.gpus.iter().skip(replica as usize * each).take(each);
        own.map(ToString::to_string).collect()
    }
}

/// A process, told from a later one with its id: `ID.BEGAN`.
fn process_of(id: &str) -> Option<(u32, u64)> {
    let (process, start) = id.split_once('.')?;
    Some((process.parse().ok()?, start.parse().ok()?))
}

impl Place for Local<'_> {
    fn submit(&mut self, folder: &Folder, attempt: Attempt, _name: &str) -> Result<String, Refused> {
        let wrong = |what: String| Refused::Wrong(format!("its supervisor cannot be started: {what}"));
        let program = std::env::current_exe().map_err(|error| wrong(error.to_string()))?;
        let log = fs::File::options().create(true).append(true).open(folder.log(attempt));
        let log = log.map_err(|error| wrong(error.to_string()))?;
        let mut command = Command::new(program);
        command
            .arg("--store")
            .arg(self.site.view.layout().root())
            .arg("serve")
            .arg(folder.path())
            .args(["--replica", &attempt.replica.to_string(), "--attempt", &attempt.number.to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            // Of its own, so that Ctrl-C does not reach it: what is in flight is finished first.
            .process_group(0);
        let secrets = self.service.env.iter().filter(|(name, _)| self.service.secrets.contains(*name));
        command.envs(secrets);
        let gpus = self.gpus(attempt.replica);
        if !gpus.is_empty() {
            command.env("CUDA_VISIBLE_DEVICES", gpus.join(","));
        }
        let child = command.spawn().map_err(|error| wrong(error.to_string()))?;
        let id = format!("{}.{}", child.id(), process_started(child.id()).unwrap_or(0));
        self.children.insert(id.clone(), child);
        Ok(id)
    }

    fn find(&self, _name: &str) -> Result<Option<String>, Trouble> {
        Ok(None)
    }

    fn standings(&mut self, handles: &[Handle]) -> Result<BTreeMap<String, Standing>, Trouble> {
        let mut standings = BTreeMap::new();
        for handle in handles {
            let is_alive = match self.children.get_mut(&handle.id) {
                Some(child) => child.try_wait().is_ok_and(|status| status.is_none()),
                None => process_of(&handle.id)
                    .is_some_and(|(process, start)| process_started(process) == Some(start)),
            };
            let standing =
                if is_alive { Standing::Running(String::new()) } else { Standing::Over(Ending::Failed) };
            standings.insert(handle.name.clone(), standing);
        }
        Ok(standings)
    }

    fn cancel(&mut self, handles: &[Handle]) -> Result<(), Trouble> {
        for (process, start) in handles.iter().filter_map(|handle| process_of(&handle.id)) {
            if process_started(process) == Some(start) {
                signal_group(process, libc::SIGTERM);
            }
        }
        Ok(())
    }

    fn forget(&mut self, handles: &[Handle]) {
        for handle in handles {
            if let Some(mut child) = self.children.remove(&handle.id) {
                // It has ended, or had its time to; it is reaped, so that nothing of it is left.
                let _ = child.kill();
                let _ = child.wait();
            }
        }
    }

    fn bury(&self, folder: &Folder, attempt: Attempt) {
        // Only a process that is still the one it was: ids come again.
        if let Some(server) = folder.server(attempt)
            && server.began.is_some()
            && process_started(server.id) == server.began
        {
            signal_group(server.id, libc::SIGKILL);
        }
    }

    fn grace(&self) -> Duration {
        Duration::ZERO
    }
}

/// Jobs of Slurm.
pub(super) struct OnSlurm<'a> {
    pub(super) slurm: &'a Slurm,
    pub(super) job: Job,
    pub(super) service: &'a Service,
    pub(super) site: &'a ServiceSite,
}

impl Place for OnSlurm<'_> {
    fn submit(&mut self, folder: &Folder, attempt: Attempt, name: &str) -> Result<String, Refused> {
        let service = self.service;
        let secrets = service.env.iter().filter(|(name, _)| service.secrets.contains(*name));
        let secrets = secrets.map(|(name, value)| (name.clone(), value.clone())).collect();
        let words = ["serve".to_owned(), folder.path().display().to_string()];
        let tail = format!(
            " --replica {} --attempt {} --job \"$SLURM_JOB_ID\" --machine \"${{SLURMD_NODENAME:-$(hostname)}}\"",
            attempt.replica, attempt.number
        );
        self.job.submit(
            &self.site.view,
            name,
            &words,
            &tail,
            &folder.script(attempt),
            &folder.log(attempt),
            &secrets,
        )
    }

    fn find(&self, name: &str) -> Result<Option<String>, Trouble> {
        slurm::find(name)
    }

    fn standings(&mut self, handles: &[Handle]) -> Result<BTreeMap<String, Standing>, Trouble> {
        let standings = self.slurm.standings(handles)?;
        let whole = standings.into_iter().filter(|((_, part), _)| *part == Part::Whole);
        Ok(whole.map(|((name, _), standing)| (name, standing)).collect())
    }

    fn cancel(&mut self, handles: &[Handle]) -> Result<(), Trouble> {
        slurm::cancel(handles)
    }

    fn forget(&mut self, handles: &[Handle]) {
        self.slurm.forget(handles);
    }

    /// Slurm ends all that a job has started.
    fn bury(&self, _folder: &Folder, _attempt: Attempt) {}

    fn grace(&self) -> Duration {
        self.job.grace()
    }
}
