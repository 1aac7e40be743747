# SPDX-License-Identifier: MIT
"""Calls functions of strangers: whatever one does, its caller goes on."""

from __future__ import annotations

import contextlib
import os
import traceback
from collections.abc import Callable
from typing import Any

import strict_json


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
