//! Accuracy at each token budget: what pass@1 would be if every response longer than the budget were wrong.
use super::gather::Arm;
use crate::evaluate::score::Graded;

/// How many budgets a curve is drawn at.
const POINTS: usize = 80;

/// Budgets between the shortest and the longest response of all arms, evenly spread on a logarithmic axis.
pub(super) fn budgets(arms: &[Arm], benchmark: &str) -> Vec<f64> {
    let results = arms.iter().filter_map(|arm| arm.results.get(benchmark)).flatten();
    let tokens = results.flat_map(|graded| &graded.items).flat_map(|item| &item.samples);
    let (low, high) = tokens
        .filter_map(|sample| sample.tokens)
        .filter(|tokens| *tokens > 0)
        .fold((u64::MAX, 0), |(low, high), tokens| (low.min(tokens), high.max(tokens)));
    if low >= high {
        return Vec::new();
    }
    let (low, high) = (low as f64, high as f64);
    (0..=POINTS).map(|point| low * (high / low).powf(point as f64 / POINTS as f64)).collect()
}

/// The curve of one arm, in percent; empty where its tokens are not known.
pub(super) fn accuracy(replicates: &[Graded], budgets: &[f64]) -> Vec<(f64, f64)> {
    // Every right response counts from its own length on, with its share of its item, and its item's of the mean.
    let mut steps: Vec<(f64, f64)> = Vec::new();
    for graded in replicates {
        let items = (graded.items.len() * replicates.len()) as f64;
        for item in &graded.items {
            let share = 100.0 / (items * item.samples.len() as f64);
            let right = item.samples.iter().filter(|sample| sample.correct);
            steps.extend(right.filter_map(|sample| Some((sample.tokens? as f64, share))));
        }
    }
    if steps.is_empty() {
        return Vec::new();
    }
    steps.sort_by(|a, b| a.0.total_cmp(&b.0));
    let mut taken = 0;
    let mut sum = 0.0;
    budgets
        .iter()
        .map(|&budget| {
            // The last budget is the longest response, whatever its logarithm was rounded to.
            while let Some((_, share)) =
                steps.get(taken).filter(|(tokens, _)| *tokens <= budget * (1.0 + 1e-9))
            {
                sum += share;
                taken += 1;
            }
            (budget, sum)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evaluate::account::Account;
    use crate::evaluate::score::{Item, Sample};

    fn item(id: &str, samples: &[(bool, u64)]) -> Item {
        let samples = samples.iter().map(|&(correct, tokens)| Sample {
            correct,
            vote: None,
            tokens: Some(tokens),
            truncated: false,
            account: Account::default(),
        });
        Item { id: id.into(), samples: samples.collect(), ..Item::default() }
    }

    #[test]
    fn the_curve_ends_at_pass_at_1() {
        let graded = Graded {
            items: vec![item("a", &[(true, 10), (true, 1000)]), item("b", &[(false, 20), (true, 100)])],
            ..Graded::default()
        };
        let arm =
            Arm { label: "r1".into(), is_base: false, results: [("x".to_owned(), vec![graded])].into() };
        let budgets = budgets(std::slice::from_ref(&arm), "x");
        assert_eq!((budgets.len(), budgets[0]), (POINTS + 1, 10.0));
        let curve = accuracy(&arm.results["x"], &budgets);
        assert!((curve[0].1 - 25.0).abs() < 1e-9 && (curve[POINTS].1 - 75.0).abs() < 1e-9, "{curve:?}");
        let half = curve.iter().find(|(budget, _)| *budget > 101.0).unwrap();
        assert!((half.1 - 50.0).abs() < 1e-9);
        assert!(curve.is_sorted_by(|a, b| a.1 <= b.1));
        assert_eq!(super::budgets(&[], "x"), Vec::<f64>::new());
    }
}
