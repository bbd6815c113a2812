//! The grader against worked cases, and its laws.

use proptest::prelude::*;

use super::*;

pub(super) fn verdict(gold: &str, prediction: &str) -> Verdict {
    compare(gold, prediction, &Policy::default()).0
}

#[track_caller]
pub(super) fn equal(gold: &str, prediction: &str) {
    assert_eq!(verdict(gold, prediction), Verdict::Correct, "{gold} and {prediction}");
    assert_eq!(verdict(prediction, gold), Verdict::Correct, "{prediction} and {gold}");
}

#[track_caller]
pub(super) fn differ(gold: &str, prediction: &str) {
    assert_ne!(verdict(gold, prediction), Verdict::Correct, "{gold} and {prediction}");
    assert_ne!(verdict(prediction, gold), Verdict::Correct, "{prediction} and {gold}");
}

#[test]
fn numbers_are_equal_in_all_their_forms() {
    for form in
        ["70", "070", "70.0", " 70 ", "70.", "+70", r"\text{70}", r"$70$", r"\mathbf{70}", "x = 70", "70/1"]
    {
        equal("70", form);
    }
    for form in
        ["1,000", "1{,}000", r"1\,000", "1 000", "1e3", "10^3", "10^{3}", r"10\cdot 100", "1 thousand"]
    {
        equal("1000", form);
    }
    for form in ["1/2", "0.5", ".5", r"\dfrac{1}{2}", r"\tfrac24", "2/4", "5e-1", r"\frac{-1}{-2}", "2^{-1}"]
    {
        equal(r"\frac12", form);
    }
    for form in [r"2\frac{1}{3}", "2 1/3", "14/6", r"\frac{7}{3}", r"\frac{1}{\frac{3}{7}}"] {
        equal("7/3", form);
    }
    equal(r"-\frac{2}{3}", r"\frac{-2}{3}");
    equal(r"-2\frac{1}{3}", "-7/3");
    equal("-3", "- 3");
    equal("−3", "-3");
    equal(r"6.02\times 10^{23}", "6.02e23");
    equal(r"10^{100}", &format!("1{}", "0".repeat(100)));
    equal("1234567", "1,234,567");
}

#[test]
fn numbers_that_differ_are_told_apart() {
    for (gold, prediction) in [
        ("10", "11"),
        ("104", "4"),
        ("3.14", "3.1416"),
        ("1/3", "0.333"),
        ("3/4", "4/3"),
        ("70", "-70"),
        ("1234", "1, 234"),
        ("123456", "1,23456"),
        ("42", "42 or 43"),
        ("5", "5x"),
        ("5", "5 x"),
        ("5", "2 5/3"),
        ("5", "5 million"),
        ("0", "1/0"),
        ("12", "1,2"),
        ("7/3", r"2 \cdot \frac{1}{3}"),
    ] {
        differ(gold, prediction);
    }
}

#[test]
fn units_currency_percent_and_degrees_are_set_aside() {
    for form in
        ["18 dollars", r"\$18", r"18\text{ dollars}", "18%", "18 percent", r"18^\circ", "18 square units"]
    {
        equal("18", form);
    }
    equal(r"12\text{ cm}^2", "12");
    equal("12 cm^{2}", r"12\,\mathrm{cm}");
    assert_eq!(compare("5 m", "5 cm", &Policy::default()), (Verdict::Correct, Rule::NumberUnitsDiffer));
    assert_eq!(compare("5 cm", "5 cm", &Policy::default()), (Verdict::Correct, Rule::Number));
}

#[test]
fn words_ignore_case_articles_and_style() {
    equal(r"\text{Monday}", "monday");
    equal("even", r"\text{even}");
    equal("ellipse", "an ellipse");
    equal("no solution", "No solution.");
    equal("C", r"\textbf{(C)}");
    differ("even", "odd");
    differ("B", "(C)");
    differ("7", "seven");
}

