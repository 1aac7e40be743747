# SPDX-License-Identifier: MIT
"""One function on one platform's runtime: AWS Lambda, OpenWhisk or HTTP.

Each class is a context manager that starts the runtime as its platform would,
without a container; ask() sends a request the way of the platform. `wrapper` is
what the platform's own means put before the runtime's command; with UPM that is
`upm run --`.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any, Protocol

from faas.functions import Function

RUNTIMES = Path(__file__).resolve().parents[1] / "runtimes"
PYTHON = "/usr/bin/python3"
START = 120.0  # seconds that a runtime may take to start

sys.path[:0] = [str(RUNTIMES / "aws-lambda"), str(RUNTIMES / "openwhisk")]

import proxy  # noqa: E402
import runtime_api  # noqa: E402


class PlatformError(Exception):
    """The runtime did not start, or refused a request; the text says why."""


class Platform(Protocol):
    """A runtime with a function."""

    pid: int
    """Of the process that the function runs in."""

    def ask(self, event: dict[str, Any]) -> Any:
        """The function's answer. Raises PlatformError if it failed."""


def lambda_python(cache: Path | None = None) -> Path:
    """An interpreter that has awslambdaric and Debian's packages, made if not there.

    Raises PlatformError if there is no way to the package.
    """
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "upm"
    directory = (cache or home) / "lambda-venv"
    wanted = RUNTIMES / "aws-lambda" / "requirements.txt"
    stamp = directory / "requirements.txt"
    if not stamp.exists() or stamp.read_bytes() != wanted.read_bytes():
        print(f"installing awslambdaric from PyPI into {directory}", flush=True)
        pip = [str(directory / "bin" / "pip"), "install", "--quiet", "--disable-pip-version-check"]
        for command in (
            [PYTHON, "-m", "venv", "--clear", "--system-site-packages", str(directory)],
            [*pip, "--requirement", str(wanted)],
        ):
            done = subprocess.run(command, check=False, capture_output=True, text=True)
            if done.returncode != 0:
                said = (done.stderr or done.stdout).strip()[-400:]
                raise PlatformError(f"{' '.join(command[:3])} …: {said}")
        shutil.copy(wanted, stamp)
    return directory / "bin" / "python3"


def _environment(function: Function, more: dict[str, str]) -> dict[str, str]:
    # The function's own settings are defaults: MODEL=tiny from outside wins.
    return {**function.environment, "PYTHONDONTWRITEBYTECODE": "1", **os.environ, **more}


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


class Lambda:
    """The real awslambdaric, talking to the Runtime API emulator."""

    def __init__(self, function: Function, wrapper: str = "", **environment: str) -> None:
        """`wrapper`: for AWS_LAMBDA_EXEC_WRAPPER; empty: none."""
        self._function = function
        self._environment = environment
        if wrapper:
            self._environment["AWS_LAMBDA_EXEC_WRAPPER"] = wrapper
        self._stack = contextlib.ExitStack()
        self._api = runtime_api.RuntimeApi(function.timeout)
        self.pid = 0

    def __enter__(self) -> Lambda:
        """Starts both."""
        python = lambda_python()
        self._stack.enter_context(self._api)
        process = subprocess.Popen(
            [str(RUNTIMES / "aws-lambda" / "bootstrap")],
            env=_environment(
                self._function,
                {
                    **self._environment,
                    "PYTHON": str(python),
                    "LAMBDA_TASK_ROOT": str(self._function.directory),
                    "AWS_LAMBDA_RUNTIME_API": self._api.address,
                    "AWS_LAMBDA_FUNCTION_NAME": self._function.name,
                    "AWS_LAMBDA_FUNCTION_VERSION": "$LATEST",
                    "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": str(self._function.memory),
                    "AWS_REGION": "us-east-1",
                },
            ),
        )
        self._stack.callback(_stop, process)
        self.pid = process.pid
        return self

    def __exit__(self, *_: object) -> None:
        """Ends both."""
        self._stack.close()

    def ask(self, event: dict[str, Any]) -> Any:
        """An invocation."""
        try:
            return self._api.invoke(event)
        except (runtime_api.FunctionError, TimeoutError) as error:
            raise PlatformError(str(error) or "no answer in time") from error


def _post(port: int, path: str, body: Any, timeout: float) -> Any:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
    try:
        connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
        response = connection.getresponse()
        answer = json.loads(response.read())
    finally:
        connection.close()
    if response.status != 200:
        raise PlatformError(f"HTTP {response.status}: {answer.get('error')}")
    return answer


class OpenWhisk:
    """The action loop below the stand-in for its proxy."""

    def __init__(self, function: Function, wrapper: list[str] | None = None, **env: str) -> None:
        """`wrapper`: words before the command in `exec`."""
        loop = [PYTHON, str(RUNTIMES / "openwhisk" / "action_loop.py"), str(function.directory)]
        self._function = function
        self._env = _environment(function, env)
        self._server, self._action = proxy.serve([*(wrapper or []), *loop], 0)
        self.port = int(self._server.server_address[1])
        self._activations = 0
        self.pid = 0

    def __enter__(self) -> OpenWhisk:
        """Starts the proxy, and the action by /init."""
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        value = {"name": self._function.name, "main": "main", "env": self._env}
        _post(self.port, "/init", {"value": value}, START)
        self.pid = self._action.pid or 0
        return self

    def __exit__(self, *_: object) -> None:
        """Ends both."""
        self._action.stop()
        self._server.shutdown()
        self._server.server_close()

    def ask(self, event: dict[str, Any]) -> Any:
        """An activation, by /run."""
        self._activations += 1
        activation = {"value": event, "activation_id": f"{self._activations:032x}"}
        return _post(self.port, "/run", activation, self._function.timeout)


class Http:
    """The HTTP server of Knative's and of-watchdog's contract on a free port."""

    def __init__(self, function: Function, wrapper: list[str] | None = None, **env: str) -> None:
        """`wrapper`: words before the server's command."""
        self._function, self._wrapper, self._more = function, wrapper or [], env
        self._stack = contextlib.ExitStack()
        self.port = 0
        self.pid = 0

    def __enter__(self) -> Http:
        """Starts it and waits until it is ready."""
        with contextlib.closing(_free_port()) as held:
            self.port = held.getsockname()[1]
        server = [PYTHON, str(RUNTIMES / "http" / "server.py"), str(self._function.directory)]
        more = {"PORT": str(self.port), "upstream_lock": f"/tmp/.upm-lock-{self.port}"}
        process = subprocess.Popen(
            [*self._wrapper, *server], env=_environment(self._function, {**more, **self._more})
        )
        self._stack.callback(_stop, process)
        self.pid = process.pid
        end = time.monotonic() + START
        while not self.is_ready():
            if process.poll() is not None or time.monotonic() > end:
                self._stack.close()
                raise PlatformError(f"the server is not ready; exit status {process.returncode}")
            time.sleep(0.05)
        return self

    def __exit__(self, *_: object) -> None:
        """Ends it."""
        self._stack.close()

    def is_ready(self) -> bool:
        """What a readiness probe finds."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            connection.request("GET", "/_/ready")
            return connection.getresponse().status == 200
        except OSError:
            return False
        finally:
            connection.close()

    def ask(self, event: dict[str, Any]) -> Any:
        """A request."""
        return _post(self.port, "/", event, self._function.timeout)


def _free_port() -> Any:
    import socket

    return socket.create_server(("127.0.0.1", 0))
