"""Tables of text: medians over tasks, one method in detail, one task in full.

A median over fewer tasks than others have says so, and is neither best nor a rival of those that have all.

A target that a curve does not reach is written ">N", N being all nodes of the basis (or the bits of as many nodes as
take the most): censored, not missing. "n/a" stands where F(M) cannot be told from F(0).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import pandas as pd

from basisbench.results.display import Display, family_order, unique
from basisbench.results.metrics import METRICS, STATISTICS, not_reached_bound

DETAILS = {
    "nodes_to_80": "nodes to\n80% [95% interval]",
    "nodes_to_90": "nodes to\n90%",
    "settled_to_90": "settled\nto 90%",
    "bits_to_80": "bits to\n80%",
    "bits_to_90": "bits to\n90%",
    "area_faithfulness": "area\nF",
    "area_distance": "area\n|1-F|",
}
"""Statistics of the terminal's table with their headings; the Markdown page has all statistics, with intervals."""

COSTS = {"seconds": "time\n(s)", "peak_memory_bytes": "memory\n(MiB)"}


@dataclass(frozen=True)
class Entry:
    """One field of a table.

    Attributes:
        text: what it says.
        best: whether it is the best of its column within its group.
    """

    text: str
    best: bool = False


@dataclass(frozen=True)
class Table:
    """A titled table of entries.

    Attributes:
        title: what is compared and under which conditions.
        header: column headings.
        rows: entries, one per heading.
    """

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[Entry, ...], ...]


def headline_tables(part: pd.DataFrame, display: Display) -> list[Table]:
    """Return medians over tasks under one set of conditions: family and basis down, methods across.

    Args:
        part: rows of one set of conditions.
        display: order of bases and methods.

    Returns:
        Tables of nodes to 80%, bits to 80%, and log-area of faithfulness with seconds.
    """
    count = part.groupby(["task", "task_version"]).ngroups
    over = f"median over {count} tasks" if count > 1 else f"task {part['task'].iloc[0]}"
    methods = sorted(unique(part, "method"), key=display.method_order)
    rows = sorted(
        {(str(family), str(basis)) for family, basis in zip(part["family"], part["basis"], strict=True)},
        key=lambda row: (family_order(row[0]), display.basis_order(row[1])),
    )
    shown = (
        (("nodes_to_80",), f"Nodes to 80% faithfulness, {over}"),
        (("bits_to_80",), f"Bits to 80% faithfulness, {over}"),
        (("area_faithfulness", "seconds"), f"Log-area of faithfulness (higher is better), seconds, {over}"),
    )
    tables: list[Table] = []
    for names, title in shown:
        medians: Medians = {
            (str(family), str(basis), str(method)): [_median(cells, name) for name in names]
            for (family, basis, method), cells in part.groupby(["family", "basis", "method"])
        }
        body = tuple(
            (Entry(family), Entry(basis), *(_median_entry(medians, family, basis, method) for method in methods))
            for family, basis in rows
        )
        tables.append(Table(title, ("family", "basis", *methods), body))
    return tables


@dataclass(frozen=True)
class _Median:
    value: float
    text: str
    direction: str
    tasks: frozenset[tuple[str, str]]


Medians: TypeAlias = Mapping[tuple[str, str, str], Sequence[_Median]]


def _median(cells: pd.DataFrame, name: str) -> _Median:
    """Return the median over tasks; tasks without a defined value are left out, unreached ones count as infinite."""
    named = zip(cells["task"], cells["task_version"], strict=True)
    tasks = frozenset((str(task), str(version)) for task, version in named)
    values = cells[name].astype(float).dropna().to_numpy()
    if len(values) == 0:
        return _Median(math.nan, "n/a", METRICS[name].direction, tasks)
    # The middle two of an even number may be finite and infinite: their mean is infinite, as it should be.
    value = float(np.median(values))
    reached = int(np.isfinite(values).sum())
    text = _number(value, name) if math.isfinite(value) else f">{_number(_bound(cells, name), name)}"
    text = text if reached == len(values) else f"{text} ({reached}/{len(values)})"
    return _Median(value, text, METRICS[name].direction, tasks)


def _median_entry(medians: Medians, family: str, basis: str, method: str) -> Entry:
    """Return the medians of one basis and method; best is judged by the first of them, within family and method."""
    own = medians.get((family, basis, method))
    if own is None:
        return Entry("-")
    sign = 1 if own[0].direction == "lower" else -1
    alike = [m[0] for (f, _, other), m in medians.items() if (f, other) == (family, method)]
    every: frozenset[tuple[str, str]] = frozenset().union(*(median.tasks for median in alike))
    text = ", ".join(median.text for median in own)
    if own[0].tasks != every:
        return Entry(f"{text} [{len(own[0].tasks)} task{'s' if len(own[0].tasks) > 1 else ''}]")
    rivals = [sign * median.value for median in alike if median.tasks == every and not math.isnan(median.value)]
    value = sign * own[0].value
    best = math.isfinite(value) and value == min(rivals) and max(rivals) > value
    return Entry(text, best)


