//! Tests of reading: files, profiles, `--set`, axes, variables, and the words of the faults.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use serde_json::json;

use super::*;

/// Files in memory, and an environment of one variable.
#[derive(Default)]
pub(crate) struct World {
    files: BTreeMap<PathBuf, String>,
    profile: Option<String>,
    sets: Vec<(String, String)>,
}

impl Environment for World {
    fn var(&self, name: &str) -> Option<String> {
        (name == "DATA").then(|| "folder".to_owned())
    }
    fn gpus(&self) -> usize {
        0
    }
    fn root(&self) -> &Path {
        Path::new("/home")
    }
}

impl World {
    pub(crate) fn of(text: &str) -> Self {
        Self::default().file("x.yaml", text)
    }

    pub(crate) fn file(mut self, name: &str, text: &str) -> Self {
        self.files.insert(normalised(&Path::new("/home").join(name)), text.to_owned());
        self
    }

    pub(crate) fn profile(mut self, name: &str) -> Self {
        self.profile = Some(name.to_owned());
        self
    }

    pub(crate) fn set(mut self, key: &str, value: &str) -> Self {
        self.sets.push((key.to_owned(), value.to_owned()));
        self
    }

    pub(crate) fn load(&self) -> Result<Experiment, Diagnostics> {
        let read = |path: &Path| {
            let text = self
                .files
                .get(path)
                .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "no such file"))?;
            Ok(text.clone().into_bytes())
        };
        load(
            Path::new("x.yaml"),
            &LoadOptions {
                profile: self.profile.clone(),
                sets: self.sets.clone(),
                directory: Path::new("/home"),
                environment: self,
                read: &read,
            },
        )
    }

    /// Everything that is wrong, as the user sees it.
    fn faults(&self) -> String {
        match self.load() {
            Ok(experiment) => {
                Diagnostics::new(Arc::clone(&experiment.sources), experiment.faults).to_string()
            }
            Err(faults) => faults.to_string(),
        }
    }

    /// The filled `with:` of a node, at the first place of its axes.
    fn with(&self, node: &str) -> serde_json::Value {
        let experiment = self.load().unwrap();
        assert!(
            experiment.faults.iter().all(|fault| fault.severity == Severity::Warning),
            "{}",
            self.faults()
        );
        let spec = &experiment.nodes[node];
        let at: Vec<_> = spec.over.iter().map(|name| (&experiment.axes[name], 0)).collect();
        let arm = at.iter().find(|(axis, _)| &*axis.name == "arm");
        let scope =
            arm.map_or_else(|| Scope::new(&experiment), |(axis, at)| Scope::of_arm(&experiment, axis, *at));
        let mut faults = Vec::new();
        let filled = scope.fill(&spec.with.as_ref().unwrap().tree, &at, &mut faults);
        let filled = filled.unwrap_or_else(|| panic!("{faults:?}"));
        filled.to_json()
    }
}

#[test]
fn a_variable_alone_keeps_its_type() {
    let world = World::of(
        "params: { n: 5e-7, list: [1, $(n)], map: { deep: $(list) }, flag: true }
axes: { replicate: [1, 2] }
nodes:
  a: { task: t, over: replicate, with: { n: $(n), text: 'n = $(n)$(flag)', map: $(map), one: $(map.deep), r: $(replicate), jinja: '{{ $(n) }} {{ x }}', sh: 'echo $$(date)', name: $(name) } }",
    );
    assert_eq!(
        world.with("a"),
        json!({ "n": 5e-7, "text": "n = 5e-7true", "map": { "deep": [1, 5e-7] }, "one": [1, 5e-7], "r": 1,
            "jinja": "{{ 5e-7 }} {{ x }}", "sh": "echo $(date)", "name": "x" })
    );
}

