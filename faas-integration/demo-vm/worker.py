#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""A function container without its container: one process that serves requests.

Reads commands from stdin and answers each on stdout, both a JSON object per
line. Commands: {"do": "serve", "image": …, "weights": …}, {"do": "advise",
"what": "weights" or "anonymous"}. The end of stdin ends it.
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
import time
from typing import Any

import memory
import upm_c


class Worker:
    """State between commands."""

    def __init__(self) -> None:
        """Imports the function, which takes most of a container's start."""
        import handler

        self._function = handler
        self._upm: upm_c.Upm | None = None

    def serve(self, event: dict[str, str]) -> dict[str, Any]:
        """Answers a request."""
        return self._function.handler(event)

    def advise(self, event: dict[str, str]) -> dict[str, Any]:
        """Merges the weights, or all private anonymous memory."""
        if self._upm is None:
            self._upm = upm_c.Upm()
        if event["what"] == "weights":
            ranges = self._function.weights()
        else:
            ranges = memory.private_anonymous()
        backend, reason = self._upm.backend()
        processor, start = time.process_time(), time.monotonic()
        counts = self._upm.advise(ranges)
        return {
            "seconds": time.monotonic() - start,
            "cpu_seconds": time.process_time() - processor,
            "bytes": sum(length for _, length in ranges),
            "ranges": len(ranges),
            "backend": backend,
            "reason": reason,
            **dataclasses.asdict(counts),
        }


def main() -> None:
    """Serves until stdin ends."""
    start = time.monotonic()
    # What libraries print must not come between the answers.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def answer(value: dict[str, Any]) -> None:
        print(json.dumps(value), file=answers, flush=True)

    worker = Worker()
    answer({"took": time.monotonic() - start})
    commands = {"serve": worker.serve, "advise": worker.advise}
    for line in sys.stdin:
        event = json.loads(line)
        start = time.monotonic()
        result = commands[event["do"]](event)
        answer({**result, "took": time.monotonic() - start})


if __name__ == "__main__":
    main()
