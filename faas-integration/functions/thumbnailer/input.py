# SPDX-License-Identifier: MIT
"""Requests for the function: a gradient picture."""

from __future__ import annotations

import base64
import io
from typing import Any


def generate_input() -> dict[str, Any]:
    """An event for handler()."""
    from PIL import Image

    file = io.BytesIO()
    Image.radial_gradient("L").resize((640, 480)).convert("RGB").save(file, "JPEG")
    image = base64.b64encode(file.getvalue()).decode("ascii")
    return {"image": image, "width": 128, "height": 128}
