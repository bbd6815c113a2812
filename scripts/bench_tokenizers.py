#!/usr/bin/env python3
"""Encoding speed of dag beside Python's `tokenizers` and `tiktoken`: one thread, the same texts, in turn.

    cargo build --release -p dag-lm --example tokenize_speed
    python3 scripts/bench_tokenizers.py EXAMPLE VOCABULARY TEXTS [--tiktoken RANKS] [--rounds N]

TEXTS has one JSON string a line. `tokenizers` loads what dag saves, so it is the same vocabulary; tiktoken is built from a rank
file and the pattern in that vocabulary. Prints the medians of megabytes per second and of their ratios.
"""
import argparse
import base64
import json
import os
import statistics
import subprocess
import tempfile
import time

os.environ["TOKENIZERS_PARALLELISM"] = "false"
import tokenizers


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("example")
    parser.add_argument("vocabulary")
    parser.add_argument("texts")
    parser.add_argument("--tiktoken", help="a rank file, for tiktoken as well")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    texts = [json.loads(line) for line in open(options.texts)]
    megabytes = sum(len(text.encode()) for text in texts) / 1e6
    with tempfile.TemporaryDirectory() as folder:
        dag = [options.example, options.vocabulary, options.texts]
        subprocess.run([*dag, folder], check=True, stdout=subprocess.DEVNULL)
        peer = tokenizers.Tokenizer.from_file(f"{folder}/tokenizer.json")
        peer.encode_special_tokens = True
        with open(f"{folder}/tokenizer.json") as file:
            content = json.load(file)
    engines = {"tokenizers": lambda text: peer.encode_batch_fast([text], add_special_tokens=False)[0].ids}
    if options.tiktoken:
        import tiktoken

        ranks = {base64.b64decode(token): int(rank) for token, rank in map(str.split, open(options.tiktoken))}
        pattern = content["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"]
        engines["tiktoken"] = tiktoken.Encoding("ranks", pat_str=pattern, mergeable_ranks=ranks, special_tokens={}).encode_ordinary

    speeds = {name: [] for name in ("dag", *engines)}
    for _ in range(options.rounds):
        ours = json.loads(subprocess.run(dag, check=True, capture_output=True).stdout)
        speeds["dag"].append(ours["mb_per_s"])
        for name, encode in engines.items():
            begin = time.perf_counter()
            tokens = sum(len(encode(text)) for text in texts)
            speeds[name].append(megabytes / (time.perf_counter() - begin))
            if tokens != ours["tokens"]:
                print(f"{name} gives {tokens} tokens, dag {ours['tokens']}")
    for name, values in speeds.items():
        ratio = statistics.median(ours / value for ours, value in zip(speeds["dag"], values))
        print(f"{name}: {statistics.median(values):.1f} MB/s; dag is {ratio:.1f} times as fast")


if __name__ == "__main__":
    main()
