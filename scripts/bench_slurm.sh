#!/usr/bin/env bash
# What the coordinator costs: a node of 200 shards, against the same array of 200 tasks submitted by hand.
#
#   scripts/slurm_cluster.sh run /tmp/cluster scripts/bench_slurm.sh target/release/dag [ROUNDS]
#
# Each task asks a scripted teacher for ten responses. By hand: `sbatch --array` of the very workers that `dag` starts, and
# a loop that waits for 200 exit files. Interleaved, medians.
set -euo pipefail
DAG=$(realpath "${1:?the program}"); ROUNDS=${2:-3}
FOLDER=$(mktemp -d); cd "$FOLDER"
cat > bench.yaml <<'YAML'
name: bench
seed: 17
nodes:
  prompts:
    task: dataset
    with: { source: { generator: arithmetic, count: 2000, steps: [2, 6], modulus: 1000 } }
  asked:
    task: sample
    inputs: { prompts: prompts }
    with: { model: { backend: scripted, teacher: terse } }
    run: { shards: 200, executor: slurm }
YAML
now() { date +%s.%N; }
since() { python3 -c "import time; print(f'{time.time() - $1:.2f}')"; }
for round in $(seq "$ROUNDS"); do
    rm -rf .dag; "$DAG" run bench.yaml prompts >/dev/null 2>&1
    start=$(now); "$DAG" run bench.yaml >/dev/null 2>&1; by_dag=$(since "$start")
    # The same 200 workers once more, by hand: their orders are there, and so is everything that they would ask for but the
    # records, which are taken away.
    generation=$(ls -d .dag/jobs/*/*/ | head -1); generation=$(realpath "$generation")
    rm -rf .dag/logs "$generation/closed" "$generation"/exits/* "$generation"/taken/* ; mkdir -p "$generation/work"
    start=$(now)
    sbatch --parsable --output=/dev/null --array=0-199 "$generation/0.script" >/dev/null
    until [ "$(ls "$generation/exits" | wc -l)" -ge 200 ]; do sleep 0.05; done
    by_hand=$(since "$start")
    echo "round $round: dag $by_dag s, by hand $by_hand s"
done | tee rounds
python3 - rounds <<'PY'
import re, statistics, sys
pairs = [tuple(map(float, re.findall(r"([\d.]+) s", line))) for line in open(sys.argv[1])]
dag, hand = (statistics.median(column) for column in zip(*pairs))
print(f"median: dag {dag:.2f} s, by hand {hand:.2f} s, {dag / hand:.2f} times")
PY
rm -rf "$FOLDER"
