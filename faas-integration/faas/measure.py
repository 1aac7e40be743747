# SPDX-License-Identifier: MIT
"""Memory of containers, read by pss-report."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Usage:
    """Of one process, bytes."""

    rss: int
    pss: int
    uss: int
    saved: int
    """By which pages that are merged make PSS smaller than RSS."""
    own: int
    """PSS without files: other programs of the machine that use the same files change PSS."""


@dataclass(frozen=True)
class Estimate:
    """What perfect merging of these containers would save, by pss-report --estimate."""

    saving: int
    """Bytes of all containers."""
    kinds: dict[str, int] = field(default_factory=dict)
    """The same by kind of mapping: weights, anon, heap, arena, stack, file-private …"""


class MeasureError(Exception):
    """pss-report failed; the text is what it said."""


def run(pss_report: Path, *options: str) -> str:
    """What pss-report prints. Raises MeasureError."""
    done = subprocess.run([str(pss_report), *options], check=False, capture_output=True, text=True)
    if done.returncode != 0:
        raise MeasureError(f"pss-report: {done.stderr.strip()}")
    return done.stdout


def _pids(pids: list[int]) -> str:
    return ",".join(map(str, pids))


def take(pss_report: Path, pids: list[int], *options: str) -> list[Usage]:
    """The usage of these processes, in their order. Raises MeasureError."""
    text = run(pss_report, "--json", "--pid", _pids(pids), *options)
    document: dict[str, Any] = json.loads(text)
    rows = {row["pid"]: row["usage"] for row in document["rows"]}
    if missing := [pid for pid in pids if pid not in rows]:
        raise MeasureError(f"pss-report has no row for process {missing[0]}")
    return [_usage(rows[pid]) for pid in pids]


def _usage(row: dict[str, int]) -> Usage:
    own = row["anon"] + row["upm"] - row["saved"]  # the first two have no page in common
    return Usage(row["rss"], row["pss"], row["uss"], row["saved"], own)


def estimate(pss_report: Path, pids: list[int]) -> Estimate:
    """What merging could still save for these processes. Raises MeasureError."""
    text = run(pss_report, "--estimate", "--json", "--pid", _pids(pids))
    document: dict[str, Any] = json.loads(text)["estimate"]
    kinds: dict[str, int] = {}
    for group in document["groups"]:
        for kind, classes in group["kinds"].items():
            kinds[kind] = kinds.get(kind, 0) + round(classes["saving"])
    return Estimate(round(document["total"]["saving"]), kinds)


def record(pss_report: Path, pids: list[int], path: Path, tag: str) -> list[Usage]:
    """As take(), and writes the same as a recording for pss-report's figures."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    options = ["--mappings", "--record", str(path), "--tag", tag, "-n", str(len(pids))]
    return take(pss_report, pids, *options)
