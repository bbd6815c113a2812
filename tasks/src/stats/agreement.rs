//! How far two raters agree beyond chance.

/// Cohen's kappa of two raters with two categories: `(p − e) / (1 − e)`, where `p` is the share on which they agree and `e`
/// the share on which raters of the same habits would agree by chance (Cohen 1960, "A coefficient of agreement for nominal
/// scales", Educational and Psychological Measurement 20). `counts[a][b]` counts what the first calls `a` and the second `b`.
///
/// `None` without items, and where each rater has one category for all of them and both the same: chance then explains
/// everything, and there is nothing beyond it to measure.
pub fn cohens_kappa(counts: [[u64; 2]; 2]) -> Option<f64> {
    let total = counts.iter().flatten().sum::<u64>() as f64;
    if total == 0.0 {
        return None;
    }
    let agreed = (counts[0][0] + counts[1][1]) as f64 / total;
    let chance: f64 = (0..2)
        .map(|category| {
            let first = counts[category].iter().sum::<u64>() as f64;
            let second = counts.iter().map(|row| row[category]).sum::<u64>() as f64;
            (first / total) * (second / total)
        })
        .sum();
    (chance < 1.0).then(|| (agreed - chance) / (1.0 - chance))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(counts: [[u64; 2]; 2], expected: f64) {
        let found = cohens_kappa(counts).unwrap();
        assert!((found - expected).abs() < 5e-5, "{counts:?}: {found}");
    }

    #[test]
    fn worked_by_hand() {
        // 50 items, agreed on 35: p = 0.7; by chance 25/50 · 30/50 + 25/50 · 20/50 = 0.5.
        check([[20, 5], [10, 15]], 0.4);
        // Equal agreement of 0.6, unequal habits: e = 0.54 and 0.46.
        check([[45, 15], [25, 15]], 0.06 / 0.46);
        check([[25, 35], [5, 35]], 0.14 / 0.54);
        check([[7, 0], [0, 3]], 1.0);
        // No better than chance, and as bad as can be.
        check([[1, 1], [1, 1]], 0.0);
        check([[0, 5], [5, 0]], -1.0);
        // One rater of one category: agreement is what chance gives.
        check([[8, 2], [0, 0]], 0.0);
    }

    #[test]
    fn where_there_is_nothing_to_measure() {
        assert_eq!(cohens_kappa([[0, 0], [0, 0]]), None);
        assert_eq!(cohens_kappa([[9, 0], [0, 0]]), None);
    }
}
