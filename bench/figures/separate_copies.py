# SPDX-License-Identifier: MIT
"""Separate copies of the image: on against off, where files are equal and not the same."""

from __future__ import annotations

import dataclasses

from figures import drawing, growth, lab
from figures.experiment import Data, Experiment, Found, Part, Raws, Section, Settings
from figures.fig5_pss import COLORS

CONTAINERS = 4
FORM = {
    "images": {"*": {"*": {"usages": [growth.USAGE], "counted": (int, None), "merging_over": bool}}}
}


def _states(settings: Settings, copies: bool) -> tuple[Data, dict[str, str]]:
    n = settings.choose(CONTAINERS, 2)
    session = lab.session(settings, "alexnet", copies=copies)
    session.plan = dataclasses.replace(session.plan, n=n)
    states = {}
    with lab.house(session) as host:
        lab.need_containers(host, "copies of files are those of images")
        for state in (lab.WITHOUT, lab.WITH):
            settings.say(f"{'separate copies' if copies else 'one image'}, {state}")
            with lab.room(session, host, state) as room:
                for _ in range(n):
                    room.start(lab.REQUESTS)
                over = room.merge()
                states[state] = {
                    "usages": room.usages(),
                    "counted": room.counted(),
                    "merging_over": over,
                }
        return states, {"containers": host.kind}


def measure(settings: Settings) -> Found:
    """AlexNet's containers from one image, then from a copy each."""
    one, _ = _states(settings, copies=False)
    copies, how = _states(settings, copies=True)
    data = {"images": {"one image": one, "a copy each": copies}}
    return Found(data, {**how, "model": "alexnet"})


EXPERIMENT = Experiment("separate-copies", measure, FORM)


def parts(raws: Raws) -> list[Part]:
    """A figure and a table."""
    images = raws[EXPERIMENT.name]["data"]["images"]
    series = [
        (state, COLORS[state], [lab.mean(of[state]["usages"], "pss") for of in images.values()])
        for state in (lab.WITHOUT, lab.WITH)
    ]
    rows = []
    for number, image in enumerate(images):
        off, on = (values[number] for _, _, values in series)
        rows.append([image, drawing.mib(off), drawing.mib(on), drawing.change(off, on)])
    columns = ["PSS per container, MiB", lab.WITHOUT, lab.WITH, "change"]
    return [
        drawing.bars("copies", "PSS by image", "each", list(images), series),
        drawing.table(columns, rows),
        {"paragraph": "The backend store cannot merge pages of files; the module can."},
    ]


SECTION = Section("copies", "Separate copies of the image", (EXPERIMENT,), parts)
