# SPDX-License-Identifier: MIT
"""Reading files into memory that comes to be shared."""

from __future__ import annotations

import io
import mmap
import os
from typing import IO, Any, NamedTuple

from upm import _core
from upm._core import Domain


class Loaded(NamedTuple):
    """What became of the bytes of a load: `bytes` is the sum of the next three."""

    bytes: int
    """Read."""
    shared: int
    """In pages that were known, and are now mapped."""
    made: int
    """In pages that this load had made for others to share."""
    copied: int
    """Private, as a plain read leaves them."""
    seconds: float
    """Time spent."""


File = str | os.PathLike[str] | int | IO[bytes]


class _Source:
    """A descriptor to read from, and where."""

    def __init__(self, file: File) -> None:
        self._own = isinstance(file, str | os.PathLike)
        self._file: Any = None
        if isinstance(file, int):
            self.fd = file
        elif isinstance(file, str | os.PathLike):
            self.fd = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
        else:
            self._file = file
            self.fd = file.fileno()

    def tell(self) -> int:
        """The position of the file object, or of the descriptor."""
        return int(self._file.tell()) if self._file else os.lseek(self.fd, 0, os.SEEK_CUR)

    def seek(self, offset: int) -> None:
        """Moves it: a file object may have read ahead."""
        if self._file:
            self._file.seek(offset)
        else:
            os.lseek(self.fd, offset, os.SEEK_SET)

    def close(self) -> None:
        """Closes what was opened here."""
        if self._own:
            os.close(self.fd)


def load(
    file: File, offset: int = 0, length: int | None = None, *, domain: Domain | None = None
) -> mmap.mmap:
    """Read a file into new memory, whose pages are shared with other processes.

    `file` is a path, a descriptor or a binary file object that has one. `offset` and
    `length` are bytes; without a length, all to the end of the file. The result is an
    anonymous mmap.mmap of as many bytes as there were: a buffer that can be sliced and
    written to (a write is private), for numpy.frombuffer, torch.frombuffer and their
    like. Its pages are those of other processes of the domain that loaded the same
    bytes, after each byte was compared; with a backend that shares nothing they are a
    plain copy. The position of the file stays as it is.

    Raises ValueError for a negative offset or length, or if there is nothing to read
    (mmap cannot be empty); upm.Error, an OSError, for what reading fails with.
    """
    if offset < 0 or (length is not None and length < 0):
        raise ValueError(f"offset and length must not be negative: {offset}, {length}")
    source = _Source(file)
    try:
        there = max(os.fstat(source.fd).st_size - offset, 0)
        wanted = there if length is None else min(length, there)
        if wanted == 0:
            raise ValueError(f"nothing to read at offset {offset} of {file!r}")
        memory = mmap.mmap(-1, wanted, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        done = _core.load(source.fd, offset, memory, domain, True)
        if done[0] < wanted:  # the file has become shorter
            short = mmap.mmap(-1, max(done[0], 1), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
            short[: done[0]] = memory[: done[0]]
            return short
        return memory
    finally:
        source.close()


def read_into(
    file: int | IO[bytes],
    buffer: Any,
    offset: int | None = None,
    *,
    domain: Domain | None = None,
) -> Loaded:
    """Read a file into a buffer, whose pages come to be shared where they can.

    As `file.readinto(buffer)`: reads as many bytes as the buffer has, or the file. With
    an `offset` in bytes the position of the file stays; without one, the file is read
    from its position, which moves on. Only whole pages of the buffer that were never
    touched come to share (of numpy.empty, torch.empty, mmap); all else is a plain copy.

    Raises BufferError for a buffer that cannot be written to or is not contiguous,
    ValueError for a negative offset, upm.Error for what reading fails with.
    """
    if offset is not None and offset < 0:
        raise ValueError(f"offset must not be negative: {offset}")
    source = _Source(file)
    start = source.tell() if offset is None else offset
    done = Loaded(*_core.load(source.fd, start, buffer, domain, False))
    if offset is None:
        source.seek(start + done.bytes)
    return done


class LoadingFile(io.RawIOBase):
    """A binary file, read by `read_into`: for loaders that take a file object.

    `loaded` sums up what became of the bytes.
    """

    def __init__(self, path: str | os.PathLike[str], *, domain: Domain | None = None) -> None:
        """Opens the file. Raises OSError."""
        super().__init__()
        self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self._domain = domain
        self._at = 0
        self.loaded = Loaded(0, 0, 0, 0, 0.0)

    def close(self) -> None:
        """Closes the file."""
        if not self.closed:
            os.close(self._fd)
        super().close()

    def fileno(self) -> int:
        """The descriptor, whose own position is not used."""
        self._check()
        return self._fd

    def readable(self) -> bool:
        """It is."""
        return True

    def seekable(self) -> bool:
        """It is."""
        return True

    def tell(self) -> int:
        """The position in bytes."""
        self._check()
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Moves the position; as of any file."""
        self._check()
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._at}.get(whence)
        if base is None:
            base = os.fstat(self._fd).st_size
        if base + offset < 0:
            raise ValueError(f"negative position: {base + offset}")
        self._at = base + offset
        return self._at

    def readinto(self, buffer: Any) -> int:
        """Reads from the position on."""
        self._check()
        done = Loaded(*_core.load(self._fd, self._at, buffer, self._domain, False))
        self._at += done.bytes
        so_far = self.loaded
        self.loaded = Loaded(
            so_far.bytes + done.bytes,
            so_far.shared + done.shared,
            so_far.made + done.made,
            so_far.copied + done.copied,
            so_far.seconds + done.seconds,
        )
        return done.bytes

    def _check(self) -> None:
        if self.closed:
            raise ValueError("I/O operation on closed file")
