#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""The commands upm-runc and upm-layout: what they do to a bundle, and what they become.

A script plays the real runtime: it says how it was called and what it found. As root the
tests run in a mount namespace with a /dev of its own, in which /dev/log is theirs.
"""

from __future__ import annotations

import json
import os
import re
import resource
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "support"))
from hooked import HOOK, PYTHON, ROOT, HookCase, Words, environment, main

RUNC = ROOT / "build/bin/upm-runc"
LAYOUT = ROOT / "build/bin/upm-layout"
INSIDE = "UPM_RUNC_TEST_INSIDE"
KEY = "00112233445566778899aabbccddeeff"
LAUNCHER = "/opt/upm/upm-layout"
NO_RANDOMIZE = 0x40000

PLAYED = f"""#!{PYTHON}
import json, pathlib, resource, sys
config = pathlib.Path("config.json")
if "--bundle" in sys.argv:
    config = pathlib.Path(sys.argv[sys.argv.index("--bundle") + 1], "config.json")
print(json.dumps(dict(
    argv=sys.argv,
    personality=int(open("/proc/self/personality").read(), 16),
    config=config.read_text(errors="replace") if config.is_file() else None,
    stack=resource.getrlimit(resource.RLIMIT_STACK),
)))
sys.exit(7)
"""


def specification() -> dict[str, Any]:
    """Of a container that is a member of a domain."""
    launcher = {"destination": LAUNCHER, "type": "bind", "source": str(LAYOUT), "options": ["ro"]}
    return {
        "ociVersion": "1.0.2",
        "process": {"args": ["python3", "-c", "é"], "env": ["PATH=/bin", f"UPM_DOMAIN={KEY}"]},
        "mounts": [launcher],
        "linux": {},
    }


class Case(HookCase):
    """A folder with a runtime, and a bundle."""

    def setUp(self) -> None:
        super().setUp()
        folder = tempfile.TemporaryDirectory(prefix="upm-runc-")
        self.addCleanup(folder.cleanup)
        self.path = Path(folder.name)
        self.path.chmod(0o755)
        self.config = self.path / "bundle/config.json"
        self.config.parent.mkdir()
        self.runtime = self.path / "bin/runc"
        self.runtime.parent.mkdir()
        self.runtime.write_text(PLAYED)
        self.runtime.chmod(0o755)
        self.search = f"{self.runtime.parent}:/usr/bin:/bin"
        self.system_log: socket.socket | None = None
        if INSIDE in os.environ:
            self.system_log = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            self.addCleanup(self.system_log.close)
            Path("/dev/log").unlink(missing_ok=True)
            self.system_log.bind("/dev/log")
            self.system_log.setblocking(False)

    def logged(self) -> list[str]:
        """What came to the system's log."""
        lines: list[str] = []
        while self.system_log is not None:
            try:
                lines.append(self.system_log.recv(4096).decode())
            except BlockingIOError:
                break
        return lines

    def check_log(self, *patterns: str) -> None:
        """That many lines came, like these."""
        lines = self.logged()
        if self.system_log is None:
            return
        self.assertEqual(len(lines), len(patterns), lines)
        for line, pattern in zip(lines, patterns, strict=True):
            self.assertRegex(line, pattern)

    def command(
        self, *words: str | Path, program: Path = RUNC, runtime: str | Path | None = None
    ) -> subprocess.CompletedProcess[str]:
        """One run of the command."""
        variables = {"PATH": self.search}
        if runtime is not None:
            variables["UPM_RUNTIME"] = str(runtime)
        return subprocess.run(
            [program, *words],
            env=environment(**variables),
            cwd=self.config.parent,
            capture_output=True,
            text=True,
            check=False,
        )

    def answer(self, *words: str | Path) -> dict[str, Any]:
        """What the played runtime says; it gets these words and nothing else."""
        done = self.command(*words)
        self.assertEqual((done.returncode, done.stderr), (7, ""))
        found: dict[str, Any] = json.loads(done.stdout)
        self.assertEqual(found["argv"][1:], [str(word) for word in words])
        self.assertEqual(found["stack"], list(resource.getrlimit(resource.RLIMIT_STACK)))
        return found

    def create(self) -> dict[str, Any]:
        """As engines do it."""
        return self.answer("--root", "/r", "create", "--bundle", self.config.parent, "id")


