#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""tests/run-steps runs the suites of several kernels side by side, and leaves none behind."""

import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
import unittest
from pathlib import Path

TESTS = Path(__file__).resolve().parent.parent

# In place of a machine: a step is done once one of each kernel has begun, or never.
MACHINE = """\
#!/usr/bin/bash
while [[ $1 != -- ]]; do [[ $1 != --kernel ]] || kernel=$2; shift; done
touch "begun.$kernel.$3"
for ((i = 0; i < 600; i++)); do
    [[ ! -e begun.1.$3 || ! -e begun.2.$3 || $3 == never ]] || break
    sleep 0.1
done
((i < 600)) || exit 1
echo "1 passed, 0 failed"
[[ $kernel.$3 != 2.last ]]
"""


class Lanes(unittest.TestCase):
    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.root = Path(folder.name)
        (self.root / "tests/vm").mkdir(parents=True)
        for script in ("run-steps", "summary"):
            shutil.copy(TESTS / script, self.root / "tests")
        machine = self.root / "tests/vm/run"
        machine.write_text(MACHINE)
        machine.chmod(0o755)

    def start(self, *names: str) -> subprocess.Popen[str]:
        lines = "".join(f"{name} | | test {name}\n" for name in names)
        (self.root / "tests/vm/suite").write_text(lines)
        return subprocess.Popen(
            [self.root / "tests/run-steps", "vm:1", "vm:2"],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    @unittest.skipIf(os.cpu_count() == 1, "one processor: one kernel after the other")
    def test_kernels_run_side_by_side(self) -> None:
        process = self.start("first", "last")
        output, _ = process.communicate(timeout=120)
        steps = re.findall(r"^(\d: \w+) +(\d+) +(\d+) +0 +\d+  (\w+)$", output, re.MULTILINE)
        wanted = [("1: first", "1", "0", "ok"), ("1: last", "1", "0", "ok")]
        wanted += [("2: first", "1", "0", "ok"), ("2: last", "1", "1", "FAILED")]
        self.assertEqual(steps, wanted, output)
        self.assertEqual(output.splitlines()[-1], "4 passed, 1 failed")
        self.assertEqual(process.returncode, 1)
        self.assertIn("\n2 | --- 2: last: exit status 1", output)

    def test_an_end_leaves_nothing_behind(self) -> None:
        process = self.start("never")
        deadline = time.monotonic() + 60
        while not list(self.root.glob("begun.*")) and time.monotonic() < deadline:
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        output, _ = process.communicate(timeout=30)  # until all who hold its output have ended
        self.assertEqual(process.returncode, 130, output)


if __name__ == "__main__":
    unittest.main()
