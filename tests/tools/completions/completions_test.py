#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Completions have every option that --help has, and work in a shell.

completions_test.py FOLDER PROGRAM...        FOLDER: what tools/completions/generate wrote
"""

import re
import shutil
import subprocess
import sys
import unittest
from pathlib import Path

FOLDER = Path()
PROGRAMS: list[Path] = []


def help_of(program: Path, *command: str) -> str:
    """What it prints for --help."""
    done = subprocess.run([program, *command, "--help"], capture_output=True, text=True, check=True)
    return done.stdout


def helps(program: Path) -> list[str]:
    """Those of the program and of each of its commands."""
    own = help_of(program)
    block = re.search(r"^Commands:\n((?:  .*\n)+)", own, re.MULTILINE)
    commands = re.findall(r"^  ([\w-]+)", block.group(1), re.MULTILINE) if block else []
    return [own, *(help_of(program, command) for command in commands)]


class Completions(unittest.TestCase):
    """Of all programs."""

    def files(self, program: Path) -> dict[str, Path]:
        """By shell."""
        name = program.name
        return {
            "bash": FOLDER / "bash" / name,
            "zsh": FOLDER / f"zsh/_{name}",
            "fish": FOLDER / f"fish/{name}.fish",
        }

    def test_no_option_is_missing(self) -> None:
        for program in PROGRAMS:
            for text in helps(program):
                options = set(re.findall(r"^ +(?:-\w, )?--([\w-]+)", text, re.MULTILINE))
                self.assertTrue(options, program)
                for shell, file in self.files(program).items():
                    words = set(re.findall(r"(?:--|-l )([\w-]+)", file.read_text()))
                    self.assertLessEqual(options, words, f"{program.name} in {shell}")

    def complete(self, *words: str) -> list[str]:
        """What bash offers for the last word."""
        program = next(p for p in PROGRAMS if p.name == words[0])
        file = self.files(program)["bash"]
        function = "_" + words[0].replace("-", "_")
        script = f'. "$0"; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); {function};'
        script += ' printf "%s\\n" "${COMPREPLY[@]}"'
        done = subprocess.run(
            ["bash", "-euc", script, file, *words], capture_output=True, text=True, check=True
        )
        self.assertEqual(done.stderr, "")
        return done.stdout.split()

    def test_bash_completes(self) -> None:
        self.assertEqual(self.complete("upm", "do"), ["doctor"])
        self.assertEqual(self.complete("upm", "run", "--lay"), ["--layout"])
        self.assertEqual(self.complete("upm", "unmerge", "--dry"), [])
        self.assertEqual(self.complete("upm", "cdi", "gen"), ["generate"])
        self.assertEqual(self.complete("upmd", "--client"), ["--client-quota"])
        self.assertEqual(self.complete("pss-report", "--max-m"), ["--max-memory"])
        self.assertIn("/proc/", [w + "/" for w in self.complete("upmd", "--metrics", "/pro")])
        self.assertIn("setpriv", self.complete("upm", "run", "--", "setpri"))
        self.assertEqual(self.complete("upmd", "--max", "1"), [])

    def test_each_shell_takes_its_file(self) -> None:
        for shell in ("bash", "zsh", "fish"):
            if not shutil.which(shell):
                continue
            for program in PROGRAMS:
                file = self.files(program)[shell]
                done = subprocess.run(
                    [shell, "-n", file], capture_output=True, text=True, check=False
                )
                self.assertEqual((done.returncode, done.stderr), (0, ""), file)


if __name__ == "__main__":
    FOLDER, *PROGRAMS = map(Path, sys.argv[1:])
    unittest.main(argv=sys.argv[:1])
