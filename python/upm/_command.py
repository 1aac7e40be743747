# SPDX-License-Identifier: MIT
"""The command `upm` of a wheel: it becomes the program beside this file."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def main() -> None:
    """Never returns."""
    program = Path(__file__).resolve().with_name("upm")
    os.execv(program, ["upm", *sys.argv[1:]])
