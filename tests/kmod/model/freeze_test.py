#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Checks the model of the freeze protocol, kmod/model/freeze.pml, with spin.

Every case must hold in all interleavings. A seeded bug is a plausible fault of one line, and
the checker must find it, by the kind of failure that stands beside it: a model in which
nothing can go wrong says nothing.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
import unittest
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

MODEL = Path(__file__).resolve().parents[3] / "kmod/model/freeze.pml"

CASES = ("PAIR", "FORK", "FAMILY", "PIN", "SWEEP", "UNLOAD", "FILE")

LOST = "value==mm"  # a read differs from the last write
STALE = "data==mm"  # a device, or the last look, sees something else
FREED = "used"  # a frame or an entry that is gone, or that is left
NAMED = "kind!=0"  # a frame goes that a page table or a TLB names
NOT_OURS = "tag==1"  # a page was mapped that is none of the index
FAILSTOP = "kind==0"  # the place of a zapped page was taken
GONE = "loaded"  # code of a module that is gone
DEADLOCK = "invalid end state"

# Bug, the case that shows it, and what the checker says.
BUGS = (
    # merge.c: locks
    ("READ_LOCK", "PAIR", (FAILSTOP, LOST, FREED)),
    ("VMA_LOCK_AFTER_FREEZE", "PAIR", (DEADLOCK,)),
    ("SCAN_BEFORE_VMA_LOCK", "FILE", (LOST,)),
    # merge.c: freeze, map, finish
    ("NO_FLUSH", "PAIR", (LOST, STALE, NAMED)),
    ("NO_COUNT", "PIN", (LOST, STALE)),
    ("COUNT_FIRST", "PIN", (LOST, STALE)),
    ("IGNORE_GIVEN_UP", "PIN", (LOST, STALE)),
    ("MAP_WRITABLE", "PAIR", (LOST, STALE)),
    ("FREE_WITHOUT_LOOK", "FAMILY", (NAMED,)),
    ("SHARED_NOT_PUT", "PAIR", (FREED,)),
    # scan.c, prepare.c
    ("DIRTY_FILE_PAGES", "FILE", (LOST,)),
    ("PREPARE_WRITABLE", "FILE", (LOST,)),
    # find.c, index.c
    ("TRUST_THE_HASH", "PAIR", (LOST, STALE)),
    ("CURSOR_HAS_NONE", "PAIR", (FREED, NAMED)),
    ("NO_SECOND_LOOK", "SWEEP", (NOT_OURS, FREED)),
    ("KILL_BY_LOOK", "SWEEP", (NOT_OURS, FREED)),
    ("NO_GRACE_PERIOD", "SWEEP", (FREED,)),
    # main.c, device.c
    ("NO_OWNER", "UNLOAD", (GONE, FREED)),
    ("EXIT_DOES_NOT_WAIT", "UNLOAD", (GONE, FREED)),
    ("DESTROY_FREES", "UNLOAD", (FREED, NAMED)),
)


def say(*command: str | Path, cwd: str) -> str:
    """Output of a command that must not fail."""
    done = subprocess.run(
        command, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    if done.returncode != 0:
        raise AssertionError(f"{command} in {cwd}: {done.stdout}")
    return done.stdout


def verify(*defines: str) -> str:
    """What the checker says of the model with these -D: pan's output."""
    with tempfile.TemporaryDirectory() as folder:
        parsed = say("spin", "-a", *(f"-D{name}" for name in defines), MODEL, cwd=folder)
        if re.search(r"\berror\b", parsed, re.IGNORECASE):
            raise AssertionError(parsed)
        options = ("-DSAFETY", "-DCOLLAPSE", "-DVECTORSZ=1024", "-DMEMLIM=2048")
        # Without optimisation: compiling it takes longer than running it.
        say("cc", "-w", "-O0", *options, "-o", "pan", "pan.c", cwd=folder)
        return say("./pan", "-m100000", "-w20", "-n", cwd=folder)


def failure(output: str) -> str:
    """The line that says what went wrong, or nothing if all states were seen and are well."""
    if match := re.search(r"^pan:1: (.*)$", output, re.MULTILINE):
        return match[1]
    for broken in ("errors: 0", "Full statespace search"):
        if broken not in output:
            return f"no {broken!r}: {output}"
    for cut in ("max search depth too small", "MEMLIM", "aborting"):
        if cut in output:
            return f"{cut}: {output}"
    return ""


def together(jobs: list[tuple[str, ...]]) -> list[str]:
    """The failures of several runs, as many at a time as there are processors."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(lambda defines: failure(verify(*defines)), jobs))


class Protocol(unittest.TestCase):
    """The model as it is, with the locks of 6.1 and of 6.4."""

    def test_holds(self) -> None:
        jobs = [(case, *lock) for lock in ((), ("VMA_LOCK",)) for case in CASES]
        for job, found in zip(jobs, together(jobs), strict=True):
            with self.subTest(job):
                self.assertEqual(found, "")


class Bugs(unittest.TestCase):
    """The model with one bug."""

    def test_are_found(self) -> None:
        jobs: list[tuple[str, ...]] = [(case, "VMA_LOCK", f"BUG_{bug}") for bug, case, _ in BUGS]
        for (bug, case, kinds), found in zip(BUGS, together(jobs), strict=True):
            with self.subTest(bug, case=case):
                self.assertTrue(any(kind in found for kind in kinds), found or "not found")

    def test_all_of_the_model_are_tried(self) -> None:
        texts = [file.read_text() for file in MODEL.parent.glob("*.pml")]
        seeded = {bug for text in texts for bug in re.findall(r"\bBUG_(\w+)", text)}
        self.assertEqual(seeded, {bug for bug, _, _ in BUGS})


if __name__ == "__main__":
    if not shutil.which("spin"):
        print("skipped: no spin (apt-get install spin)")
        sys.exit(4)
    unittest.main()
