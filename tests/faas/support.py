# SPDX-License-Identifier: MIT
"""What the tests of faas-integration share."""

from __future__ import annotations

import importlib.util
import os
import runpy
import sys
import tempfile
import unittest
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
FAAS = ROOT / "faas-integration"
EXIT_SKIPPED = 4

sys.path.insert(0, str(FAAS))

HAVE_TORCH = bool(importlib.util.find_spec("torch") and importlib.util.find_spec("torchvision"))
HAVE_PIL = importlib.util.find_spec("PIL") is not None

needs_torch = unittest.skipUnless(HAVE_TORCH, "no python3-torch and python3-torchvision")
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


def main() -> None:
    """Runs the tests of the calling script; exit status 4 if all were skipped."""
    program = unittest.main(module="__main__", exit=False, verbosity=2)
    result = program.result
    for test, reason in result.skipped:
        print(f"skipped: {test}: {reason}")
    if not result.wasSuccessful():
        sys.exit(1)
    sys.exit(EXIT_SKIPPED if result.testsRun and len(result.skipped) == result.testsRun else 0)
