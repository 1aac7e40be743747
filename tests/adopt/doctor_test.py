#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""What `upm doctor` says is wrong, and that its cures work when typed.

Each test breaks one thing, finds its line, types the cure as it is printed into a shell and
looks again: the line is then ok. All runs as root in a mount namespace with a /run/upm,
/etc/cdi and /run/systemd of its own; files that a cure writes to lie over those of the
system: nothing of the machine's is changed.
"""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))
import hooked

INSIDE = "UPM_DOCTOR_TEST_INSIDE"
SOCKET = Path("/run/upm/upmd.sock")
CDI = Path("/etc/cdi")
NOBODY = 65534
PATH = "/usr/sbin:/usr/bin:/sbin:/bin"
# Loads files into blocks of their own and keeps them.
LOADER = """
import sys
blocks = [open(name, "rb", buffering=0).read() for name in sys.argv[1:]]
print(len(blocks), flush=True)
sys.stdin.read()
"""


def in_own_namespace() -> int:
    """Runs this very test again, where it can change what it likes."""
    mounts = "mount --make-rprivate / && for place in /run/upm /etc/cdi /run/systemd; do"
    mounts += " mkdir -p $place && mount -t tmpfs -o mode=755 upm-test $place || exit; done"
    mounts += ' && exec "$@"'
    command = ["unshare", "--mount", "sh", "-c", mounts, "sh", sys.executable, *sys.argv]
    there = {place: place.exists() for place in (SOCKET.parent, CDI, Path("/run/systemd"))}
    status = subprocess.run(command, env=os.environ | {INSIDE: "1"}, check=False).returncode
    for place, before in there.items():
        if not before:
            place.rmdir()
    return status


class Case(unittest.TestCase):
    """A machine where nothing is set up."""

    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory(prefix="upm-doctor-")
        self.addCleanup(folder.cleanup)
        self.path = Path(folder.name)
        self.path.chmod(0o755)
        self.addCleanup(self.clear)
        self.clear()

    def clear(self) -> None:
        """Ends every broker that has its socket in this /run/upm, and removes what is there."""
        for pid in self.brokers():
            os.kill(pid, signal.SIGKILL)
        hooked.wait_until(lambda: not self.brokers(), "a killed broker is still there")
        for place in (SOCKET.parent, CDI, Path("/run/systemd")):
            for entry in place.iterdir():
                if entry.is_dir() and not entry.is_symlink():
                    shutil.rmtree(entry)
                else:
                    entry.unlink()

    def brokers(self) -> list[int]:
        """Those in this mount namespace."""
        own = Path("/proc/self/ns/mnt").readlink()  # the namespace
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                called = (entry / "comm").read_text() == "upmd\n"
                state = (entry / "stat").read_text().rpartition(") ")[2][0]
                if called and state != "Z" and (entry / "ns/mnt").readlink() == own:
                    found.append(int(entry.name))
            except OSError:
                continue  # it has ended
        return found

    def start(self, *options: str) -> subprocess.Popen[bytes]:
        """A broker, which listens when this returns."""
        options = options or ("--mode", "0666")
        broker = subprocess.Popen([hooked.UPMD, "--socket", SOCKET, *options])
        self.addCleanup(self.reap, broker)
        hooked.wait_until(SOCKET.exists, "the socket of the broker")
        return broker

    def reap(self, broker: subprocess.Popen[bytes]) -> None:
        """Ends it, stopped or not."""
        broker.kill()
        broker.wait()

    def command(self, user: int) -> list[str]:
        """What goes before a command to run it as that user."""
        if user == 0:
            return []
        return ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups"]

    def doctor(self, user: int = 0, **variables: str) -> dict[str, dict[str, Any]]:
        """What it finds, by the names of the checks."""
        done = subprocess.run(
            [*self.command(user), hooked.UPM, "doctor", "--json"],
            env=hooked.environment(PATH=PATH, **variables),
            capture_output=True,
            text=True,
            timeout=hooked.SECONDS,
            check=False,
        )
        self.assertEqual(done.stderr, "")
        return {check["name"]: check for check in json.loads(done.stdout)["checks"]}

    def cure(self, name: str, found: str, user: int = 0, **variables: str) -> str:
        """The line says so; its cure, typed by root or by what that user has for root, helps."""
        line = self.doctor(user, **variables)[name]
        self.assertIn(line["status"], ("warn", "fail"), line)
        self.assertIn(found, line["found"])
        cure: str = line["cure"]
        shell = ["sh", "-c", cure]
        if user != 0:
            self.assertRegex(cure, r"^(sudo |su -c )")
            # The one who types it then knows the password, of which this machine has none.
            shell = ["sh", "-c", f'sudo() {{ "$@"; }}; su() {{ sh -c "$2"; }}; {cure}']
        log = self.path / "typed"
        with log.open("w") as output:
            done = subprocess.run(
                shell,
                env=hooked.environment(PATH=PATH),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                timeout=hooked.SECONDS,
                check=False,
            )
        self.assertEqual(done.returncode, 0, f"{cure}: {log.read_text()}")
        # What was started by `&` may need a moment.
        hooked.wait_until(
            lambda: self.doctor(user, **variables)[name]["status"] == "ok", f"cured by {cure}"
        )
        return cure


class Broker(Case):
    """The socket, and who is behind it."""

    def test_none(self) -> None:
        self.cure("broker", "nobody listens")
        lines = self.doctor()
        for name in ("socket", "merges"):
            self.assertEqual(lines[name]["status"], "ok", lines[name])

    def test_none_for_a_user_who_can_start_one(self) -> None:
        line = self.doctor(NOBODY)["broker"]
        self.assertEqual((line["status"], line["cure"]), ("ok", ""))
        self.assertIn("the first program that shares starts one", line["found"])

    def test_one_that_was_killed(self) -> None:
        broker = self.start()
        self.reap(broker)
        self.assertTrue(SOCKET.exists())
        self.cure("broker", "has ended")

    def test_one_that_was_killed_as_a_user_sees_it(self) -> None:
        self.reap(self.start())
        self.cure("broker", "has ended", NOBODY)

    def test_one_that_is_stopped(self) -> None:
        broker = self.start()
        self.stop(broker)
        self.assertEqual(self.cure("broker", "is stopped"), f"kill -CONT {broker.pid}")
        self.stop(broker)
        self.cure("broker", "is stopped", NOBODY)

    @staticmethod
    def stop(process: subprocess.Popen[bytes]) -> None:
        """Until it is: it must have a processor for that."""
        process.send_signal(signal.SIGSTOP)
        stat = Path(f"/proc/{process.pid}/stat")
        hooked.wait_until(
            lambda: stat.read_text().rpartition(") ")[2][0] == "T", "the broker is not stopped"
        )

    def test_one_that_does_not_answer(self) -> None:
        """Something else listens there, as root."""
        code = "import socket, sys, time; s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET);"
        code += "s.bind(sys.argv[1]); s.listen(); print(flush=True); time.sleep(1000)"
        other = subprocess.Popen(
            [hooked.PYTHON, "-c", code, SOCKET], stdout=subprocess.PIPE, text=True
        )
        self.addCleanup(other.communicate)
        self.addCleanup(other.kill)
        assert other.stdout is not None
        other.stdout.readline()
        self.cure("broker", "does not answer")
        other.wait()

    def test_a_socket_of_another_user(self) -> None:
        SOCKET.parent.chmod(0o777)
        command = [
            *self.command(NOBODY),
            hooked.PYTHON,
            "-c",
            (
                "import socket, sys; s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET);"
                "s.bind(sys.argv[1]); s.listen(); print(flush=True); sys.stdin.read()"
            ),
            str(SOCKET),
        ]
        other = hooked.Program(command, {})
        self.addCleanup(other.kill)
        other.line()
        SOCKET.parent.chmod(0o755)
        self.cure("broker", f"served by user {NOBODY}")

    def test_no_socket_at_all(self) -> None:
        SOCKET.write_text("")
        self.cure("broker", "is no socket")
        self.clear()
        SOCKET.mkdir()
        self.cure("broker", "is no socket")

    def test_a_mode_that_keeps_others_out(self) -> None:
        self.start("--mode", "0600")
        self.cure("socket", "mode 0600")
        SOCKET.parent.chmod(0o700)
        self.cure("socket", "mode 0666")
        SOCKET.chmod(0o600)
        self.cure("socket", "mode 0600", NOBODY)

    def test_a_folder_where_anybody_may_write(self) -> None:
        self.start()
        SOCKET.parent.chmod(0o777)
        self.cure("socket", "mode 0777")

    def test_one_that_is_full(self) -> None:
        """One user has all that one may have; programs come until the broker made it all."""
        self.start("--mode", "0666", "--max", "64", "--quota", "4")
        weights: list[str | Path] = [self.path / f"weights-{i}" for i in range(8)]
        for file in weights:
            Path(file).write_bytes(os.urandom(1 << 20))
        start: list[str | Path] = [hooked.UPM, "run", "--", hooked.PYTHON, "-c", LOADER]
        command = start + weights

        def is_full() -> bool:
            program = hooked.Program(command, {"UPM_BACKEND": "store"})
            self.addCleanup(program.kill)
            program.line()
            return bool(self.doctor()["quota"]["status"] == "warn")

        hooked.wait_until(is_full, "the broker keeps no content")
        self.assertRegex(self.cure("quota", "is not shared"), r"--max 64 --quota 8 &$")

    def test_systemd_that_listens_is_left_to_listen(self) -> None:
        """To look must not start a service."""
        units = Path("/run/systemd/units")
        units.mkdir()
        (Path("/run/systemd") / "system").mkdir()
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
            listener.bind(str(SOCKET))
            SOCKET.chmod(0o666)
            listener.listen()
            listener.setblocking(False)
            for user in (0, NOBODY):
                lines = self.doctor(user)
                self.assertIn("systemd listens", lines["broker"]["found"])
                self.assertEqual(lines["socket"]["status"], "ok")
                self.assertIn("the first program starts a broker", lines["backend"]["found"])
                with self.assertRaises(BlockingIOError):
                    listener.accept()
            (units / "invocation:upmd.service").symlink_to("4567")
            self.assertIn("does not answer", self.doctor()["broker"]["found"])


class Containers(Case):
    """What engines read."""

    def test_no_device(self) -> None:
        self.cure("cdi", "no device")
        self.assertIn("upm.dev/share=default", self.doctor()["cdi"]["found"])

    def test_a_hook_that_is_gone(self) -> None:
        gone = self.path / "libupm-preload.so"
        shutil.copy(hooked.HOOK, gone)
        SOCKET.touch()
        generate: list[str | Path] = [hooked.UPM, "cdi", "generate", "--domain", "team"]
        generate += ["--hook", gone]
        subprocess.run(generate, check=True, stdout=subprocess.DEVNULL)
        before = json.loads((CDI / "upm.dev-share-team.json").read_text())["devices"]
        gone.unlink()
        self.cure("cdi", f"names {gone}")
        after = json.loads((CDI / "upm.dev-share-team.json").read_text())["devices"]
        self.assertEqual(after, before)

    def test_a_key_that_others_can_read(self) -> None:
        self.cure("cdi", "no device")
        (CDI / "upm.dev-share-default.json").chmod(0o644)
        self.cure("cdi", "mode 0644")
        (CDI / "upm.dev-share-default.json").chmod(0o644)
        self.cure("cdi", "mode 0644", NOBODY)

    def test_something_else(self) -> None:
        (CDI / "upm.dev-share-default.json").write_text("{")
        (CDI / "upm.dev-share-default.json").chmod(0o600)
        self.cure("cdi", "is no specification")

    def test_a_copy_of_a_device(self) -> None:
        """An operator's, before a change: engines then refuse both."""
        self.cure("cdi", "no device")
        own = CDI / "upm.dev-share-default.json"
        for user in (0, NOBODY):
            copy = CDI / "upm.dev-share-default (before).json"
            shutil.copy(own, copy)
            if user == 0:
                self.cure("cdi", "engines take neither")
            else:
                self.assertEqual(self.doctor(user)["cdi"]["status"], "ok", "cannot see it")
                copy.unlink()
            self.assertTrue(own.exists())
            self.assertFalse(copy.exists())

    def test_a_hook_that_others_cannot_load(self) -> None:
        copy = self.path / "hook"
        shutil.copy(hooked.HOOK, copy)
        copy.chmod(0o600)
        subprocess.run(["mount", "--bind", copy, hooked.HOOK], check=True)
        try:
            self.cure("hook", "mode 0600")
            copy.chmod(0o600)
            self.cure("hook", "mode 0600", NOBODY)
        finally:
            subprocess.run(["umount", hooked.HOOK], check=True)

    def test_a_hook_that_is_none(self) -> None:
        copy = self.path / "hook"
        copy.write_text("no library")
        copy.chmod(0o644)
        subprocess.run(["mount", "--bind", copy, hooked.HOOK], check=True)
        try:
            line = self.doctor()["hook"]
        finally:
            subprocess.run(["umount", hooked.HOOK], check=True)
        self.assertEqual(line["status"], "fail")
        self.assertEqual(line["cure"], f"make -C {hooked.ROOT} user")


