#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""The images of deploy/images: built by buildah, and what runs in them.

    tests/adopt/images_test.py [CLASS[.TEST]...]    needs root, buildah, podman, runc, `make deb`

No registry is asked: the base is a debootstrapped Debian (tests/adopt/debian-folder base)
under the name that the Containerfiles have. Images and containers are in a folder that goes
with the test.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path
from typing import ClassVar

sys.path.insert(0, str(Path(__file__).resolve().parent))
from folder import CACHE, DEBS, ROOT

BASE = "docker.io/library/debian:bookworm-slim"
TAG = "test"
SECONDS = 1800


def run(*command: str | Path, **more: str) -> str:
    """What a command prints, which must succeed."""
    done = subprocess.run(
        command,
        cwd=ROOT,
        env=os.environ | more,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    if done.returncode != 0:
        raise AssertionError(f"{command}: exit {done.returncode}\n{done.stdout}")
    return done.stdout


class Images(unittest.TestCase):
    """A store of images with the base in it, and the two that are built on it."""

    places: ClassVar[list[str]]

    @classmethod
    def setUpClass(cls) -> None:
        folder = tempfile.mkdtemp(prefix="upm-images-")
        cls.addClassCleanup(shutil.rmtree, folder, ignore_errors=True)
        cls.places = ["--log-level", "error"]
        cls.places += ["--root", f"{folder}/store", "--runroot", f"{folder}/run"]
        # What overlays are mounted there goes with the containers, but for the store's own.
        cls.addClassCleanup(subprocess.run, ["umount", "--quiet", f"{folder}/store/overlay"])
        container = run("buildah", *cls.places, "from", "scratch").strip()
        run("buildah", *cls.places, "add", "--quiet", container, CACHE / "debian-base", "/")
        run("buildah", *cls.places, "commit", "--quiet", "--rm", container, BASE)
        run("deploy/images/build", "--tag", TAG, STORAGE=" ".join(cls.places))

    def inside(self, image: str, *command: str, options: tuple[str, ...] = ()) -> str:
        """What a command prints in a container of an image."""
        return run(
            *["podman", "--runtime", "runc", *self.places],
            *["--cgroup-manager", "cgroupfs", "--events-backend", "file"],
            *["run", "--rm", "--network=none"],
            *["--ulimit", "nofile=1000:1000", "--ulimit", "nproc=1000:1000"],
            *[*options, f"localhost/{image}:{TAG}", *command],
        )

    def version(self) -> str:
        """The one place of it."""
        (line,) = (
            line
            for line in (ROOT / "kmod/dkms.conf").read_text().splitlines()
            if line.startswith("PACKAGE_VERSION")
        )
        return line.split('"')[1]

    def test_programs_start(self) -> None:
        for program in ("upm-device-plugin", "upmd"):
            said = self.inside("upm-node", f"/usr/bin/{program}", "--version")
            self.assertEqual(said, f"{program} {self.version()}\n")
            said = self.inside("upm-node", f"/usr/bin/{program}", "--help")
            self.assertIn("--start-below-free", said)

    def test_what_the_chart_runs(self) -> None:
        """The first container of the DaemonSet, as it is confined there."""
        with tempfile.TemporaryDirectory() as folder:
            script = (
                "for file in /usr/lib/x86_64-linux-gnu/libupm-preload.so"
                " /usr/libexec/upm/upm-layout /usr/bin/upm-runc; do cp $file /var/lib/upm; done"
            )
            chart = (ROOT / "deploy/helm/upm/templates/daemonset.yaml").read_text()
            for word in script.split():
                if word.startswith("/usr/"):
                    self.assertIn(word.rstrip(";"), chart)
            confined = ("--read-only", "--cap-drop=all", "--security-opt=no-new-privileges")
            mount = ("--volume", f"{folder}:/var/lib/upm")
            self.inside("upm-node", "/bin/sh", "-euc", script, options=(*confined, *mount))
            for name in ("upm-layout", "upm-runc"):
                shown = run("readelf", "--wide", "--program-headers", f"{folder}/{name}")
                self.assertNotIn("INTERP", shown, "nodes may have another libc")
            hook = run("readelf", "--wide", "--dynamic", f"{folder}/libupm-preload.so")
            self.assertNotIn("NEEDED", hook)

    def test_the_plugin_waits_for_a_kubelet(self) -> None:
        """With the options of the manifests, where nothing of a node is there."""
        script = (
            "mkdir -p /run/upm-device-plugin; timeout --preserve-status 5"
            " /usr/bin/upm-device-plugin --state=/run/upm-device-plugin/state"
            " --kubelet=/kubelet 2>&1"
        )
        said = self.inside("upm-node", "/bin/sh", "-c", script)
        self.assertIn("waits for the kubelet: /kubelet: No such file", said)

    def test_the_driver_has_a_compiler_and_the_source(self) -> None:
        script = "set -e; test -x /usr/local/bin/load-module; make --version; gcc --version"
        self.inside(
            "upm-driver", "/bin/sh", "-c", f"{script}; ls /opt/upm-dkms/usr/src/upm-*/Kbuild"
        )

    def test_no_lists_of_packages_stay(self) -> None:
        """Nor what they were installed from."""
        self.assertEqual(self.inside("upm-node", "ls", "/var/lib/apt/lists"), "")
        self.assertIn("No such file", self.inside("upm-node", "sh", "-c", "ls /debs 2>&1 || true"))


def main() -> int:
    """Exit status 4 and why, where that cannot run."""
    missing = [name for name in ("buildah", "podman", "runc") if not shutil.which(name)]
    if os.geteuid() != 0 or missing:
        print(f"skipped: needs root, {' '.join(missing)}")
        return 4
    if not (CACHE / "debian-base").exists():
        print("skipped: tests/adopt/debian-folder base makes what it needs")
        return 4
    if not list(DEBS.glob("upm-device-plugin_*.deb")):
        print("skipped: no packages in build/deb: make deb")
        return 4
    unittest.main()
    return 0


if __name__ == "__main__":
    sys.exit(main())
