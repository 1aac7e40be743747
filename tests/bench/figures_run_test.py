#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""bench/figures/run: a short run makes each raw file and each figure; kept data are kept."""

import json
import re
import shutil
import subprocess
import unittest
from pathlib import Path

import bench_support  # finds the modules that are imported below
import support
from figures import page, raw

RUN = bench_support.BENCH / "figures" / "run"
PROGRAMS = ("pss-report", "upmd", "upm-bench-store")
# Control groups and images are not those of plain processes.
NEED_CONTAINERS = {"peak-at-start", "density", "sharing-study", "separate-copies"}


def _run(out: Path, *options: str) -> "subprocess.CompletedProcess[str]":
    command = [str(RUN), "--quick", "--out", str(out), *options]
    return subprocess.run(command, check=False, capture_output=True, text=True)


class RunTest(support.TemporaryDirectory):
    """All experiments, as short as can be."""

    def setUp(self) -> None:
        """Skips where something is missing."""
        super().setUp()
        for name in PROGRAMS:
            if not (support.ROOT / "build" / "bin" / name).exists():
                self.skipTest(f"no build/bin/{name}")
        if shutil.which("gnuplot") is None:
            self.skipTest("no gnuplot")
        if not (support.HAVE_PIL and support.HAVE_JINJA2):
            self.skipTest("no python3-pil or no python3-jinja2")

    def test_each_raw_file_and_each_figure(self) -> None:
        """And a second run measures nothing."""
        done = _run(self.directory)
        if "nothing here can merge" in done.stderr:
            self.skipTest(done.stderr.strip())
        expected = {each.name for each in page.experiments([]) if not each.needs_kernel}
        if "plain processes" in done.stdout:
            expected -= NEED_CONTAINERS
        else:
            self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        written = {path.stem: path for path in (self.directory / "raw").glob("*.json")}
        self.assertEqual(set(written), expected, done.stdout + done.stderr)
        text = (self.directory / "index.html").read_text()
        for name in expected:
            document = json.loads(written[name].read_text())
            self.assertTrue(document["quick"])
            self.assertGreater(document["machine"]["processors"], 0)
            self.assertIn(f"{name}: {document['machine']['date']}", text)
        self.assertIn("A TRIAL", text)
        self._check_figures(text)
        self._check_that_merging_shows()
        before = {name: path.stat().st_mtime_ns for name, path in written.items()}
        again = _run(self.directory, "--only", "fig5")
        self.assertEqual(again.returncode, 0, again.stderr)
        after = {name: path.stat().st_mtime_ns for name, path in written.items()}
        self.assertEqual(after, before)

    def _check_figures(self, text: str) -> None:
        raws = page.load(self.directory / "raw")
        names = [figure["name"] for figure in page.figures(page.describe(raws, "raw"))]
        self.assertEqual(len(set(names)), len(names))
        self.assertGreater(len(names), 10)
        self.assertEqual(len(re.findall("<figure", text)), len(names))
        for name in names:
            self.assertIn("<svg", (self.directory / f"{name}.svg").read_text())

    def _check_that_merging_shows(self) -> None:
        raws = page.load(self.directory / "raw")
        states = raws["growth-alexnet"]["data"]["states"]
        pss = {state: found["steps"][-1]["usages"][0]["pss"] for state, found in states.items()}
        self.assertLess(pss["with UPM"], pss["without UPM"] - (2 << 20))
        rows = raws["load-by-size"]["data"]["rows"]
        self.assertGreater(max(row["saved"] for row in rows if row["kind"] == "later"), 1 << 20)


class RefusalTest(support.TemporaryDirectory):
    """What it does not do."""

    def test_unknown_name(self) -> None:
        """Says which there are."""
        done = _run(self.directory, "--only", "fig99")
        self.assertNotEqual(done.returncode, 0)
        self.assertIn("no 'fig99'; there are: fig5, fig6", done.stderr)

    def test_trials_are_not_kept(self) -> None:
        """Their numbers say nothing."""
        self.assertIn("not for the record", _run(self.directory, "--record").stderr)

    def test_broken_raw_data(self) -> None:
        """Are named, and nothing is drawn from them."""
        path = self.directory / "raw" / "density.json"
        path.parent.mkdir()
        path.write_text('{"schema": 1}')
        done = _run(self.directory, "--draw")
        self.assertNotEqual(done.returncode, 0)
        self.assertIn("density.json: file has no", done.stderr)
        self.assertFalse((self.directory / "index.html").exists())


class KeptTest(unittest.TestCase):
    """What lies in bench/results/figures."""

    def test_raw_data_have_their_forms(self) -> None:
        """All files are those of experiments, and none is a trial."""
        directory = bench_support.BENCH / "results" / "figures"
        forms = {each.name: each.form for each in page.experiments([])}
        for path in directory.glob("*.json"):
            self.assertFalse(raw.load(path, forms[path.stem])["quick"], path.name)


if __name__ == "__main__":
    support.main()
