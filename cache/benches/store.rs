//! What the store costs: `cargo bench -p dag-cache [-- COUNT…]` for so many actions. Times are printed, nothing is
//! asserted about them.

#![expect(clippy::unwrap_used, reason = "a bench that fails should stop")]
#![expect(clippy::print_stdout, reason = "its output is what a bench is for")]

use std::collections::BTreeMap;
use std::time::Instant;

use dag_cache::{Digest, Record, View, Writer};
use serde_json::json;

fn timed<T>(what: &str, count: u32, work: impl FnOnce() -> T) -> T {
    let start = Instant::now();
    let result = work();
    let elapsed = start.elapsed();
    println!(
        "{what:<52} {:>10.2} ms {:>9.2} us each",
        elapsed.as_secs_f64() * 1e3,
        (elapsed / count).as_secs_f64() * 1e6
    );
    result
}

fn actions(count: u32, writer: &Writer) -> Vec<Digest> {
    let manifest =
        |number: u32| format!("{{\"inputs\":{{}},\"kind\":\"command\",\"number\":{number}}}").into_bytes();
    (0..count)
        .map(|number| {
            let manifest = manifest(number);
            let outputs =
                BTreeMap::from([("out".to_owned(), writer.put_bytes(&number.to_le_bytes()).unwrap())]);
            let action = Digest::of(&manifest);
            writer.commit(&Record { action, manifest, outputs, metrics: BTreeMap::new(), owed: 0 }).unwrap();
            action
        })
        .collect()
}

fn main() {
    let mut counts: Vec<u32> = std::env::args().filter_map(|argument| argument.parse().ok()).collect();
    if counts.is_empty() {
        counts = vec![1_001, 100_001];
    }
    for count in counts {
        let dir = tempfile::tempdir().unwrap();
        let writer = Writer::open(dir.path()).unwrap();
        let actions =
            timed(&format!("{count}: put a tiny file and commit"), count, || actions(count, &writer));
        timed(&format!("{count}: sync"), count, || writer.sync().unwrap());
        timed(&format!("{count}: record, without a summary"), count, || {
            let view = View::open(dir.path());
            assert!(actions.iter().all(|action| view.record(action).unwrap().is_some()));
        });
        timed(&format!("{count}: finish"), count, || writer.finish().unwrap());
        let outputs = timed(&format!("{count}: summary"), count, || {
            let view = View::open(dir.path());
            let found = actions.iter().map(|action| view.summary(action).unwrap().unwrap());
            found.map(|summary| summary.outputs["out"]).collect::<Vec<_>>()
        });
        timed(&format!("{count}: summary of what is not there"), count, || {
            let view = View::open(dir.path());
            let absent = (0..count).map(|number| Digest::of(&number.to_le_bytes()));
            assert!(absent.into_iter().all(|action| view.summary(&action).unwrap().is_none()));
        });
        timed(&format!("{count}: has_output"), count, || {
            assert!(outputs.iter().all(|output| writer.view().has_output(output)));
        });
        timed(&format!("{count}: touch and finish, nothing new"), count, || {
            writer.touch(&actions);
            writer.finish().unwrap();
        });
    }

    let dir = tempfile::tempdir().unwrap();
    let writer = Writer::open(dir.path()).unwrap();
    let text = "The sum of the digits is therefore 17, and so the remainder is 8. ".repeat(60);
    let keys: Vec<Digest> = (0..20_000_u32).map(|number| Digest::of(&number.to_le_bytes())).collect();
    let stream = Digest::of(b"stream");
    let open = || writer.record_log(&stream, &json!({})).unwrap();
    let log = open();
    timed("20000 responses of 4 kB: look up, all missing", 20_000, || {
        assert!(keys.iter().all(|key| log.get(key).unwrap().is_none()));
    });
    timed("20000 responses of 4 kB: put", 20_000, || {
        keys.iter().enumerate().for_each(|(n, key)| log.put(key, format!("{n}{text}").as_bytes()).unwrap());
    });
    timed("20000 responses of 4 kB: seal", 20_000, || log.seal().unwrap());
    drop(log);
    let log = timed("20000 responses of 4 kB: open", 20_000, open);
    timed("20000 responses of 4 kB: look up", 20_000, || {
        assert!(keys.iter().all(|key| log.get(key).unwrap().is_some()));
    });
}
