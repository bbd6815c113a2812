//! `Scheduler`: which node is decided or started next. A state machine without threads, clock or I/O.
//!
//! It keeps two invariants: S1, a node is decided and started only after everything it reads has ended well; S2, a
//! failed node skips its descendants and nothing else. Slots are given back with every end, and the order is that of
//! the node numbers, so equal outcomes give equal schedules.

use std::collections::{BTreeMap, BTreeSet};

use crate::event::End;

/// What the machine offers to a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Capacity {
    /// Threads.
    pub cpus: u32,
    /// The ids of its GPUs.
    pub gpus: Vec<u32>,
    /// Bytes of memory; `None` is not counted.
    pub memory: Option<u64>,
    /// Named limits. One that is not listed is not counted.
    pub limits: BTreeMap<String, u32>,
}

/// What a node holds while it runs.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Demand {
    /// Threads. More than there are means all of them.
    pub(crate) cpus: u32,
    /// GPUs.
    pub(crate) gpus: u32,
    /// Bytes of memory.
    pub(crate) memory: u64,
    /// Slots of named limits.
    pub(crate) limits: BTreeMap<String, u32>,
}

impl Capacity {
    /// Whether `demand` could be met by an idle machine; if not, what is too little, as (name, asked, offered).
    pub(crate) fn refuses(&self, demand: &Demand) -> Option<(String, u64, u64)> {
        let too_little = |name: &str, asked: u64, offered: u64| {
            (asked > offered).then(|| (name.to_owned(), asked, offered))
        };
        too_little("gpus", demand.gpus.into(), self.gpus.len() as u64)
            .or_else(|| too_little("memory", demand.memory, self.memory?))
            .or_else(|| {
                demand.limits.iter().find_map(|(name, &asked)| {
                    too_little(name, asked.into(), u64::from(*self.limits.get(name)?))
                })
            })
    }
}

/// Where a node is.
#[derive(Debug, Clone, PartialEq, Eq)]
enum State {
    /// So many of the nodes it reads have not ended well yet.
    Waiting(u32),
    /// All it reads has ended well; whether it must run is not decided.
    Open,
    /// It must run, and waits for slots.
    Queued,
    /// It must run, but another process is computing the same action. It holds no slots.
    Deferred,
    /// Its task runs; it holds its slots and these GPUs.
    Running(Vec<u32>),
    /// It has ended. Only a hit may leave this state, by [`Scheduler::call_back`].
    Ended(End),
}

/// The states of all nodes of a run, and the slots that are free.
#[derive(Debug)]
pub(crate) struct Scheduler {
    states: Vec<State>,
    inputs: Vec<Vec<u32>>,
    dependents: Vec<Vec<u32>>,
    open: BTreeSet<u32>,
    /// Nodes of equal demand share a queue, so that looking for one that fits does not go through all of them.
    classes: Vec<(Demand, BTreeSet<u32>)>,
    class_of: Vec<usize>,
    free: Capacity,
    unended: usize,
    stopped: bool,
    keep_going: bool,
}

impl Scheduler {
    /// Nodes `0..inputs.len()`, each with the numbers of the nodes it reads, and what it holds while it runs. A demand
    /// that [`Capacity::refuses`] would never be met and must not get here.
    pub(crate) fn new(
        inputs: Vec<Vec<u32>>,
        demands: Vec<Demand>,
        capacity: Capacity,
        keep_going: bool,
    ) -> Self {
        let mut dependents = vec![Vec::new(); inputs.len()];
        let mut states = Vec::with_capacity(inputs.len());
        let mut open = BTreeSet::new();
        let inputs: Vec<Vec<u32>> = inputs
            .into_iter()
            .map(|mut inputs| {
                inputs.sort_unstable();
                inputs.dedup();
                inputs
            })
            .collect();
        for (node, inputs) in (0..).zip(&inputs) {
            for &input in inputs {
                dependents[input as usize].push(node);
            }
            if inputs.is_empty() {
                open.insert(node);
            }
            states.push(if inputs.is_empty() { State::Open } else { State::Waiting(inputs.len() as u32) });
        }
        let mut known: BTreeMap<Demand, usize> = BTreeMap::new();
        let mut classes: Vec<(Demand, BTreeSet<u32>)> = Vec::new();
        let mut class_of = Vec::with_capacity(demands.len());
        for mut demand in demands {
            demand.cpus = demand.cpus.min(capacity.cpus);
            demand.limits.retain(|name, _| capacity.limits.contains_key(name));
            let class = *known.entry(demand).or_insert_with_key(|demand| {
                classes.push((demand.clone(), BTreeSet::new()));
                classes.len() - 1
            });
            class_of.push(class);
        }
        let unended = states.len();
        Self {
            states,
            inputs,
            dependents,
            open,
            classes,
            class_of,
            free: capacity,
            unended,
            stopped: false,
            keep_going,
        }
    }

