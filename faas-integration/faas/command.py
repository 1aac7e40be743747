# SPDX-License-Identifier: MIT
"""What the programs demo and churn have in common: options, progress, signals, exit status."""

from __future__ import annotations

import argparse
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from faas import functions, measure, merging, weights
from faas.containers import ContainerError
from faas.image import ImageError
from faas.session import ROOT, Plan

NOTHING_MERGES = 3  # exit status

_began = time.monotonic()


def say(text: str) -> None:
    """A line of progress."""
    print(f"[{time.monotonic() - _began:6.1f} s] {text}", flush=True)


def parser(description: str) -> argparse.ArgumentParser:
    """The options that both have; -n is left to each."""
    made = argparse.ArgumentParser(description=description.partition("\n")[0])
    add = made.add_argument
    add("--function", default="image-recognition", choices=functions.names())
    add("--model", default="alexnet", choices=weights.MODELS)
    add("--backend", default="auto", choices=merging.BACKENDS)
    add("--containers", default="auto", choices=("auto", "runc", "process"))
    add("--out", type=Path, default=ROOT / "build" / "demo", metavar="DIRECTORY")
    return made


def plan(args: argparse.Namespace, **more: Any) -> Plan:
    """What these options ask for; `more`: fields of the plan that only one program sets."""
    return Plan(
        n=args.n,
        function=functions.find(args.function),
        model=args.model,
        backend=args.backend,
        containers=args.containers,
        out=args.out.resolve(),
        **more,
    )


def run(name: str, work: Callable[[], int]) -> int:
    """The exit status of `work`, or that of what it raises.

    SIGTERM ends it as Ctrl-C does: containers, mounts and control groups go first.
    """
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        return work()
    except KeyboardInterrupt:
        print(f"{name}: interrupted; what it had started is gone", file=sys.stderr)
        return 128 + signal.SIGINT
    except merging.MergingError as error:
        print(f"{name}: nothing here can merge: {error}", file=sys.stderr)
        return NOTHING_MERGES
    except (ContainerError, ImageError, measure.MeasureError, OSError) as error:
        print(f"{name}: {error}", file=sys.stderr)
        return 1


def report(faults: list[str]) -> int:
    """Prints what must not be; the exit status."""
    for fault in faults:
        print(f"FAILED: {fault}")
    return 1 if faults else 0
