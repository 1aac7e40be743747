# SPDX-License-Identifier: MIT
"""The pluggable allocator, as PyTorch calls it: by the names of C functions."""

import ctypes


class CUDAPluggableAllocator:
    """Finds the two functions in the library."""

    def __init__(self, path: str, allocate: str, release: str) -> None:
        library = ctypes.CDLL(path)
        self._allocate = getattr(library, allocate)
        self._allocate.restype = ctypes.c_void_p
        self._allocate.argtypes = (ctypes.c_ssize_t, ctypes.c_int, ctypes.c_void_p)
        getattr(library, release)

    def allocator(self) -> "CUDAPluggableAllocator":
        """What MemPool takes."""
        return self

    def allocate(self, size: int) -> int | None:
        """On device 0, in the default stream."""
        found: int | None = self._allocate(size, 0, None)
        return found
