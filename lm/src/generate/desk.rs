//! Between the thread that has the requests and those that answer them.

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;

use super::{Finished, GenerateError, Request};

/// What answers requests, a step at a time.
pub(super) trait Worker {
    /// Whether nothing is left to do.
    fn is_idle(&self) -> bool;
    /// Whether it has room for another request.
    fn wants_request(&self) -> bool;
    /// Takes a request, if it can be answered.
    fn take(&mut self, number: usize, request: Request) -> Result<(), GenerateError>;
    /// Begins what there is room for.
    fn admit(&mut self) -> Result<(), GenerateError>;
    /// Advances what has begun.
    fn step(&mut self) -> Result<(), GenerateError>;
    /// The responses completed since the last call.
    fn take_finished(&mut self) -> Vec<Finished>;
}

/// What workers tell the calling thread.
pub(super) enum Event {
    /// This worker has taken its request and may be given another.
    Taken(usize),
    /// A response is complete.
    Finished(Finished),
}

/// A worker's side: where its requests come from, and who hears of responses.
pub(super) struct Desk<'a> {
    index: usize,
    requests: Receiver<(usize, Request)>,
    events: Sender<Event>,
    cancelled: &'a AtomicBool,
}

/// Runs every one of `workers`, which call [`Desk::work`], on a thread of its own, and gives each `ahead` requests before it
/// takes the first.
pub(super) fn run<W>(
    workers: Vec<W>,
    ahead: usize,
    requests: impl Iterator<Item = Request>,
    receive: &mut dyn FnMut(Finished) -> ControlFlow<()>,
) -> Result<ControlFlow<()>, GenerateError>
where
    W: FnOnce(Desk<'_>) -> Result<(), GenerateError> + Send,
{
    let cancelled = AtomicBool::new(false);
    let (events, happened) = mpsc::channel();
    thread::scope(|scope| {
        let mut threads = Vec::new();
        let mut senders = Vec::new();
        for (index, worker) in workers.into_iter().enumerate() {
            let (sender, requests) = mpsc::channel();
            let cancelled = &cancelled;
            let desk = Desk { index, requests, events: events.clone(), cancelled };
            threads.push(scope.spawn(move || {
                let result = worker(desk);
                if result.is_err() {
                    cancelled.store(true, Ordering::Relaxed);
                }
                result
            }));
            senders.push(Some(sender));
        }
        drop(events);
        let flow = attend(requests, senders, ahead, &happened, receive);
        if flow.is_break() {
            cancelled.store(true, Ordering::Relaxed);
        }
        drop(happened);
        for thread in threads {
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        }
        Ok(flow)
    })
}

/// The calling thread's part: keeps every worker supplied and receives what they finish.
fn attend(
    requests: impl Iterator<Item = Request>,
    mut senders: Vec<Option<Sender<(usize, Request)>>>,
    ahead: usize,
    happened: &Receiver<Event>,
    receive: &mut dyn FnMut(Finished) -> ControlFlow<()>,
) -> ControlFlow<()> {
    let mut requests = requests.enumerate();
    let workers = senders.len();
    let mut give = |index: usize| {
        // A worker whose sender is gone works off what it has and ends; one that has failed no longer listens.
        let sender = senders[index].take();
        if let (Some(sender), Some(request)) = (sender, requests.next())
            && sender.send(request).is_ok()
        {
            senders[index] = Some(sender);
        }
    };
    for _ in 0..ahead {
        (0..workers).for_each(&mut give);
    }
    for event in happened {
        match event {
            Event::Taken(index) => give(index),
            Event::Finished(finished) => receive(finished)?,
        }
    }
    ControlFlow::Continue(())
}

impl Desk<'_> {
    /// A worker's loop: fill the slots, advance them by a token, hand over what is complete.
    pub(super) fn work(self, mut worker: impl Worker) -> Result<(), GenerateError> {
        while !self.cancelled.load(Ordering::Relaxed) {
            worker.admit()?;
            while worker.wants_request() {
                // With nothing to do it waits; otherwise the calling thread may be busy, and the slots go on meanwhile.
                let task =
                    if worker.is_idle() { self.requests.recv().ok() } else { self.requests.try_recv().ok() };
                let Some((number, request)) = task else { break };
                // Where nobody listens any more the next check of `cancelled` ends the work.
                drop(self.events.send(Event::Taken(self.index)));
                worker.take(number, request)?;
                worker.admit()?;
            }
            for finished in worker.take_finished() {
                drop(self.events.send(Event::Finished(finished)));
            }
            if worker.is_idle() {
                break;
            }
            worker.step()?;
        }
        Ok(())
    }
}
