#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""The hook in real programs, at its most eager: they must run as they do without.

    tests/preload/hook_test.py [CLASS...]

The kernel module is played by the unit tests' stand-in, so that the hook finds a
backend on every machine; it merges nothing, and says that it did.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import ClassVar

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))

from hooked import (
    FAKE,
    HOOK,
    LOAD,
    PYTHON,
    ROOT,
    UPM,
    HookCase,
    Program,
    Words,
    environment,
    hook,
    main,
    run,
    wait_until,
)

EAGER = hook("kmod", FAKE, UPM_MIN_BYTES="64K")


def plain(command: Words) -> subprocess.CompletedProcess[str]:
    """Runs a program to its end without the hook."""
    return run(command, {})


def hooked(command: Words, **variables: str) -> subprocess.CompletedProcess[str]:
    """The same with the hook and the stand-in of the module."""
    return run(command, EAGER | variables)


PRINTS_ITS_ENVIRONMENT = r"""
__asm__(".globl _start\n_start: mov %esp, %eax\npush %eax\ncall begin\n");
static int call(int number, int first, const void *second, int third) {
    int result;
    __asm__ volatile("int $0x80" : "=a"(result)
                     : "a"(number), "b"(first), "c"(second), "d"(third) : "memory");
    return result;
}
void begin(char **stack) {
    for (char **word = stack + 1 + *(int *)stack + 1; *word; ++word) {
        int length = 0;
        while ((*word)[length])
            ++length;
        call(4, 1, *word, length);
        call(4, 1, "\n", 1);
    }
    call(1, 0, 0, 0);
}
"""


class Case(HookCase):
    """What the tests share."""

    def fine(self, done: subprocess.CompletedProcess[str]) -> str:
        """Standard output of a program that succeeded and complained about nothing."""
        self.assertEqual(done.returncode, 0, done.stderr)
        return done.stdout

    def same(self, command: Words) -> None:
        """Output, errors and status are what they are without the hook."""
        before = plain(command)
        self.assertEqual(before.returncode, 0, before.stderr)
        done = hooked(command)
        self.assertEqual(
            (done.returncode, done.stdout, done.stderr), (0, before.stdout, before.stderr)
        )


class Loads(Case):
    """A program that is hard on its memory and checks every byte."""

    def test_calls(self) -> None:
        self.fine(hooked([LOAD, "calls", "merged"]))

    def test_threads(self) -> None:
        self.fine(hooked([LOAD, "threads"]))

    def test_signals(self) -> None:
        self.fine(hooked([LOAD, "signals"]))

    def test_forks(self) -> None:
        self.fine(hooked([LOAD, "forks"]))

    def test_zeros(self) -> None:
        self.fine(hooked([LOAD, "zeros"]))

    def test_without_a_backend_it_stays_out(self) -> None:
        self.fine(hooked([LOAD, "threads"], UPM_BACKEND="none"))

    def test_zeros_with_the_best_backend_here(self) -> None:
        self.fine(run([LOAD, "zeros"], hook("auto", UPM_MIN_BYTES="64K")))


class Allocators(Case):
    """Other allocators, preloaded before and behind the hook."""

    def check(self, pattern: str) -> None:
        libraries = sorted(Path("/usr/lib").glob(f"*/{pattern}"))
        if not libraries:
            self.skipTest(f"no {pattern}: make installs it")
        other = libraries[0]
        for order, load in (([HOOK, other], "threads"), ([other, HOOK], "signals")):
            with self.subTest(order=order, load=load):
                before = run([LOAD, load], {"LD_PRELOAD": str(other)})
                preload = ":".join(str(path) for path in (*order, FAKE))
                done = hooked([LOAD, load], LD_PRELOAD=preload)
                self.assertEqual((done.returncode, done.stderr), (before.returncode, before.stderr))

    def test_jemalloc(self) -> None:
        self.check("libjemalloc.so.2")

    def test_mimalloc(self) -> None:
        self.check("libmimalloc.so.2*")

    def test_tcmalloc(self) -> None:
        self.check("libtcmalloc_minimal.so.4")


