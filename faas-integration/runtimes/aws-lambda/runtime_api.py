# SPDX-License-Identifier: MIT
"""Emulates Lambda's Runtime API (version 2018-06-01) for one runtime.

The runtime asks `GET …/invocation/next`, which waits for an event, and posts to
`…/invocation/<id>/response` or `…/error`; a failed start to `…/init/error`.
Events come from invoke(), or over HTTP as with AWS's Runtime Interface Emulator:
`POST /2015-03-31/functions/function/invocations`.

https://docs.aws.amazon.com/lambda/latest/dg/runtimes-api.html
"""

from __future__ import annotations

import queue
import re
import sys
import threading
import time
import uuid
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parents[1] / "common"))

import strict_json
from json_http import Reply, Request, Server, reply

PREFIX = "/2018-06-01/runtime"
INVOKE = "/2015-03-31/functions/function/invocations"
OUTCOME = re.compile(re.escape(PREFIX) + r"/invocation/([^/]+)/(response|error)")
LARGEST = 6 << 20  # bytes of an answer, as with Lambda
ARN = "arn:aws:lambda:us-east-1:012345678912:function:function"


class FunctionError(Exception):
    """The function, or the start of the runtime, failed; `details` is what it said."""

    def __init__(self, details: dict[str, Any]) -> None:
        """From the body that the runtime sent."""
        super().__init__(f"{details.get('errorType')}: {details.get('errorMessage')}")
        self.details = details


@dataclass
class _Invocation:
    event: bytes
    deadline: float
    identity: str = field(default_factory=lambda: str(uuid.uuid4()))
    outcome: Future[Any] = field(default_factory=Future)


class RuntimeApi:
    """The API on a free port of the loopback device; a context manager."""

    def __init__(self, timeout: float = 60) -> None:
        """Listens at once; serves inside `with`. `timeout`: seconds of an invocation."""
        self._timeout = timeout
        self._waiting: queue.SimpleQueue[_Invocation] = queue.SimpleQueue()
        self._at_work: dict[str, _Invocation] = {}
        self._failed_start: FunctionError | None = None
        self._ended = threading.Event()
        self._server = Server("127.0.0.1:0", _Service(self).answer, notice_gone=True)

    @property
    def address(self) -> str:
        """For AWS_LAMBDA_RUNTIME_API: host:port."""
        return f"127.0.0.1:{self._server.port}"

    def __enter__(self) -> RuntimeApi:
        """Serves."""
        self._server.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        """Lets the runtime's open requests go, and closes."""
        self._ended.set()
        self._server.__exit__()

    def invoke(self, event: Any) -> Any:
        """The function's answer.

        Raises FunctionError if it failed or did not start, TimeoutError after
        the time of an invocation.
        """
        if self._failed_start is not None:
            raise self._failed_start
        invocation = _Invocation(strict_json.write(event), time.time() + self._timeout)
        self._at_work[invocation.identity] = invocation
        self._waiting.put(invocation)
        try:
            return invocation.outcome.result(self._timeout)
        finally:
            del self._at_work[invocation.identity]

    def take(self, gone: Callable[[], bool]) -> _Invocation | None:
        """The next event for the runtime; None at the end, or once that is `gone`."""
        while not self._ended.is_set() and not gone():
            try:
                found = self._waiting.get(timeout=0.2)
            except queue.Empty:
                continue
            if found.identity in self._at_work:  # not given up meanwhile
                return found
        return None

    def finish(self, identity: str, kind: str, body: Any) -> bool:
        """Takes an outcome; False if there is no such invocation."""
        invocation = self._at_work.get(identity)
        if invocation is None or invocation.outcome.done():
            return False
        if kind == "response":
            invocation.outcome.set_result(body)
        else:
            invocation.outcome.set_exception(FunctionError(body))
        return True

    def fail_start(self, details: dict[str, Any]) -> None:
        """The runtime could not start: all invocations fail."""
        self._failed_start = FunctionError(details)
        for invocation in list(self._at_work.values()):
            if not invocation.outcome.done():
                invocation.outcome.set_exception(self._failed_start)


class _Service:
    """What is answered to each request."""

    def __init__(self, api: RuntimeApi) -> None:
        """`api` has the invocations."""
        self._api = api

    def answer(self, request: Request) -> Reply:
        """The reply."""
        if request.method == "GET" and request.path == f"{PREFIX}/invocation/next":
            return self._next(request)
        if request.method != "POST":
            return _error(404, "NotFound", request.path)
        if len(request.body) > LARGEST:
            message = f"{len(request.body)} bytes; at most {LARGEST}"
            return _error(413, "RequestEntityTooLarge", message)
        try:
            body = strict_json.read(request.body or b"{}")
        except strict_json.NotJsonError as error:
            return _error(400, "InvalidJson", str(error))
        return self._post(request.path, body)

    def _next(self, request: Request) -> Reply:
        invocation = self._api.take(request.gone)
        if invocation is None:
            return _error(503, "Ended", "the emulator has ended")
        headers = {
            "Lambda-Runtime-Aws-Request-Id": invocation.identity,
            "Lambda-Runtime-Deadline-Ms": str(int(invocation.deadline * 1000)),
            "Lambda-Runtime-Invoked-Function-Arn": ARN,
            "Lambda-Runtime-Trace-Id": "Root=1-5759e988-bd862e3fe1be46a994272793;Sampled=0",
        }
        return Reply(200, invocation.event, headers)

    def _post(self, path: str, body: Any) -> Reply:
        if path == INVOKE:
            return self._invoke(body)
        if path == f"{PREFIX}/init/error":
            self._api.fail_start(body)
            return reply(202, {"status": "OK"})
        if match := OUTCOME.fullmatch(path):
            known = self._api.finish(match[1], match[2], body)
            return reply(202 if known else 400, {"status": "OK" if known else "InvalidRequestID"})
        return _error(404, "NotFound", path)

    def _invoke(self, event: Any) -> Reply:
        try:
            return reply(200, self._api.invoke(event))
        except FunctionError as error:
            return reply(200, error.details, X_Amz_Function_Error="Unhandled")
        except TimeoutError:
            return _error(504, "Timeout", "no answer in time")


def _error(status: int, kind: str, message: str) -> Reply:
    return reply(status, {"errorType": kind, "errorMessage": message})
