#!/usr/bin/env bash
# On a machine with a GPU: the runtime's tests, or any program, built elsewhere.
#
#   scripts/check_gpu.sh PROGRAM                      # the test binary of dag-lm: all tests of gpu::, on the GPU too
#   scripts/check_gpu.sh PROGRAM --sanitise [FILTER]  # the same under compute-sanitizer: memory, then races in shared memory
#   scripts/check_gpu.sh PROGRAM ARGUMENTS...         # anything else, with the libraries where it finds them
#
# The test binary is built by `cargo test -p dag-lm --features cuda --lib --no-run`, which prints its place; `strip` makes it small enough
# to carry. NVIDIA's libraries are those of Python's packages, or of a toolkit.
set -uo pipefail
PROGRAM=$(realpath "${1:?a program}"); shift

# Folders with libraries, those of a CUDA that the driver does not know left out: newest first.
known=$(nvidia-smi 2>/dev/null | sed -n 's/.*CUDA Version: \([0-9]*\).*/\1/p' | head -1)
export LD_LIBRARY_PATH=$(python3 - "${known:-13}" <<'PY'
import glob, os, site, sys

known = int(sys.argv[1])
roots = dict.fromkeys([*site.getsitepackages(), site.getusersitepackages(), *sys.path])
folders = []
for root in filter(None, roots):
    versioned = sorted(glob.glob(f"{root}/nvidia/cu1*/lib"), reverse=True)
    folders += [folder for folder in versioned if int(folder.split("/cu")[-1].split("/")[0]) <= known]
    folders += sorted(folder for folder in glob.glob(f"{root}/nvidia/*/lib") if folder not in versioned)
folders += filter(os.path.isdir, ["/usr/local/cuda/lib64", "/usr/local/nvidia/lib64"])
print(":".join([*folders, *filter(None, [os.environ.get("LD_LIBRARY_PATH")])]))
PY
)
for library in nvrtc cublas; do
    tr ':' '\n' <<<"$LD_LIBRARY_PATH" | sed "s|\$|/lib$library.so|" | while read -r path; do ls "$path"* 2>/dev/null; done | head -1
done
nvidia-smi --query-gpu=name,driver_version,memory.total,compute_cap --format=csv,noheader 2>/dev/null

# The lines of a test run that say something: failures with their reasons, what was left out, and the sum.
brief() {
    grep -E '^test .*(FAILED|ignored)|panicked at|^(place|assertion|called|called `|no GPU|  left|  right)|: .* instead of |not tested|^skipped|^test result|========= (Invalid|ERROR|Error|Race|Warning|Program hit|Uninit|    at )|error:' \
        | awk '!seen[$0]++' | head -"${LINES_AT_MOST:-60}"
}

case "${1:-tests}" in
tests)
    # What every driver does comes first: nothing else means anything if that fails.
    "$PROGRAM" gpu::driver gpu::cuda --nocapture 2>&1 | tee /tmp/check_gpu.log | brief
    if grep -q 'not tested on a real GPU' /tmp/check_gpu.log; then
        echo "FAILED: no GPU was opened"
        exit 1
    fi
    started=$(date +%s)
    "$PROGRAM" gpu:: --nocapture 2>&1 | tee /tmp/check_gpu.log | brief
    status=${PIPESTATUS[0]}
    echo "$(($(date +%s) - started)) s; all of it is in /tmp/check_gpu.log"
    exit "$status"
    ;;
--sanitise)
    PATH=$PATH:$(tr ':' '\n' <<<"$LD_LIBRARY_PATH" | sed 's|lib$|bin|' | paste -sd:):/usr/local/cuda/bin
    status=0
    for tool in memcheck racecheck; do
        echo "== $tool"
        timeout "${SECONDS_EACH:-200}" compute-sanitizer --tool "$tool" --error-exitcode 9 --print-limit 5 \
            "$PROGRAM" "${2:-gpu::}" --test-threads 1 --nocapture 2>&1 | tee "/tmp/check_gpu.$tool.log" | brief
        [ "${PIPESTATUS[0]}" = 0 ] || status=1
    done
    exit $status
    ;;
*)
    exec "$PROGRAM" "$@"
    ;;
esac
