"""A property, how it is measured, and what came out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, Literal, TypeVar

from basisbench.errors import BasisBenchError

Outcome = Literal["ok", "FAILED", "info"]
Stage = TypeVar("Stage", contravariant=True)

_LONGEST = 1000
"""Characters of a message that a line shows: enough for paths with the reason behind them."""


@dataclass(frozen=True)
class Finding:
    """What measuring a property gave.

    Attributes:
        measured: the measured value, as text.
        bound: what it had to be, as text; empty for information.
        outcome: "ok", "FAILED", or "info" where nothing was asked of it or it could not be measured.
    """

    measured: str
    bound: str
    outcome: Outcome


@dataclass(frozen=True)
class Property(Finding):
    """One line of a report: a finding, and what it is about.

    Attributes:
        thing: kind and name of what was checked, for example "basis mlp_act".
        name: the property in a word or two, for example "decode: affine".
        promise: the property as a sentence.
    """

    thing: str
    name: str
    promise: str

    @property
    def holds(self) -> bool:
        """False only for a property that failed."""
        return self.outcome != "FAILED"

    def __str__(self) -> str:
        bound = f" ({self.bound})" if self.bound else ""
        return f"{self.outcome:<6}  {self.name}: {self.promise}: {self.measured}{bound}"


@dataclass(frozen=True)
class Check(Generic[Stage]):
    """How one property is measured.

    Attributes:
        name: the property in a word or two.
        promise: the property as a sentence.
        measure: measures it on a stage.
    """

    name: str
    promise: str
    measure: Callable[[Stage], Finding]


def run_checks(thing: str, checks: Iterable[Check[Stage]], stage: Stage) -> Iterator[Property]:
    """Measure properties one after another; an exception of the thing that is checked is a failed property.

    Args:
        thing: kind and name of what is checked.
        checks: the properties.
        stage: what they are measured on.
    """
    for check in checks:
        try:
            found = check.measure(stage)
        except (Exception, SystemExit) as error:
            found = Finding(_told(error), "no exception", "FAILED")
        yield Property(found.measured, found.bound, found.outcome, thing, check.name, check.promise)


def _told(error: BaseException) -> str:
    """Return an exception as one line."""
    kind = "" if isinstance(error, BasisBenchError) else f"{type(error).__name__}: "
    return _shortened(f"{kind}{' '.join(str(error).split())}")


def _shortened(text: str) -> str:
    """Leave out the middle of a text that is too long for a line: what it is about comes first, the reason last."""
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 304]} ... {text[-300:]}"


def at_most(value: float, bound: float, what: str) -> Finding:
    """Hold a number to an upper bound; a value that is not a number fails."""
    return Finding(f"{what} {value:.3g}", f"at most {bound:.3g}", "ok" if value <= bound else "FAILED")


def nothing(found: Sequence[object], what: str) -> Finding:
    """Hold that a list is empty; the first entries are shown where it is not."""
    shown = ", ".join(map(str, found[:3])) + (", ..." if len(found) > 3 else "")
    text = f"{len(found)} {what}" + (f": {shown}" if found else "")
    return Finding(_shortened(text), "none", "FAILED" if found else "ok")


def holds(true: bool, measured: str, bound: str) -> Finding:
    """Hold that something is so."""
    return Finding(_shortened(measured), bound, "ok" if true else "FAILED")


def information(measured: str) -> Finding:
    """Tell a value of which nothing is asked."""
    return Finding(_shortened(measured), "", "info")
