#!/usr/bin/env python3
"""Times training steps in 32 bits on the CPU against PyTorch and transformers, which take turns, and compares their memory.

Needs torch, transformers and gguf (`pip install` them into an environment of their own), the folder of
scripts/fetch_test_models.py, and `cargo build --release --workspace --example train_memory`.

    python scripts/bench_train.py [--threads 2] [--rounds 3] [--cases tiny,smollm2] [--recompute]

`tiny` is hidden 128, 4 layers, 512 tokens of vocabulary, 8 packs of 512 tokens a step; `smollm2` is SmolLM2-135M with one pack of 1,024
tokens. Packs hold samples of a quarter of their length that do not attend to one another, three quarters of the tokens are labels; all weights
are trained with AdamW and gradients clipped at 1. PyTorch uses sdpa with the mask of the pack and its fused AdamW, a pack at a
time. Both sides run in processes of their own, once with the allocator as it is and once told to keep memory
(MALLOC_MMAP_THRESHOLD_, MALLOC_TRIM_THRESHOLD_). Prints the median step after the first of each process, and the peak of resident
memory. With --recompute dag computes activations again on the way back, which PyTorch does not here.
"""
import argparse
import os
import pathlib
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
TARGET = pathlib.Path(os.environ.get("CARGO_TARGET_DIR") or ROOT / "target")
MODELS = pathlib.Path(os.environ.get("DAG_TEST_MODELS") or ROOT / "target/test-models")
GGUF = MODELS / "smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
KEEP = {"MALLOC_MMAP_THRESHOLD_": "4294967296", "MALLOC_TRIM_THRESHOLD_": "17179869184"}
# Tokens of a pack, packs of a step, steps of a process.
CASES = {"tiny": (512, 8, 12), "smollm2": (1024, 1, 4)}


def make_tiny(folder):
    import torch
    import transformers

    torch.manual_seed(1)
    shape = dict(hidden_size=128, num_hidden_layers=4, num_attention_heads=4, num_key_value_heads=4, intermediate_size=384)
    config = transformers.LlamaConfig(vocab_size=512, max_position_embeddings=1024, tie_word_embeddings=True, **shape)
    transformers.LlamaForCausalLM(config).save_pretrained(folder)


def train_with_pytorch(model, case, threads):
    import torch
    import transformers

    torch.set_num_threads(threads)
    where = dict(gguf_file=model.name) if model.is_file() else {}
    folder = model.parent if model.is_file() else model
    net = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="sdpa", **where)
    net.train()
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-5, weight_decay=0.1, fused=True)
    length, packs, steps = CASES[case]
    sample, vocabulary = length // 4, net.config.vocab_size
    tokens = torch.tensor([[place * 2_654_435_761 % 2**32 % vocabulary for place in range(length)]])
    places = torch.arange(length)
    allowed = (places[:, None] >= places) & (places[:, None] // sample == places // sample)
    # A label is the token that follows, in the same sample.
    is_label = (places % sample > sample // 4)[1:]
    for step in range(steps):
        start = time.perf_counter()
        optimizer.zero_grad()
        total = 0.0
        for _ in range(packs):
            logits = net(tokens, attention_mask=allowed[None, None], position_ids=(places % sample)[None], use_cache=False).logits[0]
            loss = torch.nn.functional.cross_entropy(logits[:-1][is_label], tokens[0, 1:][is_label]) / packs
            loss.backward()
            total += loss.item()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        print(f"step {step + 1}: {time.perf_counter() - start:.3f} s, loss {total:.6f}")
    print(f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB at most")


def measured(command, environment):
    """The median step after the first in seconds, the peak in GiB, the first loss."""
    text = subprocess.run(command, env={**os.environ, **environment}, check=True, capture_output=True, text=True).stdout
    steps = [(float(seconds), float(loss)) for seconds, loss in re.findall(r"step \d+: (\S+) s, loss (\S+)", text)]
    return statistics.median(seconds for seconds, _ in steps[1:]), float(re.search(r"(\S+) GiB at most", text)[1]), steps[0][1]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--cases", default="tiny,smollm2")
    parser.add_argument("--recompute", action="store_true")
    parser.add_argument("--pytorch", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.pytorch:
        return train_with_pytorch(pathlib.Path(arguments.pytorch[0]), arguments.pytorch[1], arguments.threads)
    print(f"{arguments.threads} threads; medians of {arguments.rounds}")
    with tempfile.TemporaryDirectory() as folder:
        make_tiny(folder)
        for case in arguments.cases.split(","):
            model = pathlib.Path(folder) if case == "tiny" else GGUF
            length, packs, steps = CASES[case]
            numbers = [str(number) for number in (length, length // 4, str(arguments.recompute).lower(), steps, arguments.threads, packs)]
            sides = {
                "dag": [TARGET / "release/examples/train_memory", model, *numbers],
                "PyTorch": [sys.executable, __file__, "--threads", str(arguments.threads), "--pytorch", model, case],
            }
            for allocator, environment in (("as it is", {}), ("keeps memory", KEEP)):
                rounds = [{side: measured(command, environment) for side, command in sides.items()} for _ in range(arguments.rounds)]
                ours, theirs = ([statistics.median(each[side][number] for each in rounds) for number in range(3)] for side in sides)
                ratio = statistics.median(each["dag"][0] / each["PyTorch"][0] for each in rounds)
                print(
                    f"{case:8} allocator {allocator:12} dag {ours[0]:.3f} s, {ours[1]:.2f} GiB   PyTorch {theirs[0]:.3f} s, {theirs[1]:.2f} GiB"
                    f"   time {ratio:.2f}, memory {ours[1] / theirs[1]:.2f}   first losses {ours[2]:.5f} {theirs[2]:.5f}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
