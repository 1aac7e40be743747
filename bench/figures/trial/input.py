# SPDX-License-Identifier: MIT
"""Requests for the function."""

from __future__ import annotations

from typing import Any


def generate_input() -> dict[str, Any]:
    """An event for handler()."""
    return {}
