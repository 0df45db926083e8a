"""What other attribution pairs alone change: nodes to 80%, curve and best nodes of a cell over attribution draws."""

from __future__ import annotations

from collections.abc import Sequence, Set
from itertools import combinations
from typing import TypeAlias

import numpy as np
import pandas as pd

from basisbench.results.columns import Column
from basisbench.results.conditions import CONDITIONS
from basisbench.results.display import Display
from basisbench.results.frame import frame_of, summarise
from basisbench.results.overlap import jaccard_index
from basisbench.results.record import Record

Node: TypeAlias = "tuple[object, ...]"

_ALIKE = [
    *(name for name in CONDITIONS if name != "attribution_draw"), "family", "task", "task_version", "method", "basis",
]  # fmt: skip


def named_nodes(record: Record) -> frozenset[Node]:
    """Return the nodes of the largest |score| that a record names: group, layer, position, unit, coordinate."""
    return frozenset((node.group, node.layer, node.position, node.unit, node.coordinate) for node in record.top_nodes)


def jaccard(first: Set[Node], second: Set[Node]) -> float:
    """Return the share of the nodes of either that are of both; NaN where there are none."""
    return jaccard_index(len(first), len(second), len(first & second))


def draw_spread(records: Sequence[Record], display: Display) -> pd.DataFrame:
    """Sum up every cell that has several attribution draws, in one row.

    Args:
        records: results.
        display: order of bases.

    Returns:
        Rows in order of task and basis, none where no cell has two draws; with `conditions.CONDITIONS` but
        `attribution_draw`, `family`, `task`, `task_version`, `method`, `basis`, and:

        - `draws`: how many.
        - `first`, `first_low`, `first_high`: nodes to 80% of the first draw, with its interval over words.
        - `least`, `middle`, `most`: the smallest, the median and the largest of all draws.
        - `inside`: how many of the others lie in the interval of the first.
        - `curve_spread`: largest faithfulness less the smallest over draws, at the size where that is most, of those
          that all have measured with nodes that have a score; `spread_size`: that size.
        - `jaccard`: of the best nodes that records name, mean over pairs of draws.
    """
    summary = summarise(records)
    draws = summary.groupby(_ALIKE)["attribution_draw"].transform("nunique") > 1
    several = summary[draws & summary["gate"].eq("") & ~summary["control"] & ~summary["degenerate"]]
    if several.empty:
        return pd.DataFrame()
    of_cell = {record.id: record for record in records}
    curves = dict(iter(frame_of([of_cell[name] for name in several["cell_id"]]).groupby("cell_id")))
    rows: list[dict[str, Column]] = []
    for key, cells in several.sort_values("attribution_draw", kind="stable").groupby(_ALIKE, sort=False):
        first, values = cells.iloc[0], cells["nodes_to_80"].to_numpy(dtype=float)
        low, high = float(first["nodes_to_80_low"]), float(first["nodes_to_80_high"])
        spread, size = _widest([curves[name] for name in cells["cell_id"]])
        named = [named_nodes(of_cell[name]) for name in cells["cell_id"]]
        indices = [jaccard(one, other) for one, other in combinations(named, 2)]
        rows.append(
            {
                **dict(zip(_ALIKE, key, strict=True)),
                "draws": len(cells),
                "first": float(values[0]),
                "first_low": low,
                "first_high": high,
                "least": float(values.min()),
                "middle": float(np.median(values)),
                "most": float(values.max()),
                "inside": int(sum(low <= value <= high for value in values[1:])),
                "curve_spread": spread,
                "spread_size": size,
                "jaccard": sum(indices) / len(indices),
            }
        )
    table = pd.DataFrame(rows)
    order = sorted(table.index, key=lambda at: (table.at[at, "task"], display.basis_order(table.at[at, "basis"])))
    return table.loc[order].reset_index(drop=True)


def _widest(curves: Sequence[pd.DataFrame]) -> tuple[float, int]:
    """Return how far faithfulness of several curves lies apart at most, at a size that all have, and that size."""
    kept = [curve[curve["scored"]].set_index("size")["faithfulness"] for curve in curves]
    together = pd.concat(kept, axis=1, join="inner")
    apart = together.max(axis=1) - together.min(axis=1)
    return float(apart.max()), int(apart.idxmax())
