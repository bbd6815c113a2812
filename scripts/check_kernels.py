#!/usr/bin/env python3
"""The GPU's kernels through NVIDIA's own compiler, on a machine without a GPU and without a toolkit.

    python3 scripts/check_kernels.py                        # every file of lm/src/gpu/kernels, for every GPU and head size
    python3 scripts/check_kernels.py attention --instructions
    python3 scripts/check_kernels.py --cuda 12              # with the compiler of CUDA 12

Assembles the prelude and each file as lm/src/gpu/cuda.rs does, compiles with NVRTC, and prints for each kernel registers,
spilled bytes and static shared memory. With --instructions also how often the instructions that matter occur in the machine
code. Fails if anything does not compile. The compiler comes from PyPI, in pinned versions, into target/nvrtc.
"""
import argparse
import collections
import concurrent.futures
import ctypes
import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
KERNELS = ROOT / "lm/src/gpu/kernels"
GPUS = ["sm_80", "sm_89", "sm_90"]

def for_heads(more=lambda size: {}):
    """For every head size a model may have, with what `more` gives for it."""
    return [{"HEAD_DIM": size, "HEADS": 32, "KEY_HEADS": 8, "PAGE": 64, **more(size)} for size in (16, 64, 128, 256)]


def block(function):
    """What a function of lm/src/gpu/attention says of the block for a head size."""
    text = "".join(path.read_text("utf-8") for path in sorted((KERNELS.parent / "attention").glob("*.rs")))
    arms = text.split(f"fn {function}(heads: Heads) -> Block", 1)[1].split("\n}", 1)[0]
    found = re.findall(r"(?:\d+\.\.=(\d+)|_) => Block \{ (.*?) \}", arms)
    numbers = lambda fields: {key.upper(): int(number) for key, number in re.findall(r"(\w+): (\d+)", fields)}
    return lambda size: numbers(next(fields for most, fields in found if not most or size <= int(most)))


# NVIDIA-Nemotron-Nano-9B-v2's and 12B-v2's, and small ones.
WIDTHS = [{"HIDDEN": width} for width in (576, 2048, 5120, 8192)]
MAMBA = [
    {"MAMBA_HEADS": 128, "MAMBA_DIM": 80, "GROUPS": 8, "STATE": 128, "TAPS": 4},
    {"MAMBA_HEADS": 8, "MAMBA_DIM": 16, "GROUPS": 2, "STATE": 16, "TAPS": 4},
]

# The numbers that a file is compiled with, as its wrapper in lm/src/gpu gives them; files that are not named need none.
DEFINES = {
    "attention.cu": for_heads(block("attend_block")),
    "attention_decode.cu": for_heads(lambda size: {"WARPS": 4 if size <= 128 else 2, "STAGES": 2 if size == 128 else 3}),
    "attention_key_gradient.cu": for_heads(block("key_gradient_block")),
    "attention_query_gradient.cu": for_heads(block("query_gradient_block")),
    "backward.cu": WIDTHS,
    "experts.cu": [{"EXPERTS": experts, "CHOSEN": 8, "ADDS_UP_TO_ONE": 1} for experts in (8, 128)],
    "heads.cu": for_heads(),
    "mamba.cu": MAMBA,
    "mamba_training.cu": MAMBA,
    "pages.cu": for_heads(lambda _: {"HAS_BIAS": 1, "HAS_NORMS": 1, "HAS_ROTATION": 1}),
    "stream.cu": WIDTHS,
}
SHOWN = ("EXPERTS", "HEAD_DIM", "HIDDEN", "STATE")
COMPILERS = {
    "12": (["nvidia-cuda-nvrtc-cu12==12.4.127"], "nvidia/cuda_nvrtc/lib"),
    "13": (["nvidia-cuda-nvrtc==13.0.88"], "nvidia/cu13/lib"),
}
DISASSEMBLER = ["nvidia-cuda-cuobjdump==13.5.37", "nvidia-cuda-nvdisasm==13.5.37"]
# Tensor cores, loads of tiles, asynchronous copies, wide loads and stores, spills, barriers, multiplications.
INSTRUCTIONS = "HMMA LDSM LDSM.T LDGSTS LDG.128 LDG.64 LDG STG.128 STG.64 STG LDS.128 LDS.64 LDS STS.128 STS.64 STS LDL STL SHFL BAR MUFU FFMA".split()