#[test]
fn what_is_not_understood_is_equal_as_text_only() {
    let both = |gold, prediction| compare(gold, prediction, &Policy::default());
    let integral = r"\text{see figure 3}";
    assert_eq!(both(integral, "see figure 3"), (Verdict::Correct, Rule::SameText));
    assert_eq!(both(integral, "4"), (Verdict::UnparsableGold, Rule::None));
    assert_eq!(both("4", integral), (Verdict::UnparsablePrediction, Rule::None));
    assert!(is_gradable("016", &Policy::default()) && is_gradable(r"\sqrt{2}", &Policy::default()));
    assert!(!is_gradable(integral, &Policy::default()) && !is_gradable("", &Policy::default()));
}

/// A pair of answers of ours, with the class it stands for and what is to decide it.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    class: u32,
    gold: String,
    prediction: String,
    correct: bool,
    rule: Rule,
}

#[test]
fn every_class_of_answers_is_decided_by_its_rule() {
    let cases: Vec<Case> =
        include_str!("cases.jsonl").lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    for case in &cases {
        let (verdict, rule) = compare(&case.gold, &case.prediction, &Policy::default());
        let told = format!("class {}: `{}` and `{}`", case.class, case.gold, case.prediction);
        assert_eq!((verdict == Verdict::Correct, rule), (case.correct, case.rule), "{told}: {verdict:?}");
        let (other_way, _) = compare(&case.prediction, &case.gold, &Policy::default());
        assert_eq!(other_way == Verdict::Correct, case.correct, "{told}, the other way round");
    }
    for class in 1..=24 {
        assert!(cases.iter().any(|case| case.class == class), "no case of class {class}");
    }
}

#[test]
fn equal_answers_are_one_vote() {
    let key = |answer: &str| canonical(answer, &Policy::default()).unwrap().key();
    for votes in [
        &[r"\frac12", "0.5", "2/4", r"\frac{\sqrt4}{4}", r"\sin 30^\circ"][..],
        &[r"2\sqrt3", r"\sqrt{12}", r"\frac{6}{\sqrt 3}"],
        &["(x+1)^2", "x^2+2x+1", r"x^{2} + 1 + 2x"],
        &[r"\{1,2\}", "2, 1", r"x=1 \text{ or } x=2", "1 and 2"],
        &["x > 3", "3 < x", r"(3, \infty)", "2x > 6"],
        &["y = 2x + 1", "y - 2x = 1", "2y = 4x + 2"],
        &["(C)", "C", r"\text{C}", "C. 12"],
    ] {
        assert!(votes.iter().all(|vote| key(vote) == key(votes[0])), "{votes:?}");
    }
    assert_ne!(key("[1, 2)"), key("(1, 2)"));
}

