# SPDX-License-Identifier: MIT
"""Writes the weights of the models, once, from a fixed seed.

They have the shapes of the real ones and the distribution of their first
values, and are not trained: nothing has to be downloaded, and for memory it is
the same, since neither random nor trained weights have equal pages within one
model. checksums.json says what the files must be; those that match are kept.
"""

from __future__ import annotations

import hashlib
import json
import runpy
from pathlib import Path
from typing import Any

SEED = 20231113
MODELS = ("alexnet", "resnet50", "tiny")


def checksum(path: Path) -> str:
    """SHA-256 of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def _write(model: str, path: Path, function: Path) -> None:
    """The model's parameters, as torch.save() writes a state."""
    import torch

    torch.manual_seed(SEED)
    build: Any = runpy.run_path(str(function))["build"]
    torch.save(build(model).state_dict(), path)


def prepare(model: str, directory: Path, function: Path) -> Path:
    """The file of the model's weights in `directory`, written if missing or damaged.

    `function` is the function.py whose build() makes the model. Raises
    ValueError for a model that there is not.
    """
    if model not in MODELS:
        raise ValueError(f"no model {model!r}; there are: {', '.join(MODELS)}")
    directory.mkdir(parents=True, exist_ok=True)
    path, listing = directory / f"{model}.pt", directory / "checksums.json"
    known: dict[str, Any] = json.loads(listing.read_text()) if listing.exists() else {}
    key = f"{model}-{SEED}"
    if not path.exists() or checksum(path) != known.get(key):
        print(f"writing {path}", flush=True)
        unfinished = path.with_name(f"unfinished-{path.name}")
        _write(model, unfinished, function)
        unfinished.rename(path)
        known[key] = checksum(path)
        listing.write_text(json.dumps(known, indent=2) + "\n")
    return path
