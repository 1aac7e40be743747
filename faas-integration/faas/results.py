# SPDX-License-Identifier: MIT
"""What the demo prints and writes: one table, the same in the text, in JSON and in HTML."""

from __future__ import annotations

import dataclasses
import html
import json
import os
import platform
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from faas import latency, measure
from faas.phases import Demo, Phase, same_answers
from faas.session import MIB, PSS_REPORT

NAME, COLUMN = 26, 22  # characters of the table's columns
NOTHING = "-"
# Qiu et al., IEEE BigData 2023 (arXiv 2311.13588), and the data published with it:
# 16 Docker containers on bare metal, kernel 4.15 with the patch.
ORIGINAL = {
    "alexnet": "PSS 388.3 -> 164.9 MiB (-57.5 %), 21 more fit, advise 70 and 444 ms",
    "resnet50": "PSS 293.6 -> 224.7 MiB (-23.5 %), 5 more fit, advise 37 and 167 ms",
}


@dataclass(frozen=True)
class Row:
    """A line of the table."""

    name: str
    meaning: str
    """One line that explains every number of the row."""
    values: dict[str, Any]
    """By phase; for demo.json."""
    cells: dict[str, str]
    """The same as text."""


def change(before: float, after: float) -> str:
    """In percent."""
    return f"{100 * (after / before - 1):+.1f} %" if before else NOTHING


def saved(demo: Demo, phase: Phase) -> float:
    """MiB of PSS that a container uses less than without UPM."""
    return demo.phases[0].mean("pss") - phase.mean("pss")


def more_fit(demo: Demo, phase: Phase) -> int:
    """Further containers that would fit into what is saved, at the PSS of these."""
    return max(0, int(saved(demo, phase) * demo.session.plan.n / phase.mean("pss")))


def left(demo: Demo, phase: Phase) -> float:
    """MiB per container that perfect merging would save more."""
    return phase.estimate.saving / MIB / demo.session.plan.n


def _compared(demo: Demo, name: str, meaning: str, amounts: dict[str, float]) -> Row:
    """A row of amounts in MiB, those with UPM compared with the first."""
    base = demo.phases[0].name
    cells = {base: f"{amounts[base]:.1f}"} if base in amounts else {}
    for phase, amount in amounts.items():
        if phase != base:
            delta = change(amounts[base], amount) if base in amounts else NOTHING
            cells[phase] = f"{amount:.1f} ({delta})"
    return Row(name, meaning, dict(amounts), cells)


def _parts(demo: Demo) -> Row:
    merged = {phase.name: phase.mean("saved") for phase in demo.phases[1:]}
    rest = {phase.name: saved(demo, phase) - merged[phase.name] for phase in demo.phases[1:]}
    return Row(
        "  merged + returned, MiB",
        "that fall by shared pages + by the rest, mostly freed memory that the hook trims",
        {name: {"merged": merged[name], "returned": rest[name]} for name in merged},
        {name: f"{merged[name]:.1f} {rest[name]:+.1f}" for name in merged},
    )


def _memory(demo: Demo) -> list[Row]:
    phases = demo.phases
    pss = {phase.name: phase.mean("pss") for phase in phases}
    uss = {phase.name: phase.mean("uss") for phase in phases}
    counted = {phase.name: phase.counted / MIB for phase in phases if phase.counted is not None}
    still = {phase.name: left(demo, phase) for phase in phases}
    fit = {phase.name: more_fit(demo, phase) for phase in phases[1:]}
    per_container = "mean of a container; a page of k processes counts 1/k"
    own = "mean of what a container shares with no other process"
    group = "of the control group of all containers and the broker; the image's files are not in it"
    perfect = "what perfect merging would save more per container (pss-report --estimate)"
    room = "would fit into what all save, each at the PSS above"
    return [
        _compared(demo, "PSS, MiB", per_container, pss),
        _parts(demo),
        Row("  could merge, MiB", perfect, still, {k: f"{v:.1f}" for k, v in still.items()}),
        _compared(demo, "USS, MiB", own, uss),
        _compared(demo, "all memory, MiB", group, counted),
        Row("further containers", room, fit, {k: str(v) for k, v in fit.items()}),
    ]


def _requests(demo: Demo, pairs: list[tuple[float, float]], name: str, factor: int) -> Row:
    """Of the absolute times one is shown: the ratio of two medians is not that of the pairs."""
    before, after = (phase.name for phase in demo.phases[:2])
    plain = statistics.median(pair[0] for pair in pairs) * factor
    middle, error = latency.Comparison.change(pairs)
    return Row(
        name,
        f"median of {len(pairs)}; median of the ratios of pairs asked in turns ± its error",
        {before: plain, after: {"percent": middle, "error": error}},
        {before: f"{plain:.2f}", after: f"{middle:+.1f} ± {error:.1f} %"},
    )


