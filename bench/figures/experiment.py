# SPDX-License-Identifier: MIT
"""What an experiment is, and what a section of the page is."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from figures import raw

Data = dict[str, Any]
Raws = dict[str, Data]
"""Raw files by the names of their experiments; those that there are."""
Part = dict[str, Any]
"""Of the page: {"heading": …}, {"paragraph": …}, {"table": …}, {"figure": …}, {"links": …}."""


@dataclass(frozen=True)
class Settings:
    """How experiments are run."""

    out: Path
    """Directory of raw data, images and figures."""
    quick: bool
    """Whether it is a trial: two containers at most, small sizes, a function without a model."""
    say: Callable[[str], None]
    kernel: str = ""
    """Of the virtual machine for experiments with the module; empty: none."""

    def choose(self, whole: Any, quick: Any) -> Any:
        """One of the two."""
        return quick if self.quick else whole


@dataclass(frozen=True)
class Found:
    """What an experiment found, and how."""

    data: Data
    about: dict[str, str | int | float | bool | None]


@dataclass(frozen=True)
class Experiment:
    """Something that is measured."""

    name: str
    """Of its raw file."""
    measure: Callable[[Settings], Found]
    form: raw.Form
    """Of its data."""
    needs_kernel: bool = False
    """Whether it runs in a virtual machine, and only if a kernel is named."""

    def path(self, directory: Path) -> Path:
        """Of its raw file."""
        return directory / f"{self.name}.json"

    def run(self, settings: Settings) -> Data:
        """Measures, and writes the raw file."""
        machine, began = raw.machine(), time.monotonic()
        found = self.measure(settings)
        document = {
            "schema": raw.SCHEMA,
            "experiment": self.name,
            "quick": settings.quick,
            "seconds": round(time.monotonic() - began, 1),
            "about": found.about,
            "machine": {**machine, "load_average_after": raw.machine()["load_average"]},
            "data": found.data,
        }
        raw.save(self.path(settings.out / "raw"), document, self.form)
        return document


@dataclass(frozen=True)
class Section:
    """A part of the page: one of the paper's figures, or what the paper has not."""

    name: str
    """For ONLY=, and of its figures' files."""
    title: str
    experiments: tuple[Experiment, ...]
    """What it is drawn from; another section may have the same."""
    parts: Callable[[Raws], list[Part]]
    """From the raw files of these experiments; called if there is one at least."""
