#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""The folder of `make gpu-bundle` on the fake driver, with nothing of ours around it."""

import json
import os
import re
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "cuda-cow/measure"))
import targets

ROOT = Path(__file__).resolve().parents[2]
MEASURE = ROOT / "cuda-cow/measure"
SMALL = ("--", "--bytes", "1048576", "--extent", "262144", "--rounds", "1", "--processes", "1")
STAGES = (
    "machine fresh_memory calls first_write spare bandwidth sharing conformance profile backstop "
    "edges trials lost_broker broker_death small_extents under_work export_again exporter_death "
    "batches hook processes torch"
).split()
# Where the loader may look: the C library of the machine, and the folder itself.
C_LIBRARY = re.compile(r"^(/lib64/ld-linux|.*/lib(c|m|dl|rt|pthread)\.so)")
# In a name space of mounts of its own: no source tree, and none of the files that $HIDDEN
# matches.
HIDE = """
for file in $HIDDEN; do mount --bind /dev/null "$file"; done
mount -t tmpfs none "$1"; cd /; shift; exec "$@"
"""
LIBFMT = "/usr/lib/x86_64-linux-gnu/libfmt.so*"


def can_hide() -> bool:
    """True if this user may have a name space of mounts."""
    return (
        subprocess.run(["unshare", "-m", "true"], capture_output=True, check=False).returncode == 0
    )


