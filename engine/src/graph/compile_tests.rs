//! Tests of compiling: what the places of a graph are, what a reference means, and the words of every fault.

use std::time::{Duration, Instant};

use serde_json::json;

use super::super::test_kinds::registry;
use super::*;
use crate::spec::tests::World;

fn graph_of(world: &World) -> Graph {
    match compile(&world.load().unwrap_or_else(|faults| panic!("{faults}")), &registry()) {
        Ok((graph, _)) => graph,
        Err(faults) => panic!("{faults}"),
    }
}

fn faults_of(world: &World) -> String {
    match world.load().and_then(|experiment| compile(&experiment, &registry())) {
        Ok((_, warnings)) => warnings.to_string(),
        Err(faults) => faults.to_string(),
    }
}

/// A graph as one line for each node: its params and what enters it.
fn shown(graph: &Graph) -> String {
    let lines = graph.order().iter().map(|id| {
        let node = graph.node(*id);
        let inputs: Vec<String> = node
            .inputs
            .iter()
            .map(|input| {
                let mark = if input.gathered { "*" } else { "" };
                format!("{}{mark}={}.{}", input.port, graph.node(input.source).name, input.output)
            })
            .collect();
        let params = String::from_utf8_lossy(node.step.params());
        format!("{} {params} {}", node.name, inputs.join(" ")).trim_end().to_owned()
    });
    let mut lines: Vec<String> = lines.collect();
    lines.sort();
    lines.join("\n")
}

const GRAPH: &str = "
seed: 17
params: { take: 10, judge: { by: rules }, pack: { max_tokens: 512 } }
arms:
  r1: { traces: r1_traces, column: r1 }
  gpt-oss: { traces: oss_traces, column: oss }
axes: { benchmark: [gsm8k, math-500], replicate: [1] }
nodes:
  base: { task: model }
  benchmark_problems: { over: benchmark, task: dataset, with: { name: $(benchmark) } }
  problems: { task: dataset, inputs: { exclude: benchmark_problems@* }, with: { take: $(take) } }
  r1_traces: { task: dataset }
  oss_traces: { task: sample, inputs: { prompts: problems } }
  judged: { over: [arm], task: judge, inputs: { references: problems, responses: $(arm.traces) }, with: $(judge) }
  both_correct: { task: filter, inputs: { r1: judged@r1, oss: judged@gpt-oss }, with: { keep: r1.match and oss.match } }
  packs: { over: [arm], task: pack, inputs: { examples: both_correct.kept, tokenizer: base }, with: { response: $(arm.column).response, max_tokens: $(pack.max_tokens) } }
  trained: { over: [arm, replicate], task: train, inputs: { base: base, packs: packs }, with: { seed: $(replicate) } }
  evaluated: { over: [arm, replicate, benchmark], task: evaluate, inputs: { model: trained, problems: benchmark_problems } }
  base_evaluated: { over: [benchmark], task: evaluate, inputs: { model: base, problems: benchmark_problems } }
  table: { task: report, inputs: { results: evaluated@*, base: base_evaluated@*, training: [trained@r1, trained@gpt-oss/1] } }
";

