//! Tables: what is written is read back, equal rows give equal bytes, memory stays bounded.
use std::sync::Arc;

use arrow_array::types::Int32Type;
use arrow_array::{
    ArrayRef, DictionaryArray, Float32Array, ListArray, RecordBatch, StructArray, TimestampSecondArray,
};
use parquet::arrow::ArrowWriter;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::ColumnKind::{Bool, Float, Int, IntList, Json, Str, StrList};
use super::*;

fn row(value: Value) -> Row {
    match value {
        Value::Object(row) => row,
        other => panic!("{other} is not a row"),
    }
}

fn write(path: &std::path::Path, schema: &Schema, rows: &[Row]) -> Result<u64, TableError> {
    let mut writer = TableWriter::create(path, schema.clone())?;
    rows.iter().try_for_each(|row| writer.write(row))?;
    writer.finish()
}

fn read(path: &std::path::Path) -> Vec<Row> {
    TableReader::open(path).unwrap().rows().unwrap().collect::<Result<_, _>>().unwrap()
}

fn every_kind() -> Schema {
    Schema::new([
        ("b", Bool),
        ("i", Int),
        ("f", Float),
        ("s", Str),
        ("ss", StrList),
        ("ii", IntList),
        ("j", Json),
    ])
}

#[test]
fn every_kind_is_read_back_as_it_was_written() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("deep/table.parquet");
    let full = json!({"b": true, "i": -7, "f": 1.5, "s": "é\n", "ss": ["a", ""], "ii": [1, -2],
                      "j": {"role": "user", "content": [1, null, "x"]}});
    let text = json!({"b": null, "i": null, "f": null, "s": "", "ss": [], "ii": [], "j": "plain"});
    let rows = [row(full.clone()), row(text.clone()), Row::new()];
    assert_eq!(write(&path, &every_kind(), &rows).unwrap(), 3);

    let reader = TableReader::open(&path).unwrap();
    assert_eq!((reader.schema(), reader.len()), (&every_kind(), 3));
    let none = json!({"b": null, "i": null, "f": null, "s": null, "ss": null, "ii": null, "j": null});
    assert_eq!(read(&path), [row(full), row(text), row(none)]);

    let some: Result<Vec<Row>, _> = reader.rows_of(&["s", "i"]).unwrap().collect();
    assert_eq!(some.unwrap()[0], row(json!({"i": -7, "s": "é\n"})));
    let missing = reader.rows_of(&["absent"]).err().unwrap().to_string();
    assert!(missing.contains("no column `absent`; it has b, i, f, s, ss, ii, j"), "{missing}");
}

#[test]
fn a_row_that_does_not_fit_is_named_and_leaves_the_table_as_it_was() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("table.parquet");
    let mut writer = TableWriter::create(&path, every_kind()).unwrap();
    writer.write(&row(json!({"i": 1}))).unwrap();
    let wrong = writer.write(&row(json!({"b": true, "i": 1.5}))).unwrap_err().to_string();
    assert!(wrong.ends_with("row 1, column `i`: expected a 64-bit integer, found 1.5"), "{wrong}");
    let unknown = writer.write(&row(json!({"k": 1}))).unwrap_err().to_string();
    assert!(unknown.ends_with("row 1: no column `k` in the table"), "{unknown}");
    assert!(writer.write(&row(json!({"ss": ["a", null]}))).is_err());
    assert!(writer.write(&row(json!({"i": u64::MAX}))).is_err());
    assert_eq!(writer.finish().unwrap(), 1);
    assert_eq!(read(&path).len(), 1);

    let twice = Schema::new([("a", ColumnKind::Int), ("a", ColumnKind::Str)]);
    assert!(matches!(TableWriter::create(&path, twice), Err(TableError::DuplicateColumn { .. })));
    assert!(matches!(TableReader::open(directory.path().join("none")), Err(TableError::File { .. })));
    std::fs::write(&path, "not parquet").unwrap();
    assert!(matches!(TableReader::open(&path), Err(TableError::Parquet { .. })));
}

#[test]
fn the_inferred_schema_is_the_narrowest_that_holds_every_row() {
    let rows = [
        row(json!({"id": "a", "n": 1, "x": 1, "tags": [], "ids": [], "none": null, "mixed": 1, "all": []})),
        row(json!({"id": "b", "n": 2, "x": 0.5, "tags": ["t"], "ids": [3], "mixed": "1", "big": u64::MAX})),
    ];
    let kinds: Vec<(String, ColumnKind)> =
        Schema::infer(&rows).0.into_iter().map(|column| (column.name, column.kind)).collect();
    let expected = [
        ("all", StrList),
        ("big", Json),
        ("id", Str),
        ("ids", IntList),
        ("mixed", Json),
        ("n", Int),
        ("none", Str),
        ("tags", StrList),
        ("x", Float),
    ];
    assert_eq!(kinds, expected.map(|(name, kind)| (name.to_owned(), kind)));
}

