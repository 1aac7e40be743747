# SPDX-License-Identifier: MIT
"""The paper's sharing study: how much of two containers' memory is equal.

Without UPM, from separate copies of the image, with address randomisation and without it;
by pss-report --estimate, which reads and hashes every page.
"""

from __future__ import annotations

import dataclasses
import json
from typing import Any

from faas import measure as pss
from faas import merging
from faas.session import PSS_REPORT

from figures import drawing, lab, original
from figures.experiment import Data, Experiment, Found, Part, Raws, Section, Settings

FUNCTIONS = ("image-recognition", "dynamic-html", "thumbnailer", "dna-visualisation")
MODEL = "resnet50"
LAYOUTS = {"aslr": [], "no aslr": merging.FIXED_LAYOUT}
CLASSES = ("scanned", "zero", "already_shared", "shareable_anon", "shareable_file", "unique")
FORM = {"functions": {"*": {"*": {"rss": int, **dict.fromkeys(CLASSES, int), "containers": str}}}}


def _study(settings: Settings, function: str, prefix: list[str]) -> Data:
    session = lab.session(settings, MODEL, function, copies=True)
    session.plan = dataclasses.replace(session.plan, n=2)
    way = merging.Way("none", agent=False, environment={}, prefix=prefix)
    if prefix:
        way.environment["PYTHONHASHSEED"] = "0"
    with session.host() as host, lab.room(session, host, lab.WITHOUT) as room:
        lab.need_containers(host, "copies of files are those of images")
        for _ in range(2):
            room.start(lab.REQUESTS, way)
        rss = sum(usage["rss"] for usage in room.usages())
        pids = ",".join(map(str, room.pids))
        text = pss.run(PSS_REPORT, "--estimate", "--json", "--pid", pids)
        total: dict[str, Any] = json.loads(text)["estimate"]["total"]
        return {"rss": rss, **{name: total[name] for name in CLASSES}, "containers": host.kind}


def measure(settings: Settings) -> Found:
    """Each function, each layout."""
    functions: Data = {}
    for function in settings.choose(FUNCTIONS, FUNCTIONS[:2]):
        functions[function] = {}
        for layout, prefix in LAYOUTS.items():
            settings.say(f"{function}, {layout}")
            functions[function][layout] = _study(settings, function, prefix)
    return Found({"functions": functions}, {"model": MODEL, "n": 2, "upm": "none"})


EXPERIMENT = Experiment("sharing-study", measure, FORM)


def parts(raws: Raws) -> list[Part]:
    """A figure for each layout, and a table with the original's numbers."""
    functions = raws[EXPERIMENT.name]["data"]["functions"]
    theirs = original.NUMBERS["sharing_percent_of_rss"]
    made, rows = [], []
    for layout in LAYOUTS:
        ours = {
            kind: [
                100 * of[layout][f"shareable_{kind}"] / of[layout]["rss"]
                for of in functions.values()
            ]
            for kind in ("anon", "file")
        }
        both = [[theirs[name][layout][i] for name in functions] for i in (0, 1)]
        series = [
            ("anonymous", drawing.WITH, ours["anon"]),
            ("original, anonymous", drawing.ORIGINAL, both[0]),
            ("files", drawing.THIRD, ours["file"]),
            ("original, files", drawing.ORIGINAL + 2, both[1]),
        ]
        name = f"sharing-{layout.replace(' ', '-')}"
        title = f"Equal pages, {'with' if layout == 'aslr' else 'without'} ASLR"
        made.append(drawing.bars(name, title, "of RSS", list(functions), series, "%"))
        for number, function in enumerate(functions):
            cells = [f"{values[number]:.1f}" for _, _, values in series]
            rss = drawing.mib(functions[function][layout]["rss"] / 2)
            rows.append([f"{function}, {layout}", rss, *cells])
    columns = ["% of RSS", "RSS, MiB", "anonymous", "original", "files", "original"]
    made.append(drawing.table(columns, rows))
    text = "Pages of private mappings that have a twin in another frame, in two containers from "
    text += "separate copies of the image. The functions are ours, of the kind of the original's; "
    text += f"image-recognition has {MODEL}."
    made.append({"paragraph": text})
    return made


SECTION = Section("sharing", "Sharing study", (EXPERIMENT,), parts)
