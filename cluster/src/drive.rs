//! The coordinator's side of an order: submits what is wanted, hears what came of it, submits again what was lost.
//!
//! What a worker says of itself comes first: a part is done when its exit file says so, whatever the scheduler thinks. The
//! scheduler is asked only what no file can tell: whether a worker that has not spoken may still do so. An answer that is
//! empty, or none, is never a failure.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::time::{Duration, Instant};

use dag_engine::call::Delivery;
use dag_engine::event::{Counts, News};
use dag_engine::executor::Site;
use dag_engine::order::Order;
use dag_engine::task::TaskError;

use crate::folder::{End, Exit, Generation, NewsReader, Part, Submission, tail};
use crate::queue::{Ending, Handle, Queue, Refused, Standing, Standings, Trouble};

/// How often to look at the folder: first often, then ever less.
const LOOK_FIRST: Duration = Duration::from_millis(20);
const LOOK_LAST: Duration = Duration::from_secs(2);
/// How often to tell what is new.
const TELL: Duration = Duration::from_millis(500);
/// A job may take so long to appear in the scheduler's lists.
const APPEAR: Duration = Duration::from_secs(10);
/// A submission whose answer was lost is looked for so long before it counts as not made.
const LOOK_FOR: Duration = Duration::from_secs(15);
/// How long jobs that were taken back may take to end.
const END: Duration = Duration::from_secs(90);
/// A part may be lost so often.
const MOST_LOSSES: u32 = 6;
/// A part may be stopped so often without having got any further.
const MOST_IN_VAIN: u32 = 4;
/// So much of the end of what a worker printed goes into an error.
const TAIL: u64 = 2000;

/// An order, who runs it, and for whom.
pub(crate) struct Drive<'a> {
    pub(crate) queue: &'a dyn Queue,
    pub(crate) order: &'a Order,
    pub(crate) site: &'a Site,
    /// How long silence is no news.
    pub(crate) grace: Duration,
}

/// Has the order carried out, from wherever an earlier coordinator left it.
pub(crate) fn drive(drive: &Drive<'_>) -> Result<Delivery, TaskError> {
    let folder = &drive.site.folder;
    fs::create_dir_all(folder).map_err(|error| TaskError::io(folder, error))?;
    let failed = |error| TaskError::io(folder, error);
    let (current, other) = Generation::current(folder, drive.order.shards).map_err(failed)?;
    if let Some(other) = other {
        Driver::adopt(drive, other).map_err(failed)?.take_back();
    }
    let generation = match current {
        Some(generation) => generation,
        None => Generation::create(folder, drive.order.shards).map_err(failed)?,
    };
    let mut driver = Driver::adopt(drive, generation).map_err(failed)?;
    let result = driver.all();
    if result.is_err() {
        driver.take_back();
    }
    drive.queue.forget(&driver.handles());
    // Whoever still runs is not waited for any more.
    let _ = driver.generation.close();
    result
}

struct Driver<'a> {
    drive: &'a Drive<'a>,
    generation: Generation,
    submissions: Vec<Submitted>,
    /// The exits that were read.
    read: BTreeSet<(Part, String)>,
    done: BTreeMap<Part, Exit>,
    /// Parts whose worker of this submission stopped before the end.
    stopped: BTreeSet<(Part, u32)>,
    losses: BTreeMap<Part, u32>,
    /// How often in succession a part was stopped before it had got anywhere.
    in_vain: BTreeMap<Part, u32>,
    /// Since when a part has been silent that should have spoken.
    silent: BTreeMap<Part, Instant>,
    attempts: BTreeMap<(Part, String), Attempt>,
    warnings: Vec<String>,
    trouble: Option<Trouble>,
    standings: Standings,
    told: Option<(Instant, String)>,
    began: Instant,
}

/// A submission, and since when it is with the scheduler as far as this process knows.
struct Submitted {
    submission: Submission,
    since: Instant,
    /// That it was never made is known.
    is_void: bool,
}

/// What one attempt has told so far.
#[derive(Default)]
struct Attempt {
    reader: NewsReader,
    counts: Counts,
    message: Option<String>,
    /// That it has left, and all it told was read.
    is_over: bool,
}

