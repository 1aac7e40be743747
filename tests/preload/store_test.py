#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""The hook on the real backend store, with a broker of its own.

    tests/preload/store_test.py CHANGES-PROGRAM LOAD-PROGRAM [CLASS...]

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
import tempfile
import threading
import time
import unittest
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HOOK = ROOT / "build/lib/libupm-preload.so"
UPMD = ROOT / "build/bin/upmd"
CHANGES = sys.argv[1] if len(sys.argv) > 1 else "upm-hook-changes"
LOAD = sys.argv[2] if len(sys.argv) > 2 else "upm-hook-load"
SECONDS = 120
NOTHING_TRIED = 4
# What the calls may take while the broker is stopped; with a fault it is 4 s and more. The
# target is 0.05 s, which a machine that is busy with other things does not keep.
LONGEST = 1.0


class Case(unittest.TestCase):
    """One broker for each test."""

    def setUp(self) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.socket = f"{self.folder.name}/upmd.sock"
        self.hook = {
            "LD_PRELOAD": str(HOOK),
            "UPM_BACKEND": "store",
            "UPM_SOCKET": self.socket,
            "UPM_IDLE_MS": "10",
        }
        self.broker = subprocess.Popen([UPMD, "--socket", self.socket])
        for _ in range(500):
            if Path(self.socket).exists():
                return
            time.sleep(0.01)
        self.fail("upmd does not listen")

    def tearDown(self) -> None:
        self.broker.send_signal(signal.SIGCONT)
        self.broker.terminate()
        self.broker.wait()
        self.folder.cleanup()

    def start(self, *command: str, **variables: str) -> subprocess.Popen[str]:
        clean = {k: v for k, v in os.environ.items() if not k.startswith(("UPM_", "LD_PRELOAD"))}
        return subprocess.Popen(
            command,
            env=clean | self.hook | variables,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def done(self, process: subprocess.Popen[str]) -> str:
        """Standard output of a program that succeeded."""
        try:
            out, errors = process.communicate(timeout=SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
        if process.returncode == NOTHING_TRIED:
            self.skipTest(f"nothing was merged here: {errors.strip()}")
        self.assertEqual(process.returncode, 0, errors)
        return out

    def run_manual(self, what: str, **variables: str) -> None:
        """A program that advises by itself, so that each try is the same."""
        self.done(self.start(CHANGES, what, UPM_TRIGGER="manual", **variables))


class Changes(Case):
    """Changes of mappings that are merged, or being merged."""

    def test_dontneed_over_several_mappings(self) -> None:
        self.run_manual("dontneed", UPM_SCOPE="all")

    def test_dontneed_over_several_blocks(self) -> None:
        self.run_manual("dontneed-blocks")

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
        self.done(self.start(CHANGES, "bare-clone", "30"))

    def test_asynchronous_input_and_output(self) -> None:
        self.run_manual("asynchronous")


class Stopped(Case):
    """A broker that does not answer: its container was frozen, or it has much to do."""

    def stall(self, process: subprocess.Popen[str]) -> None:
        """No call of the program took long, and its end neither."""
        assert process.stdout is not None
        line = process.stdout.readline()
        found = re.match(r"longest ([\d.]+) s in (\w+)", line)
        ended = time.monotonic()
        self.done(process)
        assert found, line
        self.assertLess(float(found[1]), LONGEST, line)
        self.assertLess(time.monotonic() - ended, LONGEST + 0.5, "the end of the program")

    def test_always(self) -> None:
        self.broker.send_signal(signal.SIGSTOP)
        self.stall(self.start(CHANGES, "stall", "2"))

    def test_at_any_time(self) -> None:
        """Stopped at some packet, which is another one in each run."""
        for delay in (0.02, 0.05, 0.08, 0.11, 0.15, 0.2):
            with self.subTest(delay=delay):
                process = self.start(CHANGES, "stall", "1")
                time.sleep(delay)
                self.broker.send_signal(signal.SIGSTOP)
                self.stall(process)
                self.broker.send_signal(signal.SIGCONT)

    def test_again_and_again(self) -> None:
        over = threading.Event()

        def stop_and_go() -> None:
            while not over.wait(0.007):
                self.broker.send_signal(signal.SIGSTOP)
                time.sleep(0.013)
                self.broker.send_signal(signal.SIGCONT)

        thread = threading.Thread(target=stop_and_go)
        thread.start()
        try:
            self.stall(self.start(CHANGES, "stall", "3"))
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
            self.stall(self.start(CHANGES, "stall", "1"))
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
        process = self.start(CHANGES, "requests", "12", **variables)
        assert process.stdout is not None
        requests = 0
        most = 0
        for line in process.stdout:
            requests += 1
            most = max(most, self.kept())
            if line.startswith("request 11"):
                break
        # The broker looks a second after it was told, and every ten seconds.
        end = time.monotonic() + 30
        while self.kept() > 1 << 20 and time.monotonic() < end:
            time.sleep(0.1)
        left = self.kept()
        _, errors = process.communicate(input="")
        if process.returncode == NOTHING_TRIED:
            self.skipTest(f"nothing was merged here: {errors.strip()}")
        self.assertEqual((process.returncode, requests), (0, 12), errors)
        self.assertLess(most, 8 * 16 << 20, "while it ran, of 192 MiB in all")
        self.assertLess(left, 1 << 20, "at its end: what the program still has")

    def test_one_block_soon(self) -> None:
        """Long before the broker looks by itself."""
        process = self.start(CHANGES, "one-request")
        assert process.stdout is not None
        process.stdout.readline()
        freed = time.monotonic()
        while self.kept() > 1 << 20 and time.monotonic() < freed + 10:
            time.sleep(0.05)
        seconds = time.monotonic() - freed
        _, errors = process.communicate(input="")
        if process.returncode == NOTHING_TRIED:
            self.skipTest(f"nothing was merged here: {errors.strip()}")
        self.assertEqual(process.returncode, 0, errors)
        self.assertLess(seconds, 4, "until its content had gone")

    def test_freed_blocks(self) -> None:
        self.requests()

    def test_freed_blocks_without_a_thread(self) -> None:
        self.requests(UPM_TRIGGER="manual")


class Late(Case):
    """A broker that comes after the program."""

    def test_no_backend_is_not_for_life(self) -> None:
        folder = Path(self.folder.name) / "later"
        folder.touch()  # no broker can be started in it
        process = self.start(LOAD, "idle", UPM_SOCKET=f"{folder}/upmd.sock", UPM_VERBOSE="1")
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(1.2)  # the first look has failed
        folder.unlink()
        folder.mkdir(mode=0o700)
        broker = subprocess.Popen([UPMD, "--socket", f"{folder}/upmd.sock"])
        try:
            shared = 0
            for _ in range(100):
                shared = Path(f"/proc/{process.pid}/maps").read_text().count("/memfd:upm-store")
                if shared:
                    break
                time.sleep(0.1)
            _, errors = process.communicate(input="")
        finally:
            broker.terminate()
            broker.wait()
        if "only memory vouched for" in errors:
            self.skipTest("the store cannot freeze here")
        self.assertGreater(shared, 0, errors)


class Loads(Case):
    """A program that is hard on its memory and checks every byte."""

    def load(self, what: str, **variables: str) -> None:
        self.done(self.start(LOAD, what, UPM_MIN_BYTES="64K", **variables))

    def test_calls(self) -> None:
        self.load("calls")

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


def main() -> int:
    suite = unittest.defaultTestLoader.loadTestsFromNames(
        sys.argv[3:] or ["Changes", "Stopped", "Late", "Leaks", "Loads"], sys.modules[__name__]
    )
    result = unittest.TextTestRunner(verbosity=2).run(suite)
    if not result.wasSuccessful():
        return 1
    return 4 if len(result.skipped) == result.testsRun else 0


if __name__ == "__main__":
    sys.exit(main())
