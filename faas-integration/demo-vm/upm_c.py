# SPDX-License-Identifier: MIT
"""The part of libupm's C interface that the demo calls (upm/upm.h), by ctypes."""

from __future__ import annotations

import ctypes
import os
from dataclasses import dataclass, field
from pathlib import Path

LIBRARY = Path(__file__).resolve().parents[2] / "build" / "lib" / "libupm.so"
SKIPPED_NR = 24


class _Counts(ctypes.Structure):
    """struct upm_counts."""

    _fields_ = (
        ("pages", ctypes.c_uint64),
        ("merged", ctypes.c_uint64),
        ("inserted", ctypes.c_uint64),
        ("zero", ctypes.c_uint64),
        ("already", ctypes.c_uint64),
        ("queued", ctypes.c_uint64),
        ("unmerged", ctypes.c_uint64),
        ("kept", ctypes.c_uint64),
        ("skipped", ctypes.c_uint64 * SKIPPED_NR),
        ("bytes", ctypes.c_uint64),
        ("nanoseconds", ctypes.c_uint64),
    )


class _Info(ctypes.Structure):
    """struct upm_info."""

    _fields_ = (
        ("backend", ctypes.c_char_p),
        ("reason", ctypes.c_char_p),
        ("version", ctypes.c_char_p),
        ("page_size", ctypes.c_uint32),
        ("immediate", ctypes.c_uint32),
        ("remote", ctypes.c_uint32),
        ("file_pages", ctypes.c_uint32),
        ("unmerge", ctypes.c_uint32),
        ("dry_run", ctypes.c_uint32),
        ("domains", ctypes.c_uint32),
        ("reserved", ctypes.c_uint64 * 4),
    )


@dataclass
class Counts:
    """What became of the pages of one or more advised ranges."""

    pages: int = 0
    merged: int = 0
    inserted: int = 0
    zero: int = 0
    already: int = 0
    skipped: dict[str, int] = field(default_factory=dict)
    """By reason, without those that did not occur."""


class Upm:
    """The loaded library."""

    def __init__(self, library: Path = LIBRARY) -> None:
        """Loads it. Raises OSError if that fails."""
        self._c = ctypes.CDLL(str(library))
        self._c.upm_advise.argtypes = (
            ctypes.c_void_p,
            ctypes.c_size_t,
            ctypes.c_uint,
            ctypes.POINTER(_Counts),
        )
        self._c.upm_info.argtypes = (ctypes.POINTER(_Info),)
        self._c.upm_skip_name.restype = ctypes.c_char_p

    def backend(self) -> tuple[str, str]:
        """Name of the active backend, and why it is that one."""
        info = _Info()
        _check(self._c.upm_info(ctypes.byref(info)), "upm_info")
        return info.backend.decode(), info.reason.decode()

    def advise(self, ranges: list[tuple[int, int]]) -> Counts:
        """Merges the whole pages of each (address, bytes). Raises OSError."""
        total = Counts()
        for address, length in ranges:
            counts = _Counts()
            status = self._c.upm_advise(address, length, 0, ctypes.byref(counts))
            _check(status, f"upm_advise of {length} bytes at {address:#x}")
            total.pages += counts.pages
            total.merged += counts.merged
            total.inserted += counts.inserted
            total.zero += counts.zero
            total.already += counts.already
            for reason in (i for i in range(SKIPPED_NR) if counts.skipped[i]):
                name = self._skip_name(reason)
                total.skipped[name] = total.skipped.get(name, 0) + counts.skipped[reason]
        return total

    def _skip_name(self, reason: int) -> str:
        name: bytes | None = self._c.upm_skip_name(reason)
        return name.decode() if name else f"reason {reason}"


def _check(status: int, what: str) -> None:
    if status < 0:
        raise OSError(-status, f"{what}: {os.strerror(-status)}")
