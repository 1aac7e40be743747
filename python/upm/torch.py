# SPDX-License-Identifier: MIT
"""PyTorch models whose parameters N processes hold on a GPU once.

    import upm.torch

    model = Model().to("cuda").eval()
    print(upm.torch.share(model))     # Counts(extents=12, merged=12, ...)

    with torch.no_grad(), upm.torch.writing(model):
        model.weight.mul_(0.5)        # a private copy of what is written, at its address

Needs `upm-cudad` and libupm-cuda. Every process that gives the same parameters the same
names shares them, whatever it did before.

After `share` a kernel that writes to a parameter without `writing` loses the process its
CUDA context (error 700), and a copy to one is refused (error 1); the bytes of other
processes stay.
"""

from __future__ import annotations

import ctypes
import json
import math
import mmap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from upm import _gpu
from upm._gpu import Counts

__all__ = ["Counts", "load_safetensors", "share", "writing"]

ALIGNMENT = 512  # bytes: what PyTorch's own allocator gives, and kernels may rely on


def _round_up(value: int) -> int:
    return (value + ALIGNMENT - 1) // ALIGNMENT * ALIGNMENT


class _GpuMemory:
    """A block as PyTorch takes memory of others; the tensor keeps it."""

    def __init__(self, block: _gpu.Block) -> None:
        self.block = block
        self.__cuda_array_interface__ = {
            "shape": (block.size,),
            "typestr": "|u1",
            "data": (block.address, False),
            "strides": None,
            "version": 3,
        }


def _bytes_of(block: _gpu.Block) -> torch.Tensor:
    """All of a block as a tensor of bytes, which keeps the block."""
    if not _gpu.is_fake(block.device):
        return torch.as_tensor(_GpuMemory(block), device=f"cuda:{block.device}")
    memory = (ctypes.c_char * block.size).from_address(block.address)
    memory.block = block  # type: ignore[attr-defined]  # PyTorch keeps `memory`
    return torch.frombuffer(memory, dtype=torch.uint8)


def _device_index(device: torch.device) -> int:
    """The GPU that a tensor is on; on the driver for tests the processor is one."""
    if device.type == "cuda":
        return int(torch.cuda.current_device() if device.index is None else device.index)
    if device.type == "cpu" and _gpu.is_fake(0):
        return 0
    raise ValueError(f"parameters on '{device}' are not on a GPU: model.to('cuda') first")


def _is_plain(tensor: torch.Tensor) -> bool:
    """True if it is bytes at an address, all of them its own."""
    return (
        type(tensor) in (torch.Tensor, torch.nn.Parameter)
        and tensor.layout == torch.strided
        and tensor.numel() > 0
        and not tensor.is_quantized
    )


def _strides(tensor: torch.Tensor) -> tuple[int, ...]:
    """The tensor's own if they leave no gap, as those of channels_last do.

    Else those of a contiguous tensor: elements may share a place, or leave room.
    """
    expected = 1
    for stride, size in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        if size == 1:
            continue
        if stride != expected:
            return tuple(int(one) for one in torch.empty(tensor.shape, device="meta").stride())
        expected *= size
    return tuple(int(stride) for stride in tensor.stride())


def _place(block: torch.Tensor, offset: int, tensor: torch.Tensor) -> torch.Tensor:
    """The memory at `offset` as a tensor like this one."""
    length = tensor.numel() * tensor.element_size()
    flat = block[offset : offset + length].view(tensor.dtype)
    return flat.as_strided(tuple(tensor.shape), _strides(tensor), flat.storage_offset())


def share(model: torch.nn.Module, *, extent_bytes: int = 0) -> Counts:
    """Moves the parameters of a model to shared memory, at new addresses.

    They are packed by name, so that every process packs them alike; buffers, and
    parameters that are no plain tensors, stay where they are. Afterwards the parameters
    are the same objects with the same values. What was captured into CUDA graphs before
    still reads the old memory.

    `extent_bytes` is the unit of sharing and of copying on a write; 0: 16 MiB.

    Raises ValueError if a parameter is on no GPU, OSError if there is no broker (the
    parameters are private then, and may be used), MemoryError if there is no room for a
    second copy while the first is still there.
    """
    devices: dict[int, list[torch.nn.Parameter]] = {}
    for _, parameter in sorted(model.named_parameters()):
        if _is_plain(parameter.data):
            devices.setdefault(_device_index(parameter.device), []).append(parameter)
    total = Counts()
    for device, parameters in sorted(devices.items()):
        offsets = []
        end = 0
        for parameter in parameters:
            offsets.append(end)
            end = _round_up(end + parameter.numel() * parameter.element_size())
        block = _gpu.Block(device, end, extent_bytes)
        memory = _bytes_of(block)
        with torch.no_grad():
            for parameter, offset in zip(parameters, offsets, strict=True):
                place = _place(memory, offset, parameter.data)
                place.copy_(parameter.data)
                parameter.data = place
        total += block.advise()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()  # the old parameters' memory, for other processes
    return total


