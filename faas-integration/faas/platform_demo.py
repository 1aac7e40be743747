# SPDX-License-Identifier: MIT
"""The demo of one platform's runtime: a few requests, without and with `upm run`."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from faas import functions, platforms, weights

ROOT = Path(__file__).resolve().parents[2]
UPM = ROOT / "build" / "bin" / "upm"
HOOK = ROOT / "build" / "lib" / "libupm-preload.so"
CLASSES: dict[str, Any] = {
    "aws-lambda": platforms.Lambda,
    "openwhisk": platforms.OpenWhisk,
    "http": platforms.Http,
}


def _wrapper(platform: str) -> Any:
    """What this platform puts before its runtime to have UPM."""
    if platform == "aws-lambda":
        return str(platforms.RUNTIMES / "aws-lambda" / "upm-wrapper")
    return [str(UPM), "run", "--"]


def _shorten(answer: Any) -> str:
    shown = {key: value for key, value in answer.items() if len(str(value)) <= 80}
    return json.dumps(shown, ensure_ascii=False)


def _requests(platform: str, what: functions.Function, count: int, wrapper: Any) -> list[Any]:
    event, answers, times = what.make_input(), [], []
    with CLASSES[platform](what, wrapper) as runtime:
        for _ in range(count):
            start = time.monotonic()
            answers.append(runtime.ask(event))
            times.append(time.monotonic() - start)
    warm = statistics.median(times[1:])
    name = "with upm run" if wrapper else "without UPM"
    print(f"{name}: first request {times[0] * 1000:.0f} ms, warm {warm * 1000:.1f} ms (median)")
    return answers


def main(platform: str) -> int:
    """The program `demo` of that platform's folder. Exit status 1 if answers differ."""
    parser = argparse.ArgumentParser(description=f"A function on {platform}'s runtime.")
    parser.add_argument("--function", default="text", choices=functions.names())
    parser.add_argument("--model", default="tiny", choices=weights.MODELS)
    parser.add_argument("--requests", type=int, default=5, metavar="N", help="at least 2")
    args = parser.parse_args()
    if args.requests < 2:
        parser.error("--requests must be at least 2")
    what = functions.find(args.function)
    group = ["faas", "demo"] if what.weights else ["faas"]
    with contextlib.suppress(KeyboardInterrupt):
        subprocess.run([str(ROOT / "tools" / "dev" / "deps"), *group], check=True)
        if what.weights:
            directory = ROOT / "build" / "demo" / "weights"
            weights.prepare(args.model, directory, what.directory / "function.py")
            os.environ.update(WEIGHTS=str(directory), MODEL=args.model)
        os.environ["UPM"] = str(UPM)
        answers = _requests(platform, what, args.requests, None)
        if UPM.exists() and HOOK.exists():
            answers += _requests(platform, what, args.requests, _wrapper(platform))
        else:
            print(f"not with UPM: no {UPM if not UPM.exists() else HOOK}; run make first")
        print(_shorten(answers[0]))
        same = all(answer == answers[0] for answer in answers)
        print("answers: all the same" if same else "FAILED: answers differ")
        return 0 if same else 1
    return 130


if __name__ == "__main__":
    sys.exit(main(sys.argv.pop(1)))
