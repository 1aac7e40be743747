#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""The Debian packages of build/deb: installed, upgraded, used by a user, purged.

    tests/adopt/packages_test.py [Debian12|Debian13]

In a Debian of its own (tests/adopt/debian-folder), which an overlay leaves as it is. Needs
root and what `make deb` built. Another release than the one that they were built on takes
all but python3-upm and upm-device-plugin: each Debian has one version of Python and of gRPC.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
from folder import CACHE, DEBS, ENVIRONMENT, files_below, mount_overlay

PROGRAM = """
#include <upm/upm.hpp>
#include <cstdio>
#include <vector>
int main()
{
    std::vector<float> weights(1 << 20, 1.5F);
    const auto done = upm::advise(weights);
    std::printf("%d %f\\n", done ? 0 : done.error(), weights[12345]);
}
"""


def version_of(package: Path) -> str:
    """The version field of a package file."""
    done = subprocess.run(
        ["dpkg-deb", "-f", package, "Version"], capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


class Folder:
    """A Debian over an untouched one; all that happens inside goes with it."""

    def __init__(self, base: Path, where: Path) -> None:
        self.root = mount_overlay(base, where)

    def close(self) -> None:
        """Unmounts; the caller removes the layers."""
        subprocess.run(["umount", self.root], check=True)

    def run(self, *command: str, fails: bool = False) -> str:
        """What a command inside prints, on both streams."""
        inside = 'mount -t proc proc "$1/proc" && root=$1 && shift && exec chroot "$root" "$@"'
        done = subprocess.run(
            [
                *["unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-c", inside],
                *["sh", str(self.root), *command],
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            timeout=1800,
            env=ENVIRONMENT,
        )
        if (done.returncode != 0) != fails:
            raise AssertionError(f"{command}: exit {done.returncode}\n{done.stdout}")
        return done.stdout

    def install(self, *names: str) -> str:
        """What apt-get says of installing packages, or files of /debs."""
        return self.run("apt-get", "install", "-y", "--no-install-recommends", *names)

    def files(self) -> set[str]:
        """All but what the package tools keep for themselves."""
        return files_below(self.root)


def newer(package: Path, into: Path, version: str) -> None:
    """Makes the same package of a higher version: what the next build would be."""
    with tempfile.TemporaryDirectory() as name:
        tree = Path(name) / "tree"
        subprocess.run(["dpkg-deb", "-R", package, tree], check=True)
        control = tree / "DEBIAN/control"
        control.write_text(control.read_text().replace(version_of(package), version))
        subprocess.run(
            ["dpkg-deb", "--root-owner-group", "-b", tree, into],
            check=True,
            stdout=subprocess.DEVNULL,
        )


class Packages(unittest.TestCase):
    """What holds on each release."""

    release = ""
    without: tuple[str, ...] = ()

    def setUp(self) -> None:
        if not self.release:
            self.skipTest("for a release only")
        base = CACHE / f"debian-{self.release}"
        packages = sorted(DEBS.glob("*.deb"))
        if os.geteuid() != 0:
            self.skipTest("needs root, to change into a folder")
        if not packages:
            self.skipTest("no packages: make deb")
        if not base.exists():
            self.skipTest(f"no {base}: tests/adopt/debian-folder {self.release} gets it")
        self.packages = [p for p in packages if p.name.split("_")[0] not in self.without]
        where = tempfile.TemporaryDirectory(prefix="upm-packages-")
        self.addCleanup(where.cleanup)
        self.folder = Folder(base, Path(where.name))
        self.addCleanup(self.folder.close)
        self.before = self.folder.files()

    def install(self) -> None:
        """All of them, from their files."""
        for package in self.packages:
            shutil.copy(package, self.folder.root / "debs")
        names = [f"/debs/{package.name}" for package in self.packages]
        self.folder.install(*names)

    def names(self) -> list[str]:
        """Of the packages."""
        return [package.name.split("_")[0] for package in self.packages]

    def test_come_work_and_go(self) -> None:
        """Nothing is left of them, and nothing else is gone."""
        self.install()
        self.check_command()
        self.check_units()
        self.check_module()
        if "python3-upm" in self.names():
            text = self.folder.run("python3", "-c", "import upm; print(upm.__file__)")
            self.assertIn("/usr/lib/python3/dist-packages/upm", text)
        self.folder.run("upm", "cdi", "generate", "--domain", "left-behind")
        self.folder.run("apt-get", "autoremove", "--purge", "-y", *self.names())
        after = self.folder.files()
        self.assertEqual((after - self.before, self.before - after), (set(), set()))

    def check_command(self) -> None:
        """The command finds its hook, its library and its broker; pages of manual are there."""
        version = version_of(self.packages[0]).split("~")[0].split("-")[0]
        self.assertIn(version, self.folder.run("upm", "--version"))
        self.assertIn(version, self.folder.run("upmd", "--version"))
        self.folder.run("pss-report", "--help")
        # Process 1 starts no broker, and `upm run` says so; the program runs all the same.
        text = self.folder.run("upm", "run", "--", "sh", "-c", "echo $((6*7))")
        self.assertTrue(text.endswith("42\n"), text)
        complete = '. "$0"; COMP_WORDS=(upm do); COMP_CWORD=1; _upm; echo "$COMPREPLY"'
        file = "/usr/share/bash-completion/completions/upm"
        self.assertEqual(self.folder.run("bash", "-c", complete, file), "doctor\n")
        pages = ("man1/upm.1.gz", "man8/upmd.8.gz", "man3/upm_load.3.gz")
        for file in (*(f"man/{page}" for page in pages), "upm/upm.rules.yml", "upm/upm.json"):
            self.assertTrue((self.folder.root / "usr/share" / file).exists(), file)
        self.assertTrue((self.folder.root / "usr/lib/tmpfiles.d/upm.conf").exists())

    def check_units(self) -> None:
        """The system's socket is on after the next start, that of users is theirs to choose."""
        enabled = self.folder.root / "etc/systemd/system/sockets.target.wants/upmd.socket"
        self.assertTrue(enabled.is_symlink())
        self.assertFalse((self.folder.root / "etc/systemd/user/sockets.target.wants").exists())

    def check_module(self) -> None:
        """DKMS has built it for the kernel whose headers are there."""
        status = self.folder.run("dkms", "status")
        self.assertRegex(status, r"upm/[\d.]+, \S+-amd64, x86_64: installed")

    def test_a_program_is_built_and_runs(self) -> None:
        """What libupm-dev brings is enough, for a user who is not root."""
        self.install()
        self.folder.install("g++", "pkg-config")
        (self.folder.root / "tmp/program.cpp").write_text(PROGRAM)
        build = "g++ -std=c++20 /tmp/program.cpp -o /tmp/program $(pkg-config --cflags --libs upm)"
        self.folder.run("sh", "-c", build)
        text = self.folder.run("setpriv", "--reuid", "1000", "--clear-groups", "/tmp/program")
        self.assertRegex(text, r"^\d+ 1\.500000\n$")

    def test_the_next_build_takes_the_place_of_this_one(self) -> None:
        """An upgrade keeps what an operator has set, and leaves no second module."""
        self.install()
        settings = self.folder.root / "etc/default/upmd"
        settings.write_text('UPMD_OPTIONS="--max 128"\n')
        version = version_of(self.packages[0]) + "+1"
        for package in self.packages:
            newer(package, self.folder.root / "debs" / f"next-{package.name}", version)
        self.folder.install(*[f"/debs/next-{package.name}" for package in self.packages])
        shown = self.folder.run("dpkg-query", "-W", "-f", "${Version}\n", *self.names())
        self.assertEqual(set(shown.split()), {version})
        self.assertEqual(settings.read_text(), 'UPMD_OPTIONS="--max 128"\n')
        self.check_module()
        self.assertEqual(self.folder.run("dkms", "status").count("upm/"), 1)


class Debian12(Packages):
    """The release that has the kernel 6.1."""

    release = "12"


class Debian13(Packages):
    """The release that has the kernel 6.12."""

    release = "13"
    without = ("python3-upm", "upm-device-plugin")


if __name__ == "__main__":
    unittest.main()
