#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""What an operator's Prometheus reads: metrics that promtool takes, and alerts that fire."""

import shutil
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))
from hooked import ROOT, UPMD, wait_until


class Metrics(unittest.TestCase):
    """Both need promtool, of Debian's package prometheus."""

    def promtool(self, *arguments: str, **more: object) -> None:
        """Runs it; what it complains of fails the test."""
        done = subprocess.run(
            ["promtool", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            **more,  # type: ignore[call-overload]
        )
        self.assertEqual(done.returncode, 0, done.stdout)

    def test_metrics_of_the_broker(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "upmd.prom"
            socket = Path(folder) / "upmd.sock"
            broker = subprocess.Popen([UPMD, "--socket", socket, "--metrics", file])
            try:
                wait_until(file.exists, "the file of metrics")
                text = file.read_text()
            finally:
                broker.terminate()
                broker.wait()
        self.assertIn("# TYPE upmd_content_bytes gauge", text)
        self.promtool("check", "metrics", input=text)

    def test_alerts(self) -> None:
        rules = ROOT / "deploy/prometheus"
        self.promtool("check", "rules", str(rules / "upm.rules.yml"))
        self.promtool("test", "rules", str(rules / "upm.test.yml"))


if __name__ == "__main__":
    if not shutil.which("promtool"):
        print("skipped: no promtool (apt-get install prometheus)")
        sys.exit(4)
    unittest.main()
