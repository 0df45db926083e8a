"""Which cells may stand side by side, in which order, and under which title.

Two cells are comparable when they agree in everything but task, basis and method. The columns that must agree are
`SETTING`; tables and pictures are made per setting, and their titles state it.
"""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from basisbench.errors import RecordError
from basisbench.types import FAMILIES

SETTING = (
    "model",
    "model_hash",
    "basisbench",
    "ablation",
    "error_policy",
    "granularity",
    "ranking",
    "size_grid",
    "seed",
    "attribution_pairs",
    "evaluation_pairs",
)
"""Columns that must agree before two cells are put side by side; tasks are told apart by name and version besides."""

NEURONS_FIRST = ("mlp_act", "mlp_out", "resid", "attn_out", "mlp_act_rotated")
"""Raw neurons lead every table and legend, then their control; other bases follow in alphabetical order."""

METHOD_ORDER = ("relp", "ig", "ig_inputs", "ixg", "patching", "magnitude", "random")
"""Order of the built-in methods in tables and legends; others follow in alphabetical order."""


def basis_order(name: str) -> tuple[int, str]:
    """Return the sort key of a basis: raw neurons first, then the rotated control, then the rest by name."""
    bare = name.split(" ")[0]
    if bare in NEURONS_FIRST:
        return (NEURONS_FIRST.index(bare), name)
    return (-1 if bare.startswith("neurons") else len(NEURONS_FIRST), name)


def family_order(name: str) -> int:
    """Return the sort key of a site family."""
    families: tuple[str, ...] = FAMILIES
    return families.index(name) if name in families else len(families)


def method_order(name: str) -> tuple[int, str]:
    """Return the sort key of a method."""
    return (METHOD_ORDER.index(name) if name in METHOD_ORDER else len(METHOD_ORDER), name)


def default_method(frame: pd.DataFrame) -> str:
    """Return the method that pictures and details show when none is asked for: relp, else the first in order."""
    return min(unique(frame, "method"), key=method_order)


def unique(frame: pd.DataFrame, column: str) -> list[str]:
    """Return the distinct values of a column as text, in order of appearance."""
    return [str(value) for value in frame[column].drop_duplicates()]


def split_settings(frame: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """Split a frame of results into comparable parts, each with a title that states its setting.

    Args:
        frame: what `load_results` or `summarise` returned.

    Returns:
        (title, part) for each setting; titles differ from each other, and name the version of BasisBench where there
        is more than one.

    Raises:
        RecordError: two cells of one setting agree in task, basis and method too, so that a picture would mix them.
    """
    parts = [part for _, part in frame.groupby(list(SETTING), sort=True)]
    for part in parts:
        _refuse_mixtures(part)
    titles = [_title(part, in_full=False) for part in parts]
    if len(set(titles)) < len(titles) or frame["basisbench"].nunique() > 1:
        titles = [_title(part, in_full=True) for part in parts]
    return list(zip(titles, parts, strict=True))


def examples_text(frame: pd.DataFrame) -> str:
    """Return the number of evaluation examples behind each value, for example "n = 100" or "n = 64 to 100"."""
    low, high = int(frame["examples"].min()), int(frame["examples"].max())
    return f"n = {low}" if low == high else f"n = {low} to {high}"


def _title(part: pd.DataFrame, *, in_full: bool) -> str:
    first = part.iloc[0]
    pieces = [
        str(first["model"]),
        f"{first['ablation']} ablation",
        f"error policy {first['error_policy']}",
        f"granularity {first['granularity']}",
        f"seed {first['seed']}",
        f"{examples_text(part)} examples",
    ]
    if in_full:
        pieces += [
            f"weights {first['model_hash']}",
            f"BasisBench {first['basisbench']}",
            f"pairs {first['attribution_pairs']}/{first['evaluation_pairs']}",
            f"ranking {first['ranking']}",
            f"sizes {first['size_grid']}",
        ]
    return ", ".join(pieces)


def _refuse_mixtures(part: pd.DataFrame) -> None:
    keys: Sequence[str] = ("task", "task_version", "basis", "method")
    cells = part.drop_duplicates("cell_id")
    repeated = cells[cells.duplicated(list(keys))]
    if len(repeated):
        first = repeated.iloc[0]
        raise RecordError(
            f"two cells for task {first['task']}, basis {first['basis']}, method {first['method']} differ only in "
            "their data; read the results folders one at a time"
        )
