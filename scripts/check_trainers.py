"""Trains the same packs with the trainer that is built in and with PyTorch by torchrun, and prints how far their losses are apart.

    python3 scripts/check_trainers.py DAG PYTHON [PROCESSES]

DAG is the built program, PYTHON an interpreter with torch and transformers.
"""
import pathlib
import subprocess
import sys
import tempfile

from trainers import EXPERIMENT, apart, curve, launch

TORCH = """
  torch:
    task: train
    inputs: {{ base: base, packs: packs }}
    with: {{ backend: torchrun, trainer: {{ script: {script} }}, steps: $(steps), batch: 4, peak_lr: 3e-3 }}
    run: {{ processes_per_node: {processes}, launch: {launch} }}
"""


def main():
    dag, python, processes = sys.argv[1], sys.argv[2], sys.argv[3] if len(sys.argv) > 3 else "2"
    dag = str(pathlib.Path(dag).resolve())
    script = pathlib.Path(__file__).with_name("train_torch.py").resolve()
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        torch = TORCH.format(script=script, processes=processes, launch=launch(pathlib.Path(python).absolute()))
        (folder / "check.yaml").write_text(EXPERIMENT + torch)
        subprocess.run([dag, "run", "check.yaml"], cwd=folder, check=True)
        steps = list(zip(curve(dag, folder, "embedded"), curve(dag, folder, "torch"), strict=True))
    for one, other in steps:
        print(f"step {one['step']:2}  {one['loss']:.6f}  {other['loss']:.6f}  apart {apart(one, other):.1e}")
    assert apart(*steps[0]) < 1e-5, "the losses of the first step differ"


main()