/// What is to be done about a part.
enum Verdict {
    /// It may still speak.
    Wait,
    /// It is to be submitted (again).
    Submit,
}

impl<'a> Driver<'a> {
    fn adopt(drive: &'a Drive<'a>, generation: Generation) -> io::Result<Self> {
        let now = Instant::now();
        let submissions = generation.submissions()?.into_iter().map(|submission| Submitted {
            submission,
            since: now,
            is_void: false,
        });
        Ok(Self {
            drive,
            submissions: submissions.collect(),
            generation,
            read: BTreeSet::new(),
            done: BTreeMap::new(),
            stopped: BTreeSet::new(),
            losses: BTreeMap::new(),
            in_vain: BTreeMap::new(),
            silent: BTreeMap::new(),
            attempts: BTreeMap::new(),
            warnings: Vec::new(),
            trouble: None,
            standings: Standings::new(),
            told: None,
            began: now,
        })
    }

    fn all(&mut self) -> Result<Delivery, TaskError> {
        let shards = self.generation.shards();
        self.finish(&shards)?;
        self.finish(&[Part::Whole])?;
        let exit = self.done.remove(&Part::Whole);
        exit.and_then(|exit| exit.delivery).ok_or_else(|| TaskError::failed("the worker delivered nothing"))
    }

    /// Goes on until all of `parts` are done.
    fn finish(&mut self, parts: &[Part]) -> Result<(), TaskError> {
        loop {
            if self.drive.site.cancel.is_cancelled() {
                return Err(TaskError::Cancelled);
            }
            self.read_exits()?;
            let open: Vec<Part> =
                parts.iter().copied().filter(|part| !self.done.contains_key(part)).collect();
            if open.is_empty() {
                self.tell(true);
                return Ok(());
            }
            self.resolve();
            self.ask();
            let mut due = Vec::new();
            for part in open {
                if matches!(self.judge(part)?, Verdict::Submit) {
                    due.push(part);
                }
            }
            if !due.is_empty() {
                self.submit(due)?;
            }
            self.tell(false);
            std::thread::sleep((self.began.elapsed() / 100).clamp(LOOK_FIRST, LOOK_LAST));
        }
    }

    /// Hears what workers left.
    fn read_exits(&mut self) -> Result<(), TaskError> {
        let exits = self.generation.exits().map_err(|error| TaskError::io(&self.generation.path, error))?;
        for (part, attempt) in exits {
            let key = (part, attempt);
            if self.read.contains(&key) || self.done.contains_key(&part) {
                continue;
            }
            // A shared file system may show the name before the content.
            let Some(exit) = self.generation.exit(part, &key.1) else { continue };
            let submission = key.1.split('-').next().and_then(|number| number.parse().ok()).unwrap_or(0);
            match exit.end {
                End::Done => {
                    if !self.has_arrived(part, &exit)? {
                        continue;
                    }
                    self.generation
                        .take(part, &key.1)
                        .map_err(|error| TaskError::io(&self.generation.path, error))?;
                    self.silent.remove(&part);
                    self.done.insert(part, exit);
                }
                End::Stopped => {
                    let in_vain = self.in_vain.entry(part).or_default();
                    *in_vain = if exit.counts.done > 0 { 0 } else { *in_vain + 1 };
                    if *in_vain >= MOST_IN_VAIN {
                        return Err(TaskError::failed(format!(
                            "{} stopped {MOST_IN_VAIN} times without getting any further, the last time because {}; \
                             give it more `time`",
                            self.called(part),
                            exit.error
                        )));
                    }
                    self.stopped.insert((part, submission));
                }
                End::Failed => return Err(TaskError::failed(about(part, &exit))),
                End::Transient => return Err(TaskError::Transient(about(part, &exit))),
                End::InputLost => return Err(TaskError::InputLost(exit.error)),
                End::Unserved => return Err(TaskError::Unserved(exit.error)),
                End::Paused => return Err(TaskError::Paused(exit.error)),
            }
            self.read.insert(key);
        }
        Ok(())
    }

