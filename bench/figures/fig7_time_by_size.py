# SPDX-License-Identifier: MIT
"""Fig. 7 of the paper: time of an advise by size, of the first process and of later ones.

By upm-bench-store, whose processes have the same content; the first of them brings it.
Beside it what the paper has not: the time of loading a file, where reads share.
"""

from __future__ import annotations

import json
import subprocess
import tempfile
from pathlib import Path

from figures import drawing, loads, original
from figures.experiment import Data, Experiment, Found, Part, Raws, Section, Settings
from figures.raw import ROOT

PROGRAM = ROOT / "build" / "bin" / "upm-bench-store"
SIZES = (20, 40, 60, 80, 100, 120, 140, 160, 256, 512, 1024, 2048)  # MiB; the paper's: to 160
SMALL = 160
QUICK = (1, 2)
KINDS = {
    "BM_Insert": ("first, small pages", drawing.THIRD, 1),
    "BM_Merge": ("later, small pages", drawing.WITH, 1),
    "BM_InsertHuge": ("first, huge pages", drawing.THIRD, drawing.DASHED),
    "BM_MergeHuge": ("later, huge pages", drawing.WITH, drawing.DASHED),
}
FORM = {"rows": [{"kind": str, "mib": int, "rounds": int, "ms": float, "plain_ms": float}]}


def measure(settings: Settings) -> Found:
    """Runs it. A row's times are medians of its rounds."""
    sizes = settings.choose(SIZES, QUICK)
    with tempfile.TemporaryDirectory(prefix="upm-figures-") as directory:
        path = Path(directory) / "out.json"
        command = [str(PROGRAM), f"--sizes={','.join(map(str, sizes))}"]
        command += ["--benchmark_filter=BM_(Insert|Merge)(Huge)?/", f"--benchmark_out={path}"]
        done = subprocess.run(
            [*command, "--benchmark_out_format=json"], check=False, capture_output=True, text=True
        )
        if done.returncode != 0:
            raise OSError(f"{PROGRAM.name}: {done.stderr.strip()[-300:]}")
        benchmarks = json.loads(path.read_text())["benchmarks"]
    rows = []
    for each in benchmarks:
        kind, mib = each["run_name"].split("/")[:2]
        size = int(mib) * drawing.MIB
        times = (size / each[name] / 1e6 for name in ("GBps", "plain_GBps"))
        ms, plain = times
        rows.append(
            {
                "kind": kind,
                "mib": int(mib),
                "rounds": each["iterations"],
                "ms": ms,
                "plain_ms": plain,
            }
        )
    return Found({"rows": rows}, {"program": PROGRAM.name, "upm": "backend store"})


ADVISE = Experiment("advise-by-size", measure, FORM)


def _figure(data: Data, name: str, title: str, large: bool) -> Part:
    curves = []
    for kind, (words, color, dash) in KINDS.items():
        rows = [row for row in data["rows"] if row["kind"] == kind]
        points = [(row["mib"], row["ms"]) for row in rows if (row["mib"] > SMALL) == large]
        if points:
            curves.append(drawing.curve(words, points, color, dash))
    if not large:
        sizes = original.NUMBERS["by_size"]
        for words in ("first", "later"):
            times = sizes[f"{words}_ms_per_mb"]
            points = [(mb, mb * each) for mb, each in zip(sizes["mib"], times, strict=True)]
            dash = 1 if words == "first" else drawing.DASHED
            curves.append(drawing.curve(f"original, {words}", points, drawing.ORIGINAL, dash))
    return drawing.lines(name, title, "MiB", "of an advise", curves, "ms")


def parts(raws: Raws) -> list[Part]:
    """Two figures of advising and a table, then those of loading."""
    made: list[Part] = []
    if document := raws.get(ADVISE.name):
        data = document["data"]
        made.append(_figure(data, "fig7", "Advise by size, as in the paper", large=False))
        if any(row["mib"] > SMALL for row in data["rows"]):
            made.append(_figure(data, "fig7-large", "Advise by size, beyond it", large=True))
        rows = []
        for mib in sorted({row["mib"] for row in data["rows"]}):
            of = {row["kind"]: row for row in data["rows"] if row["mib"] == mib}
            ms = [f"{of[kind]['ms']:.1f}" for kind in KINDS]
            each = [f"{of[kind]['ms'] / mib:.2f}" for kind in ("BM_Insert", "BM_Merge")]
            plain = [f"{of[kind]['plain_ms']:.1f}" for kind in ("BM_Insert", "BM_Merge")]
            rows.append([str(mib), *ms, *plain, *each])
        words = [words for words, _, _ in KINDS.values()]
        columns = ["MiB", *words, "memcpy", "memcmp", "first, ms/MiB", "later, ms/MiB"]
        made.append(drawing.table(columns, rows))
        sizes = original.NUMBERS["by_size"]
        first, later = (sizes[f"{words}_ms_per_mb"] for words in ("first", "later"))
        made.append(
            {
                "paragraph": f"Milliseconds, medians. Original, {sizes['mib'][0]} to "
                f"{sizes['mib'][1]} MB, ms/MB: first {first[0]} to {first[1]}, later {later[0]} "
                f"to {later[1]}."
            }
        )
    return made + loads.parts(raws)


SECTION = Section("fig7", "Fig. 7: time by size", (ADVISE, loads.LOADS), parts)
