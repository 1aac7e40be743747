# SPDX-License-Identifier: MIT
"""What the tests of bench/figures share: their own helper, and that of faas-integration."""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BENCH = ROOT / "bench"

sys.path[:0] = [str(ROOT / "tests" / "faas-integration"), str(BENCH)]

import support  # noqa: E402, F401  # brings faas
