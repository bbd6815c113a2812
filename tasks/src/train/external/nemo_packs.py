"""The packs of a training as NeMo-Automodel's data loader takes them. Written by `dag`; needs numpy and nothing else."""

import bisect
import json
import os

import numpy as np

# A position that is no label.
IGNORED = -100
TYPES = {"I64": np.int64, "I32": np.int32, "U8": np.uint8}


def tensors(path):
    """The tensors of a safetensors file, mapped into memory."""
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
    header.pop("__metadata__", None)
    data = np.memmap(path, dtype=np.uint8, mode="r", offset=8 + length)
    return {
        name: data[slice(*tensor["data_offsets"])].view(TYPES[tensor["dtype"]]).reshape(tensor["shape"])
        for name, tensor in header.items()
    }


class Packs:
    """Item n is the n-th pack that the training takes; a step takes `batch` of them, one after the other.

    A sample of n tokens is n - 1 inputs, each with the token after it as its label. `neat` numbers the samples in
    `attention_mask`; `thd` gives their lengths, and with context parallelism fills each up to what can be shared out.
    """

    def __init__(self, folder, layout="neat", context_parallel=1, pad_token=0):
        self.folder, self.layout, self.pad_token = folder, layout, pad_token
        self.multiple = 2 * context_parallel if context_parallel > 1 else 1
        with open(os.path.join(folder, "index.json")) as file:
            self.index = json.load(file)
        if self.index["version"] != 1:
            raise ValueError(f"the packs in {folder} have version {self.index['version']}, and this reads version 1")
        self.first = [0]
        for shard in self.index["shards"]:
            self.first.append(self.first[-1] + shard["packs"])
        self.order = np.array(tensors(os.path.join(folder, self.index["order"]["file"]))["order"]).reshape(-1)
        self.shards = {}

    def __len__(self):
        return len(self.order)

    def pack(self, number):
        """Tokens, loss mask and the bounds of the samples of a pack."""
        which = bisect.bisect_right(self.first, number) - 1
        if which not in self.shards:
            self.shards[which] = tensors(os.path.join(self.folder, self.index["shards"][which]["file"]))
        shard, place = self.shards[which], number - self.first[which]
        of = lambda ends: slice(int(shard[ends][place - 1]) if place else 0, int(shard[ends][place]))
        tokens = np.array(shard["tokens"][of("pack_ends")], dtype=np.int64)
        mask = np.array(shard["loss_mask"][of("pack_ends")])
        bounds = [*shard["starts"][of("sample_ends")].tolist(), len(tokens)]
        return tokens, mask, bounds

    def __getitem__(self, item):
        tokens, mask, bounds = self.pack(int(self.order[item]))
        inputs, labels, positions, samples, lengths, padded = [], [], [], [], [], []
        for number, (start, end) in enumerate(zip(bounds, bounds[1:]), 1):
            length = end - start - 1
            filled = -(-length // self.multiple) * self.multiple
            fill = filled - length
            inputs += [tokens[start : end - 1], np.full(fill, self.pad_token, dtype=np.int64)]
            labels += [np.where(mask[start + 1 : end] != 0, tokens[start + 1 : end], IGNORED)]
            labels += [np.full(fill, IGNORED, dtype=np.int64)]
            positions.append(np.arange(filled, dtype=np.int64))
            samples.append(np.full(filled, number, dtype=np.int64))
            lengths.append(length)
            padded.append(filled)
        item = {
            "input_ids": np.concatenate(inputs),
            "labels": np.concatenate(labels),
            "position_ids": np.concatenate(positions),
        }
        if self.layout == "neat":
            item["attention_mask"] = np.concatenate(samples)
        else:
            item["seq_lens"], item["seq_lens_padded"] = lengths, padded
        return item