class Bundle(Case):
    """What becomes of config.json."""

    def test_a_member(self) -> None:
        before = specification()
        self.config.write_text(json.dumps(before))
        found = self.create()
        after = json.loads(found["config"])
        self.assertEqual(after["process"]["args"], [LAUNCHER, *before["process"]["args"]])
        after["process"]["args"] = before["process"]["args"]
        self.assertEqual(after, before)
        self.assertEqual(found["personality"] & NO_RANDOMIZE, NO_RANDOMIZE)
        self.assertEqual([path.name for path in self.config.parent.iterdir()], ["config.json"])
        self.check_log()
        # Again, by a runtime that was called with other words.
        again = self.answer("run", "-b", ".", "id")
        self.assertEqual(again["config"], found["config"])
        self.assertEqual(again["personality"], found["personality"])

    def test_mode_and_owner_stay(self) -> None:
        self.config.write_text(json.dumps(specification()))
        self.config.chmod(0o640)
        if os.geteuid() == 0:
            os.chown(self.config, 4711, 4712)
        before = self.config.stat()
        self.create()
        after = self.config.stat()
        self.assertEqual(
            (stat.S_IMODE(after.st_mode), after.st_uid, after.st_gid),
            (0o640, before.st_uid, before.st_gid),
        )
        self.assertNotEqual(before.st_ino, after.st_ino)

    def untouched(self, text: str | bytes, *patterns: str) -> None:
        """Not a byte of this file changes."""
        data = text if isinstance(text, bytes) else text.encode()
        self.config.write_bytes(data)
        before = self.config.stat()
        found = self.create()
        self.assertEqual(found["personality"] & NO_RANDOMIZE, 0)
        self.assertEqual(self.config.read_bytes(), data)
        self.assertEqual(self.config.stat().st_ino, before.st_ino)
        self.check_log(*patterns)

    def test_others_are_left_alone_without_a_word(self) -> None:
        plain = specification()
        plain["process"]["env"] = ["PATH=/bin"]
        self.untouched(json.dumps(plain))
        self.untouched("{}")

    def test_what_is_odd_is_left_alone_with_a_word(self) -> None:
        odd = specification()
        odd["process"]["env"].append("UPM_DOMAIN=0")
        self.untouched(json.dumps(odd), r"upm-runc.*container id: left as it is: UPM_DOMAIN")
        odd = specification()
        odd["mounts"] = []
        self.untouched(json.dumps(odd), "left as it is: .*upm cdi generate")
        odd = specification()
        odd["linux"]["seccomp"] = {"defaultAction": "SCMP_ACT_ERRNO"}
        self.untouched(json.dumps(odd), "left as it is: .*personality")
        self.untouched("", "left as it is")
        self.untouched(b'{"process": "\xff"}', "left as it is")
        self.untouched('{"a": ' + "[" * 100_000, "left as it is: .*deep")
        self.untouched("[" * 100_000 + "]" * 100_000, "left as it is: .*deep")
        self.untouched("{" + " " * (16 << 20) + "}", "left as it is: .*usual size")
        self.untouched("7", "left as it is")

    def test_no_plain_file(self) -> None:
        other = self.path / "other.json"
        other.write_text(json.dumps(specification()))
        self.config.symlink_to(other)
        found = self.create()
        self.assertEqual(found["personality"] & NO_RANDOMIZE, 0)
        self.assertEqual(json.loads(other.read_text()), specification())
        self.config.unlink()
        os.mkfifo(self.config)
        self.assertEqual(self.create()["personality"] & NO_RANDOMIZE, 0)
        self.check_log("usual size", "usual size")
        self.config.unlink()
        self.assertIsNone(self.create()["config"])
        self.check_log()

    def mount(self, *options: str) -> None:
        """Something over the bundle, until the end of the test."""
        bundle = str(self.config.parent)
        subprocess.run(["mount", *options, bundle], check=True)
        self.addCleanup(lambda: subprocess.run(["umount", bundle], check=True))

    def test_a_bundle_that_cannot_be_written_to(self) -> None:
        self.config.write_text(json.dumps(specification()))
        if INSIDE not in os.environ:
            self.skipTest("needs root")
        bundle = self.config.parent
        self.mount("--bind", str(bundle))
        subprocess.run(["mount", "-o", "remount,bind,ro", bundle], check=True)
        found = self.create()
        self.assertEqual(found["personality"] & NO_RANDOMIZE, 0)
        self.assertEqual(json.loads(found["config"]), specification())
        self.check_log("left as it is: cannot write")

    def test_a_full_disk(self) -> None:
        if INSIDE not in os.environ:
            self.skipTest("needs root")
        bundle = self.config.parent
        self.mount("-t", "tmpfs", "-o", "size=64k,mode=755", "upm-test")
        self.config.write_text(json.dumps(specification()))
        with (bundle / "filler").open("wb", buffering=0) as file:
            try:
                for _ in range(100):
                    file.write(bytes(4096))
            except OSError:
                pass
        found = self.create()
        self.assertEqual(found["personality"] & NO_RANDOMIZE, 0)
        self.assertEqual(json.loads(found["config"]), specification())
        self.assertEqual({path.name for path in bundle.iterdir()}, {"config.json", "filler"})
        self.check_log("left as it is: cannot write .*No space")

    def test_other_commands(self) -> None:
        self.config.write_text(json.dumps(specification()))
        commands = ("--version", "start id", "exec id run", "delete id", "")
        for words in (command.split() for command in commands):
            found = self.answer(*words)
            self.assertEqual(found["personality"] & NO_RANDOMIZE, 0, words)
            self.assertEqual(json.loads(found["config"]), specification())
        self.check_log()

    def test_where_personality_is_forbidden(self) -> None:
        source, program = self.path / "deny.c", self.path / "deny"
        source.write_text(
            "#include <errno.h>\n#include <linux/filter.h>\n#include <linux/seccomp.h>\n"
            "#include <stddef.h>\n#include <sys/prctl.h>\n#include <sys/syscall.h>\n"
            "#include <unistd.h>\n"
            "int main(int c, char **v) { struct sock_filter f[] = {\n"
            "BPF_STMT(BPF_LD|BPF_W|BPF_ABS, offsetof(struct seccomp_data, nr)),\n"
            "BPF_JUMP(BPF_JMP|BPF_JEQ|BPF_K, SYS_personality, 0, 1),\n"
            "BPF_STMT(BPF_RET|BPF_K, SECCOMP_RET_ERRNO|EPERM),\n"
            "BPF_STMT(BPF_RET|BPF_K, SECCOMP_RET_ALLOW)};\n"
            "struct sock_fprog p = {4, f};\n"
            "return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) || prctl(PR_SET_SECCOMP, 2, &p) ||\n"
            "execv(v[1], v + 1); }\n"
        )
        subprocess.run(["gcc", "-w", "-o", program, source], check=True)
        self.config.write_text(json.dumps(specification()))
        done = self.command(RUNC, "create", "id", program=program)
        self.assertEqual((done.returncode, done.stderr), (7, ""))
        self.assertEqual(json.loads(self.config.read_text()), specification())
        self.check_log("left as it is: cannot switch")


