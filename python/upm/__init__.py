# SPDX-License-Identifier: MIT
"""User-guided page merging: share equal memory between processes.

    import upm

    model = load()
    print(upm.advise_module(model))  # upm.Counts(pages=14925, merged=14911, ...)

Memory keeps its bytes and stays private: who writes to a merged page gets a copy of
it. Every call raises `upm.Error`, an OSError, if no backend works; a program that
should run everywhere says ``with contextlib.suppress(upm.Error):``.

The calls release the interpreter's lock. Counts are in pages of `info().page_size`
bytes. Merging works on whole pages: what an object has of its first and last page is
left out, and objects of less than a page are nothing.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, NamedTuple, TypeVar

from upm import _core, _memory
from upm._core import Counts, Domain, Error, HookStats, Info, Stats, __version__
from upm._load import Loaded, LoadingFile, load, read_into
from upm._region import Region

__all__ = [
    "BackendStatus",
    "Counts",
    "Domain",
    "Error",
    "HookStats",
    "Idle",
    "Info",
    "Loaded",
    "LoadingFile",
    "Region",
    "Stats",
    "__version__",
    "advise",
    "advise_async",
    "advise_module",
    "advise_range",
    "backends",
    "hook_stats",
    "idle",
    "info",
    "load",
    "merged",
    "read_into",
    "region",
    "stats",
    "unmerge",
    "unmerge_range",
]

Thing = TypeVar("Thing")


def _gather(thing: Any) -> _memory.Memory:
    memory = _memory.Memory()
    if _memory.is_module(thing):
        _memory.add_module(thing, memory)
    else:
        _memory.add_object(thing, memory)
    return memory


def _advise(
    memory: _memory.Memory, dry_run: bool, quiescent: bool, domain: Domain | None
) -> Counts:
    try:
        return _core.advise(memory.joined(apart=quiescent), dry_run, quiescent, domain)
    finally:
        memory.release()


def advise(
    obj: object, *, dry_run: bool = False, quiescent: bool = False, domain: Domain | None = None
) -> Counts:
    """Merge the memory of an object with equal memory of other processes, now.

    `obj` is a torch.Tensor, a numpy.ndarray, anything with the buffer protocol, or a
    list, tuple, set or mapping of these (a ``state_dict()``). Of a tensor it is the
    whole storage, of an array the whole one that it is a view of, each once; sparse
    tensors are advised part by part. Neighbours in memory are advised as one, with
    the page between them. Advising again is cheap.

    dry_run: change nothing, predict the counts. quiescent: you vouch that nobody
    writes to the memory meanwhile; needed where `info().quiescent` is true. domain:
    merge in that domain instead of the default one.

    Raises upm.Error; TypeError for what has no memory; ValueError for tensors that
    are not on the CPU ("cuda", "meta"); BufferError.
    """
    memory = _memory.Memory()
    _memory.add_object(obj, memory)
    return _advise(memory, dry_run, quiescent, domain)


def advise_module(
    module: Any, *, dry_run: bool = False, quiescent: bool = False, domain: Domain | None = None
) -> Counts:
    """Merge the parameters and buffers of a torch.nn.Module, each storage once.

    Those on other devices are left out. Raises ValueError if all are, TypeError if it
    is no module, upm.Error.
    """
    memory = _memory.Memory()
    _memory.add_module(module, memory)
    return _advise(memory, dry_run, quiescent, domain)


def advise_range(  # noqa: PLR0913 - as upm_advise_pid(3) has them
    address: int,
    length: int,
    *,
    pid: int = 0,
    dry_run: bool = False,
    quiescent: bool = False,
    domain: Domain | None = None,
) -> Counts:
    """Merge `length` bytes at an address, of this process or of process `pid`.

    Another process needs CAP_SYS_PTRACE over it, and a backend with `info().remote`.
    The range must stay mapped during the call. Raises upm.Error.
    """
    return _core.advise([(address, length)], dry_run, quiescent, domain, pid)


def unmerge(obj: object, *, domain: Domain | None = None) -> Counts:
    """Give merged pages of an object, or of a torch.nn.Module, private copies again.

    Nobody may write to the memory meanwhile where `info().quiescent` is true. Raises
    what `advise` raises.
    """
    memory = _gather(obj)
    try:
        return _core.unmerge(memory.joined(apart=_core.info().quiescent), domain)
    finally:
        memory.release()


def unmerge_range(
    address: int, length: int, *, pid: int = 0, domain: Domain | None = None
) -> Counts:
    """Give merged pages in `length` bytes at an address private copies again."""
    return _core.unmerge([(address, length)], domain, pid)


_worker: ThreadPoolExecutor | None = None


def _forget_worker() -> None:
    global _worker  # noqa: PLW0603 - the thread did not come along
    _worker = None


os.register_at_fork(after_in_child=_forget_worker)


def advise_async(
    obj: object, *, quiescent: bool = False, domain: Domain | None = None
) -> Future[Counts]:
    """The same as `advise` or `advise_module` on a worker thread.

    Returns a concurrent.futures.Future, for asyncio by asyncio.wrap_future(); its
    result() is what the call would have returned or raised. The object is kept alive
    until then, and a bytearray cannot be resized. Python waits for it at exit. Raises
    TypeError and ValueError at once.
    """
    global _worker  # noqa: PLW0603 - made when first needed
    memory = _gather(obj)
    if _worker is None:
        _worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="upm")
    return _worker.submit(_advise, memory, False, quiescent, domain)


def region(*, quiescent: bool = False, domain: Domain | None = None) -> Region:
    """Advise at the end of a with statement what was made inside it.

        with upm.region() as region:
            model = load()
        print(region.counts)

    Under the hook this is every large block that was allocated inside (the memory of
    arrays and other libraries too). Without it, it is the torch tensors that were made
    inside and are still referred to; `region.add(obj)` names what is to go along. There,
    glibc's malloc gives blocks of 64 KiB and more a mapping of their own meanwhile, and
    ends up with its limit for that at 32 MiB, the most that it reaches by itself.
    Nothing is advised when the block raises. Raises upm.Error at the end.
    """
    return Region(quiescent=quiescent, domain=domain)


@contextmanager
def merged(obj: Thing, *, quiescent: bool = False, domain: Domain | None = None) -> Iterator[Thing]:
    """Keep an object or torch.nn.Module merged during a with statement only.

    Advises at its beginning, unmerges at its end. Raises what `advise` raises.
    """
    _advise(_gather(obj), False, quiescent, domain)
    try:
        yield obj
    finally:
        unmerge(obj, domain=domain)


class Idle(NamedTuple):
    """What `idle` did."""

    hook: bool
    """Whether the hook is in this process; without it only the heap is trimmed."""
    trimmed: int
    """Bytes that went back to the system."""
    counts: Counts
    """What became of the hook's pages."""


