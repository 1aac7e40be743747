# SPDX-License-Identifier: MIT
"""Talks to the HTTP server of a container through a Unix socket."""

from __future__ import annotations

import http.client
import json
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

POLL = 0.05  # seconds


class FunctionError(Exception):
    """The function did not answer 200; the text says what it said."""


class _Connection(http.client.HTTPConnection):
    def __init__(self, path: Path, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


class Client:
    """Asks one server; a connection for each request."""

    def __init__(self, path: Path, timeout: float = 600) -> None:
        """`timeout`: seconds for an answer."""
        self._path = path
        self._timeout = timeout

    def ask(self, event: dict[str, Any]) -> dict[str, Any]:
        """The function's answer. Raises FunctionError, OSError."""
        status, body = self._talk("POST", "/", json.dumps(event).encode())
        if status != 200:
            raise FunctionError(f"HTTP {status}: {body.decode(errors='replace')[:300]}")
        answer: dict[str, Any] = json.loads(body)
        return answer

    def get(self, path: str) -> int:
        """The status of that path. Raises OSError."""
        return self._talk("GET", path, None)[0]

    def wait_ready(self, seconds: float, alive: Callable[[], bool]) -> bool:
        """Whether it gets ready within that time while `alive` holds."""
        end = time.monotonic() + seconds
        while time.monotonic() < end and alive():
            try:
                if self.get("/_/ready") == 200:
                    return True
            except OSError:
                pass
            time.sleep(POLL)
        return False

    def _talk(self, method: str, path: str, body: bytes | None) -> tuple[int, bytes]:
        connection = _Connection(self._path, self._timeout)
        try:
            connection.request(method, path, body, {"Content-Type": "application/json"})
            response = connection.getresponse()
            return response.status, response.read()
        except http.client.HTTPException as error:
            raise ConnectionError(f"{method} {path}: {error!r}") from error
        finally:
            connection.close()
