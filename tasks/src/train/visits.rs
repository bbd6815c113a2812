//! Which packs each step of a training took, told again from its seed: what traces a model to its examples.

use dag_lm::train::{self, Position};

use crate::records::draw;

/// The seed of the order in which packs are taken, from the experiment's and the param of `train`.
pub fn seed(experiment: u64, param: u64) -> u64 {
    draw(experiment, param)
}

/// For each of `packs` packs, the steps of a training of `steps` steps of `batch` packs that took it, from one. A step that
/// took a pack twice stands twice.
pub fn steps_of(seed: u64, steps: u64, batch: usize, packs: usize) -> Vec<Vec<u64>> {
    let mut taken = vec![Vec::new(); packs];
    if packs == 0 || batch == 0 {
        return taken;
    }
    // The order of all steps is one sequence, cut into steps.
    let order = train::order(seed, Position::default(), packs, steps as usize * batch);
    for (place, pack) in order.into_iter().enumerate() {
        taken[pack].push((place / batch) as u64 + 1);
    }
    taken
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_those_that_training_takes() {
        let (seed, steps, batch, packs) = (7, 9, 3, 5);
        let mut expected = vec![Vec::new(); packs];
        for step in 0..steps {
            let position = Position { step, packs: step * batch as u64 };
            for pack in train::order(seed, position, packs, batch) {
                expected[pack].push(step + 1);
            }
        }
        assert_eq!(steps_of(seed, steps, batch, packs), expected);
        assert_eq!(expected.iter().map(Vec::len).sum::<usize>(), 27);
    }
}
