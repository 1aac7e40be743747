#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""That measure.sh works from end to end, on the fake driver."""

import json
import subprocess
import tempfile
import unittest
from pathlib import Path
from typing import Any

SCRIPT = Path(__file__).resolve().parent / "measure.sh"


class MeasureTest(unittest.TestCase):
    """One run on the fake; the times in it mean nothing and are not looked at."""

    def measured(self) -> dict[str, Any]:
        """The JSON that the script writes."""
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / "result.json"
            command: list[str | Path] = [SCRIPT, "--fake", "--out", out]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
            loaded: dict[str, Any] = json.loads(out.read_text())
            return loaded

    def test_result_is_complete(self) -> None:
        """Every part is there, and says that it is no GPU's."""
        result = self.measured()
        self.assertTrue(result["machine"]["fake"])
        self.assertIn("note", result)
        self.assertGreater(len(result["conformance"]), 15)
        self.assertNotIn("failed", result["conformance"].values())
        self.assertEqual(result["status_of_forbidden_write"], 700)
        self.assertEqual(result["forbidden"]["memset"], {"call": 0, "wait": 700, "later": 700})
        self.assertEqual(result["sharing"]["published"], 4)
        self.assertEqual(result["sharing"]["merged"], 4)
        self.assertEqual(len(result["first_write"]), 3)
        self.assertGreater(result["hook_ns"], 0)


if __name__ == "__main__":
    unittest.main()
