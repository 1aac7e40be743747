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
            # As upmd.service does it; node_exporter runs as another user all the same.
            broker = subprocess.Popen([UPMD, "--socket", socket, "--metrics", file], umask=0o077)
            try:
                wait_until(file.exists, "the file of metrics")
                text = file.read_text()
                self.assertEqual(file.stat().st_mode & 0o777, 0o644)
            finally:
                broker.terminate()
                broker.wait()
        self.assertIn("# TYPE upmd_content_bytes gauge", text)
        self.promtool("check", "metrics", input=text)

    def test_metrics_of_the_module(self) -> None:
        with tempfile.TemporaryDirectory() as root:
            files = {
                **{"enabled": "1", "max_pages": "9223372036854775807", "domain_policy": "uid"},
                **{"pages_shared": "3", "pages_sharing": "5", "scan_ns": "7", "lock_ns_max": "9"},
                **{"calls": "2", "pages_skipped": "busy 1\nsecret 0", "general_profit": "-1"},
                **{"domains/4/kind": 'uid 0 "x"', "domains/4/pages": "8"},
            }
            for name, text in files.items():
                file = Path(root) / "sys/kernel/upm" / name
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text(text + "\n")
                knob = name in ("enabled", "max_pages", "domain_policy")
                file.chmod(0o644 if knob else 0o400)
            text = subprocess.check_output(
                [UPMD.with_name("upm"), "status", "--prom", "--root", root], text=True
            )
        self.assertIn("# TYPE upm_module_saved_bytes gauge\nupm_module_saved_bytes 20480\n", text)
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
