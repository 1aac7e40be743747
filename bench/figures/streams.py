# SPDX-License-Identifier: MIT
"""What the hook costs a program that reads a large file once, from its beginning to its end.

Not in the paper. Nobody shares what such a program reads: 8 GiB of the page cache, in reads of
16 MiB into the same memory again and again, or into memory that is allocated before and freed
after each. Without the hook and with it in turns, in alternating order. What is read begins at
a multiple of 64 bytes in all of them: the kernel copies a tenth slower to other places, and where
an allocator has it begin is chance.
"""

from __future__ import annotations

import contextlib
import os
import statistics
import subprocess
from pathlib import Path

from faas import merging
from faas.platforms import PYTHON

from figures import drawing, loads
from figures.experiment import Data, Experiment, Found, Part, Raws, Section, Settings

SIZE, QUICK = 8192, 64  # MiB
PAIRS = 5
KINDS = ("the same memory", "fresh memory")
FORM = {"mib": int, "rows": [{"kind": str, "hook": bool, "ms": float, "cpu_ms": float}]}
# The hook's thread begins with the first megabyte, and reads are plain until it has found the
# broker. Says what reading took, by the clock and of the processor.
READER = """
import ctypes, sys, time
path, same, part = sys.argv[1], sys.argv[2] == "the same memory", 16 << 20
libc, line = ctypes.CDLL(None), 64
libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
libc.free.restype, libc.free.argtypes = None, [ctypes.c_void_p]
whole = ctypes.c_char * part
early = bytearray(4 << 20)
time.sleep(0.5)
memory, count, done = libc.malloc(part + 2 * line), -1, 0
with open(path, "rb", buffering=0) as file:
    began, worked = time.perf_counter(), time.process_time()
    while count:
        count = file.readinto(whole.from_address(memory + line + -memory % line))
        done += count
        if not same:
            libc.free(memory)
            memory = libc.malloc(part + 2 * line)
    print(time.perf_counter() - began, time.process_time() - worked, done)
"""


def _read(path: Path, size: int, kind: str, more: dict[str, str]) -> Data:
    said = subprocess.run(
        [PYTHON, "-c", READER, str(path), kind],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, **more},
    ).stdout.split()
    if int(said[2]) != size:
        raise OSError("the program that reads a file ended early")
    return {"kind": kind, "ms": float(said[0]) * 1000, "cpu_ms": float(said[1]) * 1000}


def measure(settings: Settings) -> Found:
    """A broker for each reader, so that each is the first."""
    mib, pairs = settings.choose((SIZE, PAIRS), (QUICK, 1))
    settings.out.mkdir(parents=True, exist_ok=True)
    path = settings.out / "stream.bin"
    rows = []
    with contextlib.ExitStack() as outer:
        outer.callback(path.unlink, missing_ok=True)
        loads.write(path, mib * drawing.MIB)
        with path.open("rb") as file:
            os.fsync(file.fileno())  # else it is written while it is read
        for kind in KINDS:
            settings.say(f"reading {mib} MiB once into {kind}")
            _read(path, mib * drawing.MIB, kind, {})  # so that the file is in the page cache
            for pair in range(pairs):
                for hook in (False, True) if pair % 2 == 0 else (True, False):
                    with contextlib.ExitStack() as stack:
                        more = merging.open_way("store", stack).environment if hook else {}
                        row = _read(path, mib * drawing.MIB, kind, more)
                    rows.append({**row, "hook": hook})
    return Found({"mib": mib, "rows": rows}, {"upm": "backend store", "pairs": pairs})


EXPERIMENT = Experiment("stream", measure, FORM)


def parts(raws: Raws) -> list[Part]:
    """A table."""
    data = raws[EXPERIMENT.name]["data"]
    rows = []
    for kind in KINDS:
        cells = []
        for what in ("ms", "cpu_ms"):
            of = {
                hook: [row[what] for row in data["rows"] if (row["kind"], row["hook"]) == key]
                for hook in (False, True)
                for key in [(kind, hook)]
            }
            ratios = [100 * (b / a - 1) for a, b in zip(of[False], of[True], strict=True)]
            medians = [statistics.median(of[hook]) for hook in (False, True)]
            cells += [*(f"{each:.0f}" for each in medians), f"{statistics.median(ratios):+.1f} %"]
        rows.append([f"into {kind}", *cells])
    columns = ["", "ms", "with the hook", "more", "cpu, ms", "with the hook, cpu", "more cpu"]
    text = f"{data['mib']} MiB of the page cache, in reads of 16 MiB; medians. More: the median "
    text += "of the pairs."
    return [drawing.table(columns, rows), {"paragraph": text}]


SECTION = Section("stream", "A large file that is read once", (EXPERIMENT,), parts)
