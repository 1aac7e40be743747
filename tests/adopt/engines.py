# SPDX-License-Identifier: MIT
"""What tests of engines of Debian 13 share: the engine in its folder, a broker, and a build.

Needs root and debootstrap; the folder (tests/adopt/debian-folder engines, 700 MB) is made once.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import unittest
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))
import hooked
import podman_test
from folder import CACHE, ENVIRONMENT, ROOT, Entered, mount_overlay
from podman_test import SECONDS

FOLDER = CACHE / "debian-engines"
IMAGE = Path("/srv/image")
RUNC = ROOT / "build/bin/upm-runc"
LAYOUT = ROOT / "build/bin/upm-layout"
# Says where a library and the heap are.
PLACES = """
import json
lines = [line.split(maxsplit=5) for line in open("/proc/self/maps")]
found = {line[5].strip(): line[0] for line in reversed(lines) if len(line) > 5}
print(json.dumps({name: found[name] for name in found if "/libc.so" in name or name == "[heap]"}))
"""


def unmount(place: Path) -> None:
    """What mount_overlay() has mounted."""
    subprocess.run(["umount", place], check=True)


def remove_groups(name: str) -> None:
    """The control groups of that name, which are empty, by whatever version there is."""
    top = Path("/sys/fs/cgroup")
    for group in [*top.glob(name), *top.glob(f"*/{name}")]:
        for folder in sorted((path for path in group.rglob("*") if path.is_dir()), reverse=True):
            folder.rmdir()
        group.rmdir()


class Case(podman_test.Case):
    """An engine in its Debian, with this build's hook and a broker beside it."""

    engine_command = ""  # what people type
    state = ""  # the engine's folder for images and containers
    settings_file = ""

    def daemon(self) -> list[str]:
        """The words that start the engine; its containers are below self.group."""
        raise NotImplementedError

    def settings(self) -> str:
        """What its file of settings says."""
        raise NotImplementedError

    def setUp(self) -> None:
        super().setUp()
        (self.data / "places.py").write_text(PLACES)
        layers = self.path / "image"
        layers.mkdir()
        image = mount_overlay(FOLDER, layers)
        self.addCleanup(unmount, image)
        where = self.path / "engine"
        (where / "state").mkdir(parents=True)
        binds = {
            str(self.path): str(self.path),
            str(ROOT): str(ROOT),
            "/run/upm": "/run/upm",
            "/etc/cdi": "/etc/cdi",
            str(image): str(IMAGE),
            str(where / "state"): self.state,
        }
        mounts = [f"mkdir -p .{to}; mount --bind '{here}' .{to}" for here, to in binds.items()]
        self.folder = Entered(FOLDER, where, mounts)
        self.addCleanup(self.folder.close)
        self.inside = Path(f"/proc/{self.folder.pid}/root")
        settings = self.inside / self.settings_file.lstrip("/")
        settings.parent.mkdir(exist_ok=True)
        settings.write_text(self.settings())
        self.start_engine()

    def start_engine(self) -> None:
        """Until it answers."""
        self.group = f"upm-engine-test-{os.getpid()}"
        self.addCleanup(remove_groups, self.group)
        self.engine_log = (self.path / "engine.log").open("wb")
        self.addCleanup(self.engine_log.close)
        self.engine = subprocess.Popen(
            self.folder.inside(*self.daemon()),
            env=ENVIRONMENT,
            stdin=subprocess.DEVNULL,
            stdout=self.engine_log,
            stderr=self.engine_log,
        )
        self.addCleanup(self.stop_engine)
        hooked.wait_until(self.answers, "the engine answers")

    def answers(self) -> bool:
        """The engine takes calls."""
        if self.engine.poll() is not None:
            self.fail(f"the engine ended: {(self.path / 'engine.log').read_text()}")
        return self.ask("version").returncode == 0

    def ask(self, *words: str) -> subprocess.CompletedProcess[str]:
        """One command of the engine, to its end."""
        return subprocess.run(
            self.folder.inside(self.engine_command, *words),
            env=ENVIRONMENT,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=SECONDS,
        )

    def remove_containers(self) -> None:
        """What a failed test left."""
        raise NotImplementedError

    def stop_engine(self) -> None:
        """With all containers."""
        self.remove_containers()
        self.engine.terminate()
        self.engine.wait()

    def stop(self) -> None:
        """Ends the input of every container that runs."""
        for container in self.containers:
            if container.process.poll() is None:
                container.process.communicate(timeout=SECONDS)


def main() -> None:
    """Runs the tests of the script that was called, or says why not."""
    why = ""
    if os.geteuid() != 0:
        why = "needs root"
    elif not FOLDER.exists():
        if not shutil.which("debootstrap"):
            why = "no debootstrap: tools/dev/deps engines"
        else:
            subprocess.run([Path(__file__).parent / "debian-folder", "engines"], check=True)
    if why:
        print(f"skipped: {why}")
        sys.exit(hooked.EXIT_SKIPPED)
    if podman_test.INSIDE not in os.environ:
        sys.exit(podman_test.in_own_namespace())
    unittest.main()
