# SPDX-License-Identifier: MIT
"""The demo's phases: N containers without UPM, then with it, then with equal layouts."""

from __future__ import annotations

import contextlib
import os
import re
import statistics
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from faas import cgroups, latency, measure, merging
from faas.containers import Container, Host
from faas.session import MIB, PSS_REPORT, Session

Adapt = Callable[[merging.Way], merging.Way]
LAYOUTS: dict[str, tuple[str, Adapt]] = {
    "keyed": ("with UPM, keyed", merging.Way.with_keyed_layout),
    "fixed": ("with UPM, no ASLR", merging.Way.with_fixed_layout),
}
# What libupm-preload.so says at a program's end, with UPM_VERBOSE.
SAID = re.compile(
    r"upm\[\d+\]: backend (?P<backend>\w+); .* in (?P<seconds>[\d.]+) s: (?P<merged>[\d.]+) MiB "
    r"merged, (?P<inserted>[\d.]+) new, (?P<zero>[\d.]+) zero, .*trimmed (?P<trimmed>[\d.]+) MiB"
)


@dataclass(frozen=True)
class Advise:
    """What the hook of one container did, from what it said at the end."""

    seconds: float
    merged: float
    """MiB, as the next ones."""
    inserted: float
    zero: float
    trimmed: float


@dataclass
class Phase:
    """The containers in one state, and what was found."""

    name: str
    first: list[float] = field(default_factory=list)
    """Seconds of each container's first request, several at a time."""
    warm: list[float] = field(default_factory=list)
    """Seconds of the later ones."""
    answers: set[str] = field(default_factory=set)
    usages: list[measure.Usage] = field(default_factory=list)
    counted: int | None = None
    """Bytes of the control group of all containers and the broker; None: there is none."""
    estimate: measure.Estimate = field(default_factory=lambda: measure.Estimate(0))
    """What merging could (still) save."""
    recording: str = ""
    """Of pss-report, below the directory of results."""
    after_kill: dict[str, float] = field(default_factory=dict)
    advises: list[Advise] = field(default_factory=list)
    merging_over: bool = True
    """Whether merging was over when memory was measured."""

    def mean(self, kind: str) -> float:
        """MiB per container: rss, pss, uss or saved."""
        return statistics.fmean(getattr(usage, kind) for usage in self.usages) / MIB


def parse_advise(lines: list[str]) -> Advise | None:
    """What the hook said last; None: it said nothing."""
    for line in reversed(lines):
        if found := SAID.search(line):
            names = ("seconds", "merged", "inserted", "zero", "trimmed")
            return Advise(*(float(found[name]) for name in names))
    return None


