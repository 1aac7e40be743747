#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Prints what `run` measured beside the targets.

    cuda-cow/measure/targets.py FOLDER/results.json

The exit status is 0 also where a target is missed: the table is a report, no test.
"""

import argparse
import json
import operator
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any

GIB = 1 << 30
MIB = 1 << 20


@dataclass(frozen=True)
class Target:
    """One line of the table. `value` gives None where nothing was measured."""

    name: str
    value: Callable[[dict[str, Any]], float | None]
    limit: float
    at_least: bool = False
    unit: str = ""
    also_fake: bool = False  # CPU work that the driver has no part in

    def met(self, value: float) -> bool:
        """Whether the value is on the right side of the limit."""
        return value >= self.limit if self.at_least else value <= self.limit


def at(*path: str) -> Callable[[dict[str, Any]], float | None]:
    """The number at this place of the result."""

    def get(result: dict[str, Any]) -> float | None:
        try:
            found: Any = reduce(operator.getitem, path, result)
        except (KeyError, TypeError):
            return None
        return float(found) if isinstance(found, int | float) else None

    return get


def share_of_peak(name: str) -> Callable[[dict[str, Any]], float | None]:
    """A bandwidth as a part of the memory's peak; of a copy's if that is not known."""

    def get(result: dict[str, Any]) -> float | None:
        bandwidth = result.get("bandwidth") or {}
        most = bandwidth.get("peak_bytes_per_second") or bandwidth.get("copy_bytes_per_second")
        value = bandwidth.get(f"{name}_bytes_per_second")
        return float(value) / float(most) if value and most else None

    return get


def first_write(size: int) -> Callable[[dict[str, Any]], float | None]:
    """Median latency of the first write to an extent of this size."""

    def get(result: dict[str, Any]) -> float | None:
        rows = (result.get("first_write") or {}).get("rows", [])
        rows = [row for row in rows if row["bytes"] == size]
        return float(rows[0]["p50_us"]) if rows else None

    return get


def of_8_gib(key: str) -> Callable[[dict[str, Any]], float | None]:
    """A time of the sharing part, if it was measured on 8 GiB in 64 MiB extents."""

    def get(result: dict[str, Any]) -> float | None:
        sharing = result.get("sharing") or {}
        if (sharing.get("bytes"), sharing.get("extent_bytes")) != (8 * GIB, 64 * MIB):
            return None
        return at("sharing", key)(result)

    return get


TARGETS = (
    Target("weights of all processes, of one copy", at("processes", "weights_in_all"), 1.01),
    Target("tag, share of memory bandwidth", share_of_peak("tag"), 0.85, at_least=True),
    Target("compare, share of memory bandwidth", share_of_peak("compare"), 0.85, at_least=True),
    Target("advise 8 GiB, new", of_8_gib("advise_new_ms"), 30, unit="ms"),
    Target("advise 8 GiB, known", of_8_gib("advise_known_ms"), 30, unit="ms"),
    Target("attach 8 GiB", of_8_gib("attach_ms"), 25, unit="ms"),
    Target("first write, 2 MiB, p50", first_write(2 * MIB), 150, unit="us"),
    Target("first write, 64 MiB, p50", first_write(64 * MIB), 250, unit="us"),
    Target(
        "first write, 2 MiB, with a spare extent",
        at("spare", str(2 * MIB), "first_write"),
        150,
        unit="us",
    ),
    Target("reads of shared memory, slower by", at("sharing", "reads", "slower"), 0.005),
    Target(
        "launch hook, no pointer tracked",
        at("hook", "none_tracked_ns"),
        100,
        unit="ns",
        also_fake=True,
    ),
    Target(
        "launch hook, 2 of 8 tracked",
        at("hook", "two_tracked_ns"),
        100,
        unit="ns",
        also_fake=True,
    ),
)


def fake(result: dict[str, Any]) -> bool:
    """True if this is no GPU's."""
    return bool((result.get("machine") or {}).get("fake"))


def row(target: Target, result: dict[str, Any]) -> tuple[str, str, str, str]:
    """Name, target, value and verdict."""
    value = target.value(result)
    limit = f"{'>=' if target.at_least else '<='} {target.limit:g} {target.unit}".rstrip()
    if value is None:
        return target.name, limit, "-", "not measured"
    shown = f"{value:.4g} {target.unit}".rstrip()
    if fake(result) and not target.also_fake:
        return target.name, limit, shown, "fake: says nothing"
    return target.name, limit, shown, "met" if target.met(value) else "MISSED"


def table(result: dict[str, Any]) -> str:
    """The whole report as text."""
    rows = [("", "target", "measured", "")] + [row(target, result) for target in TARGETS]
    widths = [max(len(line[i]) for line in rows) for i in range(4)]
    machine = result.get("machine") or {}
    head = ", ".join(f"{key} {machine.get(key, '?')}" for key in ("gpu", "driver_version", "host"))
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        for line in rows
    ]
    return "\n".join([head, *(line.rstrip() for line in lines)])


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the table of one result."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("result", type=Path)
    path: Path = parser.parse_args(arguments).result
    try:
        stages = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        print(f"targets.py: {path}: {error}", file=sys.stderr)
        return 1
    print(table({name: stage.get("result") for name, stage in stages.items()}))
    ended = {name: stage["status"] for name, stage in stages.items() if stage["status"] != "ok"}
    print("\n".join(f"{name}: {status}" for name, status in ended.items()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
