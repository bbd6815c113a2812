//! `mix` on small tables.

use std::path::Path;

use super::*;
use crate::table::testing::{rows, table};

/// So many rows with ids `p0`, `p1`, … from `first` on.
fn rows_from(first: u32, count: u32, teacher: &str) -> Value {
    let row = |number| json!({ "id": format!("p{number}"), "response": format!("{teacher} {number}") });
    json!((first..first + count).map(row).collect::<Vec<_>>())
}

/// Runs `mix` on tables given as (port, rows), in a folder of their own.
fn mix(dir: &Path, params: Value, inputs: &[(&str, Value)]) -> Result<TaskCx, TaskError> {
    let params: Params = serde_json::from_value(params).unwrap();
    assert_eq!(Mix::check(&params), []);
    let mut cx = TaskCx::for_test(dir).seed(17);
    for (number, (port, rows)) in inputs.iter().enumerate() {
        cx = cx.input(port, table(dir.join(format!("input{number}")), rows.clone()));
    }
    let mut cx = cx.build()?;
    Mix::run(&params, &mut cx).map(|()| cx)
}

/// The values of a column, as text.
fn column(cx: &TaskCx, name: &str) -> Vec<String> {
    let text = |row: &Row| row[name].as_str().unwrap_or_default().to_owned();
    rows(&cx.output("mixed")).iter().map(text).collect()
}

fn sources(cx: &TaskCx) -> String {
    column(cx, "source").concat()
}

#[test]
fn everything_is_kept_and_says_where_it_came_from() {
    let dir = tempfile::tempdir().unwrap();
    let a = json!([{ "id": "x", "level": 3, "note": "n" }]);
    let b = json!([{ "id": "y", "level": 2.5 }, { "id": "z", "level": 1.5 }]);
    let cx = mix(dir.path(), json!({}), &[("b", b), ("a", a)]).unwrap();
    assert_eq!(
        json!(rows(&cx.output("mixed"))),
        json!([
            { "id": "x", "level": 3.0, "note": "n", "source": "a" },
            { "id": "y", "level": 2.5, "note": null, "source": "b" },
            { "id": "z", "level": 1.5, "note": null, "source": "b" },
        ])
    );
    assert_eq!((&cx.metrics()["rows"], &cx.metrics()["rows_of"]), (&json!(3), &json!({ "a": 1, "b": 2 })));
}

#[test]
fn interleaved_rows_have_the_shares_of_the_whole_in_every_stretch() {
    let dir = tempfile::tempdir().unwrap();
    let inputs = [("a", rows_from(0, 6, "a")), ("b", rows_from(10, 2, "b")), ("c", rows_from(20, 1, "c"))];
    let cx = mix(dir.path(), json!({ "order": "interleave" }), &inputs).unwrap();
    assert_eq!(sources(&cx), "aabacaaba");
    let ids = column(&cx, "id");
    assert_eq!(ids.iter().filter(|id| id.len() == 2).count(), 6);
    assert!(ids.iter().filter(|id| id.len() == 2).is_sorted(), "an input keeps its order: {ids:?}");
}

#[test]
fn weights_share_the_output_out() {
    let dir = tempfile::tempdir().unwrap();
    let inputs = [("a", rows_from(0, 40, "a")), ("b", rows_from(100, 9, "b"))];
    let rows_of = |params| mix(dir.path(), params, &inputs).unwrap().metrics()["rows_of"].clone();
    // The scarce input is used up.
    assert_eq!(rows_of(json!({ "weights": { "a": 3, "b": 1 } })), json!({ "a": 27, "b": 9 }));
    assert_eq!(rows_of(json!({ "weights": { "a": 3, "b": 1 }, "take": 10 })), json!({ "a": 8, "b": 2 }));
    assert_eq!(rows_of(json!({ "take": 49 })), json!({ "a": 40, "b": 9 }));
    let error = mix(dir.path(), json!({ "weights": { "a": 1, "b": 1 }, "take": 30 }), &inputs).err().unwrap();
    assert_eq!(error.to_string(), "`take: 30` with these weights needs 15 rows of `b`, which gives 9");
    let error = mix(dir.path(), json!({ "take": 50 }), &inputs).err().unwrap();
    assert_eq!(error.to_string(), "`take: 50` of 49 rows");
}

#[test]
fn rows_that_are_added_disturb_no_others() {
    let dir = tempfile::tempdir().unwrap();
    let taken = |count| {
        let inputs = [("a", rows_from(0, count, "a")), ("b", rows_from(1000, 50, "b"))];
        let cx = mix(dir.path(), json!({ "weights": { "a": 1, "b": 1 }, "take": 40 }), &inputs).unwrap();
        column(&cx, "id").into_iter().collect::<std::collections::BTreeSet<_>>()
    };
    let (few, more) = (taken(100), taken(110));
    // Of the 20 rows of `a`, about 20 * 10 / 110 are displaced by new ones; nothing of `b` changes.
    let stayed = few.intersection(&more).count();
    assert!((34..40).contains(&stayed), "{stayed} stayed");
    let new: Vec<_> = more.difference(&few).collect();
    assert!(new.iter().all(|id| id.as_str() >= "p100" && id.as_str() < "p110"), "{new:?}");
}