def _span(tensor: torch.Tensor) -> int:
    """Bytes from a tensor's first element to the end of its last."""
    last = sum(
        (size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True)
    )
    return int((last + 1) * tensor.element_size())


def _declare(tensor: Any) -> None:
    """Makes the tensor's memory writable if it is shared."""
    if isinstance(tensor, list | tuple):
        for one in tensor:
            _declare(one)
        return
    if not isinstance(tensor, torch.Tensor) or tensor.device.type not in ("cuda", "cpu"):
        return
    if tensor.layout != torch.strided or tensor.numel() == 0:
        return
    address = tensor.data_ptr()
    if address and _gpu.block_of(address) is not None:
        _gpu.will_write(address, _span(tensor))


class _Writing(TorchDispatchMode):  # type: ignore[misc]  # PyTorch has no types here
    """Declares what each operator writes, as its schema says: Tensor(a!)."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        for index, argument in enumerate(func._schema.arguments):
            if argument.alias_info is not None and argument.alias_info.is_write:
                _declare(args[index] if index < len(args) else kwargs.get(argument.name))
        return func(*args, **kwargs)


@contextmanager
def writing(model: torch.nn.Module) -> Iterator[torch.nn.Module]:
    """Inside, PyTorch's operators may write to the parameters of a shared model.

    What an operator writes is copied before it runs, and only the extents that it touches.
    Seen are all operators of this thread whose schema says what they write: in-place ones,
    `out=`, optimizers, load_state_dict. Not seen are kernels that no operator stands for,
    and those that torch.compile fused: for these call `writing` outside of the compiled
    function, on operators, or do not share. Costs each operator some Python.
    """
    with _Writing():
        yield model


_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
    **{
        name: getattr(torch, dtype)
        for name, dtype in (("F8_E4M3", "float8_e4m3fn"), ("F8_E5M2", "float8_e5m2"))
        if hasattr(torch, dtype)
    },
}


def _header(file: mmap.mmap, path: Path) -> tuple[dict[str, Any], int]:
    """What a safetensors file says of its tensors, and where their bytes begin."""
    length = int.from_bytes(file[:8], "little")
    if len(file) < 8 or length > len(file) - 8:
        raise ValueError(f"{path}: no safetensors file")
    try:
        header = json.loads(file[8 : 8 + length])
    except ValueError as error:
        raise ValueError(f"{path}: no safetensors file: {error}") from None
    header.pop("__metadata__", None)
    return header, 8 + length


def _check_entry(name: str, entry: dict[str, Any], room: int, path: Path) -> None:
    start, end = entry["data_offsets"]
    if entry["dtype"] not in _DTYPES:
        raise ValueError(f"{path}: {name}: no dtype '{entry['dtype']}' in this PyTorch")
    size = math.prod(entry["shape"]) * torch.empty(0, dtype=_DTYPES[entry["dtype"]]).element_size()
    if not 0 <= start <= end <= room or end - start != size:
        raise ValueError(f"{path}: {name}: its bytes are not where the header says")


def load_safetensors(
    path: str | Path, device: str | torch.device = "cuda", *, extent_bytes: int = 0
) -> dict[str, torch.Tensor]:
    """Loads a file's tensors straight into shared memory of a GPU.

    They go from the page cache to the GPU; there is no copy of them in host memory that
    processes would have to share as well. Every process that loads the same file has the
    same layout, and the GPU holds the file's content once. `model.load_state_dict(tensors,
    assign=True)` puts them in place (PyTorch 2.1).

    Raises OSError (no file, no broker), ValueError (no such file format).
    """
    path = Path(path)
    index = _device_index(torch.device("cpu" if _gpu.is_fake(0) else device))
    with path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_COPY) as file:
        header, start = _header(file, path)
        entries = sorted(header.items(), key=lambda item: (item[1]["data_offsets"], item[0]))
        places: dict[str, int] = {}
        end = 0
        for name, entry in entries:
            _check_entry(name, entry, len(file) - start, path)
            places[name] = end
            end = _round_up(end + entry["data_offsets"][1] - entry["data_offsets"][0])
        block = _gpu.Block(index, max(end, ALIGNMENT), extent_bytes, path.name)
        memory = _bytes_of(block)
        tensors = {}
        source = torch.frombuffer(file, dtype=torch.uint8)
        for name, entry in entries:
            first, last = (start + offset for offset in entry["data_offsets"])
            place = memory[places[name] : places[name] + last - first]
            place.copy_(source[first:last])
            tensors[name] = place.view(_DTYPES[entry["dtype"]]).view(tuple(entry["shape"]))
        if torch.cuda.is_available():
            torch.cuda.synchronize(index)
        del source  # or the file cannot be unmapped
    block.advise()
    return tensors
