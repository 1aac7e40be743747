# SPDX-License-Identifier: MIT
"""A neighbour's requests while others start and merge: median, p95, p99 and the longest.

Not in the paper. A container that has merged answers requests all the time. Meanwhile
others start, one after another, without UPM or with it; each answers a request, has its
time to merge, and goes.
"""

from __future__ import annotations

import threading
import time

from faas import merging

from figures import drawing, lab
from figures.experiment import Data, Experiment, Found, Part, Raws, Section, Settings

SECONDS = 60.0  # of each case
IDLE = 2.0  # seconds that another container stays after its request
LOOK = 0.02  # seconds between looks at its hook
ALONE, PLAIN, MERGING = "alone", "others start without UPM", "others start and merge"
PHASES = ("alone", "starting", "after")
FORM = {
    "cases": {"*": [{"phase": str, "seconds": float}]},
    "merging_seconds": [float],
}


class _Others:
    """Containers that come and go in a thread; says what they are at."""

    def __init__(self, room: lab.Room, way: merging.Way | None, seconds: float) -> None:
        self.phase = "starting"
        self.merging: list[float] = []
        self._room, self._way = room, way
        self._end = time.monotonic() + seconds
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def _run(self) -> None:
        number = 0
        while time.monotonic() < self._end:
            number += 1
            self.phase = "starting"
            container = self._room.host.create(f"other{number}")
            try:
                self._room.session.start(self._room.host, container, self._way)
                self._room.ask(container)
                self.phase = "after"
                self._watch(container.pid)
            finally:
                self._room.host.remove(container)

    def _watch(self, pid: int) -> None:
        """For IDLE seconds; how long its hook was at work."""
        began = last = time.monotonic()
        while (now := time.monotonic()) - began < IDLE:
            if merging.hooks([pid])[0]:
                last = now
            time.sleep(LOOK)
        if self._way is not None:
            self.merging.append(last - began)


def _case(room: lab.Room, others: _Others | None, seconds: float) -> list[Data]:
    found: list[Data] = []
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        phase = others.phase if others else PHASES[0]
        found.append({"phase": phase, "seconds": room.ask(room.containers[0])})
    return found


def measure(settings: Settings) -> Found:
    """AlexNet in the neighbour and in the others."""
    session = lab.session(settings, "alexnet")
    seconds = settings.choose(SECONDS, 6.0)
    cases = {}
    with lab.house(session) as host, lab.room(session, host, lab.WITH) as room:
        room.start(lab.REQUESTS)
        room.merge()
        merging_seconds: list[float] = []
        settings.say(f"the neighbour alone, {seconds:.0f} s")
        cases[ALONE] = _case(room, None, seconds)
        for name, way in ((PLAIN, None), (MERGING, room.way)):
            settings.say(f"{name}, {seconds:.0f} s")
            others = _Others(room, way, seconds)
            cases[name] = _case(room, others, seconds)
            others.thread.join()
            merging_seconds += others.merging
        data = {"cases": cases, "merging_seconds": merging_seconds}
        return Found(data, lab.about(session, host, idle_seconds=IDLE))


EXPERIMENT = Experiment("neighbours-p99", measure, FORM)


def parts(raws: Raws) -> list[Part]:
    """A figure and a table."""
    data = raws[EXPERIMENT.name]["data"]
    quantiles = ("median", "p95", "p99", "longest")
    series, rows = [], []
    colors = (drawing.WITHOUT, drawing.THIRD, drawing.WITH)
    for color, (case, requests) in zip(colors, data["cases"].items(), strict=True):
        times = drawing.spread([1000 * each["seconds"] for each in requests])
        series.append((case, color, times))
        for phase in PHASES:
            some = [1000 * each["seconds"] for each in requests if each["phase"] == phase]
            if some:
                cells = [f"{value:.1f}" for value in drawing.spread(some)]
                rows.append([f"{case}: {phase}", str(len(some)), *cells])
    took = drawing.spread([1000 * each for each in data["merging_seconds"]])
    text = "Starting: until the other one's first request is answered, which takes a processor "
    text += "whether it merges or not. After: the others are idle, and merge if they have UPM; "
    text += f"their hooks were at work for {took[0]:.0f} ms (median; longest {took[-1]:.0f} ms)."
    return [
        drawing.bars("neighbours", "Requests of a neighbour", "", quantiles, series, "ms"),
        drawing.table(["ms", "requests", *quantiles], rows),
        {"paragraph": text},
    ]


SECTION = Section("neighbours", "A neighbour's requests meanwhile", (EXPERIMENT,), parts)