class System(Case):
    """Settings of the kernel, played by files that lie over them."""

    def play(self, place: str, text: str) -> None:
        """Until the end of the test."""
        played = self.path / place.replace("/", "-")
        played.write_text(text)
        subprocess.run(["mount", "--bind", played, place], check=True)
        self.addCleanup(subprocess.run, ["umount", place], check=True)

    def test_aslr_that_is_off(self) -> None:
        self.play("/proc/sys/kernel/randomize_va_space", "0\n")
        self.cure("aslr", "off")

    def test_ksm_where_nothing_else_merges(self) -> None:
        if not Path("/sys/kernel/mm/ksm/run").exists():
            self.skipTest("no KSM")
        self.play("/sys/kernel/mm/ksm/run", "0\n")
        self.cure("ksm", "KSM does not run", UPM_BACKEND="ksm")

    def test_a_limit_of_the_broker_s_group(self) -> None:
        """The limit of the group is played; which group it is the kernel says."""
        broker = self.start()
        groups = Path(f"/proc/{broker.pid}/cgroup").read_text().splitlines()
        group = next((g.split(":")[2] for g in groups if "memory" in g.split(":")[1]), None)
        if group is None:
            self.skipTest("no memory controller of version 1")
        place = f"/sys/fs/cgroup/memory{group.rstrip('/')}/memory.limit_in_bytes"
        if not Path(place).exists():
            self.skipTest(f"no {place}")
        self.play(place, "1048576\n")
        self.assertEqual(self.cure("cgroup", "limits the broker to 1.0 MiB"), f"echo -1 > {place}")

    def test_a_machine_without_modules_says_so_once(self) -> None:
        if Path("/proc/modules").exists():
            self.skipTest("this kernel takes modules")
        done = subprocess.run([hooked.UPM, "doctor"], capture_output=True, text=True, check=False)
        said = [line for line in done.stdout.splitlines() if "module" in line or "/dev/upm" in line]
        said = [line for line in said if not line.split()[1].startswith(("backend", "merges"))]
        self.assertEqual(len(said), 1, done.stdout)
        self.assertIn("no /proc/modules", said[0])

    def test_a_backend_that_was_chosen(self) -> None:
        line = self.doctor(UPM_BACKEND="none")["backend"]
        self.assertEqual((line["status"], line["cure"]), ("fail", "unset UPM_BACKEND"))


if __name__ == "__main__":
    if os.geteuid() != 0 or not shutil.which("setpriv"):
        print("skipped: needs root and setpriv")
        sys.exit(hooked.EXIT_SKIPPED)
    if INSIDE not in os.environ:
        sys.exit(in_own_namespace())
    sys.exit(hooked.main("Broker", "Containers", "System"))
