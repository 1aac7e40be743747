#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""The action side of OpenWhisk's action loop: what a proxy starts as `exec`.

    action_loop.py DIRECTORY [ENTRY]       ENTRY: module.callable, default function.handler

Reads one activation per line from stdin, {"value": {…}, "activation_id": …, …}, and
writes one answer per line to file descriptor 3. All keys but "value" become __OW_…
in the environment. With __OW_WAIT_FOR_ACK set, {"ok": true} comes first. stdout and
stderr are the action's own.

https://github.com/apache/openwhisk/blob/master/docs/actions-actionloop.md
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import traceback
from typing import Any

ANSWERS = 3


def main(arguments: list[str]) -> int:
    """The program."""
    if not 1 <= len(arguments) <= 2:
        print("usage: action_loop.py DIRECTORY [ENTRY]", file=sys.stderr)
        return 2
    sys.path.insert(0, arguments[0])
    module, _, name = (arguments[1:] or ["function.handler"])[0].rpartition(".")
    function = getattr(importlib.import_module(module), name)
    with os.fdopen(ANSWERS, "w", encoding="utf-8") as answers:

        def answer(value: Any) -> None:
            print(json.dumps(value, ensure_ascii=False), file=answers, flush=True)

        if os.environ.get("__OW_WAIT_FOR_ACK"):
            answer({"ok": True})
        while line := sys.stdin.readline():
            activation = json.loads(line)
            for key, value in activation.items():
                if key != "value":
                    os.environ[f"__OW_{key.upper()}"] = str(value)
            try:
                result = function(activation.get("value") or {})
            except Exception as error:  # whatever a user's function raises
                traceback.print_exc()
                result = {"error": str(error)}
            sys.stdout.flush()
            sys.stderr.flush()
            answer(result)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
