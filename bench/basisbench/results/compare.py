"""Tables that compare bases: a short one for the terminal, a full one for reading, one for a spreadsheet.

1. `compare_table` marks the best basis per model, task, family and method; cells that differ in anything else
   (weights, task version, ablation, error policy, granularity, seed, pairs) never meet.
2. `render_text` prints medians over tasks, then every task under one method, within a screen's width.
3. `render_markdown` gives everything with intervals; `csv_text` gives every column.
4. Long names of bases are shortened in tables (`basisbench.results.labels`), and stand in full below and in the CSV.

A target that a curve does not reach is written ">N", N being all nodes of the basis: censored, not missing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import pandas as pd

from basisbench.errors import RecordError
from basisbench.results.bootstrap import Estimate
from basisbench.results.conditions import CONDITIONS, split_conditions
from basisbench.results.display import Display, family_order, unique
from basisbench.results.frame import normalised
from basisbench.results.labels import label_notes, short_labels
from basisbench.results.metrics import METRICS, STATISTICS
from basisbench.results.metrics import paired_difference as paired_difference_of_cells
from basisbench.results.record import Record
from basisbench.results.tables import detail_table, full_table, headline_tables, markdown_lines, plain_text

BY_NAME = Display()
"""The order of names, where none is declared."""

BEST_WITHIN = (*CONDITIONS, "task", "task_version", "family", "method")


def paired_difference(a: Record, b: Record, statistic: str) -> Estimate:
    """Return a statistic of record `a` minus that of record `b`, with its 95% interval over shared resamples.

    Args:
        a: one cell.
        b: another cell on the same evaluation examples of the same model.
        statistic: a key of `metrics.STATISTICS`.

    Raises:
        RecordError: the two records do not share their model, data and layers, or there is no such statistic.
    """
    if statistic not in STATISTICS:
        raise RecordError(f"no statistic named '{statistic}'; known: {', '.join(STATISTICS)}")
    for field, left, right in (
        ("model", a.identities.model, b.identities.model),
        ("data", a.identities.data, b.identities.data),
        ("layers", a.cell.layers, b.cell.layers),
        ("F(M) per example", a.endpoints.full, b.endpoints.full),
    ):
        if left != right:
            raise RecordError(f"records {a.id} and {b.id} cannot be paired: their {field} differs")
    return paired_difference_of_cells(normalised(a), normalised(b), statistic)


def compare_table(summary: pd.DataFrame) -> pd.DataFrame:
    """Mark the best basis of a method, task and family under the same conditions in each metric of `metrics.METRICS`.

    Args:
        summary: what `summarise` returned.

    Returns:
        The same rows with a column `<metric>_best` per metric: true for the best value and its ties, false everywhere
        when there is nothing to choose between (one basis, or all equal) or the value is not finite.

    Raises:
        RecordError: two cells would stand for the same row of a table.
    """
    split_conditions(summary)
    return mark_best(summary, BEST_WITHIN)


def mark_best(summary: pd.DataFrame, within: Sequence[str]) -> pd.DataFrame:
    """Mark the best row of each metric among the rows that agree in the columns `within`, as `compare_table` does."""
    table = summary.copy()
    groups = [table[name] for name in within]
    for name, metric in METRICS.items():
        sign = 1.0 if metric.direction == "lower" else -1.0
        values = (table[name].astype(float) * sign).replace([math.inf, -math.inf], math.nan)
        grouped = values.groupby(groups)
        # A value that is not reached counts as a rival, so only finite values that all agree leave no choice.
        missing = values.isna().groupby(groups).transform("any")
        choice = (grouped.transform("max") > grouped.transform("min")) | (missing & (grouped.transform("size") > 1))
        table[f"{name}_best"] = (values == grouped.transform("min")) & choice
    return table


def render_text(summary: pd.DataFrame, display: Display = BY_NAME, *, method: str | None = None) -> str:
    """Render the comparison for a terminal: medians over tasks for all methods, then each task under one method.

    Args:
        summary: what `summarise` returned.
        display: order of bases and methods.
        method: method of the second table; by default the first in order.
    """
    blocks: list[str] = []
    for title, whole in split_conditions(compare_table(summary)):
        part, short = _with_labels(whole)
        chosen = method or display.first_method(part)
        blocks.append(title)
        blocks += [plain_text(table) for table in headline_tables(part, display)]
        shown = part[part["method"] == chosen]
        if len(shown):
            blocks.append(plain_text(detail_table(shown, f"Each task under {chosen}", display)))
        if short:
            blocks.append("\n".join(["Short names of bases:", *(f"  {line}" for line in short)]))
    notes = (
        "* best of its task, family and method (in medians: of its family and method). [low, high]: 95% bootstrap\n"
        "interval over examples. >N: not reached with all N nodes (or bits). (8/9): reached in 8 of 9 tasks.\n"
        "[2 tasks]: over fewer tasks than other bases have, so no rival of theirs.\n"
        "n/a: F(M) is not above F(0). Bits compare bases of different width, nodes do not. Areas: over log k; higher\n"
        "F, lower |1-F| is better. Time: all phases of a cell, shared work counted in each."
    )
    return "\n\n".join([*blocks, notes]) + "\n"


def render_markdown(summary: pd.DataFrame, display: Display = BY_NAME) -> str:
    """Render the full comparison as Markdown: medians, then a table per task and family, methods below each other.

    Args:
        summary: what `summarise` returned.
        display: order of bases and methods.
    """
    lines = ["# Comparison of bases", ""]
    for title, whole in split_conditions(compare_table(summary)):
        part, short = _with_labels(whole)
        lines += [f"## {title}", ""]
        for table in headline_tables(part, display):
            lines += [f"### {table.title}", "", *markdown_lines(table), ""]
        groups = sorted(
            part.groupby(["task", "task_version", "family"]), key=lambda item: (item[0][:2], family_order(item[0][2]))
        )
        for (task, version, family), group in groups:
            table = full_table(group, f"{task} (version {version}), family {family}", display)
            lines += [f"### {table.title}", "", *markdown_lines(table), ""]
        if short:
            lines += ["### Short names of bases", "", *(f"- `{line}`" for line in short), ""]
    lines += [
        "Bold: best of its task, family and method. Brackets: 95% bootstrap interval over evaluation examples. "
        "`>N`: not reached with all N nodes (or bits). n/a: undefined, F(M) is not above F(0). "
        "[2 tasks]: over fewer tasks than other bases have, so no rival of theirs. "
        "Nodes of bases of different width are not comparable; bits are.",
        "",
    ]
    for metric in METRICS.values():
        lines.append(f"- **{metric.title}** ({metric.unit}, {metric.direction} is better): {metric.meaning}.")
    return "\n".join(lines) + "\n"


def csv_text(summary: pd.DataFrame, display: Display = BY_NAME) -> str:
    """Return every column of the comparison as CSV, best marks included; "not reached" is written as inf.

    Args:
        summary: what `summarise` returned.
        display: order of bases and methods.
    """
    names = ["model", "family", "task", "task_version", "basis", "method", "cell_id"]
    sort_key = {"basis": display.basis_order, "method": display.method_order}
    ordered = compare_table(summary).sort_values(names, key=lambda column: column.map(sort_key.get(column.name, str)))
    text: str = ordered.to_csv(index=False, na_rep="nan", float_format="%.6g")
    return text


def _with_labels(part: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """Return rows with the short labels of their bases, and what the labels stand for."""
    labels = short_labels(unique(part, "basis"))
    return part.assign(basis=part["basis"].map(labels)), label_notes(labels)
