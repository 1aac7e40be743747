# SPDX-License-Identifier: MIT
"""Requests for the function: a few sentences."""

from __future__ import annotations

from typing import Any

TEXT = """\
A function container holds the same bytes as its neighbours: weights, a runtime
and libraries. Merging lets the containers share the bytes. What one container
writes stays with that container! Is that safe? A write takes a copy first.
"""


def generate_input() -> dict[str, Any]:
    """An event for handler()."""
    return {"text": TEXT}
