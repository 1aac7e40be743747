# SPDX-License-Identifier: MIT
"""The tables that the demo prints, from what is in result.json."""

from __future__ import annotations

import statistics
from typing import Any

MIB = 1 << 20
GIB = 1 << 30
KINDS = ("rss", "pss", "uss")

# The original UPM, same model and task: 16 Docker containers, kernel 4.15 with
# the patch (Qiu et al., IEEE BigData 2023, and the data published with it).
ORIGINAL = """\
for comparison, the original UPM (AlexNet, 16 containers, kernel 4.15 patched, bare metal):
  PSS per container 388.3 -> 164.9 MiB (-57.5 %), system 6.38 -> 2.87 GiB (-54.9 %),
  advise 70 ms in the first container and 444 ms in later ones, 42.1 % of the handler's time"""

FIXED_LAYOUT = ["Fixed layout: addresses are not randomised, and PYTHONHASHSEED is 0."]


def _mean(sample: dict[str, Any], kind: str) -> float:
    return statistics.fmean(u[kind] for u in sample["processes"]) / MIB


def _change(before: float, after: float) -> str:
    return f"{100 * (after / before - 1):+.1f} %"


def _summary(samples: list[dict[str, Any]], n: int) -> list[str]:
    first = samples[0]
    lines = [
        f"{'MiB':24} {f'mean of {n} processes':^53} {'system':^19}",
        f"{'':24}" + "".join(f"{kind.upper():>9}{'':9}" for kind in KINDS) + f"{'in use':>10}",
    ]
    for sample in samples:
        line = f"{sample['name']:24}"
        for kind in KINDS:
            change = "" if sample is first else _change(_mean(first, kind), _mean(sample, kind))
            line += f"{_mean(sample, kind):9.1f}{change:>9}"
        change = "" if sample is first else _change(first["system"], sample["system"])
        lines.append(line + f"{sample['system'] / MIB:10.0f}{change:>9}")
    return lines


def _by_process(samples: list[dict[str, Any]], n: int) -> list[str]:
    shown = [s for s in samples if not s["name"].startswith(" ")]
    width = 27
    lines = [
        f"{'':9}" + "".join(f"{s['name']:>{width}}" for s in shown),
        f"{'process':9}" + "".join("".join(f"{k.upper():>9}" for k in KINDS) for _ in shown),
    ]
    for i in range(n):
        line = f"{i + 1:<9}"
        for sample in shown:
            usage = sample["processes"][i]
            line += "".join(f"{usage[kind] / MIB:9.1f}" for kind in KINDS)
        lines.append(line)
    return lines


def _advise_line(label: str, results: list[dict[str, Any]]) -> str:
    def value(result: dict[str, Any], key: str) -> float:
        found = result[key]
        return float(sum(found.values()) if isinstance(found, dict) else found)

    def median(key: str) -> float:
        return statistics.median(value(r, key) for r in results)

    mib, ms = median("bytes") / MIB, median("seconds") * 1000
    return (
        f"{label:29}{mib:8.1f}{ms:10.0f}{median('cpu_seconds') * 1000:10.0f}{ms / mib:8.2f}"
        + "".join(f"{median(k):9.0f}" for k in ("inserted", "merged", "zero", "already", "skipped"))
    )


def _advises(advises: list[dict[str, Any]]) -> list[str]:
    lines = [
        f"{'advise (median of processes)':29}{'MiB':>8}{'ms':>10}{'CPU ms':>10}{'ms/MiB':>8}"
        f"{'inserted':>9}{'merged':>9}{'zero':>9}{'already':>9}{'skipped':>9}"
    ]
    for advise in advises:
        first, *later = advise["processes"]
        lines.append(_advise_line(f"{advise['name']}: first", [first]))
        if later:
            lines.append(_advise_line(f"{advise['name']}: later", later))
    return lines


def text(result: dict[str, Any]) -> str:
    """Everything that a person wants to see."""
    machine, n, samples = result["machine"], result["n"], result["samples"]
    host = machine["host"]
    same = "the same, bit by bit" if result["same_answers"] else "NOT THE SAME"
    lines = [
        f"{n} processes of an image recognition function (AlexNet, PyTorch"
        f" {host.get('torch', '?')}) on Linux {machine['kernel']},",
        f"{machine['processors']} processors, {machine['memory'] / GIB:.1f} GiB, emulated by"
        f" {host.get('qemu', 'qemu')} on {host.get('cpu', 'an unknown processor')}.",
        "Rows are states of the same processes, one after the other; what they used before the",
        "first advise is the state without UPM. System: MemTotal - MemAvailable, without the",
        "free pages that processors keep, less what it was before the processes started.",
        "Times are those of an emulated machine; its clock ran"
        f" {result['clock_rate']:.2f} times as fast as the host's.",
        *(FIXED_LAYOUT if result["fixed_layout"] else []),
        "",
        *_summary(samples, n),
        "",
        *_by_process(samples, n),
        "",
        *_advises(result["advises"]),
        "",
        f"answers: {len(result['requests'])} requests, {same}; a request took"
        f" {statistics.median(result['requests'][n:]):.1f} s (median of the warm ones)",
        "",
        ORIGINAL,
    ]
    return "\n".join(lines)


def faults(result: dict[str, Any]) -> list[str]:
    """What must not be; empty if all is well."""
    found = []
    if not result["same_answers"]:
        found.append("the answers are not the same")
    backends = {p["backend"] for a in result["advises"] for p in a["processes"]}
    if backends != {"kmod"}:
        found.append(f"the backend is {', '.join(sorted(backends))}, not kmod")
    before, after = (_mean(result["samples"][i], "pss") for i in (0, 1))
    if result["n"] > 1 and after >= before:
        found.append(f"PSS did not fall: {before:.1f} MiB before, {after:.1f} MiB after")
    return found
