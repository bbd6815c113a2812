//! The supervisor of one replica: starts the server, tells where it answers, starts it again when it dies, and ends it when
//! nobody wants it any more. `dag serve` runs it: beside the run on the same machine, or as a job.

use std::collections::VecDeque;
use std::fs;
use std::io;
use std::net::TcpListener;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use dag_cache::process_started;
use dag_engine::context::Cancel;
use dag_engine::service::Endpoint;
use tokio::runtime::{Builder, Runtime};

use super::files::{Attempt, Description, End, Folder, LeaseWatch, ServerProcess, bind};
use super::process::signal_group;
use crate::folder::nonce;

/// How often to look at everything: on this machine, and on a file system that others share.
const LOOK: Duration = Duration::from_millis(100);
const LOOK_SHARED: Duration = Duration::from_millis(500);
/// How long a server gets to end in order.
const GRACE: Duration = Duration::from_secs(10);
/// A server that has answered may die so often within this time.
const MOST_DEATHS: usize = 5;
const WITHIN: Duration = Duration::from_mins(10);
/// One that never answered is given up sooner: its arguments are wrong, most likely.
const MOST_STILLBORN: usize = 3;
/// The wait before it is started again; it doubles.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
/// How long an answer to a question after its health may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// How often a server that has answered is asked again, at most.
const ASK_AGAIN: Duration = Duration::from_secs(5);

/// What a supervisor is started with.
pub struct Serve {
    /// The folder of the service.
    pub folder: PathBuf,
    /// Which of its replicas.
    pub replica: u32,
    /// Which start of that.
    pub attempt: u32,
    /// The machine, as others find it.
    pub machine: String,
    /// What the scheduler calls its job; empty for none.
    pub job: String,
    /// Raised by signals that ask it to stop.
    pub cancel: Cancel,
}

/// Keeps one replica up until nobody wants it. An error says why it could not; the inner one is of the folder itself.
pub fn serve(serve: &Serve) -> io::Result<Result<(), String>> {
    let folder = Folder::at(&serve.folder);
    let description = folder.description()?;
    let attempt = Attempt { replica: serve.replica, number: serve.attempt };
    let address = description.address(&serve.machine).to_owned();
    let mut supervisor = Supervisor {
        serve,
        attempt,
        leases: LeaseWatch::new(&folder, description.lease()),
        runtime: Builder::new_current_thread().enable_all().build()?,
        client: reqwest::Client::builder().timeout(PATIENCE).build().map_err(io::Error::other)?,
        folder,
        description,
        address,
    };
    let end = supervisor.all().unwrap_or_else(|error| End::Failed(error.to_string()));
    supervisor.folder.runs_no_more(attempt);
    supervisor.folder.leave(attempt, &end)?;
    Ok(match end {
        End::Stopped => Ok(()),
        End::Failed(why) => Err(why),
    })
}

struct Supervisor<'a> {
    serve: &'a Serve,
    folder: Folder,
    attempt: Attempt,
    description: Description,
    leases: LeaseWatch,
    runtime: Runtime,
    client: reqwest::Client,
    address: String,
}

/// How one life of the server ended.
enum Death {
    /// We ended it.
    Stopped,
    /// It ended; how, and whether it had answered.
    Died { how: String, had_answered: bool },
    /// It is no use to try again.
    Hopeless(String),
}