    /// Whether the blobs of a delivery are there, every byte of them; a shared file system may be late. One that stays
    /// away is a loss.
    fn has_arrived(&mut self, part: Part, exit: &Exit) -> Result<bool, TaskError> {
        let outputs = exit.delivery.iter().flat_map(|delivery| delivery.outputs.values());
        let mut checks = outputs.map(|output| self.drive.site.view.check_output(output));
        let Some(error) = checks.find_map(Result::err) else { return Ok(true) };
        if self.is_silent(part) {
            self.lose(part, &format!("what it delivered is not in the store: {error}"))?;
            self.stopped.insert((part, self.latest(part).map_or(0, |latest| latest.submission.number)));
        }
        Ok(false)
    }

    /// Looks for submissions whose answer was lost: an earlier coordinator died, or the scheduler did not answer.
    fn resolve(&mut self) {
        for at in 0..self.submissions.len() {
            let Submitted { submission, since, is_void } = &self.submissions[at];
            if submission.id.is_some() || *is_void {
                continue;
            }
            match self.drive.queue.find(&submission.name) {
                Ok(Some(id)) => {
                    // Known from now on; the file is for the next coordinator.
                    let _ = self.generation.submitted(submission, &id);
                    self.submissions[at].submission.id = Some(id);
                    self.submissions[at].since = Instant::now();
                }
                Ok(None) if since.elapsed() >= LOOK_FOR => self.submissions[at].is_void = true,
                Ok(None) => {}
                Err(trouble) => self.trouble = Some(trouble),
            }
        }
    }

    fn ask(&mut self) {
        let handles = self.handles();
        if handles.is_empty() {
            return;
        }
        match self.drive.queue.standings(&handles) {
            Ok(standings) => {
                self.standings = standings;
                self.trouble = None;
            }
            Err(trouble) => self.trouble = Some(trouble),
        }
    }

    fn handles(&self) -> Vec<Handle> {
        let known = self.submissions.iter().filter_map(|submitted| {
            let Submission { name, id, .. } = &submitted.submission;
            Some(Handle { name: name.clone(), id: id.clone()? })
        });
        known.collect()
    }

    /// The submission that a part is with.
    fn latest(&self, part: Part) -> Option<&Submitted> {
        let mut newest_first = self.submissions.iter().rev();
        newest_first.find(|submitted| !submitted.is_void && submitted.submission.parts.contains(&part))
    }

    fn judge(&mut self, part: Part) -> Result<Verdict, TaskError> {
        let Some(latest) = self.latest(part) else { return Ok(Verdict::Submit) };
        let (number, since) = (latest.submission.number, latest.since);
        if latest.submission.id.is_none() || self.trouble.is_some() {
            return Ok(Verdict::Wait);
        }
        let standing = self.standings.get(&(latest.submission.name.clone(), part)).cloned();
        let has_stopped = self.stopped.contains(&(part, number));
        match standing {
            Some(Standing::Waiting(_) | Standing::Running(_)) => {
                self.silent.remove(&part);
                Ok(Verdict::Wait)
            }
            Some(Standing::Over(_)) | None if has_stopped => Ok(Verdict::Submit),
            None if since.elapsed() < APPEAR => Ok(Verdict::Wait),
            _ if !self.is_silent(part) => Ok(Verdict::Wait),
            Some(Standing::Over(Ending::OutOfMemory)) => {
                let memory = self.drive.order.resources.memory;
                let had = if memory == 0 {
                    "the default of its partition".to_owned()
                } else {
                    format!("{memory} bytes")
                };
                Err(TaskError::failed(format!(
                    "{} ran out of memory with {had}; give it more by `run: {{ memory: … }}`",
                    self.called(part)
                )))
            }
            Some(Standing::Over(ending)) => {
                self.lose(part, &format!("it {} without a word of its worker", ending.words()))?;
                Ok(Verdict::Submit)
            }
            None => {
                self.lose(part, &format!("{} does not know it any more", self.drive.queue.name()))?;
                Ok(Verdict::Submit)
            }
        }
    }

    /// Whether a part that should have spoken has been silent for longer than that may mean nothing.
    fn is_silent(&mut self, part: Part) -> bool {
        self.silent.entry(part).or_insert_with(Instant::now).elapsed() >= self.drive.grace
    }

    fn called(&self, part: Part) -> String {
        let id = self.latest(part).and_then(|latest| latest.submission.id.as_deref()).unwrap_or("?");
        match part {
            Part::Whole => format!("job {id}"),
            Part::Shard(number) => format!("job {id}_{number}"),
        }
    }

