#!/usr/bin/env python3
"""Times decoding and prefill of SmolLM2-135M in 32 bits on the CPU against transformers, which take turns.

Needs torch, transformers and gguf (`pip install` them into an environment of their own), the folder of
scripts/fetch_test_models.py, and `cargo build --release --workspace --example decode_speed`.

    python scripts/bench_decode.py [--threads 2] [--rounds 5] [--batches 1,8,32] [--prompt 64] [--tokens 64] [--long 512]

Both decode greedily from random prompts of equal lengths, without an end token: the simplest case for transformers, which
pads batches. Prints medians: tokens per second of decoding after the first token, and of the prefill of one long prompt.
"""
import argparse
import os
import pathlib
import statistics
import subprocess
import time

import torch
import transformers

ROOT = pathlib.Path(__file__).resolve().parent.parent
TARGET = pathlib.Path(os.environ.get("CARGO_TARGET_DIR") or ROOT / "target")
MODELS = pathlib.Path(os.environ.get("DAG_TEST_MODELS") or ROOT / "target/test-models")
GGUF = MODELS / "smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"


class Ours:
    def __init__(self, threads):
        command = [TARGET / "release/examples/decode_speed", GGUF, str(threads), "float32"]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def seconds(self, batch, prompt, tokens):
        self.process.stdin.write(f"{batch} {prompt} {tokens}\n")
        self.process.stdin.flush()
        return tuple(map(float, self.process.stdout.readline().split()))


class Theirs:
    def __init__(self, threads):
        torch.set_num_threads(threads)
        # The GGUF's weights, dequantised to 32 bits.
        self.model = transformers.AutoModelForCausalLM.from_pretrained(GGUF.parent, gguf_file=GGUF.name, dtype=torch.float32)
        self.model.generation_config.eos_token_id = None
        self.model.generation_config.pad_token_id = 0

    def seconds(self, batch, prompt, tokens):
        ids = torch.randint(1000, 41000, (batch, prompt))
        first = self.timed(ids, 1)
        return first, self.timed(ids, tokens) - first

    def timed(self, ids, tokens):
        start = time.perf_counter()
        with torch.no_grad():
            out = self.model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=tokens, do_sample=False)
        assert out.shape[1] == ids.shape[1] + tokens
        return time.perf_counter() - start


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("threads", 2), ("rounds", 5), ("prompt", 64), ("tokens", 64), ("long", 512)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--batches", default="1,8,32")
    arguments = parser.parse_args()
    sides = {"dag": Ours(arguments.threads), "transformers": Theirs(arguments.threads)}
    decoding = [(f"decode, batch {batch}", (int(batch), arguments.prompt, arguments.tokens)) for batch in arguments.batches.split(",")]
    print(f"{arguments.threads} threads, torch {torch.__version__}, transformers {transformers.__version__}; tokens/s, medians of {arguments.rounds}")
    for name, case in [*decoding, (f"prefill of {arguments.long}", (1, arguments.long, 2))]:
        batch, prompt, tokens = case
        rates = {side: [] for side in sides}
        for round in range(arguments.rounds + 1):
            for side, timer in sides.items():
                first, rest = timer.seconds(*case)
                # The first round warms up.
                if round:
                    rates[side].append(batch * (tokens - 1) / rest if name.startswith("decode") else batch * prompt / first)
        ours, theirs = (statistics.median(rates[side]) for side in sides)
        ratio = statistics.median(ours / theirs for ours, theirs in zip(*rates.values()))
        print(f"{name:20} dag {ours:8.1f}   transformers {theirs:8.1f}   ratio {ratio:.2f}", flush=True)


if __name__ == "__main__":
    main()
