//! The endpoints of one model: which of them takes the next request, and how many each has at once.
//!
//! Every endpoint has a limit of its own, found as TCP finds the width of a path: it grows while answers come, and is cut
//! when the endpoint is overloaded or silent (additive increase, multiplicative decrease). It also stops growing where more
//! at once brings no more answers per second, only later ones. One that fails again and again is left alone for a while
//! (a circuit breaker), then asked for its list of models before it gets a request that costs money.
//!
//! The endpoints of a service change: one that is told of no more gets nothing, and its successor starts afresh.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use reqwest::Url;
use tokio::sync::Notify;

/// A limit is cut to this share. TCP's CUBIC uses the same.
const CUT: f64 = 0.7;
/// So many failures in a row mean that the endpoint is down.
const FAILURES: u32 = 5;
const FIRST_REST: Duration = Duration::from_secs(1);
const LONGEST_REST: Duration = Duration::from_secs(30);
/// The limit of an endpoint of which nothing is known.
const FIRST_LIMIT: usize = 32;
/// A wider limit pays if the answers per second grow by this share.
const WORTH: f64 = 1.05;
/// After growing did not pay, so many windows pass before it is tried again.
const HOLD: u32 = 16;

/// Where an endpoint of a service is, and which start of it that is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Address {
    pub(super) url: Url,
    pub(super) nonce: String,
}

/// The endpoints, and who waits for one.
pub(super) struct Pool {
    state: Mutex<State>,
    room: Notify,
    /// How long every endpoint may be silent before the pool is given up.
    patience: Duration,
    /// What a new endpoint takes at once, at first and at most.
    limits: (usize, usize),
    is_changing: bool,
}

struct State {
    /// None is ever removed, since slots refer to them by their number.
    endpoints: Vec<Endpoint>,
    /// Whether an answer of any kind ever came.
    answered: bool,
    /// Since when there has been none, while every endpoint rests.
    silent_since: Option<Instant>,
    gone: Option<String>,
}

struct Endpoint {
    address: Url,
    nonce: String,
    /// It is told of no more.
    is_retired: bool,
    in_flight: usize,
    limit: Limit,
    failures: u32,
    /// How often in a row it asked for less.
    overloads: u32,
    /// When it last made everybody wait.
    paused: Option<Instant>,
    /// Until when it is left alone, and how long the next rest is.
    rest: Option<Instant>,
    next_rest: Duration,
    /// Whether somebody is finding out if it is back.
    is_probed: bool,
    last: String,
}

/// Leave to send one request to one endpoint.
pub(super) struct Slot<'a> {
    pool: &'a Pool,
    endpoint: usize,
    taken: Instant,
    pub(super) address: Url,
}

/// What became of a request, as far as it tells about the endpoint.
pub(super) enum Signal {
    /// It answered.
    Answered,
    /// It asks for less, perhaps for nothing at all for a while.
    Overloaded(Option<Duration>),
    /// It could not be reached, or failed by a fault of its own that less load would not mend.
    Failed(String),
    /// The connection was lost, or not made.
    Lost(String),
}

/// What a call may do next.
pub(super) enum Turn<'a> {
    /// Send.
    Send(Slot<'a>),
    /// Find out whether the endpoint is back, and say so.
    Probe(Probe<'a>),
}

/// Leave to find out whether an endpoint is back.
pub(super) struct Probe<'a> {
    pool: &'a Pool,
    endpoint: usize,
    pub(super) address: Url,
    is_told: bool,
}

impl Pool {
    /// `most`: what all endpoints together may have at once; `None` finds it out.
    pub(super) fn new(addresses: Vec<Url>, most: Option<usize>, patience: Duration, now: Instant) -> Self {
        let pool = Self::empty(addresses.len(), most, patience, false);
        let addresses: Vec<Address> =
            addresses.into_iter().map(|url| Address { url, nonce: String::new() }).collect();
        pool.update(&addresses, now);
        pool
    }

    /// The pool of a service with so many replicas, whose endpoints are told by [`Self::update`].
    pub(super) fn changing(replicas: usize, most: Option<usize>, patience: Duration, now: Instant) -> Self {
        let pool = Self::empty(replicas, most, patience, true);
        {
            let mut state = pool.state();
            // It has answered those who started it.
            state.answered = true;
            state.silent_since = Some(now);
        }
        pool
    }

