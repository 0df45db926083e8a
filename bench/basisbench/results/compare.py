"""Tables that compare bases: a short one for the terminal, a full one for reading, one for a spreadsheet.

1. `compare_table` marks the best bases per model, task, family and method (`basisbench.results.marks`); cells that
   differ in anything else (weights, task version, ablation, error policy, granularity, seed, pairs) never meet. A basis
   without errors is the same under every error policy, and stands beside the dictionaries under each.
2. `render_text` prints medians over tasks, then every task under one method, within a terminal's width.
3. `render_markdown` gives everything with intervals; `csv_text` gives every column.
4. Long names of bases are shortened in tables (`basisbench.results.labels`), and stand in full below and in the CSV.

A target that a curve does not reach is written ">N", N being all nodes of the basis, or ">N scored", N being those that
have a score: censored, not missing.
"""

from __future__ import annotations

import textwrap
from collections.abc import Collection, Iterator, Sequence

import pandas as pd
from pandas.api.types import is_bool_dtype, is_numeric_dtype

from basisbench.errors import RecordError, unknown_name
from basisbench.results.bootstrap import Estimate
from basisbench.results.columns import TASK_SEPARATOR, normalised
from basisbench.results.conditions import CONDITIONS, join_policies, split_conditions
from basisbench.results.controls import control_of, control_tables
from basisbench.results.display import Display, family_order, unique
from basisbench.results.halves import halves_tables
from basisbench.results.headlines import HEADLINES, headline_tables, median_tables, task_table, unfit_lines
from basisbench.results.labels import label_notes, short_labels
from basisbench.results.marks import mark_best
from basisbench.results.medians import SHARED, median_table
from basisbench.results.metrics import METRICS, STATISTICS
from basisbench.results.metrics import paired_difference as paired_difference_of_cells
from basisbench.results.record import Record
from basisbench.results.tables import Table, detail_table, full_table, markdown_lines, plain_text, wrapped
from basisbench.results.unexplained import unexplained_tables, with_ceiling

BY_NAME = Display()
"""The order of names, where none is declared."""

NO_MEDIANS = "No medians: no basis has all tasks of the suite under these conditions."
ALL_BELOW = (
    "No medians: every task is below a gate. Its values stand under the task, marked !, and what to do about it."
)

NOTES = (
    "* best of its task, family and method (medians: family and method), and whoever a paired bootstrap cannot tell",
    "from it; nobody where that is all. [low, high]: 95% bootstrap interval over clusters of examples, in medians over",
    "tasks too. k nodes are k per aligned group; units: distinct ones of all groups. >N: not reached with all N nodes",
    "(or bits); >N scored: with those that have a score. (8/9): reached in 8 of 9 tasks. 7/9 tasks: lacks two, so no",
    "median. ! below a gate: in no median, no best mark. Bits compare bases of different width, nodes do not. Areas:",
    "over log k to one end per family. Under node: a dictionary's error is one node per layer and position.",
)

FORMULAS = ("=", "+", "-", "@", "\t", "\r")
"""How a text begins that spreadsheets run."""

BEST_WITHIN = (*CONDITIONS, "task", "task_version", "family", "method")


def paired_difference(a: Record, b: Record, statistic: str) -> Estimate:
    """Return a statistic of record `a` minus that of record `b`, with its 95% interval over shared resamples.

    Args:
        a: one cell.
        b: another cell on the same evaluation examples of the same model.
        statistic: a key of `metrics.STATISTICS`.

    Raises:
        RecordError: the two records do not share their model, data, clusters and layers, or there is no such statistic.
    """
    if statistic not in STATISTICS:
        raise RecordError(f"no statistic named '{statistic}'; known: {', '.join(STATISTICS)}")
    for field, left, right in (
        ("model", a.identities.model, b.identities.model),
        ("data", a.identities.data, b.identities.data),
        ("layers", a.cell.layers, b.cell.layers),
        ("F(M) per example", a.endpoints.full, b.endpoints.full),
        ("clusters", a.clusters, b.clusters),
    ):
        if left != right:
            raise RecordError(f"records {a.id} and {b.id} cannot be paired: their {field} differs")
    return paired_difference_of_cells(normalised(a), normalised(b), statistic)


