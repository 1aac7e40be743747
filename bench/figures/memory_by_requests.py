# SPDX-License-Identifier: MIT
"""Memory against the number of requests: whether what is shared stays shared."""

from __future__ import annotations

from figures import drawing, growth, lab
from figures.experiment import Data, Experiment, Found, Part, Raws, Section, Settings
from figures.fig5_pss import COLORS

CONTAINERS = 4
COUNTS = (1, 2, 5, 10, 20, 50)
FORM = {
    "states": {
        "*": [
            {
                "requests": int,
                "merging_over": bool,
                "usages": [growth.USAGE],
                "counted": (int, None),
            }
        ]
    }
}


def measure(settings: Settings) -> Found:
    """Memory of AlexNet's containers after so many requests to each, when merging is over."""
    session = lab.session(settings, "alexnet")
    containers, counts = settings.choose((CONTAINERS, COUNTS), (2, COUNTS[:2]))
    states: dict[str, list[Data]] = {}
    with lab.house(session) as host:
        for state in (lab.WITHOUT, lab.WITH):
            with lab.room(session, host, state) as room:
                for _ in range(containers):
                    room.start()
                states[state], done = [], 1
                for count in counts:
                    for container in room.containers:
                        for _ in range(count - done):
                            room.ask(container)
                    done = count
                    over = room.merge()
                    found = {"requests": count, "merging_over": over, "usages": room.usages()}
                    states[state].append({**found, "counted": room.counted()})
                    settings.say(f"{state}: {count} requests")
        return Found({"states": states}, lab.about(session, host, n=containers))


EXPERIMENT = Experiment("memory-by-requests", measure, FORM)


def parts(raws: Raws) -> list[Part]:
    """A figure and a table."""
    document = raws[EXPERIMENT.name]
    curves, rows = [], []
    for state, found in document["data"]["states"].items():
        points = [(each["requests"], lab.mean(each["usages"], "pss")) for each in found]
        curves.append(drawing.curve(state, points, COLORS[state]))
        rows.append([state, *(drawing.mib(pss) for _, pss in points)])
    counts = [str(requests) for requests, _ in curves[0]["points"]]
    n = document["about"]["n"]
    title = f"PSS of {n} containers by requests to each"
    return [
        drawing.lines("requests", title, "requests", "each", curves),
        drawing.table(["PSS per container, MiB, after requests", *counts], rows),
    ]


SECTION = Section("requests", "Memory by number of requests", (EXPERIMENT,), parts)
