# SPDX-License-Identifier: MIT
"""Thumbnailer: {"image": <base64>, "width": w, "height": h} -> {"image": <JPEG, base64>, …}."""

from __future__ import annotations

import base64
import hashlib
import io
from typing import Any

from PIL import Image

LARGEST = 4096  # pixels on a side


def handler(event: dict[str, Any]) -> dict[str, Any]:
    """The image made to fit into width x height (1 to 4096 pixels) with its shape kept.

    Raises ValueError for a size out of range, KeyError without an image.
    """
    width, height = int(event.get("width", 200)), int(event.get("height", 200))
    if not (1 <= width <= LARGEST and 1 <= height <= LARGEST):
        raise ValueError(f"the size {width} x {height} is not within 1 to {LARGEST} pixels")
    with Image.open(io.BytesIO(base64.b64decode(event["image"]))) as image:
        small = image.convert("RGB")
        small.thumbnail((width, height))
    file = io.BytesIO()
    small.save(file, "JPEG", quality=85)
    data = file.getvalue()
    return {
        "image": base64.b64encode(data).decode("ascii"),
        "width": small.width,
        "height": small.height,
        "sha256": hashlib.sha256(data).hexdigest(),
    }
