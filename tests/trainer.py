"""A trainer that trains nothing: it reads packs as `backend: torchrun` hands them over, speaks the protocol and writes a model.

Its loss and its model follow from every token it was given, so that a pack read wrongly, twice or not at all shows. It has only
the standard library, and is what docs/training.md describes, in short.
"""

import json
import os
import pathlib
import shutil
import struct
import sys
import time
import zlib


def tensors(path):
    """The header and the bytes of a safetensors file."""
    data = path.read_bytes()
    length = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8 : 8 + length])
    header.pop("__metadata__", None)
    return header, data[8 + length :], data[: 8 + length]


def numbers(path):
    """The tensors of a file as tuples."""
    header, data, _ = tensors(path)
    letters = {"I64": "q", "I32": "i", "U8": "B"}
    read = lambda t: struct.unpack_from(f"<{(t['data_offsets'][1] - t['data_offsets'][0]) // struct.calcsize(letters[t['dtype']])}{letters[t['dtype']]}", data, t["data_offsets"][0])
    return {name: read(tensor) for name, tensor in header.items()}


def packs(folder):
    """Tokens, mask and starts of every pack."""
    index = json.loads((folder / "index.json").read_text())
    for shard in index["shards"]:
        tensor, start, first = numbers(folder / shard["file"]), 0, 0
        for end, last in zip(tensor["pack_ends"], tensor["sample_ends"]):
            yield tensor["tokens"][start:end], tensor["loss_mask"][start:end], tensor["starts"][first:last]
            start, first = end, last


def write_whole(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text)
    partial.rename(path)


def main():
    told = json.loads(pathlib.Path(sys.argv[1]).read_text())
    folder = pathlib.Path(told["data"])
    index = json.loads((folder / "index.json").read_text())
    data = list(packs(folder))
    assert told["version"] == index["version"] == 1 and len(data) == index["packs"]
    assert sum(len(tokens) for tokens, _, _ in data) == index["tokens"]
    assert sum(sum(mask) for _, mask, _ in data) == index["loss_tokens"]
    assert sum(len(starts) for _, _, starts in data) == index["samples"]
    assert all(starts[0] == 0 and not any(mask[start] for start in starts) for _, mask, starts in data)
    order = numbers(folder / index["order"]["file"])["order"]
    batch, steps = told["batch"], told["steps"]
    assert len(order) == batch * steps

    step, state = 0, zlib.crc32(json.dumps([told["optimizer"], told["options"]], sort_keys=True).encode())
    if told["resume"]:
        saved = json.loads((pathlib.Path(told["resume"]["path"]) / "state.json").read_text())
        step, state = saved["step"], saved["state"]
        assert step == told["resume"]["step"]
        print("going on from step", step)
    stop = os.environ.get("STAND_IN_STOPS_AT")
    with open(told["loss"], "a") as log:
        while step < steps:
            loss_tokens = 0
            for pack in order[step * batch : (step + 1) * batch]:
                tokens, mask, _ = data[pack]
                state = zlib.crc32(struct.pack(f"<{len(tokens)}i", *tokens) + bytes(mask), state)
                loss_tokens += sum(mask)
            step += 1
            loss = 1.0 + state / 2**32 + 4.0 / step
            print(json.dumps({"step": step, "loss": loss, "loss_tokens": loss_tokens}), file=log, flush=True)
            if step % told["checkpoint_every"] == 0 and step < steps:
                partial = pathlib.Path(told["checkpoints"]) / f"step_{step}.partial"
                write_whole(partial / "state.json", json.dumps({"step": step, "state": state}))
                partial.rename(partial.with_suffix(""))
            if stop and step == int(stop):
                write_whole(pathlib.Path(os.environ["STAND_IN_SAYS"]), "stopped")
                time.sleep(600)

    # The base with its first numbers changed a little, in bits that leave them finite.
    base, model = pathlib.Path(told["base"]), pathlib.Path(told["model"])
    shutil.copytree(base, model)
    os.chmod(model, 0o755)
    header, weights, head = tensors(base / "model.safetensors")
    weights = bytearray(weights)
    for number in range(64):
        weights[4 * number] ^= (state >> (8 * (number % 4))) & 0xFF
    os.chmod(model / "model.safetensors", 0o644)
    (model / "model.safetensors").write_bytes(head + weights)


main()