# What no kernel uses is not compiled: this uses all of the prelude.
PROBE = r"""
KERNEL(probe_tiles, 32, const element* from, float* to) {
    DYNAMIC_SHARED(raw);
    element* rows = reinterpret_cast<element*>(raw);
    for (uint32_t i = 0; i < 4; i++) copy_async(rows + (i * WARP + threadIdx.x) * 8, from + (i * WARP + threadIdx.x) * 8, i < 3);
    close_copies();
    wait_for_copies<1>();
    wait_for_copies<0>();
    __syncthreads();
    pair a[4], b[4];
    load_tiles(a, rows + threadIdx.x % 16 * 16 + threadIdx.x / 16 * 8);
    load_tiles_transposed(b, rows + 256 + threadIdx.x % 16 * 16 + threadIdx.x / 16 * 8);
    float acc[4] = {};
    multiply_tile(acc, a, {b[0], b[1]});
    multiply_tile(acc, a, {b[2], b[3]});
    for (uint32_t i = 0; i < 4; i++) to[i * WARP + threadIdx.x] = acc[i];
}

KERNEL(probe_numbers, 256, const element* from, float* to, element* rounded, uint32_t by) {
    __shared__ float room[33];
    uint32_t i = blockIdx.x * blockDim.x + threadIdx.x;
    eight x = load_eight(from + (uint64_t)i * 8);
    float y = to_float(x.of[0]) + block_sum(to_float(x.of[1]), room);
    __syncthreads();
    y += block_max(sigmoid(y), room) + exp_(y) + rsqrtf(y) + shuffle_up(y, 1);
    y = shuffle_from(shuffle_xor(y, 4), (int)by) + __uint_as_float(shuffle_from(shuffle_xor(__float_as_uint(y), 1), 3));
    synchronise_warp();
    pair p = to_pair(y, to_float(to_element(y)));
    to[i] = first(p) + second(p) + (float)(smaller(i, by) + larger(i, by));
    store_eight(rounded + (uint64_t)i * 8, x);
}
"""


def install(folder, packages):
    """A folder with the files of these packages; made on first use."""
    place = folder / "-".join(re.sub(r"\W+", "_", package) for package in packages)
    if not place.exists():
        fresh = place.with_suffix(".part")
        subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", "--root-user-action=ignore", "--no-deps", "--upgrade", "--target", fresh, *packages], check=True)
        fresh.rename(place)
    return place


class Compiler:
    def __init__(self, folder, cuda):
        packages, libraries = COMPILERS[cuda]
        libraries = install(folder, packages) / libraries
        # The compiler opens its second library by name alone; one that is open already is found.
        for builtins in libraries.glob("libnvrtc-builtins.so.*"):
            ctypes.CDLL(str(builtins), mode=ctypes.RTLD_GLOBAL)
        self.library = ctypes.CDLL(str(next(libraries.glob("libnvrtc.so.*"))))

    def text(self, program, size, get):
        length = ctypes.c_size_t()
        getattr(self.library, size)(program, ctypes.byref(length))
        room = ctypes.create_string_buffer(length.value)
        getattr(self.library, get)(program, room)
        return room.raw

    def compile(self, name, text, gpu, defines):
        """Whether it compiled, what the compiler said, and the machine code."""
        program = ctypes.c_void_p()
        assert self.library.nvrtcCreateProgram(ctypes.byref(program), text.encode(), name.encode(), 0, None, None) == 0
        # As in lm/src/gpu/cuda.rs, but for the last, which makes the assembler tell what it used.
        options = [f"--gpu-architecture={gpu}", "-std=c++17", *(f"-D{key}={number}" for key, number in defines.items()), "--ptxas-options=-v"]
        options = [option.encode() for option in options]
        code = self.library.nvrtcCompileProgram(program, len(options), (ctypes.c_char_p * len(options))(*options))
        log = self.text(program, "nvrtcGetProgramLogSize", "nvrtcGetProgramLog").rstrip(b"\0").decode()
        cubin = self.text(program, "nvrtcGetCUBINSize", "nvrtcGetCUBIN") if code == 0 else b""
        self.library.nvrtcDestroyProgram(ctypes.byref(program))
        return code == 0, log, cubin


