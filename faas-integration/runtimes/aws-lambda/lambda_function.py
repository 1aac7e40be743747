# SPDX-License-Identifier: MIT
"""Lambda calls handler(event, context); the functions here are handler(event)."""

from __future__ import annotations

from typing import Any

from function import handler


def lambda_handler(event: dict[str, Any], _context: Any) -> Any:
    """What _HANDLER names."""
    return handler(event)
