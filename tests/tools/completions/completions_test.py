#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Completions have every option that --help has, and work in a shell.

completions_test.py FOLDER PROGRAM... upm-runc     FOLDER: what tools/completions/generate wrote

upm-runc has no options of its own: it must offer those of the runtime that it becomes.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

FOLDER = Path()
PROGRAMS: list[Path] = []
RUNC = Path()
SHELLS = ("bash", "zsh", "fish")

# The help of runc 1.1 and of crun 1.8, as far as it matters.
PLAYED_RUNC = """#!/bin/sh
case $1 in
create) printf 'OPTIONS:\\n   --bundle value, -b value  text, see --root\\n'
   printf '   --no-pivot  text\\n' ;;
*) printf 'USAGE:\\n   runc command\\n\\nCOMMANDS:\\n   create   create a container\\n'
   printf '   kill     kill sends: a signal\\n   help, h  Shows help\\n\\n'
   printf 'GLOBAL OPTIONS:\\n   --debug       debug logging\\n   --root value  folder\\n' ;;
esac
"""
PLAYED_CRUN = """#!/bin/sh
case $1 in
create) printf 'Usage: crun [OPTION...] create\\n\\n  -b, --bundle=DIR   container bundle\\n' ;;
*) printf '\\nCOMMANDS:\\n\\tcheckpoint  - checkpoint a container\\n\\tcreate      - create\\n\\n'
   printf 'OPTIONS:\\n\\n      --debug       produce output\\n      --root=DIR\\n' ;;
esac
"""


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
        for shell in SHELLS:
            with self.subTest(shell):
                if not shutil.which(shell):
                    self.skipTest(f"no {shell}: tools/dev/deps tests")
                for program in [*PROGRAMS, RUNC]:
                    file = self.files(program)[shell]
                    done = subprocess.run(
                        [shell, "-n", file], capture_output=True, text=True, check=False
                    )
                    self.assertEqual((done.returncode, done.stderr), (0, ""), file)


# Print what is offered for the last word of a command line; the file comes before it.
OFFERS = {
    "bash": [
        "-c",
        '. "$0"; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _upm_runc;'
        ' printf "%s\\n" "${COMPREPLY[@]}"',
    ],
    "fish": [
        "-c",
        "source $argv[1]; complete -C (string join ' ' -- $argv[2..-1]); true",
        "--",
    ],
}


class Runtime(unittest.TestCase):
    """Of upm-runc, by a played runtime."""

    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory(prefix="upm-completions-")
        self.addCleanup(folder.cleanup)
        self.path = Path(folder.name)
        self.played = self.path / "runc"

    def offers(self, shell: str, *words: str) -> set[str]:
        """What a shell offers for the last word."""
        file = Completions().files(RUNC)[shell]
        search = f"{RUNC.parent}:{os.environ['PATH']}"
        done = subprocess.run(
            [shell, *OFFERS[shell], file, "upm-runc", *words],
            env=os.environ | {"PATH": search, "UPM_RUNTIME": str(self.played)},
            cwd=self.path,
            capture_output=True,
            text=True,
            check=True,
        )
        self.assertEqual(done.stderr, "")
        return {line.partition("\t")[0] for line in done.stdout.splitlines()} - {""}

    def test_offers_are_those_of_the_runtime(self) -> None:
        for played, more in ((PLAYED_RUNC, {"kill", "help"}), (PLAYED_CRUN, {"checkpoint"})):
            self.played.write_text(played)
            self.played.chmod(0o755)
            for shell in OFFERS:
                with self.subTest(shell, more=more):
                    if not shutil.which(shell):
                        self.skipTest(f"no {shell}: tools/dev/deps tests")
                    self.assertLessEqual({"create", *more}, self.offers(shell, ""))
                    self.assertEqual(self.offers(shell, "cr"), {"create"})
                    self.assertEqual(self.offers(shell, "--de"), {"--debug"})
                    words = ("--root", "/x", "create", "--bun")
                    self.assertEqual(self.offers(shell, *words), {"--bundle"})
                    self.assertEqual(self.offers(shell, "create", "--xy"), set())


if __name__ == "__main__":
    FOLDER, *PROGRAMS, RUNC = (Path(word).absolute() for word in sys.argv[1:])
    unittest.main(argv=sys.argv[:1])
