# SPDX-License-Identifier: MIT
"""What the demo prints and writes."""

from __future__ import annotations

import dataclasses
import json
import os
import platform
import statistics
from pathlib import Path
from typing import Any

from faas import latency, measure
from faas.phases import Demo, Phase, same_answers
from faas.session import MIB, PSS_REPORT

GIB = 1 << 30
# Qiu et al., IEEE BigData 2023 (arXiv 2311.13588), and the data published with it:
# 16 Docker containers on bare metal, kernel 4.15 with the patch.
ORIGINAL = {
    "alexnet": "PSS 388.3 -> 164.9 MiB (-57.5 %), system 6.38 -> 2.87 GiB (-54.9 %), 21 more fit",
    "resnet50": "PSS 293.6 -> 224.7 MiB (-23.5 %), system 5.17 -> 4.06 GiB (-21.4 %), 5 more fit",
}
ORIGINAL_ADVISE = {
    "alexnet": "advise 70 ms in the first container, 444 ms in later ones: 42.1 % of the handler",
    "resnet50": "advise 37 ms in the first container, 167 ms in later ones: 12.0 % of the handler",
}


def change(before: float, after: float) -> str:
    """In percent."""
    return f"{100 * (after / before - 1):+.1f} %" if before else "-"


def saved(demo: Demo, phase: Phase) -> float:
    """MiB of PSS that all containers use less than without UPM."""
    return (demo.phases[0].mean("pss") - phase.mean("pss")) * demo.session.plan.n


def more_fit(demo: Demo, phase: Phase) -> int:
    """Further containers that would fit into what is saved, at the PSS of these."""
    return max(0, int(saved(demo, phase) / phase.mean("pss")))


def ratios(demo: Demo, phase: Phase) -> tuple[float, float]:
    """What was saved, divided by what could be.

    First: by what an estimate said of the containers without UPM. Second: by the
    sum of it and what an estimate says is still left to save.
    """
    before, left = demo.phases[0].estimate.saving / MIB, phase.estimate.saving / MIB
    amount = saved(demo, phase)
    return amount / before if before else 0.0, amount / (amount + left) if amount else 0.0


def _memory(demo: Demo) -> list[str]:
    base = demo.phases[0]
    lines = [
        f"{'':20}{'RSS':>9}{'PSS':>9}{'':>9}{'USS':>9}{'':>9}{'system':>10}{'':>9}"
        f"{'more fit':>10}{'of estimate':>13}{'of possible':>13}"
    ]
    for phase in demo.phases:
        line = f"{phase.name:20}{phase.mean('rss'):9.1f}"
        for kind in ("pss", "uss"):
            delta = "" if phase is base else change(base.mean(kind), phase.mean(kind))
            line += f"{phase.mean(kind):9.1f}{delta:>9}"
        delta = "" if phase is base else change(base.system, phase.system)
        line += f"{phase.system / MIB:10.0f}{delta:>9}"
        if phase is not base:
            line += f"{more_fit(demo, phase):10d}"
            line += "".join(f"{100 * ratio:11.1f} %" for ratio in ratios(demo, phase))
        lines.append(line)
    return lines


def _left(demo: Demo) -> list[str]:
    lines = ["", "Left to save by perfect merging, MiB per container, by kind of mapping:"]
    for phase in demo.phases:
        kinds = sorted(phase.estimate.kinds.items(), key=lambda item: -item[1])
        shares = [(kind, size / MIB / demo.session.plan.n) for kind, size in kinds]
        text = ", ".join(f"{kind} {size:.1f}" for kind, size in shares if size >= 0.05)
        lines.append(f"  {phase.name:20}{text or 'nothing'}")
    return lines