    /// The first node that is to be decided: the caller answers with [`Self::hit`], [`Self::enqueue`], [`Self::finish`]
    /// or by calling back a node it reads.
    pub(crate) fn next_open(&self) -> Option<u32> {
        self.open.first().copied()
    }

    /// All nodes that are to be decided.
    pub(crate) fn open(&self) -> impl Iterator<Item = u32> {
        self.open.iter().copied()
    }

    /// An open node must run.
    pub(crate) fn enqueue(&mut self, node: u32) {
        assert_eq!(self.states[node as usize], State::Open, "only an open node is queued");
        self.open.remove(&node);
        self.queue(node);
    }

    fn queue(&mut self, node: u32) {
        self.states[node as usize] = State::Queued;
        self.classes[self.class_of[node as usize]].1.insert(node);
    }

    /// An open node need not run.
    pub(crate) fn hit(&mut self, node: u32) {
        assert_eq!(self.states[node as usize], State::Open, "only an open node is found to be a hit");
        self.end(node, End::Hit);
    }

    /// Takes the slots for the first queued node that fits, which now runs on these GPUs.
    pub(crate) fn start_next(&mut self) -> Option<(u32, Vec<u32>)> {
        if self.stopped {
            return None;
        }
        let fits = |(demand, queue): &(Demand, BTreeSet<u32>)| {
            let free = &self.free;
            let fits = demand.cpus <= free.cpus
                && demand.gpus as usize <= free.gpus.len()
                && free.memory.is_none_or(|memory| demand.memory <= memory)
                && demand
                    .limits
                    .iter()
                    .all(|(name, count)| free.limits.get(name).is_some_and(|free| count <= free));
            if fits { queue.first().copied() } else { None }
        };
        let node = self.classes.iter().filter_map(fits).min()?;
        let (demand, queue) = &mut self.classes[self.class_of[node as usize]];
        queue.remove(&node);
        self.free.cpus -= demand.cpus;
        if let Some(memory) = &mut self.free.memory {
            *memory -= demand.memory;
        }
        for (name, count) in &demand.limits {
            *self.free.limits.get_mut(name).expect("demands are cut to known limits") -= count;
        }
        let gpus: Vec<u32> = self.free.gpus.drain(..demand.gpus as usize).collect();
        self.states[node as usize] = State::Running(gpus.clone());
        Some((node, gpus))
    }

    fn give_back(&mut self, node: u32) {
        let State::Running(gpus) = std::mem::replace(&mut self.states[node as usize], State::Open) else {
            panic!("only a running node gives slots back");
        };
        let demand = &self.classes[self.class_of[node as usize]].0;
        self.free.cpus += demand.cpus;
        if let Some(memory) = &mut self.free.memory {
            *memory += demand.memory;
        }
        for (name, count) in &demand.limits {
            *self.free.limits.get_mut(name).expect("demands are cut to known limits") += count;
        }
        self.free.gpus.extend(gpus);
        self.free.gpus.sort_unstable();
    }

    /// Takes GPUs out of what nodes may have; none where so many are not free.
    pub(crate) fn hold(&mut self, gpus: u32) -> Option<Vec<u32>> {
        let gpus = gpus as usize;
        (gpus <= self.free.gpus.len()).then(|| self.free.gpus.drain(..gpus).collect())
    }

