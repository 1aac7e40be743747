# SPDX-License-Identifier: MIT
"""Memory of containers and of the system, read by pss-report."""

from __future__ import annotations

import json
import os
import re
import subprocess
from dataclasses import dataclass, field
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


@dataclass(frozen=True)
class Estimate:
    """What perfect merging of these containers would save, by pss-report --estimate."""

    saving: int
    """Bytes of all containers."""
    kinds: dict[str, int] = field(default_factory=dict)
    """The same by kind of mapping: weights, anon, heap, arena, stack, file-private …"""


class MeasureError(Exception):
    """pss-report failed; the text is what it said."""


def _listed(zones: Path = ZONES) -> int:
    """Free pages on the processors' own lists, bytes: MemAvailable takes them for used.

    Since Linux 6.7 these lists may hold up to an eighth of the memory.
    """
    counts = re.findall(r"^ +count: +(\d+)$", zones.read_text(), re.MULTILINE)
    return sum(map(int, counts)) * PAGE


def run(pss_report: Path, *options: str) -> str:
    """What pss-report prints. Raises MeasureError."""
    done = subprocess.run([str(pss_report), *options], check=False, capture_output=True, text=True)
    if done.returncode != 0:
        raise MeasureError(f"pss-report: {done.stderr.strip()}")
    return done.stdout


def _pids(pids: list[int]) -> str:
    return ",".join(map(str, pids))


def take(pss_report: Path, pids: list[int], *options: str) -> Sample:
    """A sample of these processes. Raises MeasureError."""
    text = run(pss_report, "--json", "--pid", _pids(pids), *options)
    document: dict[str, Any] = json.loads(text)
    rows = {row["pid"]: row["usage"] for row in document["rows"]}
    if missing := [pid for pid in pids if pid not in rows]:
        raise MeasureError(f"pss-report has no row for process {missing[0]}")
    usages = [Usage(*(rows[pid][key] for key in ("rss", "pss", "uss"))) for pid in pids]
    system = document["system"]
    return Sample(usages, system["mem_total"] - system["mem_available"] - _listed())


def estimate(pss_report: Path, pids: list[int]) -> Estimate:
    """What merging could still save for these processes. Raises MeasureError."""
    text = run(pss_report, "--estimate", "--json", "--pid", _pids(pids))
    document: dict[str, Any] = json.loads(text)["estimate"]
    kinds: dict[str, int] = {}
    for group in document["groups"]:
        for kind, classes in group["kinds"].items():
            kinds[kind] = kinds.get(kind, 0) + round(classes["saving"])
    return Estimate(round(document["total"]["saving"]), kinds)


def record(pss_report: Path, pids: list[int], path: Path, tag: str) -> None:
    """Writes a recording of these processes, for pss-report's figures. Raises MeasureError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    options = ["--mappings", "--record", str(path), "--tag", tag, "-n", str(len(pids))]
    run(pss_report, "--json", "--pid", _pids(pids), *options)
