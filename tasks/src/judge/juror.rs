//! A model that judges: it is asked in rounds, and what it said is read out of its records.

use dag_engine::task::{TaskCx, TaskError};

use super::params::{Params, Second};
use super::verdict::{Verdict, read};
use crate::backend::{Backend, BackendRun, Message, Sampling};
use crate::records::{Prompt, Records, Stored, draw};

/// Characters of a judge's words that a message quotes.
const QUOTED: usize = 200;

/// A model that judges, and how it is asked.
pub(super) struct Juror {
    backend: Backend,
    sampling: Sampling,
    seed: u64,
    retries: u32,
    synonyms: bool,
}

/// What a juror says of one question.
pub(super) struct Opinion {
    pub(super) verdict: Verdict,
    /// The rule that found it.
    pub(super) rule: &'static str,
    /// The record of the attempt that counts: the first with a verdict, or else the last.
    pub(super) key: String,
    pub(super) words: Option<String>,
    /// How many attempts were made up to that one.
    pub(super) attempts: u32,
    /// Whether another run would find the same; not so where a request failed, since the next run sends it again.
    pub(super) is_settled: bool,
}

impl Opinion {
    /// Whether another judge may be asked.
    pub(super) fn is_open(&self) -> bool {
        self.verdict.is_match().is_none() && self.is_settled
    }

    /// The end of its words, for a message; nothing where there are none.
    pub(super) fn quoted(&self) -> String {
        let Some(words) = &self.words else { return String::new() };
        let line = words.split_whitespace().collect::<Vec<_>>().join(" ");
        let skipped = line.chars().count().saturating_sub(QUOTED);
        let tail: String = line.chars().skip(skipped).collect();
        format!(", where it says “{}{tail}”", if skipped > 0 { "…" } else { "" })
    }
}

/// Where nothing is random the experiment's seed decides nothing, though the other judge may use it.
pub(super) fn seed_of(sampling: &Sampling, experiment: u64, seed: u64) -> u64 {
    draw(if sampling.is_random() { experiment } else { 0 }, seed)
}

impl Juror {
    /// The judge of `params`.
    pub(super) fn first(params: &Params, run: &BackendRun, cx: &TaskCx) -> Result<Self, TaskError> {
        let backend = Backend::open(&params.model, cx.optional("model"), run, cx)?;
        Ok(Self::new(backend, params.sampling(), params.seed, params.retries, params.synonyms, cx))
    }

    /// The one that is asked where the first says no verdict.
    pub(super) fn second(
        params: &Params,
        second: &Second,
        run: &BackendRun,
        cx: &TaskCx,
    ) -> Result<Self, TaskError> {
        let backend = Backend::open(&second.model, cx.optional("second_model"), run, cx)?;
        Ok(Self::new(backend, second.sampling(), second.seed, second.retries, params.synonyms, cx))
    }

    fn new(
        backend: Backend,
        sampling: Sampling,
        seed: u64,
        retries: u32,
        synonyms: bool,
        cx: &TaskCx,
    ) -> Self {
        let seed = seed_of(&sampling, cx.seed(), seed);
        Self { backend, sampling, seed, retries, synonyms }
    }

    /// What its draws come from.
    pub(super) fn seed(&self) -> u64 {
        self.seed
    }

    /// Its records. Several may be open at once: they share what is stored, and count what is asked through each apart.
    pub(super) fn records(&self, cx: &TaskCx) -> Result<Records, TaskError> {
        Records::open(cx, &self.backend, &self.sampling, self.seed)
    }

    /// Asks until every question has a verdict or its attempts are used up. `questions` gives them all, once for each round.
    pub(super) fn ask<I>(
        &self,
        records: &mut Records,
        cx: &TaskCx,
        questions: impl Fn() -> Result<I, TaskError>,
    ) -> Result<(), TaskError>
    where
        I: Iterator<Item = Result<Vec<Message>, TaskError>>,
    {
        let stored = records.stored().clone();
        for attempt in 0..=self.retries {
            let mut open = questions()?.filter_map(|messages| {
                let is_open = messages.and_then(|messages| {
                    let is_open = !self.is_decided(&stored, &messages, attempt)?;
                    Ok(is_open.then_some(Prompt { messages, repeats: attempt..attempt + 1 }))
                });
                is_open.transpose()
            });
            records.ask(cx, &self.backend, &self.sampling, &mut open)?;
        }
        Ok(())
    }

    /// Whether one of the attempts before `attempt` has a verdict.
    fn is_decided(&self, stored: &Stored, messages: &[Message], attempt: u32) -> Result<bool, TaskError> {
        for before in 0..attempt {
            // An attempt that failed is owed by the next run; asking with another seed would change the verdict then.
            let Some(raw) = stored.get(&stored.key(messages, before))? else { return Ok(true) };
            if read(&raw.read(self.backend.accepts()), self.synonyms).0.is_match().is_some() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// What it says of a question that was asked.
    pub(super) fn opinion(&self, records: &Records, messages: &[Message]) -> Result<Opinion, TaskError> {
        let mut attempt = 0;
        loop {
            let key = records.key(messages, attempt);
            let reply = records.outcome(&key, &self.backend)?;
            let (verdict, rule) = read(&reply, self.synonyms);
            let is_settled = records.stored().get(&key)?.is_some();
            if verdict.is_match().is_some() || !is_settled || attempt == self.retries {
                return Ok(Opinion {
                    verdict,
                    rule,
                    key: key.to_string(),
                    words: reply.ok().map(|reply| reply.response),
                    attempts: attempt + 1,
                    is_settled,
                });
            }
            attempt += 1;
        }
    }
}
