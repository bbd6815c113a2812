#!/usr/bin/env python3
"""Memory and time per row of the tasks that stream tables, at two sizes.

    cargo build --release --workspace --bin dag --example mock_server
    scripts/bench_stream.py --dag target/release/dag [--rows 30000,300000] [--bytes 50000] [--graph dataset|chain|served]
                            [--text FILE...] [--tokenizer MODEL] [--folder DIR]

`dataset`: JSON lines through `dataset` alone. `chain`: dataset, sample (the responses are given), judge (rules), filter, pack.
`served`: the same, but the rows are short problems and a mock server (the example `mock_server`) answers each with a trace.
Rows, or the server's traces, have about `--bytes` bytes, cut from the files of `--text`; without any, words are drawn by a fixed seed.
`pack` counts a token for every byte, or those of the model at `--tokenizer`. RSS is the highest of the process (wait4), so it is
that of the worst task; for one task at a time the graph is run node by node. Everything is written below DIR (a temporary folder
there) and removed afterwards; what each node leaves in the store is told too.
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
GIVEN = """  traces:
    task: sample
    inputs: { prompts: problems }
    with: { model: { backend: given, name: made, column: response } }
"""
SERVED = """  traces:
    task: sample
    inputs: { prompts: problems }
    with: { model: { backend: openai, name: mock }, max_tokens: 32768 }
    run: { base_url: "$(env:SERVER)", concurrency: 128 }
"""
CHAIN = """  judged:
    task: judge
    inputs: { responses: traces, references: problems }
    with: { by: rules }
  kept:
    task: filter
    inputs: { rows: judged }
    with: { keep: match }
  base:
    task: model
    with: BASE
  packs:
    task: pack
    inputs: { examples: kept, tokenizer: base }
    with: { problem: problem, response: response, max_tokens: 131072, as_text: [<think>, </think>] }
"""
BYTES = "{ architecture: { hidden: 16, layers: 1, head_dim: 8, max_positions: 64 }, tokenizer: { kind: bytes } }"
CHAINED = ["problems", "traces", "judged", "kept", "packs"]
NODES = {"dataset": ["problems"], "chain": CHAINED, "served": CHAINED}


def drawn():
    """Sentences drawn by a fixed seed: they compress about as well as real traces."""
    random_ = random.Random(17)
    letters = "abcdefghijklmnopqrstuvwxyz"
    vocabulary = ["".join(random_.choices(letters, k=random_.randint(2, 9))) for _ in range(4000)]
    return "".join(" ".join(random_.choices(vocabulary, k=16)) + ". " for _ in range(40000))


def make(path, text, rows, size):
    """Problems whose answer is a number; with `size`, each has a trace too, a piece of `text`."""
    random_ = random.Random(18)
    with open(path, "w") as out:
        for number in range(rows):
            problem = f"Problem {number}: how many characters has this, which ends in {number * 7919 % 100003}?"
            answer = str(len(problem))
            row = {"id": f"p{number}", "problem": problem, "answer": answer}
            if size:
                begin = random_.randrange(max(1, len(text) - size))
                row["response"] = f"<think>\n{text[begin : begin + size]}\n</think>\n\n\\boxed{{{answer}}}"
            out.write(json.dumps(row, ensure_ascii=False) + "\n")


def stored(folder):
    return sum(path.stat().st_size for path in (folder / ".dag").rglob("*") if path.is_file()) / 1e9


def run(dag, folder, node, server):
    began = time.monotonic()
    with open(folder / "log", "ab") as log:
        environment = os.environ | {"SERVER": server}
        child = subprocess.Popen([dag, "run", "stream.yaml", node], cwd=folder, stdout=log, stderr=log, env=environment)
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
    parser.add_argument("--text", nargs="*", default=[])
    parser.add_argument("--tokenizer", default=None)
    parser.add_argument("--folder", default=None)
    arguments = parser.parse_args()
    dag = str(pathlib.Path(arguments.dag).resolve())
    mock = pathlib.Path(dag).parent / "examples/mock_server"
    text = "".join(pathlib.Path(path).read_text() for path in arguments.text) or drawn()
    served = arguments.graph == "served"
    sampled = SERVED if served else GIVEN
    base = json.dumps({"path": str(pathlib.Path(arguments.tokenizer).resolve())}) if arguments.tokenizer else BYTES
    graph = TEXT if arguments.graph == "dataset" else TEXT + sampled + CHAIN.replace("BASE", base)
    first = {}
    for rows in map(int, arguments.rows.split(",")):
        folder = pathlib.Path(tempfile.mkdtemp(prefix="dag-stream-", dir=arguments.folder))
        server = None
        try:
            make(folder / "rows.jsonl", text, rows, 0 if served else arguments.bytes)
            (folder / "stream.yaml").write_text(graph)
            size = (folder / "rows.jsonl").stat().st_size / 1e9
            print(f"{rows} rows of {arguments.bytes} bytes, {size:.1f} GB of source", flush=True)
            address = ""
            if served:
                (folder / "text").write_text(text)
                command = [mock, "--text", "text", "--bytes", str(arguments.bytes)]
                server = subprocess.Popen(command, cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
                address = server.stdout.readline().strip()
            if arguments.graph != "dataset":
                run(dag, folder, "base", address)
            for node in NODES[arguments.graph]:
                seconds, cpu, rss = run(dag, folder, node, address)
                each = cpu / rows * 1e6
                ratio = f", {each / first[node]:.2f} × the first size" if node in first else ""
                first.setdefault(node, each)
                print(
                    f"  {node:9} {rss:7.0f} MiB  {seconds:7.1f} s  {cpu:7.1f} s of CPU, {each:6.0f} µs each{ratio}; "
                    f"{stored(folder):.2f} GB stored",
                    flush=True,
                )
        finally:
            if server:
                server.kill()
            shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
