//! `dag report`: the newest report in the terminal, as files, and as a page with the times of its run.

use serde_json::Value;

use crate::support::Sandbox;

const EXPERIMENT: &str = "
name: teachers
arms:
  long: { teacher: verbose }
  short: { teacher: terse }
nodes:
  problems:
    task: dataset
    with: { source: { generator: arithmetic, count: 12, steps: [2, 3], modulus: 10, seed: 5 } }
  evaluated:
    over: [arm]
    task: evaluate
    inputs: { problems: problems }
    with: { model: { backend: scripted, teacher: $(arm.teacher), error_rate: 0.3 }, repeats: 2 }
  table:
    task: report
    inputs: { results: evaluated@*, funnel: [problems] }
    with: { title: Two teachers }
";

fn teachers() -> Sandbox {
    let sandbox = Sandbox::new();
    sandbox.write("teachers.yaml", EXPERIMENT);
    sandbox
}

#[test]
fn before_a_run_there_is_none_and_the_next_step_is_said() {
    let sandbox = teachers();
    let none = sandbox.dag(&["report"]).expect(2);
    assert!(none.stderr.contains("hint: "), "{}", none.stderr);
    let none = sandbox.dag(&["report", "teachers.yaml"]).expect(1);
    assert!(none.stderr.contains("hint: `dag run teachers.yaml table` makes it"), "{}", none.stderr);
    let other = sandbox.dag(&["report", "teachers.yaml", "problems"]).expect(2);
    assert!(other.stderr.contains("makes no report"), "{}", other.stderr);
}

#[test]
fn text_files_and_json() {
    let sandbox = teachers();
    sandbox.dag(&["run", "teachers.yaml"]).expect(0);
    let text = sandbox.dag(&["report", "teachers.yaml"]).expect(0).stdout;
    for part in ["Two teachers", "pass@1 %", "Timings", "evaluated@long", "24 records new, 0 reused"] {
        assert!(text.contains(part), "no `{part}` in:\n{text}");
    }
    assert_eq!(sandbox.dag(&["report"]).expect(0).stdout.lines().next(), text.lines().next());
    let csv = sandbox.dag(&["report", "teachers.yaml", "--format", "csv"]).expect(0).stdout;
    assert!(csv.starts_with("benchmark,arm,") && csv.lines().count() == 3, "{csv}");
    let found = sandbox.dag(&["report", "teachers.yaml", "--json"]).expect(0).json();
    assert_eq!(found["findings"]["cells"].as_array().unwrap().len(), 2);
    assert_eq!(found["timings"]["nodes"].as_array().unwrap().len(), 4);
}

#[test]
fn a_report_made_later_tells_the_runs_behind_it() {
    let sandbox = teachers();
    sandbox.dag(&["run", "teachers.yaml", "evaluated"]).expect(0);
    sandbox.dag(&["run", "teachers.yaml"]).expect(0);
    let found = sandbox.dag(&["report", "teachers.yaml", "--json"]).expect(0).json();
    let nodes = found["timings"]["nodes"].as_array().unwrap();
    let of = |name: &str| nodes.iter().find(|node| node["node"] == name).unwrap();
    assert_eq!((&of("table")["ended"], &of("evaluated@long")["ended"]), (&"ran".into(), &"reused".into()));
    assert_eq!(of("evaluated@long")["made"], 24);
    // A file that has changed has no report of its own yet, and says whose this is.
    sandbox.write("teachers.yaml", &EXPERIMENT.replace("Two teachers", "Another title"));
    let old = sandbox.dag(&["report", "teachers.yaml"]).expect(0);
    assert!(
        old.stdout.starts_with("Two teachers") && old.stderr.contains("the file as it is would give another"),
        "{}",
        old.stderr
    );
}

#[test]
fn the_page_is_laid_out_with_the_times_and_names_of_its_run() {
    let sandbox = teachers();
    sandbox.dag(&["run", "teachers.yaml"]).expect(0);
    let path = sandbox.dag(&["report", "teachers.yaml", "--path"]).expect(0).stdout;
    assert_eq!(path, "[ROOT]/.dag/pages/teachers-table/index.html\n");
    let page = sandbox.read(".dag/pages/teachers-table/index.html");
    let (_, run) = page.split_once(r#"id="run">"#).unwrap();
    let run: Value = serde_json::from_str(run.split_once("</script>").unwrap().0).unwrap();
    assert_eq!(
        (run["nodes"]["results@long"].as_str(), run["file"].as_str()),
        (Some("evaluated@long"), Some("teachers.yaml"))
    );
    assert_eq!(run["timings"].as_array().unwrap().len(), 4);
    // What the store holds is not touched, and a second look gives the same.
    assert!(
        !sandbox
            .dag(&["report", "teachers.yaml", "--format", "html"])
            .expect(0)
            .stdout
            .contains(r#"id="run""#)
    );
    sandbox.dag(&["report", "teachers.yaml", "--path"]).expect(0);
    assert_eq!(sandbox.read(".dag/pages/teachers-table/index.html"), page);
    sandbox.dag(&["verify"]).expect(0);
}
