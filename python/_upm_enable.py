# SPDX-License-Identifier: MIT
"""Automatic start: imported by upm-enable.pth when UPM_ENABLE=1 is set.

The hook stands in front of malloc, and can get there only before a program starts.
So this starts the program again, in the same process and with the same arguments,
with the hook preloaded. It happens before any code of the program has run.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

NAME = "libupm-preload.so"
STARTED = "UPM_ENABLE_PID"  # the process that was started again: no second time


def find_hook() -> Path | None:
    """The hook: in the package, or in a build beside its folder."""
    here = Path(__file__).resolve().parent
    for folder in (here / "upm", here.parent / "lib"):
        path = folder / NAME
        if path.is_file() and os.access(path, os.R_OK):
            return path
    return None


def why_not() -> str | None:
    """What speaks against starting this process again; None if nothing does."""
    if NAME in os.environ.get("LD_PRELOAD", ""):
        return "the hook is preloaded already"
    if os.environ.get(STARTED) == str(os.getpid()):
        return "the hook was preloaded, but is not here"
    try:
        program = Path("/proc/self/exe").resolve(strict=True)
        interpreter = Path(sys.executable).resolve(strict=True)
        threads = len(list(Path("/proc/self/task").iterdir()))
    except OSError as error:
        return f"/proc is not to be read: {error}"
    if not sys.executable or program != interpreter:
        return f"{program} is no Python interpreter but embeds one; preload {NAME} into it"
    if not sys.orig_argv or threads != 1:
        return "the program runs already"
    return None


def start() -> None:
    """Starts the program again with the hook, or says why not if UPM_VERBOSE is set."""
    reason = why_not()
    hook = find_hook()
    if reason is None and hook is None:
        reason = f"no {NAME} found"
    if reason is None:
        environment = dict(os.environ)
        others = environment.get("LD_PRELOAD", "")
        environment["LD_PRELOAD"] = f"{hook}:{others}" if others else str(hook)
        environment[STARTED] = str(os.getpid())
        try:
            os.execve(sys.executable, sys.orig_argv, environment)
        except OSError as error:
            reason = f"{sys.executable}: {error}"
    if os.environ.get("UPM_VERBOSE", "0") not in {"", "0"} and NAME not in os.environ.get(
        "LD_PRELOAD", ""
    ):
        print(f"upm[{os.getpid()}]: UPM_ENABLE: not started: {reason}", file=sys.stderr)
