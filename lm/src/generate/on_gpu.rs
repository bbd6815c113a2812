//! Generation on a GPU: one pass of the model advances every sequence by a token and reads prompts on the side.
//!
//! Keys and values lie in pages. A prompt is read once, without its last token, and its samples begin with its pages; each
//! passes the last token itself. When pages run out, what was begun last gives its pages up and keeps its tokens; it is
//! read again when there is room, before anything new begins. What was begun first is never stopped, so all of them end.
//!
//! The GPU does not wait for the CPU: a pass is begun before the tokens of the one before it are here, with tokens that only
//! the GPU knows. A response that turns out to have ended has then drawn one token too many, which nobody looks at. Where the
//! next pass depends on what a token is (the end of a thinking budget), or on pages that an end may free, it waits.

use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::sync::Arc;

use super::desk::{self, Desk};
use super::sequence::{Sequence, Speaker, Wish};
use super::{Finished, GenerateError, Limits, Request};
use crate::gpu::{Draw, GpuError, Ledger, PAGE, Turn};
use crate::model::on_gpu::{Decoder, Entering, Session, Size};
use crate::sampler::uniform;
use crate::tokenizer::Tokenizer;

/// Tokens of prompts that pass the model at once: enough for full speed, few enough not to hold up the others for long.
const READING: usize = 2048;
/// Prompts that are read at the same time.
const READERS: usize = 64;
/// Prompts are read when one slot in so many is free.
const FREE_BEFORE_READING: usize = 32;
/// Pages that one sequence is given room for in any case; a longer one ends with an error where memory does.
const PAGES_OF_ONE: usize = 1 << 10;
/// Of the memory that is free when generation begins, the share that pages may take.
const SHARE: f64 = 0.9;

/// [`super::generate`] on a GPU.
pub(super) fn generate(
    model: &Decoder,
    tokenizer: &Tokenizer,
    requests: impl Iterator<Item = Request>,
    limits: &Limits,
    receive: &mut dyn FnMut(Finished) -> ControlFlow<()>,
) -> Result<ControlFlow<()>, GenerateError> {
    let slots = limits.slots.max(1);
    let worker = Worker::new(model, tokenizer, slots, limits.cache_bytes)?;
    desk::run(vec![|desk: Desk<'_>| desk.work(worker)], slots.min(READERS), requests, receive)
}

/// The slots and what fills them.
pub(super) struct Worker<'a> {
    model: &'a Decoder,
    session: Session<'a>,
    ledger: Ledger,
    speaker: Speaker<'a>,
    slots: usize,
    /// Prompts that may be read at the same time.
    readers: usize,
    free_seats: Vec<usize>,
    /// Prompts that are not read yet, in order, each with the first sample that has not begun.
    waiting: VecDeque<Prompt>,
    /// What gave its pages up.
    stopped: Vec<Sequence>,
    readings: Vec<Reading>,
    /// Prompts that are read, in order.
    read: VecDeque<Read>,
    running: Vec<Running>,
    finished: Vec<Finished>,
}

/// A prompt with samples that have not begun.
struct Prompt {
    number: usize,
    request: Arc<Request>,
    /// The first of them.
    sample: usize,
    /// Tokens that the longest response may have.
    room: usize,
}

/// Tokens on their way into pages.
struct Reading {
    seat: usize,
    tokens: Vec<u32>,
    done: usize,
    pages: Vec<u32>,
    then: Then,
}

/// A prompt that is read.
struct Read {
    prompt: Prompt,
    pages: Vec<u32>,
    /// Where its tokens were read, if there were any.
    seat: Option<usize>,
}

/// What tokens are read for.
enum Then {
    /// Samples of a prompt.
    Begin(Prompt),
    /// A sequence that was stopped.
    Resume(Sequence),
}

/// A sequence with all its tokens but the last one in pages.
struct Running {
    sequence: Sequence,
    seat: usize,
    pages: Vec<u32>,
    /// Tokens in pages when all passes that were begun are done.
    held: usize,
    /// Its row in the pass whose tokens are awaited, and in the one begun after that.
    row: Option<usize>,
    next_row: Option<usize>,
}

impl Running {
    /// With these tokens in pages.
    fn new(sequence: Sequence, seat: usize, pages: Vec<u32>, held: usize) -> Self {
        Self { sequence, seat, pages, held, row: None, next_row: None }
    }

    /// Whether it draws in the next pass: not where the token that is awaited is its last in any case.
    fn goes_on(&self) -> bool {
        self.sequence.left() > usize::from(self.row.is_some())
    }

    /// Whether it needs another page for that.
    fn is_full(&self) -> bool {
        self.goes_on() && self.held == self.pages.len() * PAGE
    }

    /// How it draws in the next pass, where that is sure already.
    fn wish(&self) -> Option<Wish<'_>> {
        if self.row.is_some() { self.sequence.wish_after_next() } else { Some(self.sequence.wish()) }
    }
}

