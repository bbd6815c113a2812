//! What a judge would be asked, for `dag plan`: by the same questions and keys as when it is.

use dag_engine::task::{Estimate, EstimateInputs, TaskError};

use super::controls::Controls;
use super::juror::seed_of;
use super::material::Material;
use super::params::{JudgeRun, Params};
use super::verdict::read;
use crate::records::Prompt;
use crate::survey::Survey;

/// What the judge of `params` would be asked. Where its inputs are there, that is the next attempt of every question
/// without a verdict; whether those will do, nobody knows before. What a second judge is asked is not counted: that is what
/// this one leaves open.
pub(super) fn of(params: &Params, inputs: &EstimateInputs) -> Estimate {
    let run: JudgeRun = inputs.run_options();
    let sampling = params.sampling();
    let seed = seed_of(&sampling, inputs.seed(), params.seed);
    // Each control is asked beside another reference and beside its own.
    let most = inputs.most("responses").map(|rows| rows + 2 * rows.min(u64::from(params.controls)));
    let Some(mut survey) = Survey::open(inputs, run.first, &params.model, &sampling, seed) else {
        return Estimate { records: most, ..Estimate::default() };
    };
    let all_attempts = most.map(|most| most * (1 + u64::from(params.retries)));
    match count(params, inputs, &mut survey, seed) {
        Some(Ok(())) => survey.counted(),
        // The run will say what is wrong.
        Some(Err(_)) | None => Estimate { records: most, ..survey.at_most(all_attempts) },
    }
}

/// Counts what would be asked, if everything is there that decides it.
fn count(
    params: &Params,
    inputs: &EstimateInputs,
    survey: &mut Survey,
    seed: u64,
) -> Option<Result<(), TaskError>> {
    let (responses, _) = inputs.artifact("responses")?;
    let references = if inputs.ports().any(|port| port == "references") {
        Some(&*inputs.artifact("references")?.0)
    } else {
        None
    };
    let prompt = inputs.files("/prompt_file").first().map(|path| &**path);
    let mut count = || {
        let material = Material::read(params, responses, references, prompt)?;
        let controls = Controls::choose(params, &material, seed)?;
        let questions = material
            .rows(params)?
            .filter_map(|row| row.map(|row| row.question(params, &material).ok()).transpose());
        for messages in controls.questions(&material).chain(questions) {
            let messages = messages?;
            for attempt in 0..=params.retries {
                let prompt = Prompt { messages: messages.clone(), repeats: attempt..attempt + 1 };
                survey.count(&prompt);
                let stored = survey.stored(&prompt).map(|raw| raw.read(params.model.accepts()));
                if stored.is_none_or(|reply| read(&reply, params.synonyms).0.is_match().is_some()) {
                    break;
                }
            }
        }
        Ok(())
    };
    Some(count())
}
