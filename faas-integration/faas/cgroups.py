# SPDX-License-Identifier: MIT
"""Control groups: what the kernel counts of memory, and its freezer; both versions.

A path is that of a group below the root, without a slash in front. With version
1 each controller has a tree of its own.
"""

from __future__ import annotations

import contextlib
import time
from pathlib import Path

ROOT = Path("/sys/fs/cgroup")
TRIES, PAUSE = 100, 0.05  # of what the kernel does a moment later


class CgroupError(OSError):
    """The kernel did not do it, in a time that is ample."""


def _is_unified() -> bool:
    return (ROOT / "cgroup.controllers").exists()


def _directory(controller: str, path: str) -> Path:
    return ROOT / path if _is_unified() else ROOT / controller / path


def memory(path: str) -> int | None:
    """Bytes that the kernel counts for the group and those below it; None if it does not.

    These are all kinds of memory, by the group that touched a page first: pages of
    the programs, of files, of shared memory, and page tables. What groups below had
    and left when they were removed is in it.
    """
    name = "memory.current" if _is_unified() else "memory.usage_in_bytes"
    try:
        return int((_directory("memory", path) / name).read_text())
    except OSError:
        return None


def entering(path: str) -> list[str]:
    """Makes the group; words before a command that is to run in it.

    Where there can be no such group, the command runs where its parent does.
    """
    directory = _directory("memory", path)
    with contextlib.suppress(OSError):
        directory.mkdir(parents=True, exist_ok=True)
        if _is_unified():
            for parent in reversed(directory.parents[: len(Path(path).parts)]):
                (parent / "cgroup.subtree_control").write_text("+memory")
    enter = 'echo $$ 2>/dev/null >"$0"; exec "$@"'
    return ["/bin/sh", "-c", enter, str(directory / "cgroup.procs")]


def freeze(path: str, frozen: bool) -> None:
    """Stops all processes of the group, or lets them go on. Raises OSError if it cannot."""
    directory = _directory("freezer", path)
    if _is_unified():
        (directory / "cgroup.freeze").write_text("1" if frozen else "0")
        wanted, said = f"frozen {int(frozen)}", directory / "cgroup.events"
    else:
        wanted, said = "FROZEN" if frozen else "THAWED", directory / "freezer.state"
        said.write_text(wanted)
    for _ in range(TRIES):
        if wanted in said.read_text().splitlines():
            return
        time.sleep(PAUSE)
    raise CgroupError(f"{path} is not {wanted}")


def remove(path: str) -> None:
    """Removes the group and those below it, in all trees, once their processes are gone."""
    for _ in range(TRIES):
        tops = [top for top in (ROOT / path, *ROOT.glob(f"*/{path}")) if top.is_dir()]
        if not tops:
            return
        for top in tops:
            below = [directory for directory in top.rglob("*") if directory.is_dir()]
            for directory in [*sorted(below, reverse=True), top]:
                with contextlib.suppress(OSError):
                    directory.rmdir()
        time.sleep(PAUSE)
