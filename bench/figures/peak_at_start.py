# SPDX-License-Identifier: MIT
"""Peak of memory while 16 containers start at once; sampled each 10 ms.

Not in the paper. What is merged after it was allocated was there for a moment, and a
machine that is too small for that moment kills containers.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from figures import drawing, lab
from figures.experiment import Experiment, Found, Part, Raws, Section, Settings
from figures.fig5_pss import COLORS

CONTAINERS = 16
SHOWN = 300  # points of a curve
FORM = {
    "states": {
        "*": {
            "ready_seconds": float,
            "merging_over": bool,
            "end": int,
            "seconds": [float],
            "bytes": [int],
        }
    }
}


def measure(settings: Settings) -> Found:
    """AlexNet, all at once; each answers a request when it is ready."""
    n = settings.choose(CONTAINERS, 2)
    session = lab.session(settings, "alexnet")
    states = {}
    with lab.house(session) as host:
        lab.need_containers(host, "memory is that of control groups")
        for state in (lab.WITHOUT, lab.WITH):
            settings.say(f"{state}: {n} containers at once")
            with lab.room(session, host, state) as room:
                with lab.Sampler(room.group) as sampler:
                    with ThreadPoolExecutor(n) as pool:
                        list(pool.map(lambda _: room.start(), range(n)))
                    ready = sampler.samples[-1][0]
                    over = room.merge()
                states[state] = {
                    "ready_seconds": ready,
                    "merging_over": over,
                    "end": room.counted(),
                    "seconds": [round(at, 3) for at, _ in sampler.samples],
                    "bytes": [bytes_ for _, bytes_ in sampler.samples],
                }
        return Found({"states": states}, lab.about(session, host, n=n, tick_seconds=lab.TICK))


EXPERIMENT = Experiment("peak-at-start", measure, FORM)


def thinned(seconds: list[float], values: list[int]) -> list[tuple[float, int]]:
    """At most SHOWN points: of each stretch the one with the most memory."""
    step = -(-len(values) // SHOWN)
    stretches = (range(i, min(i + step, len(values))) for i in range(0, len(values), step))
    return [(seconds[i], values[i]) for i in (max(s, key=values.__getitem__) for s in stretches)]


def parts(raws: Raws) -> list[Part]:
    """A figure and a table."""
    document = raws[EXPERIMENT.name]
    curves, rows = [], []
    for state, found in document["data"]["states"].items():
        points = thinned(found["seconds"], found["bytes"])
        curves.append(drawing.curve(state, points, COLORS[state]))
        peak = max(found["bytes"])
        cells = [drawing.mib(peak), drawing.mib(found["end"]), f"{peak / found['end']:.2f}"]
        rows.append([state, *cells, f"{found['ready_seconds']:.1f}"])
    n = document["about"]["n"]
    title = f"Memory while {n} containers start at once"
    columns = ["", "peak, MiB", "at the end, MiB", "peak / end", "all had answered after, s"]
    return [
        drawing.lines("peak", title, "seconds", "in all", curves),
        drawing.table(columns, rows),
    ]


SECTION = Section("peak", "Peak while many start at once", (EXPERIMENT,), parts)
