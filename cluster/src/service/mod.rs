//! Services: servers that nodes ask, each replica under a supervisor of its own.
//!
//! ```text
//! keep      mod       the coordinator's side: begins replicas, begins lost ones again, ends them
//! place     place     where supervisors run: processes of this machine, jobs of Slurm
//! serve     serve     the supervisor: starts the server, tells where it answers, looks after it
//! files     files     the files through which the two speak
//! ```

mod files;
mod place;
mod process;
mod serve;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use dag_engine::service::{Host, Service, ServiceNews, ServiceSite, failure_file};

use crate::folder::{nonce, publish};
use crate::queue::{Handle, Refused, Standing, Trouble};
use crate::slurm::{Job, Slurm};
use files::{Attempt, Description, End, Folder};
use place::{Local, OnSlurm, Place};
pub use serve::{Serve, serve};

/// How often to look at everything.
const LOOK: Duration = Duration::from_millis(100);
/// A job may take so long to appear in the scheduler's lists.
const APPEAR: Duration = Duration::from_secs(10);
/// A start whose answer was lost is looked for so long before it counts as not made.
const LOOK_FOR: Duration = Duration::from_secs(15);
/// A replica may be lost so often in succession without having answered.
const MOST_LOSSES: u32 = 5;
/// How long supervisors get to end by themselves before they are asked by a signal, and all in all.
const END_ALONE: Duration = Duration::from_secs(15);
const END: Duration = Duration::from_mins(1);

/// Keeps services up: on this machine, and on Slurm.
pub(crate) struct Services {
    slurm: Arc<Slurm>,
}

impl Services {
    pub(crate) fn new(slurm: Arc<Slurm>) -> Self {
        Self { slurm }
    }
}

impl Host for Services {
    fn keep(&self, service: &Service, site: &ServiceSite) -> Result<(), String> {
        let mut place: Box<dyn Place> = match &service.executor {
            None => Box::new(Local::new(service, site)),
            Some(placement) => {
                let job = Job::of(placement, &service.resources, &service.name)?;
                Box::new(OnSlurm { slurm: &self.slurm, job, service, site })
            }
        };
        let failed = |error: io::Error| format!("{}: {error}", site.folder.display());
        let folder = Folder::create(&site.folder).map_err(failed)?;
        let description = Description::of(service, site.model.as_deref());
        folder.describe(&description).map_err(failed)?;
        match fs::remove_file(failure_file(folder.path())) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
            _ => {}
        }
        let replicas = (0..service.replicas).map(|number| Replica { number, ..Replica::default() }).collect();
        let mut keeper = Keeper {
            site,
            folder: &folder,
            place: &mut *place,
            replicas,
            lease: description.lease(),
            touched: None,
            count: 0,
            told: None,
        };
        let kept = keeper.keep();
        if let Err(why) = &kept {
            // For those who ask it, wherever they are.
            let _ = publish(&failure_file(folder.path()), why.as_bytes());
        }
        keeper.end();
        kept
    }
}

/// The coordinator's side of one service.
struct Keeper<'a> {
    site: &'a ServiceSite,
    folder: &'a Folder,
    place: &'a mut dyn Place,
    replicas: Vec<Replica>,
    lease: Duration,
    touched: Option<Instant>,
    count: u64,
    told: Option<ServiceNews>,
}

/// What is known of one replica.
#[derive(Default)]
struct Replica {
    number: u32,
    /// The attempt that counts, and since when this process knows of it.
    current: Option<(Attempt, Instant)>,
    /// Since when it has been silent that should have spoken.
    silent: Option<Instant>,
    /// Losses in succession without an answer.
    losses: u32,
    answers: bool,
    /// Why it was given up.
    dead: Option<String>,
    where_it_is: String,
}

