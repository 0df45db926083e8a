"""Bases beside their controls: what a basis needs over what its control needs, paired.

A control of the basis NAME is called `PREFIX:NAME` and declares itself a control. A ratio below 1, its interval too,
says that the basis has something that the control lacks.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import pandas as pd

from basisbench.errors import RecordError
from basisbench.results.bootstrap import Estimate, ratio_of_rows
from basisbench.results.columns import Draws
from basisbench.results.tables import Entry, Table, interval_text, number_text, task_name

_WHAT = "nodes_to_80"


def control_of(basis: str, *, control: bool) -> str:
    """Return the name of the basis that a basis is a control of; "" where it is none of one that has a name.

    Args:
        basis: its label; a control that is fitted has weights of its own on every task, whose digest is in the label.
        control: whether it declares itself a control.
    """
    return basis.partition(":")[2].partition(" (")[0] if control else ""


def ratio(a: Draws, b: Draws, column: str) -> Estimate:
    """Return the ratio of a statistic of two rows of `summarise` or of medians, over the same resamples.

    Where a target is not reached, only bounds are known; the interval is that of the bounds, and the value NaN where
    neither is reached.

    Raises:
        RecordError: they are not of the same examples.
    """
    if a.pairing != b.pairing:
        raise RecordError("the two cells are not of the same examples, so their ratio has no interval")
    return ratio_of_rows(a.rows[column], b.rows[column], a.bounds[column], b.bounds[column])


def ratio_text(found: Estimate) -> str:
    """Write a ratio with its interval."""
    texts = [short_text(value) for value in (found.value, found.low, found.high)]
    return f"{texts[0]} [{texts[1]}, {texts[2]}]"


def short_text(value: float) -> str:
    """Write a ratio with two digits or more."""
    if math.isnan(value):
        return "n/a"
    if math.isinf(value):
        return "unbounded"
    return f"{value:.2f}" if value < 1 else f"{value:.1f}" if value < 10 else f"{value:,.0f}"


def control_tables(part: pd.DataFrame, method: str) -> Sequence[Table]:
    """Return a table of every basis beside its controls, none where there are no controls.

    Args:
        part: rows of one set of conditions, of `compare.compare_table`, with `control_of`.
        method: rows of other methods are left out.
    """
    shown = part[part["method"] == method]
    rows: list[tuple[Entry, ...]] = []
    for _, task in shown.groupby(["task", "task_version"]):
        own = {str(row["basis"]): row for _, row in task.iterrows()}
        for name, control in own.items():
            basis = own.get(str(control["control_of"]))
            if basis is None or basis["draws"].pairing != control["draws"].pairing:
                continue
            texts = (_nodes(basis), _nodes(control), ratio_text(ratio(basis["draws"], control["draws"], _WHAT)))
            rows.append(tuple(map(Entry, (task_name(control, part), str(basis["basis"]), name, *texts))))
    header = ("task", "basis", "control", "nodes to\n80%", "of its\ncontrol", "over those of its control [95%]")
    title = f"Beside controls under {method}: below 1 a basis has something that its control lacks"
    return [Table(title, header, tuple(rows))] if rows else []


def _nodes(row: pd.Series) -> str:
    bound = f">{number_text(row['draws'].bounds[_WHAT], _WHAT)}"
    return interval_text(float(row[_WHAT]), math.nan, math.nan, _WHAT, bound)
