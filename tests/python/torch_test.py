#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""The Python package with tensors, modules, and regions that make them.

tests/python/torch_test.py [CLASS[.TEST]...]
"""

from __future__ import annotations

import sys
import textwrap
import unittest
from typing import Any

import scripts
from scripts import HOOK, MIB, SIZE, MergingCase, has


@unittest.skipUnless(has("torch"), "no python3-torch: make demo installs it")
class Torch(MergingCase):
    """Tensors and modules."""

    MODEL = """
        import torch
        torch.manual_seed(1)
        torch.set_num_threads(1)
        class Net(torch.nn.Module):
            def __init__(self):
                super().__init__()
                self.one = torch.nn.Linear(1024, 2048)
                self.two = torch.nn.Linear(2048, 512)
                self.tied = torch.nn.Linear(1024, 2048)
                self.tied.weight = self.one.weight
                self.register_buffer("table", torch.rand(1024, 256))
            def forward(self, x):
                return self.two(torch.relu(self.one(x))) + (x @ self.table).sum()
        net = Net().eval()
        TENSORS = {id(t): t for t in [*net.parameters(), *net.buffers()]}.values()
        BYTES = sum(t.numel() * t.element_size() for t in TENSORS)
        def answer():
            with torch.no_grad():
                return net(torch.ones(2, 1024)).double().sum().item()
        """

    def both_models(self, text: str, steps: int, **variables: str) -> list[list[Any]]:
        """The same with a model in each process."""
        warm = "answer()\n"  # takes memory of its own the first time
        return self.both(
            textwrap.dedent(self.MODEL) + warm + textwrap.dedent(text), steps, **variables
        )

    def test_module(self) -> None:
        answers = self.both_models(
            """
            step(digest=answer(), pss=pss(), bytes=BYTES, storages=len(TENSORS))
            counts = upm.advise_module(net)
            step(counts=counts.as_dict())
            seen = answer(); barrier()
            step(digest=seen, pss=pss(), state=upm.advise(net.state_dict()).as_dict())
            """,
            3,
        )
        size = answers[0][0]["bytes"]
        self.check_shared(answers, size)
        for got in answers:
            counts = got[1]["counts"]
            # Each storage once, a page at each end apart. Of two side by side, the page
            # that holds an end of each counts as well, so one more for each at most.
            self.assertLess(counts["pages"], size // 4096 + answers[0][0]["storages"])
            self.assertGreater(counts["pages"] * 4096, size * 0.98)
            # Small ones are on the heap, which is not for this backend.
            state = got[2]["state"]
            self.assertEqual(
                state["already"] + state["skipped"].get("unsupported", 0), state["pages"]
            )
            self.assertGreater(state["already"], 0.98 * state["pages"])

    def test_training_goes_on(self) -> None:
        answers = self.both_models(
            """
            step()
            upm.advise_module(net)
            step()
            optimizer = torch.optim.SGD(net.parameters(), lr=1e-6)
            for _ in range(2):
                loss = net(torch.ones(2, 1024)).pow(2).mean()
                optimizer.zero_grad(); loss.backward(); optimizer.step()
            step(loss=loss.item())
            """,
            3,
        )
        plain = self.script(
            textwrap.dedent(self.MODEL)
            + textwrap.dedent(
                """
                optimizer = torch.optim.SGD(net.parameters(), lr=1e-6)
                for _ in range(2):
                    loss = net(torch.ones(2, 1024)).pow(2).mean()
                    optimizer.zero_grad(); loss.backward(); optimizer.step()
                tell(loss=loss.item())
                """
            )
        )
        expected = plain.answer()["loss"]
        self.assertEqual([got[2]["loss"] for got in answers], [expected, expected])

    def test_tensors_of_every_kind(self) -> None:
        answer = self.run_one(
            textwrap.dedent(self.MODEL)
            + textwrap.dedent(
                """
                from upm import _memory
                def sizes(thing):
                    memory = _memory.Memory()
                    _memory.add_object(thing, memory)
                    return sorted(length for _, length in memory.ranges)
                base = torch.zeros(100, 100)
                sparse = torch.eye(1000).to_sparse()
                def joined(ranges, **options):
                    return _memory.Memory(dict.fromkeys(ranges)).joined(**options)
                tell(joined=joined([(0x5040, 0x1000), (0x1010, 0x2ff0), (0x9000, 1), (0x4000, 8)]),
                     apart=joined([(0x5040, 0x1000), (0x1010, 0x4000)], apart=True),
                     view=sizes(base[3:5, ::7]), transposed=sizes([base, base.t()]),
                     sparse=sizes(sparse), csr=sizes(torch.eye(1000).to_sparse_csr()),
                     empty=sizes(torch.empty(0)), parameter=sizes(net.one.weight),
                     grad=sizes(base.clone().requires_grad_()), bits=sizes(base > 0),
                     meta=failure(upm.advise, torch.empty(5, device="meta")),
                     wrong=failure(upm.advise, net),
                     other=failure(upm.advise_module, torch.nn.Linear(5, 5, device="meta")),
                     nothing=upm.advise_module(torch.nn.ReLU()).pages,
                     mkldnn=failure(upm.advise, base.to_mkldnn()))
                """
            ),
            **self.merging,
        )
        self.assertEqual(answer["joined"], [[0x1010, 0x5030], [0x9000, 1]])
        self.assertEqual(answer["apart"], [[0x1010, 0x4000], [0x5040, 0x1000]])
        self.assertEqual(answer["view"], [40000])
        self.assertEqual(answer["transposed"], [40000])
        self.assertEqual(answer["sparse"], [4000, 16000])
        self.assertEqual(answer["csr"], [4000, 8000, 8008])
        self.assertEqual(answer["empty"], [])
        self.assertEqual(answer["parameter"], [1024 * 2048 * 4])
        self.assertEqual((answer["grad"], answer["bits"]), ([40000], [10000]))
        self.assertIn("ValueError: a tensor on the device 'meta'", answer["meta"])
        self.assertIn("TypeError: upm.advise_module()", answer["wrong"])
        self.assertIn("ValueError: the module has nothing on the CPU", answer["other"])
        self.assertEqual(answer["nothing"], 0)
        self.assertIn("ValueError: a tensor of layout torch._mkldnn", answer["mkldnn"])


@unittest.skipUnless(has("torch"), "no python3-torch: make demo installs it")
class Regions(MergingCase):
    """with upm.region(): without the hook and with it."""

    TEXT = """
        import torch
        torch.set_num_threads(1)
        old = torch.rand(1 << 20)
        with upm.region() as region:
            torch.manual_seed(1)
            model = torch.nn.Linear(2048, 2048)
            lost = torch.rand(2048, 512); del lost
            named = region.add(bytearray(content(2)))
            step(digest=digest(model.weight.detach().numpy()) + digest(named), pss=pss())
        step(counts=region.counts.as_dict(), hook=upm.hook_stats() is not None,
             old=upm.advise(old).already)
        seen = digest(model.weight.detach().numpy()) + digest(named); barrier()
        step(digest=seen, pss=pss())
        with contextlib.suppress(ZeroDivisionError), upm.region() as failed:
            more = torch.rand(1 << 20)
            1 / 0
        step(pages=failed.counts.pages)
        """

    def check(self, **variables: str) -> list[list[Any]]:
        answers = self.both(self.TEXT, 4, **variables)
        size = 2048 * 2048 * 4 + SIZE
        self.check_shared([got[:3] for got in answers], size)
        for got in answers:
            counts = got[1]["counts"]
            self.assertGreater(counts["merged"] + counts["inserted"], 0.98 * size // 4096)
            self.assertEqual(got[1]["old"], 0)
            self.assertEqual(got[3]["pages"], 0)
        return answers

    def test_without_the_hook(self) -> None:
        # A region sees to it itself that nothing is on the heap: not by this variable.
        for got in self.check(MALLOC_MMAP_THRESHOLD_=str(32 * MIB)):
            self.assertFalse(got[1]["hook"])

    def test_with_the_hook(self) -> None:
        for got in self.check(LD_PRELOAD=str(HOOK), UPM_TRIGGER="manual"):
            self.assertTrue(got[1]["hook"])


if __name__ == "__main__":
    sys.exit(scripts.main())
