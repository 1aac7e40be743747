#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""The demo: how it reads pss-report, what it refuses, and a short run of all of it."""

import contextlib
import dataclasses
import html
import io
import json
import os
import random
import signal
import subprocess
import sys
import time
import unittest
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import support
from faas import churn, command, functions, latency, measure, merging, phases, results, session

ROW = {"pid": 7, "usage": {"rss": 30, "pss": 20, "uss": 10, "anon": 9, "upm": 8, "saved": 5}}


class MeasureTest(support.TemporaryDirectory):
    """Reading pss-report's JSON."""

    def _fake(self, text: str) -> Path:
        path = self.directory / "pss-report"
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)
        return path

    def test_usage(self) -> None:
        """By process."""
        document = json.dumps({"rows": [ROW]})
        found = measure.take(self._fake(f"echo '{document}'"), [7])
        self.assertEqual(found, [measure.Usage(30, 20, 10, 5, 12)])

    def test_missing_process_is_named(self) -> None:
        """A container that ended must not count as nothing."""
        document = json.dumps({"rows": [ROW]})
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
        usage = measure.take(real, [os.getpid()])[0]
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


class WaitUntilMergedTest(support.TemporaryDirectory):
    """When the demo takes merging for over."""

    def setUp(self) -> None:
        """A clock that only sleeping moves, and a demo of two containers."""
        super().setUp()
        self.now = 0.0
        self.said: list[str] = []
        plan = session.Plan(2, functions.find("text"), "tiny", self.directory)
        self.session = session.Session(plan, self.said.append)

    def _wait(self, pss: Callable[[float], float], hooks: Callable[[float], object]) -> bool:
        def sleep(seconds: float) -> None:
            self.now += seconds

        def sample(*_: object) -> list[measure.Usage]:
            return [measure.Usage(0, 0, 0, 0, int(pss(self.now)))]

        with (
            mock.patch.object(time, "sleep", sleep),
            mock.patch.object(time, "monotonic", lambda: self.now),
            mock.patch.object(measure, "take", sample),
            mock.patch.object(merging, "hooks", lambda _: hooks(self.now)),
        ):
            return self.session.wait_until_merged([1, 2])

    def test_waits_for_the_slowest_hook(self) -> None:
        """However long PSS stood still before."""
        over = self._wait(lambda _: 1e9, lambda now: (int(now < 30), 1 + int(now >= 30)))
        self.assertTrue(over)
        self.assertEqual(self.now, 32)
        self.assertIn("1 of 2 hooks at work", self.said[0])

    def test_without_a_hook_it_waits_longer(self) -> None:
        """For ten seconds without a change."""
        self.assertTrue(self._wait(lambda now: 1e9 if now < 5 else 5e8, lambda _: (0, 0)))
        self.assertEqual(self.now, 15)

    def test_a_hook_that_finds_no_more_is_not_waited_for(self) -> None:
        """It will look again some time, since the program may have changed memory."""
        self.assertTrue(self._wait(lambda _: 1e9, lambda _: (1, 1)))
        self.assertEqual(self.now, session.STILL_AT_WORK + 1)

    def test_says_that_merging_was_never_over(self) -> None:
        """After a limit."""
        self.assertFalse(self._wait(lambda now: 1e9 + 1e7 * now, lambda _: (0, 2)))
        self.assertGreaterEqual(self.now, session.LONGEST_MERGING)
        self.assertIn("merging was NOT over", self.said[-1])

    def test_hooks_are_told_by_the_names_of_threads(self) -> None:
        """Of live ones; this process has none."""
        self.assertEqual(merging.hooks([os.getpid()]), (0, 0))
        code = "import sys; open('/proc/self/comm', 'w').write('upm-hook idle'); input()"
        with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE) as process:
            for _ in range(200):
                if merging.hooks([process.pid]) == (0, 1):
                    break
                time.sleep(0.05)
            self.assertEqual(merging.hooks([process.pid, os.getpid()]), (0, 1))
            process.communicate(b"\n")


# Begins, cleans up, and says so.
WORK = """
import pathlib, sys, time
from faas import command
def work():
    try:
        pathlib.Path(sys.argv[1]).touch()
        time.sleep(60)
    finally:
        print("clean")
sys.exit(command.run("work", work))
"""


