"""What dictionaries leave out, beside what their circuits take: fit, attribution in errors, ceiling, nodes to 80%.

The ceiling is the faithfulness of all features with every error ablated: what the dictionary can do at most by itself.
It is the end of the curve of the same cell under the error policy `ablate`.
"""

from __future__ import annotations

import math

import pandas as pd

from basisbench.results.conditions import CONDITIONS
from basisbench.results.tables import Entry, Table, interval_text, number_text, task_name
from basisbench.types import WITHOUT_ERROR_NODES


def with_ceiling(table: pd.DataFrame) -> pd.DataFrame:
    """Put the ceiling of its dictionary beside every row, as `compare.compare_table` does.

    Args:
        table: rows of `conditions.join_policies`.
    """
    names = (*CONDITIONS, "task", "task_version", "family", "method", "basis")
    alike = [name for name in names if name != "error_policy"]
    ablated = table[(table["error_policy"] == "ablate") & ~table["exact"]].drop_duplicates(alike)
    of_all = ablated[[*alike, "faithfulness_all"]].rename(columns={"faithfulness_all": "ceiling"})
    found = table[alike].merge(of_all, how="left", on=alike)["ceiling"].set_axis(table.index)
    return table.assign(ceiling=found.where(~table["exact"]))


def unexplained_tables(part: pd.DataFrame, method: str) -> list[Table]:
    """Return a table of what dictionaries leave out, none where nothing of it was measured but the fit.

    Args:
        part: rows of one set of conditions, of `compare.compare_table`.
        method: rows of other methods are left out.
    """
    shown = part[(part["method"] == method) & ~part["exact"] & ~part["error_policy"].isin(WITHOUT_ERROR_NODES)]
    if shown[["error_share", "ceiling"]].isna().all(axis=None):
        return []
    rows = []
    for _, row in shown.iterrows():
        fit = (_text(row["fvu_mean"]), _text(row["fvu_max"]), _text(row["error_share"]), _text(row["ceiling"]))
        bound = f">{number_text(row['draws'].bounds['nodes_to_80'], 'nodes_to_80')}"
        nodes = interval_text(float(row["nodes_to_80"]), math.nan, math.nan, "nodes_to_80", bound)
        rows.append(tuple(map(Entry, (task_name(row, part), str(row["basis"]), *fit, nodes))))
    title = f"What dictionaries leave out under {method}, errors in {shown['error_policy'].iloc[0]}"
    measures = ("FVU,\nmean", "FVU,\nworst", "errors' share\nof |scores|", "F without\nerrors", "nodes to\n80%")
    return [Table(title, ("task", "basis", *measures), tuple(rows))]


def _text(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.2f}"
