#!/usr/bin/env bash
# A Ray head on this machine alone, for tests and trials. It needs root and Linux, and Ray from PyPI:
#
#   python3 -m venv FOLDER && FOLDER/bin/pip install 'ray[default]==2.60.0'
#
# usage: scripts/ray_cluster.sh run FOLDER COMMAND…   start a head, run the command, stop; the exit code is the command's
#        scripts/ray_cluster.sh check                 whether it can be had here; says why not
#
# FOLDER is the virtual environment, and in `check` the variable DAG_RAY_VENV. Everything runs in network and process
# namespaces of its own: Ray lets whoever can reach it run what they like.
set -euo pipefail

need() {
    [ "$(id -u)" = 0 ] || { echo "it needs root"; return 1; }
    [ -x "$1/bin/ray" ] || { echo "there is no \`$1/bin/ray\`"; return 1; }
    unshare --net --pid --fork --mount-proc true 2>/dev/null || { echo "namespaces cannot be made here"; return 1; }
}

case "${1:-}" in
check) need "${DAG_RAY_VENV:-target/test-tools/ray}" ;;
run)
    need "${2:?a folder}" >&2 || exit 3
    exec unshare --net --pid --fork --mount-proc --kill-child "$0" inside "${@:2}"
    ;;
inside)
    ip link set lo up
    # Ray makes sockets in it, whose paths must be short.
    scratch=$(mktemp -d /tmp/rayXXXX)
    export RAY_DISABLE_IMPORT_WARNING=1 PATH="$2/bin:$PATH"
    ray start --head --node-ip-address=127.0.0.1 --port=16379 --dashboard-host=127.0.0.1 --dashboard-port=8265 \
        --min-worker-port=20002 --max-worker-port=20999 --ray-client-server-port=21001 --num-cpus=4 \
        --object-store-memory=200000000 --disable-usage-stats --temp-dir="$scratch" > "$scratch/start.log" 2>&1 \
        || { cat "$scratch/start.log" >&2; exit 3; } # 3 means that there is no head, whatever the reason
    code=0; "${@:3}" || code=$?
    ray stop --force > /dev/null 2>&1 || true
    rm -rf "$scratch"
    exit $code
    ;;
*) sed -n '2,11p' "$0" | sed 's/^# \{0,1\}//'; exit 2 ;;
esac
