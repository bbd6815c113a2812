//! Problems that are made rather than read: the same seed, the same problems.

use dag_engine::seed;
use serde_json::json;

use super::source::{Place, Rows, Source};
use crate::arithmetic::Chain;
use crate::records::draw;
use crate::table::Row;

/// The rows of a generator. A problem depends on its number and the seed alone, so that a larger count only adds problems.
pub(super) fn rows(source: &Source, experiment: u64) -> Rows<'_> {
    let (least, most) = source.steps.unwrap_or((2, 6));
    let modulus = source.modulus.unwrap_or(10);
    let seed = draw(experiment, source.seed);
    Box::new((1..=source.count.unwrap_or(0)).map(move |number| {
        let chain =
            Chain::draw(seed::derive(seed, &[b"problem", &number.to_le_bytes()]), least, most, modulus);
        let row = Row::from_iter([
            ("id".to_owned(), json!(format!("arithmetic-{}-{number:06}", source.seed))),
            ("problem".to_owned(), json!(chain.problem())),
            ("answer".to_owned(), json!(chain.answer().to_string())),
            ("steps".to_owned(), json!(chain.steps())),
        ]);
        Ok((Place::number(number), row))
    }))
}