#[test]
fn policies_decide_what_people_differ_on() {
    let strict = Policy { leading_zeros: false, ..Policy::default() };
    assert_ne!(compare("16", "016", &strict).0, Verdict::Correct);
    assert_eq!(compare("0.5", "0.50", &strict).0, Verdict::Correct);
    let factor = Policy { percent: Percent::Factor, ..Policy::default() };
    assert_eq!(compare("1/2", r"50\%", &factor).0, Verdict::Correct);
    assert_eq!(compare("50", r"50\%", &factor).0, Verdict::Incorrect);
    let plain = Policy { mixed_numbers: false, ..Policy::default() };
    assert_ne!(compare("7/3", "2 1/3", &plain).0, Verdict::Correct);
    let exact = Policy { rounded_digits: 0, percent_of_one: false, ..Policy::default() };
    let three = Policy { rounded_digits: 3, ..Policy::default() };
    assert_eq!(compare(r"\sqrt2", "1.4142135623730951", &exact).0, Verdict::Incorrect);
    assert_eq!(compare("0.335", "33.5%", &exact).0, Verdict::Incorrect);
    assert_eq!(compare("0.335", "33.5%", &Policy::default()), (Verdict::Correct, Rule::Percent));
    assert_eq!(compare("1/3", "0.333", &three), (Verdict::Correct, Rule::Rounded));
    assert_eq!(compare("5", "5.001", &three).0, Verdict::Incorrect);
    let units = Policy { units: Units::Match, ..Policy::default() };
    assert_eq!(compare("5 m", "5 cm", &units).0, Verdict::Incorrect);
    assert_eq!(compare("5 m", "5", &units).0, Verdict::Correct);
    let strict = Policy { bare_tuples: false, definitions: false, bases: true, ..Policy::default() };
    for (gold, prediction) in [("(1,2)", "1,2"), ("y=2x", "2x"), ("2516_8", "2516")] {
        assert_eq!(compare(gold, prediction, &strict).0, Verdict::Incorrect, "{gold}");
        assert_eq!(compare(gold, prediction, &Policy::default()).0, Verdict::Correct, "{gold}");
    }
    let silent = Policy { phrases: Vec::new(), ..Policy::default() };
    assert_eq!(grade("18", "#### 18", &silent).verdict, Verdict::NoAnswer);
}

#[test]
fn a_response_is_graded_with_its_rung_and_rule() {
    let graded = grade("16", r"<think>\boxed{7}</think>So \boxed{016}.", &Policy::default());
    assert_eq!((graded.verdict, graded.rule), (Verdict::Correct, Rule::Number));
    let found = graded.extracted.unwrap();
    assert_eq!((found.answer.as_str(), found.rung, found.boxes), ("016", Rung::Boxed, 1));
    let graded = grade("16", r"<think>surely \boxed{16}", &Policy::default());
    assert_eq!((graded.verdict, graded.extracted), (Verdict::NoAnswer, None));
}

#[test]
fn several_boxes_may_be_one_answer() {
    let grade = |gold, response| grade(gold, response, &Policy::default());
    let graded = grade("2, 3", r"So \boxed{3} and \boxed{2}.");
    assert_eq!((graded.verdict, graded.rule), (Verdict::Correct, Rule::SeveralBoxes));
    assert_eq!(graded.extracted.unwrap().boxes, 2);
    assert_eq!(grade("2", r"So \boxed{3} and \boxed{2}.").verdict, Verdict::Correct, "the last counts");
    assert_eq!(grade("3", r"So \boxed{3} and \boxed{2}.").verdict, Verdict::Incorrect);
    assert_eq!(grade("2, 3", "First \\boxed{3}.\n\nThen \\boxed{2}.").verdict, Verdict::Incorrect);
    let alone = Policy { several_boxes: false, ..Policy::default() };
    assert_eq!(super::grade("2, 3", r"\boxed{3}, \boxed{2}", &alone).verdict, Verdict::Incorrect);
    assert_eq!(compare(r"\boxed{2}, \boxed{3}", "3, 2", &Policy::default()).0, Verdict::Correct);
}

#[test]
fn a_bare_answer_is_told_from_a_response() {
    let lenient = Policy { last_number: true, ..Policy::default() };
    let rung = |gold: &str, text: &str| {
        let graded = grade_any(gold, text, &lenient);
        (graded.verdict, graded.extracted.unwrap().rung)
    };
    assert_eq!(rung("1/2", "0.5"), (Verdict::Correct, Rung::Bare));
    assert_eq!(rung("1/2", r"It is $\frac12$, I think."), (Verdict::Correct, Rung::Formula));
    assert_eq!(rung("12", "They need 12 of the boxes."), (Verdict::Correct, Rung::Number));
    assert_eq!(rung("12", r"so \boxed{12}"), (Verdict::Correct, Rung::Boxed));
    assert_eq!(
        rung("5", "5^{5^{5^{5}}}"),
        (Verdict::TooComplex, Rung::Bare),
        "no part of a formula is its answer"
    );
    assert_eq!(grade_any("5", "<think>5", &lenient).verdict, Verdict::NoAnswer);
}

