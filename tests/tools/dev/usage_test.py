#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Scripts that people call say what they take when they are called wrongly."""

import subprocess
import unittest
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
NONSENSE = ("--nonsense", "nonsense")
WRONG = {
    "tools/dev/deb": (NONSENSE[:1], NONSENSE[1:], ("--jobs",), ("--jobs", "x"), ("--jobs", "0")),
    "tools/dev/deps": (NONSENSE[:1], NONSENSE[1:], ("--list", "nonsense")),
    "tools/dev/lint": (NONSENSE[:1], NONSENSE[1:]),
    "tools/dev/check-tree": (NONSENSE[1:],),
    "tools/dev/uninstall": ((), NONSENSE),
    "tools/dev/tidy": (NONSENSE[:1], ("--jobs", "x")),
    "tools/dev/wheel": (NONSENSE[:1], NONSENSE[1:]),
    "tools/completions/generate": ((), NONSENSE[:1]),
    "tests/run-steps": (NONSENSE[:1], NONSENSE[1:]),
    "tests/adopt/debian-folder": ((), NONSENSE[1:]),
    "tests/adopt/first-hour": (NONSENSE[:1],),
    "tests/vm/run": ((), NONSENSE[:1]),
    "bench/run": (NONSENSE[:1], NONSENSE[1:]),
    "bench/figures/run": (NONSENSE[:1], ("--only", "nonsense")),
    "faas-integration/demo": (NONSENSE[:1], ("-n", "0"), ("-n", "x"), ("--model", "x")),
    "faas-integration/churn": (NONSENSE[:1], ("-n", "0"), ("--seconds", "x")),
}


class Usage(unittest.TestCase):
    """Exit status 2, and a few lines on standard error."""

    def test_it_is_told(self) -> None:
        for script, calls in WRONG.items():
            for words in calls:
                with self.subTest(script=script, words=words):
                    done = subprocess.run(
                        [ROOT / script, *words],
                        cwd=ROOT,
                        stdin=subprocess.DEVNULL,
                        capture_output=True,
                        text=True,
                        timeout=120,
                        check=False,
                    )
                    self.assertEqual((done.returncode, done.stdout), (2, ""), done.stderr)
                    self.assertNotIn("Traceback", done.stderr)
                    self.assertNotIn("unbound", done.stderr)
                    self.assertIn(len(done.stderr.splitlines()), range(1, 20), done.stderr)


if __name__ == "__main__":
    unittest.main()
