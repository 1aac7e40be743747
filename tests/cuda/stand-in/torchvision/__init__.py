# SPDX-License-Identifier: MIT
"""As much of torchvision as serve.py uses."""

from . import models

__all__ = ["models"]
