#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""What few programs do, and brokers that fall silent at one packet, with the backend store.

    tests/preload/odd_test.py PROGRAM [CLASS...]

PROGRAM is upm-hook-odd.
"""

import contextlib
import ctypes
import os
import re
import select
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))

from hooked import CHANGES, EXIT_SKIPPED, UPMD, BrokerCase, Program, main, run, wait_until

ODD = Path(sys.argv.pop(1)).resolve()
SIZE = 16 << 20
USER = 61234
LONGEST = 1.0
"""Seconds that a call may take with a broker that says nothing; with a fault it is 5 and more.
The target is 0.05, which a machine that is busy with other things does not keep."""
SECONDS = 60


class Case(BrokerCase):
    """A broker and a file."""

    def setUp(self) -> None:
        super().setUp()
        self.hook["UPM_SCOPE"] = "loads"
        self.file = self.path / "file"
        self.file.write_bytes(os.urandom(SIZE))

    def odd(self, *words: str | Path, **variables: str) -> Program:
        """Starts the program under the hook."""
        return self.start([ODD, words[0], self.file, *words[1:]], self.hook | variables)

    def done(self, program: Program) -> str:
        """Standard output of one that succeeded."""
        out, errors = program.end()
        if program.status == EXIT_SKIPPED:
            self.skipTest(f"nothing was tried: {errors.strip()}")
        self.assertEqual(program.status, 0, errors)
        return out


class Served:
    """A file of FUSE: of bytes x, and nothing but reads is answered."""

    INIT, OPEN, READ, RELEASE, FLUSH = 26, 14, 15, 18, 25
    DIRECT_IO = 1
    DETACH = 2

    def __init__(self, path: Path) -> None:
        self.path = path
        path.touch()
        self.libc = ctypes.CDLL(None, use_errno=True)
        self.mounted = os.access("/dev/fuse", os.R_OK | os.W_OK)
        if not self.mounted:
            return
        self.device = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
        options = f"fd={self.device},rootmode=100000,user_id=0,group_id=0,allow_other"
        self.mounted = self.libc.mount(b"upm-test", bytes(path), b"fuse", 0, options.encode()) == 0
        if self.mounted:
            self.thread = threading.Thread(target=self.serve)
            self.thread.start()

    def answer(self, operation: int, body: bytes) -> bytes | None:
        """None: no answer."""
        if operation == self.INIT:
            return struct.pack("=IIIIHHIIHHI28x", 7, 31, 0, 0, 0, 0, 1 << 20, 1, 0, 0, 0)
        if operation == self.OPEN:
            return struct.pack("=QII", 1, self.DIRECT_IO, 0)
        if operation == self.READ:
            size: int = struct.unpack_from("=QQI", body)[2]
            return b"x" * size
        return b"" if operation in (self.RELEASE, self.FLUSH) else None

    def serve(self) -> None:
        header = struct.Struct("=IIQ")
        while True:
            try:
                request = os.read(self.device, 2 << 20)
            except OSError:
                return  # it is mounted no more
            _, operation, number = header.unpack_from(request)
            answer = self.answer(operation, request[40:])
            if answer is not None:
                os.write(self.device, struct.pack("=IiQ", 16 + len(answer), 0, number) + answer)

    def close(self) -> None:
        if self.mounted:
            self.libc.umount2(bytes(self.path), self.DETACH)
            self.thread.join()
            os.close(self.device)


class Calls(Case):
    """By the program itself."""

    def test_threads_that_are_to_be_cancelled(self) -> None:
        self.done(self.odd("cancelled"))

    def test_threads_that_are_cancelled_in_reads(self) -> None:
        self.done(self.odd("cancelled-in-reads"))

    def test_protected_meanwhile(self) -> None:
        self.done(self.odd("protect-meanwhile"))

    def test_no_more_mappings(self) -> None:
        self.done(self.odd("no-more-mappings"))

    def test_protection_by_a_key(self) -> None:
        self.done(self.odd("key"))

    def test_guards(self) -> None:
        self.done(self.odd("guard"))

    def test_advice_over_holes(self) -> None:
        self.done(self.odd("holes"))

    def test_advice_to_a_process(self) -> None:
        self.done(self.odd("process-advice"))

    def test_shared_memory_in_its_place(self) -> None:
        self.done(self.odd("attach"))

    def test_locked_memory(self) -> None:
        self.done(self.odd("locked"))

    def test_limited_address_space(self) -> None:
        self.done(self.odd("limit"))

    def test_stacks(self) -> None:
        self.done(self.odd("stacks"))

    def test_other_memory_in_a_block(self) -> None:
        self.done(self.odd("cut"))

    def test_memory_limits_that_are_tight(self) -> None:
        self.done(self.odd("tight"))

    def test_address_space_of_threads(self) -> None:
        for scope in ("loads", "all"):
            self.done(self.odd("arenas", UPM_SCOPE=scope))

    def test_few_descriptors(self) -> None:
        self.done(self.odd("few-descriptors"))

    def test_lease(self) -> None:
        self.done(self.odd("lease"))

    def test_locks(self) -> None:
        self.done(self.odd("locks"))

    def test_all_closed_while_the_hook_merges(self) -> None:
        self.done(self.odd("close-meanwhile", UPM_SCOPE="blocks"))

    def test_pinned_memory(self) -> None:
        self.done(self.odd("pinned"))

    def test_server_that_answers_reads_only(self) -> None:
        with contextlib.closing(Served(self.path / "served")) as served:
            if not served.mounted:
                self.skipTest("needs root and /dev/fuse")
            self.done(self.odd("served", UPM_TEST_SERVED=str(served.path)))

    def test_forked_while_others_load(self) -> None:
        self.done(self.odd("forked-meanwhile"))

    def test_threads_that_begin_together(self) -> None:
        """They wait for 15 ms in all, 2 ms at most each, and not each of the 64 for its own."""
        if not shutil.which("strace"):
            self.skipTest("no strace, which counts")
        self.broker.stop()
        trace = self.path / "trace"
        words: list[str | Path] = ["strace", "-f", "-qq", "-e", "trace=futex", "-o", trace]
        program = self.start([*words, ODD, "wait-together", self.file], self.hook)
        _, errors = program.end()
        if not trace.exists() or not (calls := trace.read_text()):
            self.skipTest("nobody may be traced here")
        self.assertEqual(program.status, 0, errors)
        waits = re.findall(r"FUTEX_WAIT_PRIVATE, \d+, \{tv_sec=0, tv_nsec=[12]000000\}", calls)
        if not waits:
            self.skipTest("the hook knew whom to ask before they read")
        self.assertLess(len(waits), 64 * 3 / 4)

    def test_decides_who_may_open_files(self) -> None:
        self.done(self.odd("decides"))

    def test_processes_that_must_have_one_thread(self) -> None:
        self.done(self.odd("alone"))

    def test_rights_that_are_given_up(self) -> None:
        self.done(self.odd("rights"))

    def test_another_user(self) -> None:
        if os.geteuid() != 0:
            self.skipTest("needs root, to become another user")
        self.broker.process.terminate()
        self.broker.process.wait()
        self.path.chmod(0o755)
        self.broker.process = subprocess.Popen(
            [UPMD, "--mode", "0666", "--socket", self.broker.socket]
        )
        wait_until(self.broker.listens, "upmd does not listen")
        self.done(self.odd("user", str(USER)))

    def test_locks_all_threads_in(self) -> None:
        """The hook's waits for a broker that does not answer, and must not go on later."""
        self.broker.stop()
        self.done(self.odd("lock-all-in"))

    def test_locks_itself_in_strictly(self) -> None:
        """Without the hook, it frees small blocks by no system call."""
        self.done(self.odd("lock-strictly"))

    def test_no_core_of_the_trial(self) -> None:
        """A program that starts locked in leaves no core file of a process that it knows not."""
        if Path("/proc/sys/kernel/core_pattern").read_text().startswith("|"):
            self.skipTest("core files go to a program")
        folder = self.path / "cores"
        folder.mkdir()
        command: list[str | Path] = ["env", "-C", folder, ODD, "locked-in", self.file]
        command += [ODD, "rounds", self.file, "3"]
        done = run(command, self.hook)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(os.listdir(folder), [])


