"""How far the values of a re-run lie from those of a record, and what that says of F(M) and F(0).

Deviations are in units of the gap F(M) - F(0), of 0.1 to 1 logits, less what rounding to five digits makes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Float

from basisbench.results.record import Record
from basisbench.submissions.verification_fields import Deviation, Tolerance

_LEAST_GAP = 0.1
"""Logits. Rounding does not get smaller with the gap: values of a smaller one are held against this."""

_DIGITS = 1e-4
"""How far two roundings of one number to five digits lie apart, relatively."""


def unit_of(record: Record) -> float:
    """Return the unit of deviations, in logits."""
    gap = abs(float(np.mean(record.endpoints.full) - np.mean(record.endpoints.empty)))
    return min(1.0, max(_LEAST_GAP, gap))


def apart(recorded: object, found: object, unit: float) -> Float[np.ndarray, "*shape"]:
    """Return how far numbers of five digits lie apart, in a unit."""
    expected, values = np.asarray(recorded, dtype=np.float64), np.asarray(found, dtype=np.float64)
    deviation: np.ndarray = np.maximum(np.abs(values - expected) - _DIGITS * np.abs(expected), 0.0) / unit
    return deviation


def means_apart(
    expected: Float[np.ndarray, "row example"], values: Float[np.ndarray, "row example"], unit: float
) -> Float[np.ndarray, " row"]:
    """Return how far means over examples lie apart, likewise; what rounding makes of them averages out."""
    digits = _DIGITS * np.abs(expected).mean(1) / np.sqrt(expected.shape[1])
    deviation: np.ndarray = np.maximum(np.abs(values.mean(1) - expected.mean(1)) - digits, 0.0) / unit
    return deviation


def deviation_of(
    recorded: object,
    found: object,
    tolerance: Tolerance,
    unit: float,
    sizes: Sequence[int] | None = None,
    tied: Sequence[int] = (),
) -> Deviation:
    """Say how far values lie apart, [example] or [size][example]."""
    expected, values = np.atleast_2d(np.asarray(recorded)), np.atleast_2d(np.asarray(found))
    deviation = apart(expected, values, unit)
    row, example = np.unravel_index(int(deviation.argmax()), deviation.shape)
    return Deviation(
        values=deviation.size,
        outside=int((deviation > tolerance.value).sum()),
        tied=tuple(tied),
        largest=float(deviation.max()),
        size=None if sizes is None else sizes[int(row)],
        example=int(example),
        mean=float(means_apart(expected, values, unit).max()),
    )


def endpoint_problems(place: str, deviation: Deviation, tolerance: Tolerance) -> Iterator[str]:
    """Yield what is wrong with F(M) or F(0), which depend on no ranking and no unit."""
    if deviation.outside or deviation.mean > tolerance.mean:
        yield (
            f"{place}: {deviation.outside} of {deviation.values} values deviate by more than {tolerance.value:g}, the "
            f"largest by {deviation.largest:.2g} (example {deviation.example}), and their mean by {deviation.mean:.2g}"
        )
