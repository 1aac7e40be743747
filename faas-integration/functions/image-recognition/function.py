# SPDX-License-Identifier: MIT
"""Image recognition: {"image": <JPEG, base64>} -> {"top5": […], "sha256": …}.

What a user would write; it knows nothing of memory merging. The model (MODEL in
the environment: alexnet, resnet50 or tiny) is read by the first request from
WEIGHTS/<model>.pt and kept for the next ones.
"""

from __future__ import annotations

import array
import base64
import contextlib
import hashlib
import io
import os
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import torchvision
from PIL import Image
from torchvision.transforms import functional

SIDE = 224  # pixels, as in the training of these models
# Of ImageNet's channels; torchvision's models are trained on images normalised so.
MEAN = [0.485, 0.456, 0.406]
DEVIATION = [0.229, 0.224, 0.225]
HERE = Path(__file__).resolve().parent

_model: Any = None


def _as_is(*_args: Any, **_more: Any) -> None:
    """In place of first values that the weights replace at once."""


def _tiny() -> Any:
    """4 MiB of weights: for tests, where the large models would take too long."""
    return torch.nn.Sequential(
        torch.nn.AvgPool2d(7), torch.nn.Flatten(), torch.nn.Linear(3 * 32 * 32, 341)
    )


def build(name: str) -> Any:
    """A model without useful weights. Raises ValueError for a name that it does not know."""
    if name == "tiny":
        return _tiny()
    if name not in {"alexnet", "resnet50"}:
        raise ValueError(f"MODEL is {name!r}; it must be alexnet, resnet50 or tiny")
    return getattr(torchvision.models, name)(weights=None)


def _adopt(model: Any, state: dict[str, Any]) -> None:
    """What load_state_dict(assign=True) of PyTorch 2.1 does: no second copy of the weights.

    Raises ValueError if model and weights do not belong together.
    """
    own = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    if own.keys() != state.keys() or any(own[key].shape != state[key].shape for key in own):
        raise ValueError("the weights are not those of the model")
    for key, tensor in own.items():
        tensor.data = state[key]


def load(name: str, weights: Path) -> Any:
    """The model with the weights of that file."""
    with contextlib.ExitStack() as stack:
        for layer in (torch.nn.Linear, torch.nn.Conv2d, torch.nn.BatchNorm2d):
            stack.enter_context(mock.patch.object(layer, "reset_parameters", _as_is))
        stack.enter_context(mock.patch.object(torch.nn.init, "kaiming_normal_", _as_is))
        model = build(name)
    _adopt(model, torch.load(weights))
    return model.eval()


def handler(event: dict[str, Any]) -> dict[str, Any]:
    """The five best classes, and a checksum of the bits of all results.

    The checksum tells whether two answers are the same to the last bit.
    """
    global _model  # noqa: PLW0603  # what a container keeps between requests
    if _model is None:
        torch.set_num_threads(1)
        name = os.environ.get("MODEL", "alexnet")
        _model = load(name, Path(os.environ.get("WEIGHTS", HERE)) / f"{name}.pt")
    with Image.open(io.BytesIO(base64.b64decode(event["image"]))) as image:
        pixels = functional.to_tensor(image.convert("RGB").resize((SIDE, SIDE)))
    batch = functional.normalize(pixels, MEAN, DEVIATION).unsqueeze(0)
    with torch.no_grad():
        results = _model(batch)[0]
    bits = array.array("f", results.tolist()).tobytes()
    return {
        "top5": [int(i) for i in results.topk(5).indices],
        "sha256": hashlib.sha256(bits).hexdigest(),
    }