    fn empty(count: usize, most: Option<usize>, patience: Duration, is_changing: bool) -> Self {
        let count = count.max(1);
        let limits = match most {
            Some(most) => (most.div_ceil(count), most.div_ceil(count)),
            None => (FIRST_LIMIT.div_ceil(count), super::MOST_IN_FLIGHT.div_ceil(count)),
        };
        let state = State { endpoints: Vec::new(), answered: false, silent_since: None, gone: None };
        Self { state: Mutex::new(state), room: Notify::new(), patience, limits, is_changing }
    }

    /// These are the endpoints from now on.
    pub(super) fn update(&self, addresses: &[Address], now: Instant) {
        let mut state = self.state();
        let mut is_new = false;
        for endpoint in &mut state.endpoints {
            endpoint.is_retired =
                !addresses.iter().any(|one| one.url == endpoint.address && one.nonce == endpoint.nonce);
        }
        for Address { url, nonce } in addresses {
            let is_known = |endpoint: &Endpoint| endpoint.address == *url && endpoint.nonce == *nonce;
            if !state.endpoints.iter().any(is_known) {
                is_new = true;
                state.endpoints.push(Endpoint {
                    address: url.clone(),
                    nonce: nonce.clone(),
                    is_retired: false,
                    in_flight: 0,
                    limit: Limit::new(self.limits.0, self.limits.1, now),
                    failures: 0,
                    overloads: 0,
                    paused: None,
                    rest: None,
                    next_rest: FIRST_REST,
                    is_probed: false,
                    last: String::new(),
                });
            }
        }
        if is_new {
            state.silent_since = None;
        } else if state.live().next().is_none() {
            state.silent_since.get_or_insert(now);
        }
        let is_silent = state.silent_since.is_some();
        drop(state);
        if is_new || is_silent {
            self.room.notify_waiters();
        }
    }

    /// Nobody will answer any more; why.
    pub(super) fn give_up(&self, why: String) {
        self.state().gone.get_or_insert(why);
        self.room.notify_waiters();
    }

    /// Whether endpoints come and go.
    pub(super) fn is_changing(&self) -> bool {
        self.is_changing
    }

    /// How long all may be silent.
    pub(super) fn patience(&self) -> Duration {
        self.patience
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many requests all endpoints together take now; at least one.
    pub(super) fn room(&self) -> usize {
        let state = self.state();
        let open = state.live().filter(|endpoint| endpoint.rest.is_none());
        open.map(|endpoint| endpoint.limit.whole()).sum::<usize>().max(1)
    }

    /// Why no endpoint is worth waiting for any more.
    pub(super) fn gone(&self) -> Option<String> {
        self.state().gone.clone()
    }

    /// Waits for the least loaded endpoint with room.
    pub(super) async fn turn(&self) -> Result<Turn<'_>, String> {
        loop {
            // Listening begins before looking, so that no call is missed in between.
            let room = self.room.notified();
            let wake = match self.look(Instant::now()) {
                Look::Turn(turn) => return Ok(turn),
                Look::Gone(why) => {
                    self.room.notify_waiters();
                    return Err(why);
                }
                Look::Wait(wake) => wake,
            };
            match wake {
                Some(wake) => drop(tokio::time::timeout_at(wake.into(), room).await),
                None => room.await,
            }
        }
    }

