#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Hooked programs of ten kinds, started, frozen, thawed and killed at random, against a
broker that is stopped, killed and started at random.

    tests/preload/soak.py [--seconds 600] [--seed N] [--programs 50] [--memory MIB]
                          [--longest SECONDS]

Fails if a program finds a wrong byte, dies of itself, does not end, or waits for long in
fork or for the end of a child, and if the broker keeps anything at the end. The time that
the longest fork takes is compared with that of programs of the same kinds without the hook,
which run at the same time: a machine that is busy makes both wait.

As root, all run as an ordinary user that may open /dev/userfaultfd, and in memory groups
of their own with --memory (control groups of version 1 or 2). As another user, what the
store can do without the privilege.
"""

import argparse
import contextlib
import ctypes
import os
import random
import re
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HOOK = ROOT / "build/lib/libupm-preload.so"
UPMD = ROOT / "build/bin/upmd"
PROGRAM = ROOT / "build/cmake/tests/preload/upm-hook-soak"
KINDS = (
    "churn threads prefork loads maps writers signals zeros programs calls"  # of soak.cpp
).split()
CONTROLS = 10
"""Programs without the hook, one of each kind."""
TARGET = 0.05
"""Seconds that a fork should take at most, on a machine that is not busy otherwise."""
PATIENCE = 120.0
"""Seconds until a program that was told to end must have ended."""
NOTHING_TRIED = 4
USER = 61234
"""An ordinary user that owns nothing."""


@dataclass
class Group:
    """A control group for one program, to bound its memory."""

    path: Path

    @classmethod
    def make(cls, mib: int, name: str) -> "Group":
        old = Path("/sys/fs/cgroup/memory")
        parent = old if (old / "memory.limit_in_bytes").exists() else Path("/sys/fs/cgroup")
        path = parent / f"upm-soak-{os.getpid()}-{name}"
        limit = "memory.limit_in_bytes" if parent == old else "memory.max"
        try:
            path.mkdir()
            (path / limit).write_text(str(mib << 20))
        except OSError as error:
            with contextlib.suppress(OSError):
                path.rmdir()
            print(f"soak: skipped, no memory group: {error}")
            sys.exit(NOTHING_TRIED)
        return cls(path)

    def killed(self) -> int:
        """How often the kernel killed somebody in it."""
        for name in ("memory.oom_control", "memory.events"):
            with contextlib.suppress(OSError):
                found = re.search(r"^oom_kill (\d+)$", (self.path / name).read_text(), re.M)
                return int(found[1]) if found else 0
        return 0

    def remove(self) -> bool:
        """False: a broker that the program has started is still in it."""
        try:
            self.path.rmdir()
        except OSError:
            return False
        return True


@dataclass
class Program:
    """One that runs."""

    process: subprocess.Popen[str]
    kind: str
    hooked: bool
    group: Group | None
    until: float
    stopped_since: float = 0.0
    killed: bool = False
    told: bool = False  # to end
    scope: str = ""


@dataclass
class Slow:
    """Something that a program waited for."""

    what: str
    kind: str
    hooked: bool
    seconds: float


@dataclass
class Tally:
    """What was done, and what went wrong."""

    events: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    wrong: list[str] = field(default_factory=list)
    stops: dict[int, list[tuple[float, float]]] = field(default_factory=lambda: defaultdict(list))


def prepare_child(group: Group | None, user: int | None) -> None:
    os.setsid()
    if group is not None:
        (group.path / "cgroup.procs").write_text(str(os.getpid()))
    if user is not None:
        os.setgroups([])
        os.setresgid(user, user, user)
        os.setresuid(user, user, user)


class Soak:
    """One run."""

    def __init__(self, options: argparse.Namespace, folder: Path) -> None:
        self.options = options
        self.folder = folder
        self.random = random.Random(options.seed)
        self.user = USER if os.geteuid() == 0 else None
        self.socket = folder / "broker" / "upmd.sock"
        self.log = folder / "log"
        self.programs: list[Program] = []
        self.started: list[subprocess.Popen[bytes]] = []
        self.broker_stopped: tuple[int, float] | None = None
        self.broker_due = 0.0
        self.groups: list[Group] = []  # of programs that have ended
        self.tally = Tally()
        self.number = 0
        self.prepare()

    def prepare(self) -> None:
        self.log.touch()
        (self.folder / "files").mkdir()
        (self.folder / "broker").mkdir(mode=0o700)
        for pattern in range(8):
            words = bytearray()
            for page in range(768 + 64 * pattern):
                first = (page + 1) * (pattern + 3) << 20
                words += struct.pack("<512Q", *range(first, first + 512))
            (self.folder / "files" / str(pattern)).write_bytes(words)
        if self.user is not None:
            for path in (self.folder, *self.folder.rglob("*")):
                os.chown(path, self.user, self.user)

    # --- programs ---

    def start(self, hooked: bool, kind: str) -> None:
        self.number += 1
        group = None
        if self.options.memory:
            group = Group.make(self.options.memory, str(self.number))
        clean = {k: v for k, v in os.environ.items() if not k.startswith(("UPM_", "LD_PRELOAD"))}
        clean["TMPDIR"] = str(self.folder)
        scope = "loads" if kind == "loads" else self.random.choice(["blocks", "all", "loads"])
        if hooked:
            clean |= {
                "LD_PRELOAD": str(HOOK),
                "UPM_BACKEND": "store",
                "UPM_SOCKET": str(self.socket),
                "UPM_IDLE_MS": str(self.random.choice([10, 20, 50])),
                "UPM_SCOPE": scope,
            }
        seconds = self.random.randint(3, 40)
        seed = str(self.random.randrange(1 << 30))
        process = subprocess.Popen(
            [PROGRAM, kind, seed, str(seconds), self.log, self.folder / "files"],
            env=clean,
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=lambda: prepare_child(group, self.user),  # noqa: PLW1509 - no threads here
        )
        self.tally.events["started"] += hooked
        until = time.monotonic() + seconds + PATIENCE
        self.programs.append(Program(process, kind, hooked, group, until, scope=scope))

    def signal(self, program: Program, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(program.process.pid, number)

    def stop(self, program: Program) -> None:
        if program.stopped_since == 0:
            self.signal(program, signal.SIGSTOP)
            program.stopped_since = time.monotonic()
            self.tally.events["frozen"] += 1

    def thaw(self, program: Program) -> None:
        if program.stopped_since == 0:
            return
        began, program.stopped_since = program.stopped_since, 0.0
        self.signal(program, signal.SIGCONT)
        now = time.monotonic()
        program.until += now - began
        self.tally.stops[program.process.pid].append((began, now))

    def kill(self, program: Program) -> None:
        program.killed = True
        self.signal(program, signal.SIGKILL)
        self.tally.events["killed"] += 1

    def reap(self, program: Program) -> bool:
        """Looks if a program has ended, and how."""
        status = program.process.poll()
        if status is None:
            if time.monotonic() < program.until or program.stopped_since != 0:
                return False
            self.tally.wrong.append(f"{self.name(program)} does not end: {self.where(program)}")
            self.kill(program)
            status = program.process.wait()
        assert program.process.stderr is not None
        errors = program.process.stderr.read().strip() if not program.killed else ""
        program.process.stderr.close()
        self.signal(program, signal.SIGKILL)  # children
        # One that has just begun does not know SIGTERM yet.
        fine = status == 0 or (program.told and status == -signal.SIGTERM)
        if not program.killed and not fine:
            self.tally.wrong.append(f"{self.name(program)} ended with {status}: {errors}")
        if program.group is not None:
            if program.group.killed() != 0:
                self.tally.wrong.append(f"{self.name(program)}: out of memory in its group")
            self.groups.append(program.group)
        return True

    def name(self, program: Program) -> str:
        how = f"hooked, scope {program.scope}" if program.hooked else "not hooked"
        return f"{program.kind} ({how}, {program.process.pid})"

    def where(self, program: Program) -> str:
        waits = []
        for task in Path(f"/proc/{program.process.pid}/task").glob("*"):
            with contextlib.suppress(OSError):
                waits.append((task / "wchan").read_text() + " " + (task / "syscall").read_text())
        return "; ".join(waits)

    def reap_strangers(self) -> None:
        """Brokers that programs have started, and what these have left behind."""
        ours = {program.process.pid for program in self.programs}
        ours |= {broker.pid for broker in self.started}
        while True:
            try:
                ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                return
            if ended is None or ended.si_pid in ours:
                return
            os.waitpid(ended.si_pid, 0)

    # --- the broker ---

    def broker(self) -> int:
        """Whoever listens; 0: nobody."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as client:
            client.settimeout(0.5)
            try:
                client.connect(str(self.socket))
            except OSError:
                return 0
            peer = client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
        return int(struct.unpack("3i", peer)[0])

    def start_broker(self) -> None:
        self.started = [broker for broker in self.started if broker.poll() is None]
        self.started.append(
            subprocess.Popen(
                [UPMD, "--socket", str(self.socket)],
                stderr=subprocess.DEVNULL,  # somebody may have been faster
                preexec_fn=lambda: prepare_child(None, self.user),  # noqa: PLW1509 - no threads here
            )
        )

    def trouble_broker(self) -> None:
        """Stops, thaws, kills or starts the broker, when that is due."""
        now = time.monotonic()
        if now < self.broker_due:
            return
        self.broker_due = now + self.random.uniform(0.05, 4)
        if self.broker_stopped is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.broker_stopped[0], signal.SIGCONT)
            self.broker_stopped = None
            return
        pid = self.broker()
        if pid == 0:
            return self.start_broker()
        numbers = [signal.SIGSTOP, signal.SIGSTOP, signal.SIGKILL, signal.SIGTERM]
        number = self.random.choice(numbers)
        self.tally.events[f"broker {number.name}"] += 1
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
        if number == signal.SIGSTOP:
            self.broker_stopped = (pid, now)
            self.broker_due = now + self.random.choice([0.01, 0.1, 0.5, 2, 6])

    # --- the run ---

    def trouble(self) -> None:
        program = self.random.choice(self.programs)
        if program.stopped_since:
            self.thaw(program)
        elif program.hooked:
            self.random.choice([self.stop, self.stop, self.stop, self.kill])(program)

    def run(self) -> None:
        self.start_broker()
        end = time.monotonic() + self.options.seconds
        wanted = [(True, KINDS[i % len(KINDS)]) for i in range(self.options.programs)]
        wanted += [(False, kind) for kind in KINDS[:CONTROLS]]
        while time.monotonic() < end:
            for hooked, kind in wanted:
                self.start(hooked, kind)
            wanted = []
            self.trouble_broker()
            if self.random.random() < 0.3:
                self.trouble()
            for program in list(self.programs):
                if time.monotonic() - program.stopped_since > 6:
                    self.thaw(program)
                if self.reap(program):
                    self.programs.remove(program)
                    wanted.append((program.hooked, program.kind))
            self.reap_strangers()
            self.groups = [group for group in self.groups if not group.remove()]
            time.sleep(0.05)
        self.finish()

    def finish(self) -> None:
        if self.broker_stopped is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.broker_stopped[0], signal.SIGCONT)
        for program in self.programs:
            self.thaw(program)
            program.told = True
            with contextlib.suppress(ProcessLookupError):
                os.kill(program.process.pid, signal.SIGTERM)
            program.until = time.monotonic() + PATIENCE
        while self.programs:
            self.programs = [program for program in self.programs if not self.reap(program)]
            time.sleep(0.05)
        self.check_broker()

    def check_broker(self) -> None:
        """Nothing is kept of what nobody maps."""
        deadline = time.monotonic() + 60
        kept = -1
        pid = self.broker()
        while pid != 0 and time.monotonic() < deadline:
            kept = 0
            for link in Path(f"/proc/{pid}/fd").iterdir():
                with contextlib.suppress(OSError):
                    if "upm-store" in str(link.readlink()):
                        kept += link.stat().st_blocks * 512
            if kept == 0:
                break
            time.sleep(0.5)
        if pid != 0 and kept != 0:
            self.tally.wrong.append(f"the broker keeps {kept} bytes")
        print(f"soak: at the end the broker keeps {max(kept, 0)} bytes")
        if pid != 0:
            os.kill(pid, signal.SIGTERM)
        for broker in self.started:
            with contextlib.suppress(ProcessLookupError):
                broker.terminate()
            broker.wait()
        deadline = time.monotonic() + 30
        while self.groups and time.monotonic() < deadline:
            self.reap_strangers()
            self.groups = [group for group in self.groups if not group.remove()]
            time.sleep(0.05)
        if self.groups:
            self.tally.wrong.append(f"somebody is left in {self.groups[0].path}")

    # --- the verdict ---

    def frozen(self, group: int, begin: float, end: float) -> bool:
        """If these processes were frozen by us meanwhile."""
        return any(b < end + 0.1 and e + 0.1 > begin for b, e in self.tally.stops.get(group, []))

    def measured(self) -> tuple[list[Slow], dict[bool, int]]:
        slow = []
        forks = {True: 0, False: 0}
        for line in self.log.read_text().splitlines():
            words = line.split()
            if words[0] == "wrong":
                self.tally.wrong.append(line)
            elif words[0] == "shared":
                self.tally.events["pages merged"] += int(words[2])
                self.tally.events["bytes read shared"] += int(words[3])
            elif words[0] == "count":
                forks[words[3] == "1"] += int(words[4])
            elif words[0] == "slow":
                group, begin, end = int(words[4]), int(words[5]) / 1e6, int(words[6]) / 1e6
                if not self.frozen(group, begin, end):
                    slow.append(Slow(words[1], words[2], words[3] == "1", end - begin))
        return slow, forks

    def verdict(self) -> int:
        slow, forks = self.measured()
        for what in ("fork", "exit"):
            longest = {}
            for hooked in (True, False):
                times = sorted(s.seconds for s in slow if s.what == what and s.hooked == hooked)
                longest[hooked] = times[-1] if times else 0.0
                above = sum(1 for seconds in times if seconds > TARGET)
                print(
                    f"soak: {what} {'with' if hooked else 'without'} the hook: longest "
                    f"{longest[hooked] * 1000:.0f} ms, over {TARGET * 1000:.0f} ms {above} of "
                    f"about {forks[hooked]}"
                )
            if longest[True] > max(self.options.longest, 3 * longest[False]):
                self.tally.wrong.append(f"{what} took {longest[True]:.3f} s")
        if not self.tally.events["pages merged"] and not self.tally.events["bytes read shared"]:
            self.tally.wrong.append("nothing was shared")
        print("soak:", ", ".join(f"{name} {count}" for name, count in self.tally.events.items()))
        for line in self.tally.wrong:
            print("soak: WRONG:", line)
        print(f"{not self.tally.wrong:d} passed, {bool(self.tally.wrong):d} failed")
        return 1 if self.tally.wrong else 0


