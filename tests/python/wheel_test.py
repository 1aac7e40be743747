#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""The wheel of the Python package.

tests/python/wheel_test.py [CLASS[.TEST]...]
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import scripts
from scripts import PYTHON, ROOT, Case, environment


class Wheel(Case):
    """What `make wheel` made, installed into an environment of its own."""

    def test_works_alone(self) -> None:
        wheels = sorted((ROOT / "build").glob("upm-*.whl"))
        if not wheels:
            self.skipTest("no wheel: make wheel makes it")
        with tempfile.TemporaryDirectory() as folder:
            subprocess.run([PYTHON, "-m", "venv", folder], check=True)
            python = Path(folder) / "bin/python"
            options: list[str | Path] = [
                "-m",
                "pip",
                "--quiet",
                "install",
                "--no-index",
                wheels[-1],
            ]
            subprocess.run([python, *options], check=True)
            clean = environment(UPM_ENABLE="1", UPM_SOCKET=f"{folder}/socket", UPM_BACKEND="store")
            clean["PYTHONPATH"] = ""
            script = (
                "import upm; print(upm.__file__, upm.hook_stats() is not None, "
                "upm.info().backend, upm.info().reason)"
            )
            done = subprocess.run(
                [python, "-c", script], env=clean, capture_output=True, text=True, check=True
            )
            self.assertTrue(done.stdout.startswith(folder), done.stdout)
            self.assertIn("True store", done.stdout)


if __name__ == "__main__":
    sys.exit(scripts.main())
