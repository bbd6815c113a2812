"""Trains the same packs with the trainer that is built in and with PyTorch by torchrun, and prints how far their losses are apart.

    python3 scripts/check_trainers.py DAG PYTHON [PROCESSES]

DAG is the built program, PYTHON an interpreter with torch and transformers.
"""

import json
import pathlib
import subprocess
import sys
import tempfile

EXPERIMENT = """
name: check
seed: 17
nodes:
  problems: {{ task: dataset, with: {{ source: {{ generator: arithmetic, count: 40, steps: [2, 3], modulus: 10 }} }} }}
  traces: {{ task: sample, inputs: {{ prompts: problems }}, with: {{ model: {{ backend: scripted, teacher: terse }} }} }}
  base:
    task: model
    with:
      architecture: {{ family: mistral, hidden: 64, layers: 2, heads: 2, kv_heads: 1, head_dim: 32, max_positions: 512 }}
      tokenizer: {{ kind: characters }}
  packs: {{ task: pack, inputs: {{ examples: traces, tokenizer: base }}, with: {{ max_tokens: 256 }} }}
  embedded: {{ task: train, inputs: {{ base: base, packs: packs }}, with: {{ steps: 10, batch: 4, peak_lr: 3e-3 }} }}
  torch:
    task: train
    inputs: {{ base: base, packs: packs }}
    with: {{ backend: torchrun, trainer: {{ script: {script} }}, steps: 10, batch: 4, peak_lr: 3e-3 }}
    run:
      processes_per_node: {processes}
      launch: [{python}, -m, torch.distributed.run, "--nnodes={{nodes}}", "--nproc-per-node={{processes}}", "--rdzv-backend=c10d",
               "--rdzv-id={{job}}", "--rdzv-endpoint={{endpoint}}"]
"""


def main():
    dag, python, processes = sys.argv[1], sys.argv[2], sys.argv[3] if len(sys.argv) > 3 else "2"
    script = pathlib.Path(__file__).with_name("train_torch.py").resolve()
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        (folder / "check.yaml").write_text(EXPERIMENT.format(script=script, python=python, processes=processes))
        subprocess.run([dag, "run", "check.yaml"], cwd=folder, check=True)
        curves = []
        for node in ["embedded", "torch"]:
            subprocess.run([dag, "export", "check.yaml", node, node], cwd=folder, check=True, stdout=subprocess.DEVNULL)
            lines = (folder / node / "training/loss.jsonl").read_text().splitlines()
            curves.append([json.loads(line) for line in lines])
    for one, other in zip(*curves):
        assert one["loss_tokens"] == other["loss_tokens"] and abs(one["lr"] - other["lr"]) < 1e-12
        print(f"step {one['step']:2}  {one['loss']:.6f}  {other['loss']:.6f}  apart {abs(one['loss'] - other['loss']):.1e}")
    assert abs(curves[0][0]["loss"] - curves[1][0]["loss"]) < 1e-5, "the losses of the first step differ"


main()
