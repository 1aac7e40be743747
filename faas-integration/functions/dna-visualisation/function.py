# SPDX-License-Identifier: MIT
"""DNA visualisation: {"sequence": "ACGT…"} -> {"bases": n, "svg": …, "sha256": …}.

The curve is that of Lee (2018), "Squiggle": two steps of half a base each, A up and
down, C down and up, T down twice, G up twice, and others straight on.
"""

from __future__ import annotations

import hashlib
from typing import Any

STEPS = {"A": (1, 0), "C": (-1, 0), "T": (-1, -2), "G": (1, 2)}  # heights, half way and after
LARGEST = 10_000_000  # bases
SHOWN = 2_000  # points of the figure


def squiggle(sequence: str) -> tuple[list[float], list[float]]:
    """The curve's points: x in bases, and heights."""
    xs, ys, height = [0.0], [0.0], 0.0
    for place, base in enumerate(sequence):
        half, whole = STEPS.get(base, (0, 0))
        xs += [place + 0.5, place + 1.0]
        ys += [height + half, height + whole]
        height += whole
    return xs, ys


def draw(xs: list[float], ys: list[float]) -> str:
    """An SVG of at most SHOWN points of the curve."""
    step = max(1, -(-len(xs) // SHOWN))
    points = " ".join(f"{x:g},{-y:g}" for x, y in zip(xs[::step], ys[::step], strict=True))
    low, high = min(ys), max(ys)
    box = f"0 {-high:g} {xs[-1]:g} {high - low or 1:g}"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="{box}">'
        f'<polyline fill="none" stroke="black" points="{points}"/></svg>'
    )


def handler(event: dict[str, Any]) -> dict[str, Any]:
    """The figure of a sequence. Raises ValueError for one that is too long, KeyError for none."""
    sequence = str(event["sequence"]).upper()
    if len(sequence) > LARGEST:
        raise ValueError(f"{len(sequence)} bases are more than {LARGEST}")
    svg = draw(*squiggle(sequence))
    digest = hashlib.sha256(svg.encode()).hexdigest()
    return {"bases": len(sequence), "svg": svg, "sha256": digest}
