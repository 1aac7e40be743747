# SPDX-License-Identifier: MIT
"""The demo's phases: N containers without UPM, then with it, then with equal layouts."""

from __future__ import annotations

import contextlib
import json
import os
import re
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from faas import functions, latency, measure, merging, weights
from faas.containers import Container, Host

ROOT = Path(__file__).resolve().parents[2]
PSS_REPORT = ROOT / "build" / "bin" / "pss-report"
MIB = 1 << 20
START = 600.0  # seconds that a container may take until it is ready
SETTLE = 120.0  # seconds that merging may take after the last request
SAME = 0.002  # change of the sum of PSS in a second below which it stands still
STILL = 3  # seconds for which it does, and all hooks say that they are done
STILL_WITHOUT_HOOK = 10  # where nobody says so
STILL_AT_WORK = 60  # where a hook has yet to look again at memory that may have changed
PROGRESS = 10.0  # seconds between lines of progress
# What libupm-preload.so says at a program's end, with UPM_VERBOSE.
SAID = re.compile(
    r"upm\[\d+\]: backend (?P<backend>\w+); .* in (?P<seconds>[\d.]+) s: (?P<merged>[\d.]+) MiB "
    r"merged, (?P<inserted>[\d.]+) new, (?P<zero>[\d.]+) zero, .*trimmed (?P<trimmed>[\d.]+) MiB"
)

Say = Callable[[str], None]


