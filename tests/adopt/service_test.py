#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""upmd.socket and upmd.service as a systemd of their own runs them, hardening and all.

    tests/adopt/service_test.py

The packages of build/deb (`make deb`) are installed in a Debian 13 that an overlay leaves as it
is, and its systemd is process 1 of namespaces of its own, with a control group, a /dev and a
/run that go with it. Needs root and version 2 of control groups. What an operator meets there
only: the umask of the unit, folders that it may not write to, options that it does not take.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import unittest
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))
from folder import CACHE, DEBS, ENVIRONMENT, ROOT
from hooked import wait_until
from packages_test import Folder

BASE = CACHE / "debian-13"
SECONDS = 120
TRIES = 40
DEFAULTS = "/etc/default/upmd"
METRICS = "/var/lib/prometheus/node-exporter/upmd.prom"
KEY = "00112233445566778899aabbccddeeff"

# Where process 1 begins, with the folder of the Debian as $1: nothing of it is the machine's.
BOOT = """set -e
mount --make-rprivate /
cd "$1"
mount -t proc proc proc
mount --bind proc/sys proc/sys && mount -o remount,bind,ro proc/sys
mount -t sysfs -o ro sysfs sys
mount -t cgroup2 cgroup2 sys/fs/cgroup
mount -t tmpfs -o mode=755 dev dev
for name in null zero full random urandom tty; do
    touch dev/$name && mount --bind /dev/$name dev/$name
done
mkdir dev/pts dev/shm && mount -t devpts -o newinstance,ptmxmode=0666 devpts dev/pts
ln -s pts/ptmx dev/ptmx; ln -s /proc/self/fd dev/fd
mount -t tmpfs -o mode=755 run run
pivot_root . mnt && umount -l /mnt
exec env -i container=upm-test PATH=/usr/sbin:/usr/bin:/sbin:/bin \\
    /usr/lib/systemd/systemd --system --show-status=0 --log-target=journal \\
    systemd.unit=basic.target </dev/null >/dev/null 2>&1
"""

# Loads a file into one large block, and holds it until its input ends.
LOADER = """
import sys
block = open(sys.argv[1], "rb", buffering=0).read()
print(len(block), flush=True)
sys.stdin.read()
"""


def unified_groups() -> Path | None:
    """The top of the second version of control groups."""
    for line in Path("/proc/self/mounts").read_text().splitlines():
        words = line.split()
        if words[2] == "cgroup2":
            return Path(words[1])
    return None


def is_empty(group: Path) -> bool:
    """No process is in that control group."""
    return not (group / "cgroup.procs").read_text()


def why_not() -> str:
    """What is missing for these tests; empty: nothing."""
    if os.geteuid() != 0:
        return "needs root"
    if not any(DEBS.glob("upm_*.deb")):
        return "no packages: make deb"
    if not BASE.exists():
        return f"no {BASE}: tests/adopt/debian-folder 13 gets it"
    return "" if unified_groups() else "no control groups of version 2"