def _times(demo: Demo) -> list[str]:
    lines = ["", f"{'median of':20}{'first s':>9}{'warm ms':>9}{'advise ms':>11}{'later ones':>12}"]
    for phase in demo.phases:
        line = f"{phase.name:20}{statistics.median(phase.first):9.2f}"
        line += f"{statistics.median(phase.warm) * 1000:9.1f}"
        if phase.advises:
            most, *rest = sorted(phase.advises, key=lambda done: -done.inserted)
            line += f"{most.seconds * 1000:11.0f}"
            if rest:
                line += f"{statistics.median(done.seconds for done in rest) * 1000:12.0f}"
        lines.append(line)
    lines += [
        "Advise: by the hook's thread while the function is idle, none of it on the critical",
        "path; that of the container that inserted most, then the median of the others.",
    ]
    if demo.latency is not None:
        lines += _paired(demo.latency)
    return lines


def _paired(found: latency.Comparison) -> list[str]:
    lines = []
    for name, pairs in (("first request", found.first), ("warm request", found.warm)):
        middle, error = found.change(pairs)
        before, after = (statistics.median(pair[i] for pair in pairs) for i in (0, 1))
        lines.append(
            f"{name}, {len(pairs)} pairs in turns: {before * 1000:.1f} ms without, "
            f"{after * 1000:.1f} with UPM; median of the ratios {middle:+.2f} ± {error:.2f} %"
        )
    return lines


def table(demo: Demo) -> str:
    """What people want to see."""
    same = "all the same, bit by bit" if same_answers(demo) else "NOT THE SAME"
    lines = [
        *_memory(demo),
        *_left(demo),
        *_times(demo),
        "",
        f"MiB, means of {demo.session.plan.n}; {demo.kind}.",
        f"With UPM: {demo.way}. Answers: {same}.",
        "System: in use by all of the machine, other programs too, less what it was before the",
        "containers. More fit: the sum of PSS saved, divided by the PSS of a container with UPM.",
        "Of estimate: saved, as a share of what pss-report --estimate promised before; of",
        "possible: as a share of that and of what it says is still left.",
    ]
    lines += [
        f"{phase.name}: merging was not over when memory was measured."
        for phase in demo.phases
        if not phase.merging_over
    ]
    if demo.session.plan.model in ORIGINAL and demo.session.function.weights:
        lines.append(f"The original UPM, 16 containers: {ORIGINAL[demo.session.plan.model]};")
        lines.append(f"{ORIGINAL_ADVISE[demo.session.plan.model]}.")
    return "\n".join(lines)


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
    """Everything, for demo.json. Memory in bytes, times in seconds, advises in MiB."""
    phases = []
    for phase in demo.phases:
        fields = dataclasses.asdict(phase)
        fields["answers"] = sorted(phase.answers)
        if phase is not demo.phases[0]:
            fields["more_fit"] = more_fit(demo, phase)
            names = ("saved_of_estimate", "saved_of_possible")
            fields |= dict(zip(names, ratios(demo, phase), strict=True))
        phases.append(fields)
    compared = None
    if demo.latency is not None:
        compared = {"first": demo.latency.first, "warm": demo.latency.warm}
        for name in ("first", "warm"):
            change_percent = demo.latency.change(getattr(demo.latency, name))
            compared[f"{name}_change_percent"] = change_percent  # type: ignore[assignment]
    return {
        "machine": before,
        "n": demo.session.plan.n,
        "function": demo.session.function.name,
        "model": demo.session.plan.model if demo.session.function.weights else None,
        "containers": demo.kind,
        "upm": demo.way,
        "same_answers": same_answers(demo),
        "phases": phases,
        "latency": compared,
    }


def write(demo: Demo, before: dict[str, Any]) -> list[Path]:
    """demo.json, and pss-report's figures of the phases. Raises MeasureError, OSError."""
    out = demo.session.plan.out
    out.mkdir(parents=True, exist_ok=True)
    path = out / "demo.json"
    path.write_text(json.dumps(document(demo, before), indent=2) + "\n")
    recordings = [str(out / phase.recording) for phase in demo.phases]
    figures = [out / "report.html", out / "report.svg"]
    what = f"{demo.session.plan.n} x {demo.session.function.name}"
    if demo.session.function.weights:
        what += f" ({demo.session.plan.model})"
    options = ["--html", str(figures[0]), "--plot", str(figures[1])]
    measure.run(PSS_REPORT, *options, "--title", what, *recordings)
    return [path, *figures]