#[test]
fn a_shared_cache_is_an_address_or_a_map_and_a_profile_may_do_without() {
    let remote = |text: &str| World::of(&format!("{text}\nnodes: {{}}")).load().unwrap().remote;
    let spec = |url: &str, sign, write| Some(RemoteSpec { url: url.to_owned(), sign, write });
    assert_eq!(remote("seed: 1"), None);
    assert_eq!(remote("remote: s3://bucket/x"), spec("s3://bucket/x", None, None));
    assert_eq!(
        remote("params: { b: team }\nremote: s3://$(b)/$(env:DATA)"),
        spec("s3://team/folder", None, None)
    );
    assert_eq!(
        remote("remote: { url: gs://b, sign: false, write: true }"),
        spec("gs://b", Some(false), Some(true))
    );
    let profiled =
        World::of("remote: s3://b\nprofiles: { alone: { remote: null } }\nnodes: {}").profile("alone");
    assert_eq!(profiled.load().unwrap().remote, None);
    for (text, told) in [
        ("remote: [s3://b]", "an address or a map with `url`"),
        ("remote: { sign: true }", "`remote` has no `url`"),
        ("remote: { url: s3://b, sing: true }", "did you mean `sign`?"),
        ("remote: { url: s3://b, write: 1 }", "`write` is `true` or `false`"),
    ] {
        let faults = World::of(&format!("{text}\nnodes: {{}}")).faults();
        assert!(faults.contains(told), "{text}: {faults}");
    }
}

#[test]
fn the_stronger_value_wins() {
    let base = "params: { a: base, b: base, c: base, d: base, e: base, map: { x: base, y: base } }
nodes: { n: { task: t, over: arm, with: { a: $(a), b: $(b), c: $(c), d: $(d), e: $(e), map: $(map), arm: $(arm) } } }
arms: { one: { d: arm, e: arm } }";
    let world = World::default().file("lib/base.yaml", base).file(
        "x.yaml",
        "extends: lib/base.yaml
profile: p
params: { b: file, c: file, d: file, e: file, map: { x: file } }
profiles: { p: { c: profile, d: profile, e: profile } }",
    );
    assert_eq!(
        world.set("e", "set").with("n"),
        json!({ "a": "base", "b": "file", "c": "profile", "d": "arm", "e": "set",
            "map": { "x": "file", "y": "base" }, "arm": "one" })
    );
}

#[test]
fn a_profile_overlays_sections() {
    let text = "seed: 1
axes: { replicate: [1], size: { s: { n: 1 } } }
nodes: { a: { task: t, over: [replicate, size], with: { x: 1, n: $(size.n) }, run: { cpus: 1 } }, b: { task: t } }
profiles:
  big: { seed: 7, axes: { replicate: { range: [5, 9] } }, nodes: { a: { with: { x: 2 } }, b: null } }";
    let experiment = World::of(text).profile("big").load().unwrap();
    assert_eq!(experiment.seed, 7);
    assert_eq!(experiment.axes["replicate"].len(), 4);
    assert_eq!(experiment.nodes.len(), 1);
    assert_eq!(World::of(text).profile("big").with("a"), json!({ "x": 2, "n": 1 }));
    assert_eq!(World::of(text).load().unwrap().nodes.len(), 2);
}

#[test]
fn a_profile_may_extend_another() {
    let text = "nodes: { a: { task: t, with: { x: $(x), y: $(y), z: $(z) } } }
profiles:
  small: { params: { x: 1, y: 1, z: 1 } }
  middle: { extends: small, y: 2 }
  there: { extends: middle, params: { z: 3 }, run: { cpus: 1 } }
  one: { extends: other }
  other: { extends: one }
  lost: { extends: smal }";
    assert_eq!(World::of(text).profile("there").with("a"), json!({ "x": 1, "y": 2, "z": 3 }));
    assert!(World::of(text).profile("there").load().unwrap().run.is_some());
    let circle = World::of(text).profile("one").faults();
    assert!(circle.contains("the profiles extend each other: one → other → one"), "{circle}");
    let lost = World::of(text).profile("lost").faults();
    assert!(lost.contains("there is no profile `smal`") && lost.contains("`small`"), "{lost}");
}

