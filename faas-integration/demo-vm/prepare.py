#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Writes what the function needs, once: weights and a picture, from a fixed seed.

    prepare.py DIRECTORY

The weights are AlexNet's in shape and in the distribution of their first
values, not trained: nothing has to be downloaded, and for memory it is the same,
since neither random nor trained weights have equal pages within one model.
inputs.json holds the checksums; files that match it are kept.
"""

from __future__ import annotations

import hashlib
import json
import random
import sys
from pathlib import Path

SEED = 20231113
PICTURE_SIZE = (640, 480)


def checksum(path: Path) -> str:
    """SHA-256 of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def write_weights(path: Path) -> None:
    """AlexNet's parameters, 233 MiB, as torch.save() writes a model's state."""
    import torch
    import torchvision

    torch.manual_seed(SEED)
    torch.set_num_threads(1)
    torch.save(torchvision.models.alexnet(weights=None).state_dict(), path)


def write_picture(path: Path) -> None:
    """Shapes in many colours on a gradient."""
    from PIL import Image, ImageDraw

    chance = random.Random(SEED)
    width, height = PICTURE_SIZE
    picture = Image.linear_gradient("L").resize(PICTURE_SIZE).convert("RGB")
    draw = ImageDraw.Draw(picture)
    for _ in range(60):
        x, y = chance.randrange(width), chance.randrange(height)
        box = (x, y, x + chance.randrange(20, 160), y + chance.randrange(20, 160))
        colour = (chance.randrange(256), chance.randrange(256), chance.randrange(256))
        shape = draw.ellipse if chance.random() < 0.5 else draw.rectangle
        shape(box, fill=colour)
    picture.save(path, "JPEG", quality=90)


FILES = {"weights.pt": write_weights, "picture.jpg": write_picture}


def prepare(directory: Path) -> None:
    """Writes the files that are missing or damaged."""
    directory.mkdir(parents=True, exist_ok=True)
    listing = directory / "inputs.json"
    known: dict[str, object] = {}
    if listing.exists():
        known = json.loads(listing.read_text())
    sums: dict[str, object] = {"seed": SEED}
    for name, write in FILES.items():
        path = directory / name
        if known.get("seed") != SEED or not path.exists() or checksum(path) != known.get(name):
            print(f"writing {path}", flush=True)
            unfinished = path.with_name(f"unfinished-{name}")
            write(unfinished)
            unfinished.rename(path)
        sums[name] = checksum(path)
    listing.write_text(json.dumps(sums, indent=2) + "\n")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: prepare.py DIRECTORY")
    prepare(Path(sys.argv[1]))
