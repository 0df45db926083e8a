"""Error policies that share a picture: what becomes of a dictionary's errors changes its curve, and is shown beside it.

A dictionary's own line is that of the policy `coordinates`. Beside it stand the same cells with the whole error of a
layer and position as one node (`node`, after Marks et al. 2025: `basisbench.attribution.error_nodes`), and with errors
always at their reference (`ablate`): what its features can do at most. Neurons leave no error and have one line.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Bool

from basisbench.results.conditions import CONDITIONS, split_conditions

MAIN = "coordinates"
BESIDE = ("node", "ablate")

_TWINS = [*(name for name in CONDITIONS if name != "error_policy"), "task", "task_version", "family", "basis", "method"]


@dataclass(frozen=True, eq=False)
class Part:
    """One set of conditions, with the cells that may stand beside it.

    Attributes:
        title: states the conditions.
        rows: cells of the set.
        beside: the same cells under the policies of `BESIDE`; only where those of the set are under `MAIN`.
    """

    title: str
    rows: pd.DataFrame
    beside: pd.DataFrame


def split_with_policies(frame: pd.DataFrame) -> list[Part]:
    """Split a frame as `split_conditions` does, and put cells under other error policies beside their own.

    Args:
        frame: what `load_results` or `summarise` returned.

    Returns:
        The sets of conditions; one whose dictionaries all stand beside those of another set is left out.

    Raises:
        RecordError: as in `split_conditions`.
    """
    parts = [(title, rows, str(rows["error_policy"].iloc[0])) for title, rows in split_conditions(frame)]
    others = [rows[~rows["exact"]] for _, rows, policy in parts if policy in BESIDE]
    mains = [rows for _, rows, policy in parts if policy == MAIN]
    found: list[Part] = []
    for title, rows, policy in parts:
        if policy == MAIN:
            beside = pd.concat([rows.iloc[:0], *(other[_twins(other, [rows])] for other in others)])
            found.append(Part(title, rows, beside))
        elif policy not in BESIDE or rows["exact"].all() or not _twins(rows[~rows["exact"]], mains).all():
            found.append(Part(title, rows, rows.iloc[:0]))
    return found


def _twins(cells: pd.DataFrame, mains: Sequence[pd.DataFrame]) -> Bool[np.ndarray, " row"]:
    """Return which cells differ from one of the main ones in the error policy alone."""
    known = pd.concat([rows[_TWINS] for rows in mains]) if mains else cells[_TWINS].iloc[:0]
    return np.asarray(pd.MultiIndex.from_frame(cells[_TWINS]).isin(pd.MultiIndex.from_frame(known)))
