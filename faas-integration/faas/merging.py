# SPDX-License-Identifier: MIT
"""What puts UPM to work on containers whose code is not changed.

*hook*: libupm-preload.so in the container merges when the function is idle; with
the module if it is loaded, else through the broker upmd, which runs on the host
and whose socket is mounted into the containers. *agent*: where there is no hook,
`upm advise --pid` from outside, which only the module can do.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import secrets
import subprocess
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from faas import cgroups
from faas.bundle import Bind

ROOT = Path(__file__).resolve().parents[2]
BIN, LIB = ROOT / "build" / "bin", ROOT / "build" / "lib"
HOOK = LIB / "libupm-preload.so"
UPM, UPMD = BIN / "upm", BIN / "upmd"
BACKENDS = ("auto", "kmod", "store", "ksm")
KSM_RUN = Path("/sys/kernel/mm/ksm/run")
DEVICE = Path("/dev/upm")
FIXED_LAYOUT = ["/usr/bin/setarch", "--addr-no-randomize"]


class MergingError(Exception):
    """Nothing here can merge; the text says what is missing."""


@dataclass
class Way:
    """How containers get UPM."""

    backend: str
    agent: bool
    environment: dict[str, str] = field(default_factory=dict)
    binds: list[Bind] = field(default_factory=list)
    prefix: list[str] = field(default_factory=list)
    """Words before a container's command."""

    def as_it_is(self) -> Way:
        """No change."""
        return self

    def with_keyed_layout(self) -> Way:
        """The same with addresses that these containers have in common: `upm run`'s work."""
        environment = {"UPM_DOMAIN": secrets.token_hex(16), **self.environment}
        environment.pop("LD_PRELOAD", None)  # upm run preloads the hook
        prefix = [str(UPM), "run", "--layout", "keyed", "--"]
        binds = [*self.binds, Bind(BIN, str(BIN))]
        return dataclasses.replace(self, environment=environment, prefix=prefix, binds=binds)

    def with_fixed_layout(self) -> Way:
        """The same without address randomisation, as `upm run --layout fixed` has it."""
        more = {"PYTHONHASHSEED": "0", "UPM_SCOPE": "all"}
        environment = {**self.environment, **more}
        return dataclasses.replace(self, environment=environment, prefix=FIXED_LAYOUT)

    def __str__(self) -> str:
        """For people."""
        how = "upm advise --pid from outside" if self.agent else "libupm-preload.so in each"
        return f"backend {self.backend}, {how}"

    def advise(self, pids: list[int]) -> None:
        """The agent's work; nothing with the hook. Raises MergingError."""
        if not self.agent:
            return
        selection = [word for pid in pids for word in ("--pid", str(pid))]
        done = subprocess.run(
            [str(UPM), "advise", "--anon-only", *selection],
            check=False,
            capture_output=True,
            text=True,
            env={**os.environ, **self.environment},
        )
        if done.returncode != 0:
            raise MergingError(f"upm advise: {done.stderr.strip()}")


def hooks(pids: list[int]) -> tuple[int, int]:
    """Of the processes' hooks: how many still have something to do, and how many have not.

    By the name of the hook's thread (docs/hook.md). A process without one is not counted.
    """
    names = []
    for pid in pids:
        for thread in Path(f"/proc/{pid}/task").glob("*/comm"):
            with contextlib.suppress(OSError):  # it ended meanwhile
                names.append(thread.read_text().strip())
    return names.count("upm-hook"), names.count("upm-hook idle")


def open_way(backend: str, stack: contextlib.ExitStack, group: str = "") -> Way:
    """The best way here, or by that backend; `stack` ends what it starts.

    group: path of a control group that the broker is to run below. Raises
    MergingError if there is no way, ValueError for an unknown backend.
    """
    if backend not in BACKENDS:
        raise ValueError(f"backend {backend!r}; it must be one of {', '.join(BACKENDS)}")
    if backend == "auto":
        backend = "kmod" if DEVICE.exists() else "store"
    if backend == "kmod" and not DEVICE.exists():
        raise MergingError(f"backend kmod: no {DEVICE}: the module is not loaded")
    if backend == "ksm" and (not KSM_RUN.exists() or KSM_RUN.read_text().strip() != "1"):
        raise MergingError(f"backend ksm: KSM does not run (echo 1 >{KSM_RUN})")
    if not HOOK.exists():
        if backend == "kmod":
            return Way(backend, agent=True, environment=_common_domain())
        raise MergingError(f"backend {backend} merges in the program only, and there is no {HOOK}")
    way = Way(backend, agent=False, binds=[Bind(LIB, str(LIB))])
    way.environment = {"LD_PRELOAD": str(HOOK), "UPM_BACKEND": backend, "UPM_VERBOSE": "1"}
    if backend == "store":
        _start_broker(way, stack, group)
    if backend in {"kmod", "store"}:
        way.environment |= _common_domain()
    return way


def _common_domain() -> dict[str, str]:
    """The key of a domain for these containers: by default module and broker keep them apart."""
    return {"UPM_DOMAIN": secrets.token_hex(16)}


def _start_broker(way: Way, stack: contextlib.ExitStack, group: str) -> None:
    directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="upm-broker-")))
    socket = directory / "socket"
    prefix = cgroups.entering(f"{group}/broker") if group else []
    broker = subprocess.Popen([*prefix, str(UPMD), "--socket", str(socket)])

    def stop() -> None:
        broker.terminate()
        broker.wait()

    stack.callback(stop)
    end = time.monotonic() + 30
    while not socket.exists():
        if broker.poll() is not None or time.monotonic() > end:
            raise MergingError(f"{UPMD} does not listen on {socket}")
        time.sleep(0.05)
    way.environment["UPM_SOCKET"] = str(socket)
    way.binds.append(Bind(directory, str(directory), writable=True))
