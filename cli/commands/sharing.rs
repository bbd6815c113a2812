//! `dag push` and `dag pull`: give results to the shared cache, and take all of them from it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use dag_cache::{Digest, Output, Remote, View};
use dag_engine::plan::{Decision, LastActions, Plan, Planner, Selection};
use serde_json::json;

use crate::args::{ExperimentArguments, Pull, Push, Sharing};
use crate::commands::status::{Past, find_run};
use crate::console::troubles;
use crate::context::Context;
use crate::experiment::{Compiled, compiled};
use crate::failure::{Failure, Outcome};
use crate::printer::Printer;
use crate::text::Text;
use crate::words::{bytes, count, duration};

/// How often progress is drawn.
const REDRAW: Duration = Duration::from_millis(250);

pub fn push(arguments: &Push, context: &Context) -> Outcome {
    let sharing = &arguments.sharing;
    let began = Instant::now();
    let actions = match experiment(sharing, context)? {
        Some(compiled) => {
            context.share(compiled.graph.remote.as_ref())?;
            // What is here is what can be given: the shared cache is not asked.
            let view = View::open(&context.store);
            let clock = Arc::new(Context::system_time);
            let mut planner = Planner::new(&compiled.graph, &view, &compiled.root, clock)
                .with_resolver(Context::resolver());
            let plan = planner
                .plan(&Selection { targets: compiled.nodes(&sharing.nodes)?, ..Selection::default() })?;
            hits(compiled, &plan, sharing)?.0
        }
        None => of_run(sharing, context)?,
    };
    let remote = remote(context)?;
    if !remote.is_written() {
        return Err(Failure::user(format!("{} is only read", remote.url())).hint("`write: false` says so"));
    }
    let writer = context.writer()?;
    while_drawn(&context.printer, &remote, || writer.push(&actions, !arguments.no_responses))?;
    end(context, &remote, actions.len(), 0, began)
}

pub fn pull(arguments: &Pull, context: &Context) -> Outcome {
    let sharing = &arguments.sharing;
    let began = Instant::now();
    let compiled = experiment(sharing, context)?;
    context.share(compiled.and_then(|compiled| compiled.graph.remote.as_ref()))?;
    let remote = remote(context)?;
    let writer = context.writer()?;
    let view = writer.view();
    let (nodes, missing) = while_drawn(&context.printer, &remote, || -> Result<_, Failure> {
        let outputs: Vec<Output> = if let Some(compiled) = compiled {
            let targets = compiled.nodes(&sharing.nodes)?;
            let plan = compiled.planner(context).plan(&Selection { targets, ..Selection::default() })?;
            hits(compiled, &plan, sharing)?.1
        } else {
            let actions = of_run(sharing, context)?;
            view.ask(&actions);
            let records = actions.iter().map(|action| view.record(action)).collect::<Result<Vec<_>, _>>()?;
            records.into_iter().flatten().flat_map(|record| record.outputs.into_values()).collect()
        };
        writer.keep_learned()?;
        view.bring(&outputs)?;
        writer.finish()?;
        let missing = outputs.iter().filter(|output| !view.is_here(output)).count();
        Ok((outputs.len(), missing))
    })?;
    end(context, &remote, nodes, missing, began)
}

/// The shared cache; that there is none is a failure here.
fn remote(context: &Context) -> Result<Remote, Failure> {
    context.shared().ok_or_else(|| {
        Failure::user("there is no shared cache to use").hint(
            "name one by `remote:` in the file, `--remote URL` or DAG_REMOTE, and set DAG_REMOTE_KEY; see docs/remote.md",
        )
    })
}

/// The experiment that is meant; `None` if it is a run.
fn experiment(sharing: &Sharing, context: &Context) -> Result<Option<&'static Compiled>, Failure> {
    let is_run = || find_run(context.view().layout(), sharing.what.to_str()).is_ok();
    if !sharing.what.exists() && is_run() {
        context.share(None)?;
        return Ok(None);
    }
    let Sharing { what, profile, set, .. } = sharing;
    let arguments = ExperimentArguments { file: what.clone(), profile: profile.clone(), set: set.clone() };
    let compiled = compiled(&arguments, &context.registry())?;
    compiled.warn(context);
    Ok(Some(compiled))
}