class BundleTest(unittest.TestCase):
    """One bundle for all tests; times mean nothing and are not looked at."""

    folder: tempfile.TemporaryDirectory[str]
    bundle: Path

    @classmethod
    def setUpClass(cls) -> None:
        cls.folder = tempfile.TemporaryDirectory()
        cls.bundle = Path(cls.folder.name) / "bundle"
        subprocess.run([MEASURE / "bundle", cls.bundle], check=True, capture_output=True)

    @classmethod
    def tearDownClass(cls) -> None:
        cls.folder.cleanup()

    def run_bundle(
        self, *arguments: str, status: int | None = None, fake: bool = True, **environment: str
    ) -> dict[str, dict[str, Any]]:
        """What the stages said. The lines that were written one by one say the same."""
        with tempfile.TemporaryDirectory() as out:
            command = [sys.executable, str(self.bundle / "run"), "--out", out]
            command += [*(["--fake"] if fake else []), *arguments]
            if can_hide():
                command = ["unshare", "-m", "bash", "-ec", HIDE, "hide", str(ROOT), *command]
            done = subprocess.run(
                command, capture_output=True, text=True, check=False, env=os.environ | environment
            )
            if status is not None:
                self.assertEqual(done.returncode, status, done.stdout + done.stderr)
            self.assertLessEqual(len(list(Path(out).iterdir())), 8, "files that may come back")
            stages: dict[str, dict[str, Any]] = json.loads((Path(out) / "results.json").read_text())
            for line in (Path(out) / "results.jsonl").read_text().splitlines():
                record = json.loads(line)
                self.assertEqual(stages[record.pop("stage")], record)
            return stages

    def test_needs_nothing_of_this_machine(self) -> None:
        """Every library that is linked to comes along, but for the C library."""
        files = [*self.bundle.glob("bin/*"), *self.bundle.glob("lib/**/*.so*")]
        folders = f"{self.bundle}/lib:{self.bundle}/lib/own"
        listed = subprocess.run(
            ["ldd", *files],
            capture_output=True,
            text=True,
            check=True,
            env=os.environ | {"LD_LIBRARY_PATH": folders},
        ).stdout
        self.assertNotIn("not found", listed)
        for path in re.findall(r"(/\S+) \(0x", listed):
            self.assertTrue(path.startswith(str(self.bundle)) or C_LIBRARY.match(path), path)

    def test_every_stage_has_its_result(self) -> None:
        """And says that it is no GPU's."""
        stages = self.run_bundle(status=0)
        self.assertEqual(set(stages), {"system", *STAGES, "torch_hook"})
        self.assertEqual(stages["torch_hook"]["status"], "skipped")
        found = {name: stage["result"] for name, stage in stages.items()}
        self.assertTrue(found["machine"]["fake"])
        self.assertEqual(found["machine"]["granularity"], 2 << 20)
        self.assertGreater(found["fresh_memory"]["first"]["not_zero"], 0)
        self.assertGreater(len(found["conformance"]), 15)
        self.assertEqual(set(found["conformance"].values()), {"passed"})
        lost = {"call": 0, "wait": 700, "later": 700}
        for kind, statuses in found["edges"].items():
            expected = lost
            if kind in ("memset", "graph_read_only_then_writable") or kind.startswith("copy"):
                expected = {"call": 1, "wait": 0, "later": 0}
            if kind.endswith("under_reader") or kind == "graph_of_memory_that_was_replaced":
                expected = {"call": 0, "wait": 0, "later": 0}
            if kind == "write_value":  # the fake has no such call
                expected = {"call": 500, "wait": 0, "later": 0}
            self.assertEqual({name: statuses[name] for name in lost}, expected, kind)
        self.assertEqual(len(found["edges"]), 16)
        self.assertEqual((found["sharing"]["published"], found["sharing"]["merged"]), (4, 4))
        self.assertEqual(found["sharing"]["rounds"], 5)
        self.assertEqual(len(found["first_write"]["rows"]), 3)
        self.assertEqual(len(found["spare"]), 3)
        self.assertEqual(found["bandwidth"]["timer"], "events")
        self.assertGreater(found["bandwidth"]["tag_bytes_per_second"], 0)
        self.assertEqual(found["export_again"], {"same_handle": False, "status": 1})
        self.assertEqual(
            found["exporter_death"],
            {"imported_before_reads": True, "import_after_death": 0, "imported_after_reads": True},
        )
        for how, statuses in found["backstop"].items():
            self.assertEqual(statuses["wait"], 700 if how == "store" else 0)
            self.assertTrue(statuses["bytes_of_others_unchanged"])
            self.assertTrue(statuses["newcomer_reads_the_same"])
        self.assertEqual(found["lost_broker"]["offered_by_an_importer"]["published"], 4)
        self.assertEqual(found["lost_broker"]["then_merged"]["merged"], 4)
        self.assertTrue(found["lost_broker"]["same_bytes"])
        for process in found["broker_death"]["processes"]:
            self.assertEqual(process["wrong"], 0)
            self.assertEqual(process["shared_bytes"], found["broker_death"]["bytes"])
        self.assertEqual(found["small_extents"]["2097152"]["bytes_copied"], 16 << 20)
        self.assertGreater(found["profile"]["4194304"]["first_write"]["in_calls_us"], 0)
        self.assertIn("threads 2097152", found["trials"])
        self.assertTrue(found["batches"]["64"]["unmap_takes_them_at_once"])
        self.assertEqual(found["under_work"]["status"], 0)
        self.assertGreater(found["hook"]["none_tracked_ns"], 0)
        self.assertEqual(len(found["torch"]["processes"]), 4)

    def test_runs_without_libfmt(self) -> None:
        """Which our programs were linked to once; Debian's PyTorch is."""
        if not can_hide():
            self.skipTest("no name space of mounts for this user")
        only = ",".join(stage for stage in STAGES if stage not in ("torch", "conformance"))
        words = "granularity=65536"
        self.run_bundle(f"--only={only}", *SMALL, status=0, HIDDEN=LIBFMT, UPM_CUDA_FAKE=words)
        self.run_bundle("--only=conformance", status=0, HIDDEN=LIBFMT)

    def test_a_stage_that_fails_costs_no_other(self) -> None:
        """Every second stage, then all others."""
        for first in (0, 1):
            broken = STAGES[first::2]
            faults = [f"--fault={stage}=granularity=65536 fail=*:2:999" for stage in broken]
            stages = self.run_bundle(*faults, *SMALL, status=1, UPM_CUDA_FAKE="granularity=65536")
            for stage in STAGES:
                expected = "failed" if stage in broken else "ok"
                self.assertEqual(stages[stage]["status"], expected, stages[stage])
                self.assertTrue(stages[stage]["log" if stage in broken else "result"], stage)

    def test_what_was_found_before_a_failure_is_kept(self) -> None:
        """The first two of three sizes."""
        stages = self.run_bundle("--only=calls", "--fault=calls=fail=cuMemCreate:8:2", status=1)
        self.assertEqual(stages["calls"]["status"], "failed")
        self.assertIn("OUT_OF_MEMORY", stages["calls"]["log"])
        self.assertEqual(len(stages["calls"]["result"]), 2)

    def test_every_driver_call_fails_in_turn(self) -> None:
        """With an answer that nobody expects: there is a record of each stage, and an end."""
        header = (ROOT / "cuda-cow/driver/driver.hpp").read_text()
        calls = re.findall(r"^    X\(\w+, (cu\w+?)(?:_v\d)?,", header, re.MULTILINE)
        self.assertGreater(len(calls), 30)
        only = ["first_write", "sharing", "exporter_death"]
        failed = 0
        for call in calls:
            words = f"granularity=65536 fail={call}:1:12345"
            stages = self.run_bundle(f"--only={','.join(only)}", f"--fault=*={words}", *SMALL)
            self.assertEqual(set(stages), {"system", *only}, call)
            for stage in only:
                self.assertIn(stages[stage]["status"], ("ok", "failed"), (call, stage))
            failed += any(stages[stage]["status"] == "failed" for stage in only)
        self.assertGreater(failed, 15, "or the faults do nothing")

    def test_a_stage_that_hangs_is_ended(self) -> None:
        """What it said until then is kept, and the next one runs."""
        stages = self.run_bundle(
            "--only=machine,export_again,exporter_death",
            "--limit=4",
            "--fault=export_again=latency_us=30000000",
            status=1,
        )
        statuses = [
            stages[name]["status"] for name in ("machine", "export_again", "exporter_death")
        ]
        self.assertEqual(statuses, ["ok", "timeout", "ok"])

    def test_the_limit_of_all_is_kept(self) -> None:
        """Stages for which no time is left are skipped, and said to be."""
        stages = self.run_bundle("--seconds=1", status=0)
        self.assertEqual({stages[name]["status"] for name in STAGES[:5]}, {"skipped"})

    def test_without_a_gpu(self) -> None:
        """Exit status 4, and what the machine is."""
        if any(Path(folder, "libcuda.so.1").exists() for folder in ("/usr/lib/x86_64-linux-gnu",)):
            self.skipTest("there is a driver here")
        stages = self.run_bundle(fake=False, status=4)
        self.assertEqual(set(stages), {"system"})
        self.assertIn("python", stages["system"]["result"])


class TableTest(unittest.TestCase):
    """The table of targets."""

    def test_table_judges_against_the_targets(self) -> None:
        """A result made up for the purpose: one target met, one missed, one not measured."""
        made_up: dict[str, Any] = {
            "machine": {"fake": False, "gpu": "H200", "driver_version": 13000, "host": "here"},
            "first_write": {"rows": [{"bytes": 2 << 20, "p50_us": 149.0}]},
            "bandwidth": {"peak_bytes_per_second": 4e12, "tag_bytes_per_second": 3e12},
            "sharing": None,
        }
        text = targets.table(made_up)
        self.assertRegex(text, r"first write, 2 MiB, p50 +<= 150 us +149 us +met")
        self.assertRegex(text, r"tag, share of memory bandwidth +>= 0.85 +0.75 +MISSED")
        self.assertRegex(text, r"attach 8 GiB +<= 25 ms +- +not measured")
        made_up["machine"]["fake"] = True
        self.assertIn("fake: says nothing", targets.table(made_up))
        self.assertIn("not measured", targets.table({}))


if __name__ == "__main__":
    unittest.main()
