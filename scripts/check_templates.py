#!/usr/bin/env python3
"""Chat templates as dag renders them beside transformers: the same text, or both refuse.

    cargo build --release -p dag-lm --example render_templates
    python3 scripts/check_templates.py EXAMPLE TEMPLATE.jinja ...

Every template gets the same conversations, with and without a system message, reasoning, tools and a generation prompt. The date is
fixed. Prints each difference and the counts.
"""
import argparse
import datetime
import json
import pathlib
import subprocess

from transformers.utils import chat_template_utils

REASONED = "<think>\nsum 'em: \"1+1\" <b>\n</think>\n\n**2** é\n"
TOOL = {
    "function": {
        "description": "Adds two numbers.",
        "name": "add",
        "parameters": {"properties": {"a": {"description": "left", "type": "integer"}, "b": {"type": "number"}}, "required": ["a"], "type": "object"},
    },
    "type": "function",
}
CALL = {"function": {"arguments": {"a": 1, "b": 2.5}, "name": "add"}, "id": "call00001", "type": "function"}


def turn(role, content, **more):
    return {"role": role, "content": content, **more}


CONVERSATIONS = [
    [turn("user", " Hi there \n")],
    [turn("system", "Be brief."), turn("user", "1+1?")],
    [turn("user", "1+1?"), turn("assistant", "2")],
    [turn("user", "1+1?"), turn("assistant", REASONED), turn("user", "2+2?")],
    [turn("system", "Be brief."), turn("user", "1+1?"), turn("assistant", REASONED), turn("user", "2+2?"), turn("assistant", REASONED)],
    [turn("user", "1+2.5?"), turn("assistant", "", tool_calls=[CALL]), turn("tool", "3.5", name="add", tool_call_id="call00001")],
    [turn("assistant", "first"), turn("user", "second")],
    [turn("user", "a"), turn("user", "b")],
    [turn("narrator", "Once.")],
    [],
]
VARIABLES = [{}, {"enable_thinking": False}, {"tools": [TOOL]}, {"documents": [{"text": "A fact.", "title": "One"}]}]
TOKENS = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}


class FixedDate(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return cls(2024, 2, 29)


def peer(request):
    variables = {"tools": None, "documents": None, **TOKENS, **request["variables"]}
    try:
        template = chat_template_utils._compile_jinja_template(request["template"])
        return {"text": template.render(messages=request["messages"], add_generation_prompt=request["add_generation_prompt"], **variables)}
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("example")
    parser.add_argument("templates", nargs="+", type=pathlib.Path)
    options = parser.parse_args()
    chat_template_utils.datetime = FixedDate
    requests = [
        {"template": path.read_text(), "messages": messages, "add_generation_prompt": prompt, "variables": {**TOKENS, **variables}}
        for path in options.templates
        for messages in CONVERSATIONS
        for variables in VARIABLES
        for prompt in (True, False)
    ]
    lines = "".join(json.dumps(request) + "\n" for request in requests)
    output = subprocess.run([options.example], input=lines, check=True, capture_output=True, text=True).stdout
    equal = refused = 0
    names = [path.name for path in options.templates for _ in range(len(requests) // len(options.templates))]
    for name, request, answer in zip(names, requests, map(json.loads, output.splitlines()), strict=True):
        expected = peer(request)
        if answer == expected:
            equal += 1
        elif "error" in answer and "error" in expected:
            refused += 1
        else:
            print(f"{name}: {json.dumps(request['messages'])[:200]} {request['variables'].keys() - TOKENS.keys()}\n  dag: {answer}\n  transformers: {expected}")
    print(f"{len(options.templates)} templates, {len(requests)} renderings: {equal} equal, {refused} refused by both, {len(requests) - equal - refused} different")


if __name__ == "__main__":
    main()
