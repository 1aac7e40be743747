#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""The demo: how it reads pss-report, what it refuses, and a short run of all of it."""

import contextlib
import json
import os
import subprocess
from pathlib import Path
from unittest import mock

import support
from faas import measure, merging

ROW = {"pid": 7, "usage": {"rss": 30, "pss": 20, "uss": 10}}
SYSTEM = {"mem_total": 1 << 40, "mem_available": 1 << 30}


class MeasureTest(support.TemporaryDirectory):
    """Reading pss-report's JSON."""

    def _fake(self, text: str) -> Path:
        path = self.directory / "pss-report"
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)
        return path

    def test_usage_and_system(self) -> None:
        """By process, and what is not available."""
        document = json.dumps({"rows": [ROW], "system": SYSTEM})
        found = measure.take(self._fake(f"echo '{document}'"), [7])
        self.assertEqual(found.usages, [measure.Usage(30, 20, 10)])
        self.assertLessEqual(found.system, (1 << 40) - (1 << 30))
        self.assertEqual(found.pss(), 20)

    def test_missing_process_is_named(self) -> None:
        """A container that ended must not count as nothing."""
        document = json.dumps({"rows": [ROW], "system": SYSTEM})
        with self.assertRaisesRegex(measure.MeasureError, "no row for process 8"):
            measure.take(self._fake(f"echo '{document}'"), [7, 8])

    def test_failure_is_passed_on(self) -> None:
        """With what pss-report said."""
        with self.assertRaisesRegex(measure.MeasureError, "so it goes"):
            measure.take(self._fake("echo so it goes >&2; exit 1"), [7])

    def test_real_one(self) -> None:
        """Of this process."""
        real = support.ROOT / "build" / "bin" / "pss-report"
        if not real.exists():
            self.skipTest(f"no {real}")
        usage = measure.take(real, [os.getpid()]).usages[0]
        self.assertGreaterEqual(usage.rss, usage.pss)
        self.assertGreaterEqual(usage.pss, usage.uss)
        self.assertGreater(usage.uss, 0)


class MergingTest(support.TemporaryDirectory):
    """Which way is taken."""

    def test_refusals(self) -> None:
        """Each says what is missing."""
        nothing = self.directory / "nothing"
        with (
            contextlib.ExitStack() as stack,
            mock.patch.multiple(merging, HOOK=nothing, DEVICE=nothing, KSM_RUN=nothing),
        ):
            for backend, reason in (
                ("auto", f"there is no {nothing}"),
                ("kmod", "the module is not loaded"),
                ("ksm", "KSM does not run"),
            ):
                with self.assertRaisesRegex(merging.MergingError, reason):
                    merging.open_way(backend, stack)
            with self.assertRaisesRegex(ValueError, "must be one of auto, kmod"):
                merging.open_way("magic", stack)

    def test_module_without_hook_is_driven_from_outside(self) -> None:
        """By upm advise."""
        device = self.directory / "upm"
        device.touch()
        hook = self.directory / "nothing"
        with (
            contextlib.ExitStack() as stack,
            mock.patch.multiple(merging, HOOK=hook, DEVICE=device),
        ):
            way = merging.open_way("auto", stack)
        self.assertTrue(way.agent)
        self.assertEqual(way.backend, "kmod")


class RunTest(support.TemporaryDirectory):
    """All of it, short."""

    @support.needs_torch
    def test_memory_falls_and_answers_stay(self) -> None:
        """Three containers with the tiny model."""
        command = [str(support.FAAS / "demo"), "-n", "3", "--model", "tiny", "--warm", "1"]
        command += ["--no-fixed-layout", "--out", str(self.directory)]
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        if done.returncode == 3:
            self.skipTest(done.stderr.strip())
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        found = json.loads((self.directory / "demo.json").read_text())
        self.assertTrue(found["same_answers"])
        before, after = (sum(u["pss"] for u in phase["usages"]) for phase in found["phases"])
        self.assertLess(after, before)


if __name__ == "__main__":
    support.main()
