#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Programs under the hook that read a file once and keep nothing of it.

    tests/preload/streams_test.py [CLASS...]

What counts is how much the broker made for them, in how many places their blocks were, and
which system calls they made. A busy machine makes less for them, never more.
"""

import itertools
import shutil
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))

from hooked import PAGE, ROOT, BrokerCase, Program, main, wait_until

STREAMS = ROOT / "build/cmake/tests/preload/upm-hook-streams"
MIB = 1 << 20
# A stream is asked about 16 parts after it began, then after 32, 52, 100, 230 and 468 more
# (libupm/base/wander.hpp): so at none of the first four parts of the file, of which the broker may
# still know what it made for the same program.
FILE = 128 * MIB
PART = 4 * MIB  # four that pass make a stream


class Said(NamedTuple):
    """What a program says: bytes until now, and places of this time."""

    shared: int
    made: int
    places: int


class Streams(BrokerCase):
    """A program that does what it is told, and one that has the file."""

    def setUp(self) -> None:
        """A file of pages that all differ."""
        super().setUp()
        folder = tempfile.TemporaryDirectory(prefix="upm-test-", dir="/var/tmp")
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)
        self.file = self.make_file("file", FILE)

    def make_file(self, name: str, size: int) -> Path:
        """A file whose pages are in no other one."""
        path = self.folder / name
        with path.open("wb") as file:
            for page in range(size // PAGE):
                file.write((b"%s %d " % (name.encode(), page)).ljust(PAGE, bytes([page % 251 + 1])))
        return path

    def program(self, file: Path | None = None) -> Program:
        """One that has found the broker, and has not read."""
        variables = self.hook | {"UPM_SCOPE": "loads", "UPM_MIN_BYTES": "64K"}
        program = self.start([STREAMS, file or self.file], variables)
        self.assertEqual(program.line(), "ready\n")
        program.wait_until_idle()
        return program

    def read(self, program: Program, kind: str, size: int, count: int) -> Said:
        """Has it read so many parts of so many bytes."""
        program.tell(f"{kind} {size >> 10} {count}")
        return Said(*map(int, program.line().split()))

    def keep_all(self, program: Program) -> None:
        """Has it read and keep the file until all of it was made: a stream asks about any part."""
        before = 0

        def made() -> bool:
            nonlocal before
            said = self.read(program, "kept", PART, 32)
            before, now = said.shared + said.made, said.shared + said.made - before
            return now >= FILE

        wait_until(made, "the broker is always late")

    def test_little_is_made(self) -> None:
        said = self.read(self.program(), "fresh", PART, 32)
        self.assertLessEqual(said.made + said.shared, 4 * PART)

    def test_little_is_made_where_the_next_part_is_read_first(self) -> None:
        said = self.read(self.program(), "next", PART, 32)
        self.assertLessEqual(said.made + said.shared, 5 * PART)

    def test_memory_is_used_again(self) -> None:
        program = self.program()
        self.read(program, "fresh", PART, 16)
        self.assertEqual(self.read(program, "fresh", PART, 256).places, 1)
        self.assertLessEqual(self.read(program, "next", PART, 256).places, 3)

    def test_as_many_system_calls_as_without(self) -> None:
        if not shutil.which("strace"):
            self.skipTest("no strace, which counts")
        for kind in ("fresh", "same"):
            program = self.program()
            self.read(program, kind, PART, 16)
            trace = self.folder / kind
            tracer = self.start(["strace", "-qq", "-o", trace, "-p", str(program.pid)], {})
            tracing = self.tracing(program, trace, tracer)
            if not tracing:
                self.skipTest("nobody may be traced here")
            before = len(trace.read_text().splitlines())
            self.read(program, kind, PART, 256)
            program.end()
            tracer.end()
            calls = len(trace.read_text().splitlines()) - before
            # A read, whose it is (getpid), two limits of the process (getrlimit), and questions.
            self.assertGreaterEqual(calls, 256)
            self.assertLess(calls, 6 * 256)

    def tracing(self, program: Program, trace: Path, tracer: Program) -> bool:
        """Waits until a tracer sees what the program does; false: it may not."""

        def sees() -> bool:
            self.read(program, "kept", 4 * PAGE, 1)
            seen = trace.exists() and "write(1" in trace.read_text()
            return seen or tracer.process.poll() is not None

        wait_until(sees, "strace sees nothing")
        return tracer.process.poll() is None

    def test_a_model_after_a_stream(self) -> None:
        """All but its first blocks share, once more when that was a stream again."""
        program = self.program()
        self.read(program, "fresh", PART, 64)
        before = 0

        def shares() -> bool:  # unless the broker was late
            nonlocal before
            said = self.read(program, "kept", PART, 16)
            before, now = said.shared + said.made, said.shared + said.made - before
            return now >= 12 * PART

        wait_until(shares, "no model shares")

    def test_a_large_block_after_a_stream(self) -> None:
        """It shares from the first one on: its file was read for a checksum before."""

        def shares() -> bool:  # unless the broker was late
            program = self.program()
            self.read(program, "fresh", PART, 16)
            said = self.read(program, "kept", 8 * PART, 1)
            program.end()
            return said.made + said.shared >= 6 * PART

        wait_until(shares, "no large block shares")

    def test_memory_that_was_read_into_plainly_is_not_used_again(self) -> None:
        """What passes is no stream yet: the next load finds memory that may share."""
        tries = itertools.count()

        def shares() -> bool:  # unless the broker was late
            file = self.make_file(f"small{next(tries)}", MIB)
            program, other = self.program(file), self.program(file)
            said = self.read(program, "fresh", MIB, 1)
            self.assertEqual(said.shared + said.made, 0, "the first one only registers")
            self.read(other, "kept", MIB, 2)
            shared = self.read(program, "fresh", MIB, 1).shared
            program.end()
            other.end()
            return shared == MIB

        wait_until(shares, "what another one has is read plainly")

    def test_others_who_have_it_are_found(self) -> None:
        """A stream of what another one has comes to share, sooner or later."""
        program = self.program()
        self.assertEqual(self.read(program, "fresh", PART, 8).shared, 0)
        self.keep_all(self.program())
        wait_until(
            lambda: self.read(program, "fresh", PART, 16).shared > 0, "nobody asks what others have"
        )

    def test_what_others_have_from_the_start(self) -> None:
        """Then it is no stream at all."""
        self.keep_all(self.program())
        program = self.program()
        wait_until(
            lambda: self.read(program, "fresh", PART, 32).shared >= FILE, "little of it shares"
        )


if __name__ == "__main__":
    sys.exit(main("Streams"))
