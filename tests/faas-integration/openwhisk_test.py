#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""runtimes/openwhisk: the action loop, and the stand-in for its proxy.

Whatever a function does, each activation has an answer, and later ones too.
"""

import json
import os
import select
import signal
import subprocess
import sys
import time
from typing import Any

import support
from faas import platforms

LOOP = str(platforms.RUNTIMES / "openwhisk" / "action_loop.py")
SOON = 8.0  # seconds, less than what the function leaves behind lives for

# Does what the event names, and answers with what is left.
ODD = """
import decimal, os, subprocess, sys, time
class Angry(Exception):
    def __str__(self):
        raise KeyboardInterrupt
    __repr__ = __str__
def handler(event):
    kind = event.get("kind", "echo")
    if kind == "angry":
        raise Angry
    if kind == "code":
        sys.exit(Angry())
    if kind == "twice":
        return {"parent": os.fork() != 0}
    if kind == "tool":
        done = subprocess.run(["head", "-n", "1"], capture_output=True, text=True, timeout=5)
        return {"read": done.stdout}
    if kind == "background":
        subprocess.Popen(["sleep", "40"])
        return {"kind": kind}
    if kind == "fork":
        child = os.fork()
        if child == 0:
            time.sleep(40)
            os._exit(0)
        return {"child": child}
    if kind == "die":
        os._exit(3)
    if kind == "exit":
        sys.exit(1)
    if kind == "close":
        sys.stdout.close()
        return {"kind": kind}
    if kind == "decimal":
        return {"score": decimal.Decimal("0.5")}
    if kind == "nan":
        return {"score": float("nan")}
    if kind == "deep":
        deep = []
        for _ in range(100000):
            deep = [deep]
        return {"deep": deep}
    return {"got": event}
