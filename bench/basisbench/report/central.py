"""The curve that the page opens on: faithfulness against size, the median over the tasks of a suite.

1. The tasks are those of the medians (`basisbench.results.medians`): what is below a gate is left out, and a basis that
   lacks a task has no curve.
2. It stands at the 1-2-5 steps, which all tasks measure; beyond all its nodes a task keeps its last value. What
   bisection adds is each task's own.
3. Its interval is over tasks and clusters, from the draws that all medians share.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from basisbench.results.bisection import scored_nodes
from basisbench.results.bootstrap import interval_ends
from basisbench.results.columns import normalised
from basisbench.results.display import Display
from basisbench.results.medians import draw_tasks
from basisbench.results.metrics import sizes_grid
from basisbench.results.record import Record


def central_curves(
    medians: pd.DataFrame, records: Mapping[str, Record], display: Display
) -> dict[int, dict[str, object]]:
    """Return the curve of every basis that has medians, under the first method of its setting, by the row of medians.

    Args:
        medians: rows of `medians.median_table` with `setting`, numbered from 0.
        records: by the id of their cell.
        display: order of methods.
    """
    curves: dict[int, dict[str, object]] = {}
    for _, rows in medians.groupby("setting"):
        first = rows[rows["method"] == display.first_method(rows)]
        for place, (ids, found, tasks) in first[["cells", "tasks_found", "tasks"]].iterrows():
            if found == tasks > 0:
                curves[int(place)] = median_curve([records[key] for key in str(ids).split()])
    return curves


def median_curve(records: Sequence[Record]) -> dict[str, object]:
    """Return the median faithfulness of cells of several tasks, with its interval, at the steps that all measure."""
    sizes = [np.array(record.curve.sizes) for record in records]
    steps = np.array(
        [
            size
            for size in sizes_grid(int(max(own[-1] for own in sizes)))
            if all(size > own[-1] or size == own[np.searchsorted(own, size)] for own in sizes)
        ]
    )
    values = np.stack(
        [
            normalised(record).faithfulness[:, np.searchsorted(own, np.minimum(steps, own[-1]))]
            for record, own in zip(records, sizes, strict=True)
        ]
    )
    middle = np.median(values[:, 0], axis=0)
    low, high = interval_ends(np.median(values[draw_tasks([record.cell.task for record in records])], axis=1))
    return {
        "size": steps.tolist(),
        "faithfulness": middle.round(5).tolist(),
        "faithfulness_low": np.minimum(low, middle).round(5).tolist(),
        "faithfulness_high": np.maximum(high, middle).round(5).tolist(),
        "scored": min(map(scored_nodes, records)),
    }
