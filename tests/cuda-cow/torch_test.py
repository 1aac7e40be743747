#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""upm.torch with Debian's PyTorch for the CPU, whose tensors lie in the fake GPU's memory.

torch_test.py BUILD_FOLDER
"""

import contextlib
import json
import os
import signal
import struct
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
BUILD = Path(sys.argv.pop(1)) if len(sys.argv) > 1 else ROOT / "build"
UNIT = 65536

# What every child has at hand: the module, a model, and a way to say something.
PRELUDE = """
import json, sys
sys.path.insert(0, CHECK)
import torch, torch_check
sharing = torch_check.import_upm_torch()
gpu = sys.modules["upm._gpu"]
def make(seed=0):
    torch.manual_seed(seed)
    return torch.nn.Sequential(torch.nn.Linear(200, 300), torch.nn.BatchNorm1d(300),
                               torch.nn.Linear(300, 50, bias=False)).eval()
def copies():
    return sum(block.stats().copies for block in gpu._blocks)
def say(**what):
    print(json.dumps(what), flush=True)
"""


class TorchTest(unittest.TestCase):
    """Each test with a broker of its own."""

    def setUp(self) -> None:
        self._folder = tempfile.TemporaryDirectory()
        self.addCleanup(self._folder.cleanup)
        self.socket = f"{self._folder.name}/broker.sock"
        broker = subprocess.Popen(
            [BUILD / "bin/upm-cudad", "--socket", self.socket], stdout=subprocess.PIPE, text=True
        )
        self.addCleanup(broker.wait)
        self.addCleanup(broker.kill)
        assert broker.stdout is not None
        self.addCleanup(broker.stdout.close)
        self.assertIn("listening", broker.stdout.readline())

    def start(self, code: str) -> "subprocess.Popen[str]":
        """A process that runs this after the prelude."""
        check = str(ROOT / "cuda-cow/measure")
        child = subprocess.Popen(
            [sys.executable, "-c", f"CHECK = {check!r}\n{PRELUDE}{code}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ
            | {
                "UPM_CUDA_LIBRARY": str(BUILD / "lib/libupm-cuda.so.0"),
                "UPM_CUDA_DRIVER": str(BUILD / "lib/fake-cuda/libcuda.so.1"),
                "UPM_CUDA_FAKE": f"granularity={UNIT}",
                "UPM_CUDA_SOCKET": self.socket,
            },
        )
        self.addCleanup(child.wait)
        self.addCleanup(child.kill)
        for stream in (child.stdin, child.stdout, child.stderr):
            assert stream is not None
            self.addCleanup(self._close, stream)
        return child

    @staticmethod
    def _close(stream: Any) -> None:
        with contextlib.suppress(OSError):
            stream.close()

    def run_code(self, code: str, status: int = 0) -> list[dict[str, Any]]:
        """What a process says until its end."""
        child = self.start(code)
        out, error = child.communicate(timeout=100)
        self.assertEqual(child.returncode, status, error)
        return [json.loads(line) for line in out.splitlines()]

    def test_processes_share_parameters_by_name(self) -> None:
        """One publishes, the next merges all, whatever it did before; values stay."""
        code = """
model = make()
if EARLIER: junk = [make(seed) for seed in range(3)]; del junk; sharing.share(make(9))
before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
objects = [id(parameter) for parameter in model.parameters()]
counts = sharing.share(model, extent_bytes=UNIT)
say(counts=counts._asdict(), objects=objects == [id(one) for one in model.parameters()],
    same=all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items()),
    mean=gpu.block_of(model[1].running_mean.data_ptr()) is None)
