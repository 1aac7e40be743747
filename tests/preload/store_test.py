#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""The hook on the real backend store, with a broker of its own.

    tests/preload/store_test.py [CLASS...]

Needs a userfaultfd that stops system calls as well (root, CAP_SYS_PTRACE or
/dev/userfaultfd); skipped elsewhere.
"""

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))

from hooked import CHANGES, LOAD, UPMD, BrokerCase, Program, main

NOTHING_TRIED = 4
# What the calls may take while the broker is stopped; with a fault it is 4 s and more. The
# target is 0.05 s, which a machine that is busy with other things does not keep.
LONGEST = 1.0


class Case(BrokerCase):
    """One broker for each test."""

    def hooked(self, *command: str | Path, **variables: str) -> Program:
        """Starts a program under the hook."""
        return self.start(command, self.hook | variables)

    def done(self, program: Program) -> str:
        """Standard output of a program that succeeded."""
        out, errors = program.end()
        if program.status == NOTHING_TRIED:
            self.skipTest(f"nothing was merged here: {errors.strip()}")
        self.assertEqual(program.status, 0, errors)
        return out

    def run_manual(self, what: str, **variables: str) -> None:
        """A program that advises by itself, so that each try is the same."""
        self.done(self.hooked(CHANGES, what, UPM_TRIGGER="manual", **variables))


class Changes(Case):
    """Changes of mappings that are merged, or being merged."""

    def test_dontneed_over_several_mappings(self) -> None:
        self.run_manual("dontneed", UPM_SCOPE="all")

    def test_dontneed_over_several_blocks(self) -> None:
        self.run_manual("dontneed-blocks")

    def test_dontneed_in_the_heap(self) -> None:
        self.run_manual("dontneed-heap", UPM_SCOPE="all")

    def test_dontneed_while_the_first_pass_begins(self) -> None:
        if not shutil.which("strace"):
            self.skipTest("no strace, which holds the call up")
        options = ["-f", "-qq", "-o", "/dev/null", "-e", "trace=madvise"]
        late = ["-e", "inject=madvise:delay_enter=1500000:when=2"]
        variables = {**self.hook, "UPM_TRIGGER": "idle"}
        environment = [f"-E{name}={value}" for name, value in variables.items()]
        tracer = ["strace", *options, *late, *environment]
        command: list[str | Path] = [*tracer, CHANGES, "dontneed-first"]
        self.done(self.start(command, {}))

    def test_mprotect_meanwhile(self) -> None:
        self.run_manual("mprotect")

    def test_no_access_meanwhile(self) -> None:
        self.run_manual("no-access")

    def test_drop_meanwhile(self) -> None:
        self.run_manual("drop")

    def test_free_meanwhile(self) -> None:
        self.run_manual("free")

    def test_freed_read_only(self) -> None:
        self.run_manual("freed-read-only")

    def test_one_step_after_the_other(self) -> None:
        self.run_manual("sequences")

    def test_moves(self) -> None:
        self.run_manual("moves", UPM_SCOPE="all")

    def test_children_advise(self) -> None:
        self.run_manual("children")

    def test_many_blocks_cost_nothing(self) -> None:
        self.run_manual("many-blocks")

    def test_bare_clone(self) -> None:
        self.done(self.hooked(CHANGES, "bare-clone", "30"))

    def test_asynchronous_input_and_output(self) -> None:
        self.run_manual("asynchronous")


class Stopped(Case):
    """A broker that does not answer: its container was frozen, or it has much to do."""

    def stall(self, program: Program) -> None:
        """No call of the program took long, and its end neither."""
        line = next(program.lines(), "")
        found = re.match(r"longest ([\d.]+) s in (\w+)", line)
        ended = time.monotonic()
        self.done(program)
        assert found, line
        self.assertLess(float(found[1]), LONGEST, line)
        self.assertLess(time.monotonic() - ended, LONGEST + 0.5, "the end of the program")

    def test_always(self) -> None:
        self.broker.stop()
        self.stall(self.hooked(CHANGES, "stall", "2"))

    def test_at_any_time(self) -> None:
        """Stopped at some packet, which is another one in each run."""
        for delay in (0.02, 0.05, 0.08, 0.11, 0.15, 0.2):
            with self.subTest(delay=delay):
                program = self.hooked(CHANGES, "stall", "1")
                time.sleep(delay)
                self.broker.stop()
                self.stall(program)
                self.broker.go_on()

    def test_again_and_again(self) -> None:
        over = threading.Event()

        def stop_and_go() -> None:
            while not over.wait(0.007):
                self.broker.stop()
                time.sleep(0.013)
                self.broker.go_on()

        thread = threading.Thread(target=stop_and_go)
        thread.start()
        try:
            self.stall(self.hooked(CHANGES, "stall", "3"))
        finally:
            over.set()
            thread.join()

    def test_somebody_has_reserved_the_content(self) -> None:
        """A process that was frozen after it had promised to publish what another one wants."""
        if not shutil.which("strace"):
            self.skipTest("no strace, which keeps the first one from publishing")
        # It waits in the call that makes the segment, after it has reserved its pages.
        late = "inject=memfd_create:delay_enter=60000000:when=1"
        options = ["-f", "-qq", "-o", "/dev/null", "-e", "trace=memfd_create", "-e", late]
        environment = [f"-E{k}={v}" for k, v in self.hook.items()]
        first = subprocess.Popen(
            ["strace", *options, *environment, CHANGES, "stall", "50"],
            stdout=subprocess.DEVNULL,
            start_new_session=True,
        )
        time.sleep(1)
        try:
            self.stall(self.hooked(CHANGES, "stall", "1"))
        finally:
            os.killpg(first.pid, signal.SIGKILL)
            first.wait()


class Leaks(Case):
    """What nobody maps any more goes."""

    def kept(self) -> int:
        """Bytes of the segments that the broker has."""
        total = 0
        for link in Path(f"/proc/{self.broker.pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                if "upm-store" in str(link.readlink()):
                    total += link.stat().st_blocks * 512
        return total

    def requests(self, **variables: str) -> None:
        """A server with a new block of 16 MiB for each request: twelve of them."""
        program = self.hooked(CHANGES, "requests", "12", **variables)
        requests = 0
        most = 0
        for line in program.lines():
            requests += 1
            most = max(most, self.kept())
            if line.startswith("request 11"):
                break
        # The broker looks a second after it was told, and every ten seconds.
        end = time.monotonic() + 30
        while self.kept() > 1 << 20 and time.monotonic() < end:
            time.sleep(0.1)
        left = self.kept()
        self.done(program)
        self.assertEqual(requests, 12)
        self.assertLess(most, 8 * 16 << 20, "while it ran, of 192 MiB in all")
        self.assertLess(left, 1 << 20, "at its end: what the program still has")

    def test_one_block_soon(self) -> None:
        """Long before the broker looks by itself."""
        program = self.hooked(CHANGES, "one-request")
        next(program.lines(), "")  # nothing, if it can try nothing
        freed = time.monotonic()
        while self.kept() > 1 << 20 and time.monotonic() < freed + 10:
            time.sleep(0.05)
        seconds = time.monotonic() - freed
        self.done(program)
        self.assertLess(seconds, 4, "until its content had gone")

    def test_freed_blocks(self) -> None:
        self.requests()

    def test_freed_blocks_without_a_thread(self) -> None:
        self.requests(UPM_TRIGGER="manual")


class Late(Case):
    """A broker that comes after the program."""

    def test_no_backend_is_not_for_life(self) -> None:
        folder = self.path / "later"
        folder.touch()  # no broker can be started in it
        socket = folder / "upmd.sock"
        program = self.hooked(LOAD, "idle", UPM_SOCKET=str(socket), UPM_VERBOSE="1")
        program.line()
        program.wait_until_idle()  # the first look has failed
        folder.unlink()
        folder.mkdir(mode=0o700)
        broker = subprocess.Popen([UPMD, "--socket", socket])
        maps = Path(f"/proc/{program.pid}/maps")
        try:
            end = time.monotonic() + 60
            shared = False
            while not shared and time.monotonic() < end:
                time.sleep(0.1)
                shared = "/memfd:upm-store" in maps.read_text()
            _, errors = program.end()
        finally:
            broker.terminate()
            broker.wait()
        if "only memory vouched for" in errors:
            self.skipTest("the store cannot freeze here")
        self.assertTrue(shared, errors)


class Loads(Case):
    """A program that is hard on its memory and checks every byte."""

    def load(self, *what: str, **variables: str) -> None:
        self.done(self.hooked(LOAD, *what, UPM_MIN_BYTES="64K", **variables))

    def test_calls(self) -> None:
        self.load("calls", "merged")

    def test_threads(self) -> None:
        self.load("threads")

    def test_threads_with_all_memory(self) -> None:
        self.load("threads", UPM_SCOPE="all")

    def test_signals(self) -> None:
        self.load("signals")

    def test_forks(self) -> None:
        self.load("forks")

    def test_zeros(self) -> None:
        self.load("zeros")


if __name__ == "__main__":
    sys.exit(main("Changes", "Stopped", "Late", "Leaks", "Loads"))