def compare_table(summary: pd.DataFrame) -> pd.DataFrame:
    """Mark the best bases of a method, task and family under the same conditions in each metric of `metrics.METRICS`.

    Args:
        summary: what `summarise` returned.

    Returns:
        The same rows, those of a basis without errors once for each error policy of the dictionaries beside it
        (`conditions.join_policies`), with the columns:

        - `<metric>_best` per metric: true for the best value and for all that a paired bootstrap cannot tell from it,
          false everywhere when that is all of them, and for cells with a reason in `no_mark`.
        - `nodes_to_80_node`, `nodes_to_80_node_low`, `nodes_to_80_node_high`: `nodes_to_80` of the same basis with its
          whole error as one node (error policy `node`); its own for a basis without errors, NaN where there is no cell.
        - `ceiling`: faithfulness of all features of the same dictionary with every error ablated (error policy
          `ablate`); NaN for a basis without errors, and where there is no cell.

    Raises:
        RecordError: two cells would stand for the same row of a table.
    """
    split_conditions(summary)
    return with_ceiling(beside_node(mark_best(join_policies(summary), BEST_WITHIN), ["task", "task_version"]))


def beside_node(table: pd.DataFrame, keys: Sequence[str]) -> pd.DataFrame:
    """Put `nodes_to_80` under the error policy `node` beside that of every row, as `compare_table` does.

    Args:
        table: rows of `join_policies`, or of `median_table`.
        keys: what tells rows apart besides conditions, family, method and basis.
    """
    names = [f"nodes_to_80{end}" for end in ("", "_low", "_high")]
    columns = {name: name.replace("80", "80_node") for name in names}
    alike = [name for name in (*CONDITIONS, *keys, "family", "method", "basis") if name != "error_policy"]
    under_node = table[table["error_policy"] == "node"].drop_duplicates(alike)
    found = table[alike].merge(under_node[[*alike, *names]].rename(columns=columns), how="left", on=alike)
    found.index = table.index
    return table.assign(
        **{column: found[column].where(~table["exact"], table[name]) for name, column in columns.items()}
    )


def render_text(
    summary: pd.DataFrame, display: Display = BY_NAME, *, method: str | None = None, width: int | None = None
) -> str:
    """Render the comparison for a terminal: medians over tasks, what there is to explain, each task under one method.

    Args:
        summary: what `summarise` returned.
        display: order of bases and methods.
        method: method of the tables of one method; by default the first in order.
        width: of the terminal, which nothing exceeds; by default tables are as wide as they are.
    """
    blocks: list[str] = []
    for title, part, medians, short in _parts(summary):
        chosen = method or display.first_method(part)
        tables = headline_tables(medians, display, ("nodes_to_80",), intervals=False)
        tables += median_tables(medians[medians["method"] == chosen], display)
        tables.append(task_table(part))
        shown = part[part["method"] == chosen]
        if len(shown):
            tables.append(detail_table(shown, f"Each task under {chosen}", display))
        tables += _further_tables(part, chosen)
        blocks.append(wrapped(title, width))
        blocks += [_no_medians(part)] if medians.empty else []
        blocks += [plain_text(table, width) for table in tables]
        if reasons := unfit_lines(part):
            blocks.append("\n".join(["No best mark for:", *(wrapped(f"  {line}", width) for line in reasons)]))
        if short:
            blocks.append("\n".join(["Short names of bases:", *(wrapped(f"  {line}", width) for line in short)]))
    notes = NOTES if width is None else textwrap.wrap(" ".join(NOTES), width)
    return "\n\n".join([*blocks, "\n".join(notes)]) + "\n"


def refuse_absent(column: str, names: Sequence[str], known: Collection[str]) -> None:
    """Refuse names that results do not have.

    Args:
        column: what is named, for example "task".
        names: the names.
        known: those that results have.

    Raises:
        BasisBenchError: no result has one of them.
    """
    for name in names:
        if name not in known:
            raise unknown_name(f"{column} of these results", name, known)


def select(rows: pd.DataFrame, tasks: Sequence[str], methods: Sequence[str]) -> pd.DataFrame:
    """Return the rows of some tasks and methods; medians are then over these tasks, which no suite fixes.

    Args:
        rows: what `load_results` or `summarise` returned.
        tasks: names of tasks, none for all.
        methods: names of methods, none for all.

    Raises:
        BasisBenchError: no result has a task or method of that name.
    """
    for column, names in (("task", tasks), ("method", methods)):
        refuse_absent(column, names, unique(rows, column))
        rows = rows[rows[column].isin(names)] if names else rows
    if tasks:
        rows = rows.assign(suite="", suite_tasks=TASK_SEPARATOR.join(sorted(set(tasks))))
    return rows.reset_index(drop=True)


