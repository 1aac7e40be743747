# SPDX-License-Identifier: MIT
"""Time of loading a file by size: without the hook, and where reads share (UPM_SCOPE=loads).

Plain processes, one after the other; each stays until the last has loaded, as containers
that keep their model do.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
from pathlib import Path

from faas import measure as pss
from faas import merging
from faas.platforms import PYTHON
from faas.session import PSS_REPORT

from figures import drawing
from figures.experiment import Data, Experiment, Found, Part, Raws, Settings

SIZES = (20, 40, 80, 160, 256, 512, 1024, 2048)  # MiB
QUICK = (2, 4)
ROUNDS = 3
KINDS = {"plain": drawing.WITHOUT, "first": drawing.THIRD, "later": drawing.WITH}
SMALL = 160
FORM = {"rows": [{"kind": str, "mib": int, "ms": float, "saved": int}]}
# The hook's thread begins with the first megabyte, and reads are plain until it has found the
# broker. Says how long reading took, then waits.
LOADER = """
import sys, time
path, size = sys.argv[1], int(sys.argv[2])
early = bytearray(4 << 20)
time.sleep(0.5)
with open(path, "rb") as file: # whose buffer is passed by, in pieces of at most 2 GiB - 4 KiB
    began = time.perf_counter()
    whole = file.read(size) # into fresh memory: bytearray(size) would have written to it
    if len(whole) < size:
        sys.exit("the file is too short")
    took = time.perf_counter() - began
print(took, flush=True)
sys.stdin.read()
"""


def write(path: Path, size: int) -> None:
    """A file of so many bytes, whole MiB, of which no two parts are alike."""
    with path.open("wb") as file:
        for _ in range(size // drawing.MIB):
            file.write(os.urandom(drawing.MIB))


def _load(stack: contextlib.ExitStack, path: Path, mib: int, more: dict[str, str]) -> Data:
    size = mib * drawing.MIB
    process = stack.enter_context(
        subprocess.Popen(
            [PYTHON, "-c", LOADER, str(path), str(size)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **more},
        )
    )
    stack.callback(process.kill)
    assert process.stdout is not None
    said = process.stdout.readline()
    if not said:
        raise OSError("the program that loads a file ended early")
    saved = pss.take(PSS_REPORT, [process.pid])[0].saved
    return {"mib": mib, "ms": float(said) * 1000, "saved": saved}


def measure(settings: Settings) -> Found:
    """For each size and round: a plain process, then a first and a later one with the hook."""
    sizes, rounds = settings.choose((SIZES, ROUNDS), (QUICK, 1))
    settings.out.mkdir(parents=True, exist_ok=True)
    path = settings.out / "loads.bin"
    rows = []
    with contextlib.ExitStack() as outer:
        outer.callback(path.unlink, missing_ok=True)
        write(path, max(sizes) * drawing.MIB)
        for mib in sizes:
            settings.say(f"loading {mib} MiB")
            for _ in range(rounds):
                # A broker and a domain for each round, so that the first one is the first.
                with contextlib.ExitStack() as stack:
                    way = merging.open_way("store", stack)
                    hooked = {**way.environment, "UPM_SCOPE": "loads", "UPM_IDLE_MS": "60000"}
                    for kind, more in (("plain", {}), ("first", hooked), ("later", hooked)):
                        rows.append({"kind": kind, **_load(stack, path, mib, more)})
    about = {"upm": "backend store", "scope": "UPM_SCOPE=loads", "rounds": rounds}
    return Found({"rows": rows}, about)


LOADS = Experiment("load-by-size", measure, FORM)


def least(data: Data, kind: str, mib: int) -> Data:
    """The row of the fastest round."""
    rows = [row for row in data["rows"] if (row["kind"], row["mib"]) == (kind, mib)]
    fastest: Data = min(rows, key=lambda row: float(row["ms"]))
    return fastest


def parts(raws: Raws) -> list[Part]:
    """Figures and a table."""
    if LOADS.name not in raws:
        return []
    data = raws[LOADS.name]["data"]
    sizes = sorted({row["mib"] for row in data["rows"]})
    made = []
    for name, title, some in (
        ("load", "Load by size", [mib for mib in sizes if mib <= SMALL]),
        ("load-large", "Load by size, beyond", [mib for mib in sizes if mib > SMALL]),
    ):
        curves = [
            drawing.curve(kind, [(mib, least(data, kind, mib)["ms"]) for mib in some], color)
            for kind, color in KINDS.items()
        ]
        if some:
            made.append(drawing.lines(name, title, "MiB", "of a load", curves, "ms"))
    rows = []
    for mib in sizes:
        of = {kind: least(data, kind, mib) for kind in KINDS}
        times = [f"{of[kind]['ms']:.1f}" for kind in KINDS]
        shared = f"{100 * of['later']['saved'] / mib / drawing.MIB:.0f} %"
        rows.append([str(mib), *times, shared])
    columns = ["MiB", "plain, ms", "first, ms", "later, ms", "saved for the later one"]
    made.append(drawing.table(columns, rows))
    text = "Reading a file from the page cache into new memory; the least of the rounds. Saved: "
    text += "by sharing with the first one, for which the same is saved: half of the content each."
    made.append({"paragraph": text})
    return made
