# SPDX-License-Identifier: MIT
"""For --quick: a file of some MiB that each container reads, in place of a model's weights."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path
from typing import Any

DATA = Path(sys.executable).read_bytes()


def handler(_event: dict[str, Any]) -> dict[str, Any]:
    """A checksum of it."""
    return {"sha256": hashlib.sha256(DATA).hexdigest()}
