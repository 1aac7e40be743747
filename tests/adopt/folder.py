# SPDX-License-Identifier: MIT
"""What tests of packages, engines and an operator's first hour share: a Debian in a folder."""

import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DEBS = ROOT / "build/deb"
CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "upm"
# For commands inside.
ENVIRONMENT = {
    "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
    "DEBIAN_FRONTEND": "noninteractive",
    "LC_ALL": "C.UTF-8",
}

# What apt, dpkg and dkms keep for themselves, whatever comes and goes.
BOOKS = re.compile(
    r"^(var/(cache|log)|var/lib/(apt|dpkg|dkms/mok)|tmp|run|dev|proc|debs|root|etc/ld\.so\.cache"
    r"|lib/modules/[^/]+/modules\.|usr/lib/modules/[^/]+/modules\.|var/lib/systemd/deb-systemd)"
)


def files_below(root: Path) -> set[str]:
    """All but what the package tools keep for themselves."""
    found = {str(path.relative_to(root)) for path in root.rglob("*")}
    return {name for name in found if not BOOKS.search(name) and "__pycache__" not in name}


def mount_overlay(base: Path, where: Path) -> Path:
    """A Debian over an untouched one, in where/root; what changes is in where/upper."""
    root, upper, work = where / "root", where / "upper", where / "work"
    for folder in (root, upper, work):
        folder.mkdir()
    layers = f"lowerdir={base},upperdir={upper},workdir={work}"
    subprocess.run(["mount", "-t", "overlay", "-o", layers, "upm", root], check=True)
    (root / "debs").mkdir()
    return root


class Entered:
    """A Debian over an untouched one, as the root of a mount namespace of its own.

    All of its mounts, the overlay too, are in that namespace: nothing of them is in the table
    of the one who made it. It goes with close().
    """

    def __init__(self, base: Path, where: Path, mounts: Sequence[str] = ()) -> None:
        """`mounts`: more shell commands, which run in the folder before it becomes the root."""
        script = (
            'set -e; mount --make-rprivate /; "$0" "$@"; cd "$3/root"\n'
            "mount -t proc proc proc; mount --rbind /sys sys; mount --rbind /dev dev\n"
            "mount -t tmpfs -o mode=755 run run\n"
            + "".join(f"{command}\n" for command in mounts)
            + "pivot_root . mnt; umount -l /mnt; echo; exec sleep infinity\n"
        )
        overlay = [sys.executable, __file__, str(base), str(where)]
        self.keeper = subprocess.Popen(
            ["unshare", "--mount", "sh", "-c", script, *overlay], stdout=subprocess.PIPE, text=True
        )
        assert self.keeper.stdout is not None
        if not self.keeper.stdout.readline():
            raise SystemExit(f"no folder of {base} to enter")

    @property
    def pid(self) -> int:
        """Of the process that keeps the namespace."""
        return self.keeper.pid

    def inside(self, *command: str) -> list[str]:
        """The words that run a command in there."""
        return ["nsenter", f"--mount=/proc/{self.pid}/ns/mnt", "--", *command]

    def close(self) -> None:
        """Ends the namespace; whoever runs in it keeps it until they end, too."""
        self.keeper.kill()
        self.keeper.communicate()


if __name__ == "__main__":
    mount_overlay(Path(sys.argv[1]), Path(sys.argv[2]))