sys.stdin.readline()
"""
        said = []
        for earlier in (False, True):
            child = self.start(f"EARLIER = {earlier}; UNIT = {UNIT}\n{code}")
            assert child.stdout is not None
            said.append(json.loads(child.stdout.readline()))
        extents = said[0]["counts"]["extents"]
        self.assertGreater(extents, 3)
        self.assertEqual(said[0]["counts"]["published"], extents)
        self.assertEqual(said[1]["counts"]["merged"], extents)
        for one in said:
            self.assertTrue(one["same"] and one["objects"], "values and objects are the same")
            self.assertTrue(one["mean"], "a buffer stays where it is")

    def test_writing_copies_what_each_operator_writes(self) -> None:
        """The ways of writing; each leaves other models of the content alone."""
        writes = {
            "fill_": "w.fill_(1)",
            "add_": "w.add_(1)",
            "copy_": "w.copy_(torch.ones_like(w))",
            "view": "w[0] = 3",
            "transposed": "w.t().mul_(2)",
            "out": "torch.add(w.detach(), 1, out=w.data)",
            "foreach": "torch._foreach_add_([w], 1.0)",
            "load_state_dict": "model.load_state_dict(make(5).state_dict())",
            "optimizer": "w.grad = torch.ones_like(w); torch.optim.SGD([w], 0.1).step()",
        }
        code = """
def write_both(name, write):
    model, other, plain = make(), make(), make()
    sharing.share(model); sharing.share(other)
    before = copies()
    with torch.no_grad(): write(plain, plain[0].weight)
    with torch.no_grad(), sharing.writing(model): write(model, model[0].weight)
    say(name=name, right=torch.equal(model[0].weight, plain[0].weight),
        copied=copies() > before, other=torch.equal(other[0].weight, make()[0].weight))
"""
        for name, write in writes.items():
            code += f"def write(model, w): {write}\nwrite_both({name!r}, write)\n"
        said = self.run_code(code)
        self.assertEqual([one["name"] for one in said], list(writes))
        for one in said:
            with self.subTest(one["name"]):
                self.assertTrue(one["right"], "the write is there")
                self.assertTrue(one["other"], "and nowhere else")
                self.assertTrue(one["copied"])

    def test_reading_copies_nothing(self) -> None:
        """Also inside `writing`."""
        (said,) = self.run_code("""
model = make(); sharing.share(model)
with sharing.writing(model):
    loss = model(torch.ones(2, 200)).sum(); (model[0].weight + 1).sum()
say(copies=copies())
""")
        self.assertEqual(said["copies"], 0)

    def test_only_touched_extents_are_copied(self) -> None:
        """A write to one row of many."""
        (said,) = self.run_code(f"""
model = torch.nn.Linear(1024, 1024); sharing.share(model, extent_bytes={UNIT})
with torch.no_grad(), sharing.writing(model): model.weight[512] = 1
say(copies=copies())
""")
        self.assertIn(said["copies"], (1, 2), "of 64")

    def test_a_write_without_writing_ends_the_process(self) -> None:
        """As it would lose its context on a GPU: so the tests above can fail."""
        self.run_code(
            "model = make(); sharing.share(model)\n"
            "with torch.no_grad(): model[0].weight.fill_(0)\n",
            -signal.SIGSEGV,
        )

    def test_layouts_and_kinds(self) -> None:
        """channels_last, gaps, tied, half, empty and sub-classed parameters."""
        (said,) = self.run_code("""
class Own(torch.nn.Parameter): pass
model = torch.nn.Module()
model.a = torch.nn.Conv2d(8, 8, 3).to(memory_format=torch.channels_last)
model.b = torch.nn.Parameter(torch.arange(32.).reshape(4, 8)[:, ::2])
model.c = torch.nn.Linear(8, 8); model.d = torch.nn.Linear(8, 8); model.d.weight = model.c.weight
model.e = torch.nn.Parameter(torch.ones(5, dtype=torch.float16))
model.f = torch.nn.Parameter(torch.empty(0))
model.g = torch.nn.Parameter(torch.tensor(2.5, dtype=torch.float64))
model.h = torch.nn.Parameter(torch.ones(3, dtype=torch.complex64), requires_grad=False)
before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
strides = model.a.weight.stride()
sharing.share(model)
say(same=all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items()),
    strides=model.a.weight.stride() == strides, tied=model.d.weight is model.c.weight,
    aligned=all(one.data_ptr() % 512 == 0 for one in model.parameters() if one.numel()))
