#!/usr/bin/env python3
"""What the engine itself costs: graphs of trivial nodes, dag beside ninja, interleaved in one run.

    scripts/bench_engine.py --dag target/release/dag [--ninja ninja] [--shapes wide,chain,layered,cutoff] [--runs 50]
    scripts/bench_engine.py --dag target/release/dag --plan100k

Every node copies a tiny file (`cp`), the last one joins them (`cat`). Per shape: one cold run, then RUNS no-op runs of each
tool in turn, then one run after a leaf's time stamp changed but not its bytes, then one after its bytes changed. CPU is
user + system time of the process and its children, from wait4. Compare tools only within one call; quote ratios.
ninja: `pip install ninja` puts one on the PATH.
"""
import argparse
import json
import os
import pathlib
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

STAGES = 10
SIZES = {"wide": 1000, "chain": 200, "layered": 100, "cutoff": 5}


def nodes(shape, n):
    """[(output, inputs, command)] of the graph; inputs starting with in/ are leaves."""
    if shape == "wide":
        rows = [(f"out/{i}.txt", [f"in/{i}.txt"], "cp") for i in range(n)]
        rows.append(("out/join.txt", [row[0] for row in rows], "cat"))
    elif shape in ("chain", "cutoff"):
        first = "cut" if shape == "cutoff" else "cp"
        rows = [("out/1.txt", ["in/0.txt"], first)]
        rows += [(f"out/{i}.txt", [f"out/{i - 1}.txt"], "cp") for i in range(2, n + 1)]
    else:
        rows = [(f"out/1_{j}.txt", [f"in/{j}.txt"], "cp") for j in range(n)]
        rows += [(f"out/{s}_{j}.txt", [f"out/{s - 1}_{j}.txt"], "cp") for s in range(2, STAGES + 1) for j in range(n)]
        rows.append(("out/join.txt", [f"out/{STAGES}_{j}.txt" for j in range(n)], "cat"))
    return rows


def leaves(rows):
    return sorted({path for _, inputs, _ in rows for path in inputs if path.startswith("in/")})


def ninja_file(rows):
    lines = ["rule cp", "  command = cp $in $out", "rule cat", "  command = cat $in > $out", "rule cut", "  command = cut -c1 $in > $out"]
    lines += [f"build {out}: {command} {' '.join(inputs)}" for out, inputs, command in rows]
    return "\n".join(lines) + f"\ndefault {rows[-1][0]}\n"


COPY = '{ argv: [cp, "{inputs.source}", "{outputs.copy}"], outputs: [copy] }'


def leaf_copy(path):
    return f'{{ argv: [cp, "{{files.source}}", "{{outputs.copy}}"], files: {{ source: "{path}" }}, outputs: [copy] }}'


def dag_file(shape, n):
    join = (
        "  join:\n    task: command\n    inputs: { parts: LAST@* }\n"
        '    with: { argv: [cat, "{inputs.parts}"], stdout: joined }\n    run: { publish: { joined: out/join.txt } }\n'
    )
    if shape == "wide":
        body = f"  copy:\n    over: [leaf]\n    task: command\n    with: {leaf_copy('in/$(leaf).txt')}\n" + join.replace("LAST", "copy")
        return f"name: wide\naxes:\n  leaf: {{ range: {n} }}\nnodes:\n{body}"
    if shape == "layered":
        body = f"  s1:\n    over: [shard]\n    task: command\n    with: {leaf_copy('in/$(shard).txt')}\n"
        for s in range(2, STAGES + 1):
            body += f"  s{s}:\n    over: [shard]\n    task: command\n    inputs: {{ source: s{s - 1} }}\n    with: {COPY}\n"
        return f"name: layered\naxes:\n  shard: {{ range: {n} }}\nnodes:\n{body}" + join.replace("LAST", f"s{STAGES}")
    first = '{ argv: [cut, -c1, "{files.source}"], files: { source: in/0.txt }, stdout: copy }' if shape == "cutoff" else leaf_copy("in/0.txt")
    body = f"  n1:\n    task: command\n    with: {first}\n"
    for i in range(2, n + 1):
        body += f"  n{i}:\n    task: command\n    inputs: {{ source: n{i - 1} }}\n    with: {COPY}\n"
        if i == n:
            body += f"    run: {{ publish: {{ copy: out/{n}.txt }} }}\n"
    return f"name: {shape}\nnodes:\n{body}"


