//! Whether arms differ in more than what they were to differ in: how often they saw what, and how much of it.
use serde_json::{Map, Value};

use super::gather::Gathered;
use super::tables::count;

/// From here on a difference in how much was trained on is one that may show.
const MATERIAL: f64 = 1.1;

/// What confounds a comparison where it differs, with its name in a sentence.
const CONFOUNDS: [(&str, &str); 3] =
    [("epochs", "epochs"), ("exposures", "exposures"), ("unique_problems", "unique problems")];

/// What a sentence says arms are equal in, with its name there.
const MATCHED: [(&str, &str); 4] =
    [("steps", "steps"), ("tokens", "tokens"), ("epochs", "epochs"), ("exposures", "exposures")];

/// Facts about the training of an arm, by their names in `summary.json`, `packing.` before those of its packs.
pub(super) type Facts = Map<String, Value>;

/// The facts about every training run, each under its arm's name, or of the packs alone where nothing was trained.
pub(super) fn facts(gathered: &Gathered) -> Vec<(String, Facts)> {
    let mut facts: Vec<(String, Facts)> = Vec::new();
    for run in &gathered.training {
        let label = match &run.replicate {
            Some(replicate) if gathered.training.iter().filter(|other| other.arm == run.arm).count() > 1 => {
                format!("{} {replicate}", run.arm)
            }
            _ => run.arm.clone(),
        };
        let mut known = run.summary.clone();
        if let Some((_, stats)) = gathered.packs.iter().find(|(arm, _)| *arm == run.arm) {
            known.extend(of_packs(stats));
        }
        let number = |name: &str| known.get(name).and_then(Value::as_f64);
        if let (Some(exposures), Some(problems)) = (number("exposures"), number("unique_problems"))
            && problems > 0.0
        {
            known.insert("exposures_per_problem".to_owned(), (exposures / problems).into());
        }
        facts.push((label, known));
    }
    if gathered.training.is_empty() {
        facts = gathered.packs.iter().map(|(arm, stats)| (arm.clone(), of_packs(stats).collect())).collect();
    }
    facts
}

/// The statistics of an arm's packs under names that no fact about its training has: packs hold each
/// example once, training may see it many times.
fn of_packs(stats: &Map<String, Value>) -> impl Iterator<Item = (String, Value)> + '_ {
    stats.iter().map(|(name, value)| (format!("packing.{name}"), value.clone()))
}

/// What the reader of a comparison must be told: one sentence for arms of which one saw its problems oftener than the other,
/// or other ones; none where there is nothing to compare. Replicates of an arm count by their first.
pub(super) fn warnings(gathered: &Gathered) -> Vec<String> {
    let mut arms: Vec<(&str, &Map<String, Value>)> = Vec::new();
    for run in &gathered.training {
        if !arms.iter().any(|(arm, _)| *arm == run.arm) {
            arms.push((&run.arm, &run.summary));
        }
    }
    let told = |name: &str| -> Option<Vec<(&str, f64)>> {
        let each = arms.iter().map(|(arm, summary)| Some((*arm, summary.get(name)?.as_f64()?)));
        each.collect::<Option<Vec<_>>>().filter(|values| values.len() > 1)
    };
    let differs = |values: &[(&str, f64)]| {
        let of = |fold: fn(f64, f64) -> f64, from| values.iter().map(|(_, value)| *value).fold(from, fold);
        of(f64::max, 0.0) > MATERIAL * of(f64::min, f64::INFINITY)
    };
    let confounded: Vec<String> = CONFOUNDS
        .iter()
        .filter_map(|(name, word)| {
            let values = told(name).filter(|values| differs(values))?;
            let values: Vec<String> =
                values.iter().map(|(arm, value)| format!("{arm} {}", amount(*value))).collect();
            Some(format!("{word} ({})", values.join(", ")))
        })
        .collect();
    if confounded.is_empty() {
        return Vec::new();
    }
    let equal: Vec<&str> = MATCHED
        .iter()
        .filter(|(name, _)| told(name).is_some_and(|values| !differs(&values)))
        .map(|(_, word)| *word)
        .collect();
    let equal = if equal.is_empty() { String::new() } else { format!(" at equal {}", equal.join(" and ")) };
    vec![format!(
        "The comparison of arms is confounded: they differ in {}{equal}. What differs between them may come of that; a run \
         matched by `epochs` beside one matched by `tokens` tells.",
        confounded.join(" and ")
    )]
}

fn amount(value: f64) -> String {
    if value < 100.0 { format!("{value:.1}") } else { count(value) }
}
