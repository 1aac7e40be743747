#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Unmodified programs load a file under the hook as it is by default, with the store.

    tests/preload/programs_test.py [CLASS...]

Each is run without the hook, and then with it until two that live show almost all of the
file in shared pages, where it comes by large reads, else twice. The answers must be equal.
Needs no privilege: as root it gives its own up (uid 1000). A program that is not
here is skipped; PYTHON_EXTRA may name a Python that has packages which Debian lacks.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import unittest
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
HOOK = ROOT / "build/lib/libupm-preload.so"
UPMD = ROOT / "build/bin/upmd"
UPM = ROOT / "build/bin/upm"
PYTHON = "/usr/bin/python3"
USER = 1000
SECONDS = 120
WORDS = 3 << 20  # of 8 bytes, in each file
# Of the bytes of the file, in each of two processes.
ENOUGH = 0.97
# On a busy machine the hook does not wait for the broker, and reads plainly: the broker makes
# what came too late once it can, and a later program finds it.
PROGRAMS = 40


def end(process: subprocess.Popen[str]) -> str:
    """Lets a program end. Returns what it wrote on standard error."""
    try:
        return process.communicate("\n", timeout=SECONDS)[1]
    except subprocess.TimeoutExpired:
        process.kill()
        raise


def in_segments(pid: int) -> int:
    """Bytes that a process shows of the broker's segments and has no copy of."""
    total = 0
    inside = False
    for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
        words = line.split()
        if not words[0].endswith(":"):
            inside = "memfd:upm-store" in line
        elif inside and words[0] in {"Shared_Clean:", "Shared_Dirty:", "Private_Clean:"}:
            total += int(words[1]) << 10
    return total


class Case(unittest.TestCase):
    """One broker and one folder, of an ordinary user."""

    def setUp(self) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.addCleanup(self.folder.cleanup)
        self.user: dict[str, Any] = {}
        if os.geteuid() == 0:
            self.user = {"user": USER, "group": USER, "extra_groups": []}
            os.chown(self.folder.name, USER, USER)
        self.socket = f"{self.folder.name}/upmd.sock"
        self.broker = subprocess.Popen([UPMD, "--socket", self.socket], **self.user)
        self.addCleanup(self.broker.wait)
        self.addCleanup(self.broker.terminate)
        for _ in range(500):
            if Path(self.socket).exists():
                return
            time.sleep(0.01)
        self.fail("upmd does not listen")

    def start(self, command: list[str], hooked: bool) -> subprocess.Popen[str]:
        clean = {k: v for k, v in os.environ.items() if not k.startswith(("UPM_", "LD_PRELOAD"))}
        clean |= {"HOME": self.folder.name, "OMP_NUM_THREADS": "1"}
        if hooked:
            clean |= {"LD_PRELOAD": str(HOOK), "UPM_SOCKET": self.socket, "UPM_BACKEND": "store"}
        return subprocess.Popen(
            command,
            env=clean,
            cwd=self.folder.name,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            **self.user,
        )

    def answer(self, process: subprocess.Popen[str]) -> str:
        """The line that a program says once it has loaded its file."""
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            self.fail(end(process))
        return line

    def check(self, command: list[str], shares: bool = True) -> None:
        """Equal answers; and `shares`: two that live share the file, which is in the folder."""
        alone = self.start(command, hooked=False)
        plain = self.answer(alone)
        end(alone)
        enough = ENOUGH * Path(self.folder.name, "file").stat().st_size
        programs: list[subprocess.Popen[str]] = []
        found: list[int] = []
        try:
            while len(programs) < (PROGRAMS if shares else 2):
                programs.append(self.start(command, hooked=True))
                self.assertEqual(self.answer(programs[-1]), plain)
                found = [in_segments(program.pid) for program in programs]
                if sum(size >= enough for size in found) >= 2:
                    return
        finally:
            for program in programs:
                end(program)
        if shares:
            self.fail(f"in segments: {found}, of a file of {enough / ENOUGH:.0f} bytes")

    def check_python(self, make: str, load: str, shares: bool = True) -> None:
        """A Python script that makes the file, and one that loads it into `answer`."""
        done = subprocess.run(
            [PYTHON, "-c", make], cwd=self.folder.name, capture_output=True, text=True, check=False,
            **self.user,
        )  # fmt: skip
        if "No module named" in done.stderr:
            self.skipTest(done.stderr.splitlines()[-1])
        self.assertEqual(done.returncode, 0, done.stderr)
        tail = "\nprint(answer, flush=True)\nimport sys; sys.stdin.readline()\n"
        self.check([PYTHON, "-c", load + tail], shares)


