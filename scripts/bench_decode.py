#!/usr/bin/env python3
"""Times decoding and prefill of SmolLM2-135M in 32 bits on the CPU against transformers, which take turns.

Needs torch, transformers and gguf (`pip install` them into an environment of their own), the folder of
scripts/fetch_test_models.py, and `cargo build --release --workspace --example decode_speed`.

    python scripts/bench_decode.py [--threads 2] [--rounds 5] [--batches 1,8,32] [--prompt 64] [--tokens 64] [--long 512]

Both decode greedily from random prompts of equal lengths, without an end token: the simplest case for transformers, which
pads batches. Prints medians: tokens per second of decoding after the first token, and of the prefill of one long prompt.
"""
import argparse
import time

import torch
import transformers

from decoding import GGUF, Ours, add_options, cases, compared


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
    add_options(parser)
    arguments = parser.parse_args()
    sides = {"dag": Ours(GGUF, arguments.threads, "float32"), "transformers": Theirs(arguments.threads)}
    print(f"{arguments.threads} threads, torch {torch.__version__}, transformers {transformers.__version__}; tokens/s, medians of {arguments.rounds}")
    for name, case in cases(arguments):
        ours, theirs, ratio = compared(sides, name, case, arguments.rounds)
        print(f"{name:20} dag {ours:8.1f}   transformers {theirs:8.1f}   ratio {ratio:.2f}", flush=True)


if __name__ == "__main__":
    main()
