#!/usr/bin/env python3
"""Holds the model runtime against transformers and PyTorch, which are the references.

Needs torch, transformers, accelerate, peft, gguf and numpy (`pip install` them into an environment of their own) and cargo.

    python scripts/check_models.py [PART ...] [--only NAME]      PART: tiny, gguf, training, lora; all of them without one

tiny      tiny random models of every architecture, made by transformers: logits of prompts of many lengths
gguf      SmolLM2-135M from the folder of scripts/fetch_test_models.py: 200 real prompts of DAG_SHARED, with its weights widened,
          and computed as they are stored
training  50 steps of every architecture that can be trained, packed and not; then the logits of the trained model
lora      50 steps of adapters against PEFT, from the same A; then what PEFT reads, and the merged model

Prints a line per check, and exits with 1 if a bound is not met.
"""
import json
import math
import os
import pathlib
import subprocess
import sys
import tempfile

import numpy as np
import torch
import transformers

ROOT = pathlib.Path(__file__).resolve().parent.parent
TARGET = pathlib.Path(os.environ.get("CARGO_TARGET_DIR") or ROOT / "target")
MODELS = pathlib.Path(os.environ.get("DAG_TEST_MODELS") or ROOT / "target/test-models")
SHARED = pathlib.Path(os.environ.get("DAG_SHARED") or ROOT / "../shared")
ONLY = []
failed = False


def report(name, value, bound):
    global failed
    missed = not value <= bound
    failed |= missed
    print(f"{name:44} {value:.2e} (at most {bound:.0e}){'  MISSED' if missed else ''}", flush=True)


def example(name, *arguments):
    command = [TARGET / "release/examples" / name, *map(str, arguments)]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def our_logits(model, prompts, folder, batch=8, *options):
    file, out = folder / "prompts.jsonl", folder / "logits.bin"
    file.write_text("".join(json.dumps(prompt) + "\n" for prompt in prompts))
    example("logits", model, file, out, batch, *options)
    return np.fromfile(out, dtype="<f4").reshape(len(prompts), -1)


def their_logits(model, prompts):
    with torch.no_grad():
        return np.stack([model(torch.tensor([prompt])).logits[0, -1].float().numpy() for prompt in prompts])


def compare(name, ours, theirs, bound):
    report(f"{name}: largest difference", float(np.abs(ours - theirs).max()), bound)
    # Where the two choose another token, its logits must be a tie within the bound.
    rows = np.arange(len(ours))
    behind = theirs.max(axis=1) - theirs[rows, ours.argmax(axis=1)]
    report(f"{name}: the chosen token behind by", float(behind.max()), bound)


def tiny_configs():
    configs = all_tiny_configs()
    return {name: config for name, config in configs.items() if not ONLY or name in ONLY}


def all_tiny_configs():
    common = dict(vocab_size=320, hidden_size=64, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=256)
    gated = dict(intermediate_size=96, rms_norm_eps=1e-5, **common)
    llama3 = dict(rope_type="llama3", rope_theta=500000.0, factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=64)
    linear = dict(rope_type="linear", rope_theta=10000.0, factor=2.0)
    return {
        "llama": transformers.LlamaConfig(tie_word_embeddings=True, **gated),
        "llama, rope llama3": transformers.LlamaConfig(rope_parameters=llama3, **gated),
        "llama, rope linear": transformers.LlamaConfig(rope_parameters=linear, **gated),
        "mistral": transformers.MistralConfig(head_dim=24, sliding_window=None, **gated),
        "qwen2": transformers.Qwen2Config(tie_word_embeddings=True, **gated),
        "qwen3": transformers.Qwen3Config(head_dim=32, **gated),
        "qwen3-moe": transformers.Qwen3MoeConfig(
            head_dim=16, num_experts=8, num_experts_per_tok=3, moe_intermediate_size=40, norm_topk_prob=True, mlp_only_layers=[1], **gated
        ),
        "nemotron-h": transformers.NemotronHConfig(
            intermediate_size=96,
            layers_block_type=[dict(M="linear_attention", A="full_attention", F="mlp")[letter] for letter in "MFMAFM"],
            mamba_num_heads=8,
            mamba_head_dim=12,
            ssm_state_size=16,
            n_groups=2,
            chunk_size=32,
            head_dim=24,
            **{key: value for key, value in common.items() if key != "num_hidden_layers"},
        ),
    }


def bounded_steps(model, limit=(0.0, float("inf"))):
    """Mamba's time steps within `time_step_limit`, as the configuration says. transformers 5 bounds them by `time_step_min`
    when it reads a prompt, though not when it decodes, where the models were trained without that bound."""
    for module in model.modules():
        if hasattr(module, "time_step_limit"):
            module.time_step_limit = limit
    return model


def load(folder):
    return bounded_steps(transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval())


