#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""runtimes/aws-lambda: the real runtime on the emulated Runtime API, and upm-wrapper."""

import contextlib
import http.client
import io
import json
import os
import stat
import subprocess
import threading
import time
import unittest
import urllib.error
import urllib.request
from typing import Any

import support
from faas import platforms
from support import WORDS

LAMBDA = platforms.RUNTIMES / "aws-lambda"
WRAPPER = LAMBDA / "upm-wrapper"
DELAYED_ACK = 0.040  # seconds that the kernel may wait with an acknowledgement
# The header of a program for 64-bit s390; then what a shell would do with the file.
FOREIGN = b"\x7fELF\x02\x02\x01" + bytes(9) + b"\x00\x02\x00\x16\n"


class LambdaTest(support.RuntimeCase):
    """The real awslambdaric."""

    @classmethod
    def setUpClass(cls) -> None:
        """Gets it."""
        try:
            platforms.interpreter("aws-lambda")
        except platforms.PlatformError as error:
            raise unittest.SkipTest(f"no awslambdaric: {error}") from error

    def test_invocations_through_the_wrapper(self) -> None:
        """AWS_LAMBDA_EXEC_WRAPPER is started with the runtime's command."""
        with platforms.Lambda(self.text, str(self.wrapper)) as platform:
            self.check_answers(platform)
        self.assertIn("-m awslambdaric lambda_function.lambda_handler", self.witness.read_text())

    def test_failure_is_reported(self) -> None:
        """With type and message."""
        with (
            platforms.Lambda(self.own) as platform,
            self.assertRaisesRegex(platforms.PlatformError, "RuntimeError: as asked for"),
        ):
            platform.ask({})

    def test_failed_start_is_reported(self) -> None:
        """A function that cannot be imported fails all invocations."""
        self.write_function("import nothing_of_the_sort\n")
        with (
            platforms.Lambda(self.own) as platform,
            self.assertRaisesRegex(platforms.PlatformError, "nothing_of_the_sort"),
        ):
            platform.ask({})

    def test_an_invocation_waits_for_no_timer(self) -> None:
        """The emulator adds nothing of the kernel's to what is measured."""
        with platforms.Lambda(self.text) as platform:
            times = []
            for _ in range(20):
                began = time.monotonic()
                platform.ask(WORDS)
                times.append(time.monotonic() - began)
        self.assertLess(min(times), DELAYED_ACK)

    def test_the_end_is_silent(self) -> None:
        """The runtime goes while its request for the next event is open."""
        said = io.StringIO()
        with contextlib.redirect_stderr(said):
            for _ in range(3):
                with platforms.Lambda(self.text) as platform:
                    self.check_answers(platform)
                time.sleep(0.3)
        self.assertEqual(said.getvalue(), "")

    def test_wrapper_without_upm_starts_the_runtime(self) -> None:
        """upm-wrapper fails open."""
        os.environ["UPM"] = "/nonexistent/upm"
        with platforms.Lambda(self.text, str(WRAPPER)) as platform:
            self.check_answers(platform)


class RuntimeApiTest(support.RuntimeCase):
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

    def test_an_event_waits_for_a_runtime_that_lives(self) -> None:
        """Not for one that asked for it and is gone."""
        path = "/2018-06-01/runtime/invocation/next"
        with support.script("runtimes/aws-lambda/runtime_api.py")["RuntimeApi"](10) as api:
            gone = http.client.HTTPConnection(api.address, timeout=10)
            gone.request("GET", path)
            time.sleep(0.1)
            gone.close()
            time.sleep(1)
            thread = threading.Thread(target=lambda: api.invoke(WORDS))
            thread.start()
            with urllib.request.urlopen(f"http://{api.address}{path}", timeout=10) as response:
                identity = response.headers["Lambda-Runtime-Aws-Request-Id"]
                self.assertEqual(json.load(response), WORDS)
            outcome = f"/2018-06-01/runtime/invocation/{identity}/response"
            self._post(f"http://{api.address}{outcome}", {})
            thread.join(10)

    def _post(self, url: str, body: Any) -> Any:
        request = urllib.request.Request(url, json.dumps(body).encode())
        with urllib.request.urlopen(request, timeout=10) as response:
            return json.load(response)


class WrapperTest(support.RuntimeCase):
    """upm-wrapper starts the function, whatever is wrong with UPM."""

    def _run(self, upm: str, options: str = "") -> tuple[str, str]:
        """What the function prints, a word of its own and the preloaded library; what is said."""
        done = subprocess.run(
            [str(WRAPPER), "/bin/sh", "-c", 'echo "$1 ${LD_PRELOAD:-nothing}"', "sh", "a b"],
            env={**os.environ, "UPM": upm, "UPM_RUN_OPTIONS": options},
            check=False,
            capture_output=True,
            text=True,
            timeout=60,
        )
        self.assertEqual(done.returncode, 0, done.stderr)
        return done.stdout, done.stderr

    def test_whatever_is_wrong(self) -> None:
        """The reason is said, and the function runs without UPM."""
        touched = self.directory / "touched"
        foreign = self.program("foreign", FOREIGN + f"touch {touched}\n".encode())
        for upm, reason in (
            ("/nonexistent/upm", "no program /nonexistent/upm"),
            (str(self.directory), f"no program {self.directory}"),
            (str(foreign), "is for another machine"),
            (str(self.program("empty", "")), "does not start a program"),
            (str(self.program("other", "#!/nonexistent/interpreter\n")), "does not start"),
            (str(self.program("failing", "#!/bin/sh\necho 'no library' >&2; exit 1\n")), "no lib"),
            (str(self.program("dying", "#!/bin/sh\nkill -9 $$\n")), "does not start a program"),
        ):
            out, said = self._run(upm)
            self.assertEqual(out, "a b nothing\n", upm)
            self.assertIn(reason, said)
        self.assertFalse(touched.exists())

    def test_a_hanging_upm(self) -> None:
        """Is not waited for; neither is one that wants no end, nor what it leaves behind."""
        for text in (
            "exec sleep 100",
            "trap '' TERM; while :; do sleep 1; done",
            "setsid sleep 100 &",
        ):
            hanging = self.program("hanging", f"#!/bin/sh\n{text}\n")
            self.assertEqual(self._run(str(hanging))[0], "a b nothing\n", text)

    def test_the_real_upm(self) -> None:
        """Preloads the hook; with an option that it does not know, the function runs without."""
        upm = support.ROOT / "build" / "bin" / "upm"
        if not upm.exists():
            self.skipTest(f"no {upm}")
        out, said = self._run(str(upm))
        self.assertIn("libupm-preload.so", out)
        self.assertEqual(said, "")
        out, said = self._run(str(upm), "--no-such-option")
        self.assertEqual(out, "a b nothing\n")
        self.assertIn("no-such-option", said)

    def test_scripts_are_executable(self) -> None:
        """Lambda starts them by name."""
        for name in ("bootstrap", "upm-wrapper"):
            self.assertTrue((LAMBDA / name).stat().st_mode & stat.S_IXOTH, name)


if __name__ == "__main__":
    support.main()