#[test]
fn ids_that_clash_are_named_or_told_apart() {
    let dir = tempfile::tempdir().unwrap();
    let inputs = [("a", rows_from(0, 10, "a")), ("b", rows_from(5, 10, "b"))];
    let error = mix(dir.path(), json!({}), &inputs).err().unwrap().to_string();
    assert!(error.starts_with("5 rows have an id that is taken already: `p5`, `p6`, `p7`, …; "), "{error}");
    let cx = mix(dir.path(), json!({ "same_ids": "prefix" }), &inputs).unwrap();
    assert_eq!(rows(&cx.output("mixed")).len(), 20);
    let first = &rows(&cx.output("mixed"))[0];
    assert_eq!((&first["id"], &first["source.id"]), (&json!("a/p0"), &json!("p0")));
    let twice = [("a", json!([{ "id": "p" }, { "id": "p" }]))];
    let error = mix(dir.path(), json!({ "same_ids": "prefix" }), &twice).err().unwrap().to_string();
    assert!(error.contains("`p`; they are twice in one input"), "{error}");
    let repeats = [("a", json!([{ "id": "p", "repeat": 0 }, { "id": "p", "repeat": 1 }]))];
    mix(dir.path(), json!({}), &repeats).unwrap();
}

#[test]
fn a_shared_id_is_taken_from_one_input_in_proportion() {
    let dir = tempfile::tempdir().unwrap();
    let of = |count, weights: Value| {
        let inputs = [("a", rows_from(0, count, "a")), ("b", rows_from(0, count, "b"))];
        let params = json!({ "same_ids": "share", "order": "interleave", "weights": weights });
        let cx = mix(dir.path(), params, &inputs).unwrap();
        let ids = column(&cx, "id");
        let unique: std::collections::BTreeSet<_> = ids.iter().collect();
        assert_eq!(unique.len(), ids.len(), "no id twice");
        ids.into_iter().zip(column(&cx, "source")).collect::<BTreeMap<_, _>>()
    };
    let from =
        |owners: &BTreeMap<String, String>, name| owners.values().filter(|owner| *owner == name).count();
    let all = of(1000, json!({}));
    assert_eq!(all.len(), 1000);
    assert!((450..550).contains(&from(&all, "a")), "{}", from(&all, "a"));
    let halves = of(1000, json!({ "a": 1, "b": 1 }));
    assert_eq!(from(&halves, "a"), from(&halves, "b"));
    assert!(halves.len() >= 900, "{}", halves.len());
    let quarters = of(1000, json!({ "a": 3, "b": 1 }));
    assert!(quarters.len() >= 900 && from(&quarters, "a").abs_diff(3 * from(&quarters, "b")) <= 3);
    // Which input gives an id depends on no other id.
    assert!(of(500, json!({})).iter().all(|(id, owner)| all[id] == *owner));
}

#[test]
fn a_joined_table_is_taken_apart_again() {
    let dir = tempfile::tempdir().unwrap();
    let row = |number: u32| json!({ "id": format!("p{number}"), "r1.id": format!("p{number}"), "r1.response": "long", "oss.response": "short", "oss.tokens": 3 });
    let joined = json!((0..20).map(row).collect::<Vec<_>>());
    let params = json!({ "same_ids": "share", "unjoin": true });
    let cx = mix(dir.path(), params.clone(), &[("r1", joined.clone()), ("oss", joined.clone())]).unwrap();
    let mixed = rows(&cx.output("mixed"));
    assert_eq!(mixed.len(), 20);
    for row in &mixed {
        let (response, tokens) =
            if row["source"] == "r1" { (json!("long"), Value::Null) } else { (json!("short"), json!(3)) };
        assert_eq!((&row["response"], &row["tokens"], row.len()), (&response, &tokens, 4));
    }
    let error = mix(dir.path(), params, &[("r2", joined)]).err().unwrap().to_string();
    assert!(error.contains("no column is called `r2.…`; there are id, oss.response"), "{error}");
}

#[test]
fn columns_that_do_not_fit_together_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let a = json!([{ "id": "x", "level": 3 }]);
    let b = json!([{ "id": "y", "level": "hard" }]);
    let error = mix(dir.path(), json!({}), &[("a", a.clone()), ("b", b)]).err().unwrap().to_string();
    assert!(error.contains("`level` holds a 64-bit integer in `a` and a string in `b`"), "{error}");
    let error = mix(dir.path(), json!({ "source": "level" }), &[("a", a)]).err().unwrap().to_string();
    assert!(error.contains("`a` has a column `level` already"), "{error}");
}

#[test]
fn one_input_may_gather_several_tables() {
    let dir = tempfile::tempdir().unwrap();
    let inputs = [("a", rows_from(0, 3, "a")), ("a", rows_from(3, 1, "a")), ("b", rows_from(10, 2, "b"))];
    let cx = mix(dir.path(), json!({ "order": "interleave" }), &inputs).unwrap();
    assert_eq!(column(&cx, "id"), ["p0", "p10", "p1", "p2", "p11", "p3"]);
}

#[test]
fn the_seed_counts_only_where_something_is_drawn() {
    let params = |value: Value| serde_json::from_value::<Params>(value).unwrap();
    assert!(!Mix::uses_seed(&params(json!({ "order": "interleave", "same_ids": "prefix" }))));
    for drawn in [json!({ "take": 3 }), json!({ "weights": { "a": 1 } }), json!({ "same_ids": "share" })] {
        assert!(Mix::uses_seed(&params(drawn)));
    }
    assert_eq!(Mix::check(&params(json!({ "weights": { "a": 0 } })))[0].pointer, "/weights/a");
}