impl Keeper<'_> {
    fn keep(&mut self) -> Result<(), String> {
        loop {
            if self.site.stop.is_cancelled() {
                return Ok(());
            }
            self.touch()?;
            self.look()?;
            self.tell();
            std::thread::sleep(LOOK);
        }
    }

    /// Says that the service is wanted.
    fn touch(&mut self) -> Result<(), String> {
        let pause = (self.lease / 10).clamp(Duration::from_millis(100), Duration::from_secs(3));
        if self.touched.is_none_or(|touched| touched.elapsed() >= pause) {
            self.touched = Some(Instant::now());
            self.count += 1;
            let wanted = self.folder.want(&self.site.holder, self.count);
            wanted.map_err(|error| format!("its lease cannot be kept: {error}"))?;
        }
        Ok(())
    }

    fn look(&mut self) -> Result<(), String> {
        let broken = |error: io::Error| format!("its folder cannot be read: {error}");
        let attempts = self.folder.attempts().map_err(broken)?;
        for replica in &mut self.replicas {
            let newest = attempts.iter().rfind(|attempt| attempt.replica == replica.number).copied();
            if replica.current.map(|(attempt, _)| attempt) != newest {
                replica.current = newest.map(|attempt| (attempt, Instant::now()));
                replica.silent = None;
            }
        }
        let standings = self.standings();
        for at in 0..self.replicas.len() {
            if self.replicas[at].dead.is_none() {
                self.judge(at, standings.as_ref())?;
            }
        }
        if self.replicas.iter().all(|replica| replica.dead.is_some()) {
            let why = self.replicas.iter().find_map(|replica| replica.dead.clone());
            return Err(why.unwrap_or_default());
        }
        Ok(())
    }

    fn handles(&self) -> Vec<Handle> {
        let current = self.replicas.iter().filter_map(|replica| replica.current);
        current.filter_map(|(attempt, _)| self.handle(attempt)).collect()
    }

    fn handle(&self, attempt: Attempt) -> Option<Handle> {
        Some(Handle { name: self.folder.name(attempt)?, id: self.folder.job(attempt)? })
    }

    fn standings(&mut self) -> Result<BTreeMap<String, Standing>, Trouble> {
        let handles = self.handles();
        if handles.is_empty() { Ok(BTreeMap::new()) } else { self.place.standings(&handles) }
    }

    /// What is to be done about a replica.
    fn judge(
        &mut self,
        at: usize,
        standings: Result<&BTreeMap<String, Standing>, &Trouble>,
    ) -> Result<(), String> {
        let Some((attempt, since)) = self.replicas[at].current else { return self.submit(at) };
        if let Some(end) = self.folder.end(attempt) {
            self.replicas[at].answers = false;
            return match end {
                // Nobody wanted it for a while, or its job was taken back; now it is wanted.
                End::Stopped => self.lose(at, None),
                End::Failed(why) => {
                    self.give_up(at, why);
                    Ok(())
                }
            };
        }
        let replica = &mut self.replicas[at];
        replica.answers = self.folder.has_endpoint(attempt);
        if replica.answers {
            replica.losses = 0;
        }
        let Some(handle) = self.handle(attempt) else { return self.resolve(at, attempt, since) };
        let standings = match standings {
            Ok(standings) => standings,
            Err(Trouble(what)) => {
                self.replicas[at].where_it_is = format!("the scheduler does not answer: {what}");
                return Ok(());
            }
        };
        let grace = self.place.grace();
        let replica = &mut self.replicas[at];
        let is_over = match standings.get(&handle.name) {
            Some(Standing::Waiting(why)) => {
                replica.where_it_is = format!("job {} waits ({why})", handle.id);
                false
            }
            Some(Standing::Running(node)) => {
                replica.where_it_is = match node.as_str() {
                    "" => "it starts".to_owned(),
                    node => format!("job {} starts on {node}", handle.id),
                };
                false
            }
            Some(Standing::Over(_)) => true,
            None => since.elapsed() >= APPEAR,
        };
        if !is_over {
            replica.silent = None;
            return Ok(());
        }
        if replica.silent.get_or_insert_with(Instant::now).elapsed() < grace {
            return Ok(());
        }
        // It may have spoken at the last moment.
        if self.folder.end(attempt).is_some() {
            return Ok(());
        }
        let how = match standings.get(&handle.name) {
            Some(Standing::Over(ending)) => ending.words(),
            _ => "is not known any more",
        };
        self.place.bury(self.folder, attempt);
        self.folder.runs_no_more(attempt);
        self.lose(at, Some(format!("its supervisor {how} without a word")))
    }

    /// Looks for a start whose answer was lost: another process died over it, or the scheduler did not answer.
    fn resolve(&mut self, at: usize, attempt: Attempt, since: Instant) -> Result<(), String> {
        let name = self.folder.name(attempt).unwrap_or_default();
        match self.place.find(&name) {
            Ok(Some(id)) => {
                let _ = self.folder.submitted(attempt, &id);
            }
            Ok(None) if since.elapsed() >= LOOK_FOR => return self.lose(at, None),
            Ok(None) => {}
            Err(Trouble(what)) => {
                self.replicas[at].where_it_is = format!("the scheduler does not answer: {what}");
            }
        }
        Ok(())
    }

    fn lose(&mut self, at: usize, what: Option<String>) -> Result<(), String> {
        let replica = &mut self.replicas[at];
        let was_answering = std::mem::take(&mut replica.answers);
        replica.losses = if was_answering { 1 } else { replica.losses + 1 };
        if replica.losses > MOST_LOSSES {
            let tail = replica.current.map(|(attempt, _)| self.folder.tail(attempt)).unwrap_or_default();
            let what = what.unwrap_or_else(|| "it was stopped".to_owned());
            self.give_up(at, format!("{what}, {MOST_LOSSES} times without having answered; {tail}"));
            return Ok(());
        }
        if let Some(what) = what {
            let number = replica.number;
            (self.site.tell)(ServiceNews::Warning(format!("replica {number}: {what}; it is started again")));
        }
        self.submit(at)
    }

    fn give_up(&mut self, at: usize, why: String) {
        let replica = &mut self.replicas[at];
        if self.site.stop.is_cancelled() {
            return;
        }
        let first = why.lines().next().unwrap_or_default().to_owned();
        (self.site.tell)(ServiceNews::Warning(format!("replica {} is given up: {first}", replica.number)));
        replica.dead = Some(why);
    }

    /// Begins a replica, or begins it again.
    fn submit(&mut self, at: usize) -> Result<(), String> {
        let broken = |error: io::Error| format!("its folder cannot be written: {error}");
        let replica = self.replicas[at].number;
        let before = self.replicas[at].current.map(|(attempt, _)| attempt);
        let attempt = Attempt { replica, number: before.map_or(0, |before| before.number + 1) };
        let name = format!("dag-service-{}-{replica}-{}", nonce().map_err(broken)?, attempt.number);
        // Where another run has claimed it, that one starts it.
        if self.folder.claim(attempt, &name).map_err(broken)? {
            match self.place.submit(self.folder, attempt, &name) {
                Ok(id) => self.folder.submitted(attempt, &id).map_err(broken)?,
                Err(Refused::Wrong(what)) => {
                    let end = End::Failed(what);
                    self.folder.leave(attempt, &end).map_err(broken)?;
                }
                // It may have been taken all the same: it is looked for before it is started again.
                Err(Refused::Trouble(Trouble(what))) => {
                    self.replicas[at].where_it_is = format!("the scheduler does not answer: {what}");
                }
            }
        }
        if let Some(before) = before {
            let handles: Vec<Handle> = self.handle(before).into_iter().collect();
            self.place.forget(&handles);
            self.folder.forget(before);
        }
        self.replicas[at].current = Some((attempt, Instant::now()));
        self.replicas[at].silent = None;
        Ok(())
    }

    fn tell(&mut self) {
        let up = self.replicas.iter().filter(|replica| replica.answers).count() as u32;
        let news = if up > 0 {
            ServiceNews::Up(up)
        } else {
            let open = self.replicas.iter().find(|replica| replica.dead.is_none());
            ServiceNews::Waiting(open.map_or_else(String::new, |replica| replica.where_it_is.clone()))
        };
        if self.told.as_ref() != Some(&news) {
            (self.site.tell)(news.clone());
            self.told = Some(news);
        }
    }

    /// Ends what runs, unless another run goes on with it, and waits until it is over.
    fn end(&mut self) {
        // Where the folder cannot be read any more, supervisors see no lease either, and end.
        if self.folder.want_no_more(&self.site.holder, self.lease).unwrap_or(false) {
            return;
        }
        let attempts = self.folder.attempts().unwrap_or_default();
        let began = Instant::now();
        let mut open: Vec<Attempt> = attempts.iter().copied().collect();
        while !open.is_empty() && began.elapsed() < END {
            let handles: Vec<Handle> = open.iter().filter_map(|attempt| self.handle(*attempt)).collect();
            let standings = if handles.is_empty() {
                BTreeMap::new()
            } else {
                let Ok(standings) = self.place.standings(&handles) else {
                    std::thread::sleep(LOOK * 5);
                    continue;
                };
                standings
            };
            let mut overdue = Vec::new();
            open.retain(|attempt| {
                let Some(handle) =
                    handles.iter().find(|one| self.folder.name(*attempt).as_ref() == Some(&one.name))
                else {
                    // Never submitted, or nobody knows: its supervisor would see that nobody wants it.
                    return false;
                };
                match standings.get(&handle.name) {
                    Some(Standing::Over(_)) => false,
                    // A job that has not begun has nobody in it who could see that it is not wanted.
                    Some(Standing::Waiting(_)) => {
                        overdue.push(handle.clone());
                        true
                    }
                    Some(Standing::Running(_)) => {
                        if began.elapsed() >= END_ALONE {
                            overdue.push(handle.clone());
                        }
                        true
                    }
                    None => self.folder.end(*attempt).is_none() && began.elapsed() < APPEAR,
                }
            });
            if !overdue.is_empty() {
                let _ = self.place.cancel(&overdue);
            }
            if !open.is_empty() {
                std::thread::sleep(LOOK);
            }
        }
        for attempt in attempts {
            self.place.bury(self.folder, attempt);
            let handles: Vec<Handle> = self.handle(attempt).into_iter().collect();
            self.place.forget(&handles);
            self.folder.forget(attempt);
        }
        let _ = fs::remove_dir_all(self.folder.path().join("model"));
    }
}
