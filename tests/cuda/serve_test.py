#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""serve.py with a stand-in for PyTorch on the fake driver, and where it cannot run.

serve_test.py BUILD_FOLDER
"""

import json
import os
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

HERE = Path(__file__).resolve().parent
SERVE = HERE.parents[1] / "cuda-cow/torch/serve.py"
BUILD = Path(sys.argv.pop(1)) if len(sys.argv) > 1 else HERE.parents[1] / "build"
UNIT = 65536
EXTENTS = 2 + 5 + 1  # of the stand-in's three layers
DIFFERENT = 2 + 2 + 1  # whole extents of one layer are equal


class ServeTest(unittest.TestCase):
    """Each test with a broker of its own."""

    def setUp(self) -> None:
        self._folder = tempfile.TemporaryDirectory()
        self.addCleanup(self._folder.cleanup)
        self.socket = f"{self._folder.name}/broker.sock"
        broker = subprocess.Popen(
            [BUILD / "bin/upm-cudad", "--socket", self.socket], stdout=subprocess.PIPE, text=True
        )
        self.addCleanup(broker.wait)
        self.addCleanup(broker.kill)
        assert broker.stdout is not None
        self.addCleanup(broker.stdout.close)
        self.assertIn("listening", broker.stdout.readline())

    def serve(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Runs the example."""
        library = str(BUILD / "lib/libupm-cuda-torch.so")
        command = [sys.executable, str(SERVE), "--library", library]
        return subprocess.run(
            [*command, *arguments],
            capture_output=True,
            text=True,
            check=False,
            timeout=100,
            env=os.environ
            | {
                "PYTHONPATH": str(HERE / "stand-in"),
                "UPM_CUDA_DRIVER": str(BUILD / "lib/fake-cuda/libcuda.so.1"),
                "UPM_CUDA_FAKE": f"granularity={UNIT}",
                "UPM_CUDA_SOCKET": self.socket,
            }
            | environment,
        )

    def test_processes_hold_the_weights_once(self) -> None:
        """One publishes each extent, the others merge; all give the same answer."""
        done = self.serve("--processes", "3", "--model", "tiny")
        self.assertEqual(done.returncode, 0, done.stderr)
        reports = json.loads(done.stdout)
        self.assertEqual([report["process"] for report in reports], [0, 1, 2])
        self.assertEqual({report["answer"] for report in reports}, {70000.0 + 600000 + 3 * 4096})
        advise = [report["advise"] for report in reports]
        self.assertEqual(sum(counts["published"] for counts in advise), DIFFERENT)
        self.assertEqual(sum(counts["merged"] for counts in advise), 3 * EXTENTS - DIFFERENT)

    def test_says_why_it_cannot_run(self) -> None:
        """One line, exit status 4, and nothing started."""
        for arguments, environment, reason in (
            ((), {"STAND_IN_NO_GPU": "1"}, "no CUDA device"),
            ((), {"STAND_IN_OLD": "1"}, "2.5 is needed"),
            ((), {"PYTHONPATH": "/nowhere", "PYTHONNOUSERSITE": "1"}, ""),
            (("--model", "nonsense"), {}, "no 'nonsense'"),
            (("--model", "tiny"), {"UPM_CUDA_SOCKET": "/nowhere/x"}, "no upm-cudad at /nowhere/x"),
            (("--library", "/nowhere/lib.so"), {}, "no /nowhere/lib.so"),
        ):
            with self.subTest(reason):
                done = self.serve(*arguments, **environment)
                self.assertEqual(done.returncode, 4, done.stderr)
                self.assertRegex(done.stderr, "^serve.py: [^\n]+\n$")
                self.assertIn(reason, done.stderr)
                self.assertEqual(done.stdout, "")

    def test_a_failing_process_does_not_keep_the_others(self) -> None:
        """All end, and the exit status tells."""
        done = self.serve("--processes", "2", "--model", "tiny", STAND_IN_FAILS="1")
        self.assertEqual(done.returncode, 1, done.stderr)
        self.assertIn("no answer", done.stderr)
        self.assertIn("a process failed", done.stderr)

    def test_rejects_bad_arguments(self) -> None:
        """With argparse's exit status."""
        for arguments in (("--processes", "0"), ("--processes", "many"), ("--nonsense",)):
            done = self.serve(*arguments)
            self.assertEqual(done.returncode, 2)
            self.assertIn("usage:", done.stderr)


if __name__ == "__main__":
    unittest.main()
