"""What bench_decode.py and bench_gguf.py share: dag's side, and two sides that take turns at a case."""
import os
import pathlib
import statistics
import subprocess

ROOT = pathlib.Path(__file__).resolve().parent.parent
TARGET = pathlib.Path(os.environ.get("CARGO_TARGET_DIR") or ROOT / "target")
MODELS = pathlib.Path(os.environ.get("DAG_TEST_MODELS") or ROOT / "target/test-models")
GGUF = MODELS / "smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"


class Ours:
    """The example decode_speed in a process of its own."""

    def __init__(self, path, threads, *options):
        command = [TARGET / "release/examples/decode_speed", path, str(threads), *options]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def seconds(self, batch, prompt, tokens):
        """Until every prompt has its first token, and for the other tokens."""
        self.process.stdin.write(f"{batch} {prompt} {tokens}\n")
        self.process.stdin.flush()
        return tuple(map(float, self.process.stdout.readline().split()))

    def close(self):
        self.process.stdin.close()
        self.process.wait()


def add_options(parser):
    for name, default in (("threads", 2), ("rounds", 5), ("prompt", 64), ("tokens", 64), ("long", 512)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--batches", default="1,8,32")


def cases(arguments):
    """(name, (batch, prompt, tokens)): decoding in every batch, and the prefill of one long prompt."""
    for batch in arguments.batches.split(","):
        yield f"decode, batch {batch}", (int(batch), arguments.prompt, arguments.tokens)
    yield f"prefill of {arguments.long}", (1, arguments.long, 2)


def compared(sides, name, case, rounds):
    """Median tokens per second of two sides that take turns, and the median of the ratios."""
    batch, prompt, tokens = case
    rates = {side: [] for side in sides}
    for round in range(rounds + 1):
        for side, timer in sides.items():
            first, rest = timer.seconds(*case)
            # The first round warms up.
            if round:
                rates[side].append(batch * (tokens - 1) / rest if name.startswith("decode") else batch * prompt / first)
    ours, theirs = (statistics.median(rates[side]) for side in sides)
    return ours, theirs, statistics.median(ours / theirs for ours, theirs in zip(*rates.values()))