    fn look(&self, now: Instant) -> Look<'_> {
        let mut state = self.state();
        if let Some(why) = &state.gone {
            return Look::Gone(why.clone());
        }
        for endpoint in &mut state.endpoints {
            // One that only asked for a pause is believed to be back; one that broke is asked first, below.
            endpoint.rest = endpoint.rest.filter(|rest| *rest > now || endpoint.is_broken());
        }
        let open = |endpoint: &Endpoint| {
            !endpoint.is_retired && endpoint.rest.is_none() && endpoint.in_flight < endpoint.limit.whole()
        };
        let load = |endpoint: &Endpoint| endpoint.in_flight as f64 / endpoint.limit.now;
        let least = (0..state.endpoints.len())
            .filter(|index| open(&state.endpoints[*index]))
            .min_by(|one, other| load(&state.endpoints[*one]).total_cmp(&load(&state.endpoints[*other])));
        if let Some(index) = least {
            let endpoint = &mut state.endpoints[index];
            endpoint.in_flight += 1;
            let address = endpoint.address.clone();
            return Look::Turn(Turn::Send(Slot { pool: self, endpoint: index, taken: now, address }));
        }
        let rested =
            |end: &Endpoint| !end.is_retired && end.rest.is_some_and(|rest| rest <= now) && !end.is_probed;
        if let Some(index) = state.endpoints.iter().position(rested) {
            let endpoint = &mut state.endpoints[index];
            endpoint.is_probed = true;
            let address = endpoint.address.clone();
            return Look::Turn(Turn::Probe(Probe { pool: self, endpoint: index, address, is_told: false }));
        }
        if let Some(since) = state.silent_since
            && state.live().all(Endpoint::is_broken)
            && (!state.answered || now.duration_since(since) >= self.patience)
        {
            let shown = |end: &Endpoint| format!("{}: {}", end.address, end.last);
            let mut last: Vec<String> = state.live().map(shown).collect();
            if last.is_empty() {
                last.push(format!("no endpoint is told of for {} s", self.patience.as_secs()));
            }
            let why = last.join("; ");
            state.gone = Some(why.clone());
            return Look::Gone(why);
        }
        let rests = state.live().filter(|endpoint| !endpoint.is_probed).filter_map(|end| end.rest);
        Look::Wait(rests.min())
    }
}

enum Look<'a> {
    Turn(Turn<'a>),
    Wait(Option<Instant>),
    Gone(String),
}

impl Slot<'_> {
    /// Gives the place back and says what became of the request.
    pub(super) fn finish(self, signal: Signal) {
        let now = Instant::now();
        {
            let mut state = self.pool.state();
            let is_gone = self.pool.is_changing && matches!(signal, Signal::Lost(_));
            let endpoint = &mut state.endpoints[self.endpoint];
            match signal {
                Signal::Answered => {
                    endpoint.failures = 0;
                    endpoint.overloads = 0;
                    endpoint.next_rest = FIRST_REST;
                    // One that is nearly idle says nothing about how much more it could take.
                    let is_full = (endpoint.in_flight + 1) as f64 >= 0.9 * endpoint.limit.now;
                    endpoint.limit.answered(now, is_full);
                    state.answered = true;
                    state.silent_since = None;
                }
                Signal::Overloaded(wait) => {
                    endpoint.failures = 0;
                    endpoint.overloads += 1;
                    endpoint.limit.cut(self.taken, now);
                    // Once may concern that request alone; again, before any answer, concerns them all.
                    // What was sent before the pause began knows nothing of it, however late its answer comes.
                    let is_news =
                        endpoint.overloads > 1 && endpoint.paused.is_none_or(|paused| self.taken >= paused);
                    if let Some(wait) = wait.filter(|_| is_news) {
                        endpoint.rest = endpoint.rest.max(Some(now + wait));
                        endpoint.paused = Some(now);
                    }
                    state.answered = true;
                    state.silent_since = None;
                }
                Signal::Failed(what) | Signal::Lost(what) => {
                    endpoint.failures += 1;
                    if is_gone {
                        // A service that dies is told of no more in a moment; until then nothing more is sent there.
                        endpoint.failures = FAILURES;
                    }
                    endpoint.last = what;
                    if endpoint.is_broken() && endpoint.rest.is_none() {
                        endpoint.begin_rest(now);
                    }
                    state.silent_since.get_or_insert(now);
                }
            }
        }
        // The place is given back, and its next holder called, when this is dropped.
    }
}

impl Drop for Slot<'_> {
    fn drop(&mut self) {
        self.pool.state().endpoints[self.endpoint].in_flight -= 1;
        // Two, because the limit may have grown by one.
        self.pool.room.notify_one();
        self.pool.room.notify_one();
    }
}

impl Probe<'_> {
    /// Says whether the endpoint is back.
    pub(super) fn finish(mut self, back: Result<(), String>) {
        let mut state = self.pool.state();
        let endpoint = &mut state.endpoints[self.endpoint];
        endpoint.is_probed = false;
        match back {
            Ok(()) => {
                endpoint.failures = 0;
                endpoint.rest = None;
            }
            Err(what) => {
                endpoint.last = what;
                endpoint.begin_rest(Instant::now());
            }
        }
        self.is_told = true;
        drop(state);
        self.pool.room.notify_waiters();
    }
}

