#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""tests/summary must count right, and must never let a failure pass."""

import re
import subprocess
import tempfile
import unittest
from pathlib import Path

SUMMARY = Path(__file__).resolve().parent.parent / "summary"

GTEST_OK = """\
[==========] Running 3 tests from 1 test suite.
[ RUN      ] Index.Finds
[       OK ] Index.Finds (0 ms)
[ RUN      ] Index.Numa
numa_test.cpp:9: Skipped
one node only
[  SKIPPED ] Index.Numa (0 ms)
[ RUN      ] Index.Evicts/0
[       OK ] Index.Evicts/0 (12 ms)
[==========] 3 tests from 1 test suite ran. (12 ms total)
[  PASSED  ] 2 tests.
[  SKIPPED ] 1 test, listed below:
[  SKIPPED ] Index.Numa
"""

GTEST_FAILED = """\
[==========] Running 2 tests from 1 test suite.
[ RUN      ] Cow.Keeps
[       OK ] Cow.Keeps (0 ms)
[ RUN      ] Cow.Breaks/1
[  FAILED  ] Cow.Breaks/1, where GetParam() = 4 (1 ms)
[==========] 2 tests from 1 test suite ran. (1 ms total)
[  PASSED  ] 1 test.
[  FAILED  ] 1 test, listed below:
[  FAILED  ] Cow.Breaks/1, where GetParam() = 4

 1 FAILED TEST
"""

GTEST_CRASHED = """\
[==========] Running 3 tests from 1 test suite.
[ RUN      ] Cow.Keeps
[       OK ] Cow.Keeps (0 ms)
[ RUN      ] Cow.Breaks
"""

GTEST_TORN = """\
[==========] Running 2 tests from 1 test suite.
[       OK ] Cow.Kee[   12.5] upm: loaded
ps (0 ms)
[       OK ] Cow.Breaks (1 ms)
[==========] 2 tests from 1 test suite ran. (1 ms total)
[  PASSED  ] 2 tests.
"""

CTEST = """\
    Start 1: Counts.Sum/0  # 9-byte object <61-61 ...
1/5 Test #1: Counts.Sum/0  # 9-byte object <61-61 ... ....................   Passed    0.01 sec
    Start 2: Backend.Kmod
2/5 Test #2: Backend.Kmod .....................***Skipped   0.00 sec
3/5 Test #3: Backend.Ksm ......................***Failed    0.02 sec
[==========] Running 1 test from 1 test suite.
[  FAILED  ] Backend.Ksm (0 ms)
[==========] 1 test from 1 test suite ran. (0 ms total)
4/5 Test #4: Backend.None .....................***Exception: SegFault  0.10 sec
5/5 Test #5: All/Kind.Is/ksm_Text  # GetParam() = ("ksm", 1-byte <06>) ...***Skipped   0.00 sec

60% tests passed, 2 tests failed out of 5
"""

UNITTEST = """\
----------------------------------------------------------------------
Ran 5 tests in 0.012s

FAILED (failures=1, skipped=1)
"""


