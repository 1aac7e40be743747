# SPDX-License-Identifier: MIT
"""What one more instance takes: its USS, and by how much the memory of all grows.

Not in the paper; from the run behind Fig. 5.
"""

from __future__ import annotations

from figures import drawing, growth
from figures.experiment import Data, Part, Raws, Section
from figures.fig5_pss import COLORS


def uss_of_the_last(state: Data) -> list[tuple[int, int]]:
    """USS of the container that came last, by how many there are."""
    return [(step["n"], step["usages"][-1]["uss"]) for step in state["steps"]]


def growth_of_all(state: Data) -> float | None:
    """Bytes per further container: the slope from the second container to the last."""
    steps = [step for step in state["steps"] if step["counted"] is not None]
    if len(steps) < 2:
        return None
    first, last = steps[1 if len(steps) > 2 else 0], steps[-1]
    bytes_, more = last["counted"] - first["counted"], last["n"] - first["n"]
    return float(bytes_ / more)


def parts(raws: Raws) -> list[Part]:
    """A figure for each model, and a table."""
    made: list[Part] = []
    rows = []
    for model, data in growth.by_model(raws).items():
        title, curves = growth.MODELS[model], []
        for state, found in data["states"].items():
            points = uss_of_the_last(found)
            curves.append(drawing.curve(state, points, COLORS[state]))
            slope = growth_of_all(found)
            cells = ["-" if slope is None else drawing.mib(slope), drawing.mib(points[-1][1])]
            rows.append([f"{title}, {state}", *cells])
        name, words = f"marginal-{model}", f"USS of the newest container: {title}"
        made.append(drawing.lines(name, words, "containers", "", curves))
    columns = ["MiB for one more", "growth of all memory", "USS of the last one"]
    made.append(drawing.table(columns, rows))
    made.append(
        {
            "paragraph": "USS: what the container shares with no other process. Growth: of the "
            "control group of all, from the second container to the last one, per container."
        }
    )
    return made


SECTION = Section("marginal", "One more instance", tuple(growth.EXPERIMENTS.values()), parts)
