//! `experiments/smollm2.yaml` on the real model and the real traces, with next to no training: everything that a pretrained
//! vocabulary and chat template could have against the graph comes to light here.

use serde_json::Value;

use crate::support::{experiments, fetched, shared};

const FILE: &str = "experiments/smollm2.yaml";

#[test]
fn a_pretrained_model_goes_through_the_whole_graph() {
    let (Some(data), Some(model)) =
        (shared("data/traces"), fetched("smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"))
    else {
        return;
    };
    let sandbox = experiments();
    let data = format!("data={}", data.parent().unwrap().display());
    let model = format!("model={}", model.display());
    let dag = |command: &str, more: &[&str]| {
        let sets = [
            data.as_str(),
            model.as_str(),
            "longest=1000",
            "pack.max_tokens=512",
            "train.steps=2",
            "evaluate.max_tokens=16",
            "axes.benchmark.gsm8k-train.source.take=2",
        ];
        let sets = sets.into_iter().flat_map(|set| ["--set", set]);
        let arguments: Vec<&str> =
            [command, FILE].into_iter().chain(more.iter().copied()).chain(sets).collect();
        sandbox.dag(&arguments).expect(0)
    };
    let ran = dag("run", &[]);
    assert!(ran.stdout.contains("untrained base"), "{}", ran.stdout);

    let show = |node: &str| dag("show", &[node, "--json"]).json();
    // Both arms learn the same problems, whole: none is dropped for its length in one arm only.
    let [r1, oss] = ["packs@r1", "packs@gpt-oss"].map(|node| show(node)["metrics"].clone());
    let count = |metrics: &Value, name: &str| metrics[name].as_u64().unwrap_or_default();
    assert!(count(&r1, "examples") > 50, "{r1}");
    assert_eq!(count(&r1, "examples"), count(&oss, "examples"), "{r1} {oss}");
    assert!(count(&r1, "tokens") > count(&oss, "tokens"), "the verbose teacher is the first: {r1} {oss}");
    // The real weights: a model with random ones would begin at ln 49,152 = 10.8.
    for arm in ["r1", "gpt-oss"] {
        let metrics = &show(&format!("trained@{arm}/1"))["metrics"];
        let loss = metrics["final_loss"].as_f64().unwrap();
        assert!(loss > 0.1 && loss < 3.0, "{arm}: {metrics}");
    }
}