impl Drop for Probe<'_> {
    fn drop(&mut self) {
        if !self.is_told {
            self.pool.state().endpoints[self.endpoint].is_probed = false;
            self.pool.room.notify_one();
        }
    }
}

impl State {
    /// Those that are told of.
    fn live(&self) -> impl Iterator<Item = &Endpoint> {
        self.endpoints.iter().filter(|endpoint| !endpoint.is_retired)
    }
}

impl Endpoint {
    fn is_broken(&self) -> bool {
        self.failures >= FAILURES
    }

    fn begin_rest(&mut self, now: Instant) {
        self.rest = Some(now + self.next_rest);
        self.next_rest = (self.next_rest * 2).min(LONGEST_REST);
    }
}

/// How many requests one endpoint takes at once.
struct Limit {
    now: f64,
    most: f64,
    /// Whether it doubles with every window: until it was cut once, or until growing did not pay.
    is_doubling: bool,
    last_cut: Option<Instant>,
    window: Window,
    /// The window before, to compare with.
    before: Option<(f64, f64)>,
    hold: u32,
}

/// As many answers as the limit was wide when it began.
struct Window {
    began: Instant,
    answers: u32,
    limit: f64,
}

impl Limit {
    fn new(first: usize, most: usize, now: Instant) -> Self {
        let first = first.clamp(1, most.max(1)) as f64;
        Self {
            now: first,
            most: most.max(1) as f64,
            is_doubling: true,
            last_cut: None,
            window: Window { began: now, answers: 0, limit: first },
            before: None,
            hold: 0,
        }
    }

    fn whole(&self) -> usize {
        self.now as usize
    }

    fn answered(&mut self, now: Instant, is_full: bool) {
        self.window.answers += 1;
        if f64::from(self.window.answers) >= self.window.limit.max(8.0) {
            self.end_window(now);
        }
        if is_full && self.hold == 0 {
            let step = if self.is_doubling { 1.0 } else { 1.0 / self.now };
            self.now = (self.now + step).min(self.most);
        }
    }

    /// Goes back to the narrower limit where the wider one brought no more answers per second.
    fn end_window(&mut self, now: Instant) {
        let seconds = now.duration_since(self.window.began).as_secs_f64().max(1e-6);
        let rate = f64::from(self.window.answers) / seconds;
        self.hold = self.hold.saturating_sub(1);
        match self.before {
            Some((limit, before)) if self.window.limit > 1.2 * limit && rate < WORTH * before => {
                self.now = self.now.min(limit);
                self.is_doubling = false;
                self.hold = HOLD;
                self.before = None;
            }
            Some((limit, before)) if self.window.limit <= 1.2 * limit && rate < before => {}
            _ => self.before = Some((self.window.limit, rate)),
        }
        self.window = Window { began: now, answers: 0, limit: self.now };
    }

