# SPDX-License-Identifier: MIT
"""Memory of a process and of the system, from /proc."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")
KIB = 1024
PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True)
class Usage:
    """Memory of one process in bytes."""

    rss: int
    """What it maps."""
    pss: int
    """The same, each page divided by the number of its mappings."""
    uss: int
    """What it alone maps."""


def _fields(path: Path) -> dict[str, int]:
    """Lines `Name:  123 kB`, in bytes."""
    values = {}
    for line in path.read_text().splitlines():
        name, _, rest = line.partition(":")
        words = rest.split()
        if len(words) == 2 and words[1] == "kB":
            values[name] = int(words[0]) * KIB
    return values


def of_process(pid: int, proc: Path = PROC) -> Usage:
    """What smaps_rollup says of a process."""
    found = _fields(proc / str(pid) / "smaps_rollup")
    uss = found["Private_Clean"] + found["Private_Dirty"]
    return Usage(rss=found["Rss"], pss=found["Pss"], uss=uss)


def in_use(proc: Path = PROC) -> int:
    """Memory that the system could not give to a new program, in bytes.

    Each processor keeps a list of free pages, since Linux 6.7 of up to an eighth
    of the memory together; MemAvailable counts them as used.
    """
    found = _fields(proc / "meminfo")
    counts = re.findall(r"^ +count: +(\d+)$", (proc / "zoneinfo").read_text(), re.MULTILINE)
    listed = sum(map(int, counts)) * PAGE
    return found["MemTotal"] - found["MemAvailable"] - listed


def private_anonymous(maps: Path = PROC / "self" / "maps") -> list[tuple[int, int]]:
    """Address and length of each private anonymous mapping that can be written to."""
    found = []
    for line in maps.read_text().splitlines():
        span, permissions, _, _, inode, *_ = line.split()
        if permissions.endswith("p") and "w" in permissions and inode == "0":
            start, end = (int(part, 16) for part in span.split("-"))
            found.append((start, end - start))
    return found
