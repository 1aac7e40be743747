# SPDX-License-Identifier: MIT
"""The config.json of an OCI bundle: what runc is told of a container.

Own pid, mount, network, IPC and UTS namespaces, a memory limit, a read-only /sys
and Docker's default capabilities. Devices: those that every container has, and
those that merging can use, where the host has them.

https://github.com/opencontainers/runtime-spec/blob/v1.0.2/config.md
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

MIB = 1 << 20
NAMESPACES = ("pid", "mount", "network", "ipc", "uts")
# As Docker's default; no CAP_SYS_ADMIN, CAP_SYS_PTRACE or CAP_NET_ADMIN.
CAPABILITIES = [
    f"CAP_{name}"
    for name in (
        "CHOWN DAC_OVERRIDE FSETID FOWNER MKNOD NET_RAW SETGID SETUID SETFCAP SETPCAP "
        "NET_BIND_SERVICE SYS_CHROOT KILL AUDIT_WRITE"
    ).split()
]
DEVICES = (Path("/dev/upm"), Path("/dev/userfaultfd"))


@dataclass(frozen=True)
class Bind:
    """A directory or file of the host in the container."""

    source: Path
    target: str
    writable: bool = False


@dataclass(frozen=True)
class Spec:
    """What runs in a container."""

    command: list[str]
    environment: dict[str, str]
    directory: str = "/"
    memory: int = 0
    """Limit in MiB; 0: none."""
    binds: list[Bind] = field(default_factory=list)


def _mounts(binds: list[Bind]) -> list[dict[str, Any]]:
    def mount(target: str, kind: str, *options: str) -> dict[str, Any]:
        return {"destination": target, "type": kind, "source": kind, "options": list(options)}

    closed = ("nosuid", "noexec", "nodev")
    mounts = [
        mount("/proc", "proc"),
        mount("/dev", "tmpfs", "nosuid", "strictatime", "mode=755", "size=64k"),
        mount("/dev/pts", "devpts", *closed[:2], "newinstance", "ptmxmode=0666", "mode=0620"),
        mount("/dev/shm", "tmpfs", *closed, "mode=1777", "size=64m"),
        mount("/sys", "sysfs", *closed, "ro"),
        mount("/tmp", "tmpfs", "nosuid", "nodev", "mode=1777", "size=64m"),
        mount("/run", "tmpfs", "nosuid", "nodev", "mode=755", "size=16m"),
    ]
    for bind in binds:
        options = ["rbind", "rw" if bind.writable else "ro", "nosuid", "nodev"]
        mounts.append(
            {
                "destination": bind.target,
                "type": "bind",
                "source": str(bind.source),
                "options": options,
            }
        )
    return mounts


def _devices() -> list[dict[str, Any]]:
    found = []
    for path in DEVICES:
        if path.exists() and stat.S_ISCHR((status := path.stat()).st_mode):
            numbers = {"major": os.major(status.st_rdev), "minor": os.minor(status.st_rdev)}
            found.append({"path": str(path), "type": "c", "fileMode": 0o666, **numbers})
    return found


def config(spec: Spec, rootfs: Path, name: str, group: str) -> dict[str, Any]:
    """The content of config.json. `group`: path of the container's control group."""
    devices = _devices()
    allowed = [
        {"allow": True, "type": "c", "major": d["major"], "minor": d["minor"], "access": "rw"}
        for d in devices
    ]
    resources: dict[str, Any] = {"devices": [{"allow": False, "access": "rwm"}, *allowed]}
    if spec.memory:
        resources["memory"] = {"limit": spec.memory * MIB}
    kinds = ("bounding", "effective", "permitted")
    return {
        "ociVersion": "1.0.2",
        "hostname": name,
        "root": {"path": str(rootfs), "readonly": False},
        "process": {
            "terminal": False,
            "user": {"uid": 0, "gid": 0},
            "args": spec.command,
            "env": [f"{key}={value}" for key, value in spec.environment.items()],
            "cwd": spec.directory,
            "capabilities": {kind: CAPABILITIES for kind in kinds},
            "noNewPrivileges": True,
        },
        "mounts": _mounts(spec.binds),
        "linux": {
            "namespaces": [{"type": kind} for kind in NAMESPACES],
            "devices": devices,
            "resources": resources,
            "cgroupsPath": f"/{group}",
            "maskedPaths": ["/proc/kcore", "/proc/keys", "/proc/sysrq-trigger"],
            "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys"],
        },
    }
