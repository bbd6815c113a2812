//! Scores of one item from n samples: pass@k, average of k, majority of k, best of k by a score.

/// The chance that at least one of k samples drawn without replacement from these n is correct:
/// 1 − C(n−c, k) / C(n, k), as a product so that nothing overflows (Chen et al. 2021, arXiv
/// 2107.03374). `None` where k is 0 or above n, for which there is no unbiased estimate.
///
/// # Panics
/// If more samples are correct than there are.
pub fn pass_at_k(samples: usize, correct: usize, k: usize) -> Option<f64> {
    assert!(correct <= samples, "{correct} of {samples} samples are correct");
    if k == 0 || k > samples {
        return None;
    }
    if samples - correct < k {
        return Some(1.0);
    }
    let none = (samples - correct + 1..=samples).fold(1.0, |none, n| none * (1.0 - k as f64 / n as f64));
    Some(1.0 - none)
}

/// The share of correct ones among the first k samples: pass@1\[avg-of-k\] of NeMo-Skills.
/// `None` where k is 0 or there are fewer samples.
pub fn avg_of_k(correct: &[bool], k: usize) -> Option<f64> {
    let first = correct.get(..k).filter(|first| !first.is_empty())?;
    Some(first.iter().filter(|correct| **correct).count() as f64 / k as f64)
}

/// The expected score of the majority answer among k of n samples, over all choices of the k and with
/// ties broken at random (Wang et al. 2022, arXiv 2203.11171, made exact). `correct` is the number
/// of samples with the right answer, `others` the number of samples of each wrong answer, `silent`
/// those without an answer, which do not vote. `None` where k is 0 or above n.
///
/// Votes are counted by equality of answers, not of strings, so that 1/2 and 0.5 are one vote.
pub fn majority_at_k(correct: usize, others: &[usize], silent: usize, k: usize) -> Option<f64> {
    let samples = correct + silent + others.iter().sum::<usize>();
    if k == 0 || k > samples {
        return None;
    }
    let mut score = 0.0;
    // The right answer has `votes` votes and shares the lead with some number of wrong ones.
    for votes in 1..=correct.min(k) {
        // ways[used][tied]: choices of wrong answers, none above `votes` and `tied` of them at it.
        let left = k - votes;
        let mut ways = vec![vec![0.0; others.len() + 1]; left + 1];
        ways[0][0] = 1.0;
        for &count in others {
            let mut next = vec![vec![0.0; others.len() + 1]; left + 1];
            for (used, row) in ways.iter().enumerate() {
                for (tied, &way) in row.iter().enumerate().filter(|(_, way)| **way > 0.0) {
                    for taken in 0..=count.min(votes).min(left - used) {
                        let tied = tied + usize::from(taken == votes);
                        next[used + taken][tied] += way * choices(count, taken);
                    }
                }
            }
            ways = next;
        }
        for (used, row) in ways.iter().enumerate() {
            for (tied, way) in row.iter().enumerate() {
                score += choices(correct, votes) * way * choices(silent, left - used) / (tied + 1) as f64;
            }
        }
    }
    Some(score / choices(samples, k))
}

/// The expected correctness of the best of k among n samples, best by a score that is not the grade, such as a verifier's or a
/// length; over all choices of the k, ties broken at random. It is best-of-n made exact in the way of pass@k: with the
/// samples in the order of their scores, the best of k is at or below a place in C(place, k) of C(n, k) choices. `None` where
/// k is 0 or above n.
pub fn best_at_k(samples: &[(f64, bool)], k: usize) -> Option<f64> {
    if k == 0 || k > samples.len() {
        return None;
    }
    let mut sorted = samples.to_vec();
    sorted.sort_by(|a, b| a.0.total_cmp(&b.0));
    let (mut score, mut below) = (0.0, 0);
    for tied in sorted.chunk_by(|a, b| a.0.total_cmp(&b.0).is_eq()) {
        let right = tied.iter().filter(|(_, correct)| *correct).count() as f64 / tied.len() as f64;
        score += right * (choices(below + tied.len(), k) - choices(below, k));
        below += tied.len();
    }
    Some(score / choices(samples.len(), k))
}