class Programs(Case):
    """Programs that everybody has."""

    def test_python(self) -> None:
        self.same(
            [
                PYTHON,
                "-c",
                "import subprocess, threading, hashlib\n"
                "data = [bytes([i]) * (1 << 20) for i in range(8)]\n"
                "digests = []\n"
                "jobs = [threading.Thread(target=lambda d=d: digests.append("
                "hashlib.sha256(d * 3).hexdigest())) for d in data]\n"
                "[job.start() for job in jobs]; [job.join() for job in jobs]\n"
                "print(sorted(digests))\n"
                "print(subprocess.check_output(['sh', '-c', 'echo child; cat /etc/os-release']))\n",
            ]
        )

    def test_sqlite(self) -> None:
        if not shutil.which("sqlite3"):
            self.skipTest("no sqlite3")
        self.same(
            [
                "sqlite3",
                ":memory:",
                "create table t(a integer primary key, b text);"
                "with recursive n(i) as (select 1 union all select i+1 from n where i<200000)"
                " insert into t select i, hex(i*7919) from n;"
                "create index i on t(b); delete from t where a%3=0; vacuum;"
                "pragma integrity_check; select count(*), sum(length(b)), max(b) from t;",
            ]
        )

    def test_compiler(self) -> None:
        source = ROOT / "libupm/engine/engine.cpp"
        with tempfile.TemporaryDirectory() as folder:
            outputs = []
            for runner in (plain, hooked):
                to = Path(folder) / "out.s"
                command: Words = [
                    "g++", "-std=c++20", "-O2", "-S", "-DUPM_VERSION=\"0\"", f"-I{ROOT}",
                    f"-I{ROOT}/libupm/include", "-o", to, source,
                ]  # fmt: skip
                self.fine(runner(command))
                outputs.append(to.read_bytes())
            self.assertEqual(outputs[0], outputs[1])

    def test_static_program(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            source, program = Path(folder) / "a.c", Path(folder) / "a"
            source.write_text('#include <stdio.h>\nint main(void) { puts("static"); return 0; }\n')
            if plain(["gcc", "-static", "-o", program, source]).returncode != 0:
                self.skipTest("no static libc")
            self.same([program])

    def test_setuid_program(self) -> None:
        if os.geteuid() != 0:
            self.skipTest("needs root to make a setuid program")
        with tempfile.TemporaryDirectory() as folder:
            program = Path(folder) / "load"
            shutil.copy(LOAD, program)
            Path(folder).chmod(0o755)
            program.chmod(0o4755)
            done = subprocess.run(
                [program, "idle"],
                env=environment(**EAGER),
                user="nobody",
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                check=False,
            )
            self.assertEqual(done.returncode, 0, done.stderr)
            self.assertIn("passes 0 pages 0", done.stdout)


class Command(Case):
    """upm run."""

    PLAYED: ClassVar[dict[str, str]] = {"LD_PRELOAD": str(FAKE), "UPM_BACKEND": "kmod"}

    def upm(self, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
        return run([UPM, "run", *arguments], self.PLAYED)

    def test_status_of_the_program(self) -> None:
        self.assertEqual(self.upm("--", "sh", "-c", "exit 7").returncode, 7)
        self.assertEqual(self.upm("--", "no-such-program").returncode, 127)
        self.assertEqual(self.upm("--", "/").returncode, 126)

    def test_options_of_the_program_are_its_own(self) -> None:
        self.assertEqual(self.fine(self.upm("echo", "--profile", "-h")), "--profile -h\n")

    def test_program_of_another_word_size(self) -> None:
        """ld.so would say of each that it cannot load the hook."""
        with tempfile.TemporaryDirectory() as folder:
            source, program = Path(folder) / "a.c", Path(folder) / "a"
            source.write_text(PRINTS_ITS_ENVIRONMENT)
            command: Words = ["gcc", "-m32", "-O1", "-nostdlib", "-static", "-ffreestanding"]
            if plain([*command, "-fno-pie", "-no-pie", "-o", program, source]).returncode != 0:
                self.skipTest("no compiler for programs of 32 bits")
            if plain([program]).returncode != 0:
                self.skipTest("the kernel runs no programs of 32 bits")
            done = self.upm("--", program)
        self.assertIn("PATH=", self.fine(done))
        self.assertNotIn("libupm-preload", done.stdout)
        self.assertIn("nothing will be merged", done.stderr)

    def test_refuses_nonsense(self) -> None:
        for arguments in (
            ["--trigger", "never", "--", "true"],
            ["--min-bytes", "much", "--", "true"],
            ["--idle-ms", "0", "--", "true"],
            ["--scope", "none", "--", "true"],
            [],
        ):
            with self.subTest(arguments=arguments):
                self.assertEqual(self.upm(*arguments).returncode, 2)

    def test_deterministic(self) -> None:
        script = "print(hash('a'), open('/proc/self/maps').readline())"
        runs = {self.fine(self.upm("--deterministic", "--", PYTHON, "-c", script)) for _ in "12"}
        self.assertEqual(len(runs), 1)

    def holder(self, *options: str, **variables: str) -> Program:
        """A program with 8 MiB that waits."""
        program = self.start([UPM, "run", *options, "--", LOAD, "idle"], self.PLAYED | variables)
        self.assertRegex(program.line(), "^ready 0x")
        return program

    def advises(self, log: Path) -> int:
        return log.read_text().count("advise") if log.exists() else 0

    def wait_for_advise(self, log: Path) -> None:
        wait_until(lambda: self.advises(log) > 0, "nothing was advised")

    def test_idle(self) -> None:
        """All of the memory is advised once the thread says that it has nothing left."""
        with tempfile.TemporaryDirectory() as folder:
            log = Path(folder) / "log"
            program = self.holder("--idle-ms", "10", UPM_VERBOSE="1", FAKE_UPM_LOG=str(log))
            program.wait_until_idle()
            self.assertGreater(self.advises(log), 0)
            out, errors = program.end()
            found = re.search(r"passes (\d+) pages (\d+)", out)
            assert found
            self.assertGreaterEqual(int(found[2]), 2048, out)
            self.assertRegex(errors, r"upm\[\d+\]: backend kmod; \d+ blocks, 8\.\d MiB")

    def test_what_was_not_due_is_looked_at_later(self) -> None:
        """A block that changed soon after its first pass, though the program then sleeps."""
        script = """if True:
            import ctypes, time
            block = bytearray(8 << 20)
            print(hex(ctypes.addressof(ctypes.c_char.from_buffer(block))), flush=True)
            input()
            end = time.process_time() + 0.1
            while time.process_time() < end:
                block[5000] += 1
                block[5000] %= 100
            more = bytearray(4 << 20)
            input()
            """
        with tempfile.TemporaryDirectory() as folder:
            log = Path(folder) / "log"
            program = self.start(
                [UPM, "run", "--idle-ms", "10", "--", PYTHON, "-c", script],
                self.PLAYED | {"FAKE_UPM_LOG": str(log)},
            )
            page = int(program.line(), 16) // 4096 * 4096

            def looks() -> int:
                text = log.read_text() if log.exists() else ""
                found = re.findall(r"advise .*addr=([0-9a-f]+) len=", text)
                return [int(start, 16) for start in found].count(page)

            wait_until(lambda: looks() > 0, "it is not advised")
            before = looks()
            program.tell()
            wait_until(lambda: looks() > before, "it is not advised again")
            _, errors = program.end("\n")
            self.assertEqual(program.status, 0, errors)

    def test_signal(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            log = Path(folder) / "log"
            program = self.holder("--trigger", "signal", FAKE_UPM_LOG=str(log))
            time.sleep(0.5)
            self.assertEqual(self.advises(log), 0)
            program.process.send_signal(signal.SIGRTMAX - 2)
            self.wait_for_advise(log)
            program.end()
            self.assertEqual(program.status, 0)

    def test_manual(self) -> None:
        program = self.holder("--trigger", "manual", "--idle-ms", "10")
        time.sleep(0.3)
        out, _ = program.end()
        self.assertIn("passes 0", out)

    # Once for each pass, since the stand-in keeps no page.
    PROFILED = r"(?:[89]|\d\d)\.\d MiB merged, .* of 8\.\d allocated in 1 blocks:\n"

    def test_profile(self) -> None:
        if not list(Path("/usr/lib").glob("*/libunwind.so.8")):
            self.skipTest("no libunwind.so.8")
        program = self.holder("--profile", "--idle-ms", "10")
        program.wait_until_idle()
        _, errors = program.end()
        self.assertRegex(errors, self.PROFILED + " +upm-hook-load")

    def test_profile_of_python(self) -> None:
        """Frames of the interpreter are counted only."""
        if not list(Path("/usr/lib").glob("*/libunwind.so.8")):
            self.skipTest("no libunwind.so.8")
        script = "block = bytearray(b'x' * 1000) * 9000; print('ready', flush=True); input()"
        program = self.start(
            [UPM, "run", "--profile", "--idle-ms", "10", "--", PYTHON, "-c", script], self.PLAYED
        )
        program.line()
        program.wait_until_idle()
        _, errors = program.end("\n")
        self.assertEqual(program.status, 0, errors)
        stack = self.PROFILED + r" +\(Python, \d+ frames\)\n +libc"
        self.assertRegex(errors, stack)
        self.assertNotIn("_PyEval_EvalFrameDefault", errors)


class Torch(Case):
    """A small model in PyTorch."""

    def test_same_answer(self) -> None:
        if plain([PYTHON, "-c", "import torch"]).returncode != 0:
            self.skipTest("no python3-torch: make demo installs it")
        self.same(
            [
                PYTHON,
                "-c",
                "import time, torch\n"
                "torch.manual_seed(1); torch.set_num_threads(2)\n"
                "net = torch.nn.Sequential(torch.nn.Linear(1024, 2048), torch.nn.ReLU(),"
                " torch.nn.Linear(2048, 512))\n"
                "data = torch.rand(64, 1024)\n"
                "with torch.no_grad():\n"
                "    for _ in range(3):\n"
                "        time.sleep(0.1); print(net(data).double().sum().item())\n"
                "opt = torch.optim.SGD(net.parameters(), lr=0.1)\n"
                "for _ in range(3):\n"
                "    loss = net(data).pow(2).mean(); opt.zero_grad(); loss.backward(); opt.step()\n"
                "    print(loss.item()); time.sleep(0.1)\n",
            ]
        )


if __name__ == "__main__":
    sys.exit(main("Loads", "Allocators", "Programs", "Command", "Torch"))
