"""What records and suites share: a frozen pydantic base and one-line descriptions of what is wrong.

Nothing here imports torch, so that reading results stays quick.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import chain
from typing import Annotated, Literal

import numpy as np
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

SIGNIFICANT_DIGITS = 5

_EXACT_POWERS = 10.0 ** np.arange(23)
"""Powers of ten that a float holds exactly: a product or quotient of such a power and a whole number below 2**53 is
the float nearest to that decimal number."""

_WORTHWHILE = 16
"""From this many numbers on, looking at them together is quicker than one by one."""


def round_significant(value: float) -> float:
    """Round to five significant digits, so that a record stays small and equals its own file.

    Args:
        value: any finite number.

    Returns:
        The nearest number with at most five significant decimal digits.
    """
    rounded = float(f"{value:.{SIGNIFICANT_DIGITS}g}")
    return rounded if math.isfinite(rounded) else value  # the largest floats of all would round up to infinity


def round_row(values: tuple[float, ...]) -> tuple[float, ...]:
    """Round each number as `round_significant` does; quick where they are rounded already, as in every file.

    Args:
        values: finite numbers.
    """
    if len(values) >= _WORTHWHILE and _are_rounded(values):
        return values
    return tuple(map(round_significant, values))


def round_rows(rows: tuple[tuple[float, ...], ...]) -> tuple[tuple[float, ...], ...]:
    """Round each number of each row as `round_significant` does; the rows may differ in length."""
    if _are_rounded(tuple(chain.from_iterable(rows))):
        return rows
    return tuple(map(round_row, rows))


def _are_rounded(values: Sequence[float]) -> bool:
    """Tell whether all numbers have at most five significant digits; a few that have may count as having more.

    Each is taken apart into a whole number below 10**5 and a power of ten, and put together again.
    """
    numbers = np.abs(np.fromiter(values, np.float64, len(values)))
    numbers = numbers[numbers > 0]
    shift = np.int64(SIGNIFICANT_DIGITS - 1) - np.floor(np.log10(numbers)).astype(np.int64)
    if len(shift) and np.abs(shift).max() >= len(_EXACT_POWERS):
        return False
    powers = _EXACT_POWERS[np.abs(shift)]
    whole = np.rint(np.where(shift >= 0, numbers * powers, numbers / powers))
    return bool((np.where(shift >= 0, whole / powers, whole * powers) == numbers).all())


Rounded = Annotated[float, AfterValidator(round_significant)]
"""A finite float, rounded to five significant digits when the model that holds it is made."""

RoundedRow = Annotated[tuple[float, ...], AfterValidator(round_row)]
"""Finite floats, rounded likewise."""

RoundedRows = Annotated[tuple[tuple[float, ...], ...], AfterValidator(round_rows)]
"""Rows of finite floats, rounded likewise."""

PRINTABLE = r"^[^\p{C}\p{Zl}\p{Zp}]*$"
"""Text without control characters, line breaks or marks that change the direction of writing: whatever a stranger
writes into a file can be printed, put into a table or named in a message."""

Name = Annotated[str, Field(min_length=1, max_length=200, pattern=PRINTABLE)]
"""A name, on one line."""

Text = Annotated[str, Field(max_length=2000, pattern=PRINTABLE)]
"""Words on one line; may be empty."""

LARGEST = 2**53
"""No whole number of a file is larger: up to here each is a float too, and nothing that is counted comes near."""

Count = Annotated[int, Field(ge=0, le=LARGEST)]
Positive = Annotated[int, Field(ge=1, le=LARGEST)]
NotNegative = Annotated[Rounded, Field(ge=0)]


def _no_truth_value(value: object) -> object:
    if isinstance(value, bool):  # true equals 1 in Python
        raise ValueError(f"input should be 1, found {value}")
    return value


VersionOne = Annotated[Literal[1], BeforeValidator(_no_truth_value)]
"""The first version of a schema, which `true` is not."""


class Frozen(BaseModel):
    """Base of everything stored: immutable, no unknown fields, no NaN and no infinity."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, protected_namespaces=())


def describe_problem(error: ValidationError) -> str:
    """Say in one line which field is wrong, what was expected and what was found.

    Args:
        error: what pydantic raised; its first problem is described, the others are counted.

    Returns:
        For example ``curve.circuit[3][17]: input should be a finite number, found nan``.
    """
    problems = error.errors(include_url=False)
    first = problems[0]
    place = _field_path(first["loc"])
    message = first["msg"].removeprefix("Value error, ")
    if message[:2] != message[:2].upper():
        message = message[0].lower() + message[1:]
    if first.get("ctx", {}).get("pattern") == PRINTABLE:
        message = "expected printable text on one line"
    found = ""
    if first["type"] not in {"missing", "json_invalid", "value_error"}:
        found = f", found {_shorten(' '.join(repr(first['input']).split()))}"
    others = len(problems) - 1
    more = f" (and {others} more problem{'s' if others > 1 else ''})" if others else ""
    return printable(f"{place}: {message}{found}{more}" if place else f"{message}{found}{more}")


def printable(text: str) -> str:
    """Write what cannot be printed on one line, or would change how a terminal prints the rest, as an escape."""
    return text if text.isprintable() else "".join(x if x.isprintable() else repr(x)[1:-1] for x in text)


def _field_path(location: tuple[int | str, ...]) -> str:
    """Write a pydantic location as a path: ``("curve", "circuit", 3)`` becomes ``curve.circuit[3]``."""
    path = ""
    for step in location:
        if isinstance(step, int):
            path += f"[{step}]"
        else:
            path += f".{_shorten(step)}" if path else _shorten(step)
    return path


def _shorten(text: str, limit: int = 60) -> str:
    """Keep a quoted value on one line of bearable length."""
    return text if len(text) <= limit else text[: limit - 3] + "..."
