# SPDX-License-Identifier: MIT
"""What a block of code makes, advised when the block ends."""

from __future__ import annotations

import contextlib
from types import TracebackType
from typing import Any, TypeVar

from upm import _core, _memory

Thing = TypeVar("Thing")

# As large as the hook's blocks are by default.
OWN_MAPPING = 64 * 1024


class Region:
    """Advises at its end what was made inside it; see `upm.region`."""

    def __init__(self, *, quiescent: bool = False, domain: _core.Domain | None = None) -> None:
        """Nothing happens until the with statement."""
        self._quiescent = quiescent
        self._domain = domain
        self._added: list[object] = []
        self._before: set[_memory.Range] = set()
        self._mark = 0
        self.counts = _core.Counts()
        """What was done; zeros until the end."""

    def add(self, thing: Thing) -> Thing:
        """Advise this too, for what a region does not find by itself. Returns it."""
        self._added.append(thing)
        return thing

    def _uses_hook(self) -> bool:
        return _core.hook_present() and self._domain is None

    def __enter__(self) -> Region:
        """Remembers what there is already."""
        if self._uses_hook():
            self._mark = _core.hook_mark()
        else:
            self._before = set(_tensors().ranges)
            # The heap does not merge by every backend, nor as well as whole mappings.
            _core.set_heap_limit(OWN_MAPPING)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Advises, unless the block failed. Raises upm.Error."""
        before, self._before = self._before, set()
        added, self._added = self._added, []
        if not self._uses_hook():
            _core.set_heap_limit(_core.LARGEST_HEAP_LIMIT)
        if kind is not None:
            return
        memory = _memory.Memory()
        for thing in added:
            _add(thing, memory)
        if self._uses_hook():
            self.counts = _core.hook_advise(self._mark)
        else:
            found = _tensors()
            memory.held.extend(found.held)
            memory.ranges |= {key: None for key in found.ranges if key not in before}
        try:
            self.counts += _core.advise(
                memory.joined(apart=self._quiescent),
                quiescent=self._quiescent,
                domain=self._domain,
            )
        finally:
            memory.release()


def _add(thing: Any, memory: _memory.Memory) -> None:
    if _memory.is_module(thing):
        _memory.add_module(thing, memory)
    else:
        _memory.add_object(thing, memory)


def _tensors() -> _memory.Memory:
    memory = _memory.Memory()
    for tensor in _memory.live_tensors():
        # Some kinds do not tell where their elements are: they are left out.
        with contextlib.suppress(ValueError, NotImplementedError, RuntimeError):
            _memory.add_tensor(tensor, memory)
    return memory
