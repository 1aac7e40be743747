# SPDX-License-Identifier: MIT
"""Which memory lies behind an object.

Neither torch nor numpy is imported: whoever has a tensor has imported torch.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from upm import _core

Range = tuple[int, int]  # address, bytes
PAGE = os.sysconf("SC_PAGESIZE")

# Of torch's layouts other than strided: the methods that give the strided parts.
SPARSE = {
    "torch.sparse_coo": ("_indices", "_values"),
    "torch.sparse_csr": ("crow_indices", "col_indices", "values"),
    "torch.sparse_bsr": ("crow_indices", "col_indices", "values"),
    "torch.sparse_csc": ("ccol_indices", "row_indices", "values"),
    "torch.sparse_bsc": ("ccol_indices", "row_indices", "values"),
}


@dataclass
class Memory:
    """Ranges of memory, each once, and what keeps them in place."""

    ranges: dict[Range, None] = field(default_factory=dict)
    held: list[object] = field(default_factory=list)

    def add(self, found: Range, holder: object) -> None:
        """A further range, kept in place by `holder`."""
        if found[1] > 0:
            self.ranges[found] = None
            self.held.append(holder)

    def joined(self, apart: bool = False) -> list[Range]:
        """The ranges in order of addresses, those that touch the same or adjacent pages
        as one: each call of the library costs time, and so the page between two
        mappings, which holds an end of each, merges too. Not if kept `apart`.
        """
        found: list[Range] = []
        for address, length in sorted(self.ranges):
            if not apart and found and address // PAGE * PAGE <= _page_end(found[-1]):
                start = found[-1][0]
                found[-1] = (start, max(sum(found[-1]), address + length) - start)
            else:
                found.append((address, length))
        return found

    def release(self) -> None:
        """Lets go of buffers, which could not be resized meanwhile."""
        for holder in self.held:
            if isinstance(holder, _core.Pinned):
                holder.release()
        self.held.clear()


def _page_end(found: Range) -> int:
    """Where the last page of a range ends."""
    return -(-sum(found) // PAGE) * PAGE


def instance_of(thing: object, module: str, *names: str) -> bool:
    """Whether it is of a class in that module, if somebody has imported that.

    `names` are paths below the module: "nn.Module".
    """
    for name in names:
        found: Any = sys.modules.get(module)
        for part in name.split("."):
            found = getattr(found, part, None)
        if isinstance(found, type) and isinstance(thing, found):
            return True
    return False


def is_tensor(thing: object) -> bool:
    """Whether it is a torch.Tensor."""
    return instance_of(thing, "torch", "Tensor")


def is_module(thing: object) -> bool:
    """Whether it is a torch.nn.Module."""
    return instance_of(thing, "torch", "nn.Module")


def strided_parts(tensor: Any) -> Iterator[Any]:
    """The tensors that hold a tensor's elements: itself, or a sparse one's parts."""
    layout = str(tensor.layout)
    if layout == "torch.strided":
        yield tensor
    elif layout in SPARSE:
        for name in SPARSE[layout]:
            yield getattr(tensor, name)()
    else:
        raise ValueError(f"a tensor of layout {layout} does not tell where its elements are")


def storage_range(tensor: Any) -> Range:
    """All of the storage of a strided tensor on the CPU, which views share."""
    if hasattr(tensor, "untyped_storage"):
        storage = tensor.untyped_storage()
    else:  # before torch 2.0
        storage = tensor.storage().untyped()
    return storage.data_ptr(), storage.nbytes()


def add_tensor(tensor: Any, memory: Memory) -> None:
    """Adds a tensor. Raises ValueError if its memory is not the CPU's."""
    if tensor.device.type != "cpu":
        raise ValueError(
            f"a tensor on the device {str(tensor.device)!r} has no memory that this module "
            "could merge; only those on 'cpu' have"
        )
    for part in strided_parts(tensor):
        memory.add(storage_range(part), tensor)


def add_array(array: Any, memory: Memory) -> None:
    """Adds a numpy array: all of the one that it is a view of."""
    while instance_of(array.base, "numpy", "ndarray"):
        array = array.base
    address, _ = array.__array_interface__["data"]
    if array.size == 0:
        return
    spans = [stride * (count - 1) for stride, count in zip(array.strides, array.shape, strict=True)]
    first = address + sum(span for span in spans if span < 0)
    memory.add((first, array.itemsize + sum(abs(span) for span in spans)), array)


def add_object(thing: object, memory: Memory) -> None:
    """Adds whatever `upm.advise` takes. Raises TypeError, ValueError, BufferError."""
    if is_tensor(thing):
        add_tensor(thing, memory)
    elif is_module(thing):
        raise TypeError("upm.advise_module() takes a torch.nn.Module")
    elif instance_of(thing, "numpy", "ndarray"):
        add_array(thing, memory)
    elif isinstance(thing, Mapping):
        for value in thing.values():
            add_object(value, memory)
    elif isinstance(thing, list | tuple | set | frozenset):
        for value in thing:
            add_object(value, memory)
    else:
        try:
            pinned = _core.Pinned(thing)
        except TypeError:
            raise TypeError(
                f"{type(thing).__name__} is neither a tensor, an array, nor a buffer"
            ) from None
        memory.add(pinned.range, pinned)


def add_module(module: Any, memory: Memory) -> None:
    """Adds the parameters and buffers of a torch.nn.Module that are on the CPU.

    Raises ValueError if all of them are elsewhere.
    """
    if not is_module(module):
        raise TypeError(f"{type(module).__name__} is not a torch.nn.Module")
    tensors = [*module.parameters(), *module.buffers()]
    here = [tensor for tensor in tensors if tensor.device.type == "cpu"]
    if tensors and not here:
        raise ValueError(
            f"the module has nothing on the CPU, but on {str(tensors[0].device)!r}; "
            "advise it before it is moved there"
        )
    for tensor in here:
        add_tensor(tensor, memory)


def live_tensors() -> Iterator[Any]:
    """Tensors on the CPU that Python code can reach."""
    if "torch" not in sys.modules:
        return
    import gc

    for thing in gc.get_objects():
        if is_tensor(thing) and thing.device.type == "cpu":
            yield thing
