# SPDX-License-Identifier: MIT
"""Programs under the hook, and brokers, for the tests in Python.

A test waits for what it asserts: the hook works when a program is idle, which on a busy
machine may be long after it was first so. Program.wait_until_idle() is for that.
"""

from __future__ import annotations

import os
import signal
import struct
import subprocess
import sys
import tempfile
import time
import unittest
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HOOK = ROOT / "build/lib/libupm-preload.so"
UPM = ROOT / "build/bin/upm"
UPMD = ROOT / "build/bin/upmd"
FAKE = ROOT / "build/cmake/tests/support/upm-fake-device.so"  # plays the module
LOAD = ROOT / "build/cmake/tests/preload/upm-hook-load"
CHANGES = ROOT / "build/cmake/tests/preload/upm-hook-changes"
PYTHON = "/usr/bin/python3"
EXIT_SKIPPED = 4
PAGE = 4096
SECONDS = 300  # for whatever a test waits for
LISTENS = "00010000"  # flag of a socket in /proc/net/unix

Words = Sequence[str | Path]


def environment(**variables: str) -> dict[str, str]:
    """The environment without anything of UPM's, and these variables."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("UPM_", "LD_PRELOAD"))}
    return clean | variables


def hook(backend: str, *others: str | Path, **variables: str) -> dict[str, str]:
    """The variables for the hook at its most eager, preloaded with other libraries.

    So it merges idle blocks by every backend, which is not the default with the store.
    """
    return {
        "UPM_SCOPE": "blocks",
        "LD_PRELOAD": ":".join(str(path) for path in (HOOK, *others)),
        "UPM_BACKEND": backend,
        "UPM_IDLE_MS": "10",
    } | variables


PRESENT = 1 << 63  # bits of an entry of /proc/PID/pagemap
FRAME = (1 << 55) - 1


def pagemap(pid: int, address: int, pages: int) -> list[int]:
    """The entries of the pages from this address on; frames need CAP_SYS_ADMIN."""
    with Path(f"/proc/{pid}/pagemap").open("rb") as file:
        file.seek(address // PAGE * 8)
        return list(struct.unpack(f"{pages}Q", file.read(pages * 8)))


def wait_until(holds: Callable[[], bool], what: str) -> None:
    """Fails if that has not come true after SECONDS."""
    end = time.monotonic() + SECONDS
    while not holds():
        if time.monotonic() > end:
            raise AssertionError(f"still not after {SECONDS} s: {what}")
        time.sleep(0.02)


def run(command: Words, variables: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Runs a program to its end."""
    return subprocess.run(
        command,
        env=environment(**variables),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )


class Program:
    """A program that runs, with pipes to its standard input, output and errors."""

    def __init__(self, command: Words, variables: dict[str, str]) -> None:
        self.process = subprocess.Popen(
            command,
            env=environment(**variables),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.pid = self.process.pid

    @property
    def status(self) -> int | None:
        """The exit status; None while it runs."""
        return self.process.returncode

    def line(self) -> str:
        """The next line that it writes; fails with its errors if it ended before."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise AssertionError(f"no line of it; on stderr: {self.process.communicate()[1]}")
        return line

    def lines(self) -> Iterator[str]:
        """The lines that it writes, to the end of its output."""
        assert self.process.stdout is not None
        yield from self.process.stdout

    def tell(self, line: str = "") -> None:
        """Lets it read a line."""
        assert self.process.stdin is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def threads(self) -> list[str]:
        """The names of its threads."""
        names = []
        for path in Path(f"/proc/{self.pid}/task").glob("*/comm"):
            try:
                names.append(path.read_text().strip())
            except OSError:
                continue  # it has just ended
        return names

    def wait_until_idle(self) -> None:
        """Until the hook has nothing left to do; without a backend that is so at once."""
        wait_until(
            lambda: "upm-hook idle" in self.threads() or self.process.poll() is not None,
            "no thread says that the hook is done",
        )
        if self.process.poll() is not None:
            raise AssertionError(f"ended with {self.status}: {self.process.communicate()[1]}")

    def end(self, text: str = "") -> tuple[str, str]:
        """Ends its input and waits for its end. Returns the rest of its output, and its errors."""
        try:
            return self.process.communicate(text, timeout=SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()
            raise

    def kill(self) -> None:
        """Ends it in any case."""
        self.process.kill()
        self.process.communicate()


class Broker:
    """An upmd in a folder of its own, with these options."""

    def __init__(self, *options: str) -> None:
        self.folder = tempfile.TemporaryDirectory(prefix="upm-test-")
        self.path = Path(self.folder.name)
        self.socket = self.path / "upmd.sock"
        self.process = subprocess.Popen([UPMD, "--socket", self.socket, *options])
        self.pid = self.process.pid
        try:
            wait_until(self.listens, "upmd does not listen")
        except AssertionError:
            self.end()
            raise

    def listens(self) -> bool:
        """Returns true if somebody listens at the socket, whose name is there before."""
        for line in Path("/proc/net/unix").read_text().splitlines():
            words = line.split()
            if words[-1] == str(self.socket) and LISTENS in words:
                return True
        return False

    def stop(self) -> None:
        """It answers no more until go_on()."""
        self.process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """It answers again."""
        self.process.send_signal(signal.SIGCONT)

    def end(self) -> None:
        """Ends it, stopped or not, and removes its folder."""
        self.go_on()
        self.process.terminate()
        self.process.wait()
        self.folder.cleanup()


class HookCase(unittest.TestCase):
    """A test with programs that end with it."""

    def start(self, command: Words, variables: dict[str, str]) -> Program:
        """Starts one."""
        program = Program(command, variables)
        self.addCleanup(program.kill)
        return program


class BrokerCase(HookCase):
    """The same with a broker; `hook` has the variables of programs under the hook."""

    def setUp(self) -> None:
        """Starts it."""
        self.broker = Broker()
        self.addCleanup(self.broker.end)
        self.path = self.broker.path
        self.hook = hook("store", UPM_SOCKET=str(self.broker.socket))


def main(*classes: str) -> int:
    """Runs the tests that the command line names, or those of these classes.

    Returns the exit status: EXIT_SKIPPED if none could run.
    """
    suite = unittest.defaultTestLoader.loadTestsFromNames(
        sys.argv[1:] or classes, sys.modules["__main__"]
    )
    result = unittest.TextTestRunner(verbosity=2).run(suite)
    if not result.wasSuccessful():
        return 1
    return EXIT_SKIPPED if len(result.skipped) >= result.testsRun else 0