def sources():
    """The text of every source by its name, as lm/src/gpu/sources.rs puts it together."""
    part = lambda name, text=None: f'#line 1 "{name}"\n{text or (KERNELS / name).read_text("utf-8")}\n'
    texts = {"(prelude)": part("prelude.cuh") + part("probe.cu", PROBE)}
    declared = re.findall(r'^source!\(\w+, "(.*?)"(?:, after "(.*?)")?\);', (KERNELS.parent / "sources.rs").read_text("utf-8"), re.M)
    for name, shared in declared:
        texts[name] = part("prelude.cuh") + (part(shared) if shared else "") + part(name)
    forgotten = {path.name for path in KERNELS.glob("*.cu")} - set(texts)
    assert not forgotten, f"sources.rs does not name {forgotten}"
    return texts


def resources(log):
    """Of each kernel: registers, bytes spilled (stores and loads), bytes of static shared memory."""
    found = {}
    for part in log.split("Compiling entry function 'kernel_")[1:]:
        number = lambda pattern: int((re.search(pattern, part) or [0, 0])[1])
        spilled = number(r"(\d+) bytes spill stores") + number(r"(\d+) bytes spill loads")
        found[part.split("'")[0]] = number(r"Used (\d+) registers"), spilled, number(r"(\d+) bytes smem"), number(r"(\d+) bytes stack frame")
    return found


def instructions(folder, cubin):
    """Of each kernel: how often the instructions that matter occur."""
    tools = install(folder, DISASSEMBLER) / "nvidia/cu13/bin"
    file = folder / "kernels.cubin"
    file.write_bytes(cubin)
    output = subprocess.run([tools / "cuobjdump", "-sass", file], env={"PATH": str(tools)}, check=True, capture_output=True, text=True).stdout
    found = {}
    for part in output.split("Function : ")[1:]:
        counts = collections.Counter()
        for name, modifiers in re.findall(r"^\s+/\*[0-9a-f]+\*/\s+(?:@!?U?P\d\s+)?([A-Z0-9]+)(\S*)", part, re.M):
            width = re.search(r"\.(128|64)\b", modifiers)
            transposed = name == "LDSM" and ".MT" in modifiers
            counts[name + (f".{width[1]}" if width and name in ("LDG", "STG", "LDS", "STS") else "") + (".T" if transposed else "")] += 1
        found[part.split()[0].removeprefix("kernel_")] = {name: counts[name] for name in INSTRUCTIONS if counts[name]}
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("only", nargs="*", help="parts of names of files")
    parser.add_argument("--cuda", choices=COMPILERS, default="13")
    parser.add_argument("--gpu", action="append", help="such as sm_90; else " + ", ".join(GPUS))
    parser.add_argument("--instructions", action="store_true")
    parser.add_argument("--folder", type=pathlib.Path, default=ROOT / "target/nvrtc")
    options = parser.parse_args()
    compiler = Compiler(options.folder, options.cuda)
    texts = sources()
    names = [name for name in texts if not options.only or any(part in name for part in options.only)]
    jobs = [(name, gpu, defines) for name in names for defines in DEFINES.get(name, [{}]) for gpu in options.gpu or GPUS]

    def run(job):
        name, gpu, defines = job
        return compiler.compile(name, texts[name], gpu, defines)

    failed, spilling, told = 0, 0, None
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        for (name, gpu, defines), (compiled, log, cubin) in zip(jobs, pool.map(run, jobs)):
            title = " ".join([name, *(f"{key}={number}" for key, number in defines.items() if key in SHOWN), gpu])
            said = "\n".join(line for line in log.splitlines() if not re.match(r"ptxas (info|  )|\s*$", line))
            if not compiled:
                # The first of a file says enough.
                print(f"{title}: FAILED: it does not compile" + f"\n{log}" * (told != name))
                failed, told = failed + 1, name
                continue
            if said:
                print(f"{title}: the compiler says\n{said}")
            counts = instructions(options.folder, cubin) if options.instructions else {}
            for kernel, (registers, spilled, shared, stack) in resources(log).items():
                line = f"{title:32} {kernel:32} {registers:4} registers {shared:6} shared"
                line += f" {stack} stack" * (stack > 0) + f" {spilled} SPILLED" * (spilled > 0)
                line += "".join(f"  {name} {count}" for name, count in counts.get(kernel, {}).items())
                print(line)
                spilling += spilled > 0
    print(f"{len(jobs)} programs, {failed} failures, {spilling} kernels that spill")
    return failed > 0


if __name__ == "__main__":
    sys.exit(main())