class CommandTest(support.TemporaryDirectory):
    """What demo and churn have in common."""

    def test_a_signal_cleans_up(self) -> None:
        """Whoever sent it; without a traceback."""
        for number, said in ((signal.SIGTERM, ""), (signal.SIGINT, "work: interrupted")):
            with self.subTest(signal=number):
                self._end_by(number, said)

    def _end_by(self, number: signal.Signals, said: str) -> None:
        began = self.directory / number.name
        process = subprocess.Popen(
            [sys.executable, "-c", WORK, began],
            env={**os.environ, "PYTHONPATH": str(support.FAAS)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.addCleanup(process.kill)
        end = time.monotonic() + 30
        while not began.exists():
            self.assertLess(time.monotonic(), end)
            time.sleep(0.02)
        process.send_signal(number)
        out, errors = process.communicate(timeout=30)
        self.assertEqual((out, errors.partition(";")[0]), ("clean\n", said))
        self.assertEqual(process.returncode, 128 + number)

    def test_what_cannot_be_has_its_exit_status(self) -> None:
        """3 where nothing can merge, 1 for errors and faults."""

        def nothing() -> int:
            raise merging.MergingError("no module")

        def missing() -> int:
            raise FileNotFoundError("no file")

        said = io.StringIO()
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
            self.assertEqual(command.run("demo", nothing), 3)
            self.assertEqual(command.run("churn", missing), 1)
            self.assertEqual(command.report(["so it goes"]), 1)
        self.assertIn("demo: nothing here can merge: no module\nchurn: no file", said.getvalue())
        self.addCleanup(signal.signal, signal.SIGTERM, signal.SIG_DFL)


class RunTest(support.TemporaryDirectory):
    """All of it, short."""

    @support.needs_torch
    def test_memory_falls_and_answers_stay(self) -> None:
        """Three containers with the tiny model."""
        command = [str(support.FAAS / "demo"), "-n", "3", "--model", "tiny", "--warm", "1"]
        command += ["--layouts", "keyed", "--pairs", "0", "--out", str(self.directory)]
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        if done.returncode == 3:
            self.skipTest(done.stderr.strip())
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        found = json.loads((self.directory / "demo.json").read_text())
        self.assertTrue(found["same_answers"])
        before, after, keyed = (sum(u["pss"] for u in phase["usages"]) for phase in found["phases"])
        self.assertLess(after, before)
        self.assertLess(keyed, after)
        merged = found["phases"][1]
        self.assertEqual(len(merged["advises"]), 2)  # the killed one says nothing
        parts = found["table"]["merged + returned, MiB"]["with UPM"]
        self.assertGreater(parts["merged"], 1)
        self._check_table(done.stdout, found)
        self.assertIn("<svg", (self.directory / "report.svg").read_text())

    def _check_table(self, text: str, found: dict[str, Any]) -> None:
        """The text, the JSON and the page say the same."""
        page = html.unescape((self.directory / "report.html").read_text())
        for name, values in found["table"].items():
            if "MiB" in name and isinstance(values["with UPM"], float):
                [line] = [line for line in text.splitlines() if line.strip().startswith(name + " ")]
                self.assertIn(f"{values['with UPM']:.1f}", line)
                self.assertIn(line, page)


class TableTest(support.TemporaryDirectory):
    """The final table."""

    def setUp(self) -> None:
        """A demo that found something of everything."""
        super().setUp()
        plan = session.Plan(4, functions.find("image-recognition"), "alexnet", self.directory)
        with mock.patch.object(functions.Function, "make_input", lambda _: {}):
            self.demo = phases.Demo(session.Session(plan, print))
        for name, pss, saved in (
            ("without UPM", 400, 0),
            ("with UPM", 150, 200),
            ("with UPM, keyed", 60, 300),
        ):
            usage = measure.Usage(500 << 20, pss << 20, pss << 19, saved << 20, 0)
            phase = phases.Phase(name, answers={"a"}, usages=[usage] * 4, counted=pss << 22)
            phase.estimate = measure.Estimate(8 << 20)
            if saved:
                phase.advises = [phases.Advise(0.5, 1, 9, 0, 0), phases.Advise(0.25, 9, 1, 0, 0)]
            self.demo.phases.append(phase)
        pairs = [(0.1, 0.101), (0.2, 0.202)]
        self.demo.latency = latency.Comparison(pairs, pairs, {"a"})

    def test_ten_lines_and_a_line_for_each(self) -> None:
        """No more figures than people read, each explained."""
        figures, meanings, _ = results.table(self.demo).split("\n\n")
        self.assertLessEqual(len(figures.splitlines()), 10)
        names = [line[: results.NAME].strip() for line in figures.splitlines()[1:]]
        self.assertEqual([line.partition(": ")[0] for line in meanings.splitlines()], names)
        self.assertLessEqual(max(map(len, meanings.splitlines())), 110)
        for line in figures.splitlines():
            self.assertEqual(len(line), results.NAME + 3 * results.COLUMN, line)

    def test_nothing_contradicts(self) -> None:
        """What is saved has two parts, and a change of times has no other times beside it."""
        found = {row.name.strip(): row for row in results.rows(self.demo)}
        parts = found["merged + returned, MiB"].values["with UPM"]
        self.assertEqual(parts, {"merged": 200.0, "returned": 50.0})
        self.assertEqual(found["PSS, MiB"].cells["with UPM"], "150.0 (-62.5 %)")
        self.assertEqual(found["all memory, MiB"].cells["with UPM"], "600.0 (-62.5 %)")
        self.assertEqual(found["further containers"].values["with UPM"], 6)
        self.assertEqual(found["warm request, ms"].cells["without UPM"], "150.00")
        self.assertEqual(found["warm request, ms"].cells["with UPM"], "+1.0 ± 0.0 %")
        self.assertEqual(found["advise, s"].values["with UPM"], (0.5, 0.25))
        self.assertEqual(found["could merge, MiB"].values["with UPM"], 2.0)

    def test_what_was_not_measured(self) -> None:
        """Has no line: processes have no control group, and latency may be left out."""
        self.demo.latency = None
        for phase in self.demo.phases:
            phase.counted = None
        names = [row.name.strip() for row in results.rows(self.demo)]
        self.assertEqual(len(names), 6)
        self.assertNotIn("all memory, MiB", names)

    def test_json_has_the_table(self) -> None:
        """And nothing in it says otherwise."""
        found = json.loads(json.dumps(results.document(self.demo, {})))
        self.assertEqual(found["table"]["PSS, MiB"]["with UPM"], 150.0)
        self.assertNotIn("system", found["phases"][0])


class ResultsTest(unittest.TestCase):
    """Figures from what was measured."""

    def test_advise_is_read_from_what_the_hook_says(self) -> None:
        """The last line of it."""
        line = (
            "upm[7]: backend store; 9 blocks, 9.5 MiB (now 3, 4.0 MiB); 4 passes in 0.250 s: "
            "4.4 MiB merged, 3.2 new, 0.9 zero, 0.0 queued, 1.0 skipped; "
            "0 blocks kept breaking; trimmed 16.4 MiB"
        )
        done = phases.parse_advise(["serving", line, "bye"])
        self.assertEqual(done, phases.Advise(0.25, 4.4, 3.2, 0.9, 16.4))
        self.assertIsNone(phases.parse_advise(["serving"]))

    def test_latency_is_the_median_of_ratios(self) -> None:
        """One disturbed pair does not move it."""
        pairs = [(1.0, 1.01), (2.0, 2.02), (1.0, 9.0)]
        middle, error = latency.Comparison.change(pairs)
        self.assertAlmostEqual(middle, 1.0)
        self.assertAlmostEqual(error, 0.0)

    def test_churn_that_loses_its_sharing_is_noticed(self) -> None:
        """So is one that saves nothing, and one too short to tell."""
        found = churn.Churn(without=100.0, answers={"a"})
        found.turns = [{"own": 50.0}] * 4 + [{"own": 90.0}] * 4
        self.assertEqual(found.faults(4), ["memory per container grew from 50.0 to 90.0 MiB"])
        found.turns = [{"own": 100.0}] * 3
        self.assertEqual(len(found.faults(4)), 2)


# 8 MiB that each container reads, as others do weights.
HEAVY = """
import hashlib, pathlib
DATA = pathlib.Path(__file__).with_name("data").read_bytes()
def handler(event):
    return {"sha256": hashlib.sha256(DATA).hexdigest()}
"""


class ChurnTest(support.TemporaryDirectory):
    """Containers that come and go, short."""

    def test_sharing_outlives_all_of_the_first(self) -> None:
        """Two at a time, each replaced once and more, and frozen meanwhile."""
        (self.directory / "function.py").write_text(HEAVY)
        (self.directory / "data").write_bytes(random.Random(1).randbytes(8 << 20))
        text = functions.find("text")
        function = dataclasses.replace(text, name="heavy", directory=self.directory)
        plan = session.Plan(2, function, "tiny", self.directory)
        with mock.patch.object(functions.Function, "make_input", lambda _: {}):
            heavy = session.Session(plan, print)
        try:
            found, about = churn.run(heavy, 0)
        except merging.MergingError as error:
            self.skipTest(str(error))
        self.assertEqual(found.faults(2), [])
        self.assertLess(found.ends()[1], found.without - 3)
        if about["containers"].startswith("runc"):
            self.assertGreaterEqual(found.frozen, 4)  # an old one and the new one, each turn


if __name__ == "__main__":
    support.main()
