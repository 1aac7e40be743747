# SPDX-License-Identifier: MIT
"""Scripts that use the Python package, in processes of their own: each has one backend.

What merges does so by the backend store, with a broker of the test's own, or by the
module with UPM_TEST_BACKEND=kmod.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
import unittest
from pathlib import Path
from typing import Any, ClassVar

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))

import hooked

ROOT = hooked.ROOT
HOOK = hooked.HOOK
SECONDS = hooked.SECONDS
EXIT_SKIPPED = hooked.EXIT_SKIPPED
wait_until = hooked.wait_until
PACKAGE = ROOT / "build/python"
PYTHON = sys.executable
BACKEND = os.environ.get("UPM_TEST_BACKEND", "store")
MIB = 1 << 20
SIZE = 16 * MIB

# What the scripts below may use.
PRELUDE = f"""
import contextlib, hashlib, json, mmap, os, random, sys
import upm
SIZE = {SIZE}
PAGES = SIZE // 4096

def pss():
    # Not of libraries, which others may load and leave meanwhile.
    lines = [line.split() for line in open("/proc/self/smaps_rollup")]
    return sum(int(line[1]) * 1024 for line in lines if line[0] in ("Pss_Anon:", "Pss_Shmem:"))

def content(seed=1):
    return random.Random(seed).randbytes(SIZE)

def digest(thing):
    return hashlib.sha256(thing).hexdigest()

def tell(**what):
    print(json.dumps(what), flush=True)

def step(**what):
    tell(**what)
    input()

def barrier():
    # Both processes are here before one goes on.
    step(barrier=True)

def failure(call, *arguments, **options):
    try:
        call(*arguments, **options)
    except Exception as error:
        return type(error).__name__ + ": " + str(error)
    return "nothing"
"""


def environment(**variables: str) -> dict[str, str]:
    """The environment without anything of UPM's, but the package."""
    package = {"PYTHONPATH": str(PACKAGE), "PYTHONDONTWRITEBYTECODE": "1"}
    return hooked.environment(**package | variables)


class Script(hooked.Program):
    """A Python process that runs a script, and answers by lines of JSON."""

    def __init__(self, text: str, **variables: str) -> None:
        super().__init__([PYTHON, "-c", PRELUDE + textwrap.dedent(text)], environment(**variables))

    def answer(self) -> Any:
        """The next line."""
        return json.loads(self.line())

    def finish(self) -> str:
        """Waits for its end. Returns what it wrote to stderr."""
        _, errors = self.end()
        if self.status != 0:
            raise AssertionError(f"exit status {self.status}:\n{errors}")
        return errors


def has(module: str) -> bool:
    """Whether that Python has a module."""
    done = subprocess.run([PYTHON, "-c", f"import {module}"], capture_output=True, check=False)
    return done.returncode == 0


class Case(unittest.TestCase):
    """Scripts that end with the test."""

    def script(self, text: str, **variables: str) -> Script:
        made = Script(text, **variables)
        self.addCleanup(made.kill)
        return made

    def run_one(self, text: str, **variables: str) -> Any:
        """The only answer of a script."""
        script = self.script(text, **variables)
        answer = script.answer()
        script.finish()
        return answer


class MergingCase(Case):
    """The same with a backend that merges; `merging`: variables that choose it."""

    merging: ClassVar[dict[str, str]]

    @classmethod
    def setUpClass(cls) -> None:
        cls.merging = {"UPM_BACKEND": BACKEND}
        cls.merging["MALLOC_MMAP_THRESHOLD_"] = "65536"  # no large block on the heap
        if BACKEND == "store":
            cls.start_broker()
        info = subprocess.run(
            [PYTHON, "-c", "import upm; i = upm.info(); print(i.backend, i.quiescent, i.reason)"],
            env=environment(**cls.merging),
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        if not info.startswith(f"{BACKEND} False"):
            cls.doClassCleanups()
            raise unittest.SkipTest(f"no {BACKEND} that merges while others write: {info}")

    @classmethod
    def start_broker(cls) -> None:
        broker = hooked.Broker()
        cls.addClassCleanup(broker.end)
        cls.merging["UPM_SOCKET"] = str(broker.socket)

    def both(self, text: str, steps: int, **variables: str) -> list[list[Any]]:
        """Runs a script in two processes that go on together.

        It says what it found by step(), that many times, besides barrier(). Returns the
        answers of each.
        """
        scripts = [self.script(text, **self.merging | variables) for _ in range(2)]
        rounds: list[list[Any]] = []
        while len(rounds) < steps:
            found = [script.answer() for script in scripts]
            for script in scripts:
                script.tell()
            if found != [{"barrier": True}] * 2:
                rounds.append(found)
        for script in scripts:
            script.finish()
        return [[found[index] for found in rounds] for index in range(2)]

    def check_shared(self, answers: list[list[Any]], size: int = SIZE) -> None:
        """From the first answer to the last, bytes stayed and PSS fell by about half of `size`.

        PSS counts a process for a page of the store once it has touched that page. So both
        look at all bytes, and then come to a barrier, before one of them takes its PSS.
        """
        for got in answers:
            self.assertEqual(got[0]["digest"], got[-1]["digest"])
            self.assertLess(got[-1]["pss"], got[0]["pss"] - 0.4 * size)


def main() -> int:
    """Runs the tests of the main program: all of them, or the classes or tests named.

    Returns the exit status: hooked.EXIT_SKIPPED if none could run.
    """
    names = vars(sys.modules["__main__"])
    cases = [
        name
        for name, what in names.items()
        if isinstance(what, type)
        and issubclass(what, unittest.TestCase)
        and what.__module__ == "__main__"
    ]
    return hooked.main(*cases)