    /// Gives held GPUs back.
    pub(crate) fn release(&mut self, gpus: Vec<u32>) {
        self.free.gpus.extend(gpus);
        self.free.gpus.sort_unstable();
    }

    /// A node that was just started is being computed elsewhere: it waits without slots.
    pub(crate) fn defer(&mut self, node: u32) {
        self.give_back(node);
        self.states[node as usize] = State::Deferred;
    }

    /// Lets deferred nodes be started again.
    pub(crate) fn retry_deferred(&mut self) {
        for node in 0..self.states.len() as u32 {
            if self.states[node as usize] == State::Deferred {
                self.queue(node);
            }
        }
    }

    /// A running node could not begin, since what it reads is gone: it is to be decided anew.
    pub(crate) fn reopen(&mut self, node: u32) {
        self.give_back(node);
        self.states[node as usize] = State::Open;
        self.open.insert(node);
    }

    /// A hit has to run after all, since its bytes are gone and needed. It is open again, and what reads it and has not
    /// been started waits for it. False if it cannot be: it is no hit, or the run is stopping.
    pub(crate) fn call_back(&mut self, node: u32) -> bool {
        if self.states[node as usize] != State::Ended(End::Hit) || self.stopped {
            return false;
        }
        self.unended += 1;
        let missing = |input: &&u32| !is_good(&self.states[**input as usize]);
        let waits = self.inputs[node as usize].iter().filter(missing).count() as u32;
        self.states[node as usize] = if waits == 0 { State::Open } else { State::Waiting(waits) };
        if waits == 0 {
            self.open.insert(node);
        }
        for dependent in self.dependents[node as usize].clone() {
            let state = &mut self.states[dependent as usize];
            match state {
                State::Waiting(count) => *count += 1,
                State::Open | State::Queued | State::Deferred => {
                    *state = State::Waiting(1);
                    self.open.remove(&dependent);
                    self.classes[self.class_of[dependent as usize]].1.remove(&dependent);
                }
                State::Running(_) | State::Ended(_) => {}
            }
        }
        true
    }

    /// A running node, or an open one that cannot be decided, has ended. Gives what follows from it: descendants that
    /// are skipped, and everything that will not be started if the run stops here.
    pub(crate) fn finish(&mut self, node: u32, end: End) -> Vec<(u32, End)> {
        if matches!(self.states[node as usize], State::Running(_)) {
            self.give_back(node);
        }
        self.end(node, end);
        let mut consequences = Vec::new();
        if matches!(end, End::Hit | End::Ran) {
            return consequences;
        }
        let follows = if end == End::Cancelled { End::Cancelled } else { End::Skipped };
        let mut below = self.dependents[node as usize].clone();
        while let Some(next) = below.pop() {
            // What was started before this node was called back goes on.
            if matches!(self.states[next as usize], State::Ended(_) | State::Running(_)) {
                continue;
            }
            self.end(next, follows);
            consequences.push((next, follows));
            below.extend_from_slice(&self.dependents[next as usize]);
        }
        consequences.sort_unstable();
        if end == End::Failed && !self.keep_going {
            consequences.extend(self.stop());
        }
        consequences
    }

    /// No node is started any more. Gives those that are cancelled by it; running ones end by themselves.
    pub(crate) fn stop(&mut self) -> Vec<(u32, End)> {
        self.stopped = true;
        let idle = |state: &State| !matches!(state, State::Running(_) | State::Ended(_));
        let cancelled: Vec<u32> =
            (0..).zip(&self.states).filter(|(_, state)| idle(state)).map(|(node, _)| node).collect();
        for &node in &cancelled {
            self.end(node, End::Cancelled);
        }
        cancelled.into_iter().map(|node| (node, End::Cancelled)).collect()
    }

    fn end(&mut self, node: u32, end: End) {
        self.open.remove(&node);
        self.classes[self.class_of[node as usize]].1.remove(&node);
        self.states[node as usize] = State::Ended(end);
        self.unended -= 1;
        if !matches!(end, End::Hit | End::Ran) {
            return;
        }
        for &dependent in &self.dependents[node as usize] {
            if let State::Waiting(count) = &mut self.states[dependent as usize] {
                *count -= 1;
                if *count == 0 {
                    self.states[dependent as usize] = State::Open;
                    self.open.insert(dependent);
                }
            }
        }
    }

