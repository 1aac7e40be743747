# SPDX-License-Identifier: MIT
"""functions-framework calls call(request); the functions here are handler(event)."""

from __future__ import annotations

from typing import Any

from function import handler


def call(request: Any) -> Any:
    """What FUNCTION_TARGET names; `request` is flask's."""
    return handler(request.get_json(force=True))