NUMPY = f"import numpy as np\nwords = np.random.default_rng(1).integers(1, 1 << 60, {WORDS})\n"
SUM = "\nanswer = [int(data.sum()), int(data[7]), int(data[-1])]"


class Python(Case):
    """What Python programs load weights by."""

    def test_numpy_load(self) -> None:
        self.check_python(
            NUMPY + "np.save(open('file', 'wb'), words)",
            "import numpy as np\ndata = np.load('file')" + SUM,
        )

    def test_numpy_fromfile(self) -> None:
        self.check_python(
            NUMPY + "words.tofile('file')",
            "import numpy as np\ndata = np.fromfile('file', dtype=np.int64)" + SUM,
        )

    def test_pickle(self) -> None:
        self.check_python(
            NUMPY + "import pickle\npickle.dump({'w': words}, open('file', 'wb'))",
            "import pickle\ndata = pickle.load(open('file', 'rb'))['w']" + SUM,
        )

    def test_joblib(self) -> None:
        """It copies arrays from buffers of 16 MiB: the copies are its own."""
        self.check_python(
            NUMPY + "import joblib\njoblib.dump({'w': words}, 'file')",
            "import joblib\ndata = joblib.load('file')['w']" + SUM,
            shares=False,
        )

    def test_read(self) -> None:
        self.check_python(
            NUMPY + "words.tofile('file')",
            "import hashlib\ndata = open('file', 'rb').read()\n"
            "answer = hashlib.md5(data).hexdigest()",
        )

    def test_torch(self) -> None:
        """By torch.load: two processes share 97 % of the weights and more."""
        self.check_python(
            "import torch\ntorch.manual_seed(1)\n"
            f"torch.save({{str(i): torch.rand({WORDS} // 2) for i in range(4)}}, 'file')",
            "import torch\nweights = torch.load('file')\n"
            "answer = [float(w.double().sum()) for w in weights.values()]",
        )


class Extra(Case):
    """Packages that Debian 12 lacks. They map their files or parse them: no large reads."""

    def setUp(self) -> None:
        super().setUp()
        self.python = os.environ.get("PYTHON_EXTRA", PYTHON)

    def check_extra(self, make: str, load: str) -> None:
        global PYTHON  # noqa: PLW0603
        before, PYTHON = PYTHON, self.python
        try:
            self.check_python(make, load, shares=False)
        finally:
            PYTHON = before

    def test_safetensors(self) -> None:
        self.check_extra(
            NUMPY + "from safetensors.numpy import save_file\nsave_file({'w': words}, 'file')",
            "from safetensors.numpy import load_file\ndata = load_file('file')['w']" + SUM,
        )

    def test_onnxruntime(self) -> None:
        self.check_extra(
            "import numpy as np, onnx\nfrom onnx import helper, numpy_helper, TensorProto\n"
            "w = np.random.default_rng(1).random((1024, 2048), dtype=np.float32)\n"
            "graph = helper.make_graph([helper.make_node('MatMul', ['x', 'w'], ['y'])], 'g',\n"
            "    [helper.make_tensor_value_info('x', TensorProto.FLOAT, [1, 1024])],\n"
            "    [helper.make_tensor_value_info('y', TensorProto.FLOAT, [1, 2048])],\n"
            "    [numpy_helper.from_array(w, 'w')])\n"
            "model = helper.make_model(graph, opset_imports=[helper.make_opsetid('', 17)])\n"
            "model.ir_version = 8\nonnx.save(model, 'file')",
            "import numpy as np, onnxruntime\n"
            "session = onnxruntime.InferenceSession('file', providers=['CPUExecutionProvider'])\n"
            "x = np.ones((1, 1024), dtype=np.float32)\n"
            "answer = session.run(None, {'x': x})[0].tobytes().hex()[:400]",
        )