    /// Cuts the limit, once for all requests that were under way when it was cut.
    fn cut(&mut self, taken: Instant, now: Instant) {
        if self.last_cut.is_some_and(|cut| taken < cut) {
            return;
        }
        self.now = (self.now * CUT).max(1.0);
        self.is_doubling = false;
        self.last_cut = Some(now);
        self.before = None;
        self.window = Window { began: now, answers: 0, limit: self.now };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(start: Instant, milliseconds: u64) -> Instant {
        start + Duration::from_millis(milliseconds)
    }

    /// Plays a server that answers at most `rate` requests a second, however many it has, and none sooner than 10 ms.
    fn settle(limit: &mut Limit, rate: f64, start: Instant) -> usize {
        let mut seconds = 0.0;
        for _ in 0..20_000 {
            seconds += (1.0 / rate).max(0.01 / limit.now);
            let now = start + Duration::from_secs_f64(seconds);
            limit.answered(now, true);
        }
        limit.whole()
    }

    #[test]
    fn a_limit_grows_while_growing_pays() {
        let start = Instant::now();
        let mut limit = Limit::new(32, 1024, start);
        assert_eq!(settle(&mut limit, 1e9, start), 1024, "a server without bound takes all there may be");
        let mut limit = Limit::new(32, 1024, start);
        let settled = settle(&mut limit, 10_000.0, start);
        assert!(
            (64..400).contains(&settled),
            "100 at once are all that 10,000 a second at 10 ms can use: {settled}"
        );
    }

    #[test]
    fn a_limit_is_cut_once_for_one_trouble() {
        let start = Instant::now();
        let mut limit = Limit::new(100, 100, start);
        for _ in 0..50 {
            limit.cut(start, after(start, 10));
        }
        assert_eq!(limit.whole(), 70);
        limit.cut(after(start, 20), after(start, 30));
        assert_eq!(limit.whole(), 49);
        for _ in 0..200 {
            limit.cut(
                after(start, 40 + limit.last_cut.unwrap().duration_since(start).as_millis() as u64),
                after(start, 1 << 20),
            );
        }
        assert!(limit.whole() >= 1, "one is always left");
    }

    #[test]
    fn the_least_loaded_endpoint_comes_first_and_a_broken_one_not_at_all() {
        let addresses = ["http://one/", "http://two/"].map(|address| Url::parse(address).unwrap());
        let start = Instant::now();
        let pool = Pool::new(addresses.to_vec(), Some(8), Duration::from_mins(1), start);
        let take = || match pool.look(Instant::now()) {
            Look::Turn(Turn::Send(slot)) => slot,
            _ => panic!("there is room"),
        };
        let slots: Vec<_> = (0..4).map(|_| take()).collect();
        let hosts: Vec<_> = slots.iter().map(|slot| slot.address.host_str().unwrap().to_owned()).collect();
        assert_eq!(hosts, ["one", "two", "one", "two"]);
        for slot in slots {
            let failed = slot.endpoint == 0;
            slot.finish(if failed { Signal::Failed("refused".into()) } else { Signal::Answered });
        }
        for _ in 0..3 {
            let slots: Vec<_> = (0..2).map(|_| take()).collect();
            for slot in slots {
                let failed = slot.endpoint == 0;
                slot.finish(if failed { Signal::Failed("refused".into()) } else { Signal::Answered });
            }
        }
        let slots: Vec<_> = (0..3).map(|_| take()).collect();
        assert!(slots.iter().all(|slot| slot.endpoint == 1), "the first endpoint rests");
        assert!(pool.gone().is_none());
    }

    #[test]
    fn the_successor_of_an_endpoint_starts_afresh_and_none_at_all_is_waited_for() {
        let now = Instant::now();
        let address = |port: u16, nonce: &str| Address {
            url: Url::parse(&format!("http://one:{port}/")).unwrap(),
            nonce: nonce.to_owned(),
        };
        let pool = Pool::changing(2, Some(8), Duration::from_mins(1), now);
        assert!(matches!(pool.look(now), Look::Wait(_)), "nothing is told of yet");
        pool.update(&[address(1, "a")], now);
        let Look::Turn(Turn::Send(slot)) = pool.look(now) else { panic!("there is room") };
        slot.finish(Signal::Lost("reset".into()));
        assert!(!matches!(pool.look(now), Look::Turn(Turn::Send(_))), "one loss is enough");
        // The same address again, but another start of it.
        pool.update(&[address(1, "b")], now);
        let Look::Turn(Turn::Send(slot)) = pool.look(now) else { panic!("it is back") };
        pool.update(&[], now);
        slot.finish(Signal::Answered);
        assert!(matches!(pool.look(now), Look::Wait(_)));
        pool.update(&[], now);
        assert!(matches!(pool.look(after(now, 59_000)), Look::Wait(_)));
        assert!(matches!(pool.look(after(now, 61_000)), Look::Gone(_)), "not for ever");
    }

    #[test]
    fn a_pool_in_which_nobody_ever_answered_is_gone_at_once() {
        let address = Url::parse("http://one/").unwrap();
        let pool = Pool::new(vec![address], Some(8), Duration::from_mins(1), Instant::now());
        for _ in 0..FAILURES {
            let Look::Turn(Turn::Send(slot)) = pool.look(Instant::now()) else { panic!("there is room") };
            slot.finish(Signal::Failed("connection refused".into()));
        }
        let Look::Gone(why) = pool.look(Instant::now()) else { panic!("nobody is there") };
        assert!(why.contains("http://one/: connection refused"), "{why}");
    }
}
