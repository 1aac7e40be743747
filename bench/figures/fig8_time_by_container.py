# SPDX-License-Identifier: MIT
"""Fig. 8 of the paper: time of advising and of requests by container, first and later ones.

In the paper a container advises within its first request. Here the hook advises while the
function is idle, except for what reads share (UPM_SCOPE=loads), which is in the first request.
"""

from __future__ import annotations

import statistics

from figures import drawing, growth, lab, original
from figures.experiment import Data, Part, Raws, Section


def _advise_ms(state: Data) -> list[float]:
    return [1000 * done["seconds"] for done in state["advises"] if done]


def _handler_ms(state: Data) -> list[float]:
    """Of each container: all of its requests."""
    return [1000 * sum(step["requests"]) for step in state["steps"]]


def share(state: Data) -> float | None:
    """Percent that advising is of advising and of the handler's time; None: no hook said."""
    advise, handler = sum(_advise_ms(state)), sum(_handler_ms(state))
    return 100 * advise / (advise + handler) if state["advises"] and advise else None


def _figures(model: str, data: Data) -> list[Part]:
    title, without = growth.MODELS[model], data["states"][lab.WITHOUT]
    upm = data["states"][lab.WITH]
    advise = [
        (number + 1, 1000 * done["seconds"]) for number, done in enumerate(upm["advises"]) if done
    ]
    curves = [drawing.curve("ours, while idle", advise, drawing.WITH)]
    first, later = original.of(model)["advise_ms"]
    theirs = [(1.0, first), *((n, later) for n in (2.0, float(growth.MOST)))]
    curves.append(drawing.curve("original, in a request", theirs, drawing.ORIGINAL, drawing.DASHED))
    firsts = [
        drawing.curve(
            words, [(step["n"], 1000 * step["requests"][0]) for step in state["steps"]], color
        )
        for words, state, color in (
            (lab.WITHOUT, without, drawing.WITHOUT),
            (lab.WITH, upm, drawing.WITH),
        )
    ]
    return [
        drawing.lines(
            f"fig8-advise-{model}", f"Advise: {title}", "container", "in all", curves, "ms"
        ),
        drawing.lines(
            f"fig8-first-{model}", f"First request: {title}", "container", "", firsts, "ms"
        ),
    ]


def _rows(model: str, data: Data) -> list[list[str]]:
    rows = []
    for state, found in data["states"].items():
        requests = [step["requests"] for step in found["steps"]]
        later_ones = [1000 * each for request in requests for each in request[1:]]
        advise, part = _advise_ms(found), share(found)
        rows.append(
            [
                f"{growth.MODELS[model]}, {state}",
                f"{advise[0]:.0f}" if advise else "-",
                f"{statistics.median(advise[1:]):.0f}" if advise[1:] else "-",
                f"{1000 * statistics.median(request[0] for request in requests):.0f}",
                f"{statistics.median(later_ones):.1f}",
                "-" if part is None else f"{part:.1f} %",
            ]
        )
    theirs = original.of(model)
    first, later_ms = theirs["advise_ms"]
    cells = [str(first), str(later_ms), "-", "-", f"{theirs['handler_share_percent']} %"]
    rows.append([f"{growth.MODELS[model]}, original", *cells])
    return rows


def parts(raws: Raws) -> list[Part]:
    """Two figures for each model, and a table."""
    made: list[Part] = []
    rows = []
    for model, data in growth.by_model(raws).items():
        made += _figures(model, data)
        rows += _rows(model, data)
    columns = ["ms", "advise, first", "later", "first request", "later ones", "share of time"]
    made.append(drawing.table(columns, rows))
    made.append(
        {
            "paragraph": f"Medians. Advise: what the hook says it took, in all of its passes. "
            f"Share: of the time of {lab.REQUESTS} requests and of advising; ours is spent while "
            "the function is idle, the original's within its first request."
        }
    )
    return made


SECTION = Section("fig8", "Fig. 8: time by container", tuple(growth.EXPERIMENTS.values()), parts)
