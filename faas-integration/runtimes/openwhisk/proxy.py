#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""A stand-in for OpenWhisk's action loop proxy: the container's HTTP side.

    proxy.py [--port N] -- COMMAND…        COMMAND: what /init starts, such as
                                           upm run -- python3 action_loop.py DIRECTORY

    POST /init  {"value": {"env": {…}, …}} starts COMMAND -> 200 {"ok": true};
                403 if it is started already, 502 if it does not start
    POST /run   {"value": {…}, "activation_id": …, …} -> 200 and the answer, 502 with
                {"error": …} if the action failed; 500 before /init

The real proxy also unpacks the code that /init brings; here it lies in the image, as
with OpenWhisk's own "black box" images. After each activation, the line that marks its
end goes to stdout and stderr, as there.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

END = "XXX_THE_END_OF_A_WHISK_ACTIVATION_XXX"
ANSWERS = 3  # the descriptor that the action writes its answers to


class ActionError(Exception):
    """The action is not running (any more)."""


class Action:
    """The process of the action."""

    def __init__(self, command: list[str]) -> None:
        """Nothing is started yet."""
        self._command = command
        self._lock = threading.Lock()
        self._process: subprocess.Popen[str] | None = None
        self._answers: Any = None

    @property
    def pid(self) -> int | None:
        """Of the action's process."""
        return self._process.pid if self._process else None

    def start(self, environment: dict[str, Any]) -> None:
        """Starts it and waits for its word. Raises ActionError; FileExistsError if it runs."""
        with self._lock:
            if self._process is not None:
                raise FileExistsError("the action is initialised already")
            reading, writing = os.pipe()
            # /dev/fd, since the shell's own redirections know descriptors up to 9 only.
            shell = ["/bin/sh", "-c", f'exec "$@" {ANSWERS}>/dev/fd/{writing}', "sh"]
            variables = {
                name: value if isinstance(value, str) else json.dumps(value)
                for name, value in environment.items()
            }
            try:
                self._process = subprocess.Popen(
                    [*shell, *self._command],
                    stdin=subprocess.PIPE,
                    text=True,
                    pass_fds=[writing],
                    env={**os.environ, **variables, "__OW_WAIT_FOR_ACK": "1"},
                )
            finally:
                os.close(writing)
            self._answers = os.fdopen(reading, encoding="utf-8")
            if self._read() != {"ok": True}:
                raise ActionError("the action did not acknowledge its start")

    def run(self, activation: dict[str, Any]) -> Any:
        """Its answer. Raises ActionError if it ended or was never started."""
        with self._lock:
            if self._process is None or self._process.stdin is None:
                raise ActionError("the action is not initialised")
            try:
                print(json.dumps(activation), file=self._process.stdin, flush=True)
            except OSError as error:
                raise ActionError("the action has ended") from error
            return self._read()

    def stop(self) -> None:
        """Ends it: the end of its input."""
        if self._process is not None and self._process.stdin is not None:
            self._process.stdin.close()
            self._process.wait()

    def _read(self) -> Any:
        line = self._answers.readline()
        if not line:
            raise ActionError("the action ended without an answer")
        try:
            return json.loads(line)
        except ValueError as error:
            raise ActionError(f"the action answered what is not JSON: {error}") from error


class Talk(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    action: Action

    def do_POST(self) -> None:  # noqa: N802  # the name it is found by
        """/init and /run."""
        try:
            body = json.loads(self.rfile.read(int(self.headers.get("Content-Length") or 0)))
            value = body.get("value") or {}
        except (ValueError, AttributeError) as error:
            self._reply(400, {"error": f"the body is not a JSON object: {error}"})
            return
        if self.path == "/init":
            self._init(value)
        elif self.path == "/run":
            self._run(body)
        else:
            self._reply(404, {"error": f"no {self.path}; there are /init and /run"})

    def _init(self, value: dict[str, Any]) -> None:
        try:
            self.action.start(value.get("env") or {})
        except FileExistsError as error:
            self._reply(403, {"error": str(error)})
        except (ActionError, OSError) as error:
            self._reply(502, {"error": str(error)})
        else:
            self._reply(200, {"ok": True})

    def _run(self, activation: dict[str, Any]) -> None:
        if self.action.pid is None:
            self._reply(500, {"error": "the action is not initialised"})
            return
        try:
            answer = self.action.run(activation)
        except ActionError as error:
            self._reply(502, {"error": str(error)})
            return
        finally:
            for stream in (sys.stdout, sys.stderr):
                print(END, file=stream, flush=True)
        failed = not isinstance(answer, dict) or "error" in answer
        self._reply(502 if failed else 200, answer)

    def _reply(self, status: int, body: Any) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: what is printed here belongs to the activations."""


def serve(command: list[str], port: int) -> tuple[ThreadingHTTPServer, Action]:
    """A server on that port (0: a free one), not yet running, and its action."""
    action = Action(command)
    server = ThreadingHTTPServer(("0.0.0.0", port), type("BoundTalk", (Talk,), {"action": action}))
    server.daemon_threads = True
    return server, action


def main() -> int:
    """The program."""
    parser = argparse.ArgumentParser(usage="proxy.py [--port N] -- COMMAND…")
    parser.add_argument("--port", type=int, default=8080)
    parser.add_argument("command", nargs="+", metavar="COMMAND")
    args = parser.parse_args()
    server, action = serve(args.command, args.port)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        action.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main())
