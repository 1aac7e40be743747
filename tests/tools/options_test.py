#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""The options of all programs: the pages of the manual have those that --help has, and a wrong
value is told by the option's name, with exit status 2.

options_test.py PROGRAM...
"""

import re
import subprocess
import sys
import unittest
from pathlib import Path

MAN = Path(__file__).resolve().parents[2] / "docs/man"
PROGRAMS: list[Path] = []
# What --help calls a number.
NUMBERS = {"N", "S", "MS", "MIB", "SIZE", "BYTES", "PERCENT", "NUMBER", "ROWS", "REPORTS"}
NUMBERS |= {"SECONDS", "PID"}
# What these commands work on, without which they say nothing of options.
SUBJECTS = {"run": ["--", "true"], "seed": ["file"]}
WRONG = ("", "x", "-1", "1 2", "0x10", "99999999999999999999999")
SECONDS = 60


def run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    """What it says to that."""
    return subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )


def commands() -> list[list[str | Path]]:
    """Each program, and each command of a program that has them."""
    found: list[list[str | Path]] = []
    for program in PROGRAMS:
        block = re.search(r"^Commands:\n((?:  .*\n)+)", run(program, "--help").stdout, re.M)
        words = re.findall(r"^  ([\w-]+)", block.group(1), re.M) if block else []
        found += [[program, word] for word in words] or [[program]]
    return found


def options_of(command: list[str | Path]) -> dict[str, str]:
    """The options in its help, and what each calls its value; empty: it takes none."""
    text = run(*command, "--help").stdout
    rows = re.findall(r"^ +(?:-\w, )?(--[\w-]+|-\w)(?: ([A-Z:[\]-]+))?(?:  |$)", text, re.M)
    return dict(rows)


def options_in_manual(program: Path) -> tuple[set[str], set[str]]:
    """Those that a paragraph of its page begins with, and all that are in bold type."""
    section = "1" if program.name in ("upm", "pss-report") else "8"
    text = (MAN / f"{program.name}.{section}").read_text().replace("\\-", "-")

    def found(lines: str) -> set[str]:
        listed = re.findall(lines, text, re.M)
        return {o for line in listed for o in re.findall(r"(?<![\w-])--?[a-z][\w-]*", line)}

    return found(r"^\.T[PQ]\n(.*)"), found(r"^\.B[IR]?( .*)")


class Options(unittest.TestCase):
    """Of all programs."""

    def test_the_manual_has_them(self) -> None:
        for program in PROGRAMS:
            told = {
                option
                for command in commands()
                if command[0] == program
                for option in options_of(command)
            }
            self.assertTrue(told, program)
            if "--version" in run(program, "--help").stdout:
                told.add("--version")
            begun, written = options_in_manual(program)
            self.assertEqual(told - written, set(), program.name)
            self.assertEqual({o for o in begun if o.startswith("--")} - told, set(), program.name)

    def refuses(self, command: list[str | Path], *words: str) -> str:
        """The line that it says."""
        done = run(*command, *words)
        shown = (command[0], *command[1:], *words)
        self.assertEqual((done.returncode, done.stdout), (2, ""), (shown, done.stderr))
        return done.stderr

    def test_a_wrong_number_is_told_by_its_option(self) -> None:
        asked = 0
        for command in commands():
            for option, value in options_of(command).items():
                if value not in NUMBERS:
                    continue
                for wrong in WRONG:
                    # Joined: what begins with a dash is a value all the same.
                    words = [f"{option}={wrong}"] if option.startswith("--") else [option, wrong]
                    said = self.refuses(command, *words, *SUBJECTS.get(str(command[-1]), []))
                    if option != "--pid":
                        self.assertIn(option, said)
                    asked += 1
        self.assertGreater(asked, 50)

    def test_what_is_unknown_is_refused(self) -> None:
        for command in commands():
            self.assertIn("nonsense", self.refuses(command, "--nonsense"))


if __name__ == "__main__":
    PROGRAMS = [Path(argument) for argument in sys.argv[1:]]
    sys.argv[1:] = []
    unittest.main()