def give_userfaultfd() -> None:
    """In mounts of our own, a device that everybody may open."""
    device = Path("/dev/userfaultfd")
    if os.geteuid() != 0 or not device.exists():
        return
    if "SOAK_MOUNTS" not in os.environ:
        os.environ["SOAK_MOUNTS"] = "own"
        command = ["unshare", "--mount", "--propagation", "private", sys.executable, *sys.argv]
        os.execvp(command[0], command)
    folder = tempfile.mkdtemp()
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", folder], check=True)
    os.mknod(f"{folder}/device", 0o20666, device.stat().st_rdev)
    Path(f"{folder}/device").chmod(0o666)
    subprocess.run(["mount", "--bind", f"{folder}/device", device], check=True)
    subprocess.run(["umount", "--lazy", folder], check=True)
    Path(folder).rmdir()


def main() -> int:
    parser = argparse.ArgumentParser(description="Hooked programs and brokers, hard pressed.")
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--programs", type=int, default=50)
    parser.add_argument("--memory", type=int, default=0, help="MiB for each program")
    parser.add_argument(
        "--longest", type=float, default=4.0, help="seconds that are a fault anywhere"
    )
    options = parser.parse_args()
    give_userfaultfd()
    if options.seed is None:
        options.seed = random.SystemRandom().randrange(1 << 30)
    print(f"soak: --seed {options.seed}", flush=True)
    if options.memory:
        _ = Group.make(options.memory, "try").remove()
    ctypes.CDLL(None).prctl(36, 1)  # PR_SET_CHILD_SUBREAPER: no broker outlives this
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        soak = Soak(options, Path(folder))
        try:
            soak.run()
        finally:
            for program in soak.programs:
                soak.kill(program)
        return soak.verdict()


if __name__ == "__main__":
    sys.exit(main())
