#!/usr/bin/env python3
"""Times 100,000 short chat requests to one server: `dag run`, a plain aiohttp client and the `openai` package take turns.

    pip install aiohttp==3.14.5 openai==3.57.0
    cargo build --release --workspace --bin dag --example mock_server
    python scripts/bench_requests.py [--requests 100000] [--in-flight 1000] [--latency 100] [--rounds 3] [--openai 10000]

One mock server, a process of its own, answers everything after LATENCY milliseconds; each client is a process that has IN_FLIGHT
requests under way. dag reads its prompts from a table, writes the intent and the answer of every request to its durable
record log, and at the end a table; what counts is its whole run, start to exit. The Python clients put every answer into a
file and read nothing but its text; that of OpenAI is asked for fewer requests, since it is slow, and its rate is that of these.
Prints requests per second (medians, and those of each round), peak resident memory (the kernel's own count, from wait4), and CPU seconds
of every client. Every round checks that the server was asked exactly once per request.
"""
import argparse
import asyncio
import json
import os
import pathlib
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
TARGET = pathlib.Path(os.environ.get("CARGO_TARGET_DIR") or ROOT / "target")

EXPERIMENT = """
name: requests
nodes:
  problems: { task: dataset, with: { source: { path: problems.jsonl } } }
  answers:
    task: sample
    inputs: { prompts: problems }
    with: { model: { backend: openai, name: mock }, max_tokens: 64 }
    run: { base_url: $(env:SERVER), concurrency: IN_FLIGHT }
"""


def problem(number):
    return f"What is {number} plus {number * 7919 % 1000}?"


def body(number):
    return {
        "model": "mock",
        "messages": [{"role": "user", "content": problem(number)}],
        "temperature": 1.0,
        "top_p": 1.0,
        "max_tokens": 64,
        "seed": number,
    }


async def asked_by_aiohttp(server, count, in_flight, out):
    import aiohttp

    numbers = iter(range(count))
    connector = aiohttp.TCPConnector(limit=in_flight)
    async with aiohttp.ClientSession(connector=connector) as session:

        async def ask():
            for number in numbers:
                async with session.post(f"{server}/chat/completions", json=body(number)) as response:
                    # The mock names no content type.
                    answer = await response.json(content_type=None)
                out.write(json.dumps({"id": number, "text": answer["choices"][0]["message"]["content"]}) + "\n")

        await asyncio.gather(*(ask() for _ in range(in_flight)))


async def asked_by_openai(server, count, in_flight, out):
    import openai

    numbers = iter(range(count))
    async with openai.AsyncOpenAI(base_url=server, api_key="none", max_retries=5, timeout=600) as client:

        async def ask():
            for number in numbers:
                answer = await client.chat.completions.create(**body(number))
                out.write(json.dumps({"id": number, "text": answer.choices[0].message.content}) + "\n")

        await asyncio.gather(*(ask() for _ in range(in_flight)))


CLIENTS = {"aiohttp": asked_by_aiohttp, "openai": asked_by_openai}


class Server:
    """The mock as a process."""

    def __init__(self, latency):
        command = [TARGET / "release/examples/mock_server", "--latency", str(latency)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.address = self.process.stdout.readline().strip()

    def counts(self):
        """How many requests arrived so far, and how many were billed."""
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        arrived, billed = self.process.stdout.readline().split(",")
        return int(arrived.split()[0]), int(billed.split()[0])

    def close(self):
        self.process.stdin.close()
        self.process.wait()


def timed(command, folder, environment):
    """Wall seconds, CPU seconds and peak MB of a process."""
    start = time.perf_counter()
    with open(folder / "stderr", "w+") as errors:
        process = subprocess.Popen(command, cwd=folder, env={**os.environ, **environment}, stdout=subprocess.DEVNULL, stderr=errors)
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            errors.seek(0)
            raise SystemExit(f"{command[0]} failed: {errors.read()[-2000:]}")
    return wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("requests", 100_000), ("in-flight", 1000), ("latency", 100), ("rounds", 3), ("openai", 10_000)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--client", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    # Every request under way is a connection.
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    if options.client:
        name, server, count = options.client
        with open("answers.jsonl", "w") as out:
            asyncio.run(CLIENTS[name](server, int(count), options.in_flight, out))
        return

    server = Server(options.latency)
    in_flight = str(options.in_flight)
    me = [sys.executable, str(pathlib.Path(__file__).resolve()), "--in-flight", in_flight, "--client"]
    sides = {
        "dag": ([TARGET / "release/dag", "run", "requests.yaml"], options.requests),
        "aiohttp": ([*me, "aiohttp", server.address, str(options.requests)], options.requests),
        "openai": ([*me, "openai", server.address, str(options.openai)], options.openai),
    }
    figures = {side: [] for side in sides}
    try:
        for _ in range(options.rounds):
            for side, (command, count) in sides.items():
                folder = pathlib.Path(tempfile.mkdtemp(prefix="dag-bench-"))
                if side == "dag":
                    (folder / "requests.yaml").write_text(EXPERIMENT.replace("IN_FLIGHT", in_flight))
                    rows = (json.dumps({"id": f"p{number}", "problem": problem(number)}) + "\n" for number in range(count))
                    (folder / "problems.jsonl").write_text("".join(rows))
                before = server.counts()
                try:
                    wall, cpu, peak = timed(command, folder, {"SERVER": server.address})
                finally:
                    shutil.rmtree(folder, ignore_errors=True)
                asked = [after - earlier for after, earlier in zip(server.counts(), before)]
                if asked != [count, count]:
                    raise SystemExit(f"{side}: {asked} requests arrived and were billed, not {count}")
                figures[side].append((count / wall, peak, cpu))
                print(f"{side:8} {count / wall:8.0f} requests/s {peak:6.0f} MB {cpu:6.1f} s of CPU", flush=True)
    finally:
        server.close()
    print(f"medians of {options.rounds}, {options.in_flight} in flight, {options.latency} ms, {os.cpu_count()} cores shared with the server")
    rates = {side: statistics.median(rate for rate, _, _ in rows) for side, rows in figures.items()}
    for side, rows in figures.items():
        peak = max(peak for _, peak, _ in rows)
        cpu = statistics.median(1e6 * cpu / sides[side][1] for _, _, cpu in rows)
        print(
            f"{side:8} {rates[side]:8.0f} requests/s   {peak:5.0f} MB at the most   {cpu:6.0f} us of CPU a request"
            f"   dag is {rates['dag'] / rates[side]:.2f} times as fast"
        )


if __name__ == "__main__":
    main()
