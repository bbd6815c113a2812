#!/usr/bin/env bash
# Installs what some tests talk to, by pinned version from the package registries: a server of the S3 protocol, Slurm and
# Ray. They go into the folder named by DAG_TEST_TOOLS, else target/test-tools, but for Slurm, whose packages are the system's
# and are installed only where this runs as root. What is there already is left alone. What cannot be had is said, the exit
# code is then 1, and the tests that need it skip, visibly.
set -uo pipefail
cd "$(dirname "$0")/.."
root="${DAG_TEST_TOOLS:-target/test-tools}"
code=0
missing() { echo "missing: $*"; code=1; }

# A server of the S3 protocol on plain files. The newest that our toolchain builds.
version=0.14.1
if [ -x "$root/bin/s3s-fs" ] && "$root/bin/s3s-fs" --version | grep -qF "$version"; then
  echo "s3s-fs $version is there"
else
  nice cargo install s3s-fs --version "$version" --features binary --locked --root "$root" --target-dir "$root/build" ||
    missing "s3s-fs cannot be built here: the tests of the shared cache use a folder only"
  rm -rf "$root/build"
fi

if scripts/slurm_cluster.sh check >/dev/null 2>&1; then
  echo "Slurm is there"
elif [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
  # A temporary folder that nothing empties meanwhile.
  export TMPDIR=/var/tmp DEBIAN_FRONTEND=noninteractive
  timeout 300 apt-get install -y --no-install-recommends munge slurmctld slurmd slurm-client slurm-wlm-basic-plugins iproute2 ||
    { timeout 120 apt-get update && timeout 300 apt-get install -y --no-install-recommends \
      munge slurmctld slurmd slurm-client slurm-wlm-basic-plugins iproute2; } ||
    missing "Slurm's packages cannot be installed: its tests skip"
else
  missing "Slurm: $(scripts/slurm_cluster.sh check 2>&1)"
fi

version=2.60.0
venv="${DAG_RAY_VENV:-$root/ray}"
if [ -x "$venv/bin/ray" ]; then
  echo "Ray is there"
else
  { python3 -m venv "$venv" && timeout 600 "$venv/bin/pip" install --quiet "ray[default]==$version"; } ||
    missing "Ray cannot be installed: its test skips"
fi
exit $code
