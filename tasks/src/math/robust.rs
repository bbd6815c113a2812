//! Whatever is written, grading ends soon and without a panic.
use std::time::{Duration, Instant};

use super::tests::{differ, equal, verdict};
use super::*;

/// What would take for ever, or all memory, if its work were not bounded.
fn monsters() -> Vec<(&'static str, String)> {
    let repeated = |text: &str, count: usize| text.repeat(count);
    let within = |open: &str, count: usize, close: &str| {
        format!("{}1{}", repeated(open, count), repeated(close, count))
    };
    vec![
        ("a tower of powers", "9^{9^{9^{9}}}".to_owned()),
        ("another", repeated("2^", 300) + "2"),
        ("10,000 digits", repeated("7", 10_000)),
        ("1,900 digits", repeated("7", 1900)),
        ("a vast exponent", "9^{99999999999999999999}".to_owned()),
        ("a vast power of ten", "1e999999999".to_owned()),
        ("10^5 brackets", within("(", 100_000, ")")),
        ("900 brackets", within("(", 900, ")")),
        ("900 braces left open", repeated("{", 900)),
        ("deep fractions", within(r"\frac{1}{", 200, "}")),
        ("deep roots", within(r"\sqrt{1+", 45, "}")),
        ("a long quotient", repeated("1/", 900) + "1"),
        ("a huge factorial", "100000!".to_owned()),
        ("a factorial of factorials", "((9!)!)!".to_owned()),
        ("many factorials", repeated("5!", 1) + &repeated("!", 1800)),
        ("a huge binomial", r"\binom{10^9}{10^8}".to_owned()),
        ("a long sum", r"\sum_{k=1}^{10^9} \sin(k)".to_owned()),
        ("sums of sums", r"\sum_{k=1}^{10^4}\sum_{j=1}^{10^4}\sum_{i=1}^{10^4} ijk".to_owned()),
        ("10^5 commas", repeated(",", 100_000)),
        ("950 commas", repeated("1,", 950)),
        ("many signs", repeated(r"\pm 1", 300)),
        ("exponentials", "e^{e^{e^{e^{e^{e}}}}}".to_owned()),
        (
            "sums of large fractions",
            (10..50).map(|n| format!("1/1{}{n}", "0".repeat(37))).collect::<Vec<_>>().join("+"),
        ),
        ("a megabyte of letters", repeated("x", 1_000_000)),
        ("a megabyte of numbers", repeated("1 ", 500_000)),
        ("a megabyte in a box", format!(r"\boxed{{{}}}", repeated("1+", 500_000))),
        ("a megabyte of boxes", repeated(r"\boxed{", 140_000)),
        ("a megabyte of openings", repeated(r"\(", 500_000) + "1"),
        ("a megabyte of dollars", repeated("$1$ so ", 140_000)),
        ("a megabyte of thoughts", repeated("<think>", 140_000)),
        ("a megabyte of phrases", repeated("the answer is ", 70_000)),
        ("a megabyte of backslashes", repeated("\\", 1_000_000)),
    ]
}

#[test]
fn monstrous_answers_take_a_moment() {
    let policy = Policy { last_number: true, ..Policy::default() };
    // A debug build computes some ten times slower, and other tests run beside this one.
    let most = Duration::from_millis(if cfg!(debug_assertions) { 3000 } else { 200 });
    for (name, monster) in monsters() {
        let begin = Instant::now();
        let graded = grade_any("42", &monster, &policy);
        assert_ne!(graded.verdict, Verdict::Correct, "{name}");
        compare(&monster, "42", &policy);
        compare(&monster, &monster, &policy);
        assert!(begin.elapsed() < most, "{name}: {:?}", begin.elapsed());
    }
    for monster in ["9^{999999999999}", "1e999999", &"7".repeat(10_000)] {
        assert_eq!(verdict("42", monster), Verdict::TooComplex, "{monster:.20}");
    }
    equal("1", "1^{99999999999}");
    equal("-1", "(-1)^{99999999999}");
    equal("2024^{4046}", "2024^{4046}");
    differ("3^{2025}", "2^{2025}");
    equal("1/2004!", r"\frac{1}{2004!}");
}

/// Pieces of which answers, and what is none, are made.
const PIECES: [&str; 74] = [
    r"\frac{",
    "{",
    "}",
    "(",
    ")",
    "[",
    "]",
    r"\{",
    r"\}",
    "1",
    "2",
    "12",
    "0.5",
    "x",
    "y",
    "n",
    "a",
    "^",
    "_",
    "+",
    "-",
    "*",
    "/",
    "=",
    "<",
    r"\le ",
    r"\pm ",
    r"\mp ",
    r"\sqrt{",
    r"\sin ",
    r"\ln ",
    r"\pi ",
    r"\infty ",
    r"\cup ",
    r"\setminus ",
    r"\in ",
    r"\text{",
    r"\text{ and }",
    r"\mathrm{cm}",
    " or ",
    ",",
    " ",
    ";",
    ":",
    "!",
    "'",
    "%",
    r"\%",
    "$",
    "|",
    r"\begin{pmatrix}",
    r"\end{pmatrix}",
    "&",
    r"\\",
    r"\left",
    r"\right",
    r"\cdot ",
    r"^\circ ",
    r"\boxed{",
    r"\overline{",
    r"\sum_{k=1}^{3}",
    r"\binom{",
    r"\lfloor ",
    r"\rfloor ",
    r"\mathbb{R}",
    r"\mid ",
    "é",
    "½",
    "√",
    "the answer is ",
    "<think>",
    "</think>",
    "999999999",
    "1,234",
];

/// Strings of pieces, the same every time.
fn strings(count: usize, longest: u64, mut seed: u64) -> impl Iterator<Item = String> {
    let mut next = move || {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed
    };
    (0..count).map(move |_| {
        let length = next() % longest + 1;
        (0..length).map(|_| PIECES[(next() % PIECES.len() as u64) as usize]).collect()
    })
}

#[test]
fn whatever_is_written_is_graded_without_a_panic_and_alike_both_ways() {
    // A debug build is slower; the seeds are the same.
    let count = if cfg!(debug_assertions) { 20_000 } else { 100_000 };
    let policy = Policy { last_number: true, ..Policy::default() };
    let mut understood = 0;
    for (a, b) in strings(count, 14, 1).zip(strings(count, 8, 2)) {
        let there = compare(&a, &b, &policy).0 == Verdict::Correct;
        let back = compare(&b, &a, &policy).0 == Verdict::Correct;
        let whole = [&a, &b].iter().any(|text| text.contains("boxed") || text.contains("answer"));
        // A gold answer may be a whole solution, a prediction is an answer.
        assert!(there == back || whole, "{a:?} and {b:?}");
        grade_any(&a, &b, &policy);
        let Ok(form) = canonical(&a, &policy) else { continue };
        assert_eq!(compare(&a, &a, &policy).0, Verdict::Correct, "{a:?} is itself");
        if form.is_understood() && !whole {
            understood += 1;
            let dressed = [
                format!("  {a} "),
                a.replace(r"\frac", r"\dfrac"),
                a.replace(r"\frac", r"\tfrac"),
                if a.contains('$') { a.clone() } else { format!("${a}$") },
                a.replace('(', r"\left(").replace(')', r"\right)"),
            ];
            for other in dressed {
                assert_eq!(compare(&a, &other, &policy).0, Verdict::Correct, "{a:?} and {other:?}");
            }
        }
    }
    assert!(understood > count / 100, "{understood} of {count} make sense");
}
