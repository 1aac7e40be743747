#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""The Python package, in processes of their own, since each has one backend.

    tests/python/python_test.py [CLASS...]

What merges does so by the backend store, which needs no module, with a broker of the
test's own.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import textwrap
import time
import unittest
from pathlib import Path
from typing import Any, ClassVar

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "build/python"
HOOK = ROOT / "build/lib/libupm-preload.so"
UPMD = ROOT / "build/bin/upmd"
PYTHON = sys.executable
EXIT_SKIPPED = 4
MIB = 1 << 20
SIZE = 16 * MIB
SECONDS = 120

# What the scripts below may use.
PRELUDE = f"""
import contextlib, hashlib, json, mmap, os, random, sys
import upm
SIZE = {SIZE}
PAGES = SIZE // 4096

def pss():
    # Not of libraries, which others may load and leave meanwhile.
    lines = [line.split() for line in open("/proc/self/smaps_rollup")]
    return sum(int(line[1]) * 1024 for line in lines if line[0] in ("Pss_Anon:", "Pss_Shmem:"))

def content(seed=1):
    return random.Random(seed).randbytes(SIZE)

def digest(thing):
    return hashlib.sha256(thing).hexdigest()

def tell(**what):
    print(json.dumps(what), flush=True)

def step(**what):
    tell(**what)
    input()

def failure(call, *arguments, **options):
    try:
        call(*arguments, **options)
    except Exception as error:
        return type(error).__name__ + ": " + str(error)
    return "nothing"
"""


def environment(**variables: str) -> dict[str, str]:
    """The environment without anything of UPM's, but the package."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("UPM_", "LD_PRELOAD"))}
    return clean | {"PYTHONPATH": str(PACKAGE), "PYTHONDONTWRITEBYTECODE": "1"} | variables


class Script:
    """A Python process that runs a script, and answers by lines of JSON."""

    def __init__(self, text: str, **variables: str) -> None:
        self.process = subprocess.Popen(
            [PYTHON, "-c", PRELUDE + textwrap.dedent(text)],
            env=environment(**variables),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def answer(self) -> Any:
        """The next line."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            _, errors = self.process.communicate()
            raise AssertionError(f"the script said nothing, and on stderr:\n{errors}")
        return json.loads(line)

    def go_on(self) -> None:
        """Lets a script that reads a line have one."""
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def finish(self) -> str:
        """Waits for its end. Returns what it wrote to stderr."""
        _, errors = self.process.communicate(timeout=SECONDS)
        if self.process.returncode != 0:
            raise AssertionError(f"exit status {self.process.returncode}:\n{errors}")
        return errors

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()


def has(module: str) -> bool:
    """Whether that Python has a module."""
    done = subprocess.run([PYTHON, "-c", f"import {module}"], capture_output=True, check=False)
    return done.returncode == 0


class Case(unittest.TestCase):
    """Scripts that end with the test."""

    def script(self, text: str, **variables: str) -> Script:
        made = Script(text, **variables)
        self.addCleanup(made.close)
        return made

    def run_one(self, text: str, **variables: str) -> Any:
        """The only answer of a script."""
        script = self.script(text, **variables)
        answer = script.answer()
        script.finish()
        return answer


