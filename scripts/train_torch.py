"""A trainer for `backend: torchrun`: AdamW on all weights with PyTorch and transformers, on as many processes as there are.

It is plain rather than fast: a sample is a forward pass of its own, and every process holds the whole model. It is what
docs/training.md describes, with real gradients.
"""

import json
import math
import os
import pathlib
import sys

import numpy as np
import torch
import torch.distributed as dist
from transformers import AutoModelForCausalLM, AutoTokenizer

TYPES = {"I64": np.int64, "I32": np.int32, "U8": np.uint8}


def tensors(path):
    """The tensors of a safetensors file, mapped into memory."""
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
    header.pop("__metadata__", None)
    data = np.memmap(path, dtype=np.uint8, mode="r", offset=8 + length)
    return {n: data[slice(*t["data_offsets"])].view(TYPES[t["dtype"]]).reshape(t["shape"]) for n, t in header.items()}


def samples(folder, shards, pack):
    """Tokens and labels of each sample of a pack."""
    for name, count in shards:
        if pack < count:
            break
        pack -= count
    shard = tensors(folder / name)
    bounds = lambda ends: slice(int(shard[ends][pack - 1]) if pack else 0, int(shard[ends][pack]))
    tokens = torch.from_numpy(np.array(shard["tokens"][bounds("pack_ends")], dtype=np.int64))
    mask = torch.from_numpy(np.array(shard["loss_mask"][bounds("pack_ends")]))
    starts = [*shard["starts"][bounds("sample_ends")].tolist(), len(tokens)]
    for start, end in zip(starts, starts[1:]):
        yield tokens[start : end - 1], torch.where(mask[start + 1 : end] != 0, tokens[start + 1 : end], -100)


def rate(step, o):
    if step <= o["warmup_steps"] and o["warmup_steps"]:
        return o["initial_lr"] + (o["peak_lr"] - o["initial_lr"]) * step / o["warmup_steps"]
    share = (step - o["warmup_steps"]) / (o["steps"] - o["warmup_steps"])
    return o["min_lr"] + 0.5 * (1 + math.cos(math.pi * share)) * (o["peak_lr"] - o["min_lr"])


def main():
    told = json.loads(pathlib.Path(sys.argv[1]).read_text())
    world, rank = int(os.environ.get("WORLD_SIZE", 1)), int(os.environ.get("RANK", 0))
    if world > 1:
        dist.init_process_group("gloo")
    o, folder = told["optimizer"], pathlib.Path(told["data"])
    model = AutoModelForCausalLM.from_pretrained(told["base"], dtype=torch.float32)
    decayed = [p for p in model.parameters() if p.dim() > 1]
    others = [p for p in model.parameters() if p.dim() < 2]
    groups = [{"params": decayed, "weight_decay": o["weight_decay"]}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=o["peak_lr"], betas=o["betas"], eps=o["eps"])
    done = 0
    if told["resume"]:
        saved = torch.load(pathlib.Path(told["resume"]["path"]) / "state.pt", weights_only=True)
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        done = told["resume"]["step"]
    index = json.loads((folder / "index.json").read_text())
    shards = [(shard["file"], shard["packs"]) for shard in index["shards"]]
    order = tensors(folder / index["order"]["file"])["order"]
    for step in range(done, told["steps"]):
        mine = [s for pack in order[step][rank::world] for s in samples(folder, shards, int(pack))]
        count = torch.tensor(sum(int((labels != -100).sum()) for _, labels in mine))
        if world > 1:
            dist.all_reduce(count)
        total = torch.zeros(())
        optimizer.zero_grad(set_to_none=False)
        for tokens, labels in mine:
            logits = model(input_ids=tokens[None]).logits[0].float()
            loss = torch.nn.functional.cross_entropy(logits, labels, ignore_index=-100, reduction="sum") / count
            loss.backward()
            total += loss.detach()
        if world > 1:
            dist.all_reduce(total)
            for parameter in model.parameters():
                dist.all_reduce(parameter.grad)
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), o["clip_norm"] or math.inf)
        for group in optimizer.param_groups:
            group["lr"] = rate(step, o)
        optimizer.step()
        if rank:
            continue
        line = {"step": step + 1, "loss": total.item(), "grad_norm": norm.item(), "lr": rate(step, o), "loss_tokens": count.item()}
        with open(told["loss"], "a") as log:
            print(json.dumps(line), file=log)
        if (step + 1) % told["checkpoint_every"] == 0 and step + 1 < told["steps"]:
            partial = pathlib.Path(told["checkpoints"]) / f"step_{step + 1}.partial"
            partial.mkdir(exist_ok=True)
            torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, partial / "state.pt")
            partial.rename(partial.with_suffix(""))
    if rank == 0:
        model.save_pretrained(told["model"])
        AutoTokenizer.from_pretrained(told["base"]).save_pretrained(told["model"])
    if world > 1:
        dist.destroy_process_group()


main()