    /// Whether every node has ended.
    pub(crate) fn is_done(&self) -> bool {
        self.unended == 0
    }
}

fn is_good(state: &State) -> bool {
    matches!(state, State::Ended(End::Hit | End::Ran))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A random graph: each node reads some of those before it; with what happens to each when it is decided and run.
    #[derive(Debug, Clone)]
    struct Story {
        inputs: Vec<Vec<u32>>,
        demands: Vec<Demand>,
        fates: Vec<Fate>,
        keep_going: bool,
        stop_after: usize,
        picks: Vec<usize>,
    }

    #[derive(Debug, Clone, Copy, PartialEq)]
    enum Fate {
        Hit,
        HitThenLost,
        Ran,
        Failed,
        Elsewhere,
    }

    fn story() -> impl Strategy<Value = Story> {
        let node = (
            proptest::collection::vec(any::<prop::sample::Index>(), 0..4),
            (0..4_u32, 0..3_u32, 0..3_u64, 0..2_u32),
            prop_oneof![
                3 => Just(Fate::Hit), 1 => Just(Fate::HitThenLost), 4 => Just(Fate::Ran),
                1 => Just(Fate::Failed), 1 => Just(Fate::Elsewhere)
            ],
        );
        let nodes = proptest::collection::vec(node, 1..24);
        let picks = proptest::collection::vec(0..100_usize, 80);
        (nodes, any::<bool>(), 0..60_usize, picks).prop_map(|(nodes, keep_going, stop_after, picks)| {
            let mut story =
                Story { inputs: vec![], demands: vec![], fates: vec![], keep_going, stop_after, picks };
            for (at, (reads, (cpus, gpus, memory, slots), fate)) in nodes.into_iter().enumerate() {
                let reads =
                    if at == 0 { vec![] } else { reads.iter().map(|read| read.index(at) as u32).collect() };
                story.inputs.push(reads);
                let limits = BTreeMap::from([("server".to_owned(), slots)]);
                story.demands.push(Demand { cpus, gpus, memory, limits });
                story.fates.push(fate);
            }
            story
        })
    }

    /// Plays the story, checks every step, and gives the trace.
    fn play(story: &Story) -> Vec<String> {
        let capacity = Capacity {
            cpus: 3,
            gpus: vec![4, 7],
            memory: Some(3),
            limits: BTreeMap::from([("server".to_owned(), 1)]),
        };
        let mut scheduler =
            Scheduler::new(story.inputs.clone(), story.demands.clone(), capacity.clone(), story.keep_going);
        let mut fates = story.fates.clone();
        let mut running: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
        let mut ends: BTreeMap<u32, End> = BTreeMap::new();
        let mut trace = Vec::new();
        let mut picks = story.picks.iter().cycle();
        let mut steps = 0;
        let note = |ends: &mut BTreeMap<u32, End>, trace: &mut Vec<String>, node: u32, end: End| {
            assert!(ends.insert(node, end).is_none(), "node {node} ends once");
            trace.push(format!("{node} {end:?}"));
        };
        while !scheduler.is_done() {
            steps += 1;
            assert!(steps < 2000, "it must come to an end: {scheduler:?}");
            if steps == story.stop_after {
                scheduler.stop().into_iter().for_each(|(node, end)| note(&mut ends, &mut trace, node, end));
            }
            while let Some(node) = scheduler.next_open() {
                let inputs = &story.inputs[node as usize];
                let good = |input: &u32| matches!(ends.get(input), Some(End::Hit | End::Ran));
                assert!(inputs.iter().all(good), "S1: node {node}");
                if matches!(fates[node as usize], Fate::Hit | Fate::HitThenLost) {
                    scheduler.hit(node);
                    note(&mut ends, &mut trace, node, End::Hit);
                    continue;
                }
                let lost = inputs.iter().find(|input| {
                    fates[**input as usize] == Fate::HitThenLost && ends.get(*input) == Some(&End::Hit)
                });
                if let Some(&lost) = lost
                    && scheduler.call_back(lost)
                {
                    fates[lost as usize] = Fate::Ran;
                    ends.remove(&lost);
                    trace.push(format!("{lost} lost"));
                    continue;
                }
                scheduler.enqueue(node);
            }
            while let Some((node, gpus)) = scheduler.start_next() {
                assert_eq!(gpus.len(), story.demands[node as usize].gpus as usize);
                trace.push(format!("{node} starts on {gpus:?}"));
                if fates[node as usize] == Fate::Elsewhere {
                    fates[node as usize] = Fate::Ran;
                    scheduler.defer(node);
                    continue;
                }
                running.insert(node, gpus);
                let sum = |of: fn(&Demand) -> u64| -> u64 {
                    running.keys().map(|&node| of(&story.demands[node as usize])).sum()
                };
                assert!(sum(|demand| demand.cpus.min(3).into()) <= 3);
                assert!(sum(|demand| demand.memory) <= 3);
                assert!(sum(|demand| demand.limits["server"].into()) <= 1);
                let held: Vec<u32> = running.values().flatten().copied().collect();
                assert_eq!(held.iter().collect::<BTreeSet<_>>().len(), held.len(), "a GPU has one holder");
            }
            if running.is_empty() {
                scheduler.retry_deferred();
                continue;
            }
            let pick = picks.next().unwrap() % running.len();
            let (&node, _) = running.iter().nth(pick).unwrap();
            running.remove(&node);
            let end = if fates[node as usize] == Fate::Failed { End::Failed } else { End::Ran };
            note(&mut ends, &mut trace, node, end);
            let failed = end == End::Failed;
            for (other, end) in scheduler.finish(node, end) {
                note(&mut ends, &mut trace, other, end);
                assert!(failed, "only a failure has consequences");
            }
        }
        assert!(running.is_empty());
        assert_eq!(ends.len(), story.inputs.len(), "every node ends");
        for (&node, &end) in &ends {
            assert_eq!(scheduler.states[node as usize], State::Ended(end));
            let mut causes = story.inputs[node as usize].iter().map(|input| ends[input]);
            if end == End::Skipped {
                assert!(causes.any(|cause| matches!(cause, End::Failed | End::Skipped)), "S2: node {node}");
            }
        }
        assert_eq!(scheduler.free, capacity, "all slots are given back");
        trace
    }

    proptest! {
        #[test]
        fn every_story_ends_well_and_always_in_the_same_way(story in story()) {
            prop_assert_eq!(play(&story), play(&story));
        }
    }

    fn capacity() -> Capacity {
        Capacity { cpus: 1, gpus: vec![], memory: None, limits: BTreeMap::new() }
    }

    #[test]
    fn a_failure_skips_only_what_is_below_it() {
        for keep_going in [true, false] {
            let inputs = vec![vec![], vec![0], vec![1], vec![], vec![3]];
            let mut scheduler = Scheduler::new(inputs, vec![Demand::default(); 5], capacity(), keep_going);
            while let Some(node) = scheduler.next_open() {
                scheduler.enqueue(node);
            }
            assert_eq!(scheduler.start_next(), Some((0, vec![])));
            let consequences = scheduler.finish(0, End::Failed);
            let skipped = vec![(1, End::Skipped), (2, End::Skipped)];
            if keep_going {
                assert_eq!(consequences, skipped);
                assert_eq!(scheduler.start_next(), Some((3, vec![])));
            } else {
                assert_eq!(consequences, [skipped, vec![(3, End::Cancelled), (4, End::Cancelled)]].concat());
                assert!(scheduler.is_done());
            }
        }
    }

    #[test]
    fn what_can_never_fit_is_named() {
        let demand = Demand { gpus: 2, ..Demand::default() };
        assert_eq!(capacity().refuses(&demand), Some(("gpus".to_owned(), 2, 0)));
        assert_eq!(capacity().refuses(&Demand { cpus: 64, ..Demand::default() }), None);
    }
}