def run(command, folder):
    """Wall and CPU seconds of one run, and its peak resident megabytes; stops on failure."""
    start = time.perf_counter()
    with open(folder / "log", "ab") as log:
        process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log)
        _, status, usage = os.wait4(process.pid, 0)
    wall = time.perf_counter() - start
    if os.waitstatus_to_exitcode(status) != 0:
        sys.exit(f"{command} failed in {folder}:\n{(folder / 'log').read_text()[-2000:]}")
    return wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


def bench(shape, tools, runs, root):
    n = SIZES[shape]
    rows = nodes(shape, n)
    folders = {}
    for tool in tools:
        folder = root / f"{shape}-{tool}"
        for sub in ("in", "out"):
            (folder / sub).mkdir(parents=True)
        for leaf in leaves(rows):
            (folder / leaf).write_text(f"leaf {leaf}\n")
        (folder / "build.ninja").write_text(ninja_file(rows))
        (folder / "bench.yaml").write_text(dag_file(shape, n))
        folders[tool] = folder
    # Files younger than two seconds are hashed again on every run, as their time stamp cannot be trusted yet.
    time.sleep(2.5)
    result = {"shape": shape, "nodes": len(rows)}
    for tool, command in tools.items():
        wall, cpu, rss = run(command, folders[tool])
        result[tool] = {"cold_wall": wall, "cold_cpu": cpu, "cold_rss_mb": rss, "noop": [], "noop_wall": []}
    time.sleep(2.5)
    for _ in range(runs):
        for tool, command in tools.items():
            wall, cpu, rss = run(command, folders[tool])
            result[tool]["noop"].append(cpu)
            result[tool]["noop_wall"].append(wall)
            result[tool]["noop_rss_mb"] = rss
    last = rows[-1][0]
    for tool, command in tools.items():
        leaf = folders[tool] / leaves(rows)[-1]
        os.utime(leaf)
        result[tool]["touch_wall"] = run(command, folders[tool])[0]
        text = leaf.read_text()
        # In `cutoff` the first node keeps one character and the edit leaves that one alone: the output must not change.
        leaf.write_text(text.replace("leaf", "lead"))
        result[tool]["edit_wall"] = run(command, folders[tool])[0]
        final = (folders[tool] / last).read_text()
        wanted = "l" if shape == "cutoff" else "lead"
        result[tool]["edit_ok"] = wanted in final
    for tool in tools:
        entry = result[tool]
        entry["noop_cpu_ms"] = 1000 * statistics.median(entry.pop("noop"))
        entry["noop_wall_ms"] = 1000 * statistics.median(entry.pop("noop_wall"))
    return result


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dag", required=True, type=lambda path: str(pathlib.Path(path).resolve()))
    parser.add_argument("--ninja", default=shutil.which("ninja"))
    parser.add_argument("--shapes", default="wide,chain,layered,cutoff")
    parser.add_argument("--runs", type=int, default=50)
    parser.add_argument("--plan100k", action="store_true", help="only: plan 100,001 nodes of one ranged axis")
    options = parser.parse_args()
    root = pathlib.Path(tempfile.mkdtemp(prefix="dag-bench-"))
    try:
        if options.plan100k:
            (root / "bench.yaml").write_text(
                "name: wide100k\naxes:\n  leaf: { range: 100000 }\nnodes:\n"
                '  mark:\n    over: [leaf]\n    task: command\n    with: { argv: [echo, "n$(leaf)"], stdout: mark }\n'
                '  join:\n    task: command\n    inputs: { parts: mark@* }\n    with: { argv: [cat, "{inputs.parts}"], stdout: joined }\n'
            )
            figures = [run([options.dag, "plan", "bench.yaml"], root) for _ in range(5)]
            wall, cpu, rss = (statistics.median(column) for column in zip(*figures))
            print(json.dumps({"nodes": 100001, "plan_wall_s": wall, "plan_cpu_s": cpu, "plan_rss_mb": rss}))
            return
        tools = {"dag": [options.dag, "run", "bench.yaml"]}
        if options.ninja:
            tools["ninja"] = [options.ninja, "-j2", "--quiet"]
        for shape in options.shapes.split(","):
            result = bench(shape, tools, options.runs, root)
            print(json.dumps(result, indent=1))
            if "ninja" in result:
                print(f"{shape}: no-op CPU dag / ninja = {result['dag']['noop_cpu_ms'] / max(result['ninja']['noop_cpu_ms'], 1e-3):.2f}")
    finally:
        shutil.rmtree(root, ignore_errors=True)


if __name__ == "__main__":
    main()
