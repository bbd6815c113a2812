"""What check_trainers.py and check_nemo.py share: packs and the training that is built in, for another beside it, and the curves."""
import json
import subprocess

EXPERIMENT = """
name: check
seed: 17
params: { steps: 10 }
nodes:
  problems: { task: dataset, with: { source: { generator: arithmetic, count: 40, steps: [2, 3], modulus: 10 } } }
  traces: { task: sample, inputs: { prompts: problems }, with: { model: { backend: scripted, teacher: terse } } }
  base:
    task: model
    with:
      architecture: { family: mistral, hidden: 64, layers: 2, heads: 2, kv_heads: 1, head_dim: 32, max_positions: 512 }
      tokenizer: { kind: characters }
  packs: { task: pack, inputs: { examples: traces, tokenizer: base }, with: { max_tokens: 256 } }
  embedded: { task: train, inputs: { base: base, packs: packs }, with: { steps: $(steps), batch: 4, peak_lr: 3e-3 } }
"""


def launch(python):
    """The `launch:` of a trainer that this Python starts."""
    words = ["--nnodes={nodes}", "--nproc-per-node={processes}", "--rdzv-backend=c10d", "--rdzv-id={job}", "--rdzv-endpoint={endpoint}"]
    return json.dumps([str(python), "-m", "torch.distributed.run", *words])


def curve(dag, folder, node, *options):
    """The steps of a training that has run, of `check.yaml` in a folder."""
    to = folder / "-".join(["curve", node, *options])
    subprocess.run([dag, "export", "check.yaml", node, to, *options], cwd=folder, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return [json.loads(line) for line in (to / "training/loss.jsonl").read_text().splitlines()]


def apart(one, other):
    """How far the losses of a step are apart, where everything else is the same."""
    assert one["loss_tokens"] == other["loss_tokens"] and abs(one["lr"] - other["lr"]) < 1e-12, (one, other)
    return abs(one["loss"] - other["loss"])
