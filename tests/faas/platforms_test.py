#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""The function text end to end on each platform's runtime, and the platforms' contracts."""

import http.client
import json
import os
import signal
import stat
import subprocess
import sys
import threading
import time
import unittest
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import support
from faas import functions, platforms

TEXT = functions.find("text")
WORDS = {"text": "One two. Three four!"}
# Says on what it was called with, then runs it: in place of `upm run --`.
WRAPPER = """#!/bin/sh
echo "$@" >"{witness}"
exec "$@"
"""
FAILING = "def handler(event):\n    raise RuntimeError('as asked for')\n"


class Case(support.TemporaryDirectory):
    """Has a wrapper and a function that fails."""

    def setUp(self) -> None:
        """Writes both."""
        super().setUp()
        self.witness = self.directory / "witness"
        self.wrapper = self.directory / "wrapper"
        self.wrapper.write_text(WRAPPER.format(witness=self.witness))
        self.wrapper.chmod(0o755)
        (self.directory / "function.py").write_text(FAILING)
        settings = {k: v for k, v in vars(TEXT).items() if k != "directory"}
        self.failing = functions.Function(directory=self.directory, **settings)

    def check_answers(self, platform: platforms.Platform) -> None:
        """Two requests, the second served by the same process."""
        for _ in range(2):
            answer = platform.ask(WORDS)
            self.assertEqual((answer["words"], answer["sentences"]), (4, 2))


class LambdaTest(Case):
    """The real awslambdaric."""

    @classmethod
    def setUpClass(cls) -> None:
        """Gets it."""
        try:
            platforms.lambda_python()
        except platforms.PlatformError as error:
            raise unittest.SkipTest(f"no awslambdaric: {error}") from error

    def test_invocations_through_the_wrapper(self) -> None:
        """AWS_LAMBDA_EXEC_WRAPPER is started with the runtime's command."""
        with platforms.Lambda(TEXT, str(self.wrapper)) as platform:
            self.check_answers(platform)
        self.assertIn("-m awslambdaric lambda_function.lambda_handler", self.witness.read_text())

    def test_failure_is_reported(self) -> None:
        """With type and message."""
        with (
            platforms.Lambda(self.failing) as platform,
            self.assertRaisesRegex(platforms.PlatformError, "RuntimeError: as asked for"),
        ):
            platform.ask({})

    def test_failed_start_is_reported(self) -> None:
        """A function that cannot be imported fails all invocations."""
        (self.directory / "function.py").write_text("import nothing_of_the_sort\n")
        with (
            platforms.Lambda(self.failing) as platform,
            self.assertRaisesRegex(platforms.PlatformError, "nothing_of_the_sort"),
        ):
            platform.ask({})

    def test_wrapper_without_upm_starts_the_runtime(self) -> None:
        """upm-wrapper fails open."""
        os.environ["UPM"] = "/nonexistent/upm"
        wrapper = platforms.RUNTIMES / "aws-lambda" / "upm-wrapper"
        with platforms.Lambda(TEXT, str(wrapper)) as platform:
            self.check_answers(platform)


class RuntimeApiTest(Case):
    """The emulator without a runtime."""

    def test_contract(self) -> None:
        """Next gives event and headers; unknown ids are refused; the RIE's URL invokes."""
        with support.script("runtimes/aws-lambda/runtime_api.py")["RuntimeApi"](10) as api:
            base = f"http://{api.address}"
            answers: list[Any] = []
            url = f"{base}/2015-03-31/functions/function/invocations"
            thread = threading.Thread(target=lambda: answers.append(self._post(url, WORDS)))
            thread.start()
            next_url = f"{base}/2018-06-01/runtime/invocation/next"
            with urllib.request.urlopen(next_url, timeout=10) as response:
                identity = response.headers["Lambda-Runtime-Aws-Request-Id"]
                deadline = int(response.headers["Lambda-Runtime-Deadline-Ms"])
                self.assertEqual(json.load(response), WORDS)
            self.assertGreater(deadline, time.time() * 1000)
            with self.assertRaises(urllib.error.HTTPError) as caught:
                self._post(f"{base}/2018-06-01/runtime/invocation/unknown/response", {})
            self.assertEqual(caught.exception.code, 400)
            self._post(f"{base}/2018-06-01/runtime/invocation/{identity}/response", {"x": 1})
            thread.join(10)
            self.assertEqual(answers, [{"x": 1}])

    def _post(self, url: str, body: Any) -> Any:
        request = urllib.request.Request(url, json.dumps(body).encode())
        with urllib.request.urlopen(request, timeout=10) as response:
            return json.load(response)


