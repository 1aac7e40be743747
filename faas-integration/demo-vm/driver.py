#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Runs in the virtual machine: starts the containers, has them merge, measures.

    driver.py -n N [--fixed-layout] --inputs DIRECTORY --out DIRECTORY

The same processes are measured before and after: what they use before is the
state without UPM. Exit status 1 if an answer changed or nothing was merged.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import memory
import report

HERE = Path(__file__).resolve().parent
SYSFS = Path("/sys/kernel/upm")
THP = Path("/sys/kernel/mm/transparent_hugepage/enabled")

# Equal addresses make pages that hold pointers equal too, at the price of what
# randomisation protects from.
FIXED_LAYOUT = ["/usr/bin/env", "PYTHONHASHSEED=0", "/usr/bin/setarch", "--addr-no-randomize"]

BATTERY_CLOCK = Path("/sys/class/rtc/rtc0/since_epoch")

_started = time.monotonic()


def say(text: str) -> None:
    """A line of progress."""
    print(f"[{time.monotonic() - _started:6.1f} s] {text}", flush=True)


class Container:
    """One process of the function."""

    def __init__(self, number: int, inputs: Path, fixed_layout: bool) -> None:
        """Starts nothing yet."""
        self.number = number
        self.sums: list[str] = []
        """The checksum of each answer so far."""
        self._event = {"image": str(inputs / "picture.jpg"), "weights": str(inputs / "weights.pt")}
        self._command = [*(FIXED_LAYOUT if fixed_layout else []), "/usr/bin/python3"]
        self._process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        """Starts the process and waits until its imports are done."""
        self._process = subprocess.Popen(
            [*self._command, str(HERE / "worker.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        say(f"process {self.number}: imported PyTorch in {self._answer()['took']:.0f} s")

    def start_and_serve(self) -> dict[str, Any]:
        """A cold start."""
        self.start()
        return self.serve()

    def serve(self) -> dict[str, Any]:
        """Has it answer a request."""
        answer = self._ask({"do": "serve", **self._event})
        self.sums.append(answer["sha256"])
        say(
            f"process {self.number}: request {len(self.sums)} in {answer['took']:.1f} s: "
            f"top 5 {answer['top5']}, checksum {answer['sha256'][:12]}"
        )
        return answer

    def advise(self, what: str) -> dict[str, Any]:
        """Has it merge its weights, or all its anonymous memory."""
        answer = self._ask({"do": "advise", "what": what})
        say(
            f"process {self.number}: advised {what}, {answer['bytes'] / report.MIB:.0f} MiB "
            f"in {answer['seconds'] * 1000:.0f} ms: {answer['inserted']} pages inserted, "
            f"{answer['merged']} merged, {answer['zero']} zero, {answer['already']} already, "
            f"skipped {answer['skipped'] or 'none'}"
        )
        return answer

    def usage(self) -> memory.Usage:
        """Its memory now."""
        assert self._process is not None
        return memory.of_process(self._process.pid)

    def stop(self) -> None:
        """Ends it."""
        if self._process is not None:
            self._process.communicate()

    def _ask(self, event: dict[str, str]) -> dict[str, Any]:
        assert self._process is not None and self._process.stdin is not None
        print(json.dumps(event), file=self._process.stdin, flush=True)
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._process is not None and self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"process {self.number} ended: status {self._process.wait()}")
        answer: dict[str, Any] = json.loads(line)
        return answer


class Demo:
    """The run, and what it found."""

    def __init__(self, count: int, inputs: Path, fixed_layout: bool) -> None:
        """Starts nothing yet."""
        self._containers = [Container(i + 1, inputs, fixed_layout) for i in range(count)]
        self._before = memory.in_use()
        self.answers: list[dict[str, Any]] = []
        self.samples: list[dict[str, Any]] = []
        self.advises: list[dict[str, Any]] = []

    def run(self) -> None:
        """All phases."""
        say(f"starting {len(self._containers)} processes, {os.cpu_count()} at a time")
        self._each(Container.start_and_serve)
        self._sample("without UPM")
        self._advise("weights")
        self._advise("weights", "weights again")
        self._sample("weights advised")
        self._each(Container.serve)
        self._sample("  and another request")
        self._advise("anonymous")
        self._sample("all anonymous advised")
        self._each(Container.serve)
        self._sample("  and another request")

    def stop(self) -> None:
        """Ends the processes."""
        for container in self._containers:
            container.stop()

    def same_answers(self) -> bool:
        """Whether all answers of all processes are the same, bit by bit."""
        sums = {s for c in self._containers for s in c.sums}
        return len(sums) == 1 and len({tuple(a["top5"]) for a in self.answers}) == 1

    def _each(self, work: Callable[[Container], dict[str, Any]]) -> None:
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            self.answers += pool.map(work, self._containers)

    def _sample(self, name: str) -> None:
        time.sleep(1)  # what ended requests freed late is free
        usages = [dataclasses.asdict(c.usage()) for c in self._containers]
        system = memory.in_use() - self._before
        self.samples.append({"name": name, "processes": usages, "system": system})
        mean = sum(u["pss"] for u in usages) / len(usages)
        say(
            f"measured: {name.strip()}: PSS {mean / report.MIB:.1f} MiB per process, "
            f"system {system / report.MIB:.0f} MiB"
        )

    def _advise(self, what: str, name: str = "") -> None:
        results = [c.advise(what) for c in self._containers]
        self.advises.append({"name": name or what, "processes": results})


def battery_clock() -> int:
    """Seconds by the battery-backed clock, which in an emulated machine is the host's."""
    return int(BATTERY_CLOCK.read_text()) if BATTERY_CLOCK.exists() else 0


def machine(inputs: Path) -> dict[str, Any]:
    """What the numbers were measured on."""
    host = inputs / "host.json"
    memtotal = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "kernel": platform.release(),
        "processors": os.cpu_count(),
        "memory": memtotal,
        "transparent_hugepage": THP.read_text().strip(),
        "python": platform.python_version(),
        "host": json.loads(host.read_text()) if host.exists() else {},
    }


def module_statistics() -> dict[str, int]:
    """The module's own counters."""
    found = {}
    for path in sorted(SYSFS.iterdir()):
        try:
            found[path.name] = int(path.read_text())
        except (OSError, ValueError):
            continue  # write-only, a folder, or more than a number
    return found


def main() -> int:
    """The program."""
    parser = argparse.ArgumentParser()
    parser.add_argument("-n", type=int, default=4)
    parser.add_argument("--fixed-layout", action="store_true")
    parser.add_argument("--inputs", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()

    began = battery_clock()
    demo = Demo(args.n, args.inputs, args.fixed_layout)
    try:
        demo.run()
        statistics = module_statistics()
    finally:
        demo.stop()
    result = {
        "machine": machine(args.inputs),
        "n": args.n,
        # A guest that boots on a busy host can misjudge the frequency of its clock.
        "clock_rate": (time.monotonic() - _started) / max(1, battery_clock() - began),
        "fixed_layout": args.fixed_layout,
        "same_answers": demo.same_answers(),
        "samples": demo.samples,
        "advises": demo.advises,
        "requests": [a["took"] for a in demo.answers],
        "answer": {key: demo.answers[0][key] for key in ("top5", "sha256")},
        "module": statistics,
    }
    (args.out / "result.json").write_text(json.dumps(result, indent=2) + "\n")
    print()
    print(report.text(result))
    faults = report.faults(result)
    for fault in faults:
        print(f"FAILED: {fault}")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
