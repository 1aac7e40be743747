#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""The action side of OpenWhisk's action loop: what a proxy starts as `exec`.

    action_loop.py DIRECTORY [ENTRY]       ENTRY: module.callable, default function.handler

Reads one activation per line from stdin, {"value": {…}, "activation_id": …, …}, and
writes one answer per line to file descriptor 3. All keys but "value" become __OW_…
in the environment. With __OW_WAIT_FOR_ACK set, {"ok": true} comes first. stdout and
stderr are the action's own.

Each line has an answer, whatever the function does with it: what it raises, an answer
that JSON cannot say and a line that is no activation become {"error": …}. The two
streams belong to the loop alone: programs that the function starts read an empty stdin
and do not hold descriptor 3 open.

https://github.com/apache/openwhisk/blob/master/docs/actions-actionloop.md
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

sys.path.append(str(Path(__file__).resolve().parents[1] / "common"))

import guarded
import strict_json

REQUESTS, ANSWERS = 0, 3
OWN = 10  # the loop's own descriptors are moved to this number or above

Handler = Callable[[dict[str, Any]], Any]


def take_streams() -> tuple[BinaryIO, BinaryIO]:
    """Requests and answers, by descriptors that no program inherits; stdin is empty then."""
    kept = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, OWN) for fd in (REQUESTS, ANSWERS)]
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, REQUESTS)
    os.close(nothing)
    os.close(ANSWERS)
    return os.fdopen(kept[0], "rb"), os.fdopen(kept[1], "wb")


def call(function: Handler, line: bytes) -> bytes:
    """The function's answer. Raises what it raises, ValueError for a wrong line."""
    activation = strict_json.read(line)
    if not isinstance(activation, dict):
        raise ValueError("an activation must be a JSON object")
    for key, value in activation.items():
        if key != "value":
            text = value if isinstance(value, str) else strict_json.write(value).decode()
            os.environ[f"__OW_{key.upper()}"] = text
    return guarded.call(function, activation.get("value") or {})


def answer(function: Handler, line: bytes) -> bytes:
    """The answer to a line, always one line of JSON."""
    try:
        return call(function, line)
    except BaseException as error:  # whatever a function raises or answers, sys.exit() too
        return strict_json.write({"error": strict_json.describe(error)})


def main(arguments: list[str]) -> int:
    """The program."""
    if not 1 <= len(arguments) <= 2:
        print("usage: action_loop.py DIRECTORY [ENTRY]", file=sys.stderr)
        return 2
    try:
        requests, answers = take_streams()  # before the function's own code runs
    except OSError as error:
        print(f"action_loop.py: descriptors {REQUESTS} and {ANSWERS}: {error}", file=sys.stderr)
        return 1
    try:
        function = guarded.find(arguments[0], (arguments[1:] or ["function.handler"])[0])
    except guarded.NoFunctionError as error:
        print(f"action_loop.py: {error}", file=sys.stderr)
        return 1
    with requests, answers:
        if os.environ.get("__OW_WAIT_FOR_ACK"):
            answers.write(b'{"ok": true}\n')
            answers.flush()
        while line := requests.readline():
            text = answer(function, line)
            for stream in (sys.stdout, sys.stderr):
                with contextlib.suppress(Exception):  # the function may have closed it
                    stream.flush()
            answers.write(text + b"\n")
            answers.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