#[test]
fn values_of_the_command_line_are_typed() {
    let world = World::of(
        "params: { a: { b: 1 }, c: [1], t: x }\nnodes: { n: { task: t, with: { b: $(a.b), c: $(c), t: $(t) } } }",
    );
    let world = world.set("a.b", "5e-6").set("c", "[2, x]").set("t", "hf://a: b");
    assert_eq!(world.with("n"), json!({ "b": 5e-6, "c": [2, "x"], "t": "hf://a: b" }));
    let world = world.set("nodes.n.with.more", "true").set("t", "'5'");
    assert_eq!(world.with("n"), json!({ "b": 5e-6, "c": [2, "x"], "t": "5", "more": true }));
}

#[test]
fn a_path_starts_where_it_was_written() {
    let origin = |world: &World| {
        let experiment = world.load().unwrap();
        let field = experiment.nodes["n"].with.clone().unwrap();
        let filled = Scope::new(&experiment).fill(&field.tree, &[], &mut Vec::new()).unwrap();
        let path = filled.pointer("/path").unwrap().1;
        (
            experiment.resolve_path(path.origin, path.as_text().unwrap()).display().to_string(),
            path.environment,
        )
    };
    let base = "params: { data: there }\nnodes: { n: { task: t, with: { path: $(data)/a.jsonl } } }";
    let world = || World::of("extends: lib/base.yaml").file("lib/base.yaml", base);
    assert_eq!(origin(&world()), ("/home/lib/there/a.jsonl".into(), false));
    assert_eq!(
        origin(&world().file("x.yaml", "extends: lib/base.yaml\nparams: { data: here }")),
        ("/home/here/a.jsonl".into(), false)
    );
    assert_eq!(origin(&world().set("data", "set")), ("/home/set/a.jsonl".into(), false));
    assert_eq!(
        origin(&world().file("x.yaml", "extends: lib/base.yaml\nparams: { data: '$(env:DATA)' }")),
        ("/home/folder/a.jsonl".into(), true)
    );
}

#[test]
fn growth_is_bounded() {
    let doubling: Vec<String> =
        (1..60).map(|level| format!("  p{level}: [$(p{0}), $(p{0})]\n", level - 1)).collect();
    let doubling = doubling.concat();
    let text =
        format!("params:\n  p0: {}\n{doubling}nodes: {{ n: {{ task: t, with: $(p59) }} }}", "x".repeat(100));
    let experiment = World::of(&text).load().unwrap();
    let mut faults = Vec::new();
    let field = experiment.nodes["n"].with.clone().unwrap();
    assert!(Scope::new(&experiment).fill(&field.tree, &[], &mut faults).is_none());
    assert!(faults[0].message.contains("too large"), "{faults:?}");

    let chain: Vec<String> = (1..5000).map(|level| format!("  p{level}: $(p{})\n", level - 1)).collect();
    let chain = chain.concat();
    let text = format!("params:\n  p0: 1\n{chain}nodes: {{ n: {{ task: t, with: $(p4999) }} }}");
    let experiment = World::of(&text).load().unwrap();
    let field = experiment.nodes["n"].with.clone().unwrap();
    assert!(Scope::new(&experiment).fill(&field.tree, &[], &mut faults).is_none());
}

