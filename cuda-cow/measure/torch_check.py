#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""PyTorch with shared parameters, as `run` checks it: torch_check.py torch|torch_hook [--fake]

`torch`: N processes share the parameters of one model, answer alike, and one of them
writes. `torch_hook`: one process under the preload hook replays a CUDA graph. Prints JSON.
Exit status 4: PyTorch or its GPU is missing here.
"""

import argparse
import contextlib
import importlib.util
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

HERE = Path(__file__).resolve().parent
BUNDLED = (HERE / "bin").exists()
PYTHON = HERE / "python" if BUNDLED else HERE.parents[1] / "python"
LIBRARIES = HERE / "lib" if BUNDLED else HERE.parents[1] / "build/lib"


def import_upm_torch() -> Any:
    """upm.torch, without the rest of the package, which is built for one Python."""
    os.environ.setdefault("UPM_CUDA_LIBRARY", str(LIBRARIES / "libupm-cuda.so.0"))
    for name in ("upm", "upm._gpu", "upm.torch"):
        if name == "upm":
            spec = importlib.util.spec_from_loader(name, None, is_package=True)
        else:
            path = PYTHON / f"{name.replace('.', '/')}.py"
            spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        if spec.loader is not None:
            spec.loader.exec_module(module)
            setattr(sys.modules["upm"], name.rpartition(".")[2], module)
    return sys.modules["upm.torch"]


def obstacle(fake: bool) -> str | None:
    """Why PyTorch cannot be used here; None if it can."""
    try:
        import torch
    except ImportError as error:
        return f"no PyTorch: {error}"
    if not fake and not torch.cuda.is_available():
        return "PyTorch finds no CUDA device"
    return None


def make_model(fake: bool) -> Any:
    """A model of linear layers with the same random weights in every process."""
    import torch

    width, layers = (256, 4) if fake else (8192, 16)
    dtype, device = (torch.float32, "cpu") if fake else (torch.float16, "cuda")
    torch.manual_seed(0)
    made = [torch.nn.Linear(width, width, device=device, dtype=dtype) for _ in range(layers)]
    return torch.nn.Sequential(*made).eval()


def answer(model: Any) -> float:
    """One inference."""
    import torch

    weight = model[0].weight
    with torch.no_grad():
        image = torch.ones(1, weight.shape[1], device=weight.device, dtype=weight.dtype)
        return float(model(image).float().sum())


def milliseconds(work: Callable[[], object]) -> float:
    """How long something takes, the GPU's part included."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()
    since = time.perf_counter()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return round((time.perf_counter() - since) * 1000, 3)


def scale(sharing: Any, tensor: Any) -> None:
    """A write under `writing`."""
    with sharing.writing(None):
        tensor.mul_(0.5)


def child(fake: bool) -> int:
    """A process that shares: says what it did, and once all have, what it answers."""
    import torch

    sharing = import_upm_torch()
    model = make_model(fake)
    before = answer(model)
    counts: list[Any] = []
    took = milliseconds(lambda: counts.append(sharing.share(model)))
    said = {"advise": counts[0]._asdict(), "share_ms": took, "same": answer(model) == before}
    print(json.dumps(said), flush=True)
    writes = sys.stdin.readline().strip() == "write"
    used = 0
    if not fake:
        free, total = torch.cuda.mem_get_info()
        used = total - free
    done: dict[str, Any] = {"used": used}
    if writes:
        # What PyTorch loads when it first meets such a mode, and such a kernel.
        private = torch.ones_like(model[0].weight)
        with torch.no_grad():
            done["first_use_of_writing_ms"] = milliseconds(lambda: scale(sharing, private))
        with torch.no_grad(), sharing.writing(model):
            for name in ("first_write_ms", "second_write_ms"):
                done[name] = milliseconds(lambda: model[0].weight.mul_(0.5))
    print(json.dumps({"answer": answer(model), **done}), flush=True)
    sys.stdin.readline()
    return 0


def processes(count: int, fake: bool) -> int:
    """N processes; 0 if the one that wrote answers differently and all others alike."""
    command = [sys.executable, __file__, "child"] + (["--fake"] if fake else [])
    children = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(count)
    ]
    said: list[dict[str, Any]] = []
    for one in children:
        assert one.stdout is not None
        said.append(json.loads(one.stdout.readline() or "{}"))
    for index, one in enumerate(children):
        assert one.stdin is not None and one.stdout is not None
        with contextlib.suppress(OSError):
            one.stdin.write("write\n" if index == 0 else "read\n")
            one.stdin.flush()
        said[index].update(json.loads(one.stdout.readline() or "{}"))
        print(json.dumps({"processes": said[: index + 1]}), flush=True)
    for one in children:
        one.communicate("end\n")
    answers = [one.get("answer") for one in said]
    well = all(one.get("same") for one in said) and None not in answers
    return 0 if well and answers[0] != answers[1] and len(set(answers[1:])) == 1 else 1


def under_hook() -> NoReturn:
    """A graph that reads shared parameters, and operators that write, under the hook."""
    import torch

    sharing = import_upm_torch()
    model = make_model(False)
    counts = sharing.share(model)
    image = torch.ones(1, 8192, device="cuda", dtype=torch.float16)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.no_grad(), torch.cuda.stream(stream):
        expected = model(image)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.no_grad(), torch.cuda.graph(graph):
        found = model(image)
    graph.replay()
    torch.cuda.synchronize()
    said: dict[str, Any] = {
        "advise": counts._asdict(),
        "graph_same": bool(torch.equal(found, expected)),
    }
    print(json.dumps(said), flush=True)
    # A copy, whose destination the hook sees; the graph reads what is there then.
    other = torch.randn_like(model[0].weight)
    with torch.no_grad():
        for name in ("first_copy_ms", "second_copy_ms"):
            said[name] = milliseconds(lambda: model[0].weight.copy_(other))
        expected = model(image)
    graph.replay()
    torch.cuda.synchronize()
    said["written"] = bool(torch.equal(model[0].weight, other))
    said["graph_follows"] = bool(torch.equal(found, expected))
    print(json.dumps(said), flush=True)
    # Last, since it loses the context: a kernel that nothing declares.
    try:
        with torch.no_grad():
            model[1].weight.mul_(0.5)
            torch.cuda.synchronize()
        said["undeclared_write"] = "no error"
    except RuntimeError as error:
        said["undeclared_write"] = str(error).partition("\n")[0]
    print(json.dumps(said), flush=True)
    well = said["graph_same"] and said["written"] and said["graph_follows"]
    os._exit(0 if well and "illegal" in said["undeclared_write"] else 1)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs what was asked for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("what", choices=("torch", "torch_hook", "child"))
    parser.add_argument("--fake", action="store_true")
    parser.add_argument("--processes", type=int, default=4)
    parsed = parser.parse_args(arguments)
    if parsed.what == "child":
        return child(parsed.fake)
    reason = obstacle(parsed.fake)
    if parsed.what == "torch_hook" and parsed.fake:
        reason = reason or "the fake has no GPU for PyTorch to use"
    if reason is not None:
        print(f"torch_check.py: {reason}", file=sys.stderr)
        return 4
    if parsed.what == "torch":
        return processes(parsed.processes, parsed.fake)
    hook = str(LIBRARIES / "libupm-cuda-preload.so")
    if hook not in os.environ.get("LD_PRELOAD", ""):
        os.environ["LD_PRELOAD"] = hook
        os.execv(sys.executable, [sys.executable, __file__, "torch_hook"])
    under_hook()


if __name__ == "__main__":
    sys.exit(main())
