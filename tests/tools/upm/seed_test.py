#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""upm seed with the real broker: what it keeps, for whom, how long, and what it says.

    tests/tools/upm/seed_test.py [CLASS...]

Needs no privilege; that another user is refused is tried by root only.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "support"))
import hooked

MIB = 1 << 20
SIZE = 24 * MIB  # two windows of a load
EDGE = 300 << 10  # what a load copies at the ends of what it reads, and more
OF_FILE = 1 << 61  # of an entry of the page map: the page is one of a file
# A program does not wait for a broker that a busy machine keeps from answering.
TRIES = 10

# Reads a part of a file into memory as a C program does, says where, and stays.
READER = """
import ctypes, os, sys
path, offset, size = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
libc.pread.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_long]
libc.pread.restype = ctypes.c_ssize_t
block = libc.malloc(size)
assert libc.pread(os.open(path, os.O_RDONLY), block, size, offset) == size
print(block, hash(ctypes.string_at(block, size)) != 0, flush=True)
sys.stdin.read()
"""
# The same as Python's own files do it.
BYTES = """
import sys
with open(sys.argv[1], "rb", buffering=0) as file:
    block = file.read()
print(id(block) + sys.getsizeof(b"") - 1, len(block), flush=True)
sys.stdin.read()
"""


