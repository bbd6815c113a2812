//! Which packs the steps of a training took, and when.

use dag_engine::graph::Node;
use dag_tasks::train::visits;
use serde_json::Value;

use crate::artifact::Artifact;
use crate::failure::Failure;

/// How a training went, as far as its packs are concerned.
pub struct Training {
    seed: u64,
    steps: u64,
    batch: usize,
}

impl Training {
    /// That of a model; `None` where it does not say.
    pub fn of(node: &Node, model: &Artifact) -> Result<Option<Self>, Failure> {
        let Some(summary) = model.read_json("training/summary.json")? else { return Ok(None) };
        let number = |name: &str| summary.get(name).and_then(Value::as_u64);
        let (Some(steps), Some(batch)) = (number("steps"), number("batch")) else { return Ok(None) };
        let params: Value = serde_json::from_slice(node.step.params()).unwrap_or_default();
        let own = params.get("seed").and_then(Value::as_u64).unwrap_or(0);
        Ok(Some(Self {
            seed: visits::seed(node.seed.unwrap_or_default(), own),
            steps,
            batch: batch as usize,
        }))
    }

    /// For each of `packs` packs, the steps that took it, from one.
    pub fn steps_of(&self, packs: usize) -> Vec<Vec<u64>> {
        visits::steps_of(self.seed, self.steps, self.batch, packs)
    }

    /// The packs, of so many, that some step took.
    pub fn packs_taken(&self, packs: usize) -> Vec<u64> {
        (0..).zip(self.steps_of(packs)).filter(|(_, steps)| !steps.is_empty()).map(|(pack, _)| pack).collect()
    }
}
