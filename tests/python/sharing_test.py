#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""The Python package: two processes share what is equal.

tests/python/sharing_test.py [CLASS[.TEST]...]
"""

from __future__ import annotations

import sys
import unittest

import scripts
from scripts import SIZE, MergingCase, has


class Sharing(MergingCase):
    """Two processes with equal memory."""

    def check_buffer(self, make: str, fill: bool = True) -> None:
        answers = self.both(
            f"""
            thing = {make}
            if {fill}:
                memoryview(thing)[:] = content({len(make)})
            memory = memoryview(thing)
            step(digest=digest(memory), pss=pss())
            step(counts=upm.advise(thing).as_dict())
            seen = digest(memory); barrier()
            step(digest=seen, pss=pss(), counts=upm.advise(thing).as_dict())
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
            seen = digest(array); barrier()
            step(digest=seen, pss=pss())
            """,
            2,
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
                seen = digest(memory); barrier()
                step(digest=seen, pss=pss())
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
            status = os.waitpid(child, 0)[1]
            seen = digest(memory); barrier()
            shared = pss(); barrier() # to grow, the array moves away from what is shared
            step(digest=seen, pss=shared, pages=pages, child=status,
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
            **self.merging,
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
            **self.merging,
        )
        self.assertGreater(answer["during"], 5)


if __name__ == "__main__":
    sys.exit(scripts.main())
