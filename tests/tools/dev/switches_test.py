#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""tools/dev/switches must make a fault that changes nothing until it is switched on."""

import os
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[3] / "tools/dev"))
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "support"))
import hooked
import switches

PROGRAM = """// a program
#include <cstdio>
#include <vector>
static int sum(const std::vector<int> &numbers, int most) {
    int sum = 0; // ";" and { in a comment
    for (const int number : numbers) {
        if (number < 0 || number > most)
            continue;
        sum += number;
    }
    const int limited = sum < 100 ? sum : 100;
    if (limited == 100) {
        std::puts("much; {");
        return -1;
    } else {
        return limited;
    }
}
int main() { std::printf("%d\\n", sum({1, 2, -3, 50, 60}, 55)); }
"""

# What is replaced, by what, and what the program says then.
FAULTS = [
    ("number < 0 ||", "", "50"),  # a condition, without braces
    ("sum += number;", "", "0"),  # a statement that goes
    ("sum < 100 ? sum : 100;", "sum;", "53"),  # a value
    ("limited == 100", "limited == 53", "much; {\n-1"),  # a condition with `else`
]


class Switches(unittest.TestCase):
    """A real program, built once."""

    def test_one_build_serves_all(self) -> None:
        edits = []
        for number, (old, new, _) in enumerate(FAULTS, 1):
            start = PROGRAM.index(old)
            edit = switches.switch(PROGRAM, start, start + len(old), new, number)
            assert edit is not None, old
            edits.append(edit)
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        reached = Path(folder.name, "reached")
        reached.touch()
        text, lines = switches.apply(
            PROGRAM, sorted(edits, key=lambda edit: edit.start), "", str(reached)
        )
        self.assertEqual(len(lines), len(FAULTS))
        for (first, last), edit in zip(
            lines, sorted(edits, key=lambda edit: edit.start), strict=True
        ):
            there = "\n".join(text.split("\n")[first - 1 : last])
            self.assertIn(edit.text, there)
        program = Path(folder.name, "program")
        command = ["c++", "-std=c++20", "-x", "c++", "-o", str(program), "-"]
        subprocess.run(command, input=text, text=True, check=True)
        for number, expected in enumerate(["53", *(fault[2] for fault in FAULTS)]):
            with self.subTest(number=number):
                reached.write_bytes(b"")
                variables = {**os.environ, switches.VARIABLE: str(number)}
                got = subprocess.run(
                    [program], env=variables, check=True, text=True, capture_output=True
                )
                self.assertEqual(got.stdout.strip(), expected)
                self.assertEqual(reached.stat().st_size, 1 if number else 0)

    def test_programs_of_tests_have_the_variable(self) -> None:
        """They drop what is UPM's, and a fault that is not switched on seems to live."""
        os.environ[switches.VARIABLE] = "7"
        self.addCleanup(os.environ.pop, switches.VARIABLE)
        self.assertEqual(hooked.environment().get(switches.VARIABLE), "7")

    def test_what_cannot_be_switched(self) -> None:
        text = "void f(int a) {\n    if (a)\n        g();\n    else\n        h();\n}\n"
        start = text.index("g();")
        self.assertIsNone(switches.switch(text, start, start + 4, "", 1), "a branch before `else`")


if __name__ == "__main__":
    unittest.main()
