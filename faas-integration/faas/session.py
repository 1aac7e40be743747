# SPDX-License-Identifier: MIT
"""What all measurements do with a container: start it, ask it, wait until all is merged.

phases, latency and churn are built on this, and it knows none of them.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from faas import functions, measure, merging, weights
from faas.containers import Container, Host

ROOT = Path(__file__).resolve().parents[2]
PSS_REPORT = ROOT / "build" / "bin" / "pss-report"
MIB = 1 << 20
START = 600.0  # seconds that a container may take until it is ready
LONGEST_MERGING = 120.0  # seconds that merging may take after the last request
SAME = 0.002  # change of the sum of memory in a second below which it stands still
STILL = 3  # seconds for which it does, and all hooks say that they are done
STILL_WITHOUT_HOOK = 10  # where nobody says so
STILL_AT_WORK = 60  # where a hook has yet to look again at memory that may have changed
PROGRESS = 10.0  # seconds between lines of progress

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
    layouts: tuple[str, ...] = ("keyed",)
    """Layouts besides the usual one, with a phase for each: keyed, fixed."""
    pairs: int = 0
    """Containers of each kind whose latencies are compared; 0: not at all."""
    patience: float = 1.0
    """Factor of all timeouts, for emulated machines."""


class Session:
    """One function, and how its containers are run."""

    def __init__(self, plan: Plan, say: Say) -> None:
        """Nothing is started yet."""
        self.plan = plan
        self.function = plan.function
        self.event = self.function.make_input()
        self.say = say

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

    def wait_until_merged(self, pids: list[int]) -> bool:
        """Until the hooks are done, and PSS without files stands still; False: it never did."""
        began, still, done_for, said, last = time.monotonic(), 0, 0, 0.0, 0
        while True:
            time.sleep(1)
            now = sum(usage.own for usage in measure.take(PSS_REPORT, pids))
            at_work, done = merging.hooks(pids)
            still = still + 1 if abs(now - last) <= SAME * max(now, 1) else 0
            done_for = min(still, done_for + 1) if at_work == 0 else 0
            last = now
            if done_for >= (STILL if done else STILL_WITHOUT_HOOK) or still >= STILL_AT_WORK:
                return True
            state = f"{at_work} of {len(pids)} hooks at work, {now / len(pids) / MIB:.1f} MiB"
            waited = time.monotonic() - began
            if waited >= LONGEST_MERGING * self.plan.patience:
                self.say(f"merging was NOT over after {waited:.0f} s: {state}")
                return False
            if waited - said >= PROGRESS:
                self.say(f"merging: {state} per container without files")
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
