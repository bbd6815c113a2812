#!/usr/bin/env python3
"""Times decoding and prefill of SmolLM2-135M on the CPU from GGUF files against llama.cpp; the two take turns.

Needs llama-cpp-python (`pip install llama-cpp-python==0.3.36` into an environment of its own: it compiles llama.cpp for this
machine and takes a C++ compiler), the folder of scripts/fetch_test_models.py, and
`cargo build --release --workspace --example decode_speed`.

    python scripts/bench_gguf.py [--threads 2] [--rounds 5] [--formats Q4_0,Q8_0,Q4_1,F32] [--batches 1,8,32] [--prompt 64] [--tokens 64] [--long 512]

Formats other than the model's own Q4_1 are made from it by llama.cpp, beside it. Both sides answer the same number of prompts of
equal lengths; dag chooses every token greedily, llama.cpp is given its tokens and chooses none, which is in its favour. Its
cache has 16 bits, which is its default. Prints medians: tokens per second of decoding after the first token, and of the
prefill of one long prompt.
"""
import argparse
import ctypes
import time

import llama_cpp as llama

from decoding import GGUF, Ours, add_options, cases, compared

TYPES = {"Q4_0": llama.LLAMA_FTYPE_MOSTLY_Q4_0, "Q8_0": llama.LLAMA_FTYPE_MOSTLY_Q8_0, "F32": llama.LLAMA_FTYPE_ALL_F32}


def made(kind):
    """The model in this format."""
    if kind == "Q4_1":
        return GGUF
    path = GGUF.with_name(GGUF.name.replace("Q4_1", kind))
    if not path.exists():
        params = llama.llama_model_quantize_default_params()
        params.ftype, params.allow_requantize, params.nthread = TYPES[kind], True, 2
        partial = path.with_suffix(".partial")
        if llama.llama_model_quantize(str(GGUF).encode(), str(partial).encode(), ctypes.byref(params)):
            raise SystemExit(f"llama.cpp could not make {path}")
        partial.rename(path)
    return path


class Theirs:
    def __init__(self, path, threads):
        self.threads = threads
        self.model = llama.llama_model_load_from_file(str(path).encode(), llama.llama_model_default_params())

    def seconds(self, batch, prompt, tokens):
        params = llama.llama_context_default_params()
        params.n_ctx = batch * (prompt + tokens + 64)
        params.n_batch, params.n_ubatch, params.n_seq_max = 2048, 512, batch
        params.n_threads = params.n_threads_batch = self.threads
        params.no_perf = True
        context = llama.llama_init_from_model(self.model, params)
        start = time.perf_counter()
        at = 0
        # Prompts pass the model as many at a time as a batch of llama.cpp holds.
        together = max(1, 2048 // prompt)
        while at < batch:
            rows = range(at, min(at + together, batch))
            self.decode(context, [(row, place, place == prompt - 1) for row in rows for place in range(prompt)])
            at = rows.stop
        first = time.perf_counter() - start
        for step in range(tokens - 1):
            self.decode(context, [(row, prompt + step, True) for row in range(batch)])
        rest = time.perf_counter() - start - first
        llama.llama_free(context)
        return first, rest

    def decode(self, context, rows):
        """Rows are (sequence, position, whether logits are wanted)."""
        batch = llama.llama_batch_init(len(rows), 0, 1)
        batch.n_tokens = len(rows)
        for index, (sequence, position, wanted) in enumerate(rows):
            batch.token[index] = 1000 + (sequence * 7919 + position * 104_729) % 40_000
            batch.pos[index], batch.n_seq_id[index], batch.logits[index] = position, 1, wanted
            batch.seq_id[index][0] = sequence
        if llama.llama_decode(context, batch):
            raise SystemExit("llama.cpp could not decode")
        # It computes while it is asked for the result.
        llama.llama_get_logits_ith(context, -1)
        llama.llama_batch_free(batch)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser)
    parser.add_argument("--formats", default="Q4_0,Q8_0,Q4_1,F32")
    arguments = parser.parse_args()
    silent = llama.llama_log_callback(lambda level, text, data: None)
    llama.llama_log_set(silent, None)
    print(f"{arguments.threads} threads, llama-cpp-python {llama.__version__}; tokens/s, medians of {arguments.rounds}")
    best = {}
    for kind in arguments.formats.split(","):
        path = made(kind)
        sides = {"dag": Ours(path, arguments.threads), "llama.cpp": Theirs(path, arguments.threads)}
        for name, case in cases(arguments):
            ours, theirs, ratio = compared(sides, name, case, arguments.rounds)
            print(f"{kind:5} {name:18} dag {ours:8.1f}   llama.cpp {theirs:8.1f}   ratio {ratio:.2f}", flush=True)
            if kind != "F32":
                most = best.setdefault(name, {side: (0.0, "") for side in sides})
                for side, rate in zip(sides, (ours, theirs)):
                    most[side] = max(most[side], (rate, kind))
        sides["dag"].close()
    for name, most in best.items():
        (ours, kind), (theirs, other) = most["dag"], most["llama.cpp"]
        print(f"best  {name:18} dag {ours:8.1f} ({kind})   llama.cpp {theirs:8.1f} ({other})   ratio {ours / theirs:.2f}")


if __name__ == "__main__":
    main()
