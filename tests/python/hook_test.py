#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""The Python package together with the hook, and UPM_ENABLE=1.

tests/python/hook_test.py [CLASS[.TEST]...]
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import ClassVar

import scripts
from scripts import HOOK, MIB, PACKAGE, PYTHON, SECONDS, SIZE, Case, MergingCase, environment


class Hook(MergingCase):
    """Together with libupm-preload.so."""

    HOOKED: ClassVar[dict[str, str]] = {"LD_PRELOAD": str(HOOK), "UPM_TRIGGER": "manual"}

    def test_idle(self) -> None:
        answers = self.both(
            """
            memory = bytearray(content(10))
            step(digest=digest(memory), pss=pss())
            idle = upm.idle()
            step(hook=idle.hook, counts=idle.counts.as_dict(), stats=repr(upm.hook_stats()))
            seen = digest(memory); barrier()
            step(digest=seen, pss=pss())
            """,
            3,
            **self.HOOKED,
        )
        self.check_shared(answers)
        for got in answers:
            self.assertTrue(got[1]["hook"])
            self.assertGreater(got[1]["counts"]["pages"], SIZE // 4096 - 1)
            self.assertIn("passes=1", got[1]["stats"])

    def test_idle_without_the_hook_trims(self) -> None:
        answer = self.run_one(
            """
            small = [bytes(1000) for _ in range(50000)]
            keep = bytes(1000)
            del small
            idle = upm.idle()
            tell(hook=idle.hook, trimmed=idle.trimmed, pages=idle.counts.pages,
                 stats=upm.hook_stats())
            """,
            UPM_BACKEND="none",
        )
        self.assertEqual((answer["hook"], answer["pages"], answer["stats"]), (False, 0, None))
        self.assertGreater(answer["trimmed"], 10 * MIB)

    def test_advised_blocks_are_not_used_again(self) -> None:
        """A block of the hook's that was advised by the package is zero where it must be."""
        answer = self.run_one(
            """
            import ctypes
            libc = ctypes.CDLL(None)
            libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
            from upm import _core
            memory = bytearray(content(11))
            address, length = _core.Pinned(memory).range
            upm.advise(memory)
            start = -(-address // 4096) * 4096
            assert libc.madvise(start, 1 << 20, 4) == 0  # MADV_DONTNEED
            offset = start - address
            tell(zero=not any(memory[offset : offset + (1 << 20)]),
                 rest=digest(memory[offset + (1 << 20) :])
                      == digest(content(11)[offset + (1 << 20) :]))
            """,
            **self.HOOKED,
            **self.merging,
        )
        self.assertEqual(answer, {"zero": True, "rest": True})


class Enable(Case):
    """UPM_ENABLE=1 with the package in a folder that Python's site looks into."""

    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        version = f"python{sys.version_info.major}.{sys.version_info.minor}"
        self.base = Path(folder.name)
        site = self.base / "lib" / version / "site-packages"
        site.mkdir(parents=True)
        for name in ("_upm_enable.py", "upm-enable.pth"):
            (site / name).symlink_to(PACKAGE / name)

    def python(self, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """Runs Python to its end."""
        return subprocess.run(
            [PYTHON, *arguments],
            env=environment(UPM_BACKEND="none", PYTHONUSERBASE=str(self.base), PYTHONPATH="")
            | variables,
            input="standard input",
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )

    SCRIPT = (
        "import os, sys; "
        "maps = open('/proc/self/maps').read(); "
        "print('libupm-preload' in maps, sys.argv, sys.stdin.read(), "
        "open('/proc/self/comm').read().strip(), sys.flags.optimize)"
    )

    def test_starts_again_with_the_hook(self) -> None:
        plain = self.python("-O", "-c", self.SCRIPT, "a b", "--c")
        self.assertEqual(plain.stderr, "")
        self.assertTrue(plain.stdout.startswith("False ['-c', 'a b', '--c'] standard input"))
        hooked = self.python("-O", "-c", self.SCRIPT, "a b", "--c", UPM_ENABLE="1")
        self.assertEqual(hooked.stderr, "")
        self.assertEqual(hooked.stdout, plain.stdout.replace("False", "True", 1))

    def test_only_for_one(self) -> None:
        for value in ("0", "", "yes"):
            self.assertIn("False", self.python("-c", self.SCRIPT, UPM_ENABLE=value).stdout)

    def test_children_have_it_once(self) -> None:
        script = (
            "import subprocess, sys; "
            f"print(subprocess.run([sys.executable, '-c', {self.SCRIPT!r}], capture_output=True, "
            "input='', text=True).stdout)"
        )
        self.assertIn("True ['-c']", self.python("-c", script, UPM_ENABLE="1").stdout)

    def test_says_why_not(self) -> None:
        site = next(self.base.glob("lib/*/site-packages"))
        (site / "_upm_enable.py").unlink()
        (site / "_upm_enable.py").write_bytes((PACKAGE / "_upm_enable.py").read_bytes())
        done = self.python("-c", self.SCRIPT, UPM_ENABLE="1", UPM_VERBOSE="1")
        self.assertIn("UPM_ENABLE: not started: no libupm-preload.so found", done.stderr)
        self.assertIn("False ['-c']", done.stdout)
        # A hook that ld.so cannot load must not start the program over and over.
        (site / "upm").mkdir()
        (site / "upm/libupm-preload.so").write_text("not a library")
        done = self.python("-c", self.SCRIPT, UPM_ENABLE="1")
        self.assertIn("cannot be preloaded", done.stderr)
        self.assertIn("False ['-c']", done.stdout)

    def test_costs_nothing_otherwise(self) -> None:
        done = self.python("-c", "import sys; print('_upm_enable' in sys.modules)")
        self.assertEqual(done.stdout, "False\n")


if __name__ == "__main__":
    sys.exit(scripts.main())