    /// Counts a loss, and says so; too many are a failure.
    fn lose(&mut self, part: Part, what: &str) -> Result<(), TaskError> {
        self.silent.remove(&part);
        let losses = self.losses.entry(part).or_default();
        *losses += 1;
        let is_too_often = *losses >= MOST_LOSSES;
        let called = self.called(part);
        if !is_too_often {
            self.warnings.push(format!("{called} is lost: {what}; its part is submitted again"));
            return Ok(());
        }
        let log = self.latest(part).and_then(|latest| {
            let id = latest.submission.id.clone()?;
            let handle = Handle { name: latest.submission.name.clone(), id };
            tail(&self.drive.queue.log(&self.generation, &handle, part), TAIL)
        });
        let log = log.map_or_else(String::new, |log| format!(". It printed:\n{log}"));
        Err(TaskError::failed(format!("{called}: {what}, for the {MOST_LOSSES}th time{log}")))
    }

    fn submit(&mut self, parts: Vec<Part>) -> Result<(), TaskError> {
        let number = self.submissions.len() as u32;
        let failed = |error| TaskError::io(&self.generation.path, error);
        let mut submission = self.generation.intend(number, parts, self.drive.order).map_err(failed)?;
        match self.drive.queue.submit(&self.generation, &submission) {
            Ok(id) => {
                self.generation.submitted(&submission, &id).map_err(failed)?;
                submission.id = Some(id);
            }
            Err(Refused::Wrong(what)) => {
                return Err(TaskError::failed(format!(
                    "{} refuses the job: {what}",
                    self.drive.queue.name()
                )));
            }
            // It may have been taken all the same: it is looked for before it is submitted again.
            Err(Refused::Trouble(trouble)) => self.trouble = Some(trouble),
        }
        self.submissions.push(Submitted { submission, since: Instant::now(), is_void: false });
        Ok(())
    }

    /// Takes back whatever is with the scheduler, and waits until it is over: no job outlives its order.
    fn take_back(&mut self) {
        let began = Instant::now();
        // One that was submitted a moment before its coordinator died may not be listed yet.
        while self.submissions.iter().any(|submitted| submitted.submission.id.is_none() && !submitted.is_void)
            && began.elapsed() < LOOK_FOR + LOOK_LAST
        {
            self.resolve();
            std::thread::sleep(LOOK_FIRST * 10);
        }
        loop {
            self.ask();
            let alive = |handle: &Handle| {
                let of_it = |((name, _), standing): (&(String, Part), &Standing)| {
                    *name == handle.name && !matches!(standing, Standing::Over(_))
                };
                let submitted = self.submissions.iter().find(|one| one.submission.name == handle.name);
                let is_fresh = submitted.is_some_and(|one| one.since.elapsed() < APPEAR)
                    && !self.standings.keys().any(|(name, _)| *name == handle.name);
                self.standings.iter().any(of_it) || is_fresh
            };
            let alive: Vec<Handle> = self.handles().into_iter().filter(alive).collect();
            if alive.is_empty() && self.trouble.is_none() || began.elapsed() >= END {
                return;
            }
            if let Err(trouble) = self.drive.queue.cancel(&alive) {
                self.trouble = Some(trouble);
            }
            self.tell(false);
            std::thread::sleep(LOOK_FIRST * 10);
        }
    }

    /// Tells what is new: the counts of all parts together, and where they stand.
    fn tell(&mut self, now: bool) {
        if !now && self.told.as_ref().is_some_and(|(at, _)| at.elapsed() < TELL) {
            return;
        }
        let mut news = News { warnings: std::mem::take(&mut self.warnings), ..News::default() };
        // What cannot be read now is read the next time.
        for key in self.generation.told().unwrap_or_default() {
            let (part, name) = &key;
            let has_left = self.read.contains(&key);
            let path = self.generation.news_file(*part, name);
            let exit = || self.generation.exit(*part, name);
            let attempt = self.attempts.entry(key.clone()).or_default();
            if attempt.is_over {
                continue;
            }
            for fresh in attempt.reader.read(&path).unwrap_or_default() {
                attempt.counts = fresh.counts;
                attempt.message = fresh.message.or(attempt.message.take());
                news.points.extend(fresh.points);
                news.warnings.extend(fresh.warnings);
            }
            // Its exit came after all its news, so that nothing of it is read again.
            if let Some(exit) = has_left.then(exit).flatten() {
                attempt.counts = exit.counts;
                attempt.is_over = true;
            }
        }
        news.counts = self.counts();
        let message = self.standing();
        let was = self.told.as_ref().map(|(_, told)| told.as_str());
        news.message = (was != Some(&message)).then(|| message.clone());
        self.told = Some((Instant::now(), message));
        (self.drive.site.tell)(news);
    }

