# SPDX-License-Identifier: MIT
"""Dynamic HTML: {"name": …, "count": n, "seed": s} -> {"html": …, "sha256": …}."""

from __future__ import annotations

import hashlib
import random
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader

LARGEST = 100_000  # rows

_pages = Environment(
    loader=FileSystemLoader(Path(__file__).resolve().parent), autoescape=True, trim_blocks=True
)


def handler(event: dict[str, Any]) -> dict[str, Any]:
    """A page with a table of `count` random numbers (0 to 100 000), the same for a seed.

    Raises ValueError for a count out of range, KeyError without a name.
    """
    count = int(event.get("count", 10))
    if not 0 <= count <= LARGEST:
        raise ValueError(f"the count {count} is not within 0 to {LARGEST}")
    chance = random.Random(int(event.get("seed", 0)))
    rows = [chance.randrange(1_000_000) for _ in range(count)]
    html = _pages.get_template("page.html").render(name=str(event["name"]), rows=rows)
    return {"html": html, "sha256": hashlib.sha256(html.encode()).hexdigest()}
