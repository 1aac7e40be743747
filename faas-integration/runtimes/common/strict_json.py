# SPDX-License-Identifier: MIT
"""JSON of strangers: reading and writing fail in one way, whatever the text or the value.

Events come from anywhere, and what a function answers may be anything.
"""

from __future__ import annotations

import contextlib
import json
from typing import Any


class NotJsonError(ValueError):
    """The text is not JSON, or the value cannot be written as JSON; the message says why."""


def read(text: bytes) -> Any:
    """The value of a JSON text. Raises NotJsonError, also for NaN and for too deep nesting."""

    def refuse(name: str) -> Any:
        raise NotJsonError(f"{name} is not a JSON value")

    try:
        return json.loads(text, parse_constant=refuse)
    except RecursionError as error:
        raise NotJsonError("the nesting is too deep") from error
    except NotJsonError:
        raise
    except ValueError as error:
        raise NotJsonError(str(error)) from error


def write(value: Any) -> bytes:
    """The JSON text of a value on one line of ASCII, so that half an emoji passes as it is.

    Raises NotJsonError for an object that is no JSON value, NaN, a circle and too
    deep nesting.
    """
    try:
        return json.dumps(value, allow_nan=False).encode("ascii")
    except RecursionError as error:
        raise NotJsonError("the nesting is too deep") from error
    except Exception as error:  # classes of the function's own may raise anything
        raise NotJsonError(describe(error)) from error


def describe(error: BaseException) -> str:
    """What the error says, or its type where it says nothing, or raises when it is asked."""
    with contextlib.suppress(BaseException):
        if isinstance(error, SystemExit):
            return f"the function called sys.exit({error.code!r})"
        if text := str(error):
            return text
    return type(error).__name__
