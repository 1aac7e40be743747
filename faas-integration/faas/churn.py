# SPDX-License-Identifier: MIT
"""Containers that come and go: whether what they share lasts.

N containers run. Again and again the oldest one ends and a new one takes its
place, so after N turns none is left of those that brought the shared content.
Meanwhile others are frozen, as platforms freeze functions between requests: a
random half while the new one starts, then the new one while it merges.
"""

from __future__ import annotations

import contextlib
import random
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from faas import cgroups, measure, merging
from faas.containers import Container, Host
from faas.session import MIB, PSS_REPORT, Session

WORSE = 1.05  # times the memory of the beginning that the end may have
FREEZE = 2.0  # seconds that a new container is frozen while it merges
BEFORE_FREEZE = 1.0  # seconds at most, after its first request
SEED = 20231113
PART = 4  # the first and the last of so many parts are compared


@dataclass
class Churn:
    """What was found."""

    without: float = 0.0
    """As the turns' "own", without UPM."""
    turns: list[dict[str, float]] = field(default_factory=list)
    """Of each turn: seconds since the first, containers started; per container in MiB: PSS,
    USS, and "own", PSS without files, which programs outside of the containers do not change.
    """
    answers: set[str] = field(default_factory=set)
    frozen: int = 0
    """Times that a container was frozen and went on."""
    not_merged: int = 0
    """Turns in which merging was not over when memory was measured."""

    def ends(self) -> tuple[float, float]:
        """Medians of "own" in the first and in the last quarter of the turns, MiB."""
        values = [turn["own"] for turn in self.turns]
        size = max(1, len(values) // PART)
        return statistics.median(values[:size]), statistics.median(values[-size:])

    def faults(self, n: int) -> list[str]:
        """What must not be."""
        first, last = self.ends()
        found = []
        if len(self.turns) < n:
            found.append(f"only {len(self.turns)} turns: some containers were never replaced")
        if last > WORSE * first:
            found.append(f"memory per container grew from {first:.1f} to {last:.1f} MiB")
        if n > 1 and last >= self.without:
            found.append(f"nothing is saved: {self.without:.1f} -> {last:.1f} MiB")
        if len(self.answers) != 1:
            found.append("the answers are not the same")
        return found


def _means(pids: list[int]) -> dict[str, float]:
    usages = measure.take(PSS_REPORT, pids)
    kinds = ("pss", "uss", "own")
    return {kind: statistics.fmean(getattr(u, kind) for u in usages) / MIB for kind in kinds}


class _Run:
    def __init__(self, session: Session, host: Host, way: merging.Way | None, found: Churn) -> None:
        self._session, self._host, self._way, self._found = session, host, way, found
        self._live: list[Container] = []
        self._chance = random.Random(SEED)
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
        with self._frozen(self._chance.sample(self._live, (len(self._live) + 1) // 2)):
            self.fill()
        time.sleep(self._chance.uniform(0, BEFORE_FREEZE))
        with self._frozen(self._live[-1:]):
            time.sleep(FREEZE)

    @contextlib.contextmanager
    def _frozen(self, chosen: list[Container]) -> Iterator[None]:
        """These do not run meanwhile; plain processes, which have no group, do."""
        groups = [container.group for container in chosen if container.group]
        with contextlib.ExitStack() as stack:
            for group in groups:
                stack.callback(cgroups.freeze, group, frozen=False)
                cgroups.freeze(group, frozen=True)
            self._found.frozen += len(groups)
            yield

    def usage_when_merged(self) -> dict[str, float]:
        pids = [container.pid for container in self._live]
        if self._way is not None:
            self._way.advise(pids)
            self._found.not_merged += not self._session.wait_until_merged(pids)
        for container in self._live:
            self._session.ask(container, self._found.answers)
        return _means(pids)

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
        found.without = plain.usage_when_merged()["own"]
        plain.end()
        session.say(f"without UPM: {found.without:.1f} MiB per container without files")
        churn = _Run(session, host, way, found)
        churn.fill()
        began = time.monotonic()
        while time.monotonic() - began < seconds or len(found.turns) <= n:
            usage = churn.usage_when_merged()
            at = time.monotonic() - began
            found.turns.append({"seconds": at, "started": churn.started, **usage})
            words = f"{usage['pss']:.1f} MiB per container, without files {usage['own']:.1f}"
            session.say(f"{churn.started} started: PSS {words}")
            churn.replace_oldest()
        churn.end()
        about = {"containers": host.kind, "upm": str(way)}
    return found, about
