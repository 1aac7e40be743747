# SPDX-License-Identifier: MIT
"""Memory pools and the pluggable allocator."""

import contextlib
import ctypes
import os
from collections.abc import Iterator
from typing import Any

from . import memory

active: list[Any] = []  # the pool in use, if any


class MemPool:
    """Blocks that come from an allocator."""

    def __init__(self, allocator: Any) -> None:
        self.allocator = allocator


@contextlib.contextmanager
def use_mem_pool(pool: MemPool) -> Iterator[None]:
    """Allocations inside come from the pool."""
    active.append(pool)
    yield
    active.pop()


def is_available() -> bool:
    """Whether there is a device."""
    return not os.environ.get("STAND_IN_NO_GPU")


def synchronize() -> None:
    """Writes of this stand-in are done at once."""


def mem_get_info() -> tuple[int, int]:
    """Free and total bytes; not known here."""
    return 0, 0


def block(size: int) -> int:
    """The address of a new block of the pool."""
    assert active, "weights must go into the pool"
    address = active[-1].allocator.allocate(size)
    assert address, "out of memory"
    return int(address)


def fill(address: int, content: bytes) -> None:
    """Writes to a block."""
    ctypes.memmove(address, content, len(content))


def total(address: int, size: int) -> int:
    """The sum of a block's bytes."""
    return sum(ctypes.string_at(address, size))


__all__ = ["MemPool", "block", "fill", "memory", "total", "use_mem_pool"]
