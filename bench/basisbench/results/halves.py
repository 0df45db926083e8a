"""Halves of what a circuit leaves out: does it hit its target by what it holds, or by cancellation?

All that is outside a circuit is ablated at once. What of it works for the answer and what works against it may cancel,
so that a circuit is as good as the model without doing what the model does. With a random half of the rest live these
no longer cancel; faithfulness of a circuit that holds what matters stays where it is. Adversarial halves are
those that a search found to move it furthest (`basisbench.circuits.adversarial`).
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
        ablated, the median, and the one furthest from 1; `halves_lowest`, `halves_highest`: with the adversarial
        halves, NaN where these were not searched for.
    """
    full, empty = (float(np.mean(values)) for values in (record.endpoints.full, record.endpoints.empty))
    checks = sorted(record.subset_checks, key=lambda check: check.size)
    if not checks or full == empty:
        numbers = ("halves_size", "halves_median", "halves_worst", "halves_lowest", "halves_highest")
        return {"halves_draws": 0, **dict.fromkeys(numbers, math.nan)}
    check = next((each for each in checks if each.size >= reached), checks[-1])
    found = (np.array(check.draws) - empty) / (full - empty)
    ends = (np.array(check.adversarial or (math.nan, math.nan)) - empty) / (full - empty)
    return {
        "halves_size": check.size,
        "halves_draws": len(found),
        "halves_median": float(np.median(found)),
        "halves_worst": float(found[np.abs(found - 1).argmax()]),
        "halves_lowest": float(ends.min()),
        "halves_highest": float(ends.max()),
    }


def halves_tables(part: pd.DataFrame, method: str) -> list[Table]:
    """Return a table of what halves do, none where none were drawn.

    Args:
        part: rows of one set of conditions, of `compare.compare_table`.
        method: rows of other methods are left out.
    """
    shown = part[(part["method"] == method) & (part["halves_draws"] > 0)]
    searched = bool(shown["halves_lowest"].notna().any())
    rows = []
    for _, row in shown.iterrows():
        bound = f">{number_text(row['draws'].bounds['nodes_to_80'], 'nodes_to_80')}"
        nodes = interval_text(float(row["nodes_to_80"]), math.nan, math.nan, "nodes_to_80", bound)
        texts = [f"{row['halves_size']:.0f}", f"{row['halves_median']:.2f}", f"{row['halves_worst']:.2f}"]
        texts.append(f"{row['halves_draws']}")
        if searched:
            ends = f"{row['halves_lowest']:.2f} and {row['halves_highest']:.2f}"
            texts.append("-" if math.isnan(row["halves_lowest"]) else ends)
        names = (task_name(row, part), str(row["basis"]), nodes)
        rows.append(tuple(map(Entry, (*names, *texts, _verdict(row)))))
    title = f"Random halves of what circuits leave out, ablated, under {method}: 1 where a circuit holds what matters"
    header = ("task", "basis", "nodes to\n80%", "circuit of", "F, median\nhalf", "F, worst\nhalf", "halves")
    more = ("F, adversarial\nhalves", "") if searched else ("",)
    return [Table(title, (*header, *more), tuple(rows))] if rows else []


def _verdict(row: pd.Series) -> str:
    """Say whether faithfulness moves with a half of the rest live, of a circuit that has any."""
    if row["nodes_to_80"] > row["halves_size"]:
        return ""
    if abs(row["halves_worst"] - 1) > HELD:
        return "hangs on what is left out"
    moved = max(abs(row["halves_lowest"] - 1), abs(row["halves_highest"] - 1)) > HELD
    return "held but by adversarial halves" if moved else ""
