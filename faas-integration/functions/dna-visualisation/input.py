# SPDX-License-Identifier: MIT
"""Requests for the function: bases from a fixed seed."""

from __future__ import annotations

import random
from typing import Any

SEED = 20231113
BASES = 200_000


def generate_input() -> dict[str, Any]:
    """An event for handler()."""
    return {"sequence": "".join(random.Random(SEED).choices("ACGT", k=BASES))}