class StoreCase(Case):
    """The same with a broker."""

    folder: ClassVar[tempfile.TemporaryDirectory[str]]
    broker: ClassVar[subprocess.Popen[bytes]]
    store: ClassVar[dict[str, str]]

    @classmethod
    def setUpClass(cls) -> None:
        cls.folder = tempfile.TemporaryDirectory()
        socket = Path(cls.folder.name) / "socket"
        cls.broker = subprocess.Popen([UPMD, "--socket", socket])
        cls.store = {"UPM_BACKEND": "store", "UPM_SOCKET": str(socket)}
        cls.store["MALLOC_MMAP_THRESHOLD_"] = "65536"  # no large block on the heap
        for _ in range(600):
            if socket.exists():
                break
            time.sleep(0.05)
        info = subprocess.run(
            [PYTHON, "-c", "import upm; i = upm.info(); print(i.backend, i.quiescent, i.reason)"],
            env=environment(**cls.store),
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        if not info.startswith("store False"):
            cls.tearDownClass()
            raise unittest.SkipTest(f"no backend store that merges while others write: {info}")

    @classmethod
    def tearDownClass(cls) -> None:
        cls.broker.terminate()
        cls.broker.wait()
        cls.folder.cleanup()

    def both(self, text: str, steps: int, **variables: str) -> list[list[Any]]:
        """Runs a script in two processes that go on together.

        It says what it found by step(), that many times. Returns the answers of each.
        """
        scripts = [self.script(text, **self.store | variables) for _ in range(2)]
        answers: list[list[Any]] = [[], []]
        for _ in range(steps):
            for script, got in zip(scripts, answers, strict=True):
                got.append(script.answer())
            for script in scripts:
                script.go_on()
        for script in scripts:
            script.finish()
        return answers

    def check_shared(self, answers: list[list[Any]], size: int = SIZE) -> None:
        """From the first answer to the last, bytes stayed and PSS fell by about half of `size`.

        PSS counts a shared page of the store once it was touched: look at the bytes first.
        """
        for got in answers:
            self.assertEqual(got[0]["digest"], got[-1]["digest"])
            self.assertLess(got[-1]["pss"], got[0]["pss"] - 0.4 * size)


class Interface(Case):
    """What needs no backend."""

    def test_no_backend_is_an_error_that_says_why(self) -> None:
        answer = self.run_one(
            """
            try:
                upm.advise(bytearray(SIZE))
            except upm.Error as error:
                tell(errno=error.errno, text=str(error), pages=error.counts.pages,
                     oserror=isinstance(error, OSError), backend=upm.info().backend)
            """,
            UPM_BACKEND="none",
        )
        self.assertEqual((answer["errno"], answer["backend"]), (95, "none"))
        self.assertIn("backend none (", answer["text"])
        self.assertTrue(answer["oserror"])

    def test_values_print_themselves(self) -> None:
        answer = self.run_one(
            """
            counts = upm.Counts() + upm.Counts()
            tell(counts=repr(counts), same=counts == upm.Counts(), info=repr(upm.info()),
                 rows=[row._asdict() for row in upm.backends()], keys=list(counts.as_dict()))
            """,
            UPM_BACKEND="none",
        )
        self.assertEqual(answer["counts"], "upm.Counts(pages=0)")
        self.assertTrue(answer["same"])
        self.assertRegex(answer["info"], r"upm.Info\(backend='none', reason='.+', version='[\d.]+'")
        self.assertEqual([row["name"] for row in answer["rows"]], ["kmod", "store", "ksm", "none"])
        self.assertIn("skipped", answer["keys"])

    def test_refuses_nonsense(self) -> None:
        answer = self.run_one(
            """
            tell(none=failure(upm.advise, None), number=failure(upm.advise, 4096),
                 text=failure(upm.advise, "text"), module=failure(upm.advise_module, b"x"),
                 key=failure(upm.Domain, b"short"), fd=failure(upm.Domain.from_fd, -1),
                 pid=failure(upm.advise_range, 0, 0, pid=-1))
            """,
            UPM_BACKEND="none",
        )
        self.assertIn("NoneType is neither a tensor, an array, nor a buffer", answer["none"])
        self.assertIn("TypeError: int is neither", answer["number"])
        self.assertIn("TypeError: str is neither", answer["text"])
        self.assertIn("TypeError: bytes is not a torch.nn.Module", answer["module"])
        self.assertEqual(answer["key"], "ValueError: the key of a domain has 16 bytes, not 5")
        self.assertEqual(answer["fd"], "ValueError: not a descriptor: -1")
        self.assertIn("ValueError: pid", answer["pid"])

    def test_ksm_queues(self) -> None:
        if not Path("/sys/kernel/mm/ksm/run").exists():
            self.skipTest("this kernel has no KSM")
        answer = self.run_one(
            """
            memory = mmap.mmap(-1, SIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
            memory.write(content())
            before = digest(memory)
            try:
                counts = upm.advise(memory)
            except upm.Error as error:
                tell(error=str(error))
            else:
                tell(counts=counts.as_dict(), same=digest(memory) == before)
            """,
            UPM_BACKEND="ksm",
        )
        if "error" in answer:
            self.skipTest(answer["error"])
        self.assertEqual(answer["counts"]["queued"], SIZE // 4096)
        self.assertTrue(answer["same"])

    def test_importing_starts_nothing(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            socket = Path(folder) / "socket"
            answer = self.run_one(
                "tell(modules=[m for m in ('torch', 'numpy') if m in sys.modules])",
                UPM_SOCKET=str(socket),
            )
            self.assertEqual(answer["modules"], [])
            self.assertFalse(socket.exists())


class Memory(Case):
    """Which memory lies behind an object."""

    def test_buffers(self) -> None:
        script = self.script(
            """
            from upm import _core
            data = bytearray(1000)
            start = _core.Pinned(data).range[0]
            def where(view):
                address, length = _core.Pinned(view).range
                return [address - start, length]
            view = memoryview(data)
            held = _core.Pinned(data)
            resize = failure(data.extend, b"x")
            held.release()
            tell(all=where(view), part=where(view[10:20]), steps=where(view[10:20:5]),
                 back=where(view[::-1]), empty=where(view[5:5]), read_only=where(
                 view.toreadonly()), shape=where(view.cast("B", (10, 100))[0:2]), resize=resize)
            view.release()
            tell(after=failure(data.extend, b"x"))
            """
        )
        answer = script.answer()
        self.assertEqual(answer["all"], [0, 1000])
        self.assertEqual(answer["part"], [10, 10])
        self.assertEqual(answer["steps"], [10, 6])
        self.assertEqual(answer["back"], [0, 1000])
        self.assertEqual(answer["empty"][1], 0)
        self.assertEqual(answer["read_only"], [0, 1000])
        self.assertEqual(answer["shape"], [0, 200])
        self.assertIn("BufferError", answer["resize"])
        self.assertEqual(script.answer()["after"], "nothing")
        script.finish()

    @unittest.skipUnless(has("numpy"), "no python3-numpy")
    def test_arrays(self) -> None:
        answer = self.run_one(
            """
            import numpy
            from upm import _memory
            whole = numpy.arange(1000, dtype="int64").reshape(10, 100)
            start = whole.__array_interface__["data"][0]
            def where(*things):
                memory = _memory.Memory()
                _memory.add_object(things, memory)
                return [[address - start, length] for address, length in memory.ranges]
            frozen = whole.view(); frozen.flags.writeable = False
            tell(all=where(whole), column=where(whole[:, 3]), back=where(whole[::-1, ::-2]),
                 twice=where(whole, whole.T, {"a": [whole[2:4]]}), frozen=where(frozen),
                 empty=where(whole[0:0][0:0].copy()), dates=where(whole.view("datetime64[s]")),
                 zero=where(numpy.zeros((0, 5))))
            """
        )
        for key in ("all", "column", "back", "twice", "frozen", "dates"):
            self.assertEqual(answer[key], [[0, 8000]], key)
        self.assertEqual(answer["empty"] + answer["zero"], [])


class Sharing(StoreCase):
    """Two processes with equal memory, by the backend store."""

    def check_buffer(self, make: str, fill: bool = True) -> None:
        answers = self.both(
            f"""
            thing = {make}
            if {fill}:
                memoryview(thing)[:] = content({len(make)})
            memory = memoryview(thing)
            step(digest=digest(memory), pss=pss())
            step(counts=upm.advise(thing).as_dict())
            step(digest=digest(memory), pss=pss(), counts=upm.advise(thing).as_dict())
            """,
            3,
        )
        self.check_shared(answers)
        first, second, pages = answers[0][1]["counts"], answers[1][1]["counts"], SIZE // 4096
        sums = [c["merged"] + c["inserted"] + c["zero"] for c in (first, second)]
        self.assertGreaterEqual(min(sums), pages - 1, (first, second))
        self.assertGreaterEqual(first["merged"] + second["merged"], pages - 1)
        for got in answers:
            self.assertGreaterEqual(got[2]["counts"]["already"], pages - 1)

    def test_memory_map(self) -> None:
        self.check_buffer("mmap.mmap(-1, SIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)")

    def test_bytearray(self) -> None:
        self.check_buffer("bytearray(SIZE)")

    def test_read_only_bytes(self) -> None:
        self.check_buffer("content(9)", fill=False)

    @unittest.skipUnless(has("numpy"), "no python3-numpy")
    def test_array_by_a_view_that_is_not_contiguous(self) -> None:
        answers = self.both(
            """
            import numpy
            array = numpy.frombuffer(content(3), dtype="uint8").copy().reshape(-1, 4096)
            view = array[::2, ::-1]
            step(digest=digest(array), pss=pss())
            upm.advise(view)
            step(pss=0, digest=digest(array))
            step(digest=digest(array), pss=pss())
            """,
            3,
        )
        self.check_shared(answers)

    def test_a_write_is_private(self) -> None:
        answers = self.both(
            """
            memory = bytearray(content(4))
            step()
            upm.advise(memory)
            step()
            memory[5000] ^= os.getpid() & 0xFF | 1
            step(own=memory[5000] ^ content(4)[5000], rest=digest(memory[:5000] + memory[5001:]))
            """,
            3,
        )
        first, second = (got[2] for got in answers)
        self.assertNotEqual(first["own"], 0)
        self.assertEqual(first["rest"], second["rest"])

    def test_unmerge_and_merged(self) -> None:
        answers = self.both(
            """
            memory = bytearray(content(5))
            step(digest=digest(memory), pss=pss())
            with upm.merged(memory) as same:
                step(same=same is memory)
                step(digest=digest(memory), pss=pss())
            step(digest=digest(memory), pss=pss(), left=upm.unmerge(memory).as_dict())
            """,
            4,
        )
        self.check_shared([got[:3:2] for got in answers])
        for got in answers:
            self.assertTrue(got[1]["same"])
            self.assertEqual(got[3]["digest"], got[0]["digest"])
            self.assertGreater(got[3]["pss"], got[0]["pss"] - 0.05 * SIZE)
            self.assertEqual(got[3]["left"]["unmerged"], 0)

    def test_async(self) -> None:
        answers = self.both(
            """
            import asyncio
            memory = bytearray(content(6))
            step(digest=digest(memory), pss=pss())
            future = upm.advise_async(memory)
            step(pages=future.result(60).pages)
            async def again():
                return await asyncio.wrap_future(upm.advise_async([memory, memory]))
            pages = asyncio.run(again()).pages
            child = os.fork()
            if child == 0:
                os._exit(0 if upm.advise_async(memory).result(60).pages == pages else 1)
            step(digest=digest(memory), pss=pss(), pages=pages, child=os.waitpid(child, 0)[1],
                 refused=failure(upm.advise_async, 5), resized=failure(memory.extend, b"x"))
            """,
            3,
        )
        self.check_shared(answers)
        for got in answers:
            self.assertEqual(got[1]["pages"], got[2]["pages"])
            self.assertEqual(got[2]["child"], 0)
            self.assertIn("TypeError", got[2]["refused"])
            self.assertEqual(got[2]["resized"], "nothing")

    def test_domains_are_apart(self) -> None:
        answers = self.both(
            """
            memory = bytearray(content(7))
            step()
            key = bytes.fromhex("00112233445566778899aabbccddee%02x" % (os.getpid() % 251))
            with upm.Domain(key) as domain:
                text = repr(domain)
                counts = upm.advise(memory, domain=domain)
                shared = upm.stats(domain).pages_shared
                passed = os.dup(domain.fileno())
            closed = failure(upm.advise, memory, domain=domain)
            other = upm.Domain.from_fd(passed)
            step(merged=counts.merged, inserted=counts.inserted, shared=shared, closed=closed,
                 is_closed=domain.closed, other=upm.stats(other).pages_shared, text=text)
            """,
            2,
        )
        for got in answers:
            self.assertEqual(got[1]["merged"], 0)
            self.assertGreaterEqual(got[1]["inserted"], SIZE // 4096 - 1)
            self.assertEqual(got[1]["shared"], got[1]["inserted"])
            self.assertEqual(got[1]["other"], got[1]["shared"])
            self.assertEqual(got[1]["closed"], "ValueError: the domain is closed")
            self.assertTrue(got[1]["is_closed"])
            self.assertRegex(got[1]["text"], r"<upm\.Domain fd=\d+>")

    def test_small_empty_shared_and_gone(self) -> None:
        answer = self.run_one(
            """
            shared = mmap.mmap(-1, 1 << 20)
            gone = mmap.mmap(-1, 1 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
            from upm import _core
            address, length = _core.Pinned(gone).range
            gone.close()
            tell(small=upm.advise(b"x" * 100).pages, empty=upm.advise(b"").pages,
                 none=upm.advise([]).pages, shared=upm.advise(shared).as_dict(),
                 gone=failure(upm.advise_range, address, length),
                 dry=failure(upm.advise, shared, dry_run=True), stats=repr(upm.stats()))
            """,
            **self.store,
        )
        self.assertEqual((answer["small"], answer["empty"], answer["none"]), (0, 0, 0))
        self.assertEqual(answer["shared"]["skipped"], {"shared": 256})
        self.assertIn("Error: [Errno 12]", answer["gone"])
        self.assertIn("Error: [Errno 95]", answer["dry"])
        self.assertIn("upm.Stats(pages_shared=", answer["stats"])

    def test_other_threads_run_meanwhile(self) -> None:
        answer = self.run_one(
            """
            import threading, time
            memory = bytearray(content(8)) * 16
            rounds = 0
            def count():
                global rounds
                while not done:
                    rounds += 1
                    time.sleep(0.001)
            done = False
            thread = threading.Thread(target=count); thread.start()
            before = rounds
            upm.advise(memory)
            during = rounds - before
            done = True; thread.join()
            tell(during=during)
            """,
            **self.store,
        )
        self.assertGreater(answer["during"], 5)


@unittest.skipUnless(has("torch"), "no python3-torch: make demo installs it")
class Torch(StoreCase):
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
        BYTES = sum(t.nbytes if hasattr(t, "nbytes") else t.numel() * 4
                    for t in {id(t): t for t in [*net.parameters(), *net.buffers()]}.values())
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
            step(digest=answer(), pss=pss(), bytes=BYTES)
            counts = upm.advise_module(net)
            step(counts=counts.as_dict())
            step(digest=answer(), pss=pss(), state=upm.advise(net.state_dict()).as_dict())
            """,
            3,
        )
        size = answers[0][0]["bytes"]
        self.check_shared(answers, size)
        for got in answers:
            counts = got[1]["counts"]
            # Each storage once, a page at each end apart.
            self.assertLess(counts["pages"] * 4096, size + 1)
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
            **self.store,
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
class Regions(StoreCase):
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
        step(digest=digest(model.weight.detach().numpy()) + digest(named), pss=pss())
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


class Hook(StoreCase):
    """Together with libupm-preload.so."""

    HOOKED: ClassVar[dict[str, str]] = {"LD_PRELOAD": str(HOOK), "UPM_TRIGGER": "manual"}

    def test_idle(self) -> None:
        answers = self.both(
            """
            memory = bytearray(content(10))
            step(digest=digest(memory), pss=pss())
            idle = upm.idle()
            step(hook=idle.hook, counts=idle.counts.as_dict(), stats=repr(upm.hook_stats()))
            step(digest=digest(memory), pss=pss())
            """,
            3,
            **self.HOOKED,
        )
        self.check_shared(answers)
        for got in answers:
            self.assertTrue(got[1]["hook"])
            self.assertGreater(got[1]["counts"]["pages"], SIZE // 4096 - 1)
            self.assertIn("passes=1", got[1]["stats"])

    def test_idle_without_the_hook_trims(self) -> None:
        answer = self.run_one(
            """
            small = [bytes(1000) for _ in range(50000)]
            keep = bytes(1000)
            del small
            idle = upm.idle()
            tell(hook=idle.hook, trimmed=idle.trimmed, pages=idle.counts.pages,
                 stats=upm.hook_stats())
            """,
            UPM_BACKEND="none",
        )
        self.assertEqual((answer["hook"], answer["pages"], answer["stats"]), (False, 0, None))
        self.assertGreater(answer["trimmed"], 10 * MIB)

    def test_advised_blocks_are_not_used_again(self) -> None:
        """A block of the hook's that was advised by the package is zero where it must be."""
        answer = self.run_one(
            """
            import ctypes
            libc = ctypes.CDLL(None)
            libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
            from upm import _core
            memory = bytearray(content(11))
            address, length = _core.Pinned(memory).range
            upm.advise(memory)
            start = -(-address // 4096) * 4096
            assert libc.madvise(start, 1 << 20, 4) == 0  # MADV_DONTNEED
            offset = start - address
            tell(zero=not any(memory[offset : offset + (1 << 20)]),
                 rest=digest(memory[offset + (1 << 20) :])
                      == digest(content(11)[offset + (1 << 20) :]))
            """,
            **self.HOOKED,
            **self.store,
        )
        self.assertEqual(answer, {"zero": True, "rest": True})


class Enable(Case):
    """UPM_ENABLE=1 with the package in a folder that Python's site looks into."""

    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        version = f"python{sys.version_info.major}.{sys.version_info.minor}"
        self.base = Path(folder.name)
        site = self.base / "lib" / version / "site-packages"
        site.mkdir(parents=True)
        for name in ("_upm_enable.py", "upm-enable.pth"):
            (site / name).symlink_to(PACKAGE / name)

    def python(self, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """Runs Python to its end."""
        return subprocess.run(
            [PYTHON, *arguments],
            env=environment(UPM_BACKEND="none", PYTHONUSERBASE=str(self.base), PYTHONPATH="")
            | variables,
            input="standard input",
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )

    SCRIPT = (
        "import os, sys; "
        "maps = open('/proc/self/maps').read(); "
        "print('libupm-preload' in maps, sys.argv, sys.stdin.read(), "
        "open('/proc/self/comm').read().strip(), sys.flags.optimize)"
    )

    def test_starts_again_with_the_hook(self) -> None:
        plain = self.python("-O", "-c", self.SCRIPT, "a b", "--c")
        self.assertEqual(plain.stderr, "")
        self.assertTrue(plain.stdout.startswith("False ['-c', 'a b', '--c'] standard input"))
        hooked = self.python("-O", "-c", self.SCRIPT, "a b", "--c", UPM_ENABLE="1")
        self.assertEqual(hooked.stderr, "")
        self.assertEqual(hooked.stdout, plain.stdout.replace("False", "True", 1))

    def test_only_for_one(self) -> None:
        for value in ("0", "", "yes"):
            self.assertIn("False", self.python("-c", self.SCRIPT, UPM_ENABLE=value).stdout)

    def test_children_have_it_once(self) -> None:
        script = (
            "import subprocess, sys; "
            f"print(subprocess.run([sys.executable, '-c', {self.SCRIPT!r}], capture_output=True, "
            "input='', text=True).stdout)"
        )
        self.assertIn("True ['-c']", self.python("-c", script, UPM_ENABLE="1").stdout)

    def test_says_why_not(self) -> None:
        site = next(self.base.glob("lib/*/site-packages"))
        (site / "_upm_enable.py").unlink()
        (site / "_upm_enable.py").write_bytes((PACKAGE / "_upm_enable.py").read_bytes())
        done = self.python("-c", self.SCRIPT, UPM_ENABLE="1", UPM_VERBOSE="1")
        self.assertIn("UPM_ENABLE: not started: no libupm-preload.so found", done.stderr)
        self.assertIn("False ['-c']", done.stdout)
        # A hook that ld.so cannot load must not start the program over and over.
        (site / "upm").mkdir()
        (site / "upm/libupm-preload.so").write_text("not a library")
        done = self.python("-c", self.SCRIPT, UPM_ENABLE="1")
        self.assertIn("cannot be preloaded", done.stderr)
        self.assertIn("False ['-c']", done.stdout)

    def test_costs_nothing_otherwise(self) -> None:
        done = self.python("-c", "import sys; print('_upm_enable' in sys.modules)")
        self.assertEqual(done.stdout, "False\n")


class Wheel(Case):
    """What `make wheel` made, installed into an environment of its own."""

    def test_works_alone(self) -> None:
        wheels = sorted((ROOT / "build").glob("upm-*.whl"))
        if not wheels:
            self.skipTest("no wheel: make wheel makes it")
        with tempfile.TemporaryDirectory() as folder:
            subprocess.run([PYTHON, "-m", "venv", folder], check=True)
            python = Path(folder) / "bin/python"
            options: list[str | Path] = [
                "-m",
                "pip",
                "--quiet",
                "install",
                "--no-index",
                wheels[-1],
            ]
            subprocess.run([python, *options], check=True)
            clean = environment(UPM_ENABLE="1", UPM_SOCKET=f"{folder}/socket", UPM_BACKEND="store")
            clean["PYTHONPATH"] = ""
            script = (
                "import upm; print(upm.__file__, upm.hook_stats() is not None, "
                "upm.info().backend, upm.info().reason)"
            )
            done = subprocess.run(
                [python, "-c", script], env=clean, capture_output=True, text=True, check=True
            )
            self.assertTrue(done.stdout.startswith(folder), done.stdout)
            self.assertIn("True store", done.stdout)


CLASSES = ("Interface", "Memory", "Sharing", "Torch", "Regions", "Hook", "Enable", "Wheel")


def main() -> int:
    suite = unittest.defaultTestLoader.loadTestsFromNames(
        sys.argv[1:] or CLASSES, sys.modules[__name__]
    )
    result = unittest.TextTestRunner(verbosity=2).run(suite)
    if not result.wasSuccessful():
        return 1
    return EXIT_SKIPPED if len(result.skipped) >= result.testsRun else 0


if __name__ == "__main__":
    sys.exit(main())