""")
        self.assertEqual(said, {"same": True, "strides": True, "tied": True, "aligned": True})

    def test_memory_goes_with_the_last_tensor(self) -> None:
        """A parameter keeps its block; nothing else does."""
        (said,) = self.run_code("""
import gc
model = make(); sharing.share(model)
weight = model[0].weight; total = float(weight.sum()); del model; gc.collect()
kept = len(gpu._blocks) == 1 and float(weight.sum()) == total
del weight; gc.collect()
say(kept=kept, gone=len(gpu._blocks) == 0)
""")
        self.assertEqual(said, {"kept": True, "gone": True})

    def test_without_a_broker_the_model_still_works(self) -> None:
        """An error, and private parameters."""
        self.socket = "/nowhere/broker.sock"
        (said,) = self.run_code("""
model = make(); expected = model(torch.ones(2, 200))
try: sharing.share(model)
except OSError as error: text = str(error)
with torch.no_grad():
    same = torch.equal(model(torch.ones(2, 200)), expected)
    model[0].weight.add_(1)
say(same=same, text=text)
""")
        self.assertTrue(said["same"])
        self.assertIn("no upm-cudad at /nowhere/broker.sock", said["text"])

    def safetensors(self, tensors: dict[str, tuple[str, list[int], bytes]]) -> Path:
        """A file of this content."""
        header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
        data = b""
        for name, (dtype, shape, content) in tensors.items():
            header[name] = {
                "dtype": dtype,
                "shape": shape,
                "data_offsets": [len(data), len(data) + len(content)],
            }
            data += content
        text = json.dumps(header).encode()
        path = Path(self._folder.name) / "model.safetensors"
        path.write_bytes(struct.pack("<Q", len(text)) + text + data)
        return path

    def test_safetensors_are_loaded_into_shared_memory(self) -> None:
        """Two processes, one copy; tensors that are not aligned in the file as well."""
        path = self.safetensors(
            {
                "odd": ("U8", [3], b"\1\2\3"),
                "weight": ("F32", [300, 200], struct.pack("<60000f", *range(60000))),
                "half": ("BF16", [2, 2], b"\x80\x3f" * 4),
                "scalar": ("I64", [], struct.pack("<q", -7)),
            }
        )
        code = f"""
tensors = sharing.load_safetensors({str(path)!r})
(block,) = gpu._blocks
say(odd=tensors["odd"].tolist(), half=tensors["half"].tolist(), scalar=int(tensors["scalar"]),
    weight=torch.equal(tensors["weight"], torch.arange(60000.).reshape(300, 200)),
    shared=block.stats().shared == block.stats().extents)
sys.stdin.readline()
"""
        for _ in range(2):
            child = self.start(code)
            assert child.stdout is not None
            self.assertEqual(
                json.loads(child.stdout.readline()),
                {
                    "odd": [1, 2, 3],
                    "half": [[1.0, 1.0], [1.0, 1.0]],
                    "scalar": -7,
                    "weight": True,
                    "shared": True,
                },
            )

    def test_bad_safetensors_are_refused(self) -> None:
        """With a ValueError that names the file, and nothing read beyond it."""
        good = self.safetensors({"a": ("F32", [2], b"12345678")}).read_bytes()
        for content in (
            b"12345678",
            struct.pack("<Q", 1 << 40) + good[8:],
            good.replace(b'"shape": [2]', b'"shape": [9]'),
            good.replace(b'"data_offsets": [0, 8]', b'"data_offsets": [0, 9]'),
            good.replace(b'"F32"', b'"X32"'),
            good[:-4],
        ):
            path = Path(self._folder.name) / "bad.safetensors"
            path.write_bytes(content)
            (said,) = self.run_code(f"""
try: sharing.load_safetensors({str(path)!r})
except ValueError as error: say(text=str(error))
""")
            self.assertIn("bad.safetensors", said["text"])


if __name__ == "__main__":
    unittest.main()