    /// The counts of all parts: what every attempt has made, and of what is reused only what no earlier attempt made.
    fn counts(&self) -> Counts {
        let mut sum = Counts::default();
        let is_shared = self.generation.shards > 1;
        let attempts: Vec<_> = self.attempts.iter().collect();
        for of_part in attempts.chunk_by(|((one, _), _), ((other, _), _)| one == other) {
            let part = of_part[0].0.0;
            let mut counts = Counts::default();
            let Some((_, latest)) = of_part.last() else { continue };
            for (_, attempt) in of_part {
                let Counts { done, input_tokens, output_tokens, spent, spent_squares, .. } = attempt.counts;
                counts.add(&Counts {
                    done,
                    input_tokens,
                    output_tokens,
                    spent,
                    spent_squares,
                    ..Counts::default()
                });
            }
            // What the last worker of a shared order finds in the store, the shards have made.
            if !(is_shared && part == Part::Whole) {
                let earlier = counts.done - latest.counts.done;
                counts.total = latest.counts.total;
                counts.reused = latest.counts.reused.saturating_sub(earlier);
                counts.saved = latest.counts.saved;
            }
            counts.failures.clone_from(&latest.counts.failures);
            sum.add(&counts);
        }
        sum
    }

    /// Where the jobs stand, in a line.
    fn standing(&self) -> String {
        let queue = self.drive.queue.name();
        if let Some(Trouble(what)) = &self.trouble {
            return format!("{queue} does not answer: {what}");
        }
        let (mut waiting, mut running) = (BTreeMap::<&str, u64>::new(), BTreeSet::new());
        let (mut waits, mut runs) = (0_u64, 0_u64);
        for ((_, part), standing) in &self.standings {
            match standing {
                _ if self.done.contains_key(part) => {}
                Standing::Waiting(reason) => {
                    waits += 1;
                    *waiting.entry(reason).or_default() += 1;
                }
                Standing::Running(nodes) => {
                    runs += 1;
                    running.insert(nodes.as_str());
                }
                Standing::Over(_) => {}
            }
        }
        let ids: Vec<&str> =
            self.submissions.iter().filter_map(|submitted| submitted.submission.id.as_deref()).collect();
        let mut parts = Vec::new();
        if runs > 0 {
            let nodes: Vec<&str> = running.into_iter().filter(|nodes| !nodes.is_empty()).collect();
            parts.push(format!("{runs} running ({})", nodes.join(", ")));
        }
        if waits > 0 {
            let reasons: Vec<&str> = waiting.into_keys().filter(|reason| !reason.is_empty()).collect();
            parts.push(format!("{waits} waiting ({})", reasons.join(", ")));
        }
        if self.generation.shards > 1 {
            let done = self.done.keys().filter(|part| **part != Part::Whole).count();
            parts.push(format!("{done} of {} shards done", self.generation.shards));
        }
        // Of many jobs the last is the one to look at.
        let mut line = match ids.last() {
            Some(id) => format!("{queue} {id}: {}", parts.join(", ")),
            None => format!("{queue}: submitting"),
        };
        let last = self.attempts.iter().rfind(|((part, _), _)| *part == Part::Whole);
        if let Some(message) = last.and_then(|(_, attempt)| attempt.message.as_deref()) {
            line = format!("{line}; {message}");
        }
        line
    }
}

/// What a worker says went wrong, and which it was.
fn about(part: Part, exit: &Exit) -> String {
    match part {
        Part::Whole => exit.error.clone(),
        Part::Shard(number) => format!("shard {number} on {}: {}", exit.host, exit.error),
    }
}
