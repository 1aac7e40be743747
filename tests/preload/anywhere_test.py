#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""The hook in programs that it was not made for: each runs to its end.

    tests/preload/anywhere_test.py [CLASS...]

Other C libraries, sanitizers, programs that lock themselves in. tests/adopt/debian-folder
gets the Debian 11 that one of the tests needs.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))

from hooked import HOOK, BrokerCase, Words, main, run

SOURCE = Path(__file__).parent / "anywhere.c"
CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "upm/debian-11"
LIBRARY = "\n".join(
    (
        "#include <stdlib.h>",
        "void *library_get(size_t size) { return malloc(size); }",
        "void library_give(void *memory) { free(memory); }",
    )
)


class Case(BrokerCase):
    """A broker, and programs that are built here."""

    def setUp(self) -> None:
        super().setUp()
        self.hook["UPM_VERBOSE"] = "1"

    def build(self, *compiler: str) -> Path:
        program = self.path / "anywhere"
        if not shutil.which(compiler[0]):
            self.skipTest(f"no {compiler[0]}")
        done = subprocess.run(
            [*compiler, "-w", "-o", program, SOURCE], capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            self.skipTest(f"{' '.join(compiler)}: {done.stderr.splitlines()[-1]}")
        return program

    def run_hooked(self, *command: str | Path) -> str:
        """Standard error of a program that succeeded."""
        done = run(command, self.hook)
        self.assertEqual(done.returncode, 0, f"{command}: {done.stderr}")
        return done.stderr

    def merged(self, command: Words, variables: dict[str, str]) -> str:
        """The same of a program that says when it has memory, and waits for its input to end."""
        program = self.start(command, variables)
        program.line()
        program.wait_until_idle()
        _, errors = program.end()
        self.assertEqual(program.status, 0, f"{command}: {errors}")
        return errors


class Libraries(Case):
    """Other C libraries."""

    def test_this_glibc(self) -> None:
        errors = self.merged([self.build("gcc"), "plain", "wait"], self.hook)
        if "only memory vouched for" not in errors:
            self.assertRegex(errors, r"backend store; .* 8\.\d new")

    def test_musl(self) -> None:
        """It stays out: not even a line about it."""
        headers = [f"-idirafter/usr/include{part}" for part in ("", "/x86_64-linux-gnu")]
        program = self.build("musl-gcc", *headers)
        self.assertEqual(self.run_hooked(program, "plain"), "")

    def test_debian_11(self) -> None:
        """Glibc 2.31, with threads in a library of their own."""
        if not CACHE.exists():
            self.skipTest(f"no {CACHE}: tests/adopt/debian-folder gets it")
        if os.geteuid() != 0:
            self.skipTest("needs root, to change into it")
        script = (
            "import sys\n"
            "block = bytearray(b''.join(i.to_bytes(4096, 'little') for i in range(1, 2000)))\n"
            "print('ready', flush=True)\n"
            "sys.stdin.read()\n"
        )
        enter = (
            'mount -t proc proc "$1/proc" && mount -t tmpfs tmp "$1/tmp" &&'
            ' cp "$2" "$1/tmp/hook.so" && touch "$1/tmp/socket" &&'
            ' mount --bind "$3" "$1/tmp/socket" && exec chroot "$1" env LD_PRELOAD=/tmp/hook.so'
            " UPM_BACKEND=store UPM_SOCKET=/tmp/socket UPM_IDLE_MS=10 UPM_VERBOSE=1"
            " UPM_SCOPE=blocks"
        )
        prefix = ["unshare", "-m", "sh", "-c", f'{enter} "$4" "$5" "$6"', "sh"]
        places = [str(CACHE), str(HOOK), str(self.path / "upmd.sock")]
        errors = self.merged([*prefix, *places, "/usr/bin/python3", "-c", script], {})
        if "only memory vouched for" not in errors:
            self.assertRegex(errors, r"backend store; .* [78]\.\d new")
        done = run([*prefix, *places, "/bin/sh", "-c", "ls / | sort"], {})
        self.assertEqual(done.returncode, 0, done.stderr)

    def test_needs_no_library_and_no_version(self) -> None:
        dynamic = subprocess.run(
            ["readelf", "--wide", "-d", "-V", HOOK], capture_output=True, text=True, check=True
        ).stdout
        self.assertNotIn("(NEEDED)", dynamic)
        self.assertNotIn("GLIBC_", dynamic)


class Sanitizers(Case):
    """Allocators that must see each call."""

    def check(self, name: str) -> None:
        errors = self.run_hooked(self.build("gcc", f"-fsanitize={name}"), "plain")
        self.assertNotIn("blocks,", errors, "it stays out")

    def test_address(self) -> None:
        self.check("address")

    def test_thread(self) -> None:
        self.check("thread")

    def test_undefined(self) -> None:
        self.run_hooked(self.build("gcc", "-fsanitize=undefined"), "plain")


class Sandboxes(Case):
    """Programs that are killed for a system call that they do not make."""

    def test_locks_itself_in(self) -> None:
        program = self.build("gcc")
        for when in ("before", "after"):
            for how in ("one", "all"):
                for _ in range(3):
                    with self.subTest(when=when, how=how):
                        self.run_hooked(program, "sandbox", when, how)

    def test_with_a_broker_that_does_not_answer(self) -> None:
        self.broker.stop()
        self.run_hooked(self.build("gcc"), "sandbox", "before", "all")

    def test_starts_locked_in(self) -> None:
        program = self.build("gcc")
        errors = self.run_hooked(program, "without", program, "plain")
        found = re.search(r"(\d+) passes", errors)
        self.assertTrue(found is None or found[1] == "0", errors)


class Binding(Case):
    """Libraries that bind to libc first."""

    def test_deepbind(self) -> None:
        source = self.path / "library.c"
        source.write_text(LIBRARY)
        library = self.path / "library.so"
        subprocess.run(["gcc", "-shared", "-fPIC", "-o", library, source], check=True)
        self.run_hooked(self.build("gcc"), "deepbind", library)

    def test_library_beside_its_caller(self) -> None:
        """Dlopen finds what the caller's RUNPATH names, as without the hook."""
        (self.path / "sub").mkdir()
        source = self.path / "library.c"
        source.write_text(LIBRARY)
        subprocess.run(
            ["gcc", "-shared", "-fPIC", "-o", self.path / "sub/library.so", source], check=True
        )
        program = self.build("gcc", "-Wl,-rpath,$ORIGIN/sub")
        self.run_hooked(program, "deepbind", "library.so")


if __name__ == "__main__":
    sys.exit(main("Libraries", "Sanitizers", "Sandboxes", "Binding"))
