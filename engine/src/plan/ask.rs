//! Asking the shared cache for many nodes at once: one round trip takes as long as a thousand side by side.

use dag_cache::Digest;

use super::{Decision, PlanError, Planner};
use crate::graph::NodeId;

impl Planner<'_> {
    /// Asks for what all of `order` needs, a level of the graph at a time. Does nothing where there is no shared cache.
    pub(super) fn ask_level_by_level(&mut self, order: &[NodeId]) -> Result<(), PlanError> {
        if self.view.remote().is_none() {
            return Ok(());
        }
        let graph = self.graph;
        let mut depths = vec![0_usize; graph.len()];
        let mut levels: Vec<Vec<NodeId>> = Vec::new();
        for &id in order {
            let above = graph.node(id).inputs.iter().map(|input| depths[input.source.index()] + 1);
            let depth = above.max().unwrap_or(0);
            depths[id.index()] = depth;
            levels.resize_with(levels.len().max(depth + 1), Vec::new);
            levels[depth].push(id);
        }
        levels.iter().try_for_each(|level| self.ask_for(level))
    }

    /// Asks the shared cache for the records of those of `nodes` whose inputs are known, all at once, and settles what
    /// it has.
    pub(crate) fn ask_for(&mut self, nodes: &[NodeId]) -> Result<(), PlanError> {
        if self.view.remote().is_none() {
            return Ok(());
        }
        self.collecting = true;
        let mut open = Vec::new();
        let mut failed = None;
        for &id in nodes {
            match self.decide(id) {
                Ok((Decision::Run(_), Some(work))) => open.push((id, work.action.0)),
                // A file that cannot be read is told when the node is decided about.
                Ok(_) | Err(PlanError::Sources(_)) => {}
                Err(error) => {
                    failed = Some(error);
                    break;
                }
            }
        }
        self.collecting = false;
        if let Some(error) = failed {
            return Err(error);
        }
        let actions: Vec<Digest> = open.iter().map(|(_, action)| *action).collect();
        self.view.ask(&actions);
        open.into_iter().try_for_each(|(id, _)| self.decide(id).map(drop))
    }
}