class Ends(Case):
    """Programs that are told to end."""

    def read_long(self, end_after: float) -> tuple[int, float]:
        """Status and processor time of a program that reads a gigabyte plainly."""
        program = self.odd("read-long")
        self.assertEqual(program.line(), "ready\n")
        self.broker.stop()
        try:
            program.tell()
            if end_after:
                time.sleep(end_after)
                program.process.terminate()
            _, status, usage = os.wait4(program.pid, 0)
        finally:
            self.broker.go_on()
        program.process.returncode = os.waitstatus_to_exitcode(status)
        return program.process.returncode, usage.ru_utime + usage.ru_stime

    def end_of(self, command: list[str | Path], variables: dict[str, str]) -> tuple[int, str]:
        """Status and output."""
        program = self.start(command, variables)
        try:
            program.process.wait(timeout=SECONDS)
        except subprocess.TimeoutExpired:
            self.fail("it does not end")
        out, _ = program.end()
        assert program.status is not None
        return program.status, out

    def test_first_thread_ends(self) -> None:
        """The process ends with the last of its own threads; the hook's is none of them."""
        for how in ("p", "pw", "x", "xw", "k"):
            with self.subTest(how=how):
                command: list[str | Path] = [ODD, "leave", self.file, f"-{how}"]
                if how == "k":  # ended by a filter that it inherits
                    command = [ODD, "thread-locked-in", self.file, *command]
                plain = {"UPM_TEST_PLAIN": "1"}
                self.assertEqual(self.end_of(command, self.hook), self.end_of(command, plain))

    def test_ended_while_it_reads(self) -> None:
        """As by the kernel, which ends a read for a signal that ends the process."""
        status, whole = self.read_long(0)
        self.assertEqual(status, 0)
        for _ in range(10):  # on a busy machine it may have read all before
            status, part = self.read_long(0.03)
            if status == -signal.SIGTERM and part < whole / 2:
                return
        self.fail(f"read on: {part} of {whole} s")


