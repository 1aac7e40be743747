#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""How the modules of faas-integration/faas hang together."""

import ast
import unittest
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter

import support

PACKAGE = support.FAAS / "faas"


def imported(text: str) -> Iterator[str]:
    """The modules of the package that a source names, wherever in it, also for types only."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom) and node.module == "faas":
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("faas."):
            yield (node.module or "").split(".")[1]
        elif isinstance(node, ast.Import):
            names = (alias.name for alias in node.names)
            yield from (name.split(".")[1] for name in names if name.startswith("faas."))


class ImportsTest(unittest.TestCase):
    """Arrows between modules point one way."""

    def test_no_circle(self) -> None:
        """There is an order in which each module comes after those that it imports."""
        graph = {path.stem: set(imported(path.read_text())) for path in PACKAGE.glob("*.py")}
        self.assertIn("session", graph["phases"])
        TopologicalSorter(graph).prepare()

    def test_a_circle_for_types_is_found(self) -> None:
        """As there was one between phases and latency."""
        hidden = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from faas.a import A\n"
        with self.assertRaises(CycleError):
            TopologicalSorter({"a": {"b"}, "b": set(imported(hidden))}).prepare()


if __name__ == "__main__":
    support.main()