def idle() -> Idle:
    """Say that now is a good moment: nothing has to be done soon.

    Under the hook (``upm run``, ``UPM_ENABLE=1``) it trims the heap and advises what is
    new, in this thread, before the call returns: for a handler that is about to wait
    for the next request, in a container that may be frozen then. Without the hook it
    gives freed memory that malloc keeps back to the system, and advises nothing.

    Raises upm.Error if there is no backend.
    """
    before = _core.hook_stats()
    if before is None:
        return Idle(hook=False, trimmed=_core.trim(), counts=Counts())
    counts = _core.hook_advise(0)
    after = _core.hook_stats()
    trimmed = after.trimmed_bytes - before.trimmed_bytes if after is not None else 0
    return Idle(hook=True, trimmed=trimmed, counts=counts)


def hook_stats() -> HookStats | None:
    """What the hook did in this process so far; None where it is not preloaded."""
    return _core.hook_stats()


def info() -> Info:
    """Which backend is active, why, and what it can do."""
    return _core.info()


def stats(domain: Domain | None = None) -> Stats:
    """Totals of a domain or of the default one (of the machine for backend ksm).

    Raises upm.Error, EOPNOTSUPP without a backend.
    """
    return _core.stats(domain)


class BackendStatus(NamedTuple):
    """One backend that the library knows."""

    name: str
    available: bool
    """Would work in this process, now."""
    active: bool
    """Is the one that `info` names."""
    reason: str
    """One line: what it found, or what is missing and the cure."""


def backends() -> list[BackendStatus]:
    """One row for each backend, in order of preference: for diagnosis."""
    return [BackendStatus(*row) for row in _core.backends()]
