#!/usr/bin/env python3
"""Serve SmolLM2-135M on the loopback by the server of llama-cpp-python: a real one, for tests and for trying things out.

    python3 scripts/fetch_test_models.py           brings the model
    python3 scripts/serve_smollm2.py [--port 0] [--log target/serve_smollm2.log] [--install]

The server lives in a virtual environment of its own: DAG_TEST_VENV, else target/serve-venv. `--install` makes it, which compiles
llama.cpp: ten minutes on two cores, and a C++ compiler. Without it, and without the environment, this says so and exits with 1.

Prints the address that `run: { base_url }` takes once it listens, and ends when its standard input does. The log has one line
when a request arrives and one when its answer goes out:

    arrived 8c1f… POST /v1/chat/completions
    answered 8c1f… 200

with the request's Idempotency-Key, `-` if it has none. Lines are written at once, and appended to what is there. Two threads
compute; the server answers one request after the other and lets the others wait.
"""
import argparse
import os
import pathlib
import socket
import subprocess
import sys
import threading

ROOT = pathlib.Path(__file__).resolve().parent.parent
VENV = pathlib.Path(os.environ.get("DAG_TEST_VENV") or ROOT / "target/serve-venv")
MODELS = pathlib.Path(os.environ.get("DAG_TEST_MODELS") or ROOT / "target/test-models")
GGUF = MODELS / "smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
PACKAGE = "llama-cpp-python[server]==0.3.36"


class Logged:
    """The application, with a line in the log for every request and every answer."""

    def __init__(self, app, path):
        self.app = app
        self.log = open(path, "a", buffering=1)

    async def __call__(self, scope, receive, send):
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        key = dict(scope["headers"]).get(b"idempotency-key", b"-").decode()
        self.log.write(f"arrived {key} {scope['method']} {scope['path']}\n")

        async def answer(message):
            # Noted before it is sent: a client that is gone by then has had its answer computed all the same.
            if message["type"] == "http.response.start":
                self.log.write(f"answered {key} {message['status']}\n")
            await send(message)

        return await self.app(scope, receive, answer)


def serve(port, log):
    """Inside the environment: listens until standard input ends."""
    # Only here are they to be had.
    import uvicorn
    from llama_cpp.server.app import create_app
    from llama_cpp.server.settings import ModelSettings, ServerSettings

    model = ModelSettings(
        model=str(GGUF), model_alias="smollm2", n_ctx=2048, n_threads=2, n_threads_batch=2, logits_all=False, verbose=False
    )
    app = Logged(create_app(server_settings=ServerSettings(), model_settings=[model]), log)
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", lifespan="off"))
    listening = socket.create_server(("127.0.0.1", port), backlog=1024)
    print(f"http://127.0.0.1:{listening.getsockname()[1]}/v1", flush=True)
    # Nobody has to read what the server says of its own accord.
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())

    def wait():
        sys.stdin.buffer.read()
        server.should_exit = server.force_exit = True

    threading.Thread(target=wait, daemon=True).start()
    server.run(sockets=[listening])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--log", type=pathlib.Path, default=ROOT / "target/serve_smollm2.log")
    parser.add_argument("--install", action="store_true")
    options = parser.parse_args()
    python = VENV / "bin/python"
    if pathlib.Path(sys.prefix).resolve() == VENV.resolve():
        return serve(options.port, options.log)
    if not GGUF.is_file():
        sys.exit(f"no `{GGUF}`; run `python3 scripts/fetch_test_models.py`")
    if options.install:
        # What is there already stays as it is.
        subprocess.run([sys.executable, "-m", "venv", VENV], check=True)
        subprocess.run([python, "-m", "pip", "--disable-pip-version-check", "install", "--quiet", PACKAGE], check=True)
    if not python.exists():
        sys.exit(f"no server in `{VENV}`; run `python3 scripts/serve_smollm2.py --install`")
    options.log.parent.mkdir(parents=True, exist_ok=True)
    os.execv(python, [python, __file__, "--port", str(options.port), "--log", str(options.log)])


if __name__ == "__main__":
    main()