def _times(demo: Demo) -> list[Row]:
    found = []
    if demo.latency is not None:
        found.append(_requests(demo, demo.latency.first, "first request, s", 1))
        found.append(_requests(demo, demo.latency.warm, "warm request, ms", 1000))
    values = {phase.name: _advise(phase) for phase in demo.phases if phase.advises}
    cells = {
        name: ", ".join(NOTHING if time is None else f"{time:.2f}" for time in times)
        for name, times in values.items()
    }
    meaning = "elapsed while idle: of the container that inserted most, median of the others"
    return [*found, Row("advise, s", meaning, dict(values), cells)]


def _advise(phase: Phase) -> tuple[float, float | None]:
    most, *rest = sorted(phase.advises, key=lambda done: -done.inserted)
    return most.seconds, statistics.median(done.seconds for done in rest) if rest else None


def rows(demo: Demo) -> list[Row]:
    """The table: nine lines at most."""
    return [row for row in [*_memory(demo), *_times(demo)] if row.cells]


def table(demo: Demo) -> str:
    """What people want to see: ten lines of figures, then a line about each."""
    found = rows(demo)
    names = [phase.name for phase in demo.phases]
    lines = [f"{'':{NAME}}" + "".join(f"{name:>{COLUMN}}" for name in names)]
    lines += [
        f"{row.name:{NAME}}"
        + "".join(f"{row.cells.get(name, NOTHING):>{COLUMN}}" for name in names)
        for row in found
    ]
    lines += ["", *(f"{row.name.strip()}: {row.meaning}" for row in found), "", *_about(demo)]
    return "\n".join(lines)


def _about(demo: Demo) -> list[str]:
    same = "all the same, bit by bit" if same_answers(demo) else "NOT THE SAME"
    lines = [f"{demo.session.plan.n} x {_what(demo)}: {demo.kind}."]
    lines.append(f"With UPM: {demo.way}. Answers: {same}.")
    lines += [
        f"{phase.name}: merging was not over when memory was measured."
        for phase in demo.phases
        if not phase.merging_over
    ]
    if demo.session.plan.model in ORIGINAL and demo.session.function.weights:
        lines.append(f"The original UPM, 16 containers: {ORIGINAL[demo.session.plan.model]}.")
    return lines


def _what(demo: Demo) -> str:
    name = demo.session.function.name
    return f"{name} ({demo.session.plan.model})" if demo.session.function.weights else name


def faults(demo: Demo) -> list[str]:
    """What must not be."""
    found = [] if same_answers(demo) else ["the answers are not the same"]
    before = demo.phases[0].mean("pss")
    for phase in demo.phases[1:]:
        if demo.session.plan.n > 1 and phase.mean("pss") >= before:
            after = phase.mean("pss")
            found.append(f"{phase.name}: PSS did not fall: {before:.1f} -> {after:.1f} MiB")
    return found


def processor() -> str:
    """The model of this machine's processor."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return "unknown"


def machine() -> dict[str, Any]:
    """What the numbers were measured on."""
    return {
        "kernel": platform.release(),
        "processor": processor(),
        "processors": os.cpu_count(),
        "memory": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "load_average": os.getloadavg(),
        "python": platform.python_version(),
    }


def document(demo: Demo, before: dict[str, Any]) -> dict[str, Any]:
    """Everything, for demo.json.

    "table" has the values of the table, in its units. In "phases" memory is in
    bytes, times are in seconds, and what the hooks said is in MiB.
    """
    phases = [
        {**dataclasses.asdict(phase), "answers": sorted(phase.answers)} for phase in demo.phases
    ]
    pairs = demo.latency and {"first": demo.latency.first, "warm": demo.latency.warm}
    return {
        "machine": before,
        "n": demo.session.plan.n,
        "function": demo.session.function.name,
        "model": demo.session.plan.model if demo.session.function.weights else None,
        "containers": demo.kind,
        "upm": demo.way,
        "same_answers": same_answers(demo),
        "table": {row.name.strip(): row.values for row in rows(demo)},
        "phases": phases,
        "latency": pairs,
    }


def write(demo: Demo, before: dict[str, Any]) -> list[Path]:
    """demo.json, and pss-report's figures of the phases. Raises MeasureError, OSError."""
    out = demo.session.plan.out
    out.mkdir(parents=True, exist_ok=True)
    path = out / "demo.json"
    path.write_text(json.dumps(document(demo, before), indent=2) + "\n")
    recordings = [str(out / phase.recording) for phase in demo.phases]
    page, figure = out / "report.html", out / "report.svg"
    title = f"{demo.session.plan.n} x {_what(demo)}"
    options = ["--html", str(page), "--plot", str(figure), "--title", title]
    measure.run(PSS_REPORT, *options, *recordings)
    head, mark, rest = page.read_text().partition("</h1>")
    text = f'<pre style="overflow-x: auto">{html.escape(table(demo))}</pre>'
    page.write_text(f"{head}{mark}\n{text}\n{rest}")
    return [path, page, figure]