def make(config, seed):
    """A random model whose scales and biases are not all the same."""
    torch.manual_seed(seed)
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() == 1:
                parameter.add_(0.2 * torch.randn_like(parameter))
            else:
                parameter.mul_(3.0)
    return bounded_steps(model)


def prompts_of_many_lengths(vocabulary):
    random = np.random.default_rng(7)
    return [random.integers(0, vocabulary, size=length).tolist() for length in [1, 2, 3, 5, 17, 31, 32, 33, 64, 100, 129, 200]]


def check_tiny():
    for seed, (name, config) in enumerate(tiny_configs().items()):
        for dtype, shards in [(torch.float32, "10GB"), (torch.bfloat16, "40KB"), (torch.float16, "10GB")]:
            with tempfile.TemporaryDirectory() as folder:
                folder = pathlib.Path(folder)
                make(config, seed).to(dtype).save_pretrained(folder / "model", max_shard_size=shards)
                model = load(folder / "model")
                prompts = prompts_of_many_lengths(config.vocab_size)
                theirs = their_logits(model, prompts)
                for batch in (1, 5):
                    ours = our_logits(folder / "model", prompts, folder, batch)
                    compare(f"{name}, {str(dtype)[6:]}, batch {batch}", ours, theirs, 1e-3)


def check_gguf():
    file = MODELS / "smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
    texts = SHARED / "data/tokenizer/smollm2_texts.jsonl"
    if not file.is_file() or not texts.is_file():
        print(f"gguf: skipped: {file} or {texts} is not there", flush=True)
        return
    with texts.open() as lines:
        prompts = [ids[:256] for ids in (json.loads(line)["ids"] for line in lines) if ids][:200]
    # The tensors by the `gguf` package, the model by transformers' own reader of the format.
    model = transformers.AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32).eval()
    theirs = their_logits(model, prompts)
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        compare(f"SmolLM2-135M Q4_1, {len(prompts)} prompts", our_logits(file, prompts, folder), theirs, 1e-3)
        # Computed as stored: what rounding to 8 bits before every product does.
        stored = our_logits(file, prompts, folder, 8, "as-stored")
        report("as stored: root mean square difference", float(np.sqrt(((stored - theirs) ** 2).mean())), 0.5)
        report("as stored: share of other tokens chosen", float((stored.argmax(axis=1) != theirs.argmax(axis=1)).mean()), 0.1)
        log_softmax = lambda logits: logits - np.log(np.exp(logits - logits.max(axis=1, keepdims=True)).sum(axis=1, keepdims=True)) - logits.max(axis=1, keepdims=True)
        exact, found = log_softmax(theirs.astype(float)), log_softmax(stored.astype(float))
        report("as stored: mean KL divergence, nats", float((np.exp(exact) * (exact - found)).sum(axis=1).mean()), 0.05)


def learning_rate(config, step):
    """The trainer's schedule: a line up, half a cosine down."""
    steps, warmup = config["steps"], config["warmup_steps"]
    if step < warmup:
        return config["initial_lr"] + (config["peak_lr"] - config["initial_lr"]) * step / warmup
    progress = (step - warmup) / (steps - warmup)
    return config["min_lr"] + 0.5 * (1 + math.cos(math.pi * progress)) * (config["peak_lr"] - config["min_lr"])


def reference_training(model, config, steps):
    """One sample at a time, without padding or packing; the loss is the mean over all labels of a step."""
    trained = [p for p in model.parameters() if p.requires_grad]
    matrices = [p for p in trained if p.dim() > 1]
    vectors = [p for p in trained if p.dim() == 1]
    groups = [dict(params=matrices, weight_decay=config["weight_decay"]), dict(params=vectors, weight_decay=0.0)]
    optimizer = torch.optim.AdamW(groups, betas=tuple(config["betas"]), eps=config["eps"])
    results = []
    for step, samples in enumerate(steps):
        labels = sum(sum(mask) for _, mask in samples)
        total = 0.0
        optimizer.zero_grad()
        for tokens, mask in samples:
            logits = model(torch.tensor([tokens[:-1]])).logits[0]
            losses = torch.nn.functional.cross_entropy(logits, torch.tensor(tokens[1:]), reduction="none")
            loss = (losses * torch.tensor(mask[1:], dtype=torch.float32)).sum() / labels
            loss.backward()
            total += loss.item()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), config["clip_norm"])
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(config, step)
        optimizer.step()
        results.append((total, norm.item()))
    return np.array(results)


def pack(samples):
    starts = np.cumsum([0] + [len(tokens) for tokens, _ in samples])[:-1].tolist()
    return dict(tokens=sum((tokens for tokens, _ in samples), []), loss_mask=sum((mask for _, mask in samples), []), starts=starts)