class Runtime(Case):
    """Which program it becomes."""

    def becomes(self, program: Path, runtime: str | Path | None = None) -> str:
        done = self.command("state", "id", program=program, runtime=runtime)
        self.assertEqual((done.returncode, done.stderr), (7, ""))
        return str(json.loads(done.stdout)["argv"][0])

    def test_by_its_name(self) -> None:
        crun = self.path / "bin/crun"
        shutil.copy(self.runtime, crun)
        link = self.path / "upm-crun"
        link.symlink_to(RUNC)
        self.assertEqual(self.becomes(link), str(crun))
        self.assertEqual(self.becomes(RUNC), str(self.runtime))
        other = self.path / "another-name"
        other.symlink_to(RUNC)
        self.assertEqual(self.becomes(other), str(self.runtime))

    def test_by_the_variable(self) -> None:
        other = self.path / "elsewhere"
        shutil.copy(self.runtime, other)
        self.assertEqual(self.becomes(RUNC, other), str(other))
        self.assertEqual(self.becomes(RUNC, "runc"), str(self.runtime))
        self.assertEqual(self.becomes(RUNC, ""), str(self.runtime))

    def test_never_itself(self) -> None:
        """A link that is called as the runtime is passed over."""
        trap = self.path / "trap"
        trap.mkdir()
        (trap / "runc").symlink_to(RUNC)
        self.search = f"{trap}:.:{self.runtime.parent}"
        self.assertEqual(self.becomes(RUNC), str(self.runtime))
        done = self.command("state", runtime=trap / "runc")
        self.assertEqual(done.returncode, 127)
        self.assertIn("cannot find the runtime", done.stderr)

    def test_a_missing_one_is_told(self) -> None:
        log = self.path / "log.json"
        self.config.write_text(json.dumps(specification()))
        words = ("--log-format=json", "--log", log, "create", "id")
        done = self.command(*words, runtime="no-such-runtime")
        self.assertEqual(done.returncode, 127)
        self.assertRegex(done.stderr, "^upm-runc: cannot find the runtime no-such-runtime.*\n$")
        entry = json.loads(log.read_text())
        self.assertEqual(entry["level"], "error")
        self.assertEqual(f"{entry['msg']}\n", done.stderr)
        self.assertEqual(json.loads(self.config.read_text()), specification())
        self.check_log("cannot find the runtime")
        broken = self.path / "broken"
        broken.write_text("#!/no/such/interpreter\n")
        broken.chmod(0o755)
        done = self.command("state", "id", runtime=broken)
        self.assertEqual(done.returncode, 127)
        self.assertIn("cannot run", done.stderr)


