"""Best marks: every basis that cannot be told from the best, and nobody where all are alike.

1. Among the rows of a group, those compete that have no reason against it (`no_mark`) and a defined value.
2. The best is the one of the best value. Others are told from it by a paired bootstrap: the 95% interval of their
   difference over the same resamples leaves out 0. What is not reached is infinite there, and equal where neither is
   reached. Where resamples are not the same, intervals must not overlap.
3. Whoever is not told from the best is marked, unless that is everybody, or the value is not finite.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from jaxtyping import Bool, Int

from basisbench.results.bootstrap import estimate_rows
from basisbench.results.metrics import METRICS


def mark_best(table: pd.DataFrame, within: Sequence[str]) -> pd.DataFrame:
    """Mark the best rows of each metric among the rows that agree in the columns `within`.

    Args:
        table: rows of `summarise`, or of `medians.median_table`.
        within: columns that rivals share.

    Returns:
        The same rows with a column `<metric>_best` per metric of `metrics.METRICS`.
    """
    eligible = (table["no_mark"] == "").to_numpy()
    groups = [places[eligible[places]] for places in table.groupby(list(within)).indices.values()]
    marks: dict[str, Bool[np.ndarray, " row"]] = {}
    for name in METRICS:
        marks[f"{name}_best"] = np.zeros(len(table), dtype=bool)
        rows = _Column(table, name)
        for rivals in groups:
            marks[f"{name}_best"][rivals] = rows.best(rivals)
    return table.assign(**marks)


class _Column:
    """The values of a metric with their doubt."""

    def __init__(self, table: pd.DataFrame, name: str) -> None:
        self._name = name
        self._sign = 1.0 if METRICS[name].direction == "lower" else -1.0
        # Seconds are measured once: their interval is the value itself.
        self._interval = f"{name}_low" in table
        ends = (name, f"{name}_low", f"{name}_high") if self._interval else (name,) * 3
        self._value, self._low, self._high = (table[end].to_numpy(dtype=float) for end in ends)
        self._draws = table["draws"].to_list()

    def best(self, rivals: Int[np.ndarray, " rival"]) -> Bool[np.ndarray, " rival"]:
        """Return which of some rows are marked."""
        values = self._sign * self._value[rivals]
        if len(rivals) < 2 or not np.isfinite(values).any():
            return np.zeros(len(rivals), dtype=bool)
        leader = rivals[np.nanargmin(values)]
        alike = np.array([not self._told_apart(row, leader) for row in rivals])
        everybody = alike[~np.isnan(values)].all()
        return np.zeros(len(rivals), dtype=bool) if everybody else alike & np.isfinite(values)

    def _told_apart(self, row: int, leader: int) -> bool:
        """Return whether the difference of two rows lies beyond doubt."""
        a, b = self._draws[row], self._draws[leader]
        if not self._interval or a.pairing != b.pairing:
            return bool(self._low[row] > self._high[leader] or self._high[row] < self._low[leader])
        left, right = a.rows[self._name], b.rows[self._name]
        both = np.isposinf(left) & np.isposinf(right)
        number = estimate_rows(np.where(both, 0.0, left - np.where(both, 0.0, right)))
        return number.excludes_zero
