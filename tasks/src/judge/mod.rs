//! `judge`: does a response reach the reference answer; decided by rules, or by a model where the rules cannot.
//!
//! What a model says is a record, kept whole; the verdict is read out of it each time. So another way of reading, or
//! another policy for what is no verdict, asks nothing again. How good the verdicts are is measured beside them: against
//! labels, against the rules, and on controls whose verdict is known.

mod controls;
mod estimate;
mod juror;
mod material;
mod output;
mod params;
pub(crate) mod quality;
mod question;
mod verdict;

use dag_engine::task::{
    ArtifactType, Environment, Estimate, EstimateInputs, Fault, FileKind, FileRef, Missing, Ports,
    ServiceUse, Task, TaskCx, TaskError,
};

use crate::backend;
use crate::math;
use controls::Controls;
pub(crate) use controls::Outcome as ControlOutcome;
use juror::Juror;
use material::Material;
pub(crate) use output::LABEL;
use output::{Decider, Output};
pub use params::{By, JudgeRun, Params, Second, Shortcut, WithoutVerdict};
pub use question::Part;
pub use verdict::{Verdict, read};

/// The task kind.
pub struct Judge;

impl Task for Judge {
    const KIND: &'static str = "judge";
    /// The last digit is that of what is shown, read and written; a change of the reading asks nothing again.
    const VERSION: u32 = 10 * math::VERSION + 1;
    const ABOUT: &'static str = "does a response reach the reference answer; by rules or by a model";
    type Params = Params;
    type Run = JudgeRun;

    fn ports(params: &Params) -> Ports {
        let mut ports =
            Ports::new().input("responses", ArtifactType::Table).optional("references", ArtifactType::Table);
        if params.by == By::Model && params.model.enters() {
            ports = ports.input("model", ArtifactType::Model);
        }
        if params.second().is_some_and(|second| second.model.enters()) {
            ports = ports.input("second_model", ArtifactType::Model);
        }
        ports = ports.output("judged", ArtifactType::Table);
        if params.controls > 0 { ports.output("controls", ArtifactType::Table) } else { ports }
    }

    fn check(params: &Params) -> Vec<Fault> {
        params.faults()
    }

    fn files(params: &Params) -> Vec<FileRef> {
        let file = |path: &String| FileRef {
            pointer: "/prompt_file".into(),
            pattern: path.clone(),
            kind: FileKind::File,
        };
        params.prompt_file.iter().map(file).collect()
    }

    fn uses_seed(params: &Params) -> bool {
        let second = params.second().is_some_and(|second| second.sampling().is_random());
        params.by == By::Model && params.sampling().is_random() || second
    }

    fn device(params: &Params, gpus: u32) -> Option<&'static str> {
        let first = (params.by == By::Model).then(|| params.model.device(gpus)).flatten();
        first.or(params.second().and_then(|second| second.model.device(gpus)))
    }

    fn splits(params: &Params) -> bool {
        params.by == By::Model
    }

    fn check_run(params: &Params, run: &JudgeRun) -> Vec<Fault> {
        if params.by == By::Rules {
            return Vec::new();
        }
        let second = params.second().map(|second| backend::check_run(&second.model, &run.second, "/second"));
        let first = backend::check_run(&params.model, &run.first, "");
        first.into_iter().chain(second.into_iter().flatten()).collect()
    }

    fn services(params: &Params, run: &JudgeRun) -> Vec<ServiceUse> {
        if params.by == By::Rules {
            return Vec::new();
        }
        let second = params
            .second()
            .and_then(|second| backend::service_of(&second.model, &run.second, "/second", "second_model"));
        backend::service_of(&params.model, &run.first, "", "model").into_iter().chain(second).collect()
    }

    fn preflight(params: &Params, run: &JudgeRun, environment: &dyn Environment) -> Vec<Missing> {
        let mut missing = match params.by {
            By::Rules => Vec::new(),
            By::Model => backend::preflight(&params.model, &run.first, environment),
        };
        let of_second = params
            .second()
            .map(|second| backend::preflight(&second.model, &run.second, environment))
            .unwrap_or_default();
        missing.extend(of_second.into_iter().map(|one| Missing {
            help: format!(
                "{}; for the second judge the options stand under `run: {{ second: … }}`",
                one.help
            ),
            ..one
        }));
        missing
    }

    fn estimate(params: &Params, inputs: &EstimateInputs) -> Estimate {
        match params.by {
            By::Rules => Estimate::default(),
            By::Model => estimate::of(params, inputs),
        }
    }

    fn run(params: &Params, cx: &mut TaskCx) -> Result<(), TaskError> {
        let material = Material::open(params, cx)?;
        match params.by {
            By::Rules => judge_by_rules(params, &material, cx),
            By::Model => judge_by_model(params, &material, cx),
        }
    }
}

