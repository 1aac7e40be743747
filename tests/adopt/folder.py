# SPDX-License-Identifier: MIT
"""What tests of packages and of an operator's first hour share: a Debian in a folder."""

import os
import re
import subprocess
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
