# SPDX-License-Identifier: MIT
"""How many containers fit: counted within a limit, and extrapolated to the whole machine.

Not in the paper, which extrapolates. Containers start one after another until the memory of
all of them was above the limit, be it for a moment: sampled each 10 ms, so what a container
takes before it is merged counts. The limit is watched, not set, so that nothing is killed.
"""

from __future__ import annotations

from figures import drawing, lab
from figures.experiment import Data, Experiment, Found, Part, Raws, Section, Settings
from figures.fig5_pss import COLORS

LIMIT = 3 * drawing.GIB
MOST = 64  # containers
FORM = {
    "limit": int,
    "available": int,
    "states": {"*": {"steps": [{"n": int, "peak": int, "counted": int}], "reached": bool}},
}


def _available() -> int:
    with open("/proc/meminfo", encoding="ascii") as file:  # noqa: PTH123
        for line in file:
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    raise OSError("/proc/meminfo has no MemAvailable")


def _fill(room: lab.Room, limit: int, most: int) -> Data:
    steps: list[Data] = []
    while len(steps) < most:
        with lab.Sampler(room.group) as sampler:
            room.start()
            room.merge()
        steps.append({"n": len(steps) + 1, "peak": sampler.peak(), "counted": room.counted()})
        if sampler.peak() > limit:
            return {"steps": steps, "reached": True}
    return {"steps": steps, "reached": False}


def measure(settings: Settings) -> Found:
    """AlexNet."""
    session = lab.session(settings, "alexnet")
    limit, most = settings.choose((LIMIT, MOST), (LIMIT, 2))
    states = {}
    with lab.house(session) as host:
        lab.need_containers(host, "memory is that of control groups")
        available = _available()
        for state in (lab.WITHOUT, lab.WITH):
            with lab.room(session, host, state) as room:
                states[state] = _fill(room, limit, most)
            settings.say(f"{state}: {fitting(states[state], limit)} fit")
        data = {"limit": limit, "available": available, "states": states}
        return Found(data, lab.about(session, host))


EXPERIMENT = Experiment("density", measure, FORM)


def fitting(state: Data, limit: int) -> int:
    """Containers with which memory was never above the limit."""
    return sum(step["peak"] <= limit for step in state["steps"])


def extrapolated(state: Data, memory: int) -> int | None:
    """As many for that much memory: the peak goes on as from the second container to the last."""
    steps = state["steps"][1:] if len(state["steps"]) > 2 else state["steps"]
    if len(steps) < 2:
        return None
    slope = (steps[-1]["peak"] - steps[0]["peak"]) / (steps[-1]["n"] - steps[0]["n"])
    return int(steps[0]["n"] + (memory - steps[0]["peak"]) / slope) if slope > 0 else None


def parts(raws: Raws) -> list[Part]:
    """A figure and a table."""
    data = raws[EXPERIMENT.name]["data"]
    curves, rows = [], []
    for state, found in data["states"].items():
        points = [(step["n"], step["peak"]) for step in found["steps"]]
        curves.append(drawing.curve(state, points, COLORS[state]))
        count = fitting(found, data["limit"])
        more = extrapolated(found, data["available"])
        counted = str(count) if found["reached"] else f"{count} or more"
        rows.append([state, counted, "-" if more is None else f"about {more}"])
    limit, available = (f"{data[name] / drawing.GIB:.1f} GiB" for name in ("limit", "available"))
    text = f"Counted: containers with which memory was not above {limit} for a moment, nothing "
    text += f"being killed. Extrapolated, not tried: to {available}, which was available, by the "
    text += "slope of that peak."
    columns = ["containers", "within the limit, counted", "in what was free, extrapolated"]
    return [
        drawing.lines("density", "Peak of memory by containers", "containers", "in all", curves),
        drawing.table(columns, rows),
        {"paragraph": text},
    ]


SECTION = Section("density", "Until memory is full", (EXPERIMENT,), parts)
