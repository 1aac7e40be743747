# SPDX-License-Identifier: MIT
"""Cold starts: from the start of a container to its first answer, without UPM and with it.

Not in the paper. One container with UPM is there all the time, as where a function is in use
already; the others come in pairs, one without UPM and one with it, in alternating order, and
go once they have answered. The image's files are in the page cache.
"""

from __future__ import annotations

import statistics
import time

from figures import drawing, lab
from figures.experiment import Experiment, Found, Part, Raws, Section, Settings

PAIRS = 24
FORM = {"pairs": [{"without": float, "with": float}], "same_answers": bool}


def _start(room: lab.Room, hooked: bool) -> float:
    """Seconds until another container has answered; it is gone then."""
    container = room.host.create("cold")
    try:
        began = time.monotonic()
        room.session.start(room.host, container, room.way if hooked else None)
        room.ask(container)
        return time.monotonic() - began
    finally:
        room.host.remove(container)


def measure(settings: Settings) -> Found:
    """AlexNet."""
    pairs = settings.choose(PAIRS, 1)
    session = lab.session(settings, "alexnet")
    found = []
    with lab.house(session) as host, lab.room(session, host, lab.WITH) as room:
        room.start()
        room.merge()
        for number in range(pairs):
            took = {}
            for hooked in (False, True) if number % 2 == 0 else (True, False):
                took[hooked] = _start(room, hooked)
            found.append({"without": took[False], "with": took[True]})
            settings.say(f"pair {number + 1}: {took[False]:.2f} s without, {took[True]:.2f} with")
        data = {"pairs": found, "same_answers": len(room.answers) == 1}
        return Found(data, lab.about(session, host, pairs=pairs))


EXPERIMENT = Experiment("cold-start", measure, FORM)


def parts(raws: Raws) -> list[Part]:
    """A table."""
    data = raws[EXPERIMENT.name]["data"]
    rows = []
    for state in ("without", "with"):
        times = drawing.spread([1000 * pair[state] for pair in data["pairs"]], (0.25, 0.5, 0.75))
        rows.append([f"{state} UPM", *(f"{each:.0f}" for each in times)])
    ratios = [100 * (pair["with"] / pair["without"] - 1) for pair in data["pairs"]]
    faster = sum(ratio < 0 for ratio in ratios)
    text = f"With UPM a start takes {statistics.median(ratios):+.1f} % longer (median of "
    text += f"{len(ratios)} pairs; in {faster} of them it was the faster one)."
    if not data["same_answers"]:
        text += " The answers were NOT all the same."
    return [drawing.table(["ms", "25 %", "median", "75 %"], rows), {"paragraph": text}]


SECTION = Section("cold", "Cold starts", (EXPERIMENT,), parts)
