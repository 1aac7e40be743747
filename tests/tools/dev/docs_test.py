#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""What the documentation shows in C++ compiles."""

import re
import subprocess
import unittest
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
PAGES = ("README.md", "docs/quickstart.md")
# What a reader has of their own.
READER = """
#include <cstdio>
#include <cstring>
#include <vector>
std::vector<float> read_weights();
"""


class Snippets(unittest.TestCase):
    """Each block of the pages that readers copy from."""

    def test_they_compile(self) -> None:
        for page in PAGES:
            blocks = re.findall(r"^```cpp\n(.*?)^```", (ROOT / page).read_text(), re.M | re.S)
            self.assertTrue(blocks, page)
            for block in blocks:
                lines = block.splitlines()
                includes = [line for line in lines if line.startswith("#include")]
                rest = [line for line in lines if not line.startswith("#include")]
                program = [*includes, READER, "void snippet() {", *rest, "}"]
                done = subprocess.run(
                    [
                        *["c++", "-std=c++20", "-Wall", "-Wextra", "-Werror", "-fsyntax-only"],
                        *["-I", str(ROOT / "libupm/include"), "-x", "c++", "-"],
                    ],
                    input="\n".join(program),
                    text=True,
                    capture_output=True,
                    check=False,
                )
                self.assertEqual(done.returncode, 0, f"{page}: {done.stderr}")


if __name__ == "__main__":
    unittest.main()
