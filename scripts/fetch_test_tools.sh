#!/usr/bin/env bash
# Installs the servers that some tests talk to, into the folder named by DAG_TEST_TOOLS, else target/test-tools. What is
# there already is not built again. Without a network this says so and exits with 1; the tests then skip, visibly.
set -euo pipefail
cd "$(dirname "$0")/.."
root="${DAG_TEST_TOOLS:-target/test-tools}"
# A server of the S3 protocol on plain files. The newest that our toolchain builds.
version=0.14.1
if [ -x "$root/bin/s3s-fs" ] && "$root/bin/s3s-fs" --version | grep -qF "$version"; then
  echo "s3s-fs $version is there"
else
  nice cargo install s3s-fs --version "$version" --features binary --locked --root "$root" --target-dir "$root/build" ||
    { echo "s3s-fs cannot be built here: the tests of the shared cache use a folder only"; exit 1; }
  rm -rf "$root/build"
fi