#[test]
fn the_graph_of_the_paper() {
    let world = World::of(&GRAPH.replace("trained@r1,", "trained@r1/*,"));
    insta::assert_snapshot!(shown(&graph_of(&world)), @r#"
    base {}
    base_evaluated@gsm8k {} model=base.model problems=benchmark_problems@gsm8k.rows
    base_evaluated@math-500 {} model=base.model problems=benchmark_problems@math-500.rows
    benchmark_problems@gsm8k {"name":"gsm8k"}
    benchmark_problems@math-500 {"name":"math-500"}
    both_correct {"keep":"r1.match and oss.match"} r1=judged@r1.judged oss=judged@gpt-oss.judged
    evaluated@gpt-oss/1/gsm8k {} model=trained@gpt-oss/1.model problems=benchmark_problems@gsm8k.rows
    evaluated@gpt-oss/1/math-500 {} model=trained@gpt-oss/1.model problems=benchmark_problems@math-500.rows
    evaluated@r1/1/gsm8k {} model=trained@r1/1.model problems=benchmark_problems@gsm8k.rows
    evaluated@r1/1/math-500 {} model=trained@r1/1.model problems=benchmark_problems@math-500.rows
    judged@gpt-oss {"by":"rules"} responses=oss_traces.responses references=problems.rows
    judged@r1 {"by":"rules"} responses=r1_traces.rows references=problems.rows
    oss_traces {} prompts=problems.rows
    packs@gpt-oss {"max_tokens":512,"response":"oss.response"} examples=both_correct.kept tokenizer=base.model
    packs@r1 {"max_tokens":512,"response":"r1.response"} examples=both_correct.kept tokenizer=base.model
    problems {"take":10} exclude*=benchmark_problems@gsm8k.rows exclude*=benchmark_problems@math-500.rows
    r1_traces {}
    table {} results*=evaluated@r1/1/gsm8k.results results*=evaluated@r1/1/math-500.results results*=evaluated@gpt-oss/1/gsm8k.results results*=evaluated@gpt-oss/1/math-500.results base*=base_evaluated@gsm8k.results base*=base_evaluated@math-500.results training*=trained@r1/1.model training*=trained@gpt-oss/1.model
    trained@gpt-oss/1 {"seed":1} base=base.model packs=packs@gpt-oss.packs
    trained@r1/1 {"seed":1} base=base.model packs=packs@r1.packs
    "#);
}

#[test]
fn params_are_bound_once_where_they_cannot_differ() {
    let graph = graph_of(&World::of(&GRAPH.replace("trained@r1,", "trained@r1/*,")));
    let step = |name: &str| &graph.node(graph.find(name).unwrap()).step;
    assert!(Arc::ptr_eq(step("trained@r1/1"), step("trained@gpt-oss/1")));
    assert!(!Arc::ptr_eq(step("packs@r1"), step("packs@gpt-oss")));
    assert_eq!(graph.select("evaluated@r1/*").len(), 2);
}

#[test]
fn seeds_files_and_options() {
    let world = World::default()
        .file("lib/base.yaml", "limits: { server: 4 }\nrun: { retries: 2, make: { concurrency: 8 }, dataset: {} }\nnodes: { a: { task: make, with: { path: data/$(env:DATA).jsonl, count: 1 }, run: { memory: 2GiB, timeout: 10m, limits: { server: 1 }, publish: { log: out/log }, url: $(env:DATA), concurrency: 9 } } }")
        .file("x.yaml", "extends: lib/base.yaml\nseed: 5\nnodes: { b: { task: dataset } }");
    let graph = graph_of(&world);
    let node = graph.node(graph.find("a").unwrap());
    assert_eq!(node.seed, Some(5));
    assert_eq!(node.files[0].path.display().to_string(), "/home/lib/data/folder.jsonl");
    assert_eq!(node.run.memory, Some(2 << 30));
    assert_eq!(node.run.timeout, Some(600.0));
    assert_eq!(node.run.retries, 2);
    assert_eq!(node.run.limits["server"], 1);
    assert_eq!(node.run.publish["log"].display().to_string(), "/home/lib/out/log");
    assert_eq!(node.run.task, json!({ "concurrency": 9, "url": "folder" }));
    assert_eq!((node.location.file.as_ref(), node.location.line), ("lib/base.yaml", 3));
    let other = graph.node(graph.find("b").unwrap());
    assert_eq!((other.run.retries, other.seed), (2, None));
}

#[test]
fn a_whole_variable_of_options_lies_over_the_defaults() {
    let options = |given: &str| {
        let graph = graph_of(&World::of(&format!(
            "params: {{ mine: {given}, kind: {{ gpus: 1, concurrency: 8 }} }}
axes: {{ arm: {{ small: {{}}, large: {{ mine: {{ cpus: 4 }} }} }} }}
run: {{ retries: 2, make: $(kind) }}
nodes: {{ a: {{ task: make, over: arm, with: {{ count: 1 }}, run: $(mine) }} }}"
        )));
        ["a@small", "a@large"].map(|name| {
            let run = &graph.node(graph.find(name).unwrap()).run;
            (run.retries, run.gpus, run.cpus, run.task["concurrency"].as_i64().unwrap())
        })
    };
    assert_eq!(options("null"), [(2, Some(1), None, 8), (2, Some(1), Some(4), 8)]);
    let given = options("{ gpus: 3, concurrency: 9 }");
    assert_eq!(given, [(2, Some(3), None, 9), (2, Some(3), Some(4), 9)]);
}

#[test]
fn ten_mistakes_are_ten_diagnostics() {
    let text = "name: mistakes
params: { rate: high, unusedd: 1 }
axes: { size: [small, large] }
nodse: {}
nodes:
  a: { task: make, with: { cuont: 1 } }
  b: { task: maek }
  c: { task: make, with: { rates: [0.5, 1.5] }, inputs: { promts: a } }
  d: { task: make, over: size, with: { count: $(sise) } }
  e: { task: judge, inputs: { responses: d, references: nowhere } }
  f: { task: judge, inputs: { responses: c.rosw } }
  g: { task: make, with: { count: $(rate) } }
  h: { task: train, inputs: { base: c, packs: d@medium } }
  i: { task: filter, inputs: { x: k } }
  j: { task: filter, inputs: { x: i } }
  k: { task: filter, inputs: { x: j }, inputs: {} }
  l: { task: make, inputs: { prompts: d@* } }
  m: { task: make, with: { model: { backend: served } } }
  n: { task: make, with: { model: { backend: servd, name: x } } }
  o: { task: make, run: { concurency: 1, gpus: many } }
";
    insta::assert_snapshot!(faults_of(&World::of(text)), @r#"
    error: `count` of the task `make`: invalid type: string "high", expected u32
     --> x.yaml:2:17
      |
    2 | params: { rate: high, unusedd: 1 }
      |                 ^^^^
      note: used by `g` here
      --> x.yaml:12:35
       |
    12 |   g: { task: make, with: { count: $(rate) } }
       |                                   ^^^^^^^

    error: an experiment has no field `nodse`
     --> x.yaml:4:1
      |
    4 | nodse: {}
      | ^^^^^
      help: did you mean `nodes`?
      help: values of your own stand under `params:`

    error: the task `make` has no field `cuont`
     --> x.yaml:6:28
      |
    6 |   a: { task: make, with: { cuont: 1 } }
      |                            ^^^^^ no such field
      help: did you mean `count`?

    error: there is no task kind `maek`
     --> x.yaml:7:14
      |
    7 |   b: { task: maek }
      |              ^^^^
      help: did you mean `make`?

    error: a rate is at most 1
     --> x.yaml:8:41
      |
    8 |   c: { task: make, with: { rates: [0.5, 1.5] }, inputs: { promts: a } }
      |                                         ^^^
      help: rates are not percent

    error: the task `make` has no input `promts`
     --> x.yaml:8:59
      |
    8 |   c: { task: make, with: { rates: [0.5, 1.5] }, inputs: { promts: a } }
      |                                                           ^^^^^^ no such input
      help: did you mean `prompts`?

    error: `sise` is not defined
     --> x.yaml:9:47
      |
    9 |   d: { task: make, over: size, with: { count: $(sise) } }
      |                                               ^^^^^^^ no param, axis or arm of this name
      help: did you mean `size`?

    error: `d` is over `size`, and this node is not
      --> x.yaml:10:42
       |
    10 |   e: { task: judge, inputs: { responses: d, references: nowhere } }
       |                                          ^ which `size`?
      help: `d@*` gathers them all, `d@small` is one of them
      help: or put this node over it too: `over: [size]`

    error: there is no node `nowhere`
      --> x.yaml:10:57
       |
    10 |   e: { task: judge, inputs: { responses: d, references: nowhere } }
       |                                                         ^^^^^^^ no such node

    error: `f` needs an input `references`
      --> x.yaml:11:21
       |
    11 |   f: { task: judge, inputs: { responses: c.rosw } }
       |                     ^^^^^^
      help: write `inputs: { references: NODE }` with a node that gives table

    error: `c` has no output `rosw`
      --> x.yaml:11:42
       |
    11 |   f: { task: judge, inputs: { responses: c.rosw } }
       |                                          ^^^^^^
      help: did you mean `rows`?

    error: the input `base` takes model, and `c` gives table
      --> x.yaml:13:37
       |
    13 |   h: { task: train, inputs: { base: c, packs: d@medium } }
       |                                     ^ gives table

    error: the axis `size` of `d` has no value `medium`
      --> x.yaml:13:47
       |
    13 |   h: { task: train, inputs: { base: c, packs: d@medium } }
       |                                               ^^^^^^^^
      note: the axis is defined here
     --> x.yaml:3:9
      |
    3 | axes: { size: [small, large] }
      |         ^^^^
      help: there is `small`, `large`

    error: nodes need each other: `i` needs `k` needs `j` needs `i`
      --> x.yaml:14:35
       |
    14 |   i: { task: filter, inputs: { x: k } }
       |                                   ^

    error: the key `inputs` is given twice
      --> x.yaml:16:40
       |
    16 |   k: { task: filter, inputs: { x: j }, inputs: {} }
       |                                        ^^^^^^ the second time
      note: the first time
      --> x.yaml:16:22
       |
    16 |   k: { task: filter, inputs: { x: j }, inputs: {} }
       |                      ^^^^^^

    error: the input `prompts` takes one artifact
      --> x.yaml:17:39
       |
    17 |   l: { task: make, inputs: { prompts: d@* } }
       |                                       ^^^ this gathers several
      help: name one of them: `NODE@VALUE`

    error: `model` of the task `make` needs the field `name`
      --> x.yaml:18:28
       |
    18 |   m: { task: make, with: { model: { backend: served } } }
       |                            ^^^^^

    error: `model.backend` of the task `make` cannot be `servd`
      --> x.yaml:19:46
       |
    19 |   n: { task: make, with: { model: { backend: servd, name: x } } }
       |                                              ^^^^^
      help: did you mean `served`?

    error: the `run` of `make` has no field `concurency`
      --> x.yaml:20:27
       |
    20 |   o: { task: make, run: { concurency: 1, gpus: many } }
       |                           ^^^^^^^^^^ no such field
      help: did you mean `concurrency`?

    error: `gpus` is a whole number, zero or more
      --> x.yaml:20:48
       |
    20 |   o: { task: make, run: { concurency: 1, gpus: many } }
       |                                                ^^^^

    warning: nothing uses the param `unusedd`
     --> x.yaml:2:23
      |
    2 | params: { rate: high, unusedd: 1 }
      |                       ^^^^^^^
    "#);
}

#[test]
fn faults_of_variables() {
    let text = "params: { a: $(b), b: $(a), map: { x: 1 }, data: { rows: 1 }, one: $(arm) }
arms: { r1: { traces: noed } }
nodes:
  a: { task: dataset, with: { x: $(a) } }
  b: { task: dataset, with: { x: 'text $(map)' } }
  c: { task: dataset, with: { x: $(arm) } }
  d: { task: dataset, with: { x: '$(date +%s)' } }
  e: { task: dataset, with: { x: $(data.row) } }
  f: { task: dataset, over: arm, with: { x: $(arm.trace) } }
  g: { task: dataset, with: { x: $(one) } }
  h: { task: sample, over: arm, inputs: { prompts: $(arm.traces) } }
";
    insta::assert_snapshot!(faults_of(&World::of(text)), @r"
    error: the param `a` is defined by itself: a → b → a
     --> x.yaml:1:23
      |
    1 | params: { a: $(b), b: $(a), map: { x: 1 }, data: { rows: 1 }, one: $(arm) }
      |                       ^^^^

    error: a param cannot depend on the axis `arm`
     --> x.yaml:1:68
      |
    1 | params: { a: $(b), b: $(a), map: { x: 1 }, data: { rows: 1 }, one: $(arm) }
      |                                                                    ^^^^^^
      help: write it in the `with:` of a node over that axis, or as a parameter of the axis

    error: there is no node `noed`
     --> x.yaml:2:23
      |
    2 | arms: { r1: { traces: noed } }
      |                       ^^^^ no such node
      note: used by `h` here
      --> x.yaml:11:43
       |
    11 |   h: { task: sample, over: arm, inputs: { prompts: $(arm.traces) } }
       |                                           ^^^^^^^
      help: there is `a`, `b`, `c`, `d`, `e`, `f`, `g`, `h`

    error: a map cannot stand inside a text
     --> x.yaml:5:40
      |
    5 |   b: { task: dataset, with: { x: 'text $(map)' } }
      |                                        ^^^^^^
      note: its value
     --> x.yaml:1:34
      |
    1 | params: { a: $(b), b: $(a), map: { x: 1 }, data: { rows: 1 }, one: $(arm) }
      |                                  ^^^^^^^^
      help: a `$(…)` that stands alone takes the value as it is

    error: `arm` is an axis, and this node is not over it
     --> x.yaml:6:34
      |
    6 |   c: { task: dataset, with: { x: $(arm) } }
      |                                  ^^^^^^
      help: add it: `over: [arm]`

    error: `$(date +%s)` is not a variable
     --> x.yaml:7:35
      |
    7 |   d: { task: dataset, with: { x: '$(date +%s)' } }
      |                                   ^^^^^^^^^^^
      help: a variable is `$(name)` or `$(name.field)`; `$$(` is a literal `$(`

    error: `data.row` is not defined
     --> x.yaml:8:34
      |
    8 |   e: { task: dataset, with: { x: $(data.row) } }
      |                                  ^^^^^^^^^^^ no param, axis or arm of this name
      help: did you mean `data.rows`?

    error: `arm@r1` has no parameter `trace`
     --> x.yaml:9:45
      |
    9 |   f: { task: dataset, over: arm, with: { x: $(arm.trace) } }
      |                                             ^^^^^^^^^^^^
      note: it is defined here
     --> x.yaml:2:9
      |
    2 | arms: { r1: { traces: noed } }
      |         ^^
      help: did you mean `traces`?

    warning: nothing uses the param `data.rows`
     --> x.yaml:1:52
      |
    1 | params: { a: $(b), b: $(a), map: { x: 1 }, data: { rows: 1 }, one: $(arm) }
      |                                                    ^^^^
      help: did you mean `data.row`?
    ");
}

#[test]
fn the_environment_stays_out_of_keys_and_messages() {
    let text = "params: { where: $(env:DATA) }
nodes:
  a: { task: make, with: { path: $(where), model: { backend: served, name: $(where) } } }
  b: { task: make, with: { count: $(where) } }
  c: { task: make, with: { path: $(env:NOT_SET) } }
  d: { task: make, run: { url: '$(env:NOT_SET)/v1', concurrency: $(where) } }
";
    let faults = faults_of(&World::of(text));
    insta::assert_snapshot!(faults, @r#"
    error: `concurrency` of the `run` of `make`: invalid type: string "$(env:…)", expected u32
     --> x.yaml:1:18
      |
    1 | params: { where: $(env:DATA) }
      |                  ^^^^^^^^^^^
      note: used by `d` here
     --> x.yaml:6:20
      |
    6 |   d: { task: make, run: { url: '$(env:NOT_SET)/v1', concurrency: $(where) } }
      |                    ^^^

    error: `count` of the task `make`: invalid type: string "$(env:…)", expected u32
     --> x.yaml:1:18
      |
    1 | params: { where: $(env:DATA) }
      |                  ^^^^^^^^^^^
      note: used by `b` here
     --> x.yaml:4:35
      |
    4 |   b: { task: make, with: { count: $(where) } }
      |                                   ^^^^^^^^

    error: the environment may not decide a result
     --> x.yaml:1:18
      |
    1 | params: { where: $(env:DATA) }
      |                  ^^^^^^^^^^^ this is in the key
      note: used by `a` here
     --> x.yaml:3:20
      |
    3 |   a: { task: make, with: { path: $(where), model: { backend: served, name: $(where) } } }
      |                    ^^^^
      help: `$(env:…)` may stand under `run:` and in paths of local files; `--set` gives a param its value

    error: the environment variable `NOT_SET` is not set
     --> x.yaml:5:34
      |
    5 |   c: { task: make, with: { path: $(env:NOT_SET) } }
      |                                  ^^^^^^^^^^^^^^
      help: set `NOT_SET`, or give the value with `--set`

    warning: the environment variable `NOT_SET` is not set
     --> x.yaml:6:33
      |
    6 |   d: { task: make, run: { url: '$(env:NOT_SET)/v1', concurrency: $(where) } }
      |                                 ^^^^^^^^^^^^^^
    "#);
    assert!(!faults.contains("folder"));
}

#[test]
fn a_place_may_be_left_out() {
    let text = "axes: { size: { s: { big: false }, l: { big: true } } }
nodes:
  a: { task: dataset, over: size, when: $(size.big) }
  b: { task: report, inputs: { results: a@* } }";
    insta::assert_snapshot!(shown(&graph_of(&World::of(text))), @r"
    a@l {}
    b {} results*=a@l.rows
    ");
    let faults = faults_of(&World::of(&format!(
        "{text}\n  c: {{ task: sample, over: size, inputs: {{ prompts: a }} }}"
    )));
    assert!(faults.contains("`a@s` does not exist"), "{faults}");
}

#[test]
fn a_chain_along_an_axis_is_no_cycle() {
    let text =
        "axes: { stage: { one: { from: base }, two: { from: trained@one }, three: { from: trained@two } } }
nodes:
  base: { task: model }
  packs: { task: pack, inputs: { examples: rows, tokenizer: base } }
  rows: { task: dataset }
  trained: { task: train, over: stage, inputs: { base: $(stage.from), packs: packs } }";
    let graph = graph_of(&World::of(text));
    let last = graph.find("trained@three").unwrap();
    assert_eq!(graph.node(graph.node(last).inputs[0].source).name.as_ref(), "trained@two");
    let faults = faults_of(&World::of(&text.replace("from: base", "from: trained@three")));
    assert!(
        faults.contains("`trained@one` needs `trained@three` needs `trained@two` needs `trained@one`"),
        "{faults}"
    );
}

#[test]
fn a_hundred_thousand_places_compile_fast() {
    let text = "axes: { shard: { range: 100000 } }
nodes:
  part: { task: make, over: shard, with: { count: $(shard) } }
  all: { task: report, inputs: { results: part@* } }";
    let start = Instant::now();
    let graph = graph_of(&World::of(text));
    let took = start.elapsed();
    assert_eq!(graph.len(), 100_001);
    assert_eq!(graph.node(graph.find("all").unwrap()).inputs.len(), 100_000);
    assert_eq!(graph.node(graph.find("part@99999").unwrap()).step.params(), br#"{"count":99999}"#);
    // Measured at a fraction of this; the bound only catches quadratic work.
    assert!(took < Duration::from_secs(10), "{took:?}");
}

#[test]
fn too_many_nodes_and_edges_are_refused() {
    let text =
        "axes: { a: { range: 2000 }, b: { range: 2000 } }\nnodes: { n: { task: dataset, over: [a, b] } }";
    assert!(faults_of(&World::of(text)).contains("more than 1000000 nodes"));
    let text = "axes: { a: { range: 10000 } }\nnodes: { n: { task: dataset, over: a }, m: { task: dataset, over: a, inputs: { exclude: n@* } } }";
    assert!(faults_of(&World::of(text)).contains("inputs in one graph"));
}
