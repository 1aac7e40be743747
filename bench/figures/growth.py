# SPDX-License-Identifier: MIT
"""The run behind Fig. 5, 6 and 8: containers start one after another, 16 at last.

Each answers five requests, as in the paper, and merging is over before the next one
starts. After each start memory is measured: PSS and USS of each container, and what the
kernel counts for the control group of all of them and the broker.
"""

from __future__ import annotations

from typing import Any

from figures import lab
from figures.experiment import Data, Experiment, Found, Raws, Settings

MODELS = {"alexnet": "AlexNet", "resnet50": "ResNet-50"}
MOST = 16
PAPER = (1, 2, 4, 8, 16)  # containers, in the paper's figures

USAGE = {"rss": int, "pss": int, "uss": int, "saved": int}
ADVISE = {"seconds": float, "merged": float, "inserted": float, "zero": float, "trimmed": float}
FORM = {
    "states": {
        "*": {
            "steps": [
                {
                    "n": int,
                    "requests": [float],
                    "merging_over": bool,
                    "usages": [USAGE],
                    "counted": (int, None),
                }
            ],
            "advises": [(ADVISE, None)],
        }
    },
    "same_answers": bool,
}


def _grow(room: lab.Room, most: int, say: Any) -> Data:
    steps = []
    for n in range(1, most + 1):
        requests = room.start(lab.REQUESTS)
        over = room.merge()
        usages = room.usages()
        step = {
            "n": n,
            "requests": requests,
            "merging_over": over,
            "usages": usages,
            "counted": room.counted(),
        }
        steps.append(step)
        pss = lab.mean(usages, "pss") / (1 << 20)
        say(f"{n} containers: first request {requests[0]:.2f} s, PSS {pss:.1f} MiB each")
    advises = [done and vars(done) for done in room.end()]
    return {"steps": steps, "advises": advises}


def measure(settings: Settings, model: str) -> Found:
    """All states, one after the other."""
    session = lab.session(settings, model)
    states, answers = {}, set()
    with lab.house(session) as host:
        for state in lab.STATES:
            settings.say(f"{model}, {state}")
            with lab.room(session, host, state) as room:
                states[state] = _grow(room, settings.choose(MOST, 2), settings.say)
                answers |= room.answers
        keyed = "upm run --layout keyed, which implies UPM_SCOPE=all"
        about = lab.about(session, host, keyed=keyed)
    return Found({"states": states, "same_answers": len(answers) == 1}, about)


def _experiment(model: str) -> Experiment:
    return Experiment(f"growth-{model}", lambda settings: measure(settings, model), FORM)


EXPERIMENTS = {model: _experiment(model) for model in MODELS}


def by_model(raws: Raws) -> dict[str, Data]:
    """The data that there are, by model."""
    found = {model: raws.get(each.name) for model, each in EXPERIMENTS.items()}
    return {model: document["data"] for model, document in found.items() if document}


def paper_steps(state: Data) -> list[Data]:
    """Those of as many containers as the paper shows."""
    return [step for step in state["steps"] if step["n"] in PAPER]


def unfinished(data: Data) -> list[str]:
    """What to say of steps at which merging was not over, and of answers that differ."""
    said = [
        f"{name}: merging was not over when memory of {step['n']} containers was measured."
        for name, state in data["states"].items()
        for step in state["steps"]
        if not step["merging_over"]
    ]
    return said if data["same_answers"] else [*said, "The answers were NOT all the same."]
