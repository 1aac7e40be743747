#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""`upm run --layout`: the same addresses for one key, others for another, and nothing else.

    tests/preload/layout_test.py [CLASS...]

UPM_TEST_RUNS is how often Uniform starts its program: 300, and 10,000 in `make test-long`.
"""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import ClassVar

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))

from hooked import HOOK, PYTHON, UPM, HookCase, Program, Words, main, run

SOURCE = Path(__file__).with_name("layout.c")
RUNS = int(os.environ.get("UPM_TEST_RUNS", "300"))
MAP_BITS, HEAP_BITS = 32, 27  # tools/upm/keyed_layout.hpp
HUGE_BITS = 9  # pages of 4 KiB in a huge one
KIB = 1 << 10
# Chi-square with 15 degrees of freedom is above it by chance once in 10^8 tries.
CHI_SQUARE = 70.0
PYTHON_PROGRAM = (
    "import decimal, json, os, sys, threading, time\n"
    "for _ in range(3):\n"
    "    thread = threading.Thread(target=lambda: bytearray(1 << 20))\n"
    "    thread.start()\n"
    "    thread.join()\n"
    # It may live a little longer: where the next one's stack lies depends on that.
    "    while len(os.listdir('/proc/self/task')) > 1:\n"
    "        time.sleep(0.001)\n"
    "data = {str(i): list(range(i)) for i in range(500)}\n"
    "print('ready', flush=True)\n"
    "sys.stdin.read()\n"
)
TORCH_PROGRAM = (
    "import sys, torch\n"
    "layer = torch.nn.Conv2d(3, 16, 3)\n"
    "with torch.no_grad():\n"
    "    layer(torch.ones(1, 3, 64, 64))\n"
    "print('ready', flush=True)\n"
    "sys.stdin.read()\n"
)
RUST_PROGRAM = """
use std::io::Read;
fn main() {
    for _ in 0..3 { std::thread::spawn(|| vec![1u8; 1 << 20]).join().unwrap(); }
    println!("ready");
    let mut text = String::new();
    std::io::stdin().read_to_string(&mut text).unwrap();
}
"""
GO_PROGRAM = """package main
// #include <stdlib.h>
import "C"
import ("fmt"; "io"; "os")
func main() { C.free(C.malloc(1000)); fmt.Println("ready"); io.ReadAll(os.Stdin) }
"""
JAVA_PROGRAM = """
public class Wait {
    public static void main(String[] words) throws Exception {
        System.out.println("ready");
        System.in.read();
    }
}
"""
Place = tuple[str, str]  # "start-end", and the file or the kernel's name for it


class Case(HookCase):
    """Programs in a folder of their own, and runs of them."""

    folder: ClassVar[Path]
    program: ClassVar[Path]

    @classmethod
    def setUpClass(cls) -> None:
        folder = tempfile.TemporaryDirectory(prefix="upm-layout-")
        cls.addClassCleanup(folder.cleanup)
        cls.folder = Path(folder.name)
        cls.program = cls.folder / "layout"
        subprocess.run(["gcc", "-w", "-o", cls.program, SOURCE, "-pthread"], check=True)

    def variables(self, key: str = "", **others: str) -> dict[str, str]:
        """The environment of `upm run` with a key, else with a user's own folder."""
        state = {"UPM_DOMAIN": key} if key else {"XDG_STATE_HOME": str(self.folder / "state")}
        return {"UPM_BACKEND": "none"} | state | others

    def upm(
        self, *words: str | Path, key: str = "", **others: str
    ) -> subprocess.CompletedProcess[str]:
        return run([UPM, "run", *words], self.variables(key, **others))

    def fine(self, done: subprocess.CompletedProcess[str]) -> str:
        """Standard output of a program that succeeded and complained about nothing."""
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        return done.stdout

    def places(self, key: str) -> list[int]:
        """Pages that the dynamic linker, libc and the heap are at."""
        done = self.upm("--layout", "keyed", "--", self.program, "places", key=key)
        return [int(word, 16) // 4096 for word in self.fine(done).split()]


def new_key() -> str:
    return secrets.token_hex(16)


class Maps(Case):
    """Two runs with one key."""

    def maps(self, command: Words, key: str, ready: str = "ready") -> list[Place]:
        """The mappings of a program that says that it is ready, and then waits.

        The hook has no thread of its own in it, which would race with those of the program.
        """
        program = self.start(
            [UPM, "run", "--layout", "keyed", "--trigger", "manual", "--", *command],
            self.variables(key),
        )
        for line in program.lines():
            if ready in line:
                break
        text = Path(f"/proc/{program.pid}/maps").read_text()
        places = []
        for line in text.splitlines():
            words = line.split(maxsplit=5)
            places.append((words[0], words[5] if len(words) > 5 else ""))
        program.kill()
        return places

    def same(self, command: Words, ready: str = "ready", named: bool = False) -> None:
        """The same mappings for one key; `named`: those of files at least."""
        runs = []
        for key in ("11" * 16, "11" * 16, "22" * 16):
            places = self.maps(command, key, ready)
            runs.append([place for place in places if not named or place[1].startswith("/")])
        self.assertTrue(any("libc" in name for _, name in runs[0]), runs[0])
        self.assertEqual(runs[0], runs[1])
        # The kernel has places of its own for the program and for the start of the stack.
        own = {str(Path(shutil.which(str(command[0])) or "").resolve()), "[stack]", "[vsyscall]"}
        for place in set(runs[0]) & set(runs[2]):
            if not place[1].endswith(".jsa"):  # the JVM asks for it at an address of its own
                self.assertIn(place[1], own | {""}, "another key, another place")

    def test_c(self) -> None:
        self.same([self.program, "maps"])

    def test_with_little_to_promise(self) -> None:
        """The heap gets to its place by smaller steps where one as large as memory is refused."""
        words: Words = [UPM, "run", "--layout", "keyed", "--", self.program, "places"]
        limited: Words = ["bash", "-c", 'ulimit -v 1000000; exec "$0" "$@"', *words]
        outs = [self.fine(run(one, self.variables("11" * 16))) for one in (words, limited)]
        self.assertEqual(outs[0], outs[1])

    def test_python(self) -> None:
        self.same([PYTHON, "-c", PYTHON_PROGRAM])

    def test_torch(self) -> None:
        if run([PYTHON, "-c", "import torch"], {}).returncode != 0:
            self.skipTest("no python3-torch")
        self.same([PYTHON, "-c", TORCH_PROGRAM])

    def test_python_hashes(self) -> None:
        script = "import os; print(hash('a'), os.environ.get('PYTHONHASHSEED'))"
        words = ["--layout", "keyed", "--", PYTHON, "-c", script]
        first, again, other = (
            self.fine(self.upm(*words, key=key)) for key in ("11" * 16, "11" * 16, "22" * 16)
        )
        self.assertEqual(first, again)
        self.assertNotEqual(first, other)
        self.assertIn("None", first)
        # What the user chose stays.
        chosen = {self.fine(self.upm(*words, key=new_key(), PYTHONHASHSEED="7")) for _ in "12"}
        self.assertEqual(len(chosen), 1)
        self.assertIn(" 7\n", chosen.pop())

    def test_node(self) -> None:
        """V8 chooses places for its own heap by itself, at random."""
        if not shutil.which("node"):
            self.skipTest("no node")
        script = "process.stdin.on('data', () => 0); console.log('ready')"
        self.same(["node", "-e", script], named=True)

    def test_java(self) -> None:
        """How far the JVM's arenas have grown is a matter of when its threads ran."""
        if not shutil.which("java"):
            self.skipTest("no java")
        source = self.folder / "Wait.java"
        source.write_text(JAVA_PROGRAM)
        if shutil.which("javac"):
            subprocess.run(["javac", "-d", self.folder, source], check=True)
            words: Words = ["java", "-Xmx64m", "-XX:-UsePerfData", "-cp", self.folder, "Wait"]
            self.same(words, named=True)
        else:
            self.skipTest("no javac")

    def test_rust(self) -> None:
        compiler = shutil.which("rustc", path="/usr/bin") or shutil.which("rustc")
        if not compiler:
            self.skipTest("no rustc")
        source = self.folder / "wait.rs"
        source.write_text(RUST_PROGRAM)
        built = subprocess.run(
            [compiler, "-o", self.folder / "rust", source],
            capture_output=True,
            text=True,
            check=False,
        )
        if built.returncode != 0:
            self.skipTest(f"{compiler} does not work: {built.stderr.strip().splitlines()[-1:]}")
        self.same([self.folder / "rust"])

    def test_go(self) -> None:
        """With C in it: the others are linked statically, and take no hook."""
        if not shutil.which("go"):
            self.skipTest("no go")
        source = self.folder / "wait.go"
        source.write_text(GO_PROGRAM)
        subprocess.run(["go", "build", "-o", self.folder / "go", source], check=True)
        self.same([self.folder / "go"], named=True)

    def test_redis(self) -> None:
        if not shutil.which("redis-server"):
            self.skipTest("no redis-server")
        socket = self.folder / "redis.sock"
        words: Words = ["redis-server", "--port", "0", "--save", "", "--unixsocket", socket]
        self.same(words, "ready to accept", named=True)


class Marks(Case):
    """What glibc marks freed memory with is that of the key, and works as before."""

    def mark(self, layout: str, key: str) -> int:
        """One process's."""
        return int(self.fine(self.upm("--layout", layout, "--", self.program, "mark", key=key)), 16)

    def test_one_key_one_mark(self) -> None:
        marks = [self.mark("keyed", key) for key in ("11" * 16, "11" * 16, "22" * 16)]
        if self.mark("stock", "11" * 16) < 1 << 48:
            self.skipTest("this glibc has no such mark")
        self.assertEqual(marks[0], marks[1])
        self.assertNotEqual(marks[0], marks[2])
        self.assertNotEqual(self.mark("stock", "11" * 16), self.mark("stock", "11" * 16))

    def test_freed_twice(self) -> None:
        for layout in ("stock", "keyed"):
            done = self.upm("--layout", layout, "--", self.program, "twice", key="11" * 16)
            self.assertEqual(done.returncode, -6, layout)
            self.assertIn("double free", done.stderr)


class Uniform(Case):
    """Many keys."""

    def check(self, values: list[int], bits: int) -> None:
        """The places are all within that many bits, and no four bits prefer a value."""
        self.assertLessEqual(max(values) - min(values), 2**bits)
        # By chance, RUNS^2 / 2^(bits + 1) values are there twice.
        self.assertLess(len(values) - len(set(values)), 5 + RUNS**2 / 2**bits)
        for shift in range(0, bits, 4):
            width = min(4, bits - shift)
            bins = Counter(value >> shift & (1 << width) - 1 for value in values)
            expected = len(values) / (1 << width)
            found = sum((bins[i] - expected) ** 2 / expected for i in range(1 << width))
            print(f"  bits {shift} to {shift + width - 1}: chi-square {found:.1f}")
            self.assertLess(found, CHI_SQUARE, f"bits {shift} to {shift + width - 1}: {bins}")

    def test_places(self) -> None:
        """Kernels that like huge pages put a large library, and what follows it, at 2 MiB."""
        places = [self.places(new_key()) for _ in range(RUNS)]
        linker, libc, heap = (list(values) for values in zip(*places, strict=True))
        for name, bits, values in (
            ("dynamic linker", MAP_BITS, linker),
            ("libc", MAP_BITS - HUGE_BITS, [value >> HUGE_BITS for value in libc]),
            ("heap", HEAP_BITS, heap),
        ):
            with self.subTest(name=name):
                print(f"{name}: {RUNS} keys, {len(set(values))} of 2^{bits} places")
                self.check(values, bits)


class Children(Case):
    """What the program and its children see is what they see without."""

    def shell(self, layout: str, script: str, stack: str) -> str:
        """The output of a script under `upm run`, with that limit of the stack before."""
        command = f'ulimit -Ss {stack}; exec "$0" "$@"'
        words: Words = [
            "bash",
            "-c",
            command,
            UPM,
            "run",
            "--scope",
            "all",
            "--layout",
            layout,
            "--",
        ]
        return self.fine(run([*words, "bash", "-c", script], self.variables("33" * 16)))

    def test_limits_personality_and_environment(self) -> None:
        script = (
            "ulimit -Ss; ulimit -Hs; cat /proc/self/personality /proc/$$/personality;"
            " env | grep -v ^SHLVL= | sort; tr '\\0' '\\n' </proc/self/environ | sort"
        )
        for stack in ("8192", "unlimited", "1000", "100000"):
            with self.subTest(stack=stack):
                self.assertEqual(
                    self.shell("keyed", script, stack), self.shell("stock", script, stack)
                )

    def test_own_environment(self) -> None:
        """The kernel's copy of it, too, has lost what the hook was told."""
        script = "print(open('/proc/self/environ').read().replace(chr(0), chr(10)))"
        out = self.fine(self.upm("--layout", "keyed", "--", PYTHON, "-c", script, key=new_key()))
        self.assertIn("UPM_SCOPE=all\n", out)
        self.assertNotIn("LAYOUT", out)
        self.assertNotIn("HASHSEED", out)

    def test_stacks_of_threads(self) -> None:
        for stack in ("8192", "unlimited", "100", "1001", "65536"):
            with self.subTest(stack=stack):
                command = f'ulimit -Ss {stack}; exec "$0" "$@"'
                outs = []
                for layout in ("stock", "keyed"):
                    words: Words = ["bash", "-c", command, UPM, "run", "--layout", layout, "--"]
                    done = run([*words, self.program, "stacks"], self.variables("44" * 16))
                    outs.append(self.fine(done))
                self.assertEqual(outs[0], outs[1])

    def test_children_have_the_usual_layout(self) -> None:
        script = "grep -m 1 libc.so /proc/self/maps | cut -d- -f1"
        out = self.shell("keyed", f"{script}; {script}; {script}", "8192").split()
        self.assertEqual(len(set(out)), 3, out)

    def test_programs_run_as_they_do(self) -> None:
        python = "import ctypes, json, sys; print(json.dumps(sorted(sys.flags)), sys.argv)"
        commands: tuple[Words, ...] = (
            [PYTHON, "-c", python, "a b"],
            ["bash", "-c", "ulimit -s; for i in 1 2 3; do echo $((i * i)); done | sort -r"],
            ["gcc", "-w", "-S", "-O2", "-o", "-", SOURCE],
            ["bash", "-c", "exit 7"],
            ["bash", "-c", "kill -SEGV $$"],
        )
        for command in commands:
            with self.subTest(command=command[0]):
                before = run(command, {})
                done = self.upm("--layout", "keyed", "--", *command, key=new_key())
                self.assertEqual(
                    (done.returncode, done.stdout), (before.returncode, before.stdout), done.stderr
                )

    def test_state_of_another_layout_is_dropped(self) -> None:
        """A program that has the variable, but not its limit, is left alone."""
        state = "0000000400000000" + "0000000000100000" * 5
        variables = self.variables() | {"LD_PRELOAD": str(HOOK), "UPM_LAYOUT_STATE": state}
        out = run(["bash", "-c", "ulimit -s; env"], variables)
        plain = run(["bash", "-c", "ulimit -s"], {})
        self.assertEqual(out.stdout.splitlines()[0], plain.stdout.strip())
        self.assertNotIn("LAYOUT", out.stdout)

    def test_musl(self) -> None:
        """The hook stays out there, but puts back what was changed for it."""
        if not shutil.which("musl-gcc"):
            self.skipTest("no musl-gcc")
        source, program = self.folder / "musl.c", self.folder / "musl"
        source.write_text(
            "#include <stdio.h>\n#include <stdlib.h>\n#include <sys/resource.h>\n"
            "int main(void) { struct rlimit l; getrlimit(RLIMIT_STACK, &l);\n"
            'printf("%lu %d\\n", (long)l.rlim_cur, getenv("UPM_LAYOUT_STATE") != NULL); }\n'
        )
        subprocess.run(["musl-gcc", "-o", program, source], check=True)
        gap, before = 1 << 40, 8 << 20
        state = "".join(f"{value:016x}" for value in (gap, before, 0, 1 << 30, 1, 9))
        variables = self.variables() | {"UPM_LAYOUT_STATE": state}
        limited = f'ulimit -Ss {gap // KIB} && LD_PRELOAD="$1" exec "$0"'
        words: Words = ["bash", "-c", limited, program]
        done = run(words, variables)
        self.assertEqual(done.stdout.split(), [str(gap), "1"], "without the hook")
        done = run([*words, HOOK], variables)
        self.assertEqual(self.fine(done).split(), [str(before), "0"])


class Keys(Case):
    """The user's own key."""

    def setUp(self) -> None:
        self.state = self.folder / self.id()
        self.file = self.state / "upm/layout-key"

    def user(self, *words: str | Path, **others: str) -> subprocess.CompletedProcess[str]:
        variables = {"XDG_STATE_HOME": str(self.state), "XDG_RUNTIME_DIR": "/proc"} | others
        return self.upm(
            "--layout", "keyed", "--", *(words or (self.program, "places")), **variables
        )

    def test_is_made_once(self) -> None:
        runs = [
            Program([UPM, "run", "--layout", "keyed", "--", self.program, "places"],
                    self.variables() | {"XDG_STATE_HOME": str(self.state)})
            for _ in range(8)
        ]  # fmt: skip
        outs = {program.end() for program in runs}
        self.assertEqual(len(outs), 1, "the first of them, for all")
        self.assertEqual(self.file.stat().st_mode & 0o777, 0o600)
        self.assertRegex(self.file.read_text(), r"^[0-9a-f]{32}\n$")
        self.assertEqual([path.name for path in self.file.parent.iterdir()], ["layout-key"])
        before = outs.pop()[0]
        self.assertEqual(self.fine(self.user()), before)
        self.file.unlink()
        self.assertNotEqual(self.fine(self.user()), before, "a new key")

    def test_elsewhere(self) -> None:
        """A folder below /run serves where there is no place in the user's own."""
        other = self.folder / "run"
        other.mkdir(exist_ok=True)
        self.state.write_text("no folder")
        self.fine(self.user(XDG_RUNTIME_DIR=str(other)))
        self.assertTrue((other / "upm-layout-key").exists())
        self.refused(self.user(), "no place for a key")

    def refused(self, done: subprocess.CompletedProcess[str], why: str) -> None:
        """The program runs, with one line that says why its layout is the usual one."""
        self.assertEqual(done.returncode, 0)
        self.assertRegex(done.stderr, rf"^upm run: stock layout in place of keyed: .*{why}.*\n$")
        self.assertNotEqual(done.stdout, "")

    def test_what_is_no_secret_is_not_taken(self) -> None:
        self.fine(self.user())
        self.file.chmod(0o640)
        self.refused(self.user(), "0600")
        self.file.chmod(0o600)
        self.file.write_text("nonsense")
        self.refused(self.user(), "holds no key")
        self.file.rename(self.file.with_name("other"))
        self.file.symlink_to("other")
        self.refused(self.user(), "layout-key")
        self.file.unlink()
        os.mkfifo(self.file, 0o600)
        self.refused(self.user(), "is no file")
        if os.geteuid() == 0:
            self.file.unlink()
            self.file.write_text("0" * 32)
            os.chown(self.file, 4711, 4711)
            self.file.chmod(0o600)
            self.refused(self.user(), "another user")

    def test_domains_key_that_is_none(self) -> None:
        done = self.upm("--layout", "keyed", "--", self.program, "places", key="nonsense")
        self.assertEqual(done.returncode, 0)
        self.assertIn("stock layout in place of keyed: UPM_DOMAIN", done.stderr)


class Refusals(Case):
    """Where it cannot be, the program runs all the same."""

    def check(
        self, why: str, *prefix: str | Path, program: Words = (), layout: str = "keyed"
    ) -> None:
        words = program or (self.program, "stacks")
        done = run(
            [*prefix, UPM, "run", "--layout", layout, "--", *words], self.variables("55" * 16)
        )
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertRegex(done.stderr, rf"^upm run: stock layout in place of {layout}: .*{why}.*\n$")
        if not program:
            plain = run([*prefix, self.program, "stacks"], {})
            self.assertEqual(done.stdout, plain.stdout)

    def test_hard_limit(self) -> None:
        self.check("hard limit", "bash", "-c", 'ulimit -s 100000; exec "$0" "$@"')

    def test_seccomp(self) -> None:
        self.check("personality", self.program, "deny")
        self.check("personality", self.program, "deny", layout="fixed")

    def test_addresses_from_below(self) -> None:
        if not shutil.which("setarch"):
            self.skipTest("no setarch")
        setarch = shutil.which("setarch") or ""
        self.check("from below", setarch, "--addr-compat-layout")

    def build(self, name: str, *options: str) -> Path:
        program = self.folder / name
        source = self.folder / "empty.c"
        source.write_text("int main(void) { return 0; }\n")
        built = subprocess.run(
            ["gcc", *options, "-o", program, source], capture_output=True, check=False
        )
        if built.returncode != 0:
            self.skipTest(f"gcc {options} does not work")
        return program

    def test_static_program(self) -> None:
        self.check("statically", program=[self.build("static", "-static")])

    def test_sanitizers(self) -> None:
        for name in ("thread", "address"):
            with self.subTest(name=name):
                program = self.build(name, f"-fsanitize={name}")
                self.check("sanitizer", program=[program])

    def test_scripts(self) -> None:
        """Env(1) would have the layout, and what it starts would not."""
        script = self.folder / "script"
        text = "import os; print(open('/proc/self/maps').read().count('libc'))\n"
        script.write_text(f"#!/usr/bin/env python3\n{text}")
        script.chmod(0o755)
        self.check("before the script", program=[script])
        script.write_text(f"#!{PYTHON}\n{text}")
        self.fine(self.upm("--layout", "keyed", "--", script, key=new_key()))

    def test_no_program(self) -> None:
        done = self.upm("--layout", "keyed", "--", "no-such-program", key=new_key())
        self.assertEqual(done.returncode, 127)
        self.assertNotIn("layout", done.stderr)

    def test_fixed_is_said_to_be_weak(self) -> None:
        script = "print(hash('a'), open('/proc/self/maps').readline())"
        outs = set()
        for word in (["--deterministic"], ["--layout", "fixed"]):
            done = self.upm(*word, "--", PYTHON, "-c", script, key=new_key())
            self.assertEqual(done.returncode, 0)
            self.assertRegex(done.stderr, r"^upm run: fixed layout: attacks .* easier.*\n$")
            outs.add(done.stdout)
        self.assertEqual(len(outs), 1)

    def test_nonsense(self) -> None:
        for words in (["--layout", "x"], ["--layout", "keyed", "--deterministic"]):
            self.assertEqual(self.upm(*words, "--", "true").returncode, 2)


if __name__ == "__main__":
    sys.exit(main("Maps", "Marks", "Uniform", "Children", "Keys", "Refusals"))
