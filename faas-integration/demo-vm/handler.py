# SPDX-License-Identifier: MIT
"""The function: image recognition with AlexNet, as a function container runs it.

It knows nothing of memory merging but for `weights()`, which names what is
worth sharing. The model is loaded by the first request and kept for the next.
"""

from __future__ import annotations

import array
import hashlib
from pathlib import Path
from typing import Any

import torch
import torchvision
from PIL import Image
from torchvision.transforms import functional

SIDE = 224  # pixels, as in the training of AlexNet
# Of ImageNet's channels; torchvision's models are trained on images normalised so.
MEAN = [0.485, 0.456, 0.406]
DEVIATION = [0.229, 0.224, 0.225]

_model: Any = None


def _without_first_values(module: Any) -> None:
    """In place of reset_parameters(): load_state_dict() overwrites all of them.

    61 million random numbers would take a minute under emulation.
    """


def load(weights_path: Path) -> None:
    """Makes the model and copies the weights of the file into its memory."""
    global _model  # noqa: PLW0603  # what a container keeps between requests
    torch.set_num_threads(1)
    torch.nn.Linear.reset_parameters = _without_first_values
    torch.nn.Conv2d.reset_parameters = _without_first_values
    model = torchvision.models.alexnet(weights=None)
    model.load_state_dict(torch.load(weights_path))
    _model = model.eval()


def weights() -> list[tuple[int, int]]:
    """Address and length in bytes of each tensor of the loaded model."""
    found = []
    for tensor in _model.state_dict().values():
        storage = tensor.storage()
        found.append((int(storage.data_ptr()), int(storage.nbytes())))
    return found


def handler(event: dict[str, str]) -> dict[str, Any]:
    """Recognises the image at `event["image"]`; loads `event["weights"]` once.

    Returns the five best classes and a checksum over the bits of all 1000
    results, by which two answers can be compared.
    """
    if _model is None:
        load(Path(event["weights"]))
    with Image.open(event["image"]) as image:
        pixels = functional.to_tensor(image.convert("RGB").resize((SIDE, SIDE)))
    batch = functional.normalize(pixels, MEAN, DEVIATION).unsqueeze(0)
    with torch.no_grad():
        logits = _model(batch)[0]
    bits = array.array("f", logits.tolist()).tobytes()
    return {
        "top5": [int(i) for i in logits.topk(5).indices],
        "sha256": hashlib.sha256(bits).hexdigest(),
    }
