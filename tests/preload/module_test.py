#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""The hook with the real module, in a guest: tests/vm/suite.

    tests/preload/module_test.py LOAD          the program upm-hook-load

Two programs that know nothing of UPM hold the same 8 MiB. That they share them is told
by the numbers of the page frames below.
"""

from __future__ import annotations

import os
import struct
import subprocess
import sys
import time
import unittest
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HOOK = ROOT / "build/lib/libupm-preload.so"
LOAD = ROOT / "build/cmake/tests/preload/upm-hook-load"
PAGE = os.sysconf("SC_PAGE_SIZE")
SIZE = 8 << 20  # of upm-hook-load idle
HUGE = 2 << 20
SECONDS = 300
HOOKED = {"LD_PRELOAD": str(HOOK), "UPM_BACKEND": "kmod", "UPM_VERBOSE": "1"}


class Holder:
    """A program that holds SIZE bytes until its standard input ends."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [LOAD, "idle"],
            env=os.environ | HOOKED,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.pid = self.process.pid
        assert self.process.stdout is not None
        ready, _, address = self.process.stdout.readline().partition(" ")
        if ready != "ready":
            raise AssertionError(self.process.communicate()[1])
        self.address = int(address, 16)

    def end(self) -> str:
        """Lets it look at its bytes and end well. Returns what it wrote to stderr."""
        _, errors = self.process.communicate(timeout=SECONDS)
        if self.process.returncode != 0:
            raise AssertionError(errors)
        return errors

    def kill(self) -> None:
        """Ends it in any case."""
        self.process.kill()
        self.process.communicate()


def frames(pid: int, address: int) -> list[int]:
    """Of the pages of the block there; needs CAP_SYS_ADMIN."""
    count = SIZE // PAGE
    with Path(f"/proc/{pid}/pagemap").open("rb") as pagemap:
        pagemap.seek(address // PAGE * 8)
        entries = struct.unpack(f"{count}Q", pagemap.read(count * 8))
    return [entry & (1 << 55) - 1 for entry in entries]


def wait_until_done(pid: int) -> None:
    """Until the hook has nothing left to do."""
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        names = [path.read_text().strip() for path in Path(f"/proc/{pid}/task").glob("*/comm")]
        if "upm-hook idle" in names:
            return
        time.sleep(0.2)
    raise AssertionError(f"no thread says that the hook is done: {names}")


@unittest.skipUnless(Path("/dev/upm").exists(), "no module")
class Module(unittest.TestCase):
    """Programs under the hook, with the module."""

    def hooked(self, load: str) -> None:
        done = subprocess.run(
            [LOAD, load],
            env=os.environ | HOOKED | {"UPM_IDLE_MS": "10"},
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn("backend kmod", done.stderr)

    def test_zeros(self) -> None:
        """What must read as zero does so after merging."""
        self.hooked("zeros")

    def test_calls(self) -> None:
        """Every function that is hooked."""
        self.hooked("calls")

    def test_programs_share(self) -> None:
        """Frames are the same, and both programs find their bytes, whoever ends first."""
        holders = [Holder(), Holder()]
        for holder in holders:
            self.addCleanup(holder.kill)
            wait_until_done(holder.pid)
        self.assertEqual([holder.address % HUGE for holder in holders], [0, 0])
        first, second = (frames(holder.pid, holder.address) for holder in holders)
        equal = sum(a == b != 0 for a, b in zip(first, second, strict=True))
        self.assertEqual(equal, SIZE // PAGE)
        for holder in holders:
            self.assertRegex(holder.end(), r"upm\[\d+\]: backend kmod; \d+ blocks, [\d.]+ MiB")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        LOAD = Path(sys.argv.pop(1)).resolve()
    unittest.main(verbosity=2)
