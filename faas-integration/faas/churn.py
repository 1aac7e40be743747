# SPDX-License-Identifier: MIT
"""Containers that come and go: whether what they share lasts.

N containers run. Again and again the oldest one ends and a new one takes its
place, so after N turns none is left of those that brought the shared content.
"""

from __future__ import annotations

import contextlib
import statistics
import time
from dataclasses import dataclass, field
from typing import Any

from faas import measure, merging
from faas.containers import Container, Host
from faas.session import MIB, PSS_REPORT, Session

WORSE = 1.05  # times the PSS of the beginning that the end may have
PART = 4  # the first and the last of so many parts are compared


@dataclass
class Churn:
    """What was found."""

    without: float = 0.0
    """PSS per container without UPM, MiB."""
    turns: list[dict[str, float]] = field(default_factory=list)
    """Of each turn: seconds since the first, containers started, PSS and USS in MiB."""
    answers: set[str] = field(default_factory=set)
    not_merged: int = 0
    """Turns in which merging was not over when memory was measured."""

    def ends(self) -> tuple[float, float]:
        """Medians of PSS in the first and in the last quarter of the turns, MiB."""
        values = [turn["pss"] for turn in self.turns]
        size = max(1, len(values) // PART)
        return statistics.median(values[:size]), statistics.median(values[-size:])

    def faults(self, n: int) -> list[str]:
        """What must not be."""
        first, last = self.ends()
        found = []
        if len(self.turns) < n:
            found.append(f"only {len(self.turns)} turns: some containers were never replaced")
        if last > WORSE * first:
            found.append(f"PSS per container grew from {first:.1f} to {last:.1f} MiB")
        if n > 1 and last >= self.without:
            found.append(f"nothing is saved: {self.without:.1f} -> {last:.1f} MiB")
        if len(self.answers) != 1:
            found.append("the answers are not the same")
        return found


def _mean(pids: list[int]) -> tuple[float, float]:
    usages = measure.take(PSS_REPORT, pids).usages
    means = [statistics.fmean(getattr(u, kind) for u in usages) / MIB for kind in ("pss", "uss")]
    return means[0], means[1]


class _Run:
    def __init__(self, session: Session, host: Host, way: merging.Way | None, found: Churn) -> None:
        self._session, self._host, self._way, self._found = session, host, way, found
        self._live: list[Container] = []
        self.started = 0

    def fill(self) -> None:
        while len(self._live) < self._session.plan.n:
            self.started += 1
            container = self._host.create(f"churn{self.started}")
            self._live.append(container)
            self._session.start(self._host, container, self._way)
            self._session.ask(container, self._found.answers)

    def replace_oldest(self) -> None:
        self._host.remove(self._live.pop(0))
        self.fill()

    def usage_when_merged(self) -> tuple[float, float]:
        pids = [container.pid for container in self._live]
        if self._way is not None:
            self._way.advise(pids)
            self._found.not_merged += not self._session.wait_until_merged(pids)
        for container in self._live:
            self._session.ask(container, self._found.answers)
        return _mean(pids)

    def end(self) -> None:
        while self._live:
            self._host.remove(self._live.pop())


def run(session: Session, seconds: float) -> tuple[Churn, dict[str, Any]]:
    """Churns for that long, and until each container was replaced once."""
    found, n = Churn(), session.plan.n
    with contextlib.ExitStack() as stack:
        way = merging.open_way(session.plan.backend, stack)
        host = stack.enter_context(session.host())
        session.say(f"{n} x {session.function.name}: {host.kind}; {way}")
        plain = _Run(session, host, None, found)
        plain.fill()
        found.without = plain.usage_when_merged()[0]
        plain.end()
        session.say(f"without UPM: PSS {found.without:.1f} MiB per container")
        churn = _Run(session, host, way, found)
        churn.fill()
        began = time.monotonic()
        while time.monotonic() - began < seconds or len(found.turns) <= n:
            pss, uss = churn.usage_when_merged()
            at = time.monotonic() - began
            turn = {"seconds": at, "started": churn.started, "pss": pss, "uss": uss}
            found.turns.append(turn)
            session.say(f"{churn.started} started: PSS {pss:.1f} MiB per container, USS {uss:.1f}")
            churn.replace_oldest()
        churn.end()
        about = {"containers": host.kind, "upm": str(way)}
    return found, about
