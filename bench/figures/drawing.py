# SPDX-License-Identifier: MIT
"""Descriptions of figures and tables for `pss-report --draw`, which draws them."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from faas import measure
from faas.session import PSS_REPORT

from figures.experiment import Part

MIB, GIB = 1 << 20, 1 << 30
# Places in pss-report's palette, the same for the same thing in all figures.
WITHOUT, WITH, THIRD, ORIGINAL = 0, 1, 3, 2
DASHED = 2


def curve(
    title: str, points: Iterable[tuple[float, float]], color: int, dash: int = 1
) -> dict[str, Any]:
    """One series."""
    return {"title": title, "color": color, "dash": dash, "points": [list(p) for p in points]}


def lines(  # noqa: PLR0913  # settings, named by callers
    name: str,
    title: str,
    x: str,
    y: str,
    curves: Sequence[dict[str, Any]],
    measured_in: str = "",
) -> Part:
    """Lines. `name`: of the file; measured_in: empty for bytes."""
    made = {"kind": "lines", "name": name, "title": title, "x": x, "y": y}
    return {"figure": {**made, "measure": measured_in, "curves": list(curves)}}


def bars(  # noqa: PLR0913  # as above
    name: str,
    title: str,
    y: str,
    categories: Sequence[str],
    series: Sequence[tuple[str, int, Sequence[float | None]]],
    measured_in: str = "",
) -> Part:
    """Bars: for each series its title, colour and a value for each category, None for no bar."""
    curves = [
        curve(title, [(i, v) for i, v in enumerate(values) if v is not None], color)
        for title, color, values in series
    ]
    made = {"kind": "bars", "name": name, "title": title, "y": y, "categories": list(categories)}
    return {"figure": {**made, "measure": measured_in, "curves": curves}}


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> Part:
    """The first column has names, the others have numbers."""
    return {"table": {"columns": list(columns), "rows": [list(row) for row in rows]}}


def mib(value: float) -> str:
    """Bytes as MiB."""
    return f"{value / MIB:.1f}"


def change(before: float, after: float) -> str:
    """In percent."""
    return f"{100 * (after / before - 1):+.1f} %" if before else "-"


def spread(values: Sequence[float], parts: Sequence[float] = (0.5, 0.95, 0.99, 1)) -> list[float]:
    """Quantiles: of the values, the least that as large a part does not exceed."""
    ordered = sorted(values)
    last = len(ordered) - 1
    return [ordered[min(last, max(0, -int(-len(ordered) * part // 1) - 1))] for part in parts]


def draw(description: dict[str, Any], option: str, path: Path) -> None:
    """Has pss-report draw: `option` is --plot or --html. Raises MeasureError, OSError."""
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(description, file)
        file.flush()
        measure.run(PSS_REPORT, "--draw", file.name, option, str(path))
    # They are kept in the tree, which has no blanks at the ends of lines; gnuplot writes some.
    text = "\n".join(line.rstrip() for line in path.read_text().splitlines()).rstrip("\n")
    path.write_text(f"{text}\n")
