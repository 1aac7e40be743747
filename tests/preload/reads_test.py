#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Unmodified programs that read files under the hook with UPM_SCOPE=loads.

    tests/preload/reads_test.py [CLASS...]

Needs no privilege. What a program reads, where its file is afterwards, and what it is told
are what they are without the hook.
"""

import sys
import unittest
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))

from hooked import PYTHON, BrokerCase, Program

SIZE = 24 * (1 << 20) + 777

# Reads a file in many ways and prints a digest of what it got and where it was after each.
# With SHARED set, goes on until enough was shared, or says that it was not.
READER = """
import ctypes, hashlib, io, os, sys, time

path, size = sys.argv[1], int(sys.argv[2])
libc = ctypes.CDLL(None, use_errno=True)
libc.fopen.restype = ctypes.c_void_p
libc.malloc.restype = ctypes.c_void_p
libc.fread.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t, ctypes.c_void_p]
libc.fread.restype = ctypes.c_size_t
libc.ftell.argtypes = libc.feof.argtypes = libc.fgetc.argtypes = [ctypes.c_void_p]
libc.fclose.argtypes = [ctypes.c_void_p]
libc.ftell.restype = ctypes.c_long
libc.free.argtypes = [ctypes.c_void_p]
found = []

def note(what, data, *more):
    found.append((what, len(data), hashlib.sha256(data).hexdigest(), *more))

def whole_file():
    with open(path, "rb") as file:
        return file.read()

def every_way():
    with open(path, "rb") as file:
        note("head", file.read(3))
        note("most", file.read(size - 1000), file.tell())
        note("rest", file.read(), file.tell())
        note("end", file.read(100), file.tell())
    fd = os.open(path, os.O_RDONLY)
    note("read", os.read(fd, 5_000_000), os.lseek(fd, 0, os.SEEK_CUR))
    note("pread", os.pread(fd, 6_000_000, 4099), os.lseek(fd, 0, os.SEEK_CUR))
    note("behind", os.pread(fd, 1_000_000, size + 5), os.lseek(fd, 0, os.SEEK_CUR))
    note("over", os.pread(fd, size, size - 700_000))
    first, second = bytearray(3_000_000), bytearray(50)
    done = os.readv(fd, [first, second])
    note("readv", bytes(first) + bytes(second), done, os.lseek(fd, 0, os.SEEK_CUR))
    done = os.preadv(fd, [first, second], size - 3_000_010)
    note("preadv", bytes(first) + bytes(second), done, os.lseek(fd, 0, os.SEEK_CUR))
    os.close(fd)
    stream = libc.fopen(path.encode(), b"rb")
    block = libc.malloc(size + 4096)
    byte = libc.fgetc(stream)
    items = libc.fread(block, 1000, size // 1000, stream)
    note("fread", ctypes.string_at(block, items * 1000), byte, items, libc.ftell(stream))
    items = libc.fread(block, 1000, 4000, stream)
    note("fread end", b"", items, libc.ftell(stream), libc.feof(stream))
    libc.fclose(stream)
    libc.free(block)
    data = whole_file()
    note("forked", data, os.waitpid(fork_and_compare(data), 0)[1])

def fork_and_compare(data):
    child = os.fork()
    if child == 0:
        os._exit(0 if data == whole_file() else 1)
    return child

for _ in range(2):
    every_way()
print(found, flush=True)

stats = getattr(libc, "upm_hook_report", None)
if stats is not None and os.environ.get("SHARED"):
    room = (ctypes.c_uint64 * 128)()
    kept = []
    for _ in range(500):  # on a busy machine nobody waits for the broker
        libc.upm_hook_report(room)
        before = list(room)
        kept.append(whole_file())
        libc.upm_hook_report(room)
        change = [after - at for at, after in zip(before, room)]
        if any(9 * size // 10 <= bytes_of <= size for bytes_of in change[8:]):
            print("shared", flush=True)
            break
        kept = kept[-1:]
        time.sleep(0.2)
    sys.stdin.readline()
"""


class Reads(BrokerCase):
    """One broker for each test."""

    def setUp(self) -> None:
        super().setUp()
        self.file = self.path / "file"
        self.file.write_bytes(b"".join(i.to_bytes(4, "little") for i in range(SIZE // 4 + 1)))
        self.hook["UPM_SCOPE"] = "loads"

    def reader(self, variables: dict[str, str]) -> Program:
        size = str(self.file.stat().st_size)
        return self.start([PYTHON, "-c", READER, self.file, size], variables)

    def answer(self, variables: dict[str, str]) -> str:
        out, errors = self.reader(variables).end()
        self.assertNotEqual(out, "", errors)
        return out.splitlines()[0]

    def test_all_is_as_without_the_hook(self) -> None:
        plain = self.answer({})
        self.assertEqual(self.answer(self.hook), plain)
        self.assertEqual(self.answer(self.hook), plain)

    def test_with_a_broker_that_is_stopped(self) -> None:
        plain = self.answer({})
        self.broker.stop()
        self.assertEqual(self.answer(self.hook), plain)

    def test_two_processes_share(self) -> None:
        """Each says that a whole file came to it in shared pages, while both live."""
        readers = [self.reader(self.hook | {"SHARED": "1"}) for _ in range(2)]
        for reader in readers:
            reader.line()
            self.assertEqual(reader.line(), "shared\n")
        for reader in readers:
            out, errors = reader.end("\n")
            self.assertEqual((reader.status, out), (0, ""), errors)


if __name__ == "__main__":
    unittest.main(argv=[sys.argv[0], *sys.argv[1:]], verbosity=2)
