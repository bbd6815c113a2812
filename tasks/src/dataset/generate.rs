//! Problems that are made rather than read: the same seed, the same problems.

use dag_engine::seed;
use serde_json::json;

use crate::arithmetic::Chain;
use crate::records::draw;
use crate::table::Row;

/// What is generated.
pub(super) struct Problems {
    pub(super) count: u64,
    /// The least and the most steps of one.
    pub(super) steps: (u32, u32),
    pub(super) modulus: u32,
    pub(super) seed: u64,
}

impl Problems {
    /// The problems as rows. One depends on its number and the seeds alone, so that a larger count only adds problems.
    pub(super) fn rows(self, experiment: u64) -> impl Iterator<Item = Row> {
        let Self { count, steps: (least, most), modulus, seed: own } = self;
        let seed = draw(experiment, own);
        (1..=count).map(move |number| {
            let seed = seed::derive(seed, &[b"problem", &number.to_le_bytes()]);
            let chain = Chain::draw(seed, least, most, modulus);
            Row::from_iter([
                ("id".to_owned(), json!(format!("arithmetic-{own}-{number:06}"))),
                ("problem".to_owned(), json!(chain.problem())),
                ("answer".to_owned(), json!(chain.answer().to_string())),
                ("steps".to_owned(), json!(chain.steps())),
            ])
        })
    }
}