#[test]
fn patterns_find_answers_where_there_is_no_box() {
    let policy: Policy = serde_json::from_str(r#"{"patterns": ["(?i)result:\\s*(\\S+)"]}"#).unwrap();
    let graded = grade("7", "result: 6\nResult: 7", &policy);
    assert_eq!((graded.verdict, graded.extracted.unwrap().rung), (Verdict::Correct, Rung::Pattern));
    let error = serde_json::from_str::<Policy>(r#"{"patterns": ["("]}"#).unwrap_err().to_string();
    assert!(error.contains("`(` is no regular expression"), "{error}");
    assert!(serde_json::from_str::<Policy>(r#"{"percents": 1}"#).is_err());
}

#[test]
fn other_graders_are_reproduced_with_their_mistakes() {
    let by = |mode| Policy { mode, ..Policy::default() };
    let nemo = by(serde_json::from_str(r#""nemo-skills-2025-10""#).unwrap());
    let hendrycks = by(serde_json::from_str(r#""hendrycks""#).unwrap());
    for (gold, prediction, ours, nemo_skills, text) in [
        ("16", "016", true, false, false),
        (r"2\sqrt{3}", r"\sqrt{12}", true, true, false),
        (r"\frac12", "0.5", true, true, true),
        ("18", "18 dollars", true, false, false),
        ("C", "c", true, false, false),
        ("42", "43", false, false, false),
    ] {
        let correct = |policy: &Policy| compare(gold, prediction, policy).0 == Verdict::Correct;
        assert_eq!(correct(&Policy::default()), ours, "{gold} and {prediction}");
        assert_eq!(correct(&nemo), nemo_skills, "{gold} and {prediction} by NeMo-Skills");
        assert_eq!(correct(&hendrycks), text, "{gold} and {prediction} by Hendrycks");
    }
    assert_eq!(compare("42", "42", &nemo).1, Rule::Mode);
    assert_eq!(grade("42", "the answer is 42", &nemo).verdict, Verdict::NoAnswer, "boxes only");
}

fn rational() -> impl Strategy<Value = (i64, i64)> {
    (-10_000..10_000_i64, 1..500_i64)
}

proptest! {
    #[test]
    fn equality_is_that_of_the_rationals((a, b) in rational(), (c, d) in rational(), k in 1..50_i64) {
        equal(&format!("{a}/{b}"), &format!(r"\frac{{{}}}{{{}}}", a * k, b * k));
        let same = a * d == c * b;
        prop_assert_eq!(verdict(&format!("{a}/{b}"), &format!(r"\dfrac{{{c}}}{{{d}}}")) == Verdict::Correct, same);
    }

    #[test]
    fn typesetting_changes_nothing(number in -1_000_000..1_000_000_i64) {
        for form in [format!("${number}$"), format!(r"\left({number}\right)"), format!(r"\text{{ {number} }}."),
                     format!("  {number}  "), format!(r"\boxed{{{number}}}"), format!("{number}.00")] {
            equal(&number.to_string(), &form);
        }
    }

    #[test]
    fn grading_is_total_reflexive_and_symmetric(
        a in r"(\\frac|\\text|\{|\}|\\|[0-9]{1,4}|[a-z]|\^|/|,|\.|-| |%|\$|é|\(|\)){0,25}",
        b in r"(\\frac|\{|\}|[0-9]{1,3}|\^|/|,|\.|-| |\(|\)){0,12}",
    ) {
        let policy = Policy::default();
        if canonical(&a, &policy).is_ok() {
            prop_assert_eq!(verdict(&a, &a), Verdict::Correct);
        }
        prop_assert_eq!(verdict(&a, &b) == Verdict::Correct, verdict(&b, &a) == Verdict::Correct);
        grade(&a, &b, &policy);
    }
}
