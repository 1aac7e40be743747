# SPDX-License-Identifier: MIT
"""The module, by the demo in a virtual machine: only with KERNEL=6.1, and not in the hour.

With one image and with a copy each. Memory there is what it would be anywhere; times are
those of an emulated machine.
"""

from __future__ import annotations

import json
from pathlib import Path

from faas import functions, vm
from faas.session import Plan

from figures import drawing, lab
from figures.experiment import Data, Experiment, Found, Part, Raws, Section, Settings

CONTAINERS = 4
USAGE = {"rss": int, "pss": int, "uss": int, "saved": int, "own": int}
FORM = {
    "images": {
        "*": {
            "containers": str,
            "upm": str,
            "same_answers": bool,
            "kernel": str,
            "states": {"*": {"usages": [USAGE], "counted": (int, None), "possible": float}},
        }
    }
}


def _data(path: Path) -> Data:
    document = json.loads(path.read_text())
    states = {
        phase["name"]: {
            "usages": phase["usages"],
            "counted": phase["counted"],
            "possible": phase["estimate"]["saving"],
        }
        for phase in document["phases"]
    }
    known = {name: document[name] for name in ("containers", "upm", "same_answers")}
    return {**known, "kernel": document["machine"]["kernel"], "states": states}


def measure(settings: Settings) -> Found:
    """Two runs of the demo."""
    images, n = {}, settings.choose(CONTAINERS, 2)
    for words, copies in (("one image", False), ("a copy each", True)):
        plan = Plan(
            n=n,
            function=functions.find("image-recognition"),
            model=settings.choose("alexnet", "tiny"),
            out=settings.out / "images" / f"vm-{'copies' if copies else 'shared'}",
            copies=copies,
            warm=1,
            layouts=(),
        )
        if status := vm.run(settings.kernel, plan):
            raise OSError(f"the demo in the virtual machine: exit status {status}")
        images[words] = _data(plan.out / "demo.json")
    return Found({"images": images}, {"n": n, "model": plan.model, "kernel": settings.kernel})


EXPERIMENT = Experiment("module", measure, FORM, needs_kernel=True)


def parts(raws: Raws) -> list[Part]:
    """A table."""
    document = raws[EXPERIMENT.name]
    rows = []
    for image, found in document["data"]["images"].items():
        off, on = (
            {kind: lab.mean(state["usages"], kind) for kind in ("pss", "uss")}
            for state in found["states"].values()
        )
        for kind in ("pss", "uss"):
            cells = [drawing.mib(off[kind]), drawing.mib(on[kind])]
            rows.append([f"{kind.upper()}, {image}", *cells, drawing.change(off[kind], on[kind])])
    columns = ["MiB per container", lab.WITHOUT, lab.WITH, "change"]
    kernel = next(iter(document["data"]["images"].values()))["kernel"]
    text = f"{document['about']['n']} containers in an emulated machine with Linux {kernel}."
    return [drawing.table(columns, rows), {"paragraph": text}]


SECTION = Section("module", "The module, in a virtual machine", (EXPERIMENT,), parts)
