# SPDX-License-Identifier: MIT
"""Latency without and with UPM, of containers that are asked in turns.

Other work on the machine comes and goes in seconds, so what is compared was
measured one right after the other, in alternating order, and of the ratios the
median is taken.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field

from faas.containers import Container, Host
from faas.merging import Way
from faas.session import Session

ROUNDS = 40  # of warm requests
SHORTEST = 12
LONGEST = 120.0  # seconds of all rounds, after the shortest number of them


@dataclass
class Comparison:
    """Seconds of requests, in pairs (without UPM, with it)."""

    first: list[tuple[float, float]] = field(default_factory=list)
    """Of each container's first one, which loads the model."""
    warm: list[tuple[float, float]] = field(default_factory=list)
    answers: set[str] = field(default_factory=set)

    @staticmethod
    def change(pairs: list[tuple[float, float]]) -> tuple[float, float]:
        """Percent by which UPM makes it slower: median of the pairs, and its standard error."""
        ratios = [100 * (after / before - 1) for before, after in pairs]
        if len(ratios) < 2:
            return (ratios[0] if ratios else 0.0), 0.0
        middle = statistics.median(ratios)
        # Of a median: 1.2533 times that of a mean; spread from the absolute deviation.
        spread = 1.4826 * statistics.median(abs(ratio - middle) for ratio in ratios)
        return middle, 1.2533 * float(spread) / len(ratios) ** 0.5


def compare(session: Session, host: Host, way: Way) -> Comparison:
    """Starts plan.pairs containers of each kind, has them merge, and asks in turns."""
    found = Comparison()
    kinds: tuple[Way | None, Way] = (None, way)
    made: list[list[Container]] = [[], []]
    for number in range(session.plan.pairs):
        took = [0.0, 0.0]
        for i in (0, 1) if number % 2 == 0 else (1, 0):
            container = host.create(f"l{number + 1}-{i}")
            made[i].append(container)
            session.start(host, container, kinds[i])
            took[i] = session.ask(container, found.answers)
        found.first.append((took[0], took[1]))
    pids = [container.pid for container in made[1]]
    way.advise(pids)
    session.wait_until_merged(pids)
    _rounds(session, made, found)
    for container in made[0] + made[1]:
        host.remove(container)
    return found


def _rounds(session: Session, made: list[list[Container]], found: Comparison) -> None:
    for container in made[0] + made[1]:
        session.ask(container, found.answers)  # after merging, once: what it breaks is broken
    spent = 0.0
    for number in range(ROUNDS):
        for pair in zip(*made, strict=True):
            took = [0.0, 0.0]
            for i in (0, 1) if number % 2 == 0 else (1, 0):
                took[i] = session.ask(pair[i], found.answers)
            found.warm.append((took[0], took[1]))
            spent += sum(took)
        if number + 1 >= SHORTEST and spent > LONGEST:
            return
