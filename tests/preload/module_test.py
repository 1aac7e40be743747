#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""The hook with the real module, in a guest: tests/vm/suite.

    tests/preload/module_test.py [CLASS...]

Two programs that know nothing of UPM hold the same 8 MiB. That they share them is told
by the numbers of the page frames below.
"""

from __future__ import annotations

import os
import sys
import unittest
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))

import hooked

PAGE = os.sysconf("SC_PAGE_SIZE")
SIZE = 8 << 20  # of upm-hook-load idle
HUGE = 2 << 20
HOOK = hooked.hook("kmod", UPM_VERBOSE="1")
PATIENT = HOOK | {"UPM_IDLE_MS": "1000"}  # not before all is filled


class Holder:
    """A program that holds SIZE bytes until its standard input ends."""

    def __init__(self, case: hooked.HookCase) -> None:
        self.program = case.start([hooked.LOAD, "idle"], PATIENT)
        ready, _, address = self.program.line().partition(" ")
        assert ready == "ready"
        self.address = int(address, 16)

    def frames(self) -> list[int]:
        """Of the pages of the block; needs CAP_SYS_ADMIN."""
        entries = hooked.pagemap(self.program.pid, self.address, SIZE // hooked.PAGE)
        return [entry & hooked.FRAME for entry in entries]

    def end(self) -> str:
        """Lets it look at its bytes and end well. Returns what it wrote to stderr."""
        _, errors = self.program.end()
        if self.program.status != 0:
            raise AssertionError(errors)
        return errors


@unittest.skipUnless(Path("/dev/upm").exists(), "no module")
class Module(hooked.HookCase):
    """Programs under the hook, with the module."""

    def hooked(self, *load: str) -> None:
        done = hooked.run([hooked.LOAD, *load], HOOK)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn("backend kmod", done.stderr)

    def test_zeros(self) -> None:
        """What must read as zero does so after merging."""
        self.hooked("zeros")

    def test_calls(self) -> None:
        """Every function that is hooked, before and after a pass."""
        self.hooked("calls", "merged")

    def test_programs_share(self) -> None:
        """Frames are the same, and both programs find their bytes, whoever ends first."""
        holders = [Holder(self), Holder(self)]
        for holder in holders:
            holder.program.wait_until_idle()
        self.assertEqual([holder.address % HUGE for holder in holders], [0, 0])
        first, second = (holder.frames() for holder in holders)
        equal = sum(a == b != 0 for a, b in zip(first, second, strict=True))
        self.assertEqual(equal, SIZE // PAGE)
        for holder in holders:
            self.assertRegex(holder.end(), r"upm\[\d+\]: backend kmod; \d+ blocks, [\d.]+ MiB")


if __name__ == "__main__":
    sys.exit(hooked.main("Module"))
