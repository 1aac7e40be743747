#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""The Python package: reading files into memory that comes to be shared.

tests/python/load_test.py [CLASS[.TEST]...]
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

import scripts
from scripts import Case

LENGTH = 5 * (1 << 20) + 123


class Load(Case):
    """What a program reads is what the file holds, whatever the backend."""

    def setUp(self) -> None:
        """A file of different pages."""
        super().setUp()
        folder = self.enterContext(tempfile.TemporaryDirectory())
        self.file = Path(folder) / "file"
        self.file.write_bytes(b"".join(i.to_bytes(4, "little") for i in range(LENGTH // 4 + 1)))

    def run_here(self, code: str) -> Any:
        """The answer of a program that has the file's path in PATH, with its content."""
        before = f"""
            PATH = {str(self.file)!r}
            DATA = open(PATH, "rb").read()
            """
        return self.run_one(before + code)

    def test_whole_file_and_parts(self) -> None:
        answer = self.run_here(
            """
            whole = upm.load(PATH)
            with open(PATH, "rb") as file:
                file.seek(5)
                part = upm.load(file, 4099, 3_000_000)
                at = file.tell()
            fd = os.open(PATH, os.O_RDONLY)
            end = upm.load(fd, len(DATA) - 7)
            whole[0:4] = b"mine"
            tell(whole=whole[4:] == DATA[4:] and len(whole) == len(DATA),
                 part=part[:] == DATA[4099:3_004_099], at=at, end=end[:] == DATA[-7:],
                 file=open(PATH, "rb").read() == DATA)
            """
        )
        self.assertEqual(answer, {"whole": True, "part": True, "at": 5, "end": True, "file": True})

    def test_read_into_is_readinto(self) -> None:
        answer = self.run_here(
            """
            buffer = mmap.mmap(-1, 4 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
            with open(PATH, "rb") as file:
                head = file.read(10)
                first = upm.read_into(file, buffer)
                same = buffer[:] == DATA[10:10 + len(buffer)]
                at = file.tell()
                second = upm.read_into(file, buffer)
                rest = len(DATA) - 10 - len(buffer)
                same = same and buffer[:rest] == DATA[-rest:]
                third = upm.read_into(file, buffer)
                fixed = upm.read_into(file, buffer, 100)
                same = same and buffer[:] == DATA[100:100 + len(buffer)]
                sums = all(l.bytes == l.shared + l.made + l.copied for l in (first, second, fixed))
                tell(same=same, first=first.bytes, at=at, second=second.bytes == rest,
                     third=third.bytes, fixed=fixed.bytes, end=file.tell() == len(DATA), sums=sums)
            """
        )
        size = 4 << 20
        expected = {"same": True, "first": size, "at": 10 + size, "second": True, "third": 0}
        self.assertEqual(answer, {**expected, "fixed": size, "end": True, "sums": True})

    def test_file_object_for_loaders(self) -> None:
        answer = self.run_here(
            """
            import io
            with upm.LoadingFile(PATH) as raw:
                everything = raw.read()
                raw.seek(-9, os.SEEK_END)
                end = raw.read(100)
                total = raw.loaded.bytes
            with io.BufferedReader(upm.LoadingFile(PATH)) as file:
                file.seek(1_000_001)
                middle = file.read(2_000_000)
            tell(everything=everything == DATA, end=end == DATA[-9:],
                 total=total == len(DATA) + 9, middle=middle == DATA[1_000_001:3_000_001],
                 closed=failure(raw.read, 1))
            """
        )
        self.assertEqual(answer.pop("closed"), "ValueError: I/O operation on closed file")
        self.assertEqual(answer, dict.fromkeys(("everything", "end", "total", "middle"), True))

    def test_refuses_nonsense(self) -> None:
        answer = self.run_here(
            """
            tell(offset=failure(upm.load, PATH, -1), length=failure(upm.load, PATH, 0, -5),
                 empty=failure(upm.load, "/dev/null"), end=failure(upm.load, PATH, 1 << 40),
                 none=failure(upm.load, PATH + ".not"),
                 fd=failure(upm.read_into, 10_000, bytearray(9)),
                 readonly=failure(upm.read_into, 0, b"bytes", 0),
                 folder=failure(upm.read_into, os.open("/", os.O_RDONLY), bytearray(9), 0))
            """
        )
        self.assertIn("ValueError: offset and length must not be negative: -1", answer["offset"])
        self.assertIn("ValueError: offset and length must not be negative", answer["length"])
        self.assertIn("ValueError: nothing to read at offset 0 of '/dev/null'", answer["empty"])
        self.assertIn("ValueError: nothing to read", answer["end"])
        self.assertIn("FileNotFoundError", answer["none"])
        self.assertIn("Bad file descriptor", answer["fd"])
        self.assertIn("BufferError", answer["readonly"])
        self.assertIn("Is a directory", answer["folder"])


if __name__ == "__main__":
    sys.exit(scripts.main())