#[test]
fn faults_of_files_are_reported() {
    insta::assert_snapshot!(World::default().faults(), @r"
    error: `x.yaml` cannot be read: no such file
    ");
    insta::assert_snapshot!(World::of("extends: y.yaml").faults(), @r"
    error: `y.yaml` cannot be read: no such file
     --> x.yaml:1:10
      |
    1 | extends: y.yaml
      |          ^^^^^^
    ");
    let circle = World::of("extends: y.yaml").file("y.yaml", "extends: ./lib/../x.yaml");
    insta::assert_snapshot!(circle.faults(), @r"
    error: the files extend each other: x.yaml → y.yaml → x.yaml
     --> y.yaml:1:10
      |
    1 | extends: ./lib/../x.yaml
      |          ^^^^^^^^^^^^^^^
    ");
    insta::assert_snapshot!(World::of("a: [1, 2").faults(), @r"
    error: this is not valid YAML: while parsing a flow sequence, expected ',' or ']'
     --> x.yaml:1:9
      |
    1 | a: [1, 2
      |         ^
    ");
    insta::assert_snapshot!(World::of("profiles: { local: {}, paper: {} }").profile("papr").faults(), @r"
    error: there is no profile `papr`
     --> --profile:1:1
      |
    1 | papr
      | ^^^^
      help: did you mean `paper`?
    ");
}

#[test]
fn faults_of_the_shape_are_reported_together() {
    let text = "name: [x]
seed: -1
nodse: {}
axes: { size: [], arm: [a] }
arms: { a: { z: 1 } }
params: { seed: 1, unused: 2 }
limits: { server: 0 }
nodes:
  a b: { task: t }
  c: { tsak: t }
  d: { task: t, over: [sizes] }
";
    let world = World::of(text).set("take", "1").set("nodes.e.with.x", "1").set("axes.sise", "[1]");
    insta::assert_snapshot!(world.faults(), @r"
    error: `name` is a text, not a list
     --> x.yaml:1:7
      |
    1 | name: [x]
      |       ^^^

    error: `seed` is a whole number, zero or more
     --> x.yaml:2:7
      |
    2 | seed: -1
      |       ^^

    error: an experiment has no field `nodse`
     --> x.yaml:3:1
      |
    3 | nodse: {}
      | ^^^^^
      help: did you mean `nodes`?
      help: values of your own stand under `params:`

    error: the axis `size` has no values
     --> x.yaml:4:9
      |
    4 | axes: { size: [], arm: [a] }
      |         ^^^^
      help: a node over it would not exist; give it at least one

    error: the axis `arm` is what `arms:` defines
     --> x.yaml:4:19
      |
    4 | axes: { size: [], arm: [a] }
      |                   ^^^
      note: it is defined here
     --> x.yaml:5:1
      |
    5 | arms: { a: { z: 1 } }
      | ^^^^

    error: a param cannot be called `seed`
     --> x.yaml:6:11
      |
    6 | params: { seed: 1, unused: 2 }
      |           ^^^^
      help: `$(…)` of that name is a field or an axis of the experiment

    error: the capacity of a limit is a whole number above zero
     --> x.yaml:7:19
      |
    7 | limits: { server: 0 }
      |                   ^

    error: `a b` cannot be the name of a node
     --> x.yaml:9:3
      |
    9 |   a b: { task: t }
      |   ^^^
      help: a name is letters, digits, `_` and `-`, and begins with a letter

    error: the node `c` has no `task`
      --> x.yaml:10:3
       |
    10 |   c: { tsak: t }
       |   ^
      help: if it only changes a node that is extended, its name may be misspelt

    error: a node has no field `tsak`
      --> x.yaml:10:8
       |
    10 |   c: { tsak: t }
       |        ^^^^
      help: did you mean `task`?

    error: there is no axis `sizes`
      --> x.yaml:11:24
       |
    11 |   d: { task: t, over: [sizes] }
       |                        ^^^^^
      help: did you mean `size`?

    error: nothing in the experiment uses `take`
     --> --set:1:1
      |
    1 | take=1
      | ^^^^

    error: `nodes` has no `e`
     --> --set:1:1
      |
    1 | nodes.e.with.x=1
      | ^^^^^^^^^^^^^^
      help: there is `a b`, `c`, `d`

    error: `axes` has no `sise`
     --> --set:1:1
      |
    1 | axes.sise=[1]
      | ^^^^^^^^^
      help: did you mean `size`?

    warning: nothing uses the param `seed`
     --> x.yaml:6:11
      |
    6 | params: { seed: 1, unused: 2 }
      |           ^^^^

    warning: nothing uses the param `unused`
     --> x.yaml:6:20
      |
    6 | params: { seed: 1, unused: 2 }
      |                    ^^^^^^
    ");
}
