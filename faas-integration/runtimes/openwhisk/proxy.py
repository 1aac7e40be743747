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
end goes to stdout and stderr, as there. An action that ended during an activation is
started again for the next one.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import select
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parents[1] / "common"))

import strict_json
from json_http import ListenError, Reply, Request, Server, reply

END = "XXX_THE_END_OF_A_WHISK_ACTIVATION_XXX"
ANSWERS = 3  # the descriptor that the action writes its answers to
GRACE = 10.0  # seconds that an action may take to end after its input did
CHUNK = 1 << 16


class ActionError(Exception):
    """The action is not running (any more)."""


class _Process:
    """One start of the action."""

    def __init__(self, command: list[str], environment: dict[str, str]) -> None:
        """Starts it and waits for its word. Raises ActionError, OSError."""
        self._answers, writing = os.pipe()
        self._buffer = b""
        # /dev/fd, since the shell's own redirections know descriptors up to 9 only.
        shell = ["/bin/sh", "-c", f'exec "$@" {ANSWERS}>/dev/fd/{writing}', "sh"]
        try:
            self._process = subprocess.Popen(
                [*shell, *command], stdin=subprocess.PIPE, pass_fds=[writing], env=environment
            )
        except BaseException:
            os.close(self._answers)
            raise
        finally:
            os.close(writing)
        self.pid = self._process.pid
        self._ended = os.pidfd_open(self.pid)
        try:
            if self.read() != {"ok": True}:
                raise ActionError("the action did not acknowledge its start")
        except ActionError:
            self.stop()
            raise

    def alive(self) -> bool:
        """Returns true while it runs."""
        return self._process.poll() is None

    def write(self, activation: bytes) -> None:
        """Sends a line. Raises ActionError if nobody reads it."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(activation + b"\n")
            self._process.stdin.flush()
        except OSError as error:
            raise ActionError("the action has ended") from error

    def read(self) -> Any:
        """Its next answer. Raises ActionError if it ended or answered what is not JSON.

        The end of the process counts, not that of the pipe: a program that the action
        left behind may hold the pipe open.
        """
        while b"\n" not in self._buffer:
            poll = select.poll()
            for fd in (self._answers, self._ended):
                poll.register(fd, select.POLLIN)
            ready = {fd for fd, _ in poll.poll()}
            more = os.read(self._answers, CHUNK) if self._answers in ready else b""
            if not more:
                raise ActionError("the action ended without an answer")
            self._buffer += more
        line, _, self._buffer = self._buffer.partition(b"\n")
        try:
            return strict_json.read(line)
        except strict_json.NotJsonError as error:
            raise ActionError(f"the action answered what is not JSON: {error}") from error

    def stop(self) -> None:
        """Ends it: the end of its input, then by force."""
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        try:
            self._process.wait(GRACE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        os.close(self._answers)
        os.close(self._ended)


class Action:
    """The action, whose process may be started again."""

    def __init__(self, command: list[str]) -> None:
        """Nothing is started yet."""
        self._command = command
        self._environment: dict[str, str] = {}
        self._lock = threading.Lock()
        self._process: _Process | None = None
        self.initialised = False

    @property
    def pid(self) -> int | None:
        """Of the action's process."""
        return self._process.pid if self._process else None

    def start(self, environment: dict[str, Any]) -> None:
        """Starts it. Raises ActionError, OSError, ValueError; FileExistsError if it was before."""
        with self._lock:
            if self.initialised:
                raise FileExistsError("the action is initialised already")
            variables = {
                name: value if isinstance(value, str) else strict_json.write(value).decode()
                for name, value in environment.items()
            }
            self._environment = {**os.environ, **variables, "__OW_WAIT_FOR_ACK": "1"}
            self._process = _Process(self._command, self._environment)
            self.initialised = True

    def run(self, activation: bytes) -> Any:
        """Its answer. Raises ActionError if it ended, OSError if it cannot be started again."""
        with self._lock:
            if self._process is None or not self._process.alive():
                self._end()
                self._process = _Process(self._command, self._environment)
            try:
                self._process.write(activation)
                return self._process.read()
            except ActionError:
                self._end()
                raise

    def stop(self) -> None:
        """Ends it."""
        with self._lock:
            self._end()

    def _end(self) -> None:
        if self._process is not None:
            self._process.stop()
            self._process = None


class Proxy:
    """What is answered to each request."""

    def __init__(self, command: list[str]) -> None:
        """Nothing is started yet."""
        self.action = Action(command)

    def answer(self, request: Request) -> Reply:
        """The reply."""
        if request.method != "POST" or request.path not in {"/init", "/run"}:
            return reply(404, {"error": f"no {request.path}; there are POST /init and /run"})
        try:
            body = strict_json.read(request.body or b"{}")
        except strict_json.NotJsonError as error:
            return reply(400, {"error": f"the body is not JSON: {error}"})
        value = body.get("value") if isinstance(body, dict) else None
        if not isinstance(body, dict) or not isinstance(value or {}, dict):
            return reply(400, {"error": "the body and its value must be JSON objects"})
        if request.path == "/run":
            return self._run(body)
        environment = (value or {}).get("env") or {}
        if not isinstance(environment, dict):
            return reply(400, {"error": "env must be a JSON object"})
        return self._init(environment)

    def _init(self, environment: dict[str, Any]) -> Reply:
        try:
            self.action.start(environment)
        except FileExistsError as error:
            return reply(403, {"error": str(error)})
        except (ActionError, OSError, ValueError) as error:
            return reply(502, {"error": str(error)})
        return reply(200, {"ok": True})

    def _run(self, activation: dict[str, Any]) -> Reply:
        if not self.action.initialised:
            return reply(500, {"error": "the action is not initialised"})
        try:
            answer = self.action.run(strict_json.write(activation))
        except (ActionError, OSError, ValueError) as error:
            return reply(502, {"error": str(error)})
        finally:
            for stream in (sys.stdout, sys.stderr):
                print(END, file=stream, flush=True)
        failed = not isinstance(answer, dict) or "error" in answer
        return reply(502 if failed else 200, answer)


def main() -> int:
    """The program."""
    parser = argparse.ArgumentParser(usage="proxy.py [--port N] -- COMMAND…")
    parser.add_argument("--port", type=int, default=8080)
    parser.add_argument("command", nargs="+", metavar="COMMAND")
    args = parser.parse_args()
    proxy = Proxy(args.command)
    ended = threading.Event()
    try:
        server = Server(f":{args.port}", proxy.answer)
    except ListenError as error:
        print(f"proxy.py: {error}", file=sys.stderr)
        return 1
    server.on_signals((signal.SIGINT, signal.SIGTERM), ended.set)
    with server:
        ended.wait()
        proxy.action.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main())
