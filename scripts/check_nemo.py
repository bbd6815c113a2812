#!/usr/bin/env python3
"""Trains the same packs with the trainer that is built in and with NeMo-Automodel, on a CPU, and prints how far their losses are apart.

    python3 scripts/check_nemo.py DAG PYTHON        # the built program, and the Python of a folder that --install made
    python3 scripts/check_nemo.py --install FOLDER  # NeMo-Automodel by pinned version: 7 GB, most of it PyTorch for GPUs

NeMo-Automodel is written for GPUs. What is changed in the installed copy says where tensors are and asks no GPU for its memory; the
recipe differs from that of a GPU in the fields under `recipe:` below: how processes talk, who computes attention and the loss. The rest
is what a node of `backend: nemo` gets: packs, order, masks, optimiser, rates, clipping, checkpoints, the model that is taken. The second
node is killed after its first checkpoint, with its trainer, and gone on with.
"""
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time

from trainers import EXPERIMENT, apart, curve, launch

NEMO, TORCH, TRITON, TRANSFORMERS = "0.7.0", "2.12.0", "3.6.0", "5.18.0"

AUTOMODEL = """
  nemo:
    task: train
    inputs: {{ base: base, packs: packs }}
    with: {{ backend: nemo, trainer: {{ version: {version}, precision: fp32 }}, steps: $(steps), batch: 4, peak_lr: 3e-3 }}
    run:
      gpus: 0
      processes_per_node: 2
      recompute: false
      checkpoint_every: 20
      launch: {launch}
      recipe:
        dist_env.backend: gloo
        model.attn_implementation: sdpa
        model.output_hidden_states: false
        dataloader.collate_fn.attn_implementation: sdpa
        loss_fn._target_: nemo_automodel.components.loss.masked_ce.MaskedCrossEntropy
"""

# In the installed copy, file by file: what is written there for a GPU, and what stands there for a CPU.
CHANGED = {
    "_transformers/*.py": [
        ('torch.device("cuda", torch.cuda.current_device())', 'torch.device("cpu")'),
        ("torch.cuda.current_device()", '"cpu"'),
        ("    if has_packed_sequence:\n        if cp_size == 1:", "    if has_packed_sequence and torch.cuda.is_available():\n        if cp_size == 1:"),
    ],
    "recipes/llm/train_ft.py": [
        ('torch.device("cuda", torch.cuda.current_device())', 'torch.device("cpu")'),
        ("torch.cuda.current_device()", '"cpu"'),
    ],
}

WITHOUT_GPU = """
import sys

# In the trainer alone, not in what starts it.
if any("nemo_automodel" in word for word in sys.orig_argv) and not any("torch.distributed" in word for word in sys.orig_argv):
    import torch

    def always(value):
        return lambda *_, **__: value

    for name in ("reset_peak_memory_stats", "synchronize", "empty_cache", "set_device", "reset_max_memory_allocated"):
        setattr(torch.cuda, name, always(None))
    for name in ("max_memory_allocated", "memory_allocated", "memory_reserved", "max_memory_reserved"):
        setattr(torch.cuda, name, always(0))
"""


def install(folder):
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    pip = [pathlib.Path(folder) / "bin/python", "-m", "pip", "install", "-q"]
    subprocess.run([*pip, f"nemo-automodel=={NEMO}", f"torch=={TORCH}", f"transformers=={TRANSFORMERS}"], check=True)
    # Newer ones refuse an autotuner of Automodel's that names what is no argument.
    subprocess.run([*pip, "--no-deps", f"triton=={TRITON}"], check=True)
    packages = next((pathlib.Path(folder) / "lib").glob("python3*/site-packages"))
    (packages / "sitecustomize.py").write_text(WITHOUT_GPU)
    for pattern, changes in CHANGED.items():
        for before, after in changes:
            files = [path for path in (packages / "nemo_automodel").glob(pattern) if before in path.read_text()]
            assert files, f"no file of {pattern} holds {before}"
            for path in files:
                path.write_text(path.read_text().replace(before, after))


def compare(dag, folder, bound, *options):
    worst = 0.0
    for one, other in zip(*(curve(dag, folder, node, *options) for node in ("embedded", "nemo")), strict=True):
        worst = max(worst, apart(one, other))
        if one["step"] <= 10 or one["step"] % 40 == 0:
            print(f"step {one['step']:2}  {one['loss']:.6f}  {other['loss']:.6f}  norm {one['grad_norm']:.4f}  {other['grad_norm']:.4f}")
    print(f"{one['step']} steps, at most {worst:.1e} apart")
    assert worst < bound, "the losses differ"


def check(dag, python):
    dag = str(pathlib.Path(dag).resolve())
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        nemo = AUTOMODEL.format(version=NEMO, launch=launch(pathlib.Path(python).absolute()))
        (folder / "check.yaml").write_text(EXPERIMENT + nemo)
        subprocess.run([dag, "run", "check.yaml"], cwd=folder, check=True)
        compare(dag, folder, 1e-5)
        longer = ["--set", "steps=200"]
        run = subprocess.Popen([dag, "run", "check.yaml", *longer], cwd=folder, stderr=subprocess.DEVNULL)
        while run.poll() is None and not list(folder.glob(".dag/scratch/*/trainer/checkpoints/epoch_0_step_39")):
            time.sleep(0.05)
        assert run.poll() is None, "it ended before it could be killed"
        os.kill(run.pid, signal.SIGKILL)
        run.wait()
        again = subprocess.run([dag, "run", "check.yaml", *longer], cwd=folder, stderr=subprocess.PIPE, text=True)
        print(again.stderr.splitlines()[-1])
        assert again.returncode == 0, again.stderr
        # What rounding leaves grows over steps.
        compare(dag, folder, 1e-3, *longer)


def main():
    match sys.argv[1:]:
        case ["--install", folder]:
            install(folder)
        case [dag, python]:
            check(dag, python)
        case _:
            sys.exit(__doc__)


main()
