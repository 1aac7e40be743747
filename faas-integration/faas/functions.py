# SPDX-License-Identifier: MIT
"""The functions in functions/: their settings, and requests for them."""

from __future__ import annotations

import json
import runpy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FUNCTIONS = Path(__file__).resolve().parents[1] / "functions"


@dataclass(frozen=True)
class Function:
    """A function and what its config.json says."""

    name: str
    directory: Path
    description: str
    entry: str
    """module.callable; the callable takes an event."""
    memory: int
    """Limit of a container, MiB."""
    timeout: int
    """Longest time of one request, seconds."""
    packages: tuple[str, ...]
    """Debian packages that it needs."""
    environment: dict[str, str]
    weights: bool
    """Whether it reads WEIGHTS/<MODEL>.pt."""

    def make_input(self) -> dict[str, Any]:
        """A request, always the same."""
        event: dict[str, Any] = runpy.run_path(str(self.directory / "input.py"))["generate_input"]()
        return event


def names() -> list[str]:
    """All that there are."""
    return sorted(path.parent.name for path in FUNCTIONS.glob("*/config.json"))


def find(name: str) -> Function:
    """The function of that name. Raises ValueError if there is none or its settings are wrong."""
    if name not in names():
        raise ValueError(f"no function {name!r}; there are: {', '.join(names())}")
    return read(FUNCTIONS / name)


def read(directory: Path) -> Function:
    """The function in that directory. Raises ValueError if its settings are wrong."""
    path = directory / "config.json"
    settings = json.loads(path.read_text())
    try:
        settings["packages"] = tuple(settings["packages"])
        return Function(name=directory.name, directory=directory, **settings)
    except (KeyError, TypeError) as error:
        raise ValueError(f"{path}: {error}") from error