impl Supervisor<'_> {
    /// Life after life of the server.
    fn all(&mut self) -> io::Result<End> {
        let (mut deaths, mut stillborn, mut pause) = (VecDeque::new(), 0, FIRST_PAUSE);
        loop {
            let (how, had_answered) = match self.live()? {
                Death::Stopped => return Ok(End::Stopped),
                Death::Hopeless(why) => return Ok(End::Failed(why)),
                Death::Died { how, had_answered } => (how, had_answered),
            };
            self.folder.runs_no_more(self.attempt);
            let now = Instant::now();
            deaths.push_back(now);
            deaths.retain(|death| now.duration_since(*death) < WITHIN);
            stillborn = if had_answered { 0 } else { stillborn + 1 };
            if had_answered {
                pause = FIRST_PAUSE;
            }
            if deaths.len() > MOST_DEATHS || stillborn >= MOST_STILLBORN {
                let often = if stillborn >= MOST_STILLBORN {
                    format!("{stillborn} times before it answered")
                } else {
                    format!("{} times within {} minutes", deaths.len(), WITHIN.as_secs() / 60)
                };
                return Ok(End::Failed(format!(
                    "the server {how}, {often}; {}\nits whole log is `{}`",
                    self.folder.tail(self.attempt),
                    self.folder.log(self.attempt).display()
                )));
            }
            let until = now + pause;
            pause *= 2;
            while Instant::now() < until {
                if self.must_stop() {
                    return Ok(End::Stopped);
                }
                std::thread::sleep(self.look());
            }
        }
    }

    /// Whether to end: asked to by a signal, or wanted by nobody.
    fn must_stop(&mut self) -> bool {
        self.serve.cancel.is_cancelled() || !self.leases.is_wanted()
    }

    fn look(&self) -> Duration {
        if self.description.is_local { LOOK } else { LOOK_SHARED }
    }

    /// One life of the server.
    fn live(&mut self) -> io::Result<Death> {
        let bind = bind(&self.address);
        let port = match self.description.port {
            // Whoever listens there would be taken for the server.
            Some(port) => match TcpListener::bind((bind, port)) {
                Ok(_) => port,
                Err(error) => {
                    let how = format!(
                        "was not started, since port {port} of {} is taken ({error}); leave `port` out, and write `{{port}}` in \
                         `argv`: it then gets a free one",
                        self.address
                    );
                    return Ok(Death::Died { how, had_answered: false });
                }
            },
            None => TcpListener::bind((bind, 0))?.local_addr()?.port(),
        };
        let mut child = match self.start(port) {
            Ok(child) => child,
            Err(error) => return Ok(Death::Hopeless(format!("the server cannot be started: {error}"))),
        };
        let process = ServerProcess { id: child.id(), began: process_started(child.id()) };
        let watched = self.folder.runs(self.attempt, process).and_then(|()| self.watch(&mut child, port));
        // Whatever happened: nothing of it is left.
        end(&mut child, matches!(watched, Ok(Death::Died { .. })))?;
        watched
    }

    fn start(&self, port: u16) -> Result<Child, String> {
        let argv = self.description.argv(port, &self.address);
        let (program, arguments) = argv.split_first().ok_or("its `argv` is empty")?;
        let log = fs::File::options().create(true).append(true).open(self.folder.log(self.attempt));
        let log = log.map_err(|error| format!("its log: {error}"))?;
        let again = log.try_clone().map_err(|error| format!("its log: {error}"))?;
        let mut command = Command::new(program);
        command
            .args(arguments)
            .envs(&self.description.env)
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(again)
            .process_group(0);
        #[cfg(target_os = "linux")]
        // SAFETY: between fork and exec only this system call is made, which takes no memory and no lock.
        unsafe {
            command.pre_exec(|| {
                // Its supervisor may be killed; then nobody else would end it.
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGTERM);
                Ok(())
            });
        }
        command.spawn().map_err(|error| format!("`{program}`: {error}"))
    }

    /// Waits until the server answers, says so, and looks after it until it dies or is to end.
    fn watch(&mut self, child: &mut Child, port: u16) -> io::Result<Death> {
        let start_within = Duration::from_secs_f64(self.description.start_within.clamp(0.001, 1e7));
        let hang_after = Duration::from_secs_f64(self.description.hang_after.clamp(0.0, 1e7));
        let began = Instant::now();
        let mut has_answered = false;
        // When it was last asked after its health, and when it last answered.
        let (mut asked, mut heard) = (began, began);
        let mut last = "it was not asked yet".to_owned();
        loop {
            if let Some(status) = child.try_wait()? {
                let how = format!("ended by itself ({status})");
                return Ok(Death::Died { how, had_answered: has_answered });
            }
            if self.must_stop() {
                return Ok(Death::Stopped);
            }
            if has_answered && !hang_after.is_zero() && asked.elapsed() >= ASK_AGAIN.min(hang_after / 2) {
                asked = Instant::now();
                if self.is_healthy(port) {
                    heard = asked;
                } else if heard.elapsed() >= hang_after {
                    let seconds = hang_after.as_secs_f64();
                    let how = format!("runs and has not answered at its `health` for {seconds} s");
                    return Ok(Death::Died { how, had_answered: true });
                }
            }
            if !has_answered {
                match self.ask(port) {
                    Ok(model) => {
                        has_answered = true;
                        (asked, heard) = (Instant::now(), Instant::now());
                        let endpoint = Endpoint {
                            url: format!("http://{}:{port}/v1", self.address),
                            host: self.address.clone(),
                            port,
                            process: child.id(),
                            job: self.serve.job.clone(),
                            nonce: nonce()?,
                            model,
                        };
                        self.folder.answers(self.attempt, &endpoint)?;
                    }
                    Err(what) => last = what,
                }
                if !has_answered && began.elapsed() >= start_within {
                    return Ok(Death::Hopeless(format!(
                        "the server did not answer at http://{}:{port}{} within {} s ({last}); give it longer as `start_within`, or \
                         say where it tells its health as `health`; {}\nits whole log is `{}`",
                        self.address,
                        self.description.health,
                        start_within.as_secs(),
                        self.folder.tail(self.attempt),
                        self.folder.log(self.attempt).display()
                    )));
                }
            }
            std::thread::sleep(self.look());
        }
    }

    /// Whether it answers when it is asked after its health.
    fn is_healthy(&self, port: u16) -> bool {
        self.runtime.block_on(self.health(port)).is_ok()
    }

    /// Asks after its health, then for its models; gives the name of the first.
    fn ask(&self, port: u16) -> Result<String, String> {
        self.runtime.block_on(async {
            self.health(port).await?;
            let models = self.get(port, "/v1/models").await?;
            // One that wants a key says so, and is there.
            if models.status().is_server_error() || models.status().as_u16() == 404 {
                return Err(format!("`/v1/models` answers {}", models.status()));
            }
            let models: serde_json::Value =
                serde_json::from_slice(&models.bytes().await.map_err(said)?).unwrap_or_default();
            let first = models.pointer("/data/0/id").and_then(|id| id.as_str());
            Ok(first.unwrap_or_default().to_owned())
        })
    }

    async fn health(&self, port: u16) -> Result<(), String> {
        let health = self.get(port, &self.description.health).await?.status();
        if health.as_u16() == 200 { Ok(()) } else { Err(format!("it answers {health}")) }
    }

    async fn get(&self, port: u16, path: &str) -> Result<reqwest::Response, String> {
        self.client.get(format!("http://{}:{port}{path}", self.address)).send().await.map_err(said)
    }
}

/// What went wrong, without the address, which is said beside it.
fn said(error: reqwest::Error) -> String {
    let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}"));
    format!("{}{}", error.without_url(), cause.unwrap_or_default())
}

/// Ends a server with all its children: in order, where it still runs and does so in time.
fn end(child: &mut Child, is_dead: bool) -> io::Result<()> {
    let group = child.id();
    if !is_dead {
        signal_group(group, libc::SIGTERM);
        let began = Instant::now();
        while child.try_wait()?.is_none() && began.elapsed() < GRACE {
            std::thread::sleep(Duration::from_millis(20));
        }
    }
    // Children that it left behind hold its GPUs, and its port.
    signal_group(group, libc::SIGKILL);
    child.wait().map(drop)
}
