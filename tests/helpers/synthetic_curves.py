"""Made-up values of curves, for tests of what is read from them."""

from __future__ import annotations

import numpy as np

from basisbench.results.metrics import (
    CurveValues,
)

SIZES = (0, 1, 2, 5, 10, 20, 50, 100)


def rows(*values: float) -> np.ndarray:
    return np.array([values])


def curve_values(faithfulness: np.ndarray, *, examples: int = 40, noise: float = 0.5, seed: int = 0) -> CurveValues:
    """Per-example values whose mean follows `faithfulness` on `SIZES`."""
    generator = np.random.default_rng(seed)
    empty = generator.normal(-1, 1, examples)
    full = empty + generator.normal(5, 1, examples)
    spread = generator.normal(0, noise, (examples, len(SIZES)))
    spread -= spread.mean(axis=0)
    circuit = empty[:, None] + faithfulness * (full - empty).mean() + spread
    return CurveValues(SIZES, SIZES[-1], full, empty, circuit, circuit[:, ::-1])
