#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Serves handler(event) over HTTP, as Knative and OpenFaaS's of-watchdog want it.

    server.py DIRECTORY [ENTRY]        ENTRY: module.callable, default function.handler

The function is imported from DIRECTORY. The server listens on $LISTEN if that is
set (unix:/path, host:port or [address]:port), else on port $PORT (default 8080) of
all IPv4 and IPv6 addresses.

    POST /              the event as JSON -> 200 and the answer; 400 for what is not
                        a JSON object; 500 and {"error", "type"} if the function raised
                        or answered what JSON cannot say
    GET  /_/health      200 while the process lives (of-watchdog, Knative's liveness)
    GET  /_/ready       200 once requests are answered, 503 when it is ending
    GET  /healthz       the same as /_/ready

SIGTERM: /_/ready turns to 503, the request at work is answered, exit status 0.
$upstream_lock or /tmp/.lock exists while it is ready, as with of-watchdog.

One request is at work at a time, always in the main thread: functions need not
be thread-safe, and glibc keeps to one arena. Health is answered meanwhile.
"""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parents[1] / "common"))

import guarded
import json_http
import strict_json
from json_http import Reply, Request, reply

Handler = Callable[[dict[str, Any]], Any]


class EndingError(Exception):
    """No more requests are taken."""


def call(function: Handler, event: dict[str, Any]) -> Reply:
    """What is answered for the function, whatever it does."""
    try:
        return Reply(200, guarded.call(function, event))
    except strict_json.NotJsonError as error:
        text = f"the answer cannot be written as JSON: {error}"
        return reply(500, {"error": text, "type": "NotJsonError"})
    except BaseException as error:  # sys.exit(), too
        return reply(500, {"error": strict_json.describe(error), "type": type(error).__name__})


class Worker:
    """Runs the function in the thread that calls run(), for all threads that call ask()."""

    def __init__(self, function: Handler) -> None:
        """Nothing runs yet."""
        self.ending = threading.Event()
        self._function = function
        self._work: queue.SimpleQueue[tuple[dict[str, Any], Future[Reply]] | None] = (
            queue.SimpleQueue()
        )

    def ask(self, event: dict[str, Any]) -> Reply:
        """The reply to the event. Raises EndingError."""
        if self.ending.is_set():
            raise EndingError("ending")
        future: Future[Reply] = Future()
        self._work.put((event, future))
        return future.result()

    def run(self) -> None:
        """Works until end() is called and what came before is done."""
        while (item := self._work.get()) is not None:
            event, future = item
            future.set_result(call(self._function, event))
            del item, event, future  # keep no request while idle
        while not self._work.empty():  # came at the same moment as the end
            if late := self._work.get():
                late[1].set_exception(EndingError("ending"))

    def end(self) -> None:
        """Lets run() return."""
        self.ending.set()
        self._work.put(None)


class Service:
    """What is answered to each request."""

    def __init__(self, worker: Worker) -> None:
        """`worker` runs the function."""
        self._worker = worker

    def answer(self, request: Request) -> Reply:
        """The reply; failures leave a line on stderr, since one for each would be too many."""
        if request.method in {"GET", "HEAD"}:
            return self._health(request.path)
        if request.method != "POST":
            return reply(405, {"error": "POST an event to /"}, Allow="GET, HEAD, POST")
        made = self._call(request.body)
        if made.status != 200:
            with contextlib.suppress(Exception):  # the function may have closed it
                print(f"POST {request.path!r}: {made.status}", file=sys.stderr, flush=True)
        return made

    def _health(self, path: str) -> Reply:
        if path == "/_/health":
            return reply(200, {"status": "ok"})
        if path in {"/_/ready", "/healthz"}:
            ending = self._worker.ending.is_set()
            return reply(503 if ending else 200, {"status": "ending" if ending else "ready"})
        return reply(404, {"error": f"no {path}; POST an event to /"})

    def _call(self, body: bytes) -> Reply:
        try:
            event = strict_json.read(body or b"{}")
        except strict_json.NotJsonError as error:
            return reply(400, {"error": f"the body is not JSON: {error}"})
        if not isinstance(event, dict):
            return reply(400, {"error": "the body must be a JSON object"})
        try:
            return self._worker.ask(event)
        except EndingError:
            return reply(503, {"error": "ending"}, Connection="close")


def main(arguments: list[str]) -> int:
    """The program."""
    if not 1 <= len(arguments) <= 2:
        print("usage: server.py DIRECTORY [ENTRY]", file=sys.stderr)
        return 2
    listen = json_http.listen_from_environment()
    lock = Path(os.environ.get("upstream_lock") or "/tmp/.lock")  # noqa: SIM112  # its name
    try:
        function = guarded.find(arguments[0], (arguments[1:] or ["function.handler"])[0])
        worker = Worker(function)
        server = json_http.Server(listen, Service(worker).answer)
    except (guarded.NoFunctionError, json_http.ListenError) as error:
        print(f"server.py: {error}", file=sys.stderr)
        return 1
    server.on_signals((signal.SIGTERM, signal.SIGINT), worker.end)
    with server:
        lock.touch()
        print(f"serving on {listen}", flush=True)
        worker.run()
        lock.unlink(missing_ok=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
