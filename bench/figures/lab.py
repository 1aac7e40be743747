# SPDX-License-Identifier: MIT
"""Containers for experiments, by the demo's own code: in a state, in a control group."""

from __future__ import annotations

import contextlib
import statistics
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from faas import cgroups, functions, measure, merging, phases
from faas.containers import Container, ContainerError, Host
from faas.session import PSS_REPORT, Plan, Session

from figures.experiment import Settings

WITHOUT, WITH, KEYED = "without UPM", "with UPM", "with UPM, keyed"
TRIAL = Path(__file__).parent / "trial"
STATES = (WITHOUT, WITH, KEYED)
REQUESTS = 5  # to each container, as in the paper
TICK = 0.01  # seconds between samples of a control group


def session(
    settings: Settings, model: str, function: str = "image-recognition", copies: bool = False
) -> Session:
    """A session; with --quick a small function takes the place of the one with a model."""
    what = functions.find(function)
    plan = Plan(
        n=1,
        function=functions.read(TRIAL) if settings.quick and what.weights else what,
        model=model,
        out=settings.out / "images",
        copies=copies,
    )
    return Session(plan, settings.say)


@dataclass
class Room:
    """Where the containers of one state are."""

    session: Session
    host: Host
    way: merging.Way | None
    group: str
    """Path of the control group of all of them and of the broker."""
    containers: list[Container] = field(default_factory=list)
    answers: set[str] = field(default_factory=set)
    _making: threading.Lock = field(default_factory=threading.Lock)

    @property
    def pids(self) -> list[int]:
        """Of the containers, in the order of their start."""
        return [container.pid for container in self.containers]

    def start(self, requests: int = 1, way: merging.Way | None = None) -> list[float]:
        """Another container; seconds of its requests. `way`: for this one only."""
        with self._making:  # several may be started at once
            container = self.host.create(f"c{len(self.containers) + 1}")
            self.containers.append(container)
        self.session.start(self.host, container, way or self.way)
        return [self.ask(container) for _ in range(requests)]

    def ask(self, container: Container) -> float:
        """Seconds of a request."""
        return self.session.ask(container, self.answers)

    def merge(self) -> bool:
        """Waits until merging is over; False: it never was."""
        if self.way is None:
            return True
        self.way.advise(self.pids)
        return self.session.wait_until_merged(self.pids)

    def usages(self) -> list[dict[str, int]]:
        """Of each container, bytes."""
        return [
            {"rss": u.rss, "pss": u.pss, "uss": u.uss, "saved": u.saved}
            for u in measure.take(PSS_REPORT, self.pids)
        ]

    def counted(self) -> int | None:
        """Bytes that the kernel counts for the control group; None for plain processes."""
        return cgroups.memory(self.group) if self.host.isolated else None

    def end(self) -> list[phases.Advise | None]:
        """Ends all; what each one's hook said."""
        found = []
        for container in self.containers:
            container.stop()
            log = container.log
            lines = log.read_text(errors="replace").splitlines() if log.exists() else []
            found.append(phases.parse_advise(lines))
            self.host.remove(container)
        self.containers.clear()
        return found


@contextlib.contextmanager
def house(session: Session) -> Iterator[Host]:
    """Makes containers; one has been there before, so that the image's files are read."""
    with session.host() as host:
        number = session.plan.n if session.plan.copies else 1
        for each in range(number):
            container = host.create(f"c{each + 1}")
            session.start(host, container, None)
            session.ask(container, set())
            host.remove(container)
        yield host


def need_containers(host: Host, why: str) -> None:
    """Raises ContainerError where plain processes take the place of containers."""
    if not host.isolated:
        raise ContainerError(f"{why}, and there are {host.kind}")


@contextlib.contextmanager
def room(session: Session, host: Host, state: str) -> Iterator[Room]:
    """A room for that state, with a broker of its own; what is left in it ends with it."""
    with contextlib.ExitStack() as stack:
        group = stack.enter_context(host.within(state.replace(" ", "-").replace(",", "")))
        way = None
        if state != WITHOUT:
            way = merging.open_way(session.plan.backend, stack, group)
            if state == KEYED:
                way = way.with_keyed_layout()
        made = Room(session, host, way, group)
        stack.callback(made.end)
        yield made


def about(
    session: Session, host: Host, **more: str | int | float | bool | None
) -> dict[str, str | int | float | bool | None]:
    """What raw data say of how they were made."""
    with contextlib.ExitStack() as stack:
        way = str(merging.open_way(session.plan.backend, stack))
    model = session.plan.model if session.function.weights else None
    known = {"function": session.function.name, "model": model, "containers": host.kind}
    return {**known, "upm": way, **more}


class Sampler:
    """Samples a control group's memory in a thread, each TICK seconds."""

    def __init__(self, group: str) -> None:
        """Begins with `with`."""
        self.samples: list[tuple[float, int]] = []
        """Seconds since the beginning, and bytes."""
        self._group, self._over = group, threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Sampler:
        """Begins."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Ends."""
        self._over.set()
        self._thread.join()

    def peak(self) -> int:
        """The most so far; 0 if nothing was counted."""
        return max((bytes_ for _, bytes_ in list(self.samples)), default=0)

    def _run(self) -> None:
        began = time.monotonic()
        while not self._over.is_set():
            if (counted := cgroups.memory(self._group)) is not None:
                self.samples.append((time.monotonic() - began, counted))
            self._over.wait(TICK)


def mean(usages: list[dict[str, int]], kind: str) -> float:
    """Bytes per container."""
    return statistics.fmean(usage[kind] for usage in usages)