class Tracers(Case):
    """Whoever follows a program's processes does not wait for the broker that it starts."""

    def brokers(self) -> list[int]:
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                words = (folder / "cmdline").read_bytes().split(b"\0")
                if str(self.own).encode() in words and b"--on-demand" in words:
                    found.append(int(folder.name))
        return found

    def end_brokers(self) -> None:
        for pid in self.brokers():
            os.kill(pid, signal.SIGTERM)

    def test_strace(self) -> None:
        if not shutil.which("strace"):
            self.skipTest("no strace")
        self.own = self.path / "own" / "upmd.sock"
        self.own.parent.mkdir(mode=0o700)
        self.addCleanup(self.end_brokers)
        words = [f"-E{k}={v}" for k, v in (self.hook | {"UPM_SOCKET": str(self.own)}).items()]
        trace = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", "trace=none", *words]
        done = run([*trace, ODD, "load", self.file], {})
        if done.returncode == EXIT_SKIPPED:
            self.skipTest(f"nothing came to share: {done.stderr}")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(len(self.brokers()), 1, "it lives on for a minute")


class Descriptors(Case):
    """What the hook's thread opens before it has descriptors of its own."""

    def test_begin(self) -> None:
        if not shutil.which("strace"):
            self.skipTest("no strace")
        log = self.path / "trace"
        words = [f"-E{k}={v}" for k, v in self.hook.items()]
        calls = "trace=open,openat,socket,pipe2,memfd_create,userfaultfd,close_range"
        trace: list[str | Path] = ["strace", "-f", "-qq", "-o", log, "-e", calls, *words]
        done = run([*trace, ODD, "load", self.file], {})
        self.assertIn(done.returncode, (0, EXIT_SKIPPED), done.stderr)
        lines = [line.split(maxsplit=1) for line in log.read_text().splitlines()]
        own = [thread for thread, call in lines if "CLOSE_RANGE_UNSHARE) = 0" in call]
        self.assertEqual(len(own), 1, lines)
        calls_before = []
        for thread, call in lines:
            if thread == own[0] and call.startswith("close_range"):
                break
            if thread == own[0]:
                calls_before.append(call)
        others = [call for call in calls_before if "/proc/self/status" not in call]
        self.assertEqual(others, [])


