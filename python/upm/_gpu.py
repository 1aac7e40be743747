# SPDX-License-Identifier: MIT
"""libupm-cuda by ctypes: blocks of device memory that processes share."""

from __future__ import annotations

import ctypes
import functools
import os
import weakref
from pathlib import Path
from typing import Any, NamedTuple

LIBRARY = "libupm-cuda.so.0"


class Counts(NamedTuple):
    """What sharing did, in extents; `bytes` are shared now."""

    extents: int = 0
    merged: int = 0
    published: int = 0
    already: int = 0
    refused: int = 0
    different: int = 0
    bytes: int = 0

    def __add__(self, other: tuple[Any, ...]) -> Counts:
        return Counts(*(one + two for one, two in zip(self, other, strict=True)))


class _Counts(ctypes.Structure):
    """struct upm_cuda_counts."""

    _fields_ = tuple((name, ctypes.c_uint64) for name in Counts._fields)


class Stats(NamedTuple):
    """Of a block; `copies` are extents that were written since the start."""

    extents: int
    shared: int
    private_bytes: int
    shared_bytes: int
    copies: int
    copied_bytes: int
    rolled_back: int


class _Stats(ctypes.Structure):
    """struct upm_cuda_stats."""

    _fields_ = tuple((name, ctypes.c_uint64) for name in Stats._fields)


@functools.cache
def library() -> ctypes.CDLL:
    """The library, loaded when first needed. Raises OSError if there is none."""
    path = os.environ.get("UPM_CUDA_LIBRARY")
    beside = Path(__file__).resolve().parent / LIBRARY
    loaded = ctypes.CDLL(path or (str(beside) if beside.exists() else LIBRARY))
    loaded.upm_cuda_allocate.restype = ctypes.c_void_p
    loaded.upm_cuda_allocate.argtypes = (
        ctypes.c_int,
        ctypes.c_size_t,
        ctypes.c_size_t,
        ctypes.c_char_p,
    )
    loaded.upm_cuda_free.restype = None
    loaded.upm_cuda_free.argtypes = (ctypes.c_void_p,)
    loaded.upm_cuda_address.restype = ctypes.c_uint64
    loaded.upm_cuda_address.argtypes = (ctypes.c_void_p,)
    loaded.upm_cuda_advise.argtypes = (ctypes.c_void_p, ctypes.POINTER(_Counts))
    loaded.upm_cuda_get_stats.argtypes = (ctypes.c_void_p, ctypes.POINTER(_Stats))
    loaded.upm_cuda_will_write.argtypes = (ctypes.c_uint64, ctypes.c_size_t)
    loaded.upm_cuda_error.restype = ctypes.c_char_p
    return loaded


_blocks: weakref.WeakSet[Block] = weakref.WeakSet()


def _check(error: int) -> None:
    if error:
        raise OSError(abs(error), library().upm_cuda_error().decode() or os.strerror(abs(error)))


def is_fake(device: int) -> bool:
    """True on the driver for tests, whose memory the processor can use. Raises OSError."""
    found = int(library().upm_cuda_is_fake(device))
    _check(min(found, 0))
    return found == 1


def will_write(address: int, length: int) -> None:
    """Makes writable what the range covers of any block. Raises OSError."""
    _check(library().upm_cuda_will_write(address, length))


class Block:
    """Cleared memory of a device, freed when nothing refers to it any more."""

    def __init__(self, device: int, size: int, extent_bytes: int = 0, name: str = "torch") -> None:
        self.device = device
        self.size = size
        self._handle = library().upm_cuda_allocate(device, size, extent_bytes, name.encode())
        if not self._handle:
            raise MemoryError(library().upm_cuda_error().decode())
        self.address = int(library().upm_cuda_address(self._handle))
        # Not at the exit: CUDA may be gone then, and the process's memory goes anyway.
        end = weakref.finalize(self, library().upm_cuda_free, self._handle)
        end.atexit = False
        _blocks.add(self)

    def advise(self) -> Counts:
        """Shares every extent whose content is known, and makes the others known."""
        counts = _Counts()
        _check(library().upm_cuda_advise(self._handle, ctypes.byref(counts)))
        return Counts(*(getattr(counts, name) for name in Counts._fields))

    def stats(self) -> Stats:
        """How much of it is shared now."""
        stats = _Stats()
        _check(library().upm_cuda_get_stats(self._handle, ctypes.byref(stats)))
        return Stats(*(getattr(stats, name) for name in Stats._fields))


def block_of(address: int) -> Block | None:
    """The block that holds the address."""
    for block in _blocks:
        if block.address <= address < block.address + block.size:
            return block
    return None
