#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Large real programs under the hook at its most eager: they do what they do without.

    tests/preload/real_programs.py [CLASS...]        CPython, Redis, Sqlite, Compiler

Each runs without the hook, with it (idle for 10 ms, blocks of 64 KiB and more), and by
`upm run --layout keyed`, and the results are compared; UPM_TEST_WAYS names fewer of the ways
`hook` and `keyed`. Memory is merged by UPM_BACKEND, by default the store, with a broker of
the test's own. Takes the better part of an hour. `make test-programs` installs what it
needs; what is missing all the same is skipped, and all skipped is exit status 4.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import unittest
from pathlib import Path
from typing import ClassVar

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))

from hooked import PYTHON, UPM, Broker, environment, hook, main
from workloads import (
    PLAIN,
    PYTHON_TESTS,
    Way,
    compiler_result,
    missing,
    python_outcomes,
    redis_digests,
    sqlite_result,
)

WAYS = os.environ.get("UPM_TEST_WAYS", "hook keyed").split()


class Case(unittest.TestCase):
    """A broker, and the ways to run a program that are compared with the plain one."""

    program: ClassVar[str]
    hooked: ClassVar[dict[str, str]]
    ways: ClassVar[list[Way]]

    @classmethod
    def setUpClass(cls) -> None:
        if lacking := missing(cls.program):
            raise unittest.SkipTest(lacking)
        broker = Broker()
        cls.addClassCleanup(broker.end)
        cls.hooked = environment(
            **hook(
                os.environ.get("UPM_BACKEND", "store"),
                UPM_SOCKET=str(broker.socket),
                UPM_MIN_BYTES="64K",
            )
        )
        # upm run sets these itself: the layout goes with the scope `all`.
        others = {k: v for k, v in cls.hooked.items() if k not in ("LD_PRELOAD", "UPM_SCOPE")}
        keyed = Way(
            "keyed", [UPM, "run", "--layout", "keyed", "--"], others | {"UPM_DOMAIN": "77" * 16}
        )
        cls.ways = [way for way in (Way("hook", [], cls.hooked), keyed) if way.name in WAYS]
        for way in cls.ways:
            done = subprocess.run(
                [*way.prefix, PYTHON, "-c", ""],
                env=way.variables,
                capture_output=True,
                text=True,
                check=False,
            )
            if done.returncode != 0 or "stock layout" in done.stderr:
                raise AssertionError(f"{way.name}: {done.stderr}")

    def inserted(self) -> int:
        """Bytes that hooked programs of this class have published."""
        variables = {k: v for k, v in self.hooked.items() if k != "LD_PRELOAD"}
        done = subprocess.run(
            [UPM, "status", "--json"], env=variables, capture_output=True, text=True, check=True
        )
        return int(json.loads(done.stdout)["service"]["upmd_published_bytes_total"])


class CPython(Case):
    """Each test of the selection has the same outcome; what differs gets a second try."""

    program = "python"

    def test_suite(self) -> None:
        before = python_outcomes(PYTHON_TESTS, PLAIN)
        self.assertGreater(len(before), 5000)
        for way in self.ways:
            with self.subTest(way.name):
                self.compare(before, way)

    def compare(self, before: dict[str, str], way: Way) -> None:
        """With a second try of what differs, in both ways."""
        published = self.inserted()
        after = python_outcomes(PYTHON_TESTS, way)
        self.assertGreater(self.inserted(), published, "the hook merged nothing")
        differ = {name for name in before | after if before.get(name) != after.get(name)}
        print(f"{way.name}: {len(before)} tests, {len(differ)} differ at first: {sorted(differ)}")
        modules = {module for module in PYTHON_TESTS if any(f"{module}." in n for n in differ)}
        if differ:
            again = python_outcomes(sorted(modules) or PYTHON_TESTS, PLAIN)
            with_hook = python_outcomes(sorted(modules) or PYTHON_TESTS, way)
            differ = {
                name for name in again | with_hook if again.get(name) != with_hook.get(name)
            } & differ
        self.assertEqual(differ, set(), "these differ twice")


class Redis(Case):
    """A server under load: its digest of all data is what it is without the hook."""

    program = "redis"

    def test_data(self) -> None:
        before = redis_digests(PLAIN)
        self.assertEqual(before[-1], before[-2])
        for way in self.ways:
            with self.subTest(way.name):
                published = self.inserted()
                after = redis_digests(way)
                self.assertEqual(before, after)
                self.assertEqual(after[0], after[1])
                self.assertEqual(after[-1], after[-2])
                self.assertGreater(self.inserted(), published, "the hook merged nothing")


class Sqlite(Case):
    """A database that fits the page cache, changed and checked with pauses in between."""

    program = "sqlite"

    def test_database(self) -> None:
        before = sqlite_result(PLAIN)
        for way in self.ways:
            with self.subTest(way.name):
                published = self.inserted()
                self.assertEqual(sqlite_result(way), before)
                self.assertGreater(self.inserted(), published, "the hook merged nothing")


class Compiler(Case):
    """gcc, its assembler and the linker make the same bytes."""

    program = "compiler"

    def test_build(self) -> None:
        before = compiler_result(PLAIN)
        for way in self.ways:
            with self.subTest(way.name):
                self.assertEqual(compiler_result(way), before)


if __name__ == "__main__":
    sys.exit(main("Compiler", "Sqlite", "Redis", "CPython"))
