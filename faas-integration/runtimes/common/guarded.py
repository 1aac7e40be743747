# SPDX-License-Identifier: MIT
"""Calls functions of strangers: whatever one does, its caller goes on."""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import strict_json


class NoFunctionError(Exception):
    """There is no such function."""


def find(directory: str, entry: str) -> Callable[[Any], Any]:
    """The callable `module.callable` of the directory.

    Raises NoFunctionError, and what the function's own code raises.
    """
    module, _, name = entry.rpartition(".")
    if not module:
        raise NoFunctionError(f"{entry!r} is not module.callable")
    if not Path(directory).is_dir():
        raise NoFunctionError(f"there is no directory {directory}")
    sys.path.insert(0, directory)
    try:
        found: Callable[[Any], Any] | None = getattr(importlib.import_module(module), name, None)
    except ModuleNotFoundError as error:
        if error.name != module.partition(".")[0]:
            raise  # one that the function needs
        raise NoFunctionError(f"there is no module {module!r} in {directory}") from None
    if not callable(found):
        raise NoFunctionError(f"the module {module!r} in {directory} has no function {name!r}")
    return found


def call(function: Callable[[Any], Any], event: Any) -> bytes:
    """The JSON text of what the function answers. Raises what it raises, NotJsonError.

    The text is written at once and in the function's own thread: the function may keep
    the value, and change it in its next call.
    """
    home = os.getpid()
    try:
        return strict_json.write(function(event))
    except BaseException:
        with contextlib.suppress(BaseException):  # stderr may be closed
            traceback.print_exc()
        raise
    finally:
        # A child that the function forked comes back here, too; the answer is its parent's.
        if os.getpid() != home:
            os._exit(0)