class Demo:
    """The run."""

    def __init__(self, session: Session) -> None:
        """Nothing is started yet."""
        self.session = session
        self.phases: list[Phase] = []
        self.latency: latency.Comparison | None = None
        self.kind = ""
        self.way = ""

    def run(self) -> None:
        """All phases."""
        session, plan = self.session, self.session.plan
        with contextlib.ExitStack() as stack:
            way = merging.open_way(plan.backend, stack)
            self.way = str(way)
            host = stack.enter_context(session.host())
            self.kind = host.kind
            session.say(f"{plan.n} x {session.function.name} ({plan.model}): {host.kind}")
            session.say(f"with UPM will be: {way}")
            self._warm_up(host)
            self._phase(host, Phase("without UPM"), None)
            self._phase(host, Phase("with UPM"), merging.Way.as_it_is)
            for layout in plan.layouts:
                if layout == "keyed" and way.agent:
                    session.say("no keyed layout: that is the hook's work, and there is none")
                else:
                    name, adapt = LAYOUTS[layout]
                    self._phase(host, Phase(name), adapt)
            if plan.pairs:
                session.say(f"latency: {plan.pairs} containers without and with UPM, in turns")
                self.latency = latency.compare(session, host, way)

    def _warm_up(self, host: Host) -> None:
        """Has the files of the image read, so that no phase reads or pays for them."""
        session = self.session
        for number in range(session.plan.n if session.plan.copies else 1):
            container = host.create(f"c{number + 1}")
            session.start(host, container, None)
            took = session.ask(container, set())
            session.say(f"the files of image {number + 1} are read; first request {took:.2f} s")
            host.remove(container)

    def _phase(self, host: Host, phase: Phase, adapt: Adapt | None) -> None:
        """One phase, with UPM if there is an `adapt`: by a broker of its own, adapted so."""
        session = self.session
        with contextlib.ExitStack() as stack:
            group = stack.enter_context(host.within(str(len(self.phases) + 1)))
            way = None
            if adapt is not None:
                way = adapt(merging.open_way(session.plan.backend, stack, group))
            made = self._start(host, phase, way)
            pids = [container.pid for container in made]
            if way is not None:
                session.say("all served a request; waiting until all is merged")
                way.advise(pids)
                session.wait_until_merged(pids)
            for _ in range(session.plan.warm):
                for container in made:
                    phase.warm.append(session.ask(container, phase.answers))
            if way is not None:
                phase.merging_over = session.wait_until_merged(pids)
            self._measure(phase, pids, group)
            if way is not None and len(made) > 2:
                self._kill_first(made, phase)
            self._end(host, made, phase)
        self.phases.append(phase)

    def _start(self, host: Host, phase: Phase, way: merging.Way | None) -> list[Container]:
        session, count = self.session, self.session.plan.n
        session.say(f"{phase.name}: starting {count} containers, {os.cpu_count()} at a time")
        made = [host.create(f"c{i + 1}") for i in range(count)]

        def begin(container: Container) -> None:
            session.start(host, container, way)
            phase.first.append(session.ask(container, phase.answers))
            session.say(f"{container.name}: first request {phase.first[-1]:.2f} s")

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            list(pool.map(begin, made))
        return made

    def _measure(self, phase: Phase, pids: list[int], group: str) -> None:
        session = self.session
        phase.recording = f"recordings/{len(self.phases) + 1}.json"
        path = session.plan.out / phase.recording
        phase.usages = measure.record(PSS_REPORT, pids, path, phase.name)
        phase.counted = cgroups.memory(group)
        session.say(f"{phase.name}: PSS {phase.mean('pss'):.1f} MiB per container")
        phase.estimate = measure.estimate(PSS_REPORT, pids)
        more = phase.estimate.saving / MIB
        session.say(f"{phase.name}: perfect merging would save {more:.0f} MiB more")

    def _kill_first(self, made: list[Container], phase: Phase) -> None:
        """The first container, which brought the shared content, goes; the rest share on."""
        session, rest = self.session, made[1:]
        pids = [container.pid for container in rest]
        before = measure.take(PSS_REPORT, pids)
        made[0].kill()
        for container in rest:
            session.ask(container, phase.answers)
        after = measure.take(PSS_REPORT, pids)
        uss = [sum(usage.uss for usage in usages) / MIB for usages in (before, after)]
        phase.after_kill = {"uss_before": uss[0], "uss_after": uss[1]}
        session.say(f"killed {made[0].name}: USS of the others {uss[0]:.0f} -> {uss[1]:.0f} MiB")

    def _end(self, host: Host, made: list[Container], phase: Phase) -> None:
        def end(container: Container) -> Advise | None:
            container.stop()
            log = container.log
            lines = log.read_text(errors="replace").splitlines() if log.exists() else []
            host.remove(container)
            return parse_advise(lines)

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            phase.advises = [done for done in pool.map(end, made) if done]


def same_answers(demo: Demo) -> bool:
    """Whether all containers of all phases answered alike."""
    answers: set[Any] = set().union(*(phase.answers for phase in demo.phases))
    if demo.latency is not None:
        answers |= demo.latency.answers
    return len(answers) == 1