/// C(n, k), zero where k is above n.
fn choices(n: usize, k: usize) -> f64 {
    if k > n {
        return 0.0;
    }
    (0..k.min(n - k)).fold(1.0, |ways, i| ways * (n - i) as f64 / (i + 1) as f64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn close(a: f64, b: f64) -> bool {
        (a - b).abs() < 5e-7
    }

    #[test]
    fn pass_at_k_of_eight() {
        for (correct, expected) in [
            (0, [0.0; 4]),
            (1, [0.125, 0.25, 0.5, 1.0]),
            (4, [0.5, 0.785_714, 0.985_714, 1.0]),
            (7, [0.875, 1.0, 1.0, 1.0]),
            (8, [1.0; 4]),
        ] {
            for (k, expected) in [1, 2, 4, 8].into_iter().zip(expected) {
                let found = pass_at_k(8, correct, k).unwrap();
                assert!(close(found, expected), "c {correct}, k {k}: {found}");
            }
        }
        assert_eq!((pass_at_k(8, 4, 9), pass_at_k(8, 4, 0)), (None, None));
        assert!(pass_at_k(100_000, 1, 50_000).unwrap() > 0.49);
    }

    #[test]
    fn the_average_is_over_the_first_k() {
        let correct = [true, false, true, true];
        assert_eq!([1, 2, 4].map(|k| avg_of_k(&correct, k)), [Some(1.0), Some(0.5), Some(0.75)]);
        assert_eq!([0, 5].map(|k| avg_of_k(&correct, k)), [None, None]);
    }

    #[test]
    fn the_majority_votes_by_equal_answers() {
        assert_eq!(majority_at_k(2, &[1], 1, 4), Some(1.0));
        assert_eq!(majority_at_k(1, &[1], 0, 2), Some(0.5));
        // As strings 1/2 and 0.5 would lose to 2 twice; as answers they tie with it.
        assert_eq!(majority_at_k(2, &[2], 0, 4), Some(0.5));
        assert_eq!(majority_at_k(0, &[], 4, 4), Some(0.0));
        assert_eq!(majority_at_k(2, &[2, 2], 0, 6).map(|score| (score * 3.0).round()), Some(1.0));
        assert_eq!(majority_at_k(1, &[], 0, 2), None);
    }

    #[test]
    fn the_best_by_a_score_is_the_one_that_counts() {
        let samples = [(0.1, false), (0.9, true), (0.5, false), (0.9, false)];
        assert_eq!(best_at_k(&samples, 1), Some(0.25));
        // Of all four the best is one of the tied two.
        assert_eq!(best_at_k(&samples, 4), Some(0.5));
        // Of two: 5 of 6 choices have one at 0.9, which is right half of the time.
        assert!(close(best_at_k(&samples, 2).unwrap(), 5.0 / 12.0));
        assert_eq!((best_at_k(&samples, 0), best_at_k(&samples, 5)), (None, None));
    }

    fn best_by_enumeration(samples: &[(f64, bool)], k: usize) -> f64 {
        let (mut score, mut subsets) = (0.0, 0);
        for chosen in (0..1_u32 << samples.len()).filter(|chosen| chosen.count_ones() as usize == k) {
            subsets += 1;
            let drawn: Vec<(f64, bool)> =
                (0..samples.len()).filter(|i| chosen >> i & 1 == 1).map(|i| samples[i]).collect();
            let most = drawn.iter().map(|sample| sample.0).fold(f64::MIN, f64::max);
            let best: Vec<bool> = drawn
                .iter()
                .filter(|sample| sample.0.total_cmp(&most).is_eq())
                .map(|sample| sample.1)
                .collect();
            score += best.iter().filter(|right| **right).count() as f64 / best.len() as f64;
        }
        score / f64::from(subsets)
    }

    /// Every choice of k samples, counted one by one.
    fn majority_by_enumeration(votes: &[Option<usize>], k: usize) -> f64 {
        let (mut score, mut subsets) = (0.0, 0);
        for chosen in (0..1_u32 << votes.len()).filter(|chosen| chosen.count_ones() as usize == k) {
            subsets += 1;
            let mut counts = [0; 8];
            for vote in (0..votes.len()).filter(|i| chosen >> i & 1 == 1).filter_map(|i| votes[i]) {
                counts[vote] += 1;
            }
            let most = *counts.iter().max().unwrap();
            if most > 0 && counts[0] == most {
                score += 1.0 / counts.iter().filter(|count| **count == most).count() as f64;
            }
        }
        score / f64::from(subsets)
    }

    proptest! {
        #[test]
        fn pass_at_k_grows_with_k_and_is_the_average_at_one(samples in 1..40_usize, correct in 0..40_usize) {
            let correct = correct.min(samples);
            let passes: Vec<f64> = (1..=samples).map(|k| pass_at_k(samples, correct, k).unwrap()).collect();
            prop_assert!(close(passes[0], correct as f64 / samples as f64));
            prop_assert!(passes.windows(2).all(|pair| pair[0] <= pair[1] + 1e-12));
            prop_assert!(close(passes[samples - 1], f64::from(u8::from(correct > 0))));
        }

        #[test]
        fn the_majority_is_the_average_over_all_choices(votes in prop::collection::vec(prop::option::of(0..4_usize), 1..9), k in 1..9_usize) {
            let k = k.min(votes.len());
            let count = |answer| votes.iter().filter(|vote| **vote == Some(answer)).count();
            let silent = votes.iter().filter(|vote| vote.is_none()).count();
            let found = majority_at_k(count(0), &[count(1), count(2), count(3)], silent, k).unwrap();
            prop_assert!((found - majority_by_enumeration(&votes, k)).abs() < 1e-9);
        }

        #[test]
        fn the_best_is_the_average_over_all_choices(samples in prop::collection::vec((0..4_u8, any::<bool>()), 1..9), k in 1..9_usize) {
            let samples: Vec<(f64, bool)> = samples.into_iter().map(|(score, right)| (f64::from(score), right)).collect();
            let k = k.min(samples.len());
            prop_assert!(close(best_at_k(&samples, k).unwrap(), best_by_enumeration(&samples, k)));
        }
    }
}
