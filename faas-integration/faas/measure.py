# SPDX-License-Identifier: MIT
"""Memory of containers and of the system, read by pss-report."""

from __future__ import annotations

import json
import os
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PAGE = os.sysconf("SC_PAGE_SIZE")
ZONES = Path("/proc/zoneinfo")


@dataclass(frozen=True)
class Usage:
    """Of one process, bytes."""

    rss: int
    pss: int
    uss: int


@dataclass(frozen=True)
class Sample:
    """Of all containers, in the order of the pids asked for."""

    usages: list[Usage]
    system: int
    """In use by the whole system, bytes."""

    def pss(self) -> int:
        """Sum over the containers, bytes."""
        return sum(usage.pss for usage in self.usages)


class MeasureError(Exception):
    """pss-report failed; the text is what it said."""


def _listed(zones: Path = ZONES) -> int:
    """Free pages on the processors' own lists, bytes: MemAvailable takes them for used.

    Since Linux 6.7 these lists may hold up to an eighth of the memory.
    """
    counts = re.findall(r"^ +count: +(\d+)$", zones.read_text(), re.MULTILINE)
    return sum(map(int, counts)) * PAGE


def take(pss_report: Path, pids: list[int], *options: str) -> Sample:
    """A sample of these processes. Raises MeasureError."""
    command = [str(pss_report), "--json", "--pid", ",".join(map(str, pids)), *options]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode != 0:
        raise MeasureError(f"pss-report: {done.stderr.strip()}")
    document: dict[str, Any] = json.loads(done.stdout)
    rows = {row["pid"]: row["usage"] for row in document["rows"]}
    if missing := [pid for pid in pids if pid not in rows]:
        raise MeasureError(f"pss-report has no row for process {missing[0]}")
    usages = [Usage(*(rows[pid][key] for key in ("rss", "pss", "uss"))) for pid in pids]
    system = document["system"]
    return Sample(usages, system["mem_total"] - system["mem_available"] - _listed())
