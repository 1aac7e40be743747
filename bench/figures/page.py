# SPDX-License-Identifier: MIT
"""All sections, and the page that they make."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from figures import (
    cold_start,
    density,
    drawing,
    fig5_pss,
    fig6_system_memory,
    fig7_time_by_size,
    fig8_time_by_container,
    marginal_cost,
    memory_by_requests,
    module,
    neighbours_p99,
    original,
    peak_at_start,
    raw,
    separate_copies,
    sharing_study,
    streams,
)
from figures.experiment import Data, Experiment, Part, Raws, Section

SECTIONS: tuple[Section, ...] = (
    fig5_pss.SECTION,
    fig6_system_memory.SECTION,
    fig7_time_by_size.SECTION,
    fig8_time_by_container.SECTION,
    memory_by_requests.SECTION,
    sharing_study.SECTION,
    separate_copies.SECTION,
    marginal_cost.SECTION,
    peak_at_start.SECTION,
    cold_start.SECTION,
    neighbours_p99.SECTION,
    density.SECTION,
    streams.SECTION,
    module.SECTION,
)
TITLE = "The paper's evaluation on this system"


class UnknownError(Exception):
    """There is no such section or experiment; the text says which there are."""


def experiments(only: list[str]) -> list[Experiment]:
    """Those of the sections and experiments with these names; all if there are none.

    Raises UnknownError.
    """
    of = {section.name: list(section.experiments) for section in SECTIONS}
    of |= {each.name: [each] for section in SECTIONS for each in section.experiments}
    if unknown := [name for name in only if name not in of]:
        raise UnknownError(f"no {unknown[0]!r}; there are: {', '.join(of)}")
    found: dict[str, Experiment] = {}
    for name in only or of:
        found |= {each.name: each for each in of[name]}
    return list(found.values())


def load(directory: Path) -> Raws:
    """The raw files that there are. Raises RawError."""
    found: Raws = {}
    for each in experiments([]):
        if each.path(directory).exists():
            found[each.name] = raw.load(each.path(directory), each.form)
    return found


def _machine(document: Data) -> str:
    of = document["machine"]
    memory = of["memory"] / drawing.GIB
    load = ", ".join(f"{of[name][0]:.1f}" for name in ("load_average", "load_average_after"))
    text = f"{of['date']}, {document['seconds']:.0f} s, commit {of['commit']}: {of['processor']}, "
    text += f"{of['processors']} processors, {memory:.1f} GiB, Linux {of['kernel']}, control "
    text += f"groups {of['control_groups']}, huge pages {of['huge_pages']}, load {load} (before, "
    text += f"after); hook's scope: {of['hook_scope']}"
    about = "; ".join(f"{name} {value}" for name, value in document["about"].items())
    if of["load_average"][0] > of["processors"]:
        about += ". The machine was busy with other things: times of this run say nothing"
    trial = " A TRIAL (--quick): these numbers say nothing." if document["quick"] else ""
    return f"{document['experiment']}: {text}; {about}.{trial}"


def parts(section: Section, raws: Raws, to_raw: str, known: set[str]) -> list[Part]:
    """Of a section; to_raw: path of the raw files from the page; known: experiments that the
    page has said already how they were made.
    """
    made: list[Part] = [{"heading": section.title}]
    there = [each.name for each in section.experiments if each.name in raws]
    missing = [each.name for each in section.experiments if each.name not in raws]
    if there:
        made += section.parts(raws)
        made.append({"links": [[f"{name}.json", f"{to_raw}/{name}.json"] for name in there]})
        made += [{"paragraph": _machine(raws[name])} for name in there if name not in known]
        known |= set(there)
    made += [{"paragraph": f"Not measured: {name}."} for name in missing]
    return made


def describe(raws: Raws, to_raw: str) -> Data:
    """The whole page, for pss-report --draw."""
    numbers = original.NUMBERS
    head: list[Part] = [
        {"paragraph": f"Original: {numbers['source']}; {numbers['setting']}."},
        {
            "paragraph": "Ours: the backend store, if nothing else is said; runc containers with "
            "the functions of faas-integration. Made by bench/figures/run (make figures); every "
            "number is computed from the raw data named below it."
        },
    ]
    known: set[str] = set()
    body = [part for section in SECTIONS for part in parts(section, raws, to_raw, known)]
    return {"title": TITLE, "parts": head + body}


def figures(page: Data) -> Iterator[Data]:
    """The figures in a description."""
    for part in page["parts"]:
        if "figure" in part:
            yield part["figure"]


def write(raws: Raws, directory: Path, to_raw: Path) -> list[Path]:
    """The page and its figures as files. Raises MeasureError, OSError."""
    directory.mkdir(parents=True, exist_ok=True)
    page = describe(raws, os.path.relpath(to_raw, directory))
    written = []
    for figure in figures(page):
        written.append(directory / f"{figure['name']}.svg")
        drawing.draw(figure, "--plot", written[-1])
    written.append(directory / "index.html")
    drawing.draw(page, "--html", written[-1])
    return written
