#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Large real programs while each private mapping of theirs is advised ten times a second.

Where a round takes longer than a tenth of a second, as in a VM, the programs have as much time
until the next one begins: else a slow machine would do little but advise.

    tests/vm/run -- tests/kmod/advised_programs.py [CLASS[.TEST]...]
                                              Compiler, Sqlite, Redis, Stress, CPython

They know nothing of it. Each runs alone and then in a control group whose processes are
advised by this one, over /dev/upm; the results are compared. UPM_TEST_SECONDS is how long
stress-ng runs. For `make test-long`; what is missing is skipped, and all skipped is exit
status 4.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
import sys
import threading
import time
import unittest
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar, TypeVar

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))

from hooked import EXIT_SKIPPED, main
from workloads import (
    PLAIN,
    compiler_result,
    missing,
    python_outcomes,
    redis_digests,
    sqlite_result,
    stress_result,
)

DEVICE = "/dev/upm"
GROUPS = Path("/sys/fs/cgroup")
PERIOD = 0.1  # seconds
SECONDS = float(os.environ.get("UPM_TEST_SECONDS", "60"))  # of stress-ng
SOURCES = 3  # that the compiler compiles

# struct upm_ioc_advise of kmod/uapi/upm.h, whose counts begin after COUNTS numbers.
ADVISE = struct.Struct("=IiiI4Q33Q")
COUNTS = 8
UPM_IOC_ADVISE = 3 << 30 | ADVISE.size << 16 | 0xF5 << 8 | 1

# What an advise may say of a process that goes on meanwhile: it unmapped that, or ended.
GONE = (errno.ENOMEM, errno.ESRCH)

T = TypeVar("T")


def private_mappings(pid: str) -> list[tuple[int, int]]:
    """First address and length of each; none if the process is gone."""
    try:
        lines = Path(f"/proc/{pid}/maps").read_text().splitlines()
    except OSError:
        return []
    found = []
    for line in lines:
        words = line.split(maxsplit=5)
        if words[1][3] == "p" and words[-1] != "[vsyscall]":
            first, end = (int(address, 16) for address in words[0].split("-"))
            found.append((first, end - first))
    return found


class Adviser:
    """A thread that advises the processes of a group, which are this one's children.

    Inside `with`, what this process starts is in the group.
    """

    def __init__(self) -> None:
        self.group = GROUPS / f"advised-{os.getpid()}"
        self.rounds = self.calls = self.shared = 0
        self.seconds = 0.0
        self.failures: list[str] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Adviser:
        self.group.mkdir()
        (self.group / "cgroup.procs").write_text(str(os.getpid()))
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        (GROUPS / "cgroup.procs").write_text(str(os.getpid()))
        end = time.monotonic() + 60
        while True:  # a process that just ended is still in it for a moment
            try:
                self.group.rmdir()
                return
            except OSError:
                if time.monotonic() > end:
                    raise
            time.sleep(0.1)

    def _run(self) -> None:
        began = due = time.monotonic()
        with Path(DEVICE).open("rb", buffering=0) as device:
            while not self._stop.wait(max(0.0, due - time.monotonic())):
                start = time.monotonic()
                self.rounds += self._round(device.fileno())
                end = time.monotonic()
                due = max(due + PERIOD, end + (end - start))
        self.seconds = time.monotonic() - began

    def _round(self, device: int) -> bool:
        """Returns true if there was anything to advise."""
        before = self.calls
        for pid in (self.group / "cgroup.procs").read_text().split():
            if int(pid) != os.getpid():
                for first, length in private_mappings(pid):
                    self._advise(device, int(pid), first, length)
        return self.calls > before

    def _advise(self, device: int, pid: int, first: int, length: int) -> None:
        call = bytearray(ADVISE.pack(0, pid, -1, 0, first, length, 0, 0, *[0] * 33))
        self.calls += 1
        try:
            fcntl.ioctl(device, UPM_IOC_ADVISE, call)
        except OSError as error:
            if error.errno not in GONE:
                self.failures.append(f"{first:#x}+{length:#x} of {pid}: {error}")
            return
        _, merged, inserted = ADVISE.unpack(call)[COUNTS : COUNTS + 3]
        self.shared += merged + inserted