def _bound(cells: pd.DataFrame, name: str) -> float:
    """Return what "not reached" exceeds in the median cell."""
    return float(np.median([not_reached_bound(int(total), name) for total in cells["total_nodes"]]))


def _number(value: float, name: str) -> str:
    """Write a number the way its metric calls for."""
    if math.isnan(value):
        return "n/a"
    unit = METRICS[name].unit
    if unit == "bytes":
        return f"{value / 2**20:.0f}"
    if unit == "s":
        return f"{value:.2g}" if value < 1 else f"{value:.1f}" if value < 10 else f"{value:.0f}"
    if unit == "1":
        return f"{value:.2f}"
    return f"{value:.1f}" if 0 < value < 10 else f"{value:.0f}"


def _estimate_text(row: pd.Series, name: str, *, interval: bool) -> str:
    """Write a statistic of a row, with its interval where asked; infinite values as ">N"."""
    value, low, high = (float(row[column]) for column in (name, f"{name}_low", f"{name}_high"))
    if math.isnan(value):
        return "n/a"
    bound = f">{_number(not_reached_bound(int(row['total_nodes']), name), name)}"
    text, low_text, high_text = (
        _number(number, name) if math.isfinite(number) else bound for number in (value, low, high)
    )
    if not interval or (text == low_text == high_text):
        return text
    return f"{text} [{low_text}, {high_text}]"


def detail_table(part: pd.DataFrame, title: str, display: Display) -> Table:
    """Return the terminal's table: a row per task and basis.

    Args:
        part: rows of one set of conditions and one method, with best marks.
        title: title of the table.
        display: order of bases.
    """
    rows: list[tuple[Entry, ...]] = []
    for _, row in _by_task(part, display).iterrows():
        entries = [
            Entry(_estimate_text(row, name, interval=name == "nodes_to_80"), bool(row[f"{name}_best"]))
            for name in DETAILS
        ]
        rows.append((Entry(_task_name(row, part)), Entry(str(row["basis"])), *entries, *_costs(row)))
    return Table(title, ("task", "basis", *DETAILS.values(), *COSTS.values()), tuple(rows))


def full_table(group: pd.DataFrame, title: str, display: Display) -> Table:
    """Return every statistic with its interval: a row per method and basis.

    Args:
        group: rows of one set of conditions, one task and one family, with best marks.
        title: title of the table.
        display: order of bases and methods.
    """
    order = sorted(
        zip(group["method"], group["basis"], group.index, strict=True),
        key=lambda key: (display.method_order(key[0]), display.basis_order(key[1])),
    )
    rows: list[tuple[Entry, ...]] = []
    for _, row in group.loc[[key[-1] for key in order]].iterrows():
        entries = [Entry(_estimate_text(row, name, interval=True), bool(row[f"{name}_best"])) for name in STATISTICS]
        first = (Entry(str(row["method"])), Entry(str(row["basis"])))
        rows.append((*first, *entries, *_costs(row), Entry(str(row["examples"]))))
    header = ("method", "basis", *(METRICS[name].title for name in STATISTICS), *COSTS.values(), "n")
    return Table(title, header, tuple(rows))


def _costs(row: pd.Series) -> list[Entry]:
    return [Entry(_number(float(row[name]), name), bool(row[f"{name}_best"])) for name in COSTS]


def _by_task(part: pd.DataFrame, display: Display) -> pd.DataFrame:
    """Order rows by task, family (mlp first) and basis."""
    keys = zip(part["task"], part["task_version"], part["family"], part["basis"], part.index, strict=True)
    ordered = sorted(keys, key=lambda key: (key[0], key[1], family_order(key[2]), display.basis_order(key[3])))
    return part.loc[[key[-1] for key in ordered]]


def _task_name(row: pd.Series, part: pd.DataFrame) -> str:
    """Name a task, with its version where the table holds several."""
    versions = part.loc[part["task"] == row["task"], "task_version"].nunique()
    return f"{row['task']} v{row['task_version']}" if versions > 1 else str(row["task"])


def plain_text(table: Table) -> str:
    """Lay a table out for a terminal; a first column that repeats is written once."""
    heights = max(heading.count("\n") for heading in table.header) + 1
    headings = [(heading.split("\n") + [""] * heights)[:heights] for heading in table.header]
    body: list[Sequence[str]] = list(zip(*headings, strict=True))
    before = ""
    for row in table.rows:
        first = "" if row[0].text == before else row[0].text
        before = row[0].text
        body.append([first, *(entry.text + ("*" if entry.best else "") for entry in row[1:])])
    widths = [max(len(line[column]) for line in body) for column in range(len(table.header))]
    lines = ["  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip() for line in body]
    return "\n".join([table.title, *lines])


def markdown_lines(table: Table) -> list[str]:
    """Lay a table out in Markdown."""
    header = [heading.replace("\n", " ").replace("|", "\\|") for heading in table.header]
    lines = ["| " + " | ".join(header) + " |", "|" + " --- |" * len(table.header)]
    for row in table.rows:
        lines.append("| " + " | ".join(_bold(entry) for entry in row) + " |")
    return lines


def _bold(entry: Entry) -> str:
    text = entry.text.replace("|", "\\|")
    return f"**{text}**" if entry.best else text