class Summary(unittest.TestCase):
    """Each test gives logs and exit statuses, and looks at the last line."""

    def sum_up(self, *steps: tuple[str, int]) -> subprocess.CompletedProcess[str]:
        """The program's run for steps of (log, exit status)."""
        with tempfile.TemporaryDirectory() as folder:
            lines = []
            for number, (log, status) in enumerate(steps):
                path = Path(folder) / f"{number}.log"
                path.write_text(log, encoding="utf-8")
                lines.append(f"step-{number}\t{status}\t1.5\t{path}\n")
            records = Path(folder) / "records"
            records.write_text("".join(lines), encoding="utf-8")
            return subprocess.run([SUMMARY, records], capture_output=True, text=True, check=False)

    def close(self, *steps: tuple[str, int]) -> tuple[str, int]:
        """Last line and exit status for steps of (log, exit status)."""
        done = self.sum_up(*steps)
        return done.stdout.splitlines()[-1], done.returncode

    def test_counts_gtest_and_leaves_skips_out(self) -> None:
        self.assertEqual(self.close((GTEST_OK, 0)), ("2 passed, 0 failed", 0))

    def test_counts_failures_once(self) -> None:
        self.assertEqual(self.close((GTEST_FAILED, 1)), ("1 passed, 1 failed", 1))

    def test_failed_text_with_exit_zero_fails(self) -> None:
        self.assertEqual(self.close((GTEST_FAILED, 0)), ("1 passed, 1 failed", 1))

    def test_crash_fails(self) -> None:
        self.assertEqual(self.close((GTEST_CRASHED, 139)), ("1 passed, 1 failed", 1))
        self.assertEqual(self.close((GTEST_CRASHED, 0)), ("1 passed, 1 failed", 1))

    def test_dirty_kernel_log_fails_though_all_tests_passed(self) -> None:
        self.assertEqual(self.close((GTEST_OK, 126)), ("2 passed, 1 failed", 1))

    def test_lines_torn_by_the_kernel_log_still_count(self) -> None:
        self.assertEqual(self.close((GTEST_TORN, 0)), ("2 passed, 0 failed", 0))

    def test_serial_line_ends(self) -> None:
        log = GTEST_OK.replace("\n", "\r\n")
        self.assertEqual(self.close((log, 0)), ("2 passed, 0 failed", 0))

    def test_several_programs_in_one_step(self) -> None:
        log = GTEST_OK + GTEST_FAILED
        self.assertEqual(self.close((log, 1)), ("3 passed, 1 failed", 1))

    def test_no_test_run_fails(self) -> None:
        log = "[==========] Running 0 tests from 0 test suites.\n"
        log += "[==========] 0 tests from 0 test suites ran. (0 ms total)\n[  PASSED  ] 0 tests.\n"
        self.assertEqual(self.close((log, 0)), ("0 passed, 1 failed", 1))
        self.assertEqual(self.close(), ("0 passed, 1 failed", 1))

    def test_ctest_does_not_count_the_output_of_failed_tests(self) -> None:
        self.assertEqual(self.close((CTEST, 8)), ("1 passed, 2 failed", 1))

    def test_ctest_results_that_cannot_be_read_fail(self) -> None:
        log = CTEST.replace("out of 5", "out of 6")
        self.assertEqual(self.close((log, 8)), ("1 passed, 3 failed", 1))

    def test_unittest(self) -> None:
        self.assertEqual(self.close((UNITTEST, 1)), ("3 passed, 1 failed", 1))

    def test_plain_programs_count_as_one(self) -> None:
        steps = (("done\n", 0), ("no NUMA\n", 4), ("oh\n", 1), ("lost\n", 125))
        self.assertEqual(self.close(*steps), ("1 passed, 2 failed", 1))

    def test_scripts_that_count_themselves(self) -> None:
        self.assertEqual(self.close(("7 passed, 0 failed\n", 0)), ("7 passed, 0 failed", 0))
        self.assertEqual(self.close(("6 passed, 1 failed\n", 0)), ("6 passed, 1 failed", 1))

    def test_repeated_boots_are_told_and_are_no_failure(self) -> None:
        log = "vm: boot repeated: Oops: int3: 0000 [#1] (kernel log: build/vm/1.log)\n" + GTEST_OK
        done = self.sum_up((log, 0), (GTEST_OK, 0))
        told = [line.strip() for line in done.stdout.splitlines() if "boot repeated" in line]
        self.assertEqual(
            told, ["boot repeated: Oops: int3: 0000 [#1] (kernel log: build/vm/1.log)"]
        )
        self.assertEqual((done.stdout.splitlines()[-1], done.returncode), ("4 passed, 0 failed", 0))

    def test_a_repeated_run_counts_once(self) -> None:
        begun = GTEST_OK[: GTEST_OK.index("[       OK ]")]
        log = begun + "vm: run repeated: Oops: int3 (kernel log: build/vm/1.log)\n" + GTEST_OK
        done = self.sum_up((log, 0))
        self.assertIn("    run repeated: Oops: int3 (kernel log", done.stdout)
        self.assertEqual((done.stdout.splitlines()[-1], done.returncode), ("2 passed, 0 failed", 0))

    def test_why_a_machine_failed_is_told(self) -> None:
        begun = GTEST_OK[: GTEST_OK.index("[       OK ]")]
        said = "vm: kernel log: Oops: int3\nvm: the machine ended\nvm: exit 126; log\n"
        lines = self.sum_up((begun + said, 126)).stdout.splitlines()
        last = re.findall(r"\[ RUN      \] (\S+)", begun)[-1]
        self.assertTrue(any(f"tests did, in or after {last}" in line for line in lines), lines)
        told = [line.partition(": vm: ")[2] for line in lines if ": vm: " in line]
        self.assertEqual(told, ["kernel log: Oops: int3", "the machine ended"])


if __name__ == "__main__":
    unittest.main()
