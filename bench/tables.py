#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Turns raw results of upm-bench into the tables of bench/README.md.

    bench/tables.py [--update] [RESULT.json…]      (default: bench/results/kmod/*.json)

--update puts the tables into bench/README.md.
"""

from __future__ import annotations

import json
import re
import shutil
import statistics
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
README = HERE / "README.md"
RESULTS = HERE / "results" / "kmod"  # beside those of other parts
BEGIN, END = "<!-- tables: made by bench/tables.py -->", "<!-- end of tables -->"

PAGE = 4096
MIB = 1 << 20
NAMES = {"4k": "4 KiB", "thp": "huge"}
PHASES = ("scan", "freeze", "find", "map", "finish")

# What an instruction of kernel code takes where nothing stalls for long: 0.7 to
# 1.1 instructions per cycle at 3 GHz. An assumption, not a measurement.
NS_PER_INSTRUCTION = (0.3, 0.5)
LOCK_TARGET_US = 250

Row = dict[str, Any]
Step = dict[str, Any]


@dataclass
class Result:
    """One file."""

    path: Path
    data: dict[str, Any]

    @property
    def kernel(self) -> str:
        """The first two numbers of its version."""
        match = re.match(r"\d+\.\d+", self.data["machine"]["kernel"])
        return match.group() if match else "?"

    def rows(self, case: str, **wanted: object) -> list[Row]:
        """Rows of a case whose setup is as wanted."""
        found: list[Row] = self.data["cases"].get(case, [])
        return [r for r in found if all(r.get(k) == v for k, v in wanted.items())]

    def row(self, case: str, **wanted: object) -> Row:
        """The first such row."""
        return self.rows(case, **wanted)[0]


@dataclass
class Kernel:
    """The results of a kernel: instructions, and time if that was measured."""

    name: str
    count: Result
    time: Result | None

    @property
    def results(self) -> list[Result]:
        """What there is."""
        return [self.count, *([self.time] if self.time else [])]


def median(row: Row, step: str, value: Callable[[Step], float]) -> float:
    """Over the runs."""
    return statistics.median(value(run[step]) for run in row["runs"])


def cost(row: Row, step: str) -> float:
    """Processor time per page, in ns or in instructions."""
    return median(row, step, lambda s: float(s["cpu_ns"]) / float(s["pages"]))


def rate(row: Row, step: str) -> float:
    """MiB per second of real time."""
    return median(row, step, lambda s: s["pages"] * PAGE / MIB / s["wall_ns"] * 1e9)


def phase(row: Row, step: str, name: str) -> float:
    """What a phase takes per page."""
    return median(row, step, lambda s: float(s["module"][f"{name}_ns"]) / float(s["pages"]))


def number(value: float) -> str:
    """With spaces between thousands."""
    return f"{value:,.0f}".replace(",", " ")


def fraction(value: float) -> str:
    """A ratio below one as 1/N."""
    return f"1/{1 / value:.1f}" if value < 1 else f"{value:.1f}"


def table(head: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] + ["---:"] * (len(head) - 1), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


class Tables:
    """All tables, from all results."""

    def __init__(self, results: list[Result]) -> None:
        """Sorts the results by what they are."""
        by_kind = {(r.kernel, r.data["clock"]): r for r in results if "size" in r.data["cases"]}
        names = sorted({k for k, _ in by_kind}, key=lambda n: [int(p) for p in n.split(".")])
        self.kernels = [
            Kernel(n, by_kind[n, "instructions"], by_kind.get((n, "time"))) for n in names
        ]
        self.host = next((r for r in results if "size" not in r.data["cases"]), None)

    def loop_ns(self, kernel: Kernel) -> float:
        """Time of one instruction of the module's loops over bytes, on the host."""
        if self.host is None:
            return NS_PER_INSTRUCTION[0]
        native, guest = self.host.row("copy", pages="4k"), kernel.count.row("versus", pages="4k")
        return sum(cost(native, s) for s in ("compare", "zero")) / sum(
            cost(guest, s) for s in ("compare", "zero")
        )

    def estimate_us(self, kernel: Kernel, row: Row, step: str, value: str) -> tuple[float, float]:
        """How long a batch holds the lock: low and high, from instructions."""

        def of(name: str) -> float:
            return median(row, step, lambda s: float(s["module"][name]))

        batches = of("batches")
        loops = of("find_ns") / batches
        rest = (of("lock_ns") / batches if value == "mean" else of("lock_ns_max")) - loops
        low, high = ((rest * n + loops * self.loop_ns(kernel)) / 1000 for n in NS_PER_INSTRUCTION)
        return low, high

    def page_estimate(self, kernel: Kernel, pages: str, step: str) -> str:
        """What a page takes, from instructions, and the rate that this is."""
        row = self._size_row(kernel.count, pages)
        total = median(row, step, lambda s: float(s["wall_ns"]) / float(s["pages"]))
        loops = phase(row, step, "find")
        known = loops * self.loop_ns(kernel)
        if step == "insert" and self.host is not None:  # the new page is cleared
            cleared = cost(kernel.count.row("versus", pages="4k"), "string_clear")
            known += cost(self.host.row("copy", pages="4k"), "string_clear")
            total -= cleared
        low, high = ((total - loops) * n + known for n in NS_PER_INSTRUCTION)
        rates = (PAGE / ns * 1e9 / (1 << 30) for ns in (high, low))
        speed = " to ".join(f"{r:.1f}" for r in rates)
        return f"{low / 1000:.1f} to {high / 1000:.1f} µs ({speed} GiB/s)"

    # --- the tables ---------------------------------------------------------

    def targets(self) -> str:
        """What was asked for, and what is."""
        head = ["target", *(f"Linux {k.name}" for k in self.kernels)]
        return table(
            head,
            [
                [
                    "processor time per merged page, a process that joins, against ksmd: ≤ 1/10 "
                    "(instructions; time if measured)",
                    *(self._against_ksmd(k, "later") for k in self.kernels),
                ],
                [
                    "the same for two processes from the start, with inserting",
                    *(self._against_ksmd(k, "pair") for k in self.kernels),
                ],
                [
                    "advising again against merging: ≤ 1/20 (the same)",
                    *(self._again(k) for k in self.kernels),
                ],
                [
                    f"mmap lock held in a batch: ≤ {LOCK_TARGET_US} µs (estimate; merging 4 KiB)",
                    *(self._lock(k, "4k", "merge", "mean") for k in self.kernels),
                ],
                [
                    "the same, inserting 4 KiB",
                    *(self._lock(k, "4k", "insert", "mean") for k in self.kernels),
                ],
                [
                    "the longest: merging 4 KiB",
                    *(self._lock(k, "4k", "merge", "max") for k in self.kernels),
                ],
                [
                    "the longest: merging huge pages, with the split",
                    *(self._lock(k, "thp", "merge", "max") for k in self.kernels),
                ],
                [
                    "no target: merging a 4 KiB page (estimate)",
                    *(self.page_estimate(k, "4k", "merge") for k in self.kernels),
                ],
                [
                    "no target: inserting a 4 KiB page (estimate)",
                    *(self.page_estimate(k, "4k", "insert") for k in self.kernels),
                ],
            ],
        )

    def _size_row(self, result: Result, pages: str) -> Row:
        rows = result.rows("size", pages=pages)
        return next((r for r in rows if r["mib"] == 64), rows[0])

    def _against_ksmd(self, kernel: Kernel, step: str) -> str:
        def ratio(run: dict[str, Step]) -> float:
            def per_page(name: str) -> float:
                return float(run[name]["cpu_ns"]) / float(run[name]["pages"])

            upm = per_page("merge") + (per_page("insert") if step == "pair" else 0)
            return upm / per_page(step)

        rows = (r.row("versus", pages="4k") for r in kernel.results)
        return "; ".join(fraction(statistics.median(map(ratio, row["runs"]))) for row in rows)

    def _again(self, kernel: Kernel) -> str:
        rows = (r.row("versus", pages="4k") for r in kernel.results)
        return "; ".join(fraction(cost(row, "again") / cost(row, "merge")) for row in rows)

    def _lock(self, kernel: Kernel, pages: str, step: str, value: str) -> str:
        row = self._size_row(kernel.count, pages)
        low, high = self.estimate_us(kernel, row, step, value)
        return f"{low:.0f} to {high:.0f} µs (batch_pages {row['batch_pages']})"

    def by_size(self, kernel: Kernel) -> str:
        """Cost per page and how it moves with size."""
        steps = ("insert", "merge", "again", "unmerge")
        timed_steps = ("insert", "merge") if kernel.time else ()
        head = ["MiB", "pages", *steps, *(f"{s}, time" for s in timed_steps)]
        lines = []
        for row in kernel.count.rows("size"):
            line = [str(row["mib"]), NAMES[row["pages"]], *(number(cost(row, s)) for s in steps)]
            if kernel.time:
                timed = kernel.time.row("size", mib=row["mib"], pages=row["pages"])
                line += [f"{cost(timed, s) / 1000:.1f} µs" for s in timed_steps]
            lines.append(line)
        return table(head, lines)

    def split(self, kernel: Kernel) -> str:
        """Instructions per page by phase."""
        lines = []
        for pages, name in NAMES.items():
            row = self._size_row(kernel.count, pages)
            for step in ("insert", "merge"):
                parts = [phase(row, step, p) for p in PHASES]
                total = median(row, step, lambda s: float(s["wall_ns"]) / float(s["pages"]))
                lines.append([f"{step}, {name}", *map(number, [*parts, total - sum(parts), total])])
        return table(["instructions per page", *PHASES, "rest", "sum"], lines)

    def against(self, kernel: Kernel) -> str:
        """UPM, ksmd, and plain memory functions."""
        steps = {
            "UPM, first process (inserts)": "insert",
            "UPM, a later process (merges)": "merge",
            "UPM, a later process, contents in another order": "order",
            "UPM, advising again": "again",
            "ksmd, two processes from the start": "pair",
            "ksmd, a third process joins": "later",
            "memcpy": "memcpy",
            "memcmp": "memcmp",
        }
        lines = []
        for name, step in steps.items():
            line = [name]
            for result in kernel.results:
                versus = result.row("versus", pages="4k")
                row = result.row("order") if step == "order" else versus
                which = "merge" if step == "order" else step
                line.append(number(cost(row, which)))
                line.append(f"{cost(row, which) / cost(versus, 'merge'):.2f}")
            if kernel.time:
                line.append(number(rate(row, which)))
            lines.append(line)
        head = ["per page that it merges, or goes over", "instructions", "to merging"]
        if kernel.time:
            head += ["ns of processor", "to merging", "MiB/s"]
        return table(head, lines)

    def locks(self, kernel: Kernel) -> str:
        """Time under the mmap lock for each batch size."""
        head = [
            "batch_pages",
            "pages",
            "insert: mean",
            "longest",
            "merge: mean",
            "longest",
            "merge: estimate, mean",
            "longest",
        ]
        lines = []
        for row in kernel.count.rows("batch"):
            line = [str(row["batch_pages"]), NAMES[row["pages"]]]
            for step in ("insert", "merge"):
                mean = median(row, step, lambda s: s["module"]["lock_ns"] / s["module"]["batches"])
                line += [
                    number(mean),
                    number(median(row, step, lambda s: float(s["module"]["lock_ns_max"]))),
                ]
            for value in ("mean", "max"):
                low, high = self.estimate_us(kernel, row, "merge", value)
                line.append(f"{low:.0f} to {high:.0f} µs")
            lines.append(line)
        return table(head, lines)

    def native(self) -> str:
        """What a page costs on the host, and in instructions."""
        if self.host is None:
            return ""
        steps = ("memcpy", "memcmp", "compare", "zero", "string_copy", "string_clear")
        host = self.host.row("copy", pages="4k")
        counted = self.kernels[0].count.row("versus", pages="4k")
        lines = [
            [
                f"`{s}`",
                f"{cost(host, s):.0f}",
                number(cost(counted, s)),
                f"{cost(host, s) / cost(counted, s):.2f}",
            ]
            for s in steps
        ]
        return table(["per page", "ns on the host", "instructions", "ns per instruction"], lines)

    @staticmethod
    def _clock_rate(result: Result) -> str:
        known = result.data["clock"] == "time" and "clock_rate" in result.data
        return f"{result.data['clock_rate']:.2f}" if known else ""

    def machines(self) -> str:
        """What was measured where."""
        lines = []
        results = [r for k in self.kernels for r in k.results]
        for result in [*results, *([self.host] if self.host else [])]:
            machine, host = result.data["machine"], result.data.get("host", {})
            guest = (
                "the host itself"
                if result is self.host
                else (
                    f"{machine['processors']} processors, {machine['memory'] / (1 << 30):.1f} GiB"
                )
            )
            lines.append(
                [
                    f"[{result.path.name}](results/kmod/{result.path.name})",
                    machine["kernel"],
                    guest,
                    result.data["clock"],
                    host.get("processor", "?"),
                    host.get("qemu", "?"),
                    f"{host.get('load', 0):.1f}",
                    self._clock_rate(result),
                    host.get("kmod", "?"),
                    host.get("date", "?"),
                ]
            )
        head = [
            "file",
            "kernel",
            "guest",
            "clock",
            "host",
            "qemu",
            "load at start",
            "its clock to the host's",
            "kmod at",
            "date",
        ]
        return table(head, lines)

    def text(self) -> str:
        """All of it."""
        parts = ["### Targets", self.targets()]
        for k in self.kernels:
            parts += [
                f"### Linux {k.name}: cost per page",
                self.by_size(k),
                f"### Linux {k.name}: where it goes (64 MiB)",
                self.split(k),
                f"### Linux {k.name}: against ksmd, memcpy and memcmp (4 KiB pages)",
                self.against(k),
                f"### Linux {k.name}: instructions under the mmap lock in a batch",
                self.locks(k),
            ]
        parts += ["### Plain memory functions, natively", self.native()]
        parts += ["### Machines", self.machines()]
        return "\n\n".join(parts)


def load(paths: list[Path]) -> list[Result]:
    """Reads results."""
    return [Result(p, json.loads(p.read_text())) for p in paths]


def text(paths: list[Path]) -> str:
    """The tables for these results."""
    return Tables(load(paths)).text()


def update(paths: list[Path]) -> None:
    """Puts the tables into the README."""
    old = README.read_text(encoding="utf-8")
    start, stop = old.index(BEGIN) + len(BEGIN), old.index(END)
    README.write_text(f"{old[:start]}\n\n{text(paths)}\n\n{old[stop:]}", encoding="utf-8")


def record(paths: list[Path]) -> list[Path]:
    """Keeps results; the README then shows all that are kept."""
    RESULTS.mkdir(exist_ok=True)
    for path in paths:
        shutil.copy(path, RESULTS / path.name)
    kept = sorted(RESULTS.glob("*.json"))
    update(kept)
    return kept


def main() -> None:
    """The program."""
    paths = [Path(a) for a in sys.argv[1:] if not a.startswith("-")]
    paths = paths or sorted(RESULTS.glob("*.json"))
    if "--update" in sys.argv[1:]:
        update(paths)
    else:
        print(text(paths))


if __name__ == "__main__":
    main()