class Case(unittest.TestCase):
    """A program that is advised."""

    program: ClassVar[str]

    @classmethod
    def setUpClass(cls) -> None:
        if lacking := missing(cls.program):
            raise unittest.SkipTest(lacking)

    def advised(self, result: Callable[[], T]) -> T:
        """The result of a program under advise."""
        with Adviser() as adviser:
            found = result()
        print(
            f"{self.id()}: {adviser.seconds:.0f} s, {adviser.rounds} rounds, "
            f"{adviser.calls} calls, {adviser.shared} pages came to share",
            flush=True,
        )
        self.assertEqual(adviser.failures, [])
        self.assertGreater(adviser.shared, 100)
        return found


class CPython(Case):
    """Each of CPython's own tests has the same outcome; what differs gets a second try.

    They are of what has to do with memory, processes, threads and files. The parts are such
    that each takes some minutes in a VM.
    """

    program = "python"
    # Weak dictionaries that are copied while another thread collects garbage: four tests that
    # take four times as long as the other 128 of their module.
    LEFT_OUT = "test_threaded_weak_*copy"

    def compare(self, least: int, names: str) -> None:
        """The tests of these modules, which are at least so many."""
        modules = [f"test_{name}" for name in names.split()]
        before = python_outcomes(modules, PLAIN, self.LEFT_OUT)
        after = self.advised(lambda: python_outcomes(modules, PLAIN, self.LEFT_OUT))
        self.assertGreater(len(before), least)
        differ = {name for name in before | after if before.get(name) != after.get(name)}
        print(f"{len(before)} tests, {len(differ)} differ at first: {sorted(differ)}")
        if differ:
            some = [m for m in modules if any(f"{m}." in name for name in differ)] or modules
            again = self.advised(lambda: python_outcomes(some, PLAIN, self.LEFT_OUT))
            differ = {name for name in differ if before.get(name) != again.get(name)}
        self.assertEqual(differ, set(), "these differ twice")

    def test_processes(self) -> None:
        self.compare(60, "fork1 mmap thread threadedtempfile")

    def test_memory(self) -> None:
        self.compare(150, "gc weakref")

    def test_arrays(self) -> None:
        self.compare(900, "array list memoryview struct tuple")

    def test_bytes(self) -> None:
        self.compare(300, "buffer bytes")

    def test_collections(self) -> None:
        self.compare(350, "collections copy deque dict heapq")

    def test_sets(self) -> None:
        self.compare(650, "itertools set")

    def test_formats(self) -> None:
        self.compare(350, "gzip hashlib marshal re zlib")

    def test_pickle(self) -> None:
        self.compare(650, "pickle")


class Redis(Case):
    """A server under load has the data that it has alone."""

    program = "redis"
    SIZE = (100, 40)  # values, requests of each kind

    def test_data(self) -> None:
        before = redis_digests(PLAIN, *self.SIZE)
        after = self.advised(lambda: redis_digests(PLAIN, *self.SIZE))
        self.assertEqual(before, after)
        self.assertEqual(after[0], after[1])
        self.assertEqual(after[-1], after[-2])


class Sqlite(Case):
    """A database is byte for byte the same."""

    program = "sqlite"

    def test_database(self) -> None:
        before = sqlite_result(PLAIN)
        self.assertEqual(before, self.advised(lambda: sqlite_result(PLAIN)))


class Compiler(Case):
    """So is what gcc, its assembler and the linker make."""

    program = "compiler"

    def test_build(self) -> None:
        before = compiler_result(PLAIN, SOURCES)
        self.assertEqual(before, self.advised(lambda: compiler_result(PLAIN, SOURCES)))


class Stress(Case):
    """stress-ng finds what it wrote, which it verifies itself."""

    program = "stress"

    def test_memory(self) -> None:
        said = self.advised(lambda: stress_result(PLAIN, SECONDS))
        self.assertIn("successful run completed", said)


if __name__ == "__main__":
    if not Path(DEVICE).exists():
        print(f"skipped: no {DEVICE} (run it with tests/vm/run)")
        sys.exit(EXIT_SKIPPED)
    sys.exit(main("Compiler", "Sqlite", "Redis", "Stress", "CPython"))
