"""Random halves of what a circuit leaves out: does it hit its target by what it holds, or by cancellation?

All that is outside a circuit is ablated at once. What of it works for the answer and what works against it may cancel,
so that a circuit is as good as the model without doing what the model does. With a random half of the rest live these
no longer cancel; faithfulness of a circuit that holds what matters stays where it is.
"""

from __future__ import annotations

import math

import numpy as np
import pandas as pd

from basisbench.results.record import Record
from basisbench.results.tables import Entry, Table, interval_text, number_text, task_name

HELD = 0.2
"""How far faithfulness may move from 1, as in `settled_to_80`."""


def halves_columns(record: Record, reached: float) -> dict[str, float | int]:
    """Return what random halves of the complement do to a circuit, NaN where none were drawn.

    Args:
        record: of one cell.
        reached: its `nodes_to_80`.

    Returns:
        `halves_size`: the smallest size with halves that is at least `reached`, the largest where none is;
        `halves_draws`: how many; `halves_median`, `halves_worst`: faithfulness with a random half of the complement
        ablated, the median, and the one furthest from 1.
    """
    full, empty = (float(np.mean(values)) for values in (record.endpoints.full, record.endpoints.empty))
    checks = sorted(record.subset_checks, key=lambda check: check.size)
    if not checks or full == empty:
        return {"halves_size": math.nan, "halves_draws": 0, "halves_median": math.nan, "halves_worst": math.nan}
    check = next((each for each in checks if each.size >= reached), checks[-1])
    found = (np.array(check.draws) - empty) / (full - empty)
    return {
        "halves_size": check.size,
        "halves_draws": len(found),
        "halves_median": float(np.median(found)),
        "halves_worst": float(found[np.abs(found - 1).argmax()]),
    }


def halves_tables(part: pd.DataFrame, method: str) -> list[Table]:
    """Return a table of what random halves do, none where none were drawn.

    Args:
        part: rows of one set of conditions, of `compare.compare_table`.
        method: rows of other methods are left out.
    """
    rows = []
    for _, row in part[(part["method"] == method) & (part["halves_draws"] > 0)].iterrows():
        bound = f">{number_text(row['draws'].bounds['nodes_to_80'], 'nodes_to_80')}"
        nodes = interval_text(float(row["nodes_to_80"]), math.nan, math.nan, "nodes_to_80", bound)
        moved = abs(row["halves_worst"] - 1) > HELD and row["nodes_to_80"] <= row["halves_size"]
        texts = (f"{row['halves_size']:.0f}", f"{row['halves_median']:.2f}", f"{row['halves_worst']:.2f}")
        said = "hangs on what is left out" if moved else ""
        names = (task_name(row, part), str(row["basis"]), nodes)
        rows.append(tuple(map(Entry, (*names, *texts, f"{row['halves_draws']}", said))))
    title = f"Random halves of what circuits leave out, ablated, under {method}: 1 where a circuit holds what matters"
    header = ("task", "basis", "nodes to\n80%", "circuit of", "F, median\nhalf", "F, worst\nhalf", "halves", "")
    return [Table(title, header, tuple(rows))] if rows else []
