#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Serves handler(event) over HTTP, as Knative and OpenFaaS's of-watchdog want it.

    server.py DIRECTORY [ENTRY]        ENTRY: module.callable, default function.handler

The function is imported from DIRECTORY. Listens on $LISTEN if that is set
(unix:/path or host:port), else on port $PORT (default 8080) of all addresses.

    POST /              the event as JSON -> 200 and the answer; 400 for what is not
                        a JSON object; 500 and {"error", "type"} if the function raised
    GET  /_/health      200 while the process lives (of-watchdog, Knative's liveness)
    GET  /_/ready       200 once requests are answered, 503 when it is ending
    GET  /healthz       the same as /_/ready

SIGTERM: /_/ready turns to 503, the request at work is answered, exit status 0.
$upstream_lock or /tmp/.lock exists while it is ready, as with of-watchdog.

One request is at work at a time, always in the main thread: functions need not
be thread-safe, and glibc keeps to one arena. Health is answered meanwhile.
"""

from __future__ import annotations

import importlib
import json
import os
import queue
import signal
import socket
import socketserver
import sys
import threading
import traceback
from collections.abc import Callable
from concurrent.futures import Future
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from types import FrameType
from typing import Any

LARGEST_REQUEST = 64 << 20  # bytes
LAST_WORDS = 10.0  # seconds that the answers at work have to leave at the end

Handler = Callable[[dict[str, Any]], Any]


class EndingError(Exception):
    """No more requests are taken."""


class Worker:
    """Runs the function in the thread that calls run(), for whoever calls ask()."""

    def __init__(self, function: Handler) -> None:
        """Nothing runs yet."""
        self.ending = threading.Event()
        self.talking = 0
        """Requests whose answers are not sent yet; under `changed`."""
        self.changed = threading.Condition()
        self._function = function
        self._work: queue.SimpleQueue[tuple[dict[str, Any], Future[Any]] | None] = (
            queue.SimpleQueue()
        )

    def ask(self, event: dict[str, Any]) -> Any:
        """The answer to the event. Raises what the function raises, or EndingError."""
        if self.ending.is_set():
            raise EndingError("ending")
        future: Future[Any] = Future()
        self._work.put((event, future))
        return future.result()

    def run(self) -> None:
        """Works until end() is called and what came before is done."""
        while (item := self._work.get()) is not None:
            event, future = item
            try:
                future.set_result(self._function(event))
            except Exception as error:  # whatever a user's function raises
                traceback.print_exc()
                future.set_exception(error)
            del item, event, future  # keep no request while idle
        while not self._work.empty():  # came at the same moment as the end
            if late := self._work.get():
                late[1].set_exception(EndingError("ending"))

    def wait_for_talk(self, seconds: float) -> None:
        """Until all answers are sent, but no longer than that."""
        with self.changed:
            self.changed.wait_for(lambda: self.talking == 0, seconds)

    def end(self) -> None:
        """Lets run() return. Called from a signal handler: SimpleQueue.put() may be."""
        self.ending.set()
        self._work.put(None)


class Talk(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    worker: Worker

    def do_GET(self) -> None:  # noqa: N802  # the name it is found by
        """Health."""
        if self.path == "/_/health":
            self._reply(200, {"status": "ok"})
        elif self.path in {"/_/ready", "/healthz"}:
            ending = self.worker.ending.is_set()
            self._reply(503 if ending else 200, {"status": "ending" if ending else "ready"})
        else:
            self._reply(404, {"error": f"no {self.path}; POST an event to /"})

    def do_POST(self) -> None:  # noqa: N802  # the name it is found by
        """A request for the function."""
        worker = self.worker
        with worker.changed:
            worker.talking += 1
        try:
            self._serve()
        finally:
            with worker.changed:
                worker.talking -= 1
                worker.changed.notify_all()

    def _serve(self) -> None:
        try:
            length = int(self.headers.get("Content-Length", ""))
        except ValueError:
            self.close_connection = True
            self._reply(411, {"error": "a request needs Content-Length"})
            return
        if not 0 <= length <= LARGEST_REQUEST:
            self.close_connection = True
            self._reply(413, {"error": f"{length} bytes; at most {LARGEST_REQUEST} are taken"})
            return
        try:
            event = json.loads(self.rfile.read(length) or b"{}")
        except ValueError as error:
            self._reply(400, {"error": f"the body is not JSON: {error}"})
            return
        if not isinstance(event, dict):
            self._reply(400, {"error": "the body must be a JSON object"})
            return
        try:
            answer = self.worker.ask(event)
        except EndingError:
            self.close_connection = True
            self._reply(503, {"error": "ending"})
        except Exception as error:
            self._reply(500, {"error": str(error), "type": type(error).__name__})
        else:
            self._reply(200, answer)

    def _reply(self, status: int, body: Any) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def address_string(self) -> str:
        """Who asks; a Unix socket's peer has no name."""
        return str(self.client_address[0]) if self.client_address else "unix"

    def log_message(self, format: str, *args: Any) -> None:
        """Failures only: one line for each request would drown what functions print."""
        if not str(args[1] if len(args) > 1 else "").startswith("2"):
            super().log_message(format, *args)


class Server(socketserver.ThreadingMixIn, socketserver.TCPServer):
    """A thread for each connection."""

    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, listen: str, worker: Worker) -> None:
        """Listens. Raises OSError if it cannot, ValueError for a wrong address."""
        handler = type("BoundTalk", (Talk,), {"worker": worker})
        path = listen.removeprefix("unix:")
        if path != listen:
            self.address_family = socket.AF_UNIX
            Path(path).unlink(missing_ok=True)
            super().__init__(path, handler)  # type: ignore[arg-type]  # a path is an address
            return
        host, colon, port = listen.rpartition(":")
        if not colon or not port.isdigit():
            raise ValueError(f"{listen!r} is neither unix:/path nor host:port")
        super().__init__((host, int(port)), handler)

    def get_request(self) -> tuple[Any, Any]:
        """A connection; one over a Unix socket comes with no address."""
        connection, address = super().get_request()
        return connection, address or ("unix", 0)


def find_handler(directory: str, entry: str) -> Handler:
    """The callable `module.callable` of the directory. Raises ImportError, AttributeError."""
    sys.path.insert(0, directory)
    module, _, name = entry.rpartition(".")
    found: Handler = getattr(importlib.import_module(module), name)
    return found


def main(arguments: list[str]) -> int:
    """The program."""
    if not 1 <= len(arguments) <= 2:
        print("usage: server.py DIRECTORY [ENTRY]", file=sys.stderr)
        return 2
    worker = Worker(find_handler(arguments[0], (arguments[1:] or ["function.handler"])[0]))

    def stop(_signal: int, _frame: FrameType | None) -> None:
        worker.end()

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    listen = os.environ.get("LISTEN") or f"0.0.0.0:{os.environ.get('PORT') or 8080}"
    lock = Path(os.environ.get("upstream_lock") or "/tmp/.lock")  # noqa: SIM112  # its name
    with Server(listen, worker) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        lock.touch()
        print(f"serving on {listen}", flush=True)
        worker.run()
        lock.unlink(missing_ok=True)
        server.shutdown()
        worker.wait_for_talk(LAST_WORDS)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
