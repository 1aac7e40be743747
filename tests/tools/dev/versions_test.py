#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""One version and one number of the interface, wherever they are written.

kmod/dkms.conf has the version of the project. The interface of libupm counts by itself: the
number is in the SONAME, in the nodes of symbol versions, and in the name of Debian's package.
"""

import re
import subprocess
import unittest
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]


def text_of(name: str) -> str:
    """Of a file of the tree."""
    return (ROOT / name).read_text()


def first(pattern: str, text: str) -> str:
    """What the pattern's group matches."""
    found = re.search(pattern, text, re.MULTILINE)
    assert found, pattern
    return found.group(1)


class Versions(unittest.TestCase):
    """Of the sources, and of a build if there is one."""

    def setUp(self) -> None:
        self.version = first(r'^PACKAGE_VERSION="([\d.]+)"', text_of("kmod/dkms.conf"))
        libupm = text_of("libupm/CMakeLists.txt")
        self.interface = first(r"upm PROPERTIES VERSION ([\d.]+)", libupm)
        self.number = first(r"upm PROPERTIES .*SOVERSION (\d+)", libupm)

    def test_the_interface_has_one_number(self) -> None:
        self.assertEqual(self.interface.split(".")[0], self.number)
        nodes = re.findall(r"^LIBUPM_(\d+)\.\d+ \{", text_of("libupm/libupm.map"), re.MULTILINE)
        self.assertEqual(set(nodes), {self.number})
        packages = re.findall(r"\blibupm(\d+)\b", text_of("debian/control"))
        self.assertEqual(set(packages), {self.number})
        self.assertTrue((ROOT / f"debian/libupm{self.number}.install").exists())
        for page in ("README.md", "docs/containers.md"):
            named = set(re.findall(r"\blibupm(\d+)_", text_of(page)))
            self.assertEqual(named, {self.number}, page)

    def test_newest_node_is_that_of_the_interface(self) -> None:
        nodes = re.findall(r"^LIBUPM_([\d.]+) \{", text_of("libupm/libupm.map"), re.MULTILINE)
        newest = max(nodes, key=lambda node: [int(part) for part in node.split(".")])
        self.assertEqual(newest, ".".join(self.interface.split(".")[:2]))

    def test_what_is_built_has_them(self) -> None:
        library = ROOT / "build/lib/libupm.so"
        if not library.exists():
            self.skipTest("nothing is built")
        dynamic = subprocess.run(
            ["readelf", "-dW", library], capture_output=True, text=True, check=True
        )
        soname = first(r"SONAME\).*\[(.*)\]", dynamic.stdout)
        self.assertEqual(soname, f"libupm.so.{self.number}")
        self.assertEqual(library.resolve().name, f"libupm.so.{self.interface}")
        for program in ("upm", "upmd", "pss-report"):
            path = ROOT / "build/bin" / program
            if path.exists():
                said = subprocess.run(
                    [path, "--version"], capture_output=True, text=True, check=True
                )
                self.assertIn(f" {self.version}", said.stdout, program)


if __name__ == "__main__":
    unittest.main()
