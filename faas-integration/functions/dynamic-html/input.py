# SPDX-License-Identifier: MIT
"""Requests for the function: a page of a thousand numbers."""

from __future__ import annotations

from typing import Any


def generate_input() -> dict[str, Any]:
    """An event for handler()."""
    return {"name": "reader", "count": 1000, "seed": 20231113}
