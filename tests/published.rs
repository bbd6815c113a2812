//! `experiments/paper-table.yaml`: what follows from the paper's table, digit for digit.

use crate::support::experiments;

const FILE: &str = "experiments/paper-table.yaml";

#[test]
fn the_published_table_gets_its_errors() {
    let sandbox = experiments();
    sandbox.dag(&["run", FILE]).expect(0);
    let found: serde_json::Value =
        serde_json::from_str(&sandbox.read("reports/paper-table/report.json")).unwrap();
    let published = &found["published"];
    let counts: Vec<Vec<u64>> = published["cells"]
        .as_array()
        .unwrap()
        .iter()
        .map(|cell| serde_json::from_value(cell["counts"].clone()).unwrap())
        .collect();
    let [nine, seven] = [vec![9], vec![7]];
    let of_gsm8k = |low, high| vec![vec![low, low + 1], vec![high]];
    let expected: Vec<Vec<u64>> = [
        vec![nine, seven],
        of_gsm8k(1271, 1282),
        vec![vec![444], vec![440]],
        vec![vec![25], vec![25]],
        of_gsm8k(1279, 1289),
        vec![vec![490], vec![495]],
    ]
    .concat();
    assert_eq!(counts, expected);
    let of = |pointer: &str| -> Vec<f64> {
        let each = published["comparisons"].as_array().unwrap().iter();
        each.map(|one| one.pointer(pointer).unwrap().as_f64().unwrap()).collect()
    };
    let z: Vec<String> = of("/unpaired/z").iter().map(|z| format!("{z:.2}")).collect();
    assert_eq!(z, ["0.59", "-1.21", "0.40", "0.00", "-1.21", "-1.30"]);
    let best: Vec<String> = of("/best_paired_p").iter().map(|p| format!("{p:.4}")).collect();
    assert_eq!(best, ["0.5000", "0.0010", "0.1250", "1.0000", "0.0020", "0.0625"]);
    // The published "4×" is the mean of these six, turned round.
    let ratios = of("/token_ratio");
    let mean = ratios.iter().map(|ratio| 1.0 / ratio).sum::<f64>() / 6.0;
    assert!((mean - 4.18).abs() < 0.005, "{mean}");

    let text = sandbox.read("reports/paper-table/report.txt");
    for told in [
        "[16.7, 47.9]",
        "[11.8, 40.9]",
        "[66.4, 92.7]",
        "1,271 to 1,272 of 1,319",
        "−1.21",
        "0 are significant at 5 % unpaired",
    ] {
        assert!(text.contains(told), "{told} is not in\n{text}");
    }
}

#[test]
fn a_table_that_cannot_be_is_refused() {
    let sandbox = experiments();
    let rows = "nodes.table.with.published.rows";
    let one = format!("{rows}=[{{ benchmark: x, items: 0, percent: [30.0] }}]");
    let ran = sandbox.dag(&["check", FILE, "--set", &one]);
    assert_eq!(ran.code, 2, "{}", ran.stderr);
    assert!(ran.stderr.contains("1 percentages of 2 arms"), "{}", ran.stderr);
}
