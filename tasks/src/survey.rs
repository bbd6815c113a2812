//! What a node would ask for, before it does: which records are stored, and what the others would take by those like them.

use std::collections::BTreeSet;

use dag_engine::task::{Estimate, EstimateInputs, TaskError};
use dag_engine::{Digest, Logged};
use serde_json::{Value, json};

use crate::backend::{BackendRun, ModelSpec, Raw, Sampling, Usage};
use crate::records::{Keys, Prompt, draw, stream};

/// So many stored records tell what others will take.
const SEEN: usize = 500;

/// The records of one model with one way of sampling, as far as they are stored.
pub(crate) struct Survey {
    keys: Keys,
    /// The stored ones; none where the model is not known yet.
    logged: Option<Logged>,
    seen: Vec<Usage>,
    run: BackendRun,
    wanted: BTreeSet<Digest>,
    calls: u64,
    prompt_bytes: u64,
}

impl Survey {
    /// Of the records that `model` would be asked for. `None` where nobody is asked.
    pub(crate) fn open(
        inputs: &EstimateInputs,
        run: BackendRun,
        model: &ModelSpec,
        sampling: &Sampling,
        seed: u64,
    ) -> Option<Self> {
        if matches!(model, ModelSpec::Given(_)) {
            return None;
        }
        let digest = inputs.artifact("model").map(|(_, digest)| digest);
        let identity = model.identity(digest, inputs.gpus());
        let keys = Keys { model: identity.clone().unwrap_or_default(), sampling: json!(sampling), seed };
        let logged = identity.is_some().then(|| inputs.logged(&stream(&keys))).flatten();
        let mut seen = logged.as_ref().map(usages).unwrap_or_default();
        if seen.is_empty() && identity.is_some() {
            // The same model with other sampling is the next best.
            let alike = inputs.logged_where(|about| about.get("model") == identity.as_ref());
            seen = alike.iter().flat_map(usages).take(SEEN).collect();
        }
        Some(Self { keys, logged, seen, run, wanted: BTreeSet::new(), calls: 0, prompt_bytes: 0 })
    }

    /// Counts a prompt.
    pub(crate) fn count(&mut self, prompt: &Prompt) {
        for repeat in prompt.repeats.clone() {
            let key = self.keys.sample(&prompt.messages, repeat).key;
            if self.wanted.insert(key) && !self.has(&key) {
                self.calls += 1;
                self.prompt_bytes +=
                    prompt.messages.iter().map(|message| message.content.len() as u64).sum::<u64>();
            }
        }
    }

    fn has(&self, key: &Digest) -> bool {
        self.logged.as_ref().is_some_and(|logged| logged.has(key))
    }

    /// The stored response to one repeat of a prompt.
    pub(crate) fn stored(&self, prompt: &Prompt) -> Option<Raw> {
        let key = self.keys.sample(&prompt.messages, prompt.repeats.start).key;
        let bytes = self.logged.as_ref()?.get(&key).ok()??;
        Raw::from_bytes(&bytes).ok()
    }

    /// What the counted prompts take. Exact, unless the model that would be asked is not known yet.
    pub(crate) fn counted(&self) -> Estimate {
        let estimate = self.take(self.calls, Some(self.prompt_bytes));
        let is_known = self.keys.model != Value::Null;
        Estimate { records: Some(self.wanted.len() as u64), at_most: !is_known, ..estimate }
    }

    /// What so many records take at most.
    pub(crate) fn at_most(&self, records: Option<u64>) -> Estimate {
        match records {
            Some(records) => Estimate { records: Some(records), at_most: true, ..self.take(records, None) },
            None => Estimate::default(),
        }
    }

    /// What so many calls take, by those that were seen.
    fn take(&self, calls: u64, prompt_bytes: Option<u64>) -> Estimate {
        let estimate = Estimate { calls: Some(calls), ..Estimate::default() };
        if calls == 0 {
            return Estimate { usd: self.run.price.map(|_| (0.0, 0.0)), ..estimate };
        }
        if self.seen.is_empty() {
            // Four bytes to a token, the usual guess for English.
            return Estimate { input_tokens: prompt_bytes.map(|bytes| bytes / 4), ..estimate };
        }
        let seen = self.seen.len() as f64;
        let mean = |of: &dyn Fn(&Usage) -> f64| self.seen.iter().map(of).sum::<f64>() / seen;
        let tokens = |mean: f64| Some((mean * calls as f64).round() as u64);
        let usd = self.run.price.map(|price| {
            let cost = |usage: &Usage| price.of(usage, self.run.is_batched());
            let each = mean(&cost);
            let squares = self.seen.iter().map(|usage| (cost(usage) - each).powi(2)).sum::<f64>();
            let variance = squares / (seen - 1.0).max(1.0);
            let calls = calls as f64;
            // Of the sum of the calls, and of the mean of those seen.
            (each * calls, 1.96 * (variance * (calls + calls * calls / seen)).sqrt())
        });
        Estimate {
            input_tokens: tokens(mean(&|usage| usage.input as f64)),
            output_tokens: tokens(mean(&|usage| usage.output as f64)),
            usd,
            ..estimate
        }
    }
}

/// The tokens of some of the stored records.
fn usages(logged: &Logged) -> Vec<Usage> {
    let raws = logged.some(SEEN).into_iter().filter_map(|bytes| Raw::from_bytes(&bytes).ok());
    raws.map(|raw| raw.usage()).collect()
}

/// The estimate of a node that asks `model` for every prompt of a table, if the table is there, and for `most` records at
/// most. `seed` is the node's own number of a draw.
pub(crate) fn of_prompts(
    inputs: &EstimateInputs,
    model: &ModelSpec,
    sampling: &Sampling,
    seed: u64,
    prompts: Option<impl Iterator<Item = Result<Prompt, TaskError>>>,
    most: Option<u64>,
) -> Estimate {
    let survey = Survey::open(inputs, inputs.run_options(), model, sampling, draw(inputs.seed(), seed));
    let Some(mut survey) = survey else { return Estimate { records: most, ..Estimate::default() } };
    for prompt in prompts.into_iter().flatten() {
        match prompt {
            Ok(prompt) => survey.count(&prompt),
            // The run will say what is wrong.
            Err(_) => return survey.at_most(most),
        }
    }
    if survey.wanted.is_empty() { survey.at_most(most) } else { survey.counted() }
}