class Launcher(Case):
    """What upm-layout does inside; setarch(8) plays upm-runc."""

    def launch(
        self, *words: str | Path, prefix: Words = (), **variables: str
    ) -> subprocess.CompletedProcess[str]:
        """One run of it where randomisation is off."""
        setarch = shutil.which("setarch") or "setarch"
        known = {"UPM_DOMAIN": KEY, "UPM_BACKEND": "none", "LD_PRELOAD": str(HOOK)} | variables
        given = [f"{name}={value}" for name, value in known.items()]
        return subprocess.run(
            [*prefix, setarch, "-R", "env", *given, LAYOUT, *words],
            env=environment(PATH="/usr/bin:/bin:/sbin:/usr/sbin"),
            capture_output=True,
            text=True,
            check=False,
        )

    def libc(self, *prefix: str, **variables: str) -> str:
        """Where it is, after a look at what children see."""
        script = (
            "import subprocess; print(open('/proc/self/personality').read().strip(), [l for l in"
            " open('/proc/self/maps') if 'libc.so' in l][0].split('-')[0],"
            " subprocess.check_output('ulimit -s', shell=True).decode().strip())"
        )
        done = self.launch(PYTHON, "-c", script, prefix=prefix, **variables)
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        personality, place, stack = done.stdout.split()
        self.assertEqual(personality, "00000000")
        self.assertEqual(stack, "1234" if prefix else f"{self.stack()}")
        return place

    def stack(self) -> int:
        """The soft limit here, KiB."""
        return resource.getrlimit(resource.RLIMIT_STACK)[0] // 1024

    def test_one_key_one_place(self) -> None:
        first = self.libc()
        self.assertEqual(first, self.libc())
        self.assertEqual(first, self.libc("bash", "-c", 'ulimit -Ss 1234; exec "$@"', "bash"))
        self.assertNotEqual(first, self.libc(UPM_DOMAIN="ff" * 16))

    def test_a_key_in_a_file(self) -> None:
        file = self.path / "key"
        file.write_text(f"{KEY}\n")
        self.assertEqual(self.libc(UPM_DOMAIN=str(file)), self.libc())

    def random(self, *prefix: str, **variables: str) -> None:
        """Randomisation is on again."""
        self.assertEqual(len({self.libc(*prefix, **variables) for _ in range(3)}), 3)

    def test_where_it_cannot_be_it_is_the_usual_one(self) -> None:
        self.random(UPM_DOMAIN="")
        self.random(LD_PRELOAD="")
        self.random("bash", "-c", 'ulimit -s 1234; exec "$@"', "bash")
        done = self.launch(PYTHON, "-c", "0", UPM_VERBOSE="1", LD_PRELOAD="")
        self.assertRegex(done.stderr, "upm-layout: stock layout: LD_PRELOAD names no")

    def test_static_programs(self) -> None:
        source, program = self.path / "static.c", self.path / "static"
        source.write_text(
            "#include <stdio.h>\n#include <stdlib.h>\n#include <sys/personality.h>\n"
            "#include <sys/resource.h>\nint main(void) { struct rlimit l;\n"
            'getrlimit(RLIMIT_STACK, &l); printf("%d %lu %d\\n", personality(0xffffffff),\n'
            '(long)l.rlim_cur / 1024, getenv("UPM_LAYOUT_STATE") != NULL); }\n'
        )
        subprocess.run(["gcc", "-static", "-o", program, source], check=True)
        done = self.launch(program)
        self.assertEqual(done.stdout.split(), ["0", str(self.stack()), "0"])

    def test_where_randomisation_is_on_nothing_happens(self) -> None:
        words: Words = [LAYOUT, "sh", "-c", "grep -m 1 libc /proc/$$/maps; env | grep UPM_SCOPE; :"]
        outs = set()
        for _ in range(3):
            variables = {"UPM_DOMAIN": KEY, "UPM_BACKEND": "none", "LD_PRELOAD": str(HOOK)}
            done = subprocess.run(
                words, env=environment(**variables), capture_output=True, text=True, check=True
            )
            self.assertNotIn("UPM_SCOPE", done.stdout)
            outs.add(done.stdout)
        self.assertEqual(len(outs), 3)

    def test_scope(self) -> None:
        script = "echo $UPM_SCOPE"
        self.assertEqual(self.launch("sh", "-c", script).stdout, "all\n")
        self.assertEqual(self.launch("sh", "-c", script, UPM_SCOPE="loads").stdout, "loads\n")

    def test_words_and_status_are_the_programs(self) -> None:
        done = self.launch("bash", "-c", 'printf "%s|" "$0" "$@"; exit 9', "a b", "", "-x", "--")
        self.assertEqual((done.returncode, done.stdout), (9, "a b||-x|--|"))
        self.assertEqual(self.launch("no-such-program").returncode, 127)
        self.assertEqual(self.launch("/no/such/program").returncode, 127)
        self.assertEqual(self.launch("/etc").returncode, 126)
        text = self.path / "text"
        text.write_text("exit 3\n")
        text.chmod(0o755)
        self.assertEqual(self.launch(text).returncode, 126, "no shell takes it")
        self.assertEqual(subprocess.run([LAYOUT], capture_output=True, check=False).returncode, 2)

    def test_it_needs_no_library(self) -> None:
        text = subprocess.run(["file", "-L", LAYOUT], capture_output=True, text=True, check=False)
        if text.returncode == 0:
            self.assertIn("statically linked", text.stdout)
        headers = subprocess.run(
            ["readelf", "-lW", LAYOUT], capture_output=True, text=True, check=True
        )
        self.assertNotIn("INTERP", headers.stdout)

    def test_its_calls_are_those_that_filters_are_asked_for(self) -> None:
        if not shutil.which("strace"):
            self.skipTest("no strace")
        source = (ROOT / "tools/upm-runc/seccomp.cpp").read_text()
        known = set(re.findall(r'"(\w+)"', source.split("kCalls = {")[1].split("};")[0]))
        trace = self.path / "trace"
        for program in ("/bin/true", "true", "no-such-program", "/etc", PYTHON):
            self.launch(program, "--version", prefix=["strace", "-o", str(trace)])
            calls, ours = set(), False
            for line in trace.read_text().splitlines():
                name = line.split("(")[0]
                if name == "execve" and line.endswith(" = 0"):
                    ours = str(LAYOUT) in line.split(",")[0]
                elif ours and re.fullmatch(r"\w+", name):
                    calls.add(name)
            self.assertIn("personality", calls)
            self.assertEqual(calls - known, set(), program)


def in_own_namespace() -> int:
    """Runs this very test again, where /dev is its own."""
    mounts = (
        "mount --make-rprivate / && mount -t tmpfs -o mode=755 upm-test /dev && "
        "mknod -m 666 /dev/null c 1 3 && mknod -m 666 /dev/urandom c 1 9 && "
        'ln -s /proc/self/fd /dev/fd && exec "$@"'
    )
    command = ["unshare", "--mount", "sh", "-c", mounts, "sh", sys.executable, *sys.argv]
    return subprocess.run(command, env=os.environ | {INSIDE: "1"}, check=False).returncode


def may_have_a_namespace() -> bool:
    """Returns true if root may do here what in_own_namespace() does."""
    if os.geteuid() != 0:
        return False
    tried = "mount -t tmpfs upm-test /mnt && mknod /mnt/null c 1 3"
    command = ["unshare", "--mount", "sh", "-c", tried]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


if __name__ == "__main__":
    if INSIDE not in os.environ and may_have_a_namespace():
        sys.exit(in_own_namespace())
    sys.exit(main("Bundle", "Runtime", "Launcher"))
