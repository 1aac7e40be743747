#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""NVIDIA's real CUDA runtime over a driver that only logs, with the hook between them.

runtime_test.py BUILD_FOLDER STUB_FOLDER; needs no GPU, but a CUDA toolkit.
"""

import json
import os
import re
import subprocess
import sys
import unittest
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
STUB = sys.argv.pop(2) if len(sys.argv) > 2 else str(ROOT / "build/cmake/tests/cuda-cow/stub-cuda")
BUILD = Path(sys.argv.pop(1)) if len(sys.argv) > 1 else ROOT / "build"
CUDA = Path(os.environ.get("CUDA_HOME", "/usr/local/cuda"))
HOOK = "libupm-cuda-preload.so"
# The runtime asks for all it uses when it is first called, which then fails.
CALL_RUNTIME = """
import ctypes, sys
runtime, count = ctypes.CDLL(sys.argv[1]), ctypes.c_int()
print(runtime.cudaGetDeviceCount(ctypes.byref(count)))
"""
# What the hook gives for (name, version, flags): its own symbol, or "".
ASK_HOOK = """
import ctypes, json, sys
class Info(ctypes.Structure):
    _fields_ = [("file", ctypes.c_char_p), ("base", ctypes.c_void_p),
                ("symbol", ctypes.c_char_p), ("address", ctypes.c_void_p)]
driver, program = ctypes.CDLL("libcuda.so.1"), ctypes.CDLL(None)
def symbol(name, version, flags):
    found, info = ctypes.c_void_p(), Info()
    program.cuGetProcAddress_v2(name.encode(), ctypes.byref(found), version,
                                ctypes.c_uint64(flags), None)
    program.dladdr(found, ctypes.byref(info))
    ours = b"libupm-cuda-preload" in (info.file or b"")
    return (info.symbol or b"?").decode() if ours else ""
print(json.dumps([symbol(*asked) for asked in json.load(sys.stdin)]))
"""
# Calls that write memory or launch work, and are not hooked: to and from arrays and the
# host, and what docs/cuda-cow.md names under "Not seen".
WORK = re.compile(r"^cu(Memcpy|Memset|Launch|GraphLaunch|StreamWriteValue)")
NOT_HOOKED = re.compile(r"^cu(Memcpy(HtoA|AtoH|AtoA)|Memcpy3DBatch|LaunchHostFunc)")


class RuntimeTest(unittest.TestCase):
    """What the runtime of this machine's toolkit does."""

    def run_hooked(self, code: str, *arguments: str, given: str = "") -> tuple[str, str]:
        """Standard output and error of a Python program under the hook, over the stub."""
        done = subprocess.run(
            [sys.executable, "-c", code, *arguments],
            input=given,
            capture_output=True,
            text=True,
            check=True,
            env=os.environ | {"LD_PRELOAD": str(BUILD / "lib" / HOOK), "LD_LIBRARY_PATH": STUB},
        )
        return done.stdout, done.stderr

    def asked(self) -> list[tuple[str, int, int]]:
        """Name, version and flags that the runtime asks for."""
        runtimes = sorted(CUDA.glob("lib*/libcudart.so.*"))
        if not runtimes:
            self.skipTest(f"no CUDA runtime in {CUDA}")
        _, log = self.run_hooked(CALL_RUNTIME, str(runtimes[-1]))
        found = re.findall(r"^ask '(\w*)' (\d+) (\d+) (\S+)$", log, re.MULTILINE)
        self.assertEqual({by for *_, by in found}, {HOOK}, "each goes through the hook")
        return [(name, int(version), int(flags)) for name, version, flags, _ in found]

    def symbols(self, asked: list[tuple[str, int, int]]) -> list[str]:
        """What the hook gives for each."""
        said, _ = self.run_hooked(ASK_HOOK, given=json.dumps(asked))
        found: list[str] = json.loads(said)
        return found

    def test_all_work_of_the_runtime_is_hooked(self) -> None:
        """Every launch, copy and memset that it asks for, in both kinds of default stream."""
        asked = [one for one in self.asked() if WORK.match(one[0])]
        self.assertGreater(len(asked), 60)
        missed = {
            name
            for (name, *_), symbol in zip(asked, self.symbols(asked), strict=True)
            if not symbol and not NOT_HOOKED.match(name)
        }
        self.assertEqual(missed, set())

    def test_old_launches_are_hooked(self) -> None:
        """Those that no runtime of today asks for."""
        names = ["cuLaunch", "cuLaunchGrid", "cuLaunchGridAsync"]
        names.append("cuLaunchCooperativeKernelMultiDevice")
        self.assertNotIn("", self.symbols([(name, 9000, 0) for name in names]))

    def test_no_wrapper_stands_for_two_signatures(self) -> None:
        """Each version of each function in cudaTypedefs.h."""
        header = CUDA / "include/cudaTypedefs.h"
        if not header.exists():
            self.skipTest(f"no {header}")
        pattern = r"\*PFN_(cu\w+?)_v(\d+)(_pt[sd][sz])?\)\(([^;]*)\);"
        signatures = re.findall(pattern, header.read_text())
        self.assertGreater(len(signatures), 500)
        asked = [
            (name, int(version), 2 if stream else 0) for name, version, stream, _ in signatures
        ]
        of_symbol: dict[str, set[str]] = {}
        for (_, _, _, arguments), symbol in zip(signatures, self.symbols(asked), strict=True):
            if symbol:
                types = re.sub(r"\s*\b\w+(?=,|$)", "", arguments)
                of_symbol.setdefault(symbol, set()).add(types)
        self.assertGreater(len(of_symbol), 60)
        several = {symbol: types for symbol, types in of_symbol.items() if len(types) > 1}
        self.assertEqual(several, {})


if __name__ == "__main__":
    unittest.main()