#[test]
fn tables_made_elsewhere_are_read() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("foreign.parquet");
    let dictionary: DictionaryArray<Int32Type> = ["math", "code", "math"].into_iter().collect();
    let lists =
        ListArray::from_iter_primitive::<Int32Type, _, _>([Some(vec![Some(1), None]), None, Some(vec![])]);
    let nested = StructArray::from(vec![(
        Arc::new(arrow_schema::Field::new("score", arrow_schema::DataType::Float32, true)),
        Arc::new(Float32Array::from(vec![Some(0.5), None, Some(f32::NAN)])) as ArrayRef,
    )]);
    let times = TimestampSecondArray::from(vec![0, 60, 3600]);
    let batch = RecordBatch::try_from_iter([
        ("subset", Arc::new(dictionary) as ArrayRef),
        ("ids", Arc::new(lists)),
        ("meta", Arc::new(nested)),
        ("time", Arc::new(times)),
    ])
    .unwrap();
    let file = std::fs::File::create(&path).unwrap();
    let mut writer = ArrowWriter::try_new(file, batch.schema(), None).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();

    let reader = TableReader::open(&path).unwrap();
    let expected = Schema::new([("subset", Str), ("ids", IntList), ("meta", Json), ("time", Json)]);
    assert_eq!(reader.schema(), &expected);
    assert_eq!(
        read(&path),
        [
            row(
                json!({"subset": "math", "ids": [1, null], "meta": {"score": 0.5}, "time": "1970-01-01 00:00:00"})
            ),
            row(
                json!({"subset": "code", "ids": null, "meta": {"score": null}, "time": "1970-01-01 00:01:00"})
            ),
            row(json!({"subset": "math", "ids": [], "meta": {"score": null}, "time": "1970-01-01 01:00:00"})),
        ]
    );
}

#[test]
fn single_rows_are_read_by_their_numbers() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("table.parquet");
    let rows: Vec<Row> = (0..5000).map(|n| row(json!({ "n": n, "text": format!("row {n}") }))).collect();
    write(&path, &Schema::infer(&rows), &rows).unwrap();
    let reader = TableReader::open(&path).unwrap();
    let at = |numbers: &[u64]| reader.rows_at(numbers).unwrap().map(Result::unwrap).collect::<Vec<_>>();
    assert_eq!(at(&[0, 1, 4097, 4999]), [&rows[0], &rows[1], &rows[4097], &rows[4999]].map(Clone::clone));
    assert!(at(&[]).is_empty());
}

/// The digest of a small table; a change here means that every table of every store gets new bytes.
#[test]
fn the_bytes_are_pinned() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("table.parquet");
    let rows: Vec<Row> =
        (0..100).map(|n| row(json!({"i": n, "s": format!("row {n}"), "j": {"n": n}}))).collect();
    write(&path, &every_kind(), &rows).unwrap();
    let digest = blake3::hash(&std::fs::read(&path).unwrap()).to_hex();
    assert_eq!(&digest[..16], "ec81d5792f7ef68b");
}

/// Most memory this process ever held, in bytes.
fn peak_memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}

/// The whole size is 15 GB of text: run it by hand, alone in its process (`--ignored large_rows`).
#[test]
#[ignore = "writes gigabytes; run by hand"]
fn large_rows_pass_through_bounded_memory() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("table.parquet");
    let mut state = 1_u64;
    let mut writer = TableWriter::create(&path, Schema::new([("response", ColumnKind::Str)])).unwrap();
    for _ in 0..300_000 {
        let mut text = String::with_capacity(50_000);
        while text.len() < 50_000 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            text.push_str(
                ["so ", "the ", "answer ", "is ", "not ", "yet ", "17 "][(state >> 33) as usize % 7],
            );
        }
        writer.write(&row(json!({ "response": text }))).unwrap();
    }
    assert_eq!(writer.finish().unwrap(), 300_000);
    let reader = TableReader::open(&path).unwrap();
    assert_eq!(reader.rows().unwrap().map(Result::unwrap).filter(|row| row.len() == 1).count(), 300_000);
    eprintln!("peak {} MiB, file {} MiB", peak_memory() >> 20, path.metadata().unwrap().len() >> 20);
    assert!(peak_memory() < 1 << 30);
}

fn cell(kind: ColumnKind) -> BoxedStrategy<Value> {
    let value = match kind {
        ColumnKind::Bool => any::<bool>().prop_map(Value::from).boxed(),
        ColumnKind::Int => any::<i64>().prop_map(Value::from).boxed(),
        ColumnKind::Float => (-1e300..1e300).prop_map(Value::from).boxed(),
        ColumnKind::Str => ".{0,20}".prop_map(Value::from).boxed(),
        ColumnKind::StrList => prop::collection::vec(".{0,5}", 0..4).prop_map(Value::from).boxed(),
        ColumnKind::IntList => prop::collection::vec(any::<i64>(), 0..4).prop_map(Value::from).boxed(),
        ColumnKind::Json => prop_oneof![
            any::<u64>().prop_map(Value::from),
            ".{0,9}".prop_map(Value::from),
            prop::collection::btree_map("[a-z]{1,3}", any::<bool>(), 0..3).prop_map(|map| json!(map)),
        ]
        .boxed(),
    };
    prop_oneof![1 => Just(Value::Null), 4 => value].boxed()
}

fn any_row() -> impl Strategy<Value = Row> {
    let cells: Vec<_> = every_kind()
        .0
        .into_iter()
        .map(|column| cell(column.kind).prop_map(move |value| (column.name.clone(), value)))
        .collect();
    cells.prop_map(|cells| cells.into_iter().collect())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn rows_survive_and_equal_rows_give_equal_bytes(rows in prop::collection::vec(any_row(), 0..40)) {
        let directory = tempfile::tempdir().unwrap();
        let [first, second] = ["one", "two"].map(|name| directory.path().join(name));
        write(&first, &every_kind(), &rows).unwrap();
        write(&second, &every_kind(), &rows).unwrap();
        prop_assert_eq!(read(&first), rows);
        prop_assert_eq!(std::fs::read(first).unwrap(), std::fs::read(second).unwrap());
    }
}