impl Prompt {
    /// Which sample comes next, in the order in which they were asked for.
    fn rank(&self) -> (usize, usize) {
        (self.number, self.sample)
    }

    fn left(&self) -> usize {
        self.request.samples.len() - self.sample
    }

    /// The next sample's sequence.
    fn begin(&mut self) -> Sequence {
        let sequence = Sequence::new(self.number, self.sample, Arc::clone(&self.request), self.room);
        self.sample += 1;
        sequence
    }

    /// What is read before samples begin.
    fn body(&self) -> &[u32] {
        &self.request.prompt[..self.request.prompt.len() - 1]
    }
}

impl Reading {
    fn rank(&self) -> (usize, usize) {
        match &self.then {
            Then::Begin(prompt) => prompt.rank(),
            Then::Resume(sequence) => sequence.rank(),
        }
    }
}

/// Whose pages may be taken: the youngest's.
enum Holder {
    Reading(usize),
    Read(usize),
    Running(usize),
}

impl<'a> Worker<'a> {
    pub(super) fn new(
        model: &'a Decoder,
        tokenizer: &'a Tokenizer,
        slots: usize,
        cache_bytes: Option<usize>,
    ) -> Result<Self, GpuError> {
        let vocabulary = model.config().vocab_size.min(tokenizer.vocab_size());
        let (slots, readers) = Self::fitting(model, slots, cache_bytes)?;
        let seats = slots + readers;
        let longest = model.config().context().div_ceil(PAGE);
        let size = Size { pages: 0, seats, drawing: slots, reading: READING, vocabulary };
        let bytes = if let Some(bytes) = cache_bytes {
            bytes
        } else {
            let free = model.gpu().free_bytes()?.saturating_sub(Session::bytes(model, &size));
            (free as f64 * SHARE) as usize
        };
        // The longest sequence always has its pages and one more; what all seats cannot hold is of no use.
        let fewest = longest.min(PAGES_OF_ONE) + 1;
        let pages = (bytes / model.page_bytes()).min(seats * longest).max(fewest);
        let session = Session::new(model, &Size { pages, ..size })?;
        Ok(Self {
            model,
            session,
            ledger: Ledger::new(pages),
            speaker: Speaker::new(tokenizer, vocabulary),
            slots,
            readers,
            free_seats: (0..seats).rev().collect(),
            waiting: VecDeque::new(),
            stopped: Vec::new(),
            readings: Vec::new(),
            read: VecDeque::new(),
            running: Vec::new(),
            finished: Vec::new(),
        })
    }

    /// As many slots, and prompts that are read, as there is memory for where sequences have more than pages.
    fn fitting(
        model: &Decoder,
        slots: usize,
        cache_bytes: Option<usize>,
    ) -> Result<(usize, usize), GpuError> {
        let readers = |slots: usize| slots.min(READERS);
        if model.state_bytes() == 0 {
            return Ok((slots, readers(slots)));
        }
        let bytes = cache_bytes.map_or_else(|| model.gpu().free_bytes(), Ok)?;
        // Half of the memory is for states: pages need the other. A fifth of the seats is for prompts.
        let seats = (bytes / 2 / model.state_bytes()).max(2);
        let slots = slots.min((seats * 4 / 5).max(1));
        Ok((slots, readers(slots).min((seats - slots).max(1))))
    }

    /// Slots that nothing runs in and nothing is read again for.
    fn free_slots(&self) -> usize {
        let resuming = self.readings.iter().filter(|reading| matches!(reading.then, Then::Resume(_)));
        self.slots - self.running.len() - resuming.count()
    }

