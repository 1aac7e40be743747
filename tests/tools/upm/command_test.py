#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""The command upm on real processes, as docs/quickstart.md has it.

Needs the module and root: tests/vm/run -- tests/tools/upm/command_test.py
"""

import json
import re
import subprocess
import sys
import unittest
from pathlib import Path
from typing import Any

UPM = Path(__file__).resolve().parents[3] / "build/bin/upm"
EXIT_SKIPPED = 4
MIB = 1 << 20
SIZE = 16 * MIB

# Holds SIZE bytes, the same for the same seed and no two pages of it alike, and
# answers each line that it reads with a digest of them.
HOLDER = f"""
import ctypes, hashlib, mmap, random, sys
memory = mmap.mmap(-1, {SIZE}, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
memory.write(random.Random(sys.argv[1]).randbytes({SIZE}))
start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
print(f"{{start:x}}-{{start + {SIZE}:x}}", flush=True)
for line in sys.stdin:
    if line.startswith("write"):
        memory[: {MIB}] = bytes(255 - byte for byte in memory[: {MIB}])
    print(hashlib.sha256(memory).hexdigest(), flush=True)
"""


class Holder:
    """A process with memory that is worth sharing."""

    def __init__(self, seed: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", HOLDER, seed],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.range = self._line()

    def _line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    @property
    def selector(self) -> str:
        """Its memory, as upm --range takes it."""
        return f"{self.process.pid}:{self.range}"

    def ask(self, what: str) -> str:
        """Digest of its memory, after it was told to `read` or to `write`."""
        assert self.process.stdin is not None
        self.process.stdin.write(what + "\n")
        self.process.stdin.flush()
        return self._line()

    def pss(self) -> int:
        """Proportional set size of its memory, in bytes."""
        smaps = Path(f"/proc/{self.process.pid}/smaps").read_text()
        first, last = (int(address, 16) for address in self.range.split("-"))
        total, inside = 0, False
        for line in smaps.splitlines():
            if head := re.match(r"([0-9a-f]+)-([0-9a-f]+) ", line):
                inside = first < int(head[2], 16) and int(head[1], 16) < last
            elif inside and line.startswith("Pss:"):
                total += int(line.split()[1]) * 1024
        return total

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()


def upm(*arguments: str) -> Any:
    """What the command prints with --json."""
    done = subprocess.run([UPM, *arguments, "--json"], capture_output=True, text=True, check=False)
    if done.returncode:
        raise AssertionError(f"upm {' '.join(arguments)}: {done.stdout}{done.stderr}")
    return json.loads(done.stdout)


class Command(unittest.TestCase):
    """Two holders for each test; SIZE is far more than what else may merge."""

    def setUp(self) -> None:
        # What another test left behind would be known to the module, for a while.
        self.holders = [Holder(self.id()), Holder(self.id())]
        for holder in self.holders:
            self.addCleanup(holder.close)

    def ranges(self) -> list[str]:
        return [word for holder in self.holders for word in ("--range", holder.selector)]

    def test_advise_halves_pss_and_keeps_the_bytes(self) -> None:
        before = [holder.ask("read") for holder in self.holders]
        counts = upm("advise", *self.ranges())["counts"]
        pages = SIZE // 4096
        self.assertEqual(counts["pages"], 2 * pages)
        self.assertEqual((counts["inserted"], counts["merged"]), (pages, pages))
        for holder in self.holders:
            self.assertLess(holder.pss(), SIZE * 0.52)
        self.assertEqual([holder.ask("read") for holder in self.holders], before)
        self.assertGreaterEqual(upm("status")["stats"]["pages_sharing"], pages)

    def test_a_write_is_private(self) -> None:
        upm("advise", *self.ranges())
        before = self.holders[1].ask("read")
        self.assertNotEqual(self.holders[0].ask("write"), before)
        self.assertEqual(self.holders[1].ask("read"), before)
        self.assertGreater(self.holders[0].pss(), SIZE * 0.5 + MIB * 0.4)

    def test_advising_again_changes_nothing(self) -> None:
        upm("advise", *self.ranges())
        counts = upm("advise", *self.ranges())["counts"]
        self.assertEqual(counts["already"], counts["pages"])

    def test_dry_run_changes_nothing(self) -> None:
        counts = upm("advise", "--dry-run", *self.ranges())["counts"]
        self.assertGreater(counts["inserted"], 0)
        for holder in self.holders:
            self.assertEqual(holder.pss(), SIZE)

    def test_unmerge_gives_private_copies(self) -> None:
        upm("advise", *self.ranges())
        counts = upm("unmerge", *self.ranges())["counts"]
        self.assertEqual(counts["unmerged"], 2 * SIZE // 4096)
        for holder in self.holders:
            self.assertEqual(holder.pss(), SIZE)

    def test_whole_processes(self) -> None:
        pids = [word for h in self.holders for word in ("--pid", str(h.process.pid))]
        before = [holder.ask("read") for holder in self.holders]
        counts = upm("advise", *pids)["counts"]
        self.assertGreaterEqual(counts["merged"], SIZE // 4096)
        self.assertEqual([holder.ask("read") for holder in self.holders], before)

    def test_metrics(self) -> None:
        upm("advise", *self.ranges())
        text = subprocess.check_output([UPM, "status", "--prom"], text=True)
        values = dict(line.rsplit(" ", 1) for line in text.splitlines() if line[0] != "#")
        self.assertEqual(values["upm_module_loaded"], "1")
        self.assertGreaterEqual(float(values["upm_module_saved_bytes"]), SIZE)
        self.assertGreaterEqual(float(values["upm_module_inserted_bytes_total"]), SIZE)

    def test_doctor_is_content(self) -> None:
        self.assertEqual(upm("doctor")["summary"]["fail"], 0)
        self.assertEqual(upm("status")["backend"], "kmod")


if __name__ == "__main__":
    if not Path("/dev/upm").exists():
        print("skipped: no /dev/upm (run it with tests/vm/run)")
        sys.exit(EXIT_SKIPPED)
    unittest.main()
