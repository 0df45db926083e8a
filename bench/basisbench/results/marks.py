"""Best marks: every basis that cannot be told from the best, and nobody where all are alike.

1. Among the rows of a group, those compete that have no reason against it (`no_mark`) and a defined value.
2. The best is the one of the best value. Others are told from it by a paired bootstrap: the 95% interval of their
   difference over the same resamples leaves out 0. Where resamples are not the same, intervals must not overlap.
3. Whoever is not told from the best is marked, unless that is everybody, or the value is not finite.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from jaxtyping import Bool

from basisbench.results.bootstrap import difference_of_rows
from basisbench.results.metrics import METRICS


def mark_best(table: pd.DataFrame, within: Sequence[str]) -> pd.DataFrame:
    """Mark the best rows of each metric among the rows that agree in the columns `within`.

    Args:
        table: rows of `summarise`, or of `medians.median_table`.
        within: columns that rivals share.

    Returns:
        The same rows with a column `<metric>_best` per metric of `metrics.METRICS`.
    """
    marks = {name: np.zeros(len(table), dtype=bool) for name in METRICS}
    eligible = (table["no_mark"] == "").to_numpy()
    for places in table.groupby(list(within)).indices.values():
        rivals = places[eligible[places]]
        for name in METRICS if len(rivals) > 1 else ():
            marks[name][rivals] = _best(table.iloc[rivals], name)
    return table.assign(**{f"{name}_best": marked for name, marked in marks.items()})


def _best(rivals: pd.DataFrame, name: str) -> Bool[np.ndarray, " row"]:
    """Return which of the rivals are marked in a metric."""
    sign = 1.0 if METRICS[name].direction == "lower" else -1.0
    values = sign * rivals[name].to_numpy(dtype=float)
    none = np.zeros(len(values), dtype=bool)
    defined = ~np.isnan(values)
    if not np.isfinite(values).any():
        return none
    best = int(np.nanargmin(values))
    alike = np.array([not _told_apart(rivals, name, row, best) for row in range(len(values))])
    return none if alike[defined].all() else alike & np.isfinite(values)


def _told_apart(rivals: pd.DataFrame, name: str, row: int, best: int) -> bool:
    """Return whether the difference of two rows lies beyond doubt."""
    values = rivals[name].to_numpy(dtype=float)
    if f"{name}_low" not in rivals:  # measured once, as seconds are: told apart where unequal
        return bool(values[row] != values[best])
    a, b = rivals["draws"].iloc[row], rivals["draws"].iloc[best]
    if a.pairing != b.pairing:
        low, high = (rivals[f"{name}_{end}"].to_numpy(dtype=float) for end in ("low", "high"))
        return bool(low[row] > high[best] or high[row] < low[best])
    number = difference_of_rows(a.rows[name], b.rows[name], a.bounds[name], b.bounds[name])
    return number.low > 0 or number.high < 0
