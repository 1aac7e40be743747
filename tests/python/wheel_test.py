#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""The wheels for other systems, which tools/dev/wheel makes for each CPython that is here.

tests/python/wheel_test.py [CLASS[.TEST]...]
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import unittest
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import scripts
from scripts import ROOT, Case, environment

TOOL = ROOT / "tools/dev/wheel"
CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "upm"
SYSTEM = "manylinux_2_28_x86_64"
FLOOR = (2, 28)
# Of a C library, which every such system has.
LIBRARIES = {"libc.so.6", "libm.so.6", "libpthread.so.0", "libdl.so.2", "librt.so.1",
             "ld-linux-x86-64.so.2"}  # fmt: skip
BYTES = 8 << 20
TRIES = 8

# Loads a file, says how much of it came to be shared, and stays until its input ends.
LOAD = """
import mmap, sys, upm
buffer = mmap.mmap(-1, int(sys.argv[2]), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
with open(sys.argv[1], "rb", buffering=0) as file:
    done = upm.read_into(file, buffer)
    file.seek(0)
    assert file.read() == buffer[:]
print(done.shared, upm.info().backend, flush=True)
sys.stdin.read()
"""
# As upm.load does, in a program that knows nothing of it.
PLAIN = """
import sys
with open(sys.argv[1], "rb", buffering=0) as file:
    block = file.read()
print(len(block), flush=True)
sys.stdin.read()
"""


@functools.cache
def made() -> tuple[dict[Path, Path], str]:
    """The wheels, made once for all tests, and the Python that each is for; else why not."""
    folder = tempfile.mkdtemp(prefix="upm-wheel-")
    atexit.register(shutil.rmtree, folder)
    done = subprocess.run([TOOL, "--output", folder], capture_output=True, text=True, check=False)
    sys.stderr.write(done.stderr)
    if done.returncode not in (0, scripts.EXIT_SKIPPED):
        raise AssertionError(done.stdout + done.stderr)
    lines = [line.split() for line in done.stdout.splitlines()]
    return {Path(wheel): Path(python) for wheel, python in lines}, done.stderr.strip()


@functools.cache
def installed(wheel: Path, python: Path) -> Path:
    """The folder of programs of a new environment with that wheel, where no compiler is."""
    home = wheel.parent / f"environment-{wheel.stem}"
    subprocess.run([python, "-m", "venv", home], check=True)
    pip: list[str | Path] = [
        home / "bin/python",
        "-m",
        "pip",
        "--quiet",
        "--disable-pip-version-check",
        "install",
    ]
    variables = environment(PATH=str(home / "bin"))
    del variables["PYTHONPATH"]
    subprocess.run([*pip, "--no-index", wheel], env=variables, check=True)
    return home / "bin"


def gone(process: Path) -> bool:
    """Whether that folder of /proc is no more, or is that of a zombie."""
    try:
        return "\nState:\tZ" in (process / "status").read_text()
    except OSError:
        return True


class WheelCase(Case):
    """Wheels that were made for this run."""

    wheels: ClassVar[dict[Path, Path]]

    @classmethod
    def setUpClass(cls) -> None:
        cls.wheels, why = made()
        if not cls.wheels:
            raise unittest.SkipTest(why)

    def elf_files(self) -> Iterator[Path]:
        """Libraries and programs of all wheels."""
        for wheel in self.wheels:
            folder = wheel.with_suffix("")
            if not folder.exists():
                with zipfile.ZipFile(wheel) as content:
                    content.extractall(folder)
            for path in sorted(folder.rglob("*")):
                if path.is_file() and path.read_bytes()[:4] == b"\x7fELF":
                    yield path


class Labelled(WheelCase):
    """What the wheels say of themselves is so."""

    def test_there_is_one_for_this_python(self) -> None:
        names = [wheel.name for wheel in self.wheels]
        for name in names:
            self.assertRegex(name, rf"^upm-[0-9.]+-cp3(\d+)-cp3\1-{SYSTEM}\.whl$")
        minor = sys.version_info.minor
        if minor in (11, 12, 13):
            self.assertTrue(any(f"-cp3{minor}-" in name for name in names), names)

    def test_auditwheel_agrees(self) -> None:
        tools = CACHE / "wheel-venv/bin"
        for wheel in self.wheels:
            shown = subprocess.run(
                [tools / "auditwheel", "show", wheel], capture_output=True, text=True, check=True
            ).stdout
            words = " ".join(shown.split())
            found = re.search(r'following platform tag: "manylinux_2_(\d+)_x86_64"', words)
            assert found is not None, words
            self.assertLessEqual(int(found[1]), FLOOR[1])

    def test_nothing_needs_more_of_a_system(self) -> None:
        """Programs as well, at which auditwheel does not look."""
        seen: set[str] = set()
        for path in self.elf_files():
            seen.add(path.name.split(".")[0])
            command: list[str | Path] = ["readelf", "--wide", "--dynamic", "--version-info", path]
            shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
            needed = set(re.findall(r"NEEDED.*\[(.+)\]", shown))
            self.assertLessEqual(needed, LIBRARIES, path)
            versions = re.findall(r"Name: GLIBC_([0-9.]+)", shown)
            newest = max((tuple(map(int, v.split("."))) for v in versions), default=(0,))
            self.assertLessEqual(newest, FLOOR, path)
            self.assertEqual(bool(needed), path.name != "libupm-preload.so", path)
        self.assertEqual(seen, {"_core", "libupm-preload", "upm", "upmd"})

    def test_licences_are_inside(self) -> None:
        for wheel in self.wheels:
            with zipfile.ZipFile(wheel) as content:
                files = {Path(name).name: name for name in content.namelist()}
                self.assertIn("MIT License", content.read(files["MIT.txt"]).decode())
                others = content.read(files["THIRD-PARTY.txt"]).decode()
                about = content.read(files["METADATA"]).decode()
            self.assertIn("dist-info/licenses/", files["MIT.txt"])
            self.assertIn("License-Expression: MIT", about)
            for name in ("pybind11", "xxHash", "cxxopts", "JSON for Modern C++", "BSD-3-Clause"):
                self.assertIn(name, others)


