#!/usr/bin/env python3
"""Throughput of `dag grade --file` beside Math-Verify, one core each, in one run on one machine.

    python3 scripts/bench_grader.py --dag target/release/dag --shared ../shared --pairs 100000 --sample 1000

The pairs are those of the grader's and judge's data and of the measured vectors, repeated until there are enough, with
spaces, dollar signs and `\\dfrac` varied so that no two rounds are the same text. Math-Verify (`pip install math-verify`,
into the Python that runs this) is too slow for all of them: it grades a random sample of the same pairs, and its rate is that of
the sample. Times are those of the processor, which other work on the machine disturbs less than those of the clock.
"""

import argparse
import json
import logging
import os
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def pairs_of(shared):
    """All pairs of the shared data, as (gold, prediction)."""
    found = []
    for line in (shared / "data/grader/dev.jsonl").read_text().splitlines():
        case = json.loads(line)
        found.append((case["gold"], case["prediction"]))
    for line in (shared / "data/judge/dev.jsonl").read_text().splitlines():
        case = json.loads(line)
        found.append((case["gold"], case["response"]))
    for case in json.loads((shared / "grader_vectors.json").read_text()):
        found.append((case["gold"], case["pred"]))
    return found


def varied(text, round_number):
    """The same answer in other dress."""
    if round_number % 3 == 1:
        text = text.replace("\\frac", "\\dfrac")
    return text + " " * (round_number % 7)


def processor_seconds():
    """What the programs started here have used of the processor."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def verify(gold, prediction):
    """Math-Verify as its own documentation has it."""
    from math_verify import parse, verify

    return verify(parse(f"${gold}$"), parse(prediction))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dag", type=Path, default=Path("target/release/dag"))
    parser.add_argument("--shared", type=Path, default=Path("../shared"))
    parser.add_argument("--pairs", type=int, default=100_000)
    parser.add_argument("--sample", type=int, default=1000)
    parser.add_argument("--short", action="store_true", help="leave the long responses of the judge's data out")
    options = parser.parse_args()
    source = pairs_of(options.shared)
    if options.short:
        source = [pair for pair in source if len(pair[1]) < 500]
    rounds = -(-options.pairs // len(source))
    cases = [(varied(g, n), varied(p, n)) for n in range(rounds) for g, p in source][: options.pairs]
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "cases.jsonl"
        with path.open("w") as file:
            for gold, prediction in cases:
                file.write(json.dumps({"gold": gold, "prediction": prediction}) + "\n")
        size = path.stat().st_size
        seconds = []
        for _ in range(3):
            begin = processor_seconds()
            done = subprocess.run([options.dag, "grade", "--file", path, "--json"], stdout=subprocess.PIPE, check=True)
            seconds.append(processor_seconds() - begin)
        assert len(done.stdout.splitlines()) == len(cases)
        ours = len(cases) / statistics.median(seconds)
        print(f"dag          {len(cases):>7} pairs ({size / 1e6:.0f} MB) in {statistics.median(seconds):.2f} s "
              f"(of three: {', '.join(f'{s:.2f}' for s in seconds)}): {ours:,.0f} a second")

    try:
        import math_verify  # noqa: F401
    except ImportError:
        sys.exit("math_verify is not installed; only dag was measured")
    logging.disable(logging.CRITICAL)
    sample = random.Random(17).sample(cases, min(options.sample, len(cases)))
    verify("1", "1")
    begin = time.process_time()
    failed = 0
    for gold, prediction in sample:
        try:
            verify(gold, prediction)
        except Exception:
            failed += 1
    elapsed = time.process_time() - begin
    theirs = len(sample) / elapsed
    print(f"math-verify  {len(sample):>7} pairs, a sample of the same, in {elapsed:.2f} s: {theirs:,.0f} a second "
          f"({failed} raised); all would take {len(cases) / theirs:,.0f} s")
    print(f"dag is {ours / theirs:,.0f} times as fast")


if __name__ == "__main__":
    main()