class Machine:
    """A Debian that systemd has started, until close()."""

    def __init__(self, where: Path, groups: Path) -> None:
        self.group = groups / f"upm-service-test-{os.getpid()}"
        self.folder = Folder(BASE, where)
        try:
            self.install()
            self.group.mkdir()
            self.boot()
        except BaseException:
            self.close()
            raise

    keeper: subprocess.Popen[bytes] | None = None
    pid = 0

    def install(self) -> None:
        """What an operator does first, and a folder as Debian's node_exporter has it."""
        for name in ("libupm1", "upm"):
            for package in DEBS.glob(f"{name}_*.deb"):
                shutil.copy(package, self.folder.root / "debs")
        self.folder.run("sh", "-c", "cd /debs && apt-get install -y ./libupm1_*.deb ./upm_*.deb")
        (self.folder.root / METRICS.lstrip("/")).parent.mkdir(parents=True)
        (self.folder.root / "root/loader.py").write_text(LOADER)
        (self.folder.root / "root").chmod(0o755)
        (self.folder.root / "root/weights").write_bytes(os.urandom(8 << 20))

    def boot(self) -> None:
        """Process 1, and the wait for its socket."""
        spaces = ["--mount", "--pid", "--fork", "--kill-child", "--uts", "--ipc", "--net"]
        enter = 'echo $$ >"$0/cgroup.procs" && exec unshare --cgroup "$@"'
        script = ["sh", "-c", BOOT, "sh", str(self.folder.root)]
        self.keeper = subprocess.Popen(["sh", "-c", enter, str(self.group), *spaces, *script])
        children = Path(f"/proc/{self.keeper.pid}/task/{self.keeper.pid}/children")
        wait_until(lambda: children.read_text().strip() != "", "process 1")
        self.pid = int(children.read_text())
        wait_until(lambda: self.answers("systemctl is-active upmd.socket"), "upmd.socket")

    def ask(self, line: str) -> subprocess.CompletedProcess[str]:
        """A line of a shell in there, to its end."""
        spaces = ["--mount", "--pid", "--uts", "--ipc", "--net", "--cgroup", "--root", "--wd"]
        return subprocess.run(
            ["nsenter", "--target", str(self.pid), *spaces, "--", "sh", "-c", line],
            env=ENVIRONMENT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            timeout=SECONDS,
        )

    def answers(self, line: str) -> bool:
        """It succeeds."""
        return self.ask(line).returncode == 0

    def type(self, line: str) -> str:
        """What it prints; it must succeed."""
        done = self.ask(line)
        if done.returncode != 0:
            raise AssertionError(f"{line}: exit {done.returncode}\n{done.stdout}")
        return done.stdout

    def options(self, text: str) -> None:
        """What an operator writes into the file of options, and says then."""
        self.type(f"echo 'UPMD_OPTIONS=\"{text}\"' >{DEFAULTS}")
        self.type("systemctl stop upmd.socket upmd.service; systemctl reset-failed")
        self.type("systemctl start upmd.socket")

    def load(self) -> subprocess.Popen[str]:
        """A program of an ordinary user, under the hook, that has loaded the weights."""
        spaces = ["--mount", "--pid", "--uts", "--ipc", "--net", "--cgroup", "--root", "--wd"]
        user = "setpriv --reuid 1000 --regid 1000 --clear-groups"
        hook = "LD_PRELOAD=/usr/lib/x86_64-linux-gnu/libupm-preload.so"
        line = f"exec {user} env {hook} UPM_DOMAIN={KEY} python3 /root/loader.py /root/weights"
        program = subprocess.Popen(
            ["nsenter", "--target", str(self.pid), *spaces, "--", "sh", "-c", line],
            env=ENVIRONMENT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert program.stdout is not None
        program.stdout.readline()
        return program

    def close(self) -> None:
        """Process 1 takes all others with it."""
        if self.keeper is not None:
            if self.pid:
                os.kill(self.pid, 9)
            self.keeper.wait()
        groups = [*self.group.rglob("*"), self.group] if self.group.exists() else []
        for path in sorted((p for p in groups if p.is_dir()), reverse=True):
            wait_until(partial(is_empty, path), f"the end of what ran in {path}")
            path.rmdir()
        self.folder.close()


class Service(unittest.TestCase):
    """One machine for all of it; each test begins with a service that does nothing."""

    machine: Machine

    @classmethod
    def setUpClass(cls) -> None:
        if why := why_not():
            raise unittest.SkipTest(why)
        where = tempfile.TemporaryDirectory(prefix="upm-service-")
        cls.addClassCleanup(where.cleanup)
        groups = unified_groups()
        assert groups is not None
        cls.machine = Machine(Path(where.name), groups)
        cls.addClassCleanup(cls.machine.close)

    def setUp(self) -> None:
        self.machine.options("")

    def broker(self) -> str:
        """What doctor says of it, as an ordinary user."""
        user = "setpriv --reuid 1000 --regid 1000 --clear-groups"
        lines = self.machine.ask(f"{user} upm doctor").stdout.splitlines()
        return next(line for line in lines if " broker " in line)

    def wake(self) -> None:
        """A program asks, and systemd starts the broker."""
        self.machine.load().communicate(timeout=SECONDS)

    def log(self) -> str:
        """The service's lines of the journal."""
        return self.machine.type("journalctl --no-pager --unit upmd.service --output cat")

    def wait_for_log(self, text: str) -> None:
        """The journal comes a moment later."""
        wait_until(lambda: text in self.log(), f"a line of the log with '{text}'")

    def test_programs_share(self) -> None:
        """What the unit forbids keeps the broker from nothing that it needs."""
        self.machine.options(f"--metrics {METRICS}")
        programs = []
        try:
            for _ in range(TRIES):  # a program does not wait for a broker that is late
                programs.append(self.machine.load())
                shown = self.machine.type("upm status")
                saved = [line for line in shown.splitlines() if line.startswith("key:")]
                if saved and saved[0].split()[5] != "0":
                    break
            else:
                self.fail(f"nobody shares\n{shown}\n{self.log()}")
        finally:
            for program in programs:
                program.communicate(timeout=SECONDS)

    def test_metrics_are_readable_for_the_collector(self) -> None:
        self.machine.options(f"--metrics {METRICS}")
        self.wake()
        user = "setpriv --reuid 1000 --regid 1000 --clear-groups"
        wait_until(lambda: self.machine.answers(f"test -e {METRICS}"), "the metrics")
        self.assertIn("upmd_max_bytes", self.machine.type(f"{user} cat {METRICS}"))

    def test_metrics_in_another_folder(self) -> None:
        """Not without the drop-in of docs/operating.md, and the log says why."""
        page = (ROOT / "docs/operating.md").read_text()
        drop_in = page.split("service_test.py -->\n```\n", 1)[1].split("```", 1)[0]
        folder = drop_in.strip().rpartition("=")[2]
        self.machine.type(f"mkdir -p {folder}")
        self.machine.options(f"--metrics {folder}/upmd.prom")
        self.wake()
        self.wait_for_log(f"cannot write metrics into {folder}/upmd.prom: Read-only file system")
        place = "/etc/systemd/system/upmd.service.d"
        self.machine.type(f"mkdir {place}; cat >{place}/override.conf <<'END'\n{drop_in}END\n")
        self.addCleanup(self.machine.type, f"rm -r {place}; systemctl daemon-reload")
        self.machine.type("systemctl daemon-reload; systemctl restart upmd.socket")
        self.wake()
        wait_until(lambda: self.machine.answers(f"test -e {folder}/upmd.prom"), "the metrics")

    def test_the_log_says_what_it_may_take(self) -> None:
        self.machine.options("--max 64 --quota 16")
        self.wake()
        self.wait_for_log(
            "listens at /run/upm/upmd.sock; shares at most 64 MiB, of one user 16 MiB"
        )

    def test_options_that_it_does_not_take(self) -> None:
        """`upm doctor` says so, and its cure works when it is typed."""
        self.machine.options("--max much")
        self.wake()  # the program runs without it
        # systemd tries five times.
        wait_until(lambda: self.machine.answers("systemctl is-failed upmd.socket"), "a failure")
        lines = self.machine.ask("upm doctor").stdout.splitlines()
        number = next(i for i, line in enumerate(lines) if " broker " in line)
        self.assertIn(f"cannot start with the options in {DEFAULTS}: upmd: ", lines[number])
        self.assertIn("much", lines[number])
        cure = lines[number + 1].partition("-> ")[2].removeprefix("on the host: ")
        self.machine.type(cure)
        self.assertIn("ok ", self.broker())
        self.wake()
        wait_until(lambda: self.machine.answers("systemctl is-active upmd.service"), "upmd")
        self.assertIn('#UPMD_OPTIONS="--max much"', self.machine.type(f"cat {DEFAULTS}"))

    def test_one_that_is_killed_comes_back(self) -> None:
        self.wake()
        wait_until(lambda: self.machine.answers("pidof upmd"), "a broker")
        before = self.machine.type("pidof upmd")
        self.machine.type("systemctl kill --signal KILL upmd.service")
        wait_until(
            lambda: self.machine.ask("pidof upmd").stdout not in ("", before), "another broker"
        )
        self.assertIn("ok ", self.broker())

    def test_switched_off(self) -> None:
        """Containers need the folder of the socket, whether somebody listens in it or not."""
        self.machine.type("systemctl disable --now upmd.socket upmd.service")
        self.addCleanup(self.machine.type, "systemctl enable --now upmd.socket")
        self.assertEqual(self.machine.type("ls -A /run/upm"), "")
        # What the next start of the machine does with a /run that is empty.
        self.machine.type("rm -r /run/upm && systemd-tmpfiles --create --boot --prefix /run/upm")
        self.assertEqual(self.machine.type("stat -c %a:%U /run/upm").strip(), "755:root")

    def test_to_look_wakes_nobody(self) -> None:
        self.assertIn("systemd listens", self.broker())
        self.assertIn("systemd listens", self.machine.ask("upm doctor").stdout)
        self.machine.type("upm status")
        self.assertFalse(self.machine.answers("systemctl is-active upmd.service"))
        self.wake()
        wait_until(lambda: "of user 0 at /run/upm/upmd.sock" in self.broker(), "upmd")

    def test_it_is_hardened(self) -> None:
        """The threshold of systemd's own judgement, of 10."""
        self.machine.type("systemd-analyze security --threshold=30 --no-pager upmd.service")


if __name__ == "__main__":
    unittest.main()