class Others(Case):
    """Other languages."""

    def make_file(self) -> None:
        path = Path(self.folder.name, "file")
        path.write_bytes(b"".join((i * 2654435761 % 2**64).to_bytes(8, "little")
                                  for i in range(1, WORDS)))  # fmt: skip

    def test_node(self) -> None:
        if not shutil.which("node"):
            self.skipTest("no node")
        self.make_file()
        script = (
            "const fs = require('fs'), crypto = require('crypto');"
            "const data = fs.readFileSync('file');"
            "console.log(crypto.createHash('md5').update(data).digest('hex'));"
            "try { fs.readSync(0, Buffer.alloc(1), 0, 1, null); } catch (e) {}"
        )
        self.check(["node", "-e", script])

    def test_ifstream(self) -> None:
        self.make_file()
        source = Path(self.folder.name, "load.cpp")
        source.write_text(
            "#include <cstdint>\n#include <fstream>\n#include <iostream>\n#include <memory>\n"
            "int main() {\n"
            '    std::ifstream file("file", std::ios::binary);\n'
            f"    const std::size_t count = {WORDS - 1};\n"
            "    const std::unique_ptr<std::uint64_t[]> data(new std::uint64_t[count]);\n"
            "    file.read(reinterpret_cast<char *>(data.get()), count * 8);\n"
            "    std::uint64_t sum = 0;\n"
            "    for (std::size_t i = 0; i < count; ++i) sum = sum * 31 + data[i];\n"
            "    std::cout << sum << std::endl;\n"
            "    std::cin.get();\n}\n"
        )
        program = f"{self.folder.name}/load"
        subprocess.run(["g++", "-O2", "-o", program, str(source)], check=True)
        self.check([program])


class Late(Case):
    """The broker does not answer while programs read."""

    def made(self) -> int:
        """Bytes that the broker has made since somebody was late with them."""
        done = subprocess.run(
            [UPM, "status", "--json"], capture_output=True, text=True, check=True,
            env=os.environ | {"UPM_SOCKET": self.socket, "UPM_BACKEND": "store"}, **self.user,
        )  # fmt: skip
        made: int = json.loads(done.stdout)["service"]["upmd_made_late_bytes_total"]
        return made

    def test_what_two_programs_read_is_there_for_a_third(self) -> None:
        """They are told of no backend until they have read all, and only then can tell it."""
        path = Path(self.folder.name, "file")
        path.write_bytes(b"".join(i.to_bytes(8, "little") for i in range(1, WORDS)))
        script = "data = open('file', 'rb').read()\nprint(sum(data[::4096]), flush=True)\n"
        command = [PYTHON, "-c", script + "import sys; sys.stdin.readline()"]
        self.broker.send_signal(signal.SIGSTOP)
        programs = [self.start(command, hooked=True) for _ in range(2)]
        try:
            answers = [self.answer(program) for program in programs]
            self.broker.send_signal(signal.SIGCONT)
            enough = ENOUGH * path.stat().st_size
            end_of_patience = time.monotonic() + SECONDS
            while self.made() < enough:
                self.assertLess(time.monotonic(), end_of_patience, "nothing was made")
                time.sleep(0.1)
            while in_segments(programs[-1].pid) < enough:
                self.assertLess(len(programs), PROGRAMS, "nobody found it")
                programs.append(self.start(command, hooked=True))
                answers.append(self.answer(programs[-1]))
        finally:
            self.broker.send_signal(signal.SIGCONT)
            for program in programs:
                end(program)
        self.assertEqual(len(set(answers)), 1)


def main() -> int:
    suite = unittest.defaultTestLoader.loadTestsFromNames(
        sys.argv[1:] or ["Python", "Extra", "Others", "Late"], sys.modules[__name__]
    )
    result = unittest.TextTestRunner(verbosity=2).run(suite)
    if not result.wasSuccessful():
        return 1
    return 4 if len(result.skipped) == result.testsRun else 0


if __name__ == "__main__":
    sys.exit(main())
