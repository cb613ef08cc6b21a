#!/usr/bin/env python3
"""Writes tests/data/chat_template_golden.json: what PyPI's jinja2, set up as transformers does it,
makes of the templates in tests/data/chat_templates and of small ones that are easy to get wrong.

Usage: make_template_golden.py tests/data
"""

import datetime
import json
import pathlib
import sys

import jinja2
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

NOW = datetime.datetime(2025, 3, 7, 14, 5, 9)


class Generation(jinja2.ext.Extension):
    """{% generation %}: a block that prints what is in it."""

    tags = {"generation"}

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        return jinja2.nodes.CallBlock(self.call_method("_body"), [], [], body).set_lineno(line)

    def _body(self, caller):
        return caller()


class Refused(Exception):
    pass


def environment():
    def raise_exception(message):
        raise Refused(message)

    def tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
        return json.dumps(
            x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
        )

    result = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols]
    )
    result.filters["tojson"] = tojson
    result.globals["raise_exception"] = raise_exception
    result.globals["strftime_now"] = lambda format: NOW.strftime(format)
    return result


def turn(role, content, **more):
    return {"role": role, "content": content, **more}


TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Weather in \"a city\" — today",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}, "days": {"type": "integer", "default": 1}},
            "required": ["city"],
        },
        "return": {"type": "string"},
    },
}
CALL = {
    "id": "abcdefghi",
    "type": "function",
    "function": {"name": "get_weather", "arguments": {"city": "Zürich", "days": 2}},
}
QUESTION = [turn("user", "  Hello, wörld! 你好\n")]
TALK = [
    turn("user", "What is 2+2?"),
    turn("assistant", " It is 4. "),
    turn("user", "And <b>3+3</b>?\n\nPlease."),
]
WITH_SYSTEM = [turn("system", "You are terse.\n")] + TALK
THOUGHT = [
    turn("user", "One?"),
    turn("assistant", "<think>\nhm\n</think>\n\nYes."),
    turn("user", "Two?"),
    turn("assistant", "<think>\nwell\n</think>\n\nNo."),
]
TOOLS_TALK = [
    turn("user", "Weather?"),
    turn("assistant", "", tool_calls=[CALL]),
    turn("tool", "18 degrees", tool_call_id="abcdefghi"),
    turn("assistant", "Mild."),
    turn("user", "Thanks"),
]
BUILTIN_CALL = {"function": {"name": "search", "arguments": {"query": "rain", "site": "ch"}}}
CONVERSATIONS = {
    "question": {"messages": QUESTION},
    "talk": {"messages": TALK},
    "system": {"messages": WITH_SYSTEM},
    "two_users": {"messages": [turn("user", "a"), turn("user", "b")]},
    "thought": {"messages": THOUGHT},
    "no_thinking": {"messages": TALK, "enable_thinking": False},
    "thinking": {"messages": WITH_SYSTEM, "enable_thinking": True},
    "reasoning": {"messages": THOUGHT[:3] + [turn("assistant", "No.", reasoning_content="well")]},
    "tools": {"messages": TOOLS_TALK, "tools": [TOOL, TOOL]},
    "tools_system": {"messages": [turn("system", "S")] + TOOLS_TALK, "tools": [TOOL]},
    "two_calls": {"messages": [turn("user", "?"), turn("assistant", "", tool_calls=[CALL, CALL])]},
    "bad_call": {"messages": [turn("user", "?"), turn("assistant", "", tool_calls=[BUILTIN_CALL])]},
    "builtin": {
        "messages": [turn("user", "?"), turn("assistant", None, tool_calls=[BUILTIN_CALL])],
        "builtin_tools": ["search", "code_interpreter"],
        "tools_in_user_message": False,
        "tools": [TOOL],
    },
    "date": {"messages": QUESTION, "date_string": "1 Jan 2024"},
    "parts": {
        "messages": [
            turn("system", [{"type": "text", "text": "Short. "}]),
            turn("user", [{"type": "image"}, {"type": "text", "text": " What is it? "}]),
        ]
    },
    "number_content": {"messages": [turn("user", 5)]},
    "unknown_role": {"messages": [turn("wizard", "x")]},
    "empty": {"messages": []},
}

VARIABLES = {
    "n": 7,
    "x": 2.5,
    "name": "Ærøskøbing",
    "text": "  One two,three\nfour  ",
    "yes": True,
    "nothing": None,
    "empty": "",
    "list": [3, 1, 2],
    "words": ["pear", "Apple", "fig", "apple"],
    "nested": [[1, "a"], [2, "b"]],
    "table": {"b": 1, "a": [True, None, 1.0], "c d": {"e": "f\"g'"}},
    "people": [
        {"name": "Ann", "age": 31, "home": {"city": "Bern"}},
        {"name": "Bo", "age": 25, "home": {"city": "Ulm"}},
        {"name": "Cy", "age": 31},
    ],
}


def snippets(path):
    """The templates of the file; a line of '====' ends each."""
    text = path.read_bytes().decode("utf-8")
    return text.split("\n====\n")[:-1]


def render(source, context):
    """{"text": ...}, or {"refused": ...} when the template says so, {"error": ...} when it fails."""
    try:
        return {"text": environment().from_string(source).render(**context)}
    except Refused as refusal:
        return {"refused": str(refusal)}
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"}


def main():
    folder = pathlib.Path(sys.argv[1])
    golden = {"conversations": CONVERSATIONS, "variables": VARIABLES, "templates": {}, "snippets": []}
    for path in sorted((folder / "chat_templates").glob("*.jinja")):
        source = path.read_text(encoding="utf-8")
        results = golden["templates"][path.stem] = {}
        for name, conversation in CONVERSATIONS.items():
            for prompt in (True, False):
                context = {"tools": None, "bos_token": "<s>", "eos_token": "</s>", **conversation}
                context["add_generation_prompt"] = prompt
                results[name + ("+prompt" if prompt else "")] = render(source, context)
    for source in snippets(folder / "template_snippets.txt"):
        golden["snippets"].append({"template": source, **render(source, VARIABLES)})
    text = json.dumps(golden, ensure_ascii=False, separators=(",", ":"))
    (folder / "chat_template_golden.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