class Silence:
    """Stands between programs and a broker, and forwards nothing from one packet on."""

    def __init__(self, broker: Path, path: Path, at: int) -> None:
        self.broker = str(broker)
        self.at = at
        self.packets = 0
        self.lock = threading.Lock()
        self.over = False
        self.kept: list[socket.socket] = []
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.listener.bind(str(path))
        self.listener.listen(64)
        self.listener.settimeout(0.05)
        self.threads = [threading.Thread(target=self.accept)]
        self.threads[0].start()

    @property
    def silent(self) -> bool:
        """Returns true once that packet came."""
        return self.packets >= self.at

    def accept(self) -> None:
        while not self.over:
            with contextlib.suppress(TimeoutError):
                client = self.listener.accept()[0]
                server = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
                server.connect(self.broker)
                self.kept += [client, server]
                self.threads.append(threading.Thread(target=self.relay, args=(client, server)))
                self.threads[-1].start()

    def relay(self, client: socket.socket, server: socket.socket) -> None:
        other = {client: server, server: client}
        with contextlib.suppress(OSError):
            while not self.over:
                for one in select.select([client, server], [], [], 0.05)[0]:
                    data, files, _, _ = socket.recv_fds(one, 1 << 17, 8)
                    with self.lock:
                        self.packets += 1
                        lost = self.silent
                    if not lost:
                        socket.send_fds(other[one], [data], files)
                    for file in files:
                        os.close(file)
                    if not data:  # the end of one side is that of the other
                        other[one].close()
                        return

    def end(self) -> None:
        self.over = True
        for thread in self.threads:
            thread.join()
        for one in (*self.kept, self.listener):
            one.close()


class Packets(Case):
    """A broker that is frozen at any packet of the talk stops nobody."""

    def stall(self, at: int, command: list[str | Path], variables: dict[str, str]) -> bool:
        """Returns true if the talk got that far."""
        path = self.path / f"silence-{at}"
        silence = Silence(self.broker.socket, path, at)
        try:
            program = self.start(command, self.hook | variables | {"UPM_SOCKET": str(path)})
            line = next(program.lines(), "")
            found = re.match(r"longest ([\d.]+) s in (\w+)", line)
            ended = time.monotonic()
            self.done(program)
            took = time.monotonic() - ended
        finally:
            silence.end()
            path.unlink()
        assert found, line
        self.assertLess(float(found[1]), LONGEST, f"packet {at}: {line}")
        self.assertLess(took, LONGEST + 0.5, f"packet {at}: the end of the program")
        return silence.silent

    def stall_at_each(self, command: list[str | Path], **variables: str) -> None:
        """Each of the first packets, which are of all kinds, and some of the later ones.

        How far the talk gets depends on how busy the machine is.
        """
        silent = [0]
        for at in (*range(1, 16), *range(16, 80, 8)):
            with self.subTest(packet=at):
                if self.stall(at, command, variables):
                    silent.append(at)
            if at > silent[-1] + 24:
                break
        self.assertGreater(len(silent), 4, "hardly anything was said")

    def test_loads(self) -> None:
        self.stall_at_each([ODD, "rounds", self.file, "20"])

    def test_merging(self) -> None:
        self.stall_at_each([CHANGES, "stall", "0.5"], UPM_SCOPE="blocks")


if __name__ == "__main__":
    sys.exit(main("Calls", "Ends", "Tracers", "Packets"))
