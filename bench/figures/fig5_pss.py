# SPDX-License-Identifier: MIT
"""Fig. 5 of the paper: PSS per container by the number of containers."""

from __future__ import annotations

from figures import drawing, growth, lab, original
from figures.experiment import Part, Raws, Section

COLORS = {
    lab.WITHOUT: drawing.WITHOUT,
    lab.WITH: drawing.WITH,
    lab.KEYED: drawing.THIRD,
}


def parts(raws: Raws) -> list[Part]:
    """A figure for each model, and a table."""
    made: list[Part] = []
    rows = []
    for model, data in growth.by_model(raws).items():
        title, theirs = growth.MODELS[model], original.of(model)
        curves = []
        for state, found in data["states"].items():
            steps = growth.paper_steps(found)
            points = [(step["n"], lab.mean(step["usages"], "pss")) for step in steps]
            curves.append(drawing.curve(f"{state}", points, COLORS[state]))
            cells = dict(points)
            rows.append([f"{title}, {state}", *original.cells(cells, drawing.mib)])
        for words, value in zip(("off", "on"), theirs["pss_mib"], strict=True):
            mark = [(growth.MOST, value * drawing.MIB)]
            curves.append(drawing.curve(f"original, UPM {words}", mark, drawing.ORIGINAL))
            rows.append(
                [f"{title}, original, UPM {words}", *original.cells({16: value}, "{:.1f}".format)]
            )
        made.append(
            drawing.lines(
                f"fig5-{model}", f"PSS per container: {title}", "containers", "each", curves
            )
        )
        made += [{"paragraph": said} for said in growth.unfinished(data)]
    made.append(drawing.table(["PSS per container, MiB", *map(str, growth.PAPER)], rows))
    made.append({"paragraph": "A page that k processes map counts 1/k for each of them."})
    return made


SECTION = Section("fig5", "Fig. 5: PSS by containers", tuple(growth.EXPERIMENTS.values()), parts)
