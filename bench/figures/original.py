# SPDX-License-Identifier: MIT
"""The original's numbers, from original.json, beside which ours are shown."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

NUMBERS: dict[str, Any] = json.loads((Path(__file__).parent / "original.json").read_text())
COLUMNS = (1, 2, 4, 8, 16)  # containers, in the paper's figures


def of(model: str) -> dict[str, Any]:
    """Of a model."""
    found: dict[str, Any] = NUMBERS[model]
    return found


def cells(values: Mapping[int, float], text: Callable[[float], str]) -> list[str]:
    """Of a table with a column for each number of containers."""
    return [text(values[n]) if n in values else "-" for n in COLUMNS]