class Installed(WheelCase):
    """The wheels alone, each in a new environment of its Python, where no compiler is found."""

    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory(prefix="upm-installed-")
        self.addCleanup(folder.cleanup)
        self.path = Path(folder.name)
        self.addCleanup(self.end_brokers)
        self.data = self.path / "data"
        self.data.write_bytes(os.urandom(BYTES))
        self.clean = environment(UPM_SOCKET=str(self.path / "socket"), UPM_BACKEND="store")
        del self.clean["PYTHONPATH"]

    def end_brokers(self) -> None:
        """Those that the library started for this test: they would keep its folder."""
        socket = str(self.path / "socket").encode()
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                words = (process / "cmdline").read_bytes().split(b"\0")
                if words[0].endswith(b"/upm/upmd") and socket in words:
                    os.kill(int(process.name), signal.SIGTERM)
                    scripts.wait_until(functools.partial(gone, process), "the end of the broker")

    def each(self) -> Iterator[Path]:
        """The folder of programs of one environment after the other."""
        for wheel, python in self.wheels.items():
            with self.subTest(wheel=wheel.name):
                programs = installed(wheel, python)
                self.clean["PATH"] = str(programs)
                yield programs

    def start(self, *command: str | Path) -> subprocess.Popen[str]:
        """A process that ends when its input does, and with the test."""
        process = subprocess.Popen(
            [*command, self.data, str(BYTES)],
            env=self.clean,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.addCleanup(process.communicate)
        return process

    @staticmethod
    def line(process: subprocess.Popen[str]) -> list[str]:
        """The words of what it says."""
        assert process.stdout is not None
        return process.stdout.readline().split()

    def test_loads_are_shared(self) -> None:
        """By the broker of the wheel. On a busy machine one may read for itself."""
        for programs in self.each():
            most = 0
            for _ in range(TRIES):
                shared, backend = self.line(self.start(programs / "python", "-c", LOAD))
                self.assertEqual(backend, "store")
                most = max(most, int(shared))
                if most == BYTES:
                    break
            self.assertEqual(most, BYTES)

    def test_unmodified_programs_share(self) -> None:
        for programs in self.each():
            for start in (["upm", "run", "--", "python"], ["python"]):
                self.clean["UPM_ENABLE"] = "0" if "run" in start else "1"
                command: list[str | Path] = [programs / start[0], *start[1:], "-c", PLAIN]
                for _ in range(TRIES):
                    process = self.start(*command)
                    self.assertEqual(self.line(process), [str(BYTES)])
                    if self.maps_a_segment(process.pid):
                        break
                else:
                    self.fail(f"{start} shares nothing")

    @staticmethod
    def maps_a_segment(pid: int) -> bool:
        """Whether memory of the broker's is mapped there."""
        return "/memfd:upm-store" in Path(f"/proc/{pid}/maps").read_text()

    def test_the_command_knows_its_parts(self) -> None:
        for programs in self.each():
            said = subprocess.run(
                [programs / "upm", "doctor", "--json"],
                env=self.clean,
                capture_output=True,
                text=True,
                check=False,
            ).stdout
            (package,) = programs.parent.glob("lib/python3.*/site-packages/upm")
            self.assertIn(str(package / "libupm-preload.so"), said)


class OlderSystem(WheelCase):
    """Programs and hook of the wheel in Debian 11, which has glibc 2.31."""

    def test_programs_and_hook_run(self) -> None:
        root = CACHE / "debian-11"
        if not root.exists():
            self.skipTest(f"no {root}: tests/adopt/debian-folder gets it")
        if os.geteuid() != 0:
            self.skipTest("needs root, to change into it")
        inside = (
            'mount -t proc proc "$1/proc" && mount -t tmpfs tmp "$1/tmp" && cp "$2"/* "$1/tmp" &&'
            ' chmod 755 "$1/tmp/upm" "$1/tmp/upmd" && exec chroot "$1" /bin/sh -c "$3"'
        )
        script = (
            "/tmp/upmd --version && /tmp/upm --version && UPM_VERBOSE=1 UPM_BACKEND=store"
            " UPM_SOCKET=/tmp/socket /tmp/upm run -- /usr/bin/python3 -c 'print(6 * 7)'"
        )
        for folder in {path.parent for path in self.elf_files() if path.name == "upmd"}:
            done = subprocess.run(
                ["unshare", "--mount", "sh", "-c", inside, "sh", root, folder, script],
                capture_output=True,
                text=True,
                check=False,
            )
            self.assertEqual(done.returncode, 0, done.stderr)
            self.assertRegex(done.stdout, r"^upmd [0-9.]+\nupm [0-9.]+ .*\n42\n$")
            self.assertIn("backend store", done.stderr)


if __name__ == "__main__":
    sys.exit(scripts.main())