class OpenWhiskTest(Case):
    """The action loop and the proxy."""

    def test_activations_through_the_wrapper(self) -> None:
        """The wrapper is started with the loop's command."""
        with platforms.OpenWhisk(TEXT, [str(self.wrapper)]) as platform:
            self.check_answers(platform)
        self.assertIn("action_loop.py", self.witness.read_text())

    def test_failure_is_an_answer(self) -> None:
        """The action lives on."""
        with platforms.OpenWhisk(self.failing) as platform:
            for _ in range(2):
                with self.assertRaisesRegex(platforms.PlatformError, "HTTP 502: as asked for"):
                    platform.ask({})

    def test_loop_speaks_the_protocol(self) -> None:
        """Acknowledgement first, then a line for a line; the environment follows."""
        (self.directory / "function.py").write_text(
            "import os\n"
            "def handler(event):\n"
            "    print('noise')\n"
            "    return {'id': os.environ['__OW_ACTIVATION_ID'], **event}\n"
        )
        out = self.directory / "out"
        loop = platforms.RUNTIMES / "openwhisk" / "action_loop.py"
        lines = [{"value": {"a": 1}, "activation_id": "x"}, {"value": None, "activation_id": "y"}]
        done = subprocess.run(
            ["/bin/sh", "-c", f'exec "$@" 3>{out}', "sh", sys.executable, loop, self.directory],
            input="".join(json.dumps(line) + "\n" for line in lines),
            env={**os.environ, "__OW_WAIT_FOR_ACK": "1"},
            text=True,
            capture_output=True,
            check=True,
        )
        answers = [json.loads(line) for line in out.read_text().splitlines()]
        self.assertEqual(answers, [{"ok": True}, {"id": "x", "a": 1}, {"id": "y"}])
        self.assertEqual(done.stdout, "noise\nnoise\n")


class HttpTest(Case):
    """The server of Knative's and of-watchdog's contract."""

    def test_requests_through_the_wrapper(self) -> None:
        """The wrapper is started with the server's command."""
        with platforms.Http(TEXT, [str(self.wrapper)]) as platform:
            self.check_answers(platform)
        self.assertIn("server.py", self.witness.read_text())

    def test_failure_has_type_and_message(self) -> None:
        """And the server lives on."""
        with platforms.Http(self.failing) as platform:
            for _ in range(2):
                with self.assertRaisesRegex(platforms.PlatformError, "HTTP 500: as asked for"):
                    platform.ask({})

    def test_health_lock_and_graceful_end(self) -> None:
        """SIGTERM lets the request at work be answered; exit status 0, no lock left."""
        (self.directory / "function.py").write_text(
            "import pathlib, time\n"
            "def handler(event):\n"
            "    pathlib.Path(event['began']).touch()\n"
            "    time.sleep(1)\n"
            "    return {'done': True}\n"
        )
        socket, lock = self.directory / "socket", self.directory / "lock"
        began = self.directory / "began"
        from faas.client import Client

        server = platforms.RUNTIMES / "http" / "server.py"
        variables = {**os.environ, "LISTEN": f"unix:{socket}", "upstream_lock": str(lock)}
        process = subprocess.Popen([sys.executable, server, self.directory], env=variables)
        self.addCleanup(process.kill)
        client = Client(socket, 30)
        self.assertTrue(client.wait_ready(30, lambda: process.poll() is None))
        self.assertEqual(client.get("/_/health"), 200)
        self.assertEqual(client.get("/nowhere"), 404)
        answers: list[Any] = []
        event = {"began": str(began)}
        thread = threading.Thread(target=lambda: answers.append(client.ask(event)))
        thread.start()
        self._wait_for(began)
        self.assertEqual(client.get("/_/health"), 200)  # while a request is at work
        self.assertTrue(lock.exists())
        process.send_signal(signal.SIGTERM)
        thread.join(30)
        self.assertEqual(answers, [{"done": True}])
        self.assertEqual(process.wait(30), 0)
        self.assertFalse(lock.exists())

    def test_bad_requests_are_refused(self) -> None:
        """What is not a JSON object, and what is too long."""
        with platforms.Http(TEXT) as platform:
            for body, status in ((b"[1]", 400), (b"{", 400), (None, 413)):
                connection = http.client.HTTPConnection("127.0.0.1", platform.port, timeout=10)
                if body is None:
                    connection.putrequest("POST", "/")
                    connection.putheader("Content-Length", str(1 << 40))
                    connection.endheaders()
                else:
                    connection.request("POST", "/", body)
                self.assertEqual(connection.getresponse().status, status)
                connection.close()

    def _wait_for(self, path: Path) -> None:
        end = time.monotonic() + 30
        while not path.exists():
            self.assertLess(time.monotonic(), end, f"no {path}")
            time.sleep(0.02)


class RuntimeDemoTest(unittest.TestCase):
    """One program for all runtimes."""

    def test_a_few_requests(self) -> None:
        """The answers are the same without UPM and with it."""
        command = [str(platforms.RUNTIMES / "demo"), "http", "--requests", "2"]
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        self.assertIn("answers: all the same", done.stdout)


class WrapperFilesTest(Case):
    """What users copy into their images."""

    def test_scripts_are_executable(self) -> None:
        """Lambda starts them by name."""
        for name in ("bootstrap", "upm-wrapper"):
            mode = (platforms.RUNTIMES / "aws-lambda" / name).stat().st_mode
            self.assertTrue(mode & stat.S_IXOTH, name)


if __name__ == "__main__":
    support.main()
