//! The run loop's care for services: which a node asks, which begin for it, and which nobody wants any more.

use std::sync::Arc;

use super::Execution;
use crate::estimate::owes_nothing;
use crate::event::Event;
use crate::graph::{Graph, Node, NodeId, NodeInput};
use crate::run::services::{Engaged, Need, Want};
use crate::service::ServiceUse;

impl Execution<'_> {
    /// The services that a node asks, with the models they are to serve. None where all that it wants of them is stored: a server
    /// may take minutes to begin, and a job of its own.
    pub(super) fn needs(&self, number: u32) -> Vec<Need> {
        let id = self.order[number as usize];
        let node = self.run.graph.node(id);
        if node.run.services.is_empty()
            || (!self.unserved.contains(&number) && owes_nothing(self.run.graph, &self.planner, id))
        {
            return Vec::new();
        }
        let need = |used: &ServiceUse| {
            Some(Need {
                used: used.clone(),
                want: want(node, used),
                service: Arc::clone(self.run.graph.services.get(&used.name)?),
                model: model_of(node, used).and_then(|input| self.planner.artifact(input)).copied(),
            })
        };
        node.run.services.iter().filter_map(need).collect()
    }

    /// Begins the services that a node asks and that are not there; false where there is no room for one now.
    pub(super) fn engage(&mut self, number: u32, needs: &[Need]) -> bool {
        for need in needs {
            let mut engaged = self.services.engage(number, need, None);
            if let Engaged::NeedsGpus(gpus) = engaged {
                let Some(held) = self.scheduler.hold(gpus) else {
                    self.is_crowded = true;
                    self.services.leave(number);
                    return false;
                };
                engaged = self.services.engage(number, need, Some(held));
            }
            if engaged != Engaged::Yes {
                self.services.leave(number);
                return false;
            }
        }
        true
    }

    /// Ends services that nobody wants any more, or that stand in the way, and hears what they tell.
    pub(super) fn mind_services(&mut self) {
        let wanted = &self.wanted;
        self.services.end_unwanted(|want| wanted.get(want).is_some_and(|count| *count > 0));
        if self.running.is_empty() || std::mem::take(&mut self.is_crowded) {
            self.services.make_room();
        }
        let (gpus, warnings) = self.services.reap();
        self.scheduler.release(gpus);
        for text in warnings {
            self.emit(Event::Warning { text });
        }
    }
}

/// What a node wants of the services it asks.
pub(super) fn wants(graph: &Graph, id: NodeId) -> impl Iterator<Item = Want> + '_ {
    let node = graph.node(id);
    node.run.services.iter().map(|used| want(node, used))
}

fn want(node: &Node, used: &ServiceUse) -> Want {
    let source = model_of(node, used).map(|input| (input.source, input.output.to_string()));
    Want { service: used.name.clone(), source }
}

/// What brings the model that a service is to serve.
fn model_of<'a>(node: &'a Node, used: &ServiceUse) -> Option<&'a NodeInput> {
    used.model.and_then(|port| node.inputs.iter().find(|input| &*input.port == port))
}
