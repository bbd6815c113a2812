#!/usr/bin/env python3
"""Times the runtime on a GPU, and transformers on the same GPU where torch is there: decoding, and steps of training.

    cargo build --release -p dag-lm --features cuda --example random_model --example decode_speed --example gpu_train_speed
    python3 scripts/bench_gpu.py [--examples target/release/examples] [--batches 1,64,256] [--rounds 3] [--only decode|train] [--alone]

The model is a Llama of 1.1 billion parameters with random weights in bfloat16 (examples/random_model.rs). Decoding: prompts of 128
tokens, greedy, without an end token; the time of 256 tokens less that of 128, so that neither prompts nor the first passes
count. Training: all weights, packs of 4 × 1,024, 2 × 2,048 and, for dag alone, 1 × 60,000 tokens. The two take turns; medians, and
the least and the most. NVIDIA's libraries must be where docs/cuda.md says; scripts/check_gpu.sh finds them:

    scripts/check_gpu.sh /usr/bin/env python3 scripts/bench_gpu.py
"""
import argparse
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
TARGET = pathlib.Path(os.environ.get("CARGO_TARGET_DIR") or ROOT / "target")


class Ours:
    def __init__(self, examples, model):
        command = [examples / "decode_speed", model, "4", "cuda"]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def seconds(self, batch, prompt, tokens):
        self.process.stdin.write(f"{batch} {prompt} {tokens}\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            sys.exit(f"decode_speed ended with status {self.process.wait()}")
        return sum(map(float, line.split()))


class Theirs:
    def __init__(self, model):
        import torch
        import transformers

        self.torch = torch
        load = transformers.AutoModelForCausalLM.from_pretrained
        self.model = load(model, dtype=torch.bfloat16, attn_implementation="sdpa").cuda()
        self.model.generation_config.eos_token_id = None
        self.model.generation_config.pad_token_id = 0

    def seconds(self, batch, prompt, tokens):
        torch = self.torch
        ids = torch.randint(1000, 32000, (batch, prompt), device="cuda")
        torch.cuda.synchronize()
        start = time.perf_counter()
        with torch.no_grad():
            self.model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=tokens, do_sample=False)
        torch.cuda.synchronize()
        return time.perf_counter() - start

    def train(self, packs, length, steps=8):
        """Seconds of the steps after the first two, and the peak of memory in bytes."""
        torch = self.torch
        self.model.train()
        optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-5, fused=True)
        ids = torch.randint(1000, 32000, (packs, length), device="cuda")
        torch.cuda.reset_peak_memory_stats()
        times = []
        for _ in range(steps):
            torch.cuda.synchronize()
            start = time.perf_counter()
            self.model(input_ids=ids, labels=ids, use_cache=False).loss.backward()
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            torch.cuda.synchronize()
            times.append(time.perf_counter() - start)
        return times[2:], torch.cuda.max_memory_allocated()


def spread(numbers):
    return f"{statistics.median(numbers):10,.0f} ({min(numbers):,.0f} to {max(numbers):,.0f})"


def decode(sides, arguments):
    for batch in map(int, arguments.batches.split(",")):
        rates = {side: [] for side in sides}
        for _ in range(arguments.rounds):
            for side, timer in sides.items():
                short, long = (timer.seconds(batch, 128, tokens) for tokens in (128, 256))
                rates[side].append(batch * 128 / (long - short))
        for side, found in rates.items():
            print(f"decode, batch {batch:4}   {side:13} {spread(found)} tokens/s", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--examples", type=pathlib.Path, default=TARGET / "release/examples")
    parser.add_argument("--batches", default="1,64,256")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", choices=["decode", "train"])
    parser.add_argument("--alone", action="store_true", help="without transformers")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        model = pathlib.Path(folder) / "model"
        subprocess.run([arguments.examples / "random_model", model], check=True)
        theirs = None
        if not arguments.alone:
            try:
                theirs = Theirs(model)
            except ImportError as error:
                print(f"without transformers: {error}")
        if arguments.only != "train":
            ours = Ours(arguments.examples, model)
            decode({"dag": ours, **({"transformers": theirs} if theirs else {})}, arguments)
            ours.process.stdin.close()
            ours.process.wait()
        if arguments.only != "decode":
            if theirs:
                for packs, length in ((4, 1024), (2, 2048)):
                    times, memory = theirs.train(packs, length)
                    rates = [packs * length / seconds for seconds in times]
                    print(f"train {packs} x {length:6,}   PyTorch       {spread(rates)} tokens/s, {memory / 2**30:.1f} GiB", flush=True)
                theirs.model = None
                theirs.torch.cuda.empty_cache()
            subprocess.run([arguments.examples / "gpu_train_speed"], check=True)


if __name__ == "__main__":
    main()