fn judge_by_rules(params: &Params, material: &Material, cx: &mut TaskCx) -> Result<(), TaskError> {
    cx.progress().total(material.responses.len());
    let mut output = Output::create(params, material, cx)?;
    for row in material.rows(params)? {
        let row = row?;
        let decided = row.by_rules(params);
        output.write_unasked(row, decided, Decider::Rules)?;
        cx.progress().done(1);
    }
    output.finish(cx)?.check(params)
}

/// Asks the model about what no shortcut decides and about the controls, hands over what it leaves without a verdict, then
/// reads the verdicts.
fn judge_by_model(params: &Params, material: &Material, cx: &mut TaskCx) -> Result<(), TaskError> {
    let run: JudgeRun = cx.run_options()?;
    let juror = Juror::first(params, &run.first, cx)?;
    let controls = Controls::choose(params, material, juror.seed())?;
    cx.progress().total(material.responses.len() + controls.len());

    // The controls go first: where they show a judge that cannot be trusted, little has been spent.
    let mut owed = 0;
    if params.controls > 0 {
        let mut records = juror.records(cx)?;
        juror.ask(&mut records, cx, || Ok(controls.questions(material)))?;
        records.settle(cx, run.first.allowed_failures())?;
        owed += records.failures().len();
        // Of a share of the controls nothing follows yet.
        if cx.shard().is_none() {
            controls.finish(params, material, &juror, &records, cx)?;
        }
    }
    let mut of_responses = juror.records(cx)?;
    let questions = || {
        Ok(material
            .rows(params)?
            .filter_map(|row| row.map(|row| row.question(params, material).ok()).transpose()))
    };
    juror.ask(&mut of_responses, cx, questions)?;
    let mut second = None;
    if let Some(of_second) = params.second() {
        let other = Juror::second(params, of_second, &run.second, cx)?;
        let mut records = other.records(cx)?;
        // What the first judge has decided, or still owes, is not handed over.
        let questions = || {
            Ok(questions()?.filter_map(|messages| {
                let handed_over = messages.and_then(|messages| {
                    let is_open = juror.opinion(&of_responses, &messages)?.is_open();
                    Ok(is_open.then_some(messages))
                });
                handed_over.transpose()
            }))
        };
        other.ask(&mut records, cx, questions)?;
        second = Some((other, records));
    }

    if cx.shard().is_some() {
        if let Some((_, records)) = &second {
            records.settle(cx, run.second.allowed_failures())?;
        }
        return of_responses.settle(cx, run.first.allowed_failures());
    }
    let mut output = Output::create(params, material, cx)?;
    for row in material.rows(params)? {
        let row = row?;
        match row.question(params, material) {
            Err(decided) => output.write_unasked(row, decided, Decider::Shortcut)?,
            Ok(messages) => {
                let opinion = juror.opinion(&of_responses, &messages)?;
                match second.as_ref().filter(|_| opinion.is_open()) {
                    Some((other, records)) => {
                        output.write_opinion(
                            row,
                            Decider::SecondJudge,
                            &other.opinion(records, &messages)?,
                        )?;
                    }
                    None => output.write_opinion(row, Decider::Judge, &opinion)?,
                }
            }
        }
    }
    let tally = output.finish(cx)?;
    // Each counts its own; the metrics `records` and `failed` are those of the first judge on the responses, the last set.
    if let Some((_, records)) = &second {
        records.settle(cx, run.second.allowed_failures())?;
        owed += records.failures().len();
    }
    of_responses.settle(cx, run.first.allowed_failures())?;
    owed += of_responses.failures().len();
    cx.owed(owed as u64);
    tally.check(params)
}

#[cfg(test)]
mod tests;
