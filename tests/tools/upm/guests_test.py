#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Virtual machines as targets of `upm advise --pid`: the memory of two that hold the same.

The guests are stopped before their first instruction, and their memory is filled by qemu
itself, so that nothing has to boot. Merges is for the module: tests/vm/run --
tests/tools/upm/guests_test.py Merges. WithoutModule shows what there is instead: it switches
KSM on, so it runs in a VM, too: tests/vm/run --no-module -- … WithoutModule.
"""

import json
import os
import random
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import time
import unittest
from pathlib import Path
from typing import Any

UPM = Path(__file__).resolve().parents[3] / "build/bin/upm"
QEMU = "qemu-system-x86_64"
KSM = Path("/sys/kernel/mm/ksm")
EXIT_SKIPPED = 4
PAGE = 4096
MIB = 1 << 20
MEMORY = 32 * MIB
BASE = MIB  # where the content is in a guest's memory
SIZE = 8 * MIB
CONTENT = random.Random(1).randbytes(SIZE)
PATIENCE = 300  # seconds; the emulator of an emulator is slow


def wait_until(done: Any, what: str) -> None:
    """Waits until done() is true."""
    end = time.monotonic() + PATIENCE
    while not done():
        if time.monotonic() > end:
            raise AssertionError(f"never came: {what}")
        time.sleep(0.1)


def connect(path: Path) -> socket.socket:
    """The socket that qemu is about to make."""
    wait_until(path.exists, str(path))
    client = socket.socket(socket.AF_UNIX)
    client.settimeout(PATIENCE)
    client.connect(str(path))
    return client


class Guest:
    """A virtual machine that is stopped."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        content = folder / "content"
        content.write_bytes(CONTENT)
        self.process = subprocess.Popen(
            [
                *(QEMU, "-accel", "tcg", "-S", "-nodefaults", "-display", "none"),
                *("-m", str(MEMORY // MIB)),
                *("-device", f"loader,file={content},addr={BASE:#x},force-raw=on"),
                *("-qmp", f"unix:{folder}/qmp,server=on,wait=off"),
                *("-gdb", f"unix:{folder}/gdb,server=on,wait=off"),
            ]
        )
        monitor = connect(folder / "qmp")
        self.qmp = monitor.makefile("rw")
        monitor.close()  # the file keeps it open
        self.qmp.readline()  # its greeting
        self.command("qmp_capabilities")
        self.gdb = connect(folder / "gdb")

    def command(self, name: str, **arguments: Any) -> None:
        """A command of QMP, which must succeed."""
        self.qmp.write(json.dumps({"execute": name, "arguments": arguments}) + "\n")
        self.qmp.flush()
        answer: dict[str, Any] = {"event": ""}
        while "event" in answer:
            answer = json.loads(self.qmp.readline())
        if "return" not in answer:
            raise AssertionError(f"{name}: {answer}")

    def memory(self) -> bytes:
        """What the guest has where the content was loaded."""
        saved = self.folder / "saved"
        self.command("pmemsave", val=BASE, size=SIZE, filename=str(saved))
        return saved.read_bytes()

    def write(self, offset: int, data: bytes) -> None:
        """As by the guest: at its reset addresses are physical."""
        packet = f"M{BASE + offset:x},{len(data):x}:{data.hex()}".encode()
        self.gdb.sendall(b"$%s#%02x" % (packet, sum(packet) % 256))
        answer = b""
        while not answer.endswith(b"$OK#9a"):
            part = self.gdb.recv(64)
            if not part or b"$E" in answer:
                raise AssertionError(f"gdb: {answer!r}")
            answer += part
        self.gdb.sendall(b"+")

    def frames(self) -> list[int]:
        """Page frames of the content; none twice, unless it is shared."""
        for line in Path(f"/proc/{self.process.pid}/maps").read_text().splitlines():
            first, last = (int(address, 16) for address in line.split()[0].split("-"))
            if last - first == MEMORY and " rw-p " in line:
                with Path(f"/proc/{self.process.pid}/pagemap").open("rb", buffering=0) as pagemap:
                    pagemap.seek((first + BASE) // PAGE * 8)
                    words = struct.unpack(f"{SIZE // PAGE}Q", pagemap.read(SIZE // PAGE * 8))
                return [word & ((1 << 55) - 1) if word >> 63 else -1 for word in words]
        raise AssertionError("the guest's memory is not among qemu's mappings")

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        self.qmp.close()
        self.gdb.close()


def shared_frames(guests: list["Guest"]) -> int:
    """Places at which both map one frame."""
    first, second = (guest.frames() for guest in guests)
    return sum(a == b and a > 0 for a, b in zip(first, second, strict=True))


class GuestsTest(unittest.TestCase):
    """Two guests with the same content."""

    def setUp(self) -> None:
        folder = Path(self.enterContext(tempfile.TemporaryDirectory()))
        self.guests = []
        for name in ("a", "b"):
            self.guests.append(Guest(folder / name))
            self.addCleanup(self.guests[-1].close)
        self.check_content()
        self.assertEqual(shared_frames(self.guests), 0)

    def check_content(self) -> None:
        for guest in self.guests:
            self.assertTrue(guest.memory() == CONTENT)

    def check_writes(self) -> None:
        """A write stays in the guest that made it, and takes one page from it."""
        before = shared_frames(self.guests)
        at = SIZE // 2 + 5
        self.guests[0].write(at, b"written")
        changed = CONTENT[:at] + b"written" + CONTENT[at + len(b"written") :]
        self.assertTrue(self.guests[0].memory() == changed)
        self.assertTrue(self.guests[1].memory() == CONTENT)
        self.assertEqual(shared_frames(self.guests), before - 1)

    def advise(self) -> subprocess.CompletedProcess[str]:
        pids = [word for guest in self.guests for word in ("--pid", str(guest.process.pid))]
        return subprocess.run(
            [UPM, "advise", *pids, "--json"], capture_output=True, text=True, check=False
        )


class Merges(GuestsTest):
    """With the module."""

    def test_equal_memory(self) -> None:
        done = self.advise()
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        self.assertGreaterEqual(json.loads(done.stdout)["counts"]["merged"], SIZE // PAGE)
        self.assertEqual(shared_frames(self.guests), SIZE // PAGE)
        self.check_content()
        self.check_writes()


class WithoutModule(GuestsTest):
    """qemu asks KSM itself (-machine mem-merge=on, its default); nothing else can."""

    def setUp(self) -> None:
        super().setUp()
        for name, value in (("run", "1"), ("pages_to_scan", "10000"), ("sleep_millisecs", "20")):
            file = KSM / name
            self.addCleanup(file.write_text, file.read_text())
            file.write_text(value)

    def test_only_ksm_merges(self) -> None:
        done = self.advise()
        self.assertNotEqual(done.returncode, 0)
        self.assertIn("cannot work on other processes", done.stdout + done.stderr)
        wait_until(lambda: shared_frames(self.guests) == SIZE // PAGE, "merged pages of KSM")
        self.check_content()
        self.check_writes()


if __name__ == "__main__":
    if os.geteuid() != 0 or not shutil.which(QEMU):
        print(f"skipped: needs root and {QEMU}")
        sys.exit(EXIT_SKIPPED)
    if "WithoutModule" not in sys.argv and not Path("/dev/upm").exists():
        print("skipped: no /dev/upm (run it with tests/vm/run)")
        sys.exit(EXIT_SKIPPED)
    unittest.main()
