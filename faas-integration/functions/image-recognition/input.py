# SPDX-License-Identifier: MIT
"""Requests for the function: a picture from a fixed seed, so that answers can be compared."""

from __future__ import annotations

import base64
import io
import random
from typing import Any

SEED = 20231113
SIZE = (640, 480)


def picture(seed: int = SEED) -> bytes:
    """A JPEG: shapes in many colours on a gradient."""
    from PIL import Image, ImageDraw

    chance = random.Random(seed)
    width, height = SIZE
    image = Image.linear_gradient("L").resize(SIZE).convert("RGB")
    draw = ImageDraw.Draw(image)
    for _ in range(60):
        x, y = chance.randrange(width), chance.randrange(height)
        box = (x, y, x + chance.randrange(20, 160), y + chance.randrange(20, 160))
        colour = (chance.randrange(256), chance.randrange(256), chance.randrange(256))
        shape = draw.ellipse if chance.random() < 0.5 else draw.rectangle
        shape(box, fill=colour)
    file = io.BytesIO()
    image.save(file, "JPEG", quality=90)
    return file.getvalue()


def generate_input() -> dict[str, Any]:
    """An event for handler()."""
    return {"image": base64.b64encode(picture()).decode("ascii")}
