"""What records and suites share: a frozen pydantic base and one-line descriptions of what is wrong.

Nothing here imports torch, so that reading results stays quick.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, ValidationInfo

from basisbench.version import __version__

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


def _rounded_row(values: tuple[float, ...], info: ValidationInfo) -> tuple[float, ...]:
    # What a file holds was rounded when it was written: rounding thousands of numbers again triples the time to read.
    return values if info.mode == "json" else tuple(map(round_significant, values))


Rounded = Annotated[float, AfterValidator(round_significant)]
"""A finite float, rounded to five significant digits when the model that holds it is made."""

RoundedRow = Annotated[tuple[float, ...], AfterValidator(_rounded_row)]
"""Finite floats, rounded likewise; those of a file stay as they are."""

PRINTABLE = r"^[^\p{C}\p{Zl}\p{Zp}]*$"
"""Text without control characters, line breaks or marks that change the direction of writing: whatever a stranger
writes into a file can be printed, put into a table or named in a message."""

Name = Annotated[str, Field(min_length=1, max_length=200, pattern=PRINTABLE)]
"""A name, on one line."""

Text = Annotated[str, Field(max_length=2000, pattern=PRINTABLE)]
"""Words on one line; may be empty."""

Hash = Annotated[str, Field(pattern=r"^[0-9a-f]{8,64}$")]
"""A digest in hexadecimal."""

LARGEST = 2**53
"""No whole number of a file is larger: up to here each is a float too, and nothing that is counted comes near."""

Count = Annotated[int, Field(ge=0, le=LARGEST)]
Positive = Annotated[int, Field(ge=1, le=LARGEST)]
NotNegative = Annotated[Rounded, Field(ge=0)]


def _known_version(latest: int) -> Callable[[object], object]:
    def check(value: object) -> object:
        if isinstance(value, bool | float):  # true and 1.0 equal 1 in Python
            raise ValueError(f"input should be {latest}, found {value}")
        if isinstance(value, int) and value > latest:
            found = str(value) if value < 10**9 else "a huge number"
            raise ValueError(
                f"found {found}, but BasisBench {__version__} knows versions up to {latest}; upgrade BasisBench to "
                "read it"
            )
        return value

    return check


VersionOne = Annotated[Literal[1], BeforeValidator(_known_version(1))]
"""The first version of a schema; `true` is none, and a later one is refused with advice."""

VersionTwo = Annotated[Literal[1, 2], BeforeValidator(_known_version(2))]
"""The version of a schema that has two, both of which are read; likewise."""


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
        found = f", found {_quoted(first['input'])}"
    others = len(problems) - 1
    more = f" (and {others} more problem{'s' if others > 1 else ''})" if others else ""
    return printable(f"{place}: {message}{found}{more}" if place else f"{message}{found}{more}")


def _quoted(value: object) -> str:
    """Write a value shortly, whatever it is."""
    try:
        return _shorten(" ".join(repr(value).split()))
    except ValueError:  # a number of more digits than Python writes
        return "a huge number"


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