def check_training():
    random = np.random.default_rng(11)
    config = dict(steps=50, peak_lr=2e-3, initial_lr=2e-4, min_lr=2e-5, warmup_steps=5, betas=[0.9, 0.98], eps=1e-8, weight_decay=0.1, clip_norm=1.0)

    def sample():
        length = int(random.integers(2, 60))
        start = int(random.integers(1, length))
        # Something to learn: every token follows from the one before it.
        first, factor = random.integers(0, 64, size=2)
        return [int((first + factor * place) % 64) for place in range(length)], [int(place >= start) for place in range(length)]

    steps = [[sample() for _ in range(6)] for _ in range(config["steps"])]
    jobs = {
        "packed": [[pack(samples[:3]), pack(samples[3:])] for samples in steps],
        "unpacked": [[pack([sample]) for sample in samples] for samples in steps],
    }
    for seed, (name, shape) in enumerate(tiny_configs().items()):
        if name == "qwen3-moe":
            continue  # Generation only.
        shape.vocab_size = 64
        with tempfile.TemporaryDirectory() as folder:
            folder = pathlib.Path(folder)
            model = make(shape, seed)
            model.save_pretrained(folder / "model")
            theirs = reference_training(model, config, steps)
            for kind, packs in jobs.items():
                (folder / "job.json").write_text(json.dumps(dict(config=config, steps=packs)))
                lines = example("train_steps", folder / "model", folder / "job.json", folder / kind).splitlines()
                ours = np.array([[float(number) for number in line.split()] for line in lines])
                differences = (np.abs(ours - theirs) / theirs).max(axis=0)
                report(f"{name}, {kind}: loss over 50 steps", differences[0], 1e-4)
                report(f"{name}, {kind}: gradient norm over 50 steps", differences[1], 1e-4)
            trained = load(folder / "packed")
            prompts = prompts_of_many_lengths(64)
            compare(f"{name}, trained", our_logits(folder / "packed", prompts, folder), their_logits(trained, prompts), 1e-4)


def check_lora():
    """Adapters beside the frozen weights, against PEFT from the same A and B, on packs."""
    import peft

    random = np.random.default_rng(12)
    targets = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    config = dict(steps=50, peak_lr=5e-3, initial_lr=5e-4, min_lr=5e-5, warmup_steps=5, betas=[0.9, 0.98], eps=1e-8, weight_decay=0.1, clip_norm=1.0)
    config["lora"] = dict(rank=4, alpha=8.0, targets=targets, seed=3)

    def sample():
        length, first, factor = random.integers(2, 60), *random.integers(0, 64, size=2)
        return [int((first + factor * place) % 64) for place in range(length)], [int(place > 0) for place in range(length)]

    steps = [[sample() for _ in range(6)] for _ in range(config["steps"])]
    packs = [[pack(samples[:3]), pack(samples[3:])] for samples in steps]
    for seed, (name, shape) in enumerate(tiny_configs().items()):
        if name not in ("llama", "mistral", "qwen2", "qwen3"):
            continue
        shape.vocab_size = 64
        with tempfile.TemporaryDirectory() as folder:
            folder = pathlib.Path(folder)
            make(shape, seed).save_pretrained(folder / "model")

            def train(out, packs):
                (folder / "job.json").write_text(json.dumps(dict(config=config, steps=packs)))
                lines = example("train_steps", folder / "model", folder / "job.json", folder / out).splitlines()
                return np.array([[float(number) for number in line.split()] for line in lines])

            def adapted(out, trainable):
                return peft.PeftModel.from_pretrained(load(folder / "model"), folder / out / "adapter", is_trainable=trainable)

            # Without a step: A is random and B zero, where both begin.
            train("begin", [])
            model = adapted("begin", True)
            theirs, ours = reference_training(model, config, steps), train("end", packs)
            differences = (np.abs(ours - theirs) / theirs).max(axis=0)
            report(f"{name}, adapters: loss over 50 steps", differences[0], 1e-4)
            report(f"{name}, adapters: gradient norm over 50 steps", differences[1], 1e-4)
            prompts = prompts_of_many_lengths(64)
            merged = our_logits(folder / "end", prompts, folder)
            compare(f"{name}, adapters merged, and trained by PEFT", merged, their_logits(model.eval(), prompts), 1e-4)
            compare(f"{name}, adapters merged, and read by PEFT", merged, their_logits(adapted("end", False).eval(), prompts), 1e-4)


def main():
    parts = dict(tiny=check_tiny, gguf=check_gguf, training=check_training, lora=check_lora)
    arguments = sys.argv[1:]
    if "--only" in arguments:
        at = arguments.index("--only")
        ONLY.append(arguments[at + 1])
        del arguments[at : at + 2]
    chosen = arguments or list(parts)
    torch.set_num_threads(2)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    subprocess.run(["cargo", "build", "--release", "--locked", "--workspace", "--example", "logits", "--example", "train_steps"], cwd=ROOT, check=True)
    for part in chosen:
        parts[part]()
    sys.exit(failed)


if __name__ == "__main__":
    main()