class SeedCase(hooked.BrokerCase):
    """A file with weights, and commands as users type them."""

    def setUp(self) -> None:
        super().setUp()
        self.variables = {"UPM_BACKEND": "store", "UPM_SOCKET": str(self.broker.socket)}
        self.file = self.path / "weights"
        self.file.write_bytes(os.urandom(SIZE))

    def upm(self, *words: str | Path, **variables: str) -> subprocess.CompletedProcess[str]:
        """Runs the command to its end."""
        return hooked.run([hooked.UPM, *words], self.variables | variables)

    def seed(self, *words: str | Path) -> Any:
        """Seeds, which must succeed; what it says of the seed."""
        done = self.upm("seed", "--json", *words)
        self.assertEqual(done.returncode, 0, done.stderr)
        return json.loads(done.stdout[done.stdout.index("{") :])["seed"]

    def seeds(self) -> Any:
        """All that there are."""
        return json.loads(self.upm("seed", "--list", "--json").stdout)["seeds"]

    def drop(self, *numbers: int) -> Any:
        """Drops them, which must succeed."""
        done = self.upm("seed", "--json", "--drop", *(str(number) for number in numbers))
        self.assertEqual(done.returncode, 0, done.stderr)
        return json.loads(done.stdout)

    def kept_by_broker(self) -> int:
        """Bytes of the segments that it holds."""
        total = 0
        for link in Path(f"/proc/{self.broker.pid}/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):
                if "memfd:upm-store" in str(link.readlink()):
                    total += link.stat().st_size
        return total

    def run_hooked(self, *words: str | Path) -> hooked.Program:
        """A program as `upm run` runs it."""
        return self.start([hooked.UPM, "run", "--", hooked.PYTHON, "-c", *words], self.variables)

    def own_pages(self, program: hooked.Program, size: int) -> float:
        """The share of what it has read that is in private memory of its own."""
        address = int(program.line().split()[0])
        first = -(-address // hooked.PAGE)
        count = (address + size) // hooked.PAGE - first
        entries = hooked.pagemap(program.pid, first * hooked.PAGE, count)
        return sum(not entry & OF_FILE for entry in entries if entry & hooked.PRESENT) / count

    def assert_first_shares(self, size: int, *words: str | Path) -> None:
        """The first program that reads that takes next to no memory of its own for it."""
        best = 1.0
        for _ in range(TRIES):
            program = self.run_hooked(*words)
            best = min(best, self.own_pages(program, size))
            program.end()
            if best * size < EDGE:
                return
        self.fail(f"{best:.0%} of {size} bytes are private, at best")

    def reader(self, offset: int = 0, size: int = SIZE) -> tuple[str, Path, str, str]:
        """The words for READER."""
        return READER, self.file, str(offset), str(size)


class Kept(SeedCase):
    """What was seeded is there for the first program, and goes when it is to go."""

    def test_without_a_seed_the_first_one_makes_it_and_it_goes(self) -> None:
        program = self.run_hooked(*self.reader())
        program.line()
        program.end()
        hooked.wait_until(lambda: self.kept_by_broker() == 0, "content that nobody maps goes")

    def test_what_a_command_loads(self) -> None:
        before = self.kept_by_broker()
        told = self.seed("--", hooked.PYTHON, "-c", *self.reader())
        self.assertGreater(told["kept_bytes"], SIZE - EDGE)
        self.assertEqual(told["missed_bytes"], 0)
        self.assertEqual(self.kept_by_broker(), told["kept_bytes"])
        self.assert_first_shares(SIZE, *self.reader())
        self.assertEqual([seed["used_bytes"] for seed in self.seeds()], [0])
        self.assertEqual(self.drop(told["seed"])["dropped_bytes"], told["kept_bytes"])
        self.assertEqual(self.kept_by_broker(), before)
        self.assertEqual(self.seeds(), [])

    def test_children_of_the_command(self) -> None:
        shell: list[str | Path] = ["/bin/sh", "-c", '"$@"; exit 0', "sh"]
        shell += [hooked.PYTHON, "-c", *self.reader()]
        self.assertGreater(self.seed("--", *shell)["kept_bytes"], SIZE - EDGE)

    def test_a_whole_file(self) -> None:
        self.assertGreater(self.seed(self.file)["kept_bytes"], SIZE - EDGE)
        self.assert_first_shares(SIZE, *self.reader())

    def test_a_file_that_python_reads(self) -> None:
        self.seed("--at", "32", self.file)
        self.assert_first_shares(SIZE, BYTES, self.file)

    def test_tensors(self) -> None:
        """Each kind of file: the first program to read any tensor of it shares that."""
        for kind, make in (("torch", torch_file), ("safetensors", safetensors), ("npy", npy)):
            with self.subTest(kind):
                content, places = make()
                self.file.write_bytes(content)
                told = self.seed(self.file)
                for offset, size in places:
                    self.assert_first_shares(size, *self.reader(offset, size))
                self.drop(told["seed"])
        self.assertEqual(self.kept_by_broker(), 0)

    def test_a_program_that_has_it_keeps_it_when_it_is_dropped(self) -> None:
        told = self.seed("--", hooked.PYTHON, "-c", *self.reader())
        self.assert_first_shares(SIZE, *self.reader())
        program = self.run_hooked(*self.reader())
        program.line()
        used = self.seeds()[0]["used_bytes"]
        self.drop(told["seed"])
        self.assertEqual(self.kept_by_broker(), used)
        program.end()
        hooked.wait_until(lambda: self.kept_by_broker() == 0, "its segments go with it")

    def test_it_expires(self) -> None:
        self.seed("--expire", "1", self.file)
        hooked.wait_until(lambda: self.kept_by_broker() == 0, "it was to expire")
        self.assertEqual(self.seeds(), [])


class Limits(SeedCase):
    """Nobody keeps more than it may, and whoever cannot is told why."""

    def test_budget(self) -> None:
        done = self.upm("seed", "--budget", "20M", self.file)
        self.assertEqual(done.returncode, 1)
        self.assertRegex(done.stderr, r"no room for .* of a budget of 20.0 MiB are kept")
        # The window that was there first.
        kept = self.seeds()[0]["kept_bytes"]
        self.assertEqual(kept, SIZE // 2)
        hooked.wait_until(lambda: self.kept_by_broker() == kept, "no more is kept")
        done = self.upm("seed", "--budget", "1M", "--", hooked.PYTHON, "-c", *self.reader())
        self.assertEqual(done.returncode, 1)
        self.assertIn("nothing is kept", done.stderr)
        hooked.wait_until(lambda: self.kept_by_broker() == kept, "the rest goes")

    def test_share_of_a_user(self) -> None:
        self.broker.end()
        self.file = Path(tempfile.mkstemp(prefix="upm-seed-")[1])
        self.addCleanup(self.file.unlink)
        self.file.write_bytes(os.urandom(SIZE))
        for options, text in (
            (["--seeds", "0"], "the broker allows no seeds"),
            (["--seeds", "16"], "of the budget of 1.0 GiB, this user's share has room for 16.0"),
        ):
            self.broker = hooked.Broker(*options)
            self.addCleanup(self.broker.end)
            self.variables["UPM_SOCKET"] = str(self.broker.socket)
            file = self.broker.path / "weights"
            file.write_bytes(os.urandom(SIZE))
            done = self.upm("seed", "--budget", "1G", file)
            self.assertEqual(done.returncode, 1)
            self.assertIn(text, done.stderr)
            hooked.wait_until(lambda: self.kept_by_broker() <= 16 * MIB, "the rest goes")
            self.broker.end()
        self.broker = hooked.Broker("--seeds", "24")
        self.addCleanup(self.broker.end)
        self.variables["UPM_SOCKET"] = str(self.broker.socket)
        self.assertEqual(self.seed(self.file)["kept_bytes"], SIZE)
        done = self.upm("seed", self.file)
        self.assertEqual(done.returncode, 1)
        self.assertIn("all of its share is in them", done.stderr)

    def test_another_user(self) -> None:
        if os.geteuid() != 0:
            self.skipTest("needs root to be two users")
        self.broker.end()
        self.broker = hooked.Broker("--mode", "0666")
        self.addCleanup(self.broker.end)
        self.variables["UPM_SOCKET"] = str(self.broker.socket)
        self.broker.path.chmod(0o755)
        file = self.broker.path / "weights"
        file.write_bytes(os.urandom(SIZE))
        file.chmod(0o644)

        def upm_as(uid: int, *words: str | Path, **variables: str) -> tuple[int, str]:
            who = ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups"]
            done = hooked.run(
                [*who, "--bounding-set=-all", hooked.UPM, "seed", *words],
                self.variables | variables,
            )
            return done.returncode, done.stdout + done.stderr

        status, text = upm_as(1000, file)
        self.assertEqual(status, 0, text)
        self.assertIn("no seed", upm_as(1001, "--list")[1])
        status, text = upm_as(1001, "--drop", "1")
        self.assertEqual(status, 1)
        self.assertIn("there is none of this user and domain", text)
        self.assertIn("0 seeds dropped", upm_as(1001, "--drop")[1])
        # In one domain it is seen, and is the other one's all the same.
        key = {"UPM_DOMAIN": "0123456789abcdef" * 2}
        self.assertEqual(upm_as(1000, file, **key)[0], 0)
        self.assertNotIn(str(file), upm_as(1001, "--list", **key)[1])
        status, text = upm_as(1001, "--drop", "2", **key)
        self.assertEqual(status, 1)
        self.assertIn("it is another user's", text)
        self.assertEqual(len(self.seeds()), 2, "root sees all")
        self.drop(1, 2)
        self.assertEqual(self.kept_by_broker(), 0)


class Robust(SeedCase):
    """Whoever dies, stops or comes at the same time."""

    def seed_and_wait(self, *options: str) -> hooked.Program:
        """A seed whose program has loaded, and stays."""
        words: list[str | Path] = [hooked.UPM, "seed", *options, "--"]
        words += [hooked.PYTHON, "-c", *self.reader()]
        program = self.start(words, self.variables)
        program.line()
        return program

    def test_the_command_is_killed(self) -> None:
        program = self.seed_and_wait()
        self.assertTrue(self.seeds()[0]["open"])
        program.kill()
        hooked.wait_until(lambda: not self.seeds()[0]["open"], "it takes nothing more")
        kept = self.seeds()[0]["kept_bytes"]
        self.assertGreater(kept, SIZE - EDGE)
        self.assertEqual(self.drop()["dropped_bytes"], kept)
        hooked.wait_until(lambda: self.kept_by_broker() == 0, "the program ends with its input")

    def test_killed_before_it_loads(self) -> None:
        program = self.start([hooked.UPM, "seed", "--", "/bin/sleep", "1000"], self.variables)
        hooked.wait_until(lambda: bool(self.seeds()), "it begins")
        children = Path(f"/proc/{program.pid}/task/{program.pid}/children").read_text().split()
        os.kill(program.pid, signal.SIGKILL)
        hooked.wait_until(lambda: not self.seeds(), "a seed of nothing goes")
        for child in children:
            os.kill(int(child), signal.SIGKILL)

    def test_killed_while_it_loads_files(self) -> None:
        big = self.path / "big"
        big.write_bytes(os.urandom(96 * MIB))
        for tenth in range(5):
            seeder = self.start([hooked.UPM, "seed", big], self.variables)
            time.sleep(tenth / 20)
            seeder.kill()
            hooked.wait_until(lambda: not any(seed["open"] for seed in self.seeds()), "it ends")
            self.drop()
            hooked.wait_until(lambda: self.kept_by_broker() == 0, "all of it goes")
        self.assertGreater(self.seed(big)["kept_bytes"], 95 * MIB)

    def test_signals_reach_the_command(self) -> None:
        script = "import signal,sys\nsignal.signal(15, lambda *a: sys.exit(7))\n"
        script += "print('up', flush=True)\nsignal.pause()"
        words: hooked.Words = [hooked.UPM, "seed", "--", hooked.PYTHON, "-c", script]
        program = self.start(words, self.variables)
        program.line()
        program.process.terminate()
        self.assertEqual(program.process.wait(hooked.SECONDS), 7)

    def test_two_at_once(self) -> None:
        words: hooked.Words = [hooked.UPM, "seed", self.file]
        both = [self.start(words, self.variables) for _ in range(2)]
        for program in both:
            _, errors = program.end()
            self.assertEqual(program.status, 0, errors)
        one, two = (seed["seed"] for seed in self.seeds())
        self.drop(one)
        self.assertGreater(self.kept_by_broker(), SIZE - EDGE, "the other one keeps it")
        self.assert_first_shares(SIZE, *self.reader())
        self.drop(two)
        self.assertEqual(self.kept_by_broker(), 0)

    def test_a_frozen_command_holds_up_nobody(self) -> None:
        program = self.seed_and_wait()
        (child,) = Path(f"/proc/{program.pid}/task/{program.pid}/children").read_text().split()
        for pid in (program.pid, int(child)):
            os.kill(pid, signal.SIGSTOP)
        other = self.path / "other"
        other.write_bytes(os.urandom(SIZE))
        self.assertGreater(self.seed(other)["kept_bytes"], SIZE - EDGE)
        self.drop()
        for pid in (int(child), program.pid):
            os.kill(pid, signal.SIGKILL)
        hooked.wait_until(lambda: self.kept_by_broker() == 0, "it is gone")

    def test_the_broker_ends(self) -> None:
        program = self.seed_and_wait()
        self.broker.process.kill()
        self.broker.process.wait()
        _, errors = program.end()
        self.assertEqual(program.status, 1)
        self.assertIn("nothing is kept: the broker ended", errors)
        done = self.upm("seed", "--list")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(done.stdout, "no broker runs, so there is no seed\n")
        self.assertEqual(self.upm("seed", "--drop").returncode, 0)
        done = self.upm("seed", "--drop", "1")
        self.assertEqual(done.returncode, 1)
        self.assertIn("there is none", done.stderr)
        self.broker.process = subprocess.Popen([hooked.UPMD, "--socket", self.broker.socket])
        hooked.wait_until(self.broker.listens, "upmd does not listen")
        self.assertIn("no seed (the broker runs for", self.upm("seed", "--list").stdout)

    def test_a_broker_that_ends_tells_what_goes_with_it(self) -> None:
        socket = self.path / "other.sock"
        broker = subprocess.Popen(
            [hooked.UPMD, "--socket", socket], stderr=subprocess.PIPE, text=True
        )
        hooked.wait_until(socket.exists, "upmd does not listen")
        done = self.upm("seed", self.file, UPM_SOCKET=str(socket))
        self.assertEqual(done.returncode, 0, done.stderr)
        broker.terminate()
        self.assertIn("1 seed that keeps 24 MiB", broker.communicate()[1])


class Input(SeedCase):
    """What cannot be done is said: what, where and why."""

    def test_bad_words(self) -> None:
        file = str(self.file)
        for words, text in (
            ([], "say one of"),
            (["--"], "say one of"),
            ([file, "--", "true"], "say one of"),
            (["--list", "--drop"], "say one of"),
            (["--budget", "much", file], "--budget: 'much' is no number of bytes"),
            (["--budget", "0", file], "--budget: '0' is no number of bytes"),
            (["--expire", "-1", file], "--expire: '-1' is no whole number from 0 to"),
            (["--at", "4096", file], "--at: '4096' is no whole number from 0 to 4095"),
            (["--drop", "0"], "--drop '0': the number of a seed"),
            (["--drop", "x\x1b[2J"], "--drop 'x\\x1b[2J': the number of a seed"),
            (["--domain", "a b", file], "--domain 'a b' is no name of a device"),
            (["--what", file], "what"),
        ):
            with self.subTest(words):
                done = self.upm("seed", *words)
                self.assertEqual(done.returncode, 2, done.stderr)
                self.assertIn(text, done.stderr)
        self.assertEqual(self.seeds(), [])

    def test_bad_files(self) -> None:
        small = self.path / "small\n\x1b[31m"
        small.write_bytes(b"x" * 1000)
        pipe = self.path / "pipe"
        os.mkfifo(pipe)
        empty = self.path / "empty"
        empty.write_bytes(b"")
        secret = self.path / "broken.pt"
        content, _ = torch_file()
        secret.write_bytes(content[: -(1 << 20)])  # without its directory it is any file
        torn = self.path / "torn.safetensors"
        content, _ = safetensors()
        torn.write_bytes(content[: len(content) // 2])
        for path, text in (
            (self.path / "none", "none: No such file"),
            (self.path, "it is no regular file"),
            (pipe, "it is no regular file"),
            (Path("/dev/zero"), "it is no regular file"),
            (Path("/proc/self/maps"), "it has 0 B"),
            (small, "small\\x0a\\x1b[31m: it has 1000 B, and reads of less than 256.0 KiB do not"),
            (empty, "it has 0 B"),
            (torn, "torn.safetensors is broken: tensor a.weight lies outside"),
        ):
            with self.subTest(str(path)):
                done = self.upm("seed", self.file, path)
                self.assertEqual(done.returncode, 1, done.stderr)
                self.assertIn(text, done.stderr)
                self.assertNotIn("\x1b", done.stderr)
        self.assertEqual(self.seeds(), [], "nothing is begun before all files are known")
        self.assertEqual(self.upm("seed", secret).returncode, 0)

    def test_damaged_weights(self) -> None:
        """Whatever bytes are wrong, it says so or seeds something, and never crashes."""
        for make in (torch_file, safetensors, npy):
            content, _ = make()
            heads = [*range(0, 60), *range(len(content) - 500, len(content), 7)]
            for at in heads[:: max(1, len(heads) // 25)]:
                damaged = bytearray(content)
                damaged[at : at + 4] = b"\xff\xff\xff\xff"
                self.file.write_bytes(damaged)
                done = self.upm("seed", self.file)
                self.assertIn(done.returncode, (0, 1), f"{make.__name__} {at}: {done.stderr}")
                self.drop()

    def test_commands_that_cannot_be(self) -> None:
        done = self.upm("seed", "--", "/none/such")
        self.assertEqual(done.returncode, 127)
        self.assertIn("cannot run /none/such: No such file", done.stderr)
        done = self.upm("seed", "--", "true")
        self.assertEqual(done.returncode, 1)
        self.assertIn("nothing is kept: the program read no file", done.stderr)
        done = self.upm("seed", "--", "sh", "-c", "exit 9")
        self.assertEqual(done.returncode, 9, "the program's own status comes first")
        self.assertEqual(self.seeds(), [])

    def test_other_backends(self) -> None:
        for backend, text in (("none", "nothing here shares on load"), ("ksm", "nothing")):
            done = self.upm("seed", self.file, UPM_BACKEND=backend)
            self.assertEqual(done.returncode, 1)
            self.assertIn(text, done.stderr)

    def test_a_full_disk_of_segments(self) -> None:
        """The broker has no memory for more: the rest is said, and nothing hangs."""
        prlimit = shutil.which("prlimit")
        if not prlimit:
            self.skipTest("no prlimit")
        subprocess.run([prlimit, "--pid", str(self.broker.pid), f"--fsize={4 * MIB}"], check=True)
        done = self.upm("seed", self.file)
        self.assertEqual(done.returncode, 1, done.stderr)
        self.assertIn("the broker made nothing of it", done.stderr)


Content = tuple[bytes, list[tuple[int, int]]]  # of a file, and where its tensors are


def torch_file() -> Content:
    """As torch.save() makes it: a zip of stored files that begin at multiples of 64."""
    places = []
    room = io.BytesIO()
    with zipfile.ZipFile(room, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02}q\x00.")
        for number, size in enumerate((3 * MIB + 12, 400_000, 1000)):
            info = zipfile.ZipInfo(f"archive/data/{number}")
            pad = -(room.tell() + 30 + len(info.filename) + 4) % 64
            info.extra = b"FB" + struct.pack("<H", pad) + b"Z" * pad
            data = os.urandom(size)
            archive.writestr(info, data)
            if size > 256 << 10:
                places.append((room.tell() - size, size))
    content = room.getvalue()
    return content, places


def safetensors() -> Content:
    """Eight bytes, a JSON text, and the tensors."""
    sizes = {"a.weight": 2 * MIB, "b.weight": 700_000, "b.bias": 4000}
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    at = 0
    for name, size in sizes.items():
        header[name] = {"dtype": "U8", "shape": [size], "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header).encode()
    start = 8 + len(text)
    places = [
        (start + tensor["data_offsets"][0], size)
        for tensor, size in zip(list(header.values())[1:], sizes.values(), strict=True)
        if size > 256 << 10
    ]
    return struct.pack("<Q", len(text)) + text + os.urandom(at), places


def npy() -> Content:
    """A header of a multiple of 64 bytes, and the array."""
    size = 5 * MIB
    text = f"{{'descr': '|u1', 'fortran_order': False, 'shape': ({size},), }}".encode()
    text += b" " * (-(10 + len(text) + 1) % 64) + b"\n"
    head = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text
    return head + os.urandom(size), [(len(head), size)]


if __name__ == "__main__":
    sys.exit(hooked.main("Kept", "Limits", "Robust", "Input"))
