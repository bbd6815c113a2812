#!/usr/bin/env python3
"""Memory and time per row of the tasks that stream tables, at two sizes.

    scripts/bench_stream.py --dag target/release/dag [--rows 30000,300000] [--bytes 50000] [--graph dataset|chain] [--folder DIR]

`dataset`: JSON lines through `dataset` alone. `chain`: dataset, sample (the responses are given), judge (rules), filter, pack.
The rows are problems with a trace of about `--bytes` bytes, words drawn from a few thousand by a fixed seed, which compresses
about as well as real traces do. RSS is the highest of the process (wait4), so it is that of the worst task; for one task at a
time the chain is run node by node. Everything is written below DIR (a temporary folder there) and removed afterwards.
"""
import argparse
import json
import os
import pathlib
import random
import shutil
import subprocess
import sys
import tempfile
import time

TEXT = """name: stream
nodes:
  problems:
    task: dataset
    with: { source: { path: rows.jsonl } }
"""
CHAIN = """  traces:
    task: sample
    inputs: { prompts: problems }
    with: { model: { backend: given, name: made, column: response } }
  judged:
    task: judge
    inputs: { responses: traces, references: problems }
    with: { by: rules }
  kept:
    task: filter
    inputs: { rows: judged }
    with: { keep: match }
  base:
    task: model
    with: { architecture: { hidden: 16, layers: 1, head_dim: 8, max_positions: 64 }, tokenizer: { kind: bytes } }
  packs:
    task: pack
    inputs: { examples: kept, tokenizer: base }
    with: { problem: problem, response: response, max_tokens: 131072 }
"""
NODES = {"dataset": ["problems"], "chain": ["problems", "traces", "judged", "kept", "packs"]}


def words(random_):
    letters = "abcdefghijklmnopqrstuvwxyz"
    return ["".join(random_.choices(letters, k=random_.randint(2, 9))) for _ in range(4000)]


def make(path, rows, size):
    random_ = random.Random(17)
    vocabulary = words(random_)
    # Sentences are drawn once and put together anew for each row: making text must not take longer than reading it.
    sentences = [" ".join(random_.choices(vocabulary, k=16)) + ". " for _ in range(20000)]
    each = size // (sum(map(len, sentences)) // len(sentences)) + 1
    with open(path, "w") as out:
        for number in range(rows):
            answer = str(number % 1000)
            trace = "".join(random_.choices(sentences, k=each))[: size - 100]
            response = f"<think>\n{trace}\n</think>\n\n\\boxed{{{answer}}}"
            problem = f"Problem {number}: {sentences[number % 20000]}"
            out.write(json.dumps({"id": f"p{number}", "problem": problem, "answer": answer, "response": response}) + "\n")


def run(dag, folder, node):
    began = time.monotonic()
    with open(folder / "log", "ab") as log:
        child = subprocess.Popen([dag, "run", "stream.yaml", node], cwd=folder, stdout=log, stderr=log)
        _, status, usage = os.wait4(child.pid, 0)
    if status:
        sys.exit((folder / "log").read_text())
    return time.monotonic() - began, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dag", required=True)
    parser.add_argument("--rows", default="30000,300000")
    parser.add_argument("--bytes", type=int, default=50_000)
    parser.add_argument("--graph", choices=NODES, default="dataset")
    parser.add_argument("--folder", default=None)
    arguments = parser.parse_args()
    dag = str(pathlib.Path(arguments.dag).resolve())
    first = {}
    for rows in map(int, arguments.rows.split(",")):
        folder = pathlib.Path(tempfile.mkdtemp(prefix="dag-stream-", dir=arguments.folder))
        try:
            make(folder / "rows.jsonl", rows, arguments.bytes)
            (folder / "stream.yaml").write_text(TEXT + (CHAIN if arguments.graph == "chain" else ""))
            size = (folder / "rows.jsonl").stat().st_size / 1e9
            print(f"{rows} rows of {arguments.bytes} bytes, {size:.1f} GB", flush=True)
            if arguments.graph == "chain":
                run(dag, folder, "base")
            for node in NODES[arguments.graph]:
                seconds, cpu, rss = run(dag, folder, node)
                each = cpu / rows * 1e6
                ratio = f", {each / first[node]:.2f} × the first size" if node in first else ""
                first.setdefault(node, each)
                print(
                    f"  {node:9} {rss:7.0f} MiB  {seconds:7.1f} s  {cpu:7.1f} s of CPU, {each:6.0f} µs each{ratio}", flush=True
                )
        finally:
            shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