@dataclass(frozen=True)
class Plan:
    """What is to be done."""

    n: int
    function: functions.Function
    model: str
    out: Path
    backend: str = "auto"
    containers: str = "auto"
    copies: bool = False
    """Whether each container has an image of its own."""
    warm: int = 3
    """Later requests to each container."""
    fixed_layout: bool = True
    """Whether there is a phase without address randomisation."""
    pairs: int = 0
    """Containers of each kind whose latencies are compared; 0: not at all."""
    patience: float = 1.0
    """Factor of all timeouts, for emulated machines."""


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
    """Seconds of each container's first request."""
    warm: list[float] = field(default_factory=list)
    """Seconds of the later ones."""
    answers: set[str] = field(default_factory=set)
    usages: list[measure.Usage] = field(default_factory=list)
    system: int = 0
    """Memory of the system in use, bytes, less what it was before the containers."""
    estimate: measure.Estimate = field(default_factory=lambda: measure.Estimate(0))
    """What merging could (still) save."""
    recording: str = ""
    """Of pss-report, below the directory of results."""
    after_kill: dict[str, float] = field(default_factory=dict)
    advises: list[Advise] = field(default_factory=list)
    settled: bool = True
    """Whether merging was over when memory was measured."""

    def mean(self, kind: str) -> float:
        """MiB per container: rss, pss or uss."""
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

    def __init__(self, plan: Plan, say: Say) -> None:
        """Nothing is started yet."""
        self.plan = plan
        self.function = plan.function
        self.event = self.function.make_input()
        self.phases: list[Phase] = []
        self.latency: latency.Comparison | None = None
        self.kind = ""
        self.way = ""
        self._say = say

    def run(self) -> None:
        """All phases."""
        plan = self.plan
        with contextlib.ExitStack() as stack:
            way = merging.open_way(plan.backend, stack)
            self.way = str(way)
            host = stack.enter_context(self.host())
            self.kind = host.kind
            self._say(f"{plan.n} x {self.function.name} ({plan.model}): {host.kind}")
            self._say(f"with UPM will be: {way}")
            self.phases.append(self._phase(host, Phase("without UPM"), None))
            self.phases.append(self._phase(host, Phase("with UPM"), way))
            if plan.fixed_layout:
                fixed = way.with_fixed_layout()
                self.phases.append(self._phase(host, Phase("with UPM, no ASLR"), fixed))
            if plan.pairs:
                self._say(f"latency: {plan.pairs} containers without and with UPM, in turns")
                self.latency = latency.compare(self, host, way)

    def start(self, host: Host, container: Container, way: merging.Way | None) -> None:
        """Starts the function in a container and waits until it takes requests."""
        environment = dict(way.environment) if way else {}
        if self.function.weights:
            environment["MODEL"] = self.plan.model
        prefix = way.prefix if way else []
        host.start(container, prefix, environment, way.binds if way else [])
        container.wait_ready(START * self.plan.patience)

    def ask(self, container: Container, answers: set[str]) -> float:
        """Seconds of a request."""
        start = time.monotonic()
        answer = container.client.ask(self.event)
        took = time.monotonic() - start
        answers.add(json.dumps(answer, sort_keys=True))
        return took

    def settle(self, pids: list[int]) -> bool:
        """Until the hooks say that they are done, and PSS stands still; False: it never did."""
        began, still, done_for, said, last = time.monotonic(), 0, 0, 0.0, 0
        while True:
            time.sleep(1)
            now = measure.take(PSS_REPORT, pids).pss()
            at_work, done = merging.hooks(pids)
            still = still + 1 if abs(now - last) <= SAME * max(now, 1) else 0
            done_for = min(still, done_for + 1) if at_work == 0 else 0
            last = now
            if done_for >= (STILL if done else STILL_WITHOUT_HOOK) or still >= STILL_AT_WORK:
                return True
            state = f"{at_work} of {len(pids)} hooks at work, PSS {now / len(pids) / MIB:.1f} MiB"
            waited = time.monotonic() - began
            if waited >= SETTLE * self.plan.patience:
                self._say(f"merging has NOT settled in {waited:.0f} s: {state}")
                return False
            if waited - said >= PROGRESS:
                self._say(f"merging: {state} per container")
                said = waited

    def host(self) -> Host:
        """What makes the containers."""
        plan, path = self.plan, None
        if self.function.weights:
            source = self.function.directory / "function.py"
            path = weights.prepare(plan.model, plan.out / "weights", source)
        programs = (merging.HOOK, merging.UPM) if merging.HOOK.exists() else ()
        images = plan.out / "images"
        return Host(self.function, path, images, plan.containers, plan.copies, programs)

    def _phase(self, host: Host, phase: Phase, way: merging.Way | None) -> Phase:
        count = self.plan.n
        self._say(f"{phase.name}: starting {count} containers, {os.cpu_count()} at a time")
        before = measure.take(PSS_REPORT, [os.getpid()]).system
        made = [host.create(f"c{i + 1}") for i in range(count)]

        def begin(container: Container) -> None:
            self.start(host, container, way)
            phase.first.append(self.ask(container, phase.answers))
            self._say(f"{container.name}: first request {phase.first[-1]:.2f} s")

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            list(pool.map(begin, made))
        pids = [container.pid for container in made]
        if way is not None:
            self._say("all served a request; waiting until merging has settled")
            way.advise(pids)
            self.settle(pids)
        for _ in range(self.plan.warm):
            for container in made:
                phase.warm.append(self.ask(container, phase.answers))
        if way is not None:
            phase.settled = self.settle(pids)
        self._measure(phase, pids, before)
        if way is not None and len(made) > 2:
            self._kill_first(made, phase)
        self._end(host, made, phase)
        return phase

    def _measure(self, phase: Phase, pids: list[int], before: int) -> None:
        sample = measure.take(PSS_REPORT, pids)
        phase.usages, phase.system = sample.usages, sample.system - before
        self._say(
            f"{phase.name}: PSS {phase.mean('pss'):.1f} MiB per container, "
            f"system {phase.system / MIB:.0f} MiB"
        )
        phase.recording = f"recordings/{len(self.phases) + 1}.json"
        measure.record(PSS_REPORT, pids, self.plan.out / phase.recording, phase.name)
        phase.estimate = measure.estimate(PSS_REPORT, pids)
        more = phase.estimate.saving / MIB
        self._say(f"{phase.name}: perfect merging would save {more:.0f} MiB more")

    def _kill_first(self, made: list[Container], phase: Phase) -> None:
        """The first container, which brought the shared content, goes; the rest share on."""
        rest = made[1:]
        pids = [container.pid for container in rest]
        before = measure.take(PSS_REPORT, pids)
        made[0].kill()
        for container in rest:
            self.ask(container, phase.answers)
        after = measure.take(PSS_REPORT, pids)
        uss = [sum(u.uss for u in sample.usages) / MIB for sample in (before, after)]
        phase.after_kill = {"uss_before": uss[0], "uss_after": uss[1]}
        self._say(f"killed {made[0].name}: USS of the others {uss[0]:.0f} -> {uss[1]:.0f} MiB")

    def _end(self, host: Host, made: list[Container], phase: Phase) -> None:
        for container in made:
            log = container.log
            container.stop()
            lines = log.read_text(errors="replace").splitlines() if log.exists() else []
            if done := parse_advise(lines):
                phase.advises.append(done)
            host.remove(container)


def same_answers(demo: Demo) -> bool:
    """Whether all containers of all phases answered alike."""
    answers: set[Any] = set().union(*(phase.answers for phase in demo.phases))
    if demo.latency is not None:
        answers |= demo.latency.answers
    return len(answers) == 1