def render_markdown(summary: pd.DataFrame, display: Display = BY_NAME) -> str:
    """Render the full comparison as Markdown: medians, then a table per task and family, methods below each other.

    Args:
        summary: what `summarise` returned.
        display: order of bases and methods.
    """
    lines = ["# Comparison of bases", ""]
    for title, part, medians, short in _parts(summary):
        lines += [f"## {title}", "", *([_no_medians(part), ""] if medians.empty else [])]
        tables = [*headline_tables(medians, display, tuple(HEADLINES), intervals=True), task_table(part)]
        groups = sorted(
            part.groupby(["task", "task_version", "family"]), key=lambda item: (item[0][:2], family_order(item[0][2]))
        )
        tables += [
            full_table(group, f"{task} (version {version}), family {family}", display)
            for (task, version, family), group in groups
        ]
        tables += _further_tables(part, display.first_method(part))
        for table in tables:
            lines += [f"### {table.title}", "", *markdown_lines(table), ""]
        if reasons := unfit_lines(part):
            lines += ["### No best mark for", "", *(f"- {line}" for line in reasons), ""]
        if short:
            lines += ["### Short names of bases", "", *(f"- `{line}`" for line in short), ""]
    lines += [" ".join(NOTES).replace("* best", "Bold: best").replace(">", "\\>"), ""]
    for metric in METRICS.values():
        lines.append(f"- **{metric.title}** ({metric.unit}, {metric.direction} is better): {metric.meaning}.")
    return "\n".join(lines) + "\n"


def _further_tables(part: pd.DataFrame, method: str) -> list[Table]:
    """Return what stands beside bases under one method: controls, random halves, what dictionaries leave out."""
    return [*control_tables(part, method), *halves_tables(part, method), *unexplained_tables(part, method)]


def _no_medians(part: pd.DataFrame) -> str:
    return ALL_BELOW if part["gate"].ne("").all() else NO_MEDIANS


def _parts(summary: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame, pd.DataFrame, list[str]]]:
    """Yield the parts to show: title, rows, their medians, and what short labels of bases stand for."""
    medians = beside_node(median_table(summary), ["suite_tasks"])
    grouped = [medians[name] for name in (*SHARED, "suite_tasks")]
    complete = medians["tasks_found"].eq(medians["tasks"]).groupby(grouped)
    medians = medians[complete.transform("any") & medians["tasks"].gt(0).groupby(grouped).transform("any")]
    for title, part in split_conditions(compare_table(summary)):
        of_part = part[[*CONDITIONS, "family"]].drop_duplicates()
        own = medians.merge(of_part, how="inner", on=list(of_part.columns))
        labels = short_labels(unique(part, "basis"))
        of = [control_of(basis, control=control) for basis, control in zip(part["basis"], part["control"], strict=True)]
        part = part.assign(control_of=[labels.get(basis, "") for basis in of])
        named = [rows.assign(basis=rows["basis"].map(labels)) for rows in (part, own)]
        yield title, named[0], named[1], label_notes(labels)


def csv_text(summary: pd.DataFrame, display: Display = BY_NAME) -> str:
    """Return every column of the comparison as CSV, best marks included; "not reached" is written as inf.

    A text that begins like a formula has a quote in front.

    Args:
        summary: what `summarise` returned.
        display: order of bases and methods.
    """
    names = ["model", "family", "task", "task_version", "basis", "method", "cell_id"]
    sort_key = {"basis": display.basis_order, "method": display.method_order}
    table = compare_table(summary).drop(columns="draws")
    texts = [name for name in table if not (is_numeric_dtype(table[name]) or is_bool_dtype(table[name]))]
    table = table.assign(**{name: table[name].map(inert) for name in texts})
    ordered = table.sort_values(names, key=lambda column: column.map(sort_key.get(column.name, str)))
    text: str = ordered.to_csv(index=False, na_rep="nan", float_format="%.6g")
    return text


def inert(text: object) -> object:
    """Put a quote in front of a text that a spreadsheet would run as a formula."""
    return f"'{text}" if isinstance(text, str) and text.startswith(FORMULAS) else text
