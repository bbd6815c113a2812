//! `dag trace`: what a number, an artifact or a record comes from, and what came of a record.
//!
//! Without a condition it tells of everything upstream of a node ([`lineage`]); with one it follows records, back to their
//! sources ([`back`]) or on to the numbers they have a part in ([`forward`]).

mod back;
mod facts;
mod forward;
mod keys;
mod lineage;
mod step;
mod visits;

use dag_tasks::table::Row;

use crate::args::Trace;
use crate::artifact::{Artifact, Condition, rows};
use crate::context::Context;
use crate::experiment::compiled;
use crate::failure::{Failure, Outcome};

/// So many records are followed unless it is said how many.
const HEAD: usize = 3;

pub fn run(arguments: &Trace, context: &Context) -> Outcome {
    let compiled = compiled(&arguments.experiment, &context.registry())?;
    let plan = compiled.plan(context)?;
    let starts = compiled.artifacts(&arguments.node, &plan, context)?;
    let name = starts.first().map_or(arguments.node.as_str(), |artifact| &artifact.node);
    let id = compiled.node(name)?;
    let follows = arguments.condition.is_some() || arguments.head.is_some() || arguments.forward;
    if !follows {
        return lineage::run(id, compiled, &plan, context);
    }
    let condition = Condition::parse(arguments.condition.as_deref())?;
    let head = arguments.head.unwrap_or(HEAD);
    let seeds = seeds(&starts, &condition, head)?;
    if seeds.is_none() && (arguments.forward || arguments.condition.is_none()) {
        return Err(Failure::user(format!("`{name}` holds no table of records to follow")).hint(format!(
            "`dag trace FILE {name}` tells what it was made from; follow records of one of these"
        )));
    }
    let seeds = seeds.unwrap_or_default();
    let place = (compiled, &plan, context);
    if arguments.forward {
        forward::run(seeds, id, place)
    } else {
        back::run(seeds, id, &condition, head, place)
    }
}

/// The first `head` records of some artifacts for which the condition holds; `None` if no artifact holds a table.
fn seeds<'a>(
    starts: &'a [Artifact],
    condition: &Condition,
    head: usize,
) -> Result<Option<Vec<(&'a Artifact, Row)>>, Failure> {
    let mut found: Option<Vec<(&Artifact, Row)>> = None;
    for artifact in starts {
        let Some(table) = artifact.table()? else { continue };
        let found = found.get_or_insert_default();
        let wanted = head.saturating_sub(found.len());
        found.extend(rows(&table, condition, wanted)?.into_iter().map(|row| (artifact, row)));
    }
    Ok(found)
}
