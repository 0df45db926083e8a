"""Where bases and methods stand in tables and legends, and which styles they declare.

The harness knows no basis and no method by name: each declares its place and its style, `Registry.display` collects
them, and tables, pictures and the page are given what it collected. What declares nothing comes last, by name.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from basisbench.types import FAMILIES, Style

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Display:
    """What bases and methods declare of their display, by name.

    Attributes:
        basis_places: places of bases, small numbers first.
        method_places: places of methods.
        basis_styles: styles of the bases that declare one.
        method_styles: styles of the methods that declare one.
    """

    basis_places: Mapping[str, float] = field(default_factory=dict)
    method_places: Mapping[str, float] = field(default_factory=dict)
    basis_styles: Mapping[str, Style] = field(default_factory=dict)
    method_styles: Mapping[str, Style] = field(default_factory=dict)

    def basis_order(self, name: str) -> tuple[float, str]:
        """Return the sort key of a basis; its name may have words behind it that tell it from another of that name."""
        declared = next((known for known in self.basis_places if name.startswith(f"{known} ")), name)
        return (self.basis_places.get(name, self.basis_places.get(declared, math.inf)), name)

    def method_order(self, name: str) -> tuple[float, str]:
        """Return the sort key of a method."""
        return (self.method_places.get(name, math.inf), name)

    def first_method(self, frame: pd.DataFrame) -> str:
        """Return the method that pictures and details show when none is asked for: the first of those in a frame."""
        return min(unique(frame, "method"), key=self.method_order)


def family_order(name: str) -> int:
    """Return the sort key of a site family."""
    families: tuple[str, ...] = FAMILIES
    return families.index(name) if name in families else len(families)


def unique(frame: pd.DataFrame, column: str) -> list[str]:
    """Return the distinct values of a column as text, in order of appearance."""
    return [str(value) for value in frame[column].drop_duplicates()]
