#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Unmodified programs that read files under the hook as it is by default, with the store.

    tests/preload/reads_test.py READS-PROGRAM RACES-PROGRAM [CLASS...]

Needs no privilege, except for other file systems. What a program reads, where its file is
afterwards, and what it is told are what they are without the hook.
"""

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import unittest
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HOOK = ROOT / "build/lib/libupm-preload.so"
UPMD = ROOT / "build/bin/upmd"
READS = sys.argv[1] if len(sys.argv) > 1 else "upm-hook-reads"
RACES = sys.argv[2] if len(sys.argv) > 2 else "upm-hook-read-races"
SIZE = 24 * (1 << 20) + 777
SECONDS = 200
# On a busy machine the hook does not wait for the broker, and reads plainly.
TRIES = 10

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
    for _ in range(100):  # on a busy machine nobody waits for the broker
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


def unmount(folder: Path) -> None:
    subprocess.run(["umount", "-l", folder], check=True)


class Case(unittest.TestCase):
    """One broker for each test."""

    def setUp(self) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.addCleanup(self.folder.cleanup)
        self.socket = f"{self.folder.name}/upmd.sock"
        self.file = Path(self.folder.name) / "file"
        self.file.write_bytes(b"".join(i.to_bytes(4, "little") for i in range(SIZE // 4 + 1)))
        self.hook = {
            "LD_PRELOAD": str(HOOK),
            "UPM_BACKEND": "store",
            "UPM_SOCKET": self.socket,
        }
        self.broker = self.start_broker()
        self.addCleanup(self.end_broker)

    def start_broker(self) -> subprocess.Popen[bytes]:
        broker = subprocess.Popen([UPMD, "--socket", self.socket])
        for _ in range(500):
            if Path(self.socket).exists():
                return broker
            time.sleep(0.01)
        self.fail("upmd does not listen")

    def end_broker(self) -> None:
        self.broker.send_signal(signal.SIGCONT)
        self.broker.terminate()
        self.broker.wait()

    def run_program(self, *command: str, **variables: str) -> subprocess.Popen[str]:
        clean = {k: v for k, v in os.environ.items() if not k.startswith(("UPM_", "LD_PRELOAD"))}
        return subprocess.Popen(
            command,
            env=clean | variables,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def start(self, file: str = "", **variables: str) -> subprocess.Popen[str]:
        path = file or str(self.file)
        size = str(self.file.stat().st_size)
        return self.run_program("/usr/bin/python3", "-c", READER, path, size, **variables)

    def done(self, process: subprocess.Popen[str]) -> tuple[str, str]:
        """What a program that succeeded wrote."""
        try:
            out, errors = process.communicate(timeout=SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
        self.assertEqual(process.returncode, 0, errors)
        return out, errors

    def shared(self, errors: str) -> int:
        """Bytes that came to share, as upm-hook-reads and upm-hook-read-races say."""
        found = re.search(r"^shared (\d+) made", errors, re.MULTILINE)
        assert found, errors
        return int(found[1])

    def answer(self, **variables: str) -> str:
        out, errors = self.start(**variables).communicate(timeout=SECONDS)
        self.assertNotEqual(out, "", errors)
        return out.splitlines()[0]


class Reads(Case):
    """A Python program."""

    def test_all_is_as_without_the_hook(self) -> None:
        plain = self.answer()
        self.assertEqual(self.answer(**self.hook), plain)
        self.assertEqual(self.answer(**self.hook), plain)

    def test_with_a_broker_that_is_stopped(self) -> None:
        plain = self.answer()
        self.broker.send_signal(signal.SIGSTOP)
        self.assertEqual(self.answer(**self.hook), plain)

    def test_two_processes_share(self) -> None:
        """Each says that a whole file came to it in shared pages, while both live."""
        self.check_readers([self.start(**self.hook, SHARED="1") for _ in range(2)])

    def check_readers(self, readers: list[subprocess.Popen[str]]) -> None:
        for reader in readers:
            assert reader.stdout is not None
            reader.stdout.readline()
            self.assertEqual(reader.stdout.readline(), "shared\n")
        for reader in readers:
            out, errors = reader.communicate("\n", timeout=SECONDS)
            self.assertEqual((reader.returncode, out), (0, ""), errors)

    def test_two_mounts_of_one_layer(self) -> None:
        """Containers of one image: overlayfs, each with a mount of its own."""
        below = Path(self.folder.name, "below")
        below.mkdir()
        shutil.copy(self.file, below / "file")
        mounts = []
        for name in ("one", "two"):
            names = ("up", "work", "on")
            parts = {part: Path(self.folder.name, f"{name}-{part}") for part in names}
            for part in parts.values():
                part.mkdir()
            options = f"lowerdir={below},upperdir={parts['up']},workdir={parts['work']}"
            command = ["mount", "-t", "overlay", "-o", options, "overlay", str(parts["on"])]
            if subprocess.run(command, capture_output=True, check=False).returncode != 0:
                self.skipTest("overlayfs cannot be mounted here")
            self.addCleanup(unmount, parts["on"])
            mounts.append(parts["on"])
        self.check_readers([self.start(f"{m}/file", **self.hook, SHARED="1") for m in mounts])


class Ways(Case):
    """Every call, stream, kind of file and destination: upm-hook-reads."""

    def compare(self, folder: str, shares: bool = True) -> None:
        plain, _ = self.done(self.run_program(READS, folder))
        for _ in range(TRIES):
            found, errors = self.done(self.run_program(READS, folder, **self.hook))
            self.assertEqual(found.splitlines(), plain.splitlines())
            if not shares or self.shared(errors) > 32 << 20:
                return
        self.fail(f"never shared: {errors}")

    def test_on_disk(self) -> None:
        self.compare(self.folder.name)

    def test_in_memory(self) -> None:
        if not os.access("/dev/shm", os.W_OK):
            self.skipTest("no /dev/shm")
        with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
            self.compare(folder)

    def test_by_a_program(self) -> None:
        """FUSE: read plainly."""
        if not shutil.which("bindfs") or not os.access("/dev/fuse", os.R_OK | os.W_OK):
            self.skipTest("no bindfs, or no /dev/fuse")
        folders = [Path(self.folder.name, name) for name in ("below", "on")]
        for folder in folders:
            folder.mkdir()
        if subprocess.run(["bindfs", *folders], capture_output=True, check=False).returncode != 0:
            self.skipTest("bindfs cannot mount here")
        self.addCleanup(unmount, folders[1])
        self.compare(str(folders[1]), shares=False)

    def test_with_a_broker_that_is_stopped(self) -> None:
        self.broker.send_signal(signal.SIGSTOP)
        self.compare(self.folder.name, shares=False)


class Races(Case):
    """Files that change, and descriptors that others use: upm-hook-read-races."""

    def race(self, what: str, shares: bool = True) -> None:
        for _ in range(TRIES):
            _, errors = self.done(self.run_program(RACES, what, self.folder.name, "2", **self.hook))
            if not shares or self.shared(errors) > 0:
                return
        self.fail(f"never shared: {errors}")

    def test_somebody_writes(self) -> None:
        self.race("writer", shares=False)

    def test_somebody_truncates(self) -> None:
        self.race("truncation", shares=False)

    def test_somebody_replaces_it(self) -> None:
        self.race("renaming")

    def test_two_threads_with_one_descriptor(self) -> None:
        self.race("one-descriptor")

    def test_two_threads_with_one_stream(self) -> None:
        self.race("one-stream")


class Brokers(Case):
    """Brokers that are stopped or end, whatever they are at."""

    def steady(self, disturb: threading.Event) -> None:
        """Reads for some seconds; the event is set when that is over."""
        try:
            self.done(self.run_program(RACES, "steady", self.folder.name, "4", **self.hook))
        finally:
            disturb.set()

    def disturb_while_reading(self, pause: float, disturbance: Callable[[], None]) -> None:
        over = threading.Event()

        def again() -> None:
            while not over.wait(pause):
                disturbance()

        thread = threading.Thread(target=again)
        thread.start()
        try:
            self.steady(over)
        finally:
            over.set()
            thread.join()

    def test_stopped_again_and_again(self) -> None:
        def stop_and_go() -> None:
            self.broker.send_signal(signal.SIGSTOP)
            time.sleep(0.004)
            self.broker.send_signal(signal.SIGCONT)

        self.disturb_while_reading(0.003, stop_and_go)

    def test_killed_again_and_again(self) -> None:
        def kill() -> None:
            self.broker.kill()
            self.broker.wait()
            with contextlib.suppress(FileNotFoundError):
                Path(self.socket).unlink()
            self.broker = self.start_broker()

        self.disturb_while_reading(0.15, kill)


def main() -> int:
    suite = unittest.defaultTestLoader.loadTestsFromNames(
        sys.argv[3:] or ["Reads", "Ways", "Races", "Brokers"], sys.modules[__name__]
    )
    return 0 if unittest.TextTestRunner(verbosity=2).run(suite).wasSuccessful() else 1


if __name__ == "__main__":
    sys.exit(main())
