# SPDX-License-Identifier: MIT
"""Fig. 6 of the paper: memory of the whole by the number of containers.

The paper shows the machine's memory in use. Ours is what the kernel counts for the control
group of the containers and the broker, segments included, so that nothing else is in it.
"""

from __future__ import annotations

from figures import drawing, growth, original
from figures.experiment import Data, Part, Raws, Section
from figures.fig5_pss import COLORS


def _points(state: Data) -> list[tuple[int, int]]:
    steps = growth.paper_steps(state)
    return [(step["n"], step["counted"]) for step in steps if step["counted"] is not None]


def _further(before: list[tuple[int, int]], after: list[tuple[int, int]]) -> str:
    """More containers that fit into what is saved, each at what one takes on average then."""
    (n, most), (_, least) = before[-1], after[-1]
    return str(max(0, int((most - least) / (least / n))))


def parts(raws: Raws) -> list[Part]:
    """A figure for each model, and a table."""
    made: list[Part] = []
    rows = []
    for model, data in growth.by_model(raws).items():
        title, theirs = growth.MODELS[model], original.of(model)
        curves = []
        base: list[tuple[int, int]] = []
        for state, found in data["states"].items():
            points = _points(found)
            if not points:
                continue
            base = base or points
            curves.append(drawing.curve(state, points, COLORS[state]))
            end = [drawing.change(base[-1][1], points[-1][1]), _further(base, points)]
            cells = original.cells(dict(points), drawing.mib)
            rows.append([f"{title}, {state}", *cells, *(["", ""] if points is base else end)])
        off, on = (value * drawing.GIB for value in theirs["system_gib"])
        for words, value in (("off", off), ("on", on)):
            mark = [(growth.MOST, value)]
            curves.append(drawing.curve(f"original, UPM {words}", mark, drawing.ORIGINAL))
            fell = [f"{theirs['system_change_percent']} %", str(theirs["further"])]
            more = fell if words == "on" else ["", ""]
            rows.append(
                [
                    f"{title}, original, UPM {words} (the machine's)",
                    *original.cells({growth.MOST: value}, drawing.mib),
                    *more,
                ]
            )
        made.append(
            drawing.lines(
                f"fig6-{model}",
                f"Memory of all containers: {title}",
                "containers",
                "in all",
                curves,
            )
        )
    columns = ["All memory, MiB", *map(str, growth.PAPER), "change at the most", "further that fit"]
    made.append(drawing.table(columns, rows))
    made.append(
        {
            "paragraph": "Ours: the control group of all containers and the broker, segments "
            "included; the image's files, which were read before, are not in it. Further: "
            "containers that fit into what is saved, at the mean of what each takes then."
        }
    )
    return made


SECTION = Section(
    "fig6", "Fig. 6: system memory by containers", tuple(growth.EXPERIMENTS.values()), parts
)