/// The actions that a run computed or reused.
fn of_run(sharing: &Sharing, context: &Context) -> Result<Vec<Digest>, Failure> {
    if !sharing.nodes.is_empty() || !sharing.arm.is_empty() {
        return Err(Failure::user("a run is shared as a whole").hint("name the file to choose nodes of it"));
    }
    let view = context.view();
    let run = find_run(view.layout(), sharing.what.to_str())?;
    let past = Past::read(view.layout(), &run)?;
    let last = LastActions::read(view.layout().actions(&run));
    let computed = past.state.nodes.values().filter_map(|node| node.action);
    let mut actions: Vec<Digest> =
        last.actions().values().copied().chain(computed).map(|action| action.0).collect();
    actions.sort_unstable();
    actions.dedup();
    Ok(actions)
}

/// The actions and outputs of the nodes that are up to date.
fn hits(compiled: &Compiled, plan: &Plan, sharing: &Sharing) -> Result<(Vec<Digest>, Vec<Output>), Failure> {
    let arms = compiled.graph.axes.get("arm");
    if let Some(arm) =
        sharing.arm.iter().find(|arm| !arms.is_some_and(|arms| arms.iter().any(|known| **known == ***arm)))
    {
        return Err(Failure::user(format!("there is no arm `{arm}`")));
    }
    let (mut actions, mut outputs) = (Vec::new(), Vec::new());
    for planned in plan.nodes() {
        let arm = compiled.graph.node(planned.id).coordinates.iter().find(|(axis, _)| &**axis == "arm");
        let wanted = sharing.arm.is_empty()
            || arm.is_some_and(|(_, arm)| sharing.arm.iter().any(|wanted| *wanted == **arm));
        if let (true, Decision::Hit(settled)) = (wanted, &planned.decision) {
            actions.push(settled.action.0);
            outputs.extend(settled.outputs.iter().map(|(_, output)| *output));
        }
    }
    actions.sort_unstable();
    actions.dedup();
    outputs.sort_unstable();
    outputs.dedup();
    Ok((actions, outputs))
}

/// Does `work` while a line tells, on a terminal, how much has gone either way.
fn while_drawn<T>(printer: &Printer, remote: &Remote, work: impl FnOnce() -> T) -> T {
    if printer.live_size().is_none() {
        return work();
    }
    let (done, gate, wake) = (AtomicBool::new(false), Mutex::new(()), Condvar::new());
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut guard = gate.lock().unwrap_or_else(PoisonError::into_inner);
            while !done.load(Ordering::Relaxed) {
                let shared = remote.report();
                printer.raw_note(&format!(
                    "\r\x1b[K  {} taken, {} given",
                    bytes(shared.bytes),
                    bytes(shared.given_bytes)
                ));
                guard = wake.wait_timeout(guard, REDRAW).unwrap_or_else(PoisonError::into_inner).0;
            }
            printer.raw_note("\r\x1b[K");
        });
        let result = work();
        let guard = gate.lock().unwrap_or_else(PoisonError::into_inner);
        done.store(true, Ordering::Relaxed);
        drop(guard);
        wake.notify_all();
        result
    })
}

/// Tells what went where. What could not be given is a failure; what could not be had is only told.
fn end(context: &Context, remote: &Remote, things: usize, missing: usize, began: Instant) -> Outcome {
    let shared = remote.report();
    let seconds = began.elapsed();
    if context.json {
        context
            .printer
            .json(&json!({ "shared": shared, "missing": missing, "seconds": seconds.as_secs_f64() }))?;
    } else {
        context.printer.note(&troubles(&shared));
        let told = crate::console::shared_words(&shared).unwrap_or_else(|| {
            format!("{} looked at, nothing to move: {} has what is here", things, shared.url)
        });
        context.printer.note(&Text::new().good(format!("{told}; {}", duration(seconds))).line());
        if missing > 0 {
            let what = format!(
                "{} could not be had; a run makes them again if it needs their bytes",
                count(missing as u64, "output")
            );
            context.printer.note(&Text::new().warn("warning: ").plain(what).line());
        }
    }
    let unwritten = shared.troubles.iter().find(|trouble| trouble.kind == dag_cache::TroubleKind::Unwritten);
    match unwritten {
        Some(trouble) => {
            Err(Failure::failed(format!("{} could not be given", count(trouble.count, "object")))
                .hint("the same command goes on where this one was"))
        }
        None => Ok(()),
    }
}
