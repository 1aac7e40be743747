# SPDX-License-Identifier: MIT
"""What the tests of faas-integration share."""

from __future__ import annotations

import importlib.util
import os
import runpy
import sys
import tempfile
import time
import unittest
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
FAAS = ROOT / "faas-integration"
EXIT_SKIPPED = 4

sys.path.insert(0, str(FAAS))

from faas import functions, platforms  # noqa: E402

HAVE_TORCH = bool(importlib.util.find_spec("torch") and importlib.util.find_spec("torchvision"))
HAVE_PIL = importlib.util.find_spec("PIL") is not None
HAVE_JINJA2 = importlib.util.find_spec("jinja2") is not None

needs_torch = unittest.skipUnless(HAVE_TORCH, "no python3-torch and python3-torchvision")
needs_jinja2 = unittest.skipUnless(HAVE_JINJA2, "no python3-jinja2")
needs_pil = unittest.skipUnless(HAVE_PIL, "no python3-pil")


def script(path: str) -> dict[str, Any]:
    """What a Python file below faas-integration/ defines."""
    return runpy.run_path(str(FAAS / path))


def load_function(name: str) -> Any:
    """The handler of a function."""
    return script(f"functions/{name}/function.py")["handler"]


class TemporaryDirectory(unittest.TestCase):
    """A test with a directory that goes with it, and an environment that is put back."""

    def setUp(self) -> None:
        """Makes both."""
        held = tempfile.TemporaryDirectory(prefix="upm-test-")
        self.addCleanup(held.cleanup)
        self.directory = Path(held.name)
        before = dict(os.environ)
        self.addCleanup(os.environ.update, before)
        self.addCleanup(os.environ.clear)


# Says on a file what it was called with, then runs it: in place of `upm run --`.
WRAPPER = """#!/bin/sh
echo "$@" >"{witness}"
exec "$@"
"""
FAILING = "def handler(event):\n    raise RuntimeError('as asked for')\n"
WORDS = {"text": "One two. Three four!"}


class RuntimeCase(TemporaryDirectory):
    """Has a wrapper, and a function of the test's own, which fails at first."""

    def setUp(self) -> None:
        """Writes both."""
        super().setUp()
        self.text = functions.find("text")
        self.witness = self.directory / "witness"
        self.wrapper = self.program("wrapper", WRAPPER.format(witness=self.witness))
        settings = {k: v for k, v in vars(self.text).items() if k != "directory"}
        self.own = functions.Function(directory=self.directory, **settings)
        self.write_function(FAILING)

    def program(self, name: str, text: str | bytes) -> Path:
        """An executable file."""
        path = self.directory / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        path.chmod(0o755)
        return path

    def write_function(self, text: str) -> None:
        """Of `self.own`, for what is started from now on."""
        (self.directory / "function.py").write_text(text)

    def check_answers(self, platform: platforms.Platform) -> None:
        """Two requests, the second served by the same process."""
        for _ in range(2):
            answer = platform.ask(WORDS)
            self.assertEqual((answer["words"], answer["sentences"]), (4, 2))

    def wait_for(self, path: Path) -> None:
        """Until it is there."""
        end = time.monotonic() + 30
        while not path.exists():
            self.assertLess(time.monotonic(), end, f"no {path}")
            time.sleep(0.02)


def main() -> None:
    """Runs the tests of the calling script; exit status 4 if all were skipped."""
    program = unittest.main(module="__main__", exit=False, verbosity=2)
    result = program.result
    for test, reason in result.skipped:
        print(f"skipped: {test}: {reason}")
    if not result.wasSuccessful():
        sys.exit(1)
    sys.exit(EXIT_SKIPPED if result.testsRun and len(result.skipped) == result.testsRun else 0)
