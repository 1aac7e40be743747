# SPDX-License-Identifier: MIT
"""One function on one platform's runtime: AWS Lambda, OpenWhisk, HTTP, functions-framework.

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
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Protocol

from faas.functions import Function

RUNTIMES = Path(__file__).resolve().parents[1] / "runtimes"
PYTHON = "/usr/bin/python3"
START = 120.0  # seconds that a runtime may take to start

sys.path[:0] = [str(RUNTIMES / name) for name in ("aws-lambda", "openwhisk", "common")]

import json_http  # noqa: E402
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


def interpreter(platform: str) -> Path:
    """One that has what the platform's requirements.txt names and Debian's packages.

    It lies in a virtual environment of the cache directory, made if not there.
    Raises PlatformError if there is no way to the packages.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "upm"
    directory = cache / f"{platform}-venv"
    wanted = RUNTIMES / platform / "requirements.txt"
    stamp = directory / "requirements.txt"
    if not stamp.exists() or stamp.read_bytes() != wanted.read_bytes():
        print(f"installing {platform}'s runtime from PyPI into {directory}", flush=True)
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
        python = interpreter("aws-lambda")
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


def post(port: int, path: str, body: Any, timeout: float) -> Any:
    """The JSON that answers this JSON. Raises PlatformError for a status other than 200."""
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
        self._proxy = proxy.Proxy([*(wrapper or []), *loop])
        self._server = json_http.Server("127.0.0.1:0", self._proxy.answer)
        self.port = self._server.port
        self._activations = 0
        self.pid = 0

    def __enter__(self) -> OpenWhisk:
        """Starts the proxy, and the action by /init."""
        self._server.__enter__()
        value = {"name": self._function.name, "main": "main", "env": self._env}
        post(self.port, "/init", {"value": value}, START)
        self.pid = self._proxy.action.pid or 0
        return self

    def __exit__(self, *_: object) -> None:
        """Ends both."""
        self._proxy.action.stop()
        self._server.__exit__()

    def ask(self, event: dict[str, Any]) -> Any:
        """An activation, by /run."""
        self._activations += 1
        activation = {"value": event, "activation_id": f"{self._activations:032x}"}
        return post(self.port, "/run", activation, self._function.timeout)


class Http:
    """The HTTP server of Knative's and of-watchdog's contract on a free port."""

    READY = ("/_/ready", 200)
    """A path and the status that it has once requests are taken."""

    def __init__(self, function: Function, wrapper: list[str] | None = None, **env: str) -> None:
        """`wrapper`: words before the server's command."""
        self._function, self._wrapper, self._more = function, wrapper or [], env
        self._stack = contextlib.ExitStack()
        self.port = 0
        self.pid = 0

    def __enter__(self) -> Http:
        """Starts it and waits until it is ready."""
        with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as held:
            self.port = held.getsockname()[1]
        more = {"PORT": str(self.port), "upstream_lock": f"/tmp/.upm-lock-{self.port}"}
        process = subprocess.Popen(
            [*self._wrapper, *self._command()],
            env=_environment(self._function, {**more, **self._more}),
        )
        self._stack.callback(_stop, process)
        end = time.monotonic() + START
        while not self.is_ready():
            if process.poll() is not None or time.monotonic() > end:
                self._stack.close()
                raise PlatformError(f"the server is not ready; exit status {process.returncode}")
            time.sleep(0.05)
        self.pid = self._worker(process.pid)
        return self

    def __exit__(self, *_: object) -> None:
        """Ends it."""
        self._stack.close()

    def is_ready(self) -> bool:
        """What a readiness probe finds."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        path, status = self.READY
        try:
            connection.request("GET", path)
            return connection.getresponse().status == status
        except OSError:
            return False
        finally:
            connection.close()

    def ask(self, event: dict[str, Any]) -> Any:
        """A request."""
        return post(self.port, "/", event, self._function.timeout)

    def _command(self) -> list[str]:
        return [PYTHON, str(RUNTIMES / "http" / "server.py"), str(self._function.directory)]

    def _worker(self, pid: int) -> int:
        """The process that the function runs in, of the server's first process."""
        return pid


class FunctionsFramework(Http):
    """The real functions-framework: gunicorn's first process, and a worker with the function."""

    READY = ("/robots.txt", 404)  # of all paths, the framework itself answers this one

    def _command(self) -> list[str]:
        python = interpreter("functions-framework")
        self._more["PYTHONPATH"] = str(self._function.directory)
        source = RUNTIMES / "functions-framework" / "main.py"
        program = str(python.with_name("functions-framework"))
        return [program, "--source", str(source), "--target", "call", "--host", "127.0.0.1"]

    def _worker(self, pid: int) -> int:
        return int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0])