    /// So many pages, if they are free.
    fn pages(&mut self, count: usize) -> Option<Vec<u32>> {
        if self.ledger.free() < count {
            return None;
        }
        (0..count).map(|_| self.ledger.take()).collect()
    }

    /// Begins to read tokens, if there is room for them and for one more.
    fn read(&mut self, tokens: Vec<u32>, then: Then) -> Result<Result<(), Then>, GpuError> {
        let needed = (tokens.len() + 1).div_ceil(PAGE);
        if self.free_seats.is_empty() || self.ledger.free() < needed {
            return Ok(Err(then));
        }
        let pages = self.pages(tokens.len().div_ceil(PAGE)).expect("so many are free");
        let seat = self.free_seats.pop().expect("one is free");
        self.session.cache().seat(seat, 0, &pages)?;
        self.readings.push(Reading { seat, tokens, done: 0, pages, then });
        Ok(Ok(()))
    }

    /// Begins samples of prompts that are read. The last of a prompt takes its pages and its seat; the others share the full pages
    /// and have a copy of what they go on in.
    fn begin_samples(&mut self) -> Result<(), GenerateError> {
        while self.free_slots() > 0
            && let Some(Read { prompt, pages, seat }) = self.read.front_mut()
        {
            let held = prompt.body().len();
            let mut own = pages.clone();
            let (own_seat, is_last) = match seat {
                Some(seat) if prompt.left() == 1 => (*seat, true),
                _ => {
                    let Some(&own_seat) = self.free_seats.last() else { return Ok(()) };
                    let full = held / PAGE;
                    if full < pages.len() {
                        let Some(page) = self.ledger.take() else { return Ok(()) };
                        self.session.cache().copy(&[(pages[full], page)])?;
                        own[full] = page;
                    }
                    self.ledger.share(&own[..full]);
                    if let Some(seat) = seat {
                        self.session.copy_state(*seat, own_seat)?;
                    }
                    self.session.cache().seat(own_seat, 0, &own)?;
                    self.free_seats.pop();
                    (own_seat, prompt.left() == 1)
                }
            };
            let sequence = prompt.begin();
            if is_last {
                self.read.pop_front();
            }
            self.session.begin(own_seat, sequence.seen())?;
            self.running.push(Running::new(sequence, own_seat, own, held));
        }
        Ok(())
    }

    /// Goes on with what was stopped, then begins samples and reads prompts, while there are slots and pages for them.
    fn fill(&mut self) -> Result<(), GenerateError> {
        while self.free_slots() > 0
            && let Some(oldest) = (0..self.stopped.len()).min_by_key(|&index| self.stopped[index].rank())
        {
            let sequence = self.stopped.swap_remove(oldest);
            if let Err(then) = self.read(sequence.past(), Then::Resume(sequence))? {
                if let Then::Resume(sequence) = then {
                    self.stopped.push(sequence);
                }
                return Ok(());
            }
        }
        if !self.stopped.is_empty() {
            return Ok(());
        }
        self.begin_samples()?;
        // A pass with prompts in it is not a recorded one: where many sequences run, some slots are let fall free first.
        if self.free_slots() < (self.slots / FREE_BEFORE_READING).max(1) {
            return Ok(());
        }
        while self.readings.len() + self.read.len() < self.readers
            && let Some(prompt) = self.waiting.pop_front()
        {
            let body = prompt.body().to_vec();
            if body.is_empty() {
                self.read.push_back(Read { prompt, pages: Vec::new(), seat: None });
                continue;
            }
            if let Err(then) = self.read(body, Then::Begin(prompt))? {
                if let Then::Begin(prompt) = then {
                    self.waiting.push_front(prompt);
                }
                break;
            }
        }
        self.begin_samples()
    }

    /// Gives every running sequence the page that its next token needs, and stops the youngest where there is none.
    fn make_room(&mut self) -> Result<(), GenerateError> {
        loop {
            let needed = self.running.iter().filter(|running| running.is_full()).count();
            if needed <= self.ledger.free() {
                break;
            }
            // What is stopped has all its tokens; and pages may come free.
            if self.receive()? {
                continue;
            }
            if !self.stop_youngest(2) {
                let bytes = self.model.page_bytes();
                return Err(GpuError::OutOfMemory { bytes }.into());
            }
        }
        for running in &mut self.running {
            if running.is_full() {
                let page = self.ledger.take().expect("so many are free");
                self.session.cache().seat(running.seat, running.pages.len(), &[page])?;
                running.pages.push(page);
            }
        }
        Ok(())
    }

