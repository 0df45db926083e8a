"""What records and suites share: a frozen pydantic base and one-line descriptions of what is wrong.

Nothing here imports torch, so that reading results stays quick.
"""

from __future__ import annotations

import math
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError

SIGNIFICANT_DIGITS = 5


def round_significant(value: float) -> float:
    """Round to five significant digits, so that a record stays small and equals its own file.

    Args:
        value: any finite number.

    Returns:
        The nearest number with at most five significant decimal digits.
    """
    rounded = float(f"{value:.{SIGNIFICANT_DIGITS}g}")
    return rounded if math.isfinite(rounded) else value  # the largest floats of all would round up to infinity


Rounded = Annotated[float, AfterValidator(round_significant)]
"""A finite float, rounded to five significant digits when the model that holds it is made."""


class Frozen(BaseModel):
    """Base of everything stored: immutable, no unknown fields, no NaN and no infinity."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, protected_namespaces=())


def describe_problem(error: ValidationError) -> str:
    """Say in one line which field is wrong, what was expected and what was found.

    Args:
        error: what pydantic raised; its first problem is told, the others are counted.

    Returns:
        For example ``curve.circuit[3][17]: input should be a finite number, found nan``.
    """
    problems = error.errors(include_url=False)
    first = problems[0]
    place = _field_path(first["loc"])
    message = first["msg"].removeprefix("Value error, ")
    if message[:2] != message[:2].upper():
        message = message[0].lower() + message[1:]
    found = ""
    if first["type"] not in {"missing", "json_invalid", "value_error"}:
        found = f", found {_shorten(repr(first['input']))}"
    others = len(problems) - 1
    more = f" (and {others} more problem{'s' if others > 1 else ''})" if others else ""
    return f"{place}: {message}{found}{more}" if place else f"{message}{found}{more}"


def _field_path(location: tuple[int | str, ...]) -> str:
    """Write a pydantic location as a path: ``("curve", "circuit", 3)`` becomes ``curve.circuit[3]``."""
    path = ""
    for step in location:
        if isinstance(step, int):
            path += f"[{step}]"
        else:
            path += f".{step}" if path else step
    return path


def _shorten(text: str, limit: int = 60) -> str:
    """Keep a quoted value on one line of bearable length."""
    text = " ".join(text.split())
    return text if len(text) <= limit else text[: limit - 3] + "..."