"""


class LoopTest(support.RuntimeCase):
    """The loop by itself, spoken to over its streams."""

    def _answers(self, *lines: bytes, **environment: str) -> tuple[list[Any], str]:
        """The answers to the lines, and stdout."""
        out = self.directory / "out"
        done = subprocess.run(
            ["/bin/sh", "-c", f'exec "$@" 3>{out}', "sh", sys.executable, LOOP, self.directory],
            input=b"".join(line + b"\n" for line in lines),
            env={**os.environ, **environment},
            capture_output=True,
            check=True,
            timeout=60,
        )
        return [json.loads(line) for line in out.read_bytes().split(b"\n")[:-1]], str(
            done.stdout, "utf-8"
        )

    def test_protocol(self) -> None:
        """Acknowledgement first, then a line for a line; the environment follows."""
        self.write_function(
            "import os\n"
            "def handler(event):\n"
            "    print('noise')\n"
            "    return {'id': os.environ['__OW_ACTIVATION_ID'], **event}\n"
        )
        lines = [{"value": {"a": 1}, "activation_id": "x"}, {"value": None, "activation_id": "y"}]
        answers, out = self._answers(
            *(json.dumps(line).encode() for line in lines), __OW_WAIT_FOR_ACK="1"
        )
        self.assertEqual(answers, [{"ok": True}, {"id": "x", "a": 1}, {"id": "y"}])
        self.assertEqual(out, "noise\nnoise\n")

    def test_each_line_has_its_answer(self) -> None:
        """Also half an emoji, a line that is no activation, and text in any locale."""
        self.write_function(ODD)
        deep = b'{"value":{"a":' + b"[" * 100000 + b"]" * 100000 + b"}}"
        lines = (
            b'{"value":{"text":"cut \\ud83d"}}',
            b"{oops",
            b"[1]",
            deep,
            b'{"value":{"a":1},"x":"a\\u0000b"}',
            b'{"value":{"a":1},"x=y":"z"}',
            b'{"value":{"a":1},"x":"\\ud83d"}',
            b'{"value":{"a":"\xff"}}',
            '{"value":{"t":"ä€😀\u2028\u0085"}}'.encode(),
            b'{"value":{"a":2}}',
        )
        c_locale = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
        answers, _ = self._answers(*lines, **c_locale)
        kinds = ["got" if "got" in answer else "error" for answer in answers]
        self.assertEqual(kinds, ["got", *["error"] * 7, "got", "got"])
        self.assertEqual(answers[0], {"got": {"text": "cut \ud83d"}})
        self.assertEqual(answers[-2], {"got": {"t": "ä€😀\u2028\u0085"}})

    def test_each_kind_of_answer(self) -> None:
        """What JSON cannot say and what the function raises are errors; the loop goes on."""
        self.write_function(ODD)
        kinds = ("decimal", "nan", "deep", "angry", "code", "exit", "close")
        lines = [json.dumps({"value": {"kind": kind}}).encode() for kind in kinds]
        answers, _ = self._answers(*lines, b'{"value":{"a":2}}')
        for kind, answer in zip(kinds[:6], answers, strict=False):
            self.assertIn("error", answer, kind)
        self.assertIn("sys.exit(1)", answers[5]["error"])
        self.assertEqual(answers[6:], [{"kind": "close"}, {"got": {"a": 2}}])

    def test_a_child_that_comes_back(self) -> None:
        """Does not answer: its parent does."""
        self.write_function(ODD)
        answers, _ = self._answers(b'{"value":{"kind":"twice"}}', b'{"value":{"a":2}}')
        self.assertEqual(answers, [{"parent": True}, {"got": {"a": 2}}])

    def test_variables_that_are_no_text(self) -> None:
        """Are JSON, as with /init."""
        self.write_function(
            "import os\ndef handler(event):\n    return {'x': os.environ['__OW_X']}\n"
        )
        answers, _ = self._answers(b'{"x":{"a":[true,null]}}', b'{"x":"a"}')
        self.assertEqual(answers, [{"x": '{"a": [true, null]}'}, {"x": "a"}])


class ProxyTest(support.RuntimeCase):
    """Activations over HTTP."""

    def test_activations_through_the_wrapper(self) -> None:
        """The wrapper is started with the loop's command."""
        with platforms.OpenWhisk(self.text, [str(self.wrapper)]) as platform:
            self.check_answers(platform)
        self.assertIn("action_loop.py", self.witness.read_text())

    def test_failure_is_an_answer(self) -> None:
        """The action lives on."""
        with platforms.OpenWhisk(self.own) as platform:
            for _ in range(2):
                with self.assertRaisesRegex(platforms.PlatformError, "HTTP 502: as asked for"):
                    platform.ask({})

    def test_a_tool_that_reads_stdin(self) -> None:
        """Finds nothing there: what comes is the loop's."""
        self.write_function(ODD)
        with platforms.OpenWhisk(self.own) as platform:
            for _ in range(2):
                self.assertEqual(platform.ask({"kind": "tool"}), {"read": ""})
            self.assertEqual(platform.ask({"a": 1}), {"got": {"a": 1}})

    def test_what_a_function_leaves_behind(self) -> None:
        """Does not hold up the answer that the action has ended, nor the next activation."""
        self.write_function(ODD)
        for leave in ("background", "fork"):
            with platforms.OpenWhisk(self.own) as platform:
                began = time.monotonic()
                platform.ask({"kind": leave})
                with self.assertRaisesRegex(platforms.PlatformError, "502: .*ended without"):
                    platform.ask({"kind": "die"})
                self.assertEqual(platform.ask({"a": 1}), {"got": {"a": 1}})
                self.assertLess(time.monotonic() - began, SOON, leave)

    def test_ended_between_activations(self) -> None:
        """The next one finds a new process."""
        self.write_function(ODD)
        with platforms.OpenWhisk(self.own) as platform:
            ended = os.pidfd_open(platform.pid)
            os.kill(platform.pid, signal.SIGKILL)
            select.select([ended], [], [], 30)
            os.close(ended)
            self.assertEqual(platform.ask({"a": 1}), {"got": {"a": 1}})

    def test_wrong_requests(self) -> None:
        """Are refused with the reason."""
        self.write_function(ODD)
        with platforms.OpenWhisk(self.own) as platform:
            for path, body, text in (
                ("/init", {}, "HTTP 403: .*already"),
                ("/run", [], "HTTP 400"),
                ("/run", {"value": 5}, "HTTP 400"),
                ("/nowhere", {}, "HTTP 404"),
            ):
                with self.assertRaisesRegex(platforms.PlatformError, text):
                    platforms.post(platform.port, path, body, 30)
            self.assertEqual(platform.ask({"t": "\ud83d"}), {"got": {"t": "\ud83d"}})


if __name__ == "__main__":
    support.main()