    /// Takes the pages of what was begun last, where at least so many hold any.
    fn stop_youngest(&mut self, fewest: usize) -> bool {
        let readings =
            (0..).zip(&self.readings).map(|(index, reading)| (reading.rank(), Holder::Reading(index)));
        let read = (0..).zip(&self.read).map(|(index, read)| (read.prompt.rank(), Holder::Read(index)));
        let running = (0..)
            .zip(&self.running)
            .map(|(index, running)| (running.sequence.rank(), Holder::Running(index)));
        let mut holders: Vec<_> = readings.chain(read).chain(running).collect();
        if holders.len() < fewest {
            return false;
        }
        holders.sort_by_key(|&(rank, _)| rank);
        match holders.pop() {
            Some((_, Holder::Reading(index))) => {
                let Reading { seat, pages, then, .. } = self.readings.remove(index);
                self.ledger.leave(&pages);
                self.free_seats.push(seat);
                match then {
                    Then::Begin(prompt) => self.wait_again(prompt),
                    Then::Resume(sequence) => self.stopped.push(sequence),
                }
            }
            Some((_, Holder::Read(index))) => {
                if let Some(Read { prompt, pages, seat }) = self.read.remove(index) {
                    self.ledger.leave(&pages);
                    self.free_seats.extend(seat);
                    self.wait_again(prompt);
                }
            }
            Some((_, Holder::Running(index))) => {
                let Running { sequence, seat, pages, .. } = self.running.remove(index);
                self.ledger.leave(&pages);
                self.free_seats.push(seat);
                self.stopped.push(sequence);
            }
            None => {}
        }
        true
    }

    /// Puts a prompt back in its place among those that wait.
    fn wait_again(&mut self, prompt: Prompt) {
        let place = self.waiting.partition_point(|waiting| waiting.number < prompt.number);
        self.waiting.insert(place, prompt);
    }

    /// What of the readings passes the model next.
    fn next_turns(&self, first_row: usize) -> (Vec<Turn>, Vec<Entering>) {
        let (mut turns, mut entering) = (Vec::new(), Vec::new());
        let mut left = READING;
        for reading in &self.readings {
            let rows = (reading.tokens.len() - reading.done).min(left);
            if rows == 0 {
                continue;
            }
            left -= rows;
            let (seat, position) = (reading.seat, reading.done);
            turns.push(Turn { seat, row: first_row + entering.len(), rows, position });
            let tokens = &reading.tokens[position..position + rows];
            entering.extend((position..).zip(tokens).map(|(position, &token)| Entering {
                token: Some(token),
                seat,
                position,
            }));
        }
        (turns, entering)
    }

    /// Waits for the oldest pass and gives every sequence its token; what has ended leaves. False if there is no such pass.
    fn receive(&mut self) -> Result<bool, GenerateError> {
        let Some(drawn) = self.session.drawn()? else { return Ok(false) };
        let mut drawn: Vec<_> = drawn.into_iter().map(Some).collect();
        // Backwards, so that what takes the place of a finished sequence has been looked at already.
        for index in (0..self.running.len()).rev() {
            let running = &mut self.running[index];
            let row = std::mem::replace(&mut running.row, running.next_row.take());
            let Some(drawn) = row.and_then(|row| drawn[row].take()) else { continue };
            if let Some(reason) = self.speaker.add(&mut running.sequence, drawn)? {
                let Running { sequence, seat, pages, .. } = self.running.swap_remove(index);
                self.ledger.leave(&pages);
                self.free_seats.push(seat);
                self.finished.push(self.speaker.finish(sequence, reason)?);
            }
        }
        Ok(true)
    }

