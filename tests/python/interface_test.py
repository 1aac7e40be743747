#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""The Python package: its interface, and which memory lies behind an object.

tests/python/interface_test.py [CLASS[.TEST]...]
"""

from __future__ import annotations

import sys
import tempfile
import unittest
from pathlib import Path

import scripts
from scripts import SIZE, Case, has


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


if __name__ == "__main__":
    sys.exit(scripts.main())
