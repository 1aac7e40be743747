#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Emulates Lambda's Runtime API (version 2018-06-01) for one runtime.

The runtime asks `GET …/invocation/next`, which waits for an event, and posts to
`…/invocation/<id>/response` or `…/error`; a failed start to `…/init/error`.
Events come from invoke(), or over HTTP as with AWS's Runtime Interface Emulator:
`POST /2015-03-31/functions/function/invocations`.

https://docs.aws.amazon.com/lambda/latest/dg/runtimes-api.html
"""

from __future__ import annotations

import contextlib
import json
import queue
import re
import threading
import time
import uuid
from concurrent.futures import Future
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any

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
        handler = type("BoundTalk", (_Talk,), {"api": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True

    @property
    def address(self) -> str:
        """For AWS_LAMBDA_RUNTIME_API: host:port."""
        host, port = self._server.server_address[:2]
        return f"{host!s}:{port}"

    def __enter__(self) -> RuntimeApi:
        """Serves."""
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        """Lets the runtime's open requests go, and closes."""
        self._ended.set()
        self._server.shutdown()
        self._server.server_close()

    def invoke(self, event: Any) -> Any:
        """The function's answer.

        Raises FunctionError if it failed or did not start, TimeoutError after
        the time of an invocation.
        """
        if self._failed_start is not None:
            raise self._failed_start
        invocation = _Invocation(json.dumps(event).encode(), time.time() + self._timeout)
        self._at_work[invocation.identity] = invocation
        self._waiting.put(invocation)
        try:
            return invocation.outcome.result(self._timeout)
        finally:
            del self._at_work[invocation.identity]

    def take(self) -> _Invocation | None:
        """The next event for the runtime; None at the end."""
        while not self._ended.is_set():
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


class _Talk(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    api: RuntimeApi

    def do_GET(self) -> None:  # noqa: N802  # the name it is found by
        if self.path != f"{PREFIX}/invocation/next":
            self._reply(404, {"errorType": "NotFound", "errorMessage": self.path})
            return
        invocation = self.api.take()
        if invocation is None:
            self.close_connection = True
            return
        headers = {
            "Lambda-Runtime-Aws-Request-Id": invocation.identity,
            "Lambda-Runtime-Deadline-Ms": str(int(invocation.deadline * 1000)),
            "Lambda-Runtime-Invoked-Function-Arn": ARN,
            "Lambda-Runtime-Trace-Id": "Root=1-5759e988-bd862e3fe1be46a994272793;Sampled=0",
        }
        self._send(200, invocation.event, headers)

    def do_POST(self) -> None:  # noqa: N802  # the name it is found by
        body = self._body()
        if body is None:
            return
        if self.path == INVOKE:
            self._invoke(body)
        elif self.path == f"{PREFIX}/init/error":
            self.api.fail_start(body)
            self._reply(202, {"status": "OK"})
        elif match := OUTCOME.fullmatch(self.path):
            known = self.api.finish(match[1], match[2], body)
            self._reply(202 if known else 400, {"status": "OK" if known else "InvalidRequestID"})
        else:
            self._reply(404, {"errorType": "NotFound", "errorMessage": self.path})

    def _body(self) -> Any:
        """The posted JSON; None if it was refused. The client library sends it chunked."""
        chunks = b""
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            while size := int(self.rfile.readline().split(b";")[0], 16):
                chunks += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        else:
            chunks = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if len(chunks) > LARGEST:
            message = f"{len(chunks)} bytes; at most {LARGEST}"
            self._reply(413, {"errorType": "RequestEntityTooLarge", "errorMessage": message})
            return None
        try:
            return json.loads(chunks or b"null") if chunks else {}
        except ValueError as error:
            self._reply(400, {"errorType": "InvalidJson", "errorMessage": str(error)})
            return None

    def _invoke(self, event: Any) -> None:
        try:
            self._reply(200, self.api.invoke(event))
        except FunctionError as error:
            self._send(
                200, json.dumps(error.details).encode(), {"X-Amz-Function-Error": "Unhandled"}
            )
        except TimeoutError:
            self._reply(504, {"errorType": "Timeout", "errorMessage": "no answer in time"})

    def _reply(self, status: int, body: Any) -> None:
        self._send(status, json.dumps(body).encode(), {})

    def _send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        for name, value in headers.items():
            self.send_header(name, value)
        # A runtime that failed to start does not wait for the answer.
        with contextlib.suppress(BrokenPipeError):
            self.end_headers()
            self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: requests are the user's, and failures come out as exceptions."""
