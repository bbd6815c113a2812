"""A server of OpenAI's chat completions for the tests of services: it answers by a rule, and logs what it is asked.

Every line of the log is appended whole, so several servers may share one: `started PID PORT MODEL TOKEN GPUS`, `arrived KEY PID`,
`billed KEY PID`.
"""

import argparse
import json
import os
import pathlib
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

parser = argparse.ArgumentParser()
parser.add_argument("--host", default="127.0.0.1")
parser.add_argument("--port", type=int, required=True)
parser.add_argument("--log", required=True)
parser.add_argument("--delay", type=float, default=0.0)
parser.add_argument("--model", default="a-model")
arguments = parser.parse_args()
log = os.open(arguments.log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
ready = time.monotonic() + 0.2


def note(*words):
    os.write(log, (" ".join(str(word) for word in words) + "\n").encode())


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def give(self, status, value):
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        if self.path == "/health":
            self.give(200 if time.monotonic() >= ready else 503, {})
        elif self.path == "/v1/models":
            self.give(200, {"object": "list", "data": [{"id": arguments.model}]})
        else:
            self.give(404, {})

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        key = self.headers.get("idempotency-key")
        note("arrived", key, os.getpid())
        if asked["model"] != arguments.model:
            return self.give(404, {"error": f"there is no model {asked['model']}"})
        time.sleep(arguments.delay)
        content = f"The answer is \\boxed{{{len(asked['messages'][-1]['content'])}}}."
        message = {"role": "assistant", "content": content}
        usage = {"prompt_tokens": 10, "completion_tokens": 10}
        note("billed", key, os.getpid())
        self.give(200, {"choices": [{"index": 0, "message": message, "finish_reason": "stop"}], "usage": usage})


class Server(ThreadingHTTPServer):
    request_queue_size = 256
    daemon_threads = True


server = Server((arguments.host, arguments.port), Handler)
has_weights = (pathlib.Path(arguments.model) / "config.json").is_file()
note("started", os.getpid(), arguments.port, has_weights, os.environ.get("TOKEN", "-"), os.environ.get("CUDA_VISIBLE_DEVICES", "-"))
print("listening", flush=True)
server.serve_forever()
