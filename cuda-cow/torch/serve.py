#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Serves one model from N processes that hold its weights on the GPU once.

    upm-cudad --socket /tmp/upm-cudad.sock &
    UPM_CUDA_SOCKET=/tmp/upm-cudad.sock cuda-cow/torch/serve.py --processes 4

Needs PyTorch 2.5 or newer (torch.cuda.MemPool), torchvision and a GPU. The weights go
into a memory pool on libupm-cuda-torch.so, everything else into PyTorch's own
allocator, and only the pool is advised. Has not been run on a GPU yet, only on the fake
driver with a stand-in for PyTorch (tests/cuda/serve_test.py).
"""

import argparse
import ctypes
import json
import multiprocessing
import os
import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

LIBRARY = Path(__file__).resolve().parents[2] / "build/lib/libupm-cuda-torch.so"
WAIT_SECONDS = 600


class Counts(ctypes.Structure):
    """struct upm_cuda_torch_counts of allocator.cpp."""

    _fields_ = (
        ("blocks", ctypes.c_ulonglong),
        ("extents", ctypes.c_ulonglong),
        ("merged", ctypes.c_ulonglong),
        ("published", ctypes.c_ulonglong),
        ("already", ctypes.c_ulonglong),
        ("refused", ctypes.c_ulonglong),
        ("different", ctypes.c_ulonglong),
        ("bytes", ctypes.c_ulonglong),
    )

    def as_dict(self) -> dict[str, int]:
        """Fields by name."""
        return {field[0]: getattr(self, field[0]) for field in self._fields_}


class Weights:
    """The pool for weights. Raises OSError if the library is not built."""

    def __init__(self, library: Path) -> None:
        import torch  # only in the workers: CUDA does not survive fork

        self._library = ctypes.CDLL(str(library))
        self._library.upm_cuda_torch_error.restype = ctypes.c_char_p
        # Both must live as long as any tensor in the pool.
        self._allocator = torch.cuda.memory.CUDAPluggableAllocator(
            str(library), "upm_cuda_torch_malloc", "upm_cuda_torch_free"
        )
        self.pool = torch.cuda.MemPool(self._allocator.allocator())

    def advise(self) -> dict[str, int]:
        """Shares all blocks of the pool; what was done, in counts. Raises OSError."""
        counts = Counts()
        error = self._library.upm_cuda_torch_advise(ctypes.byref(counts))
        if error:
            raise OSError(error, self._library.upm_cuda_torch_error().decode())
        return counts.as_dict()


def obstacle(arguments: argparse.Namespace) -> str | None:
    """Why the example cannot run here, in one line; None if nothing is known against it.

    Asked in a process of its own: a parent that has used CUDA is no good to its children.
    """
    if not arguments.library.is_file():
        return f"no {arguments.library}: run 'make user' first, or give --library"
    return obstacle_of_pytorch(arguments.model) or obstacle_of_broker()


def obstacle_of_pytorch(model: str) -> str | None:
    """Why PyTorch cannot serve this model here."""
    try:
        import torch
        import torchvision
    except ImportError as error:
        return f"PyTorch and torchvision are needed: {error}"
    if not hasattr(torch.cuda, "MemPool"):
        return f"PyTorch {torch.__version__} has no torch.cuda.MemPool: 2.5 is needed"
    if not torch.cuda.is_available():
        return "PyTorch finds no CUDA device"
    if not callable(getattr(torchvision.models, model, None)):
        return f"torchvision.models has no '{model}'"
    return None


def obstacle_of_broker() -> str | None:
    """Why the broker cannot be used."""
    folder = os.environ.get("XDG_RUNTIME_DIR") or "/run"
    path = os.environ.get("UPM_CUDA_SOCKET") or f"{folder}/upm-cudad.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as broker:
        try:
            broker.connect(path)
        except OSError as error:
            return f"no upm-cudad at {path} ({error.strerror}): start it with --socket {path}"
    return None


def serve(index: int, arguments: argparse.Namespace, results: Any, loaded: Any) -> None:
    """One process: load, share, answer, report."""
    import torch
    import torchvision

    try:
        torch.manual_seed(0)  # random weights, but the same in each process
        model = getattr(torchvision.models, arguments.model)(weights=None).eval()
        weights = Weights(arguments.library)
        with torch.cuda.use_mem_pool(weights.pool):
            model = model.to("cuda")
        torch.cuda.synchronize()
        counts = weights.advise()
        loaded.wait(WAIT_SECONDS)  # measured when all of them have shared
        with torch.no_grad():
            image = torch.ones(1, 3, 224, 224, device="cuda")
            answer = float(model(image).sum())
        free, total = torch.cuda.mem_get_info()
        results.put({"process": index, "advise": counts, "answer": answer, "used": total - free})
        loaded.wait(WAIT_SECONDS)
    except BaseException:
        loaded.abort()  # or the others would wait for this one
        raise


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--processes", type=int, default=4)
    parser.add_argument("--model", default="resnet50", help="a function of torchvision.models")
    parser.add_argument("--library", type=Path, default=LIBRARY)
    parsed = parser.parse_args(arguments)
    if parsed.processes < 1:
        parser.error(f"--processes {parsed.processes}: at least 1 is needed")
    return parsed


def main(arguments: Sequence[str] | None = None) -> int:
    """Starts the processes and prints their reports.

    1: one failed, or their answers differ; 4: cannot run here, with the reason.
    """
    parsed = parse(arguments)
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as pool:
        reason = pool.apply(obstacle, (parsed,))
    if reason is not None:
        print(f"serve.py: {reason}", file=sys.stderr)
        return 4
    results = context.Queue()
    loaded = context.Barrier(parsed.processes)
    workers = [
        context.Process(target=serve, args=(index, parsed, results, loaded))
        for index in range(parsed.processes)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    if any(worker.exitcode for worker in workers):
        print("serve.py: a process failed; its message is above", file=sys.stderr)
        return 1
    reports = [results.get() for _ in workers]
    print(json.dumps(sorted(reports, key=lambda report: int(report["process"])), indent=2))
    return 0 if len({report["answer"] for report in reports}) == 1 else 1


if __name__ == "__main__":
    sys.exit(main())