    /// Begins a pass of all that goes on; false if that is nothing.
    fn begin_pass(&mut self) -> Result<bool, GpuError> {
        let (mut entering, mut draws) = (Vec::new(), Vec::new());
        let awaited = self.session.ahead() > 0;
        for running in self.running.iter_mut().filter(|running| running.goes_on()) {
            let token = running.row.is_none().then(|| running.sequence.last());
            let wish = running.wish().expect("what is not sure was waited for");
            let Wish { forced, sampling, seed, position } = wish;
            let uniform = uniform(seed, position);
            draws.push(Draw { slot: running.seat, forced, uniform, sampling: *sampling });
            let row = Some(entering.len());
            entering.push(Entering { token, seat: running.seat, position: running.held });
            running.held += 1;
            *(if awaited { &mut running.next_row } else { &mut running.row }) = row;
        }
        let (turns, reading) = self.next_turns(entering.len());
        entering.extend(reading);
        if entering.is_empty() {
            return Ok(false);
        }
        self.session.advance(&entering, &draws, &turns)?;
        self.end_turns(&turns)?;
        Ok(true)
    }

    /// Notes that the turns have passed, or will have before anything that is asked for now; what is read whole begins or goes
    /// on.
    fn end_turns(&mut self, turns: &[Turn]) -> Result<(), GpuError> {
        for turn in turns {
            if let Some(reading) = self.readings.iter_mut().find(|reading| reading.seat == turn.seat) {
                reading.done += turn.rows;
            }
        }
        let (done, left) =
            std::mem::take(&mut self.readings).into_iter().partition(|r: &Reading| r.done == r.tokens.len());
        self.readings = left;
        for Reading { seat, tokens, pages, then, .. } in done {
            match then {
                Then::Begin(prompt) => {
                    self.read.push_back(Read { prompt, pages, seat: Some(seat) });
                }
                Then::Resume(sequence) => {
                    self.session.begin(seat, sequence.seen())?;
                    self.running.push(Running::new(sequence, seat, pages, tokens.len()));
                }
            }
        }
        Ok(())
    }
}

impl desk::Worker for Worker<'_> {
    fn is_idle(&self) -> bool {
        self.running.is_empty()
            && self.stopped.is_empty()
            && self.waiting.is_empty()
            && self.readings.is_empty()
            && self.read.is_empty()
    }

    fn wants_request(&self) -> bool {
        let begun = self.readings.iter().map(|reading| match &reading.then {
            Then::Begin(prompt) => prompt.left(),
            Then::Resume(_) => 1,
        });
        let waiting = self.waiting.iter().chain(self.read.iter().map(|read| &read.prompt)).map(Prompt::left);
        let wanted: usize = begun.chain(waiting).sum();
        self.running.len() + self.stopped.len() + wanted < self.slots
    }

    fn take(&mut self, number: usize, request: Request) -> Result<(), GenerateError> {
        super::check(number, &request, self.model.config())?;
        let room = request.max_tokens.min(self.model.config().context() - request.prompt.len());
        let mut prompt = Prompt { number, request: Arc::new(request), sample: 0, room };
        if room == 0 {
            while prompt.left() > 0 {
                let sequence = prompt.begin();
                self.finished.push(self.speaker.finish(sequence, super::FinishReason::Length)?);
            }
        }
        if prompt.left() > 0 {
            self.waiting.push_back(prompt);
        }
        Ok(())
    }

    fn admit(&mut self) -> Result<(), GenerateError> {
        self.fill()?;
        // Prompts that are read may hold the pages that what is to go on first waits for.
        while self.running.is_empty() && self.readings.is_empty() && self.stop_youngest(1) {
            self.fill()?;
        }
        Ok(())
    }

    fn step(&mut self) -> Result<(), GenerateError> {
        let awaited = self.session.ahead() > 0;
        if self.running.iter().any(|running| running.goes_on() && running.wish().is_none()) {
            self.receive()?;
        }
        self.make_room()?;
        let has_begun = self.begin_pass()?;
        if !has_begun && !awaited {
            // What waits needs more pages than there are.
            return Err(GpuError::OutOfMemory { bytes: self.model.page_bytes() }.into());
        }
        // While this thread looks at the tokens of the pass before it, the GPU is busy with the new one.
        if self.session.ahead() > usize::from(has_begun) {
            self.receive()?;
        }
        Ok(())
    }

    fn take_finished(&mut self) -> Vec<Finished> {
        std::mem::take(&mut self.finished)
    }
}

#[cfg(test)]
mod tests;
