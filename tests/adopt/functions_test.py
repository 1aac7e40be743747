#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""The blocks of docs/containers.md for platforms of functions, as they stand there.

A layer of AWS Lambda and an action of OpenWhisk are made by what people copy, unpacked where
the platform would, and served by its runtime (faas-integration/runtimes). Two instances must
then hold one copy of what they load. Needs root, for a /opt and a /run/upm of its own.
"""

from __future__ import annotations

import os
import subprocess
import sys
import unittest
import zipfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))
import hooked
import podman_test
from python_tools import ROOT

sys.path.insert(0, str(ROOT / "faas-integration"))
from faas import functions, platforms

INSTALLED = "/usr/lib/x86_64-linux-gnu/libupm-preload.so"
KEY = "ab" * 16
# Loads the weights at its start, as functions do; an event may change them.
FUNCTION = f"""
import os, sys, zlib
with open(os.environ["WEIGHTS"], "rb", buffering=0) as file:
    block = file.read({podman_test.SIZE})
place = id(block) + sys.getsizeof(b"") - 1
def handler(event):
    if event.get("change"):
        with open("/proc/self/mem", "r+b", buffering=0) as memory:
            memory.seek(place)
            memory.write(bytes([255 - block[0]]))
    return {{"place": place, "digest": zlib.crc32(block)}}
"""


class Instance:
    """One instance of the function, with what check_shares() asks of a container."""

    def __init__(self, case: Case, platform: Any) -> None:
        self.case = case
        self.platform = platform.__enter__()
        self.running = True
        case.instances.append(self)

    @property
    def pid(self) -> int:
        """Of the process that the function runs in."""
        return int(self.platform.pid)

    def line(self) -> str:
        """Where its weights are, and their sum."""
        answer = self.platform.ask({})
        return f"{answer['place']} {answer['digest']}"

    def end(self) -> str:
        """The sum after a write to its own copy."""
        answer = self.platform.ask({"change": True})
        self.close()
        return str(answer["digest"])

    def close(self) -> None:
        """Ends it, once."""
        if self.running:
            self.running = False
            self.platform.__exit__()


class Case(podman_test.Case):
    """A broker, weights, and a function that loads them."""

    def setUp(self) -> None:
        super().setUp()
        self.instances: list[Instance] = []
        code = self.path / "function"
        code.mkdir()
        (code / "function.py").write_text(FUNCTION)
        settings = {k: v for k, v in vars(functions.find("text")).items() if k != "directory"}
        self.function = functions.Function(directory=code, **settings)
        self.variables = {"WEIGHTS": str(self.data / "weights"), "UPM_DOMAIN": KEY}

    def stop(self) -> None:
        """Every instance that a failed test left."""
        for instance in self.instances:
            instance.close()

    def type(self, heading: str, archive: str, into: Path) -> None:
        """Types the block, with the hook of this build, and unpacks the archive that it makes."""
        text = podman_test.documented(heading)
        self.assertIn(INSTALLED, text)
        block = text.replace(INSTALLED, str(hooked.HOOK))
        subprocess.run(["sh", "-euc", block], cwd=self.path, check=True)
        with zipfile.ZipFile(self.path / archive) as packed:
            for entry in packed.infolist():
                place = packed.extract(entry, into)
                Path(place).chmod(entry.external_attr >> 16 & 0o777)

    def start(self) -> Any:
        """One more instance."""
        raise NotImplementedError

    def check(self) -> None:
        """Two instances hold one copy."""
        self.containers = self.instances  # type: ignore[assignment]
        self.check_shares(self.start, self.start)


class Lambda(Case):
    """AWS's runtime for Python, with the layer."""

    def start(self) -> Instance:
        """By the wrapper of the layer."""
        wrapper = "/opt/upm/wrapper"
        return Instance(self, platforms.Lambda(self.function, wrapper, **self.variables))

    def test_the_documented_layer(self) -> None:
        try:
            platforms.interpreter("aws-lambda")
        except platforms.PlatformError as error:
            self.skipTest(f"no awslambdaric: {error}")
        self.type("A layer of AWS Lambda", "upm-layer.zip", Path("/opt"))
        self.check()


class OpenWhisk(Case):
    """The protocol of the action loop, with the action."""

    def start(self) -> Instance:
        """By the program of the action; the original one starts the loop."""
        action = [str(self.path / "unpacked/exec")]
        return Instance(self, platforms.OpenWhisk(self.function, action, **self.variables))

    def test_the_documented_action(self) -> None:
        original = self.path / "action/exec"
        original.parent.mkdir()
        original.write_text('#!/bin/sh\nexec "$@"\n')
        original.chmod(0o755)
        self.type("An action of OpenWhisk", "action.zip", self.path / "unpacked")
        self.check()


def main() -> None:
    """Runs the tests in a mount namespace, or says why not."""
    if os.geteuid() != 0:
        print("skipped: needs root, for a mount namespace")
        sys.exit(hooked.EXIT_SKIPPED)
    if podman_test.INSIDE not in os.environ:
        sys.exit(podman_test.in_own_namespace("/opt"))
    unittest.main()


if __name__ == "__main__":
    main()
