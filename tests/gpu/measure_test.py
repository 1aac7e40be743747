#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""That measure.sh works from end to end, on the fake driver."""

import json
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))
import targets

SCRIPT = Path(__file__).resolve().parent / "measure.sh"


class MeasureTest(unittest.TestCase):
    """One run on the fake; the times of the driver mean nothing and are not looked at."""

    def measured(self) -> dict[str, Any]:
        """The JSON that the script writes."""
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / "result.json"
            command: list[str | Path] = [SCRIPT, "--fake", "--out", out]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
            self.assertIn("fake: says nothing", done.stdout)
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
        lost = {"call": 0, "wait": 700, "later": 700}
        self.assertEqual(len(result["forbidden"]), 8)
        for kind, statuses in result["forbidden"].items():
            expected = 700 if kind == "copy_from_host" else 0  # it waits for the copy
            self.assertEqual(statuses, lost | {"call": expected}, kind)
        self.assertEqual(result["sharing"]["published"], 4)
        self.assertEqual(result["sharing"]["merged"], 4)
        self.assertEqual(len(result["first_write"]), 3)
        # Times are not compared: on a busy machine either may come out first.
        for name in ("none_tracked_ns", "two_tracked_ns", "all_tracked_ns"):
            self.assertGreater(result["hook"][name], 0, name)
        self.assertEqual(result["under_work"]["status"], 0)
        self.assertIsInstance(result["under_work"]["kernel_still_ran"], bool)
        self.assertEqual(
            result["exporter_death"],
            {"imported_before_reads": True, "import_after_death": 0, "imported_after_reads": True},
        )
        self.assertTrue(result["batches_us"]["64"]["unmap_takes_them_at_once"])
        self.assertEqual(result["processes"]["processes"], 2)

    def test_table_judges_against_the_targets(self) -> None:
        """A result made up for the purpose: one target met, one missed, one not measured."""
        made_up = {
            "machine": {"fake": False, "gpu": "H200", "driver_version": 13000, "host": "here"},
            "first_write": [{"bytes": 2 << 20, "p50_us": 149.0}],
            "bandwidth": {"peak_bytes_per_second": 4e12, "tag_bytes_per_second": 3e12},
        }
        text = targets.table(made_up)
        self.assertRegex(text, r"first write, 2 MiB, p50 +<= 150 us +149 us +met")
        self.assertRegex(text, r"tag, share of memory bandwidth +>= 0.85 +0.75 +MISSED")
        self.assertRegex(text, r"attach 8 GiB +<= 25 ms +- +not measured")
        made_up["machine"] = {**made_up["machine"], "fake": True}  # type: ignore[dict-item]
        self.assertIn("fake: says nothing", targets.table(made_up))


if __name__ == "__main__":
    unittest.main()
