#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""runtimes/demo: one program for all runtimes."""

import subprocess
import unittest

import support
from faas import platforms


class RuntimeDemoTest(unittest.TestCase):
    """A few requests without UPM and with it."""

    def test_http(self) -> None:
        """The answers are the same, and nothing is said between the phases."""
        command = [str(platforms.RUNTIMES / "demo"), "http", "--requests", "2"]
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        self.assertIn("answers: all the same", done.stdout)
        self.assertNotIn("Traceback", done.stderr)


if __name__ == "__main__":
    support.main()
