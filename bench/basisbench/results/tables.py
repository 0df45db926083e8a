"""Tables of text: one method in detail, one task in full; medians are in `basisbench.results.headlines`.

A target that a curve does not reach is written ">N", N being all nodes of the basis (or the bits of as many nodes as
take the most), or ">N scored" where only N nodes have a score: censored, not missing. "n/a" stands where F(M) equals
F(0), "-" where something was not measured.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile, zip_longest

import pandas as pd

from basisbench.results.display import Display, family_order
from basisbench.results.metrics import METRICS, STATISTICS, not_reached_bound

DETAILS = {
    "nodes_to_80": "nodes to\n80% [95% interval]",
    "nodes_to_80_node": "under\nnode",
    "units_to_80": "units",
    "settled_to_90": "settled\nto 90%",
    "bits_to_80": "bits to\n80%",
    "area_faithfulness": "area\nF",
}
"""Columns of the terminal's table with their headings; the Markdown page has all statistics, with intervals."""

FIT = {"fvu_max": "FVU", "l0_mean": "L0", "loss_recovered": "loss\nrec."}
"""Fit of a dictionary: fraction of variance unexplained in its worst layer, active units, loss recovered."""

_ROW_NAMES = ("task", "family", "method", "basis")
"""Headings of columns that say what a row is."""

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
        notes: lines below it.
    """

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[Entry, ...], ...]
    notes: tuple[str, ...] = ()


def number_text(value: float, name: str) -> str:
    """Write a number the way its column calls for."""
    if math.isnan(value):
        return "n/a"
    unit = METRICS[name].unit if name in METRICS else ""
    if unit == "bytes":
        return f"{value / 2**20:.0f}"
    if unit == "s":
        return f"{value:.2g}" if value < 1 else f"{value:.1f}" if value < 10 else f"{value:.0f}"
    if unit == "1" or name in ("fvu_max", "loss_recovered"):
        return f"{value:.2f}"
    return f"{value:.1f}" if 0 < value < 10 and value % 1 else f"{value:.0f}"


def interval_text(value: float, low: float, high: float, name: str, bound: str) -> str:
    """Write a number with its interval; what is infinite as the bound that it exceeds."""
    texts = [bound if math.isinf(number) else number_text(number, name) for number in (value, low, high)]
    if math.isnan(low) or len(set(texts)) == 1:
        return texts[0]
    return f"{texts[0]} [{texts[1]}, {texts[2]}]"


def beside_text(value: float, name: str) -> str:
    """Write a number that has no interval here: "-" where it was not measured, "not" where it was not reached."""
    return "-" if math.isnan(value) else "not" if math.isinf(value) else number_text(value, name)


def _entry(row: pd.Series, name: str, *, interval: bool) -> Entry:
    """Write a column of a row, with its interval where asked."""
    value = float(row[name])
    if name not in METRICS:
        return Entry(beside_text(value, name))
    low, high = (float(row[f"{name}_{end}"]) if interval else value for end in ("low", "high"))
    scored, total = int(row["scored_nodes"]), int(row["total_nodes"])
    bound = f">{number_text(not_reached_bound(scored, name, total), name)}{' scored' if scored < total else ''}"
    return Entry(interval_text(value, low, high, name, bound), bool(row[f"{name}_best"]))


def detail_table(part: pd.DataFrame, title: str, display: Display) -> Table:
    """Return the terminal's table: a row per task and basis.

    Args:
        part: rows of one set of conditions and one method, of `compare_table`.
        title: title of the table.
        display: order of bases.
    """
    rows: list[tuple[Entry, ...]] = []
    for _, row in _by_task(part, display).iterrows():
        entries = [_entry(row, name, interval=name == "nodes_to_80") for name in DETAILS]
        fit = [_entry(row, name, interval=False) for name in FIT]
        rows.append((Entry(task_name(row, part)), Entry(str(row["basis"])), *entries, *fit, _costs(row)[0]))
    return Table(title, ("task", "basis", *DETAILS.values(), *FIT.values(), COSTS["seconds"]), tuple(rows))


def full_table(group: pd.DataFrame, title: str, display: Display) -> Table:
    """Return every statistic with its interval: a row per method and basis.

    Args:
        group: rows of one set of conditions, one task and one family, of `compare_table`.
        title: title of the table.
        display: order of bases and methods.
    """
    order = sorted(
        zip(group["method"], group["basis"], group.index, strict=True),
        key=lambda key: (display.method_order(key[0]), display.basis_order(key[1])),
    )
    names = {name: METRICS[name].title for name in STATISTICS}
    names = {"nodes_to_80": names.pop("nodes_to_80"), **dict(list(DETAILS.items())[1:3]), **names, **FIT}
    rows: list[tuple[Entry, ...]] = []
    for _, row in group.loc[[key[-1] for key in order]].iterrows():
        entries = [_entry(row, name, interval=True) for name in names]
        first = (Entry(str(row["method"])), Entry(str(row["basis"])))
        rows.append((*first, *entries, *_costs(row), Entry(str(row["examples"]))))
    return Table(title, ("method", "basis", *names.values(), *COSTS.values(), "n"), tuple(rows))


def _costs(row: pd.Series) -> list[Entry]:
    return [Entry(number_text(float(row[name]), name), bool(row[f"{name}_best"])) for name in COSTS]


def _by_task(part: pd.DataFrame, display: Display) -> pd.DataFrame:
    """Order rows by task, family (mlp first) and basis."""
    keys = zip(part["task"], part["task_version"], part["family"], part["basis"], part.index, strict=True)
    ordered = sorted(keys, key=lambda key: (key[0], key[1], family_order(key[2]), display.basis_order(key[3])))
    return part.loc[[key[-1] for key in ordered]]


def task_name(row: pd.Series, part: pd.DataFrame) -> str:
    """Name a task, with its version where the table holds several, and "!" where it is below a gate."""
    versions = part.loc[part["task"] == row["task"], "task_version"].nunique()
    name = f"{row['task']} v{row['task_version']}" if versions > 1 else str(row["task"])
    return f"{name} !" if row["gate"] else name


def plain_text(table: Table, width: int | None = None) -> str:
    """Lay a table out for a terminal; a first column that repeats is written once.

    Args:
        table: what to print.
        width: of the terminal; columns that do not fit beside each other follow below, under the names of their rows.
    """
    heights = max(heading.count("\n") for heading in table.header) + 1
    headings = [(heading.split("\n") + [""] * heights)[:heights] for heading in table.header]
    body: list[list[str]] = list(map(list, zip(*headings, strict=True)))
    before = ""
    for row in table.rows:
        first = "" if row[0].text == before else row[0].text
        before = row[0].text
        body.append([first, *(entry.text + ("*" if entry.best else "") for entry in row[1:])])
    names = len(list(takewhile(_ROW_NAMES.__contains__, table.header)))
    lines = [wrapped(table.title, width)]
    for number, part in enumerate(_parts(body, names, width)):
        lines += [""] * bool(number)
        widths = [max(map(len, column)) for column in zip(*part, strict=True)]
        lines += ["  ".join(text.ljust(wide) for text, wide in zip(row, widths, strict=True)).rstrip() for row in part]
    return "\n".join([*lines, *(wrapped(note, width) for note in table.notes)])


def _parts(body: Sequence[Sequence[str]], names: int, width: int | None) -> Iterator[list[list[str]]]:
    """Split columns into parts that fit a width, each behind the first `names` columns; long texts take several lines.

    Args:
        body: lines of the table, headings included.
        names: how many columns name the rows.
        width: what there is, None for no limit.
    """
    if width is None:
        yield [list(row) for row in body]
        return
    widths = [max(map(len, column)) for column in zip(*body, strict=True)]
    room = max(width - sum(widths[:names]) - 2 * names, 16)
    part: list[int] = []
    for column in range(names, len(widths)):
        if part and sum(min(widths[own], room) + 2 for own in [*part, column]) - 2 > room:
            yield _wrapped_rows(body, [*range(names), *part], names, room)
            part = []
        part.append(column)
    yield _wrapped_rows(body, [*range(names), *part], names, room)


def _wrapped_rows(body: Sequence[Sequence[str]], columns: Sequence[int], names: int, room: int) -> list[list[str]]:
    """Return columns of a table, a text that is longer than `room` on several lines."""
    rows: list[list[str]] = []
    for row in body:
        texts = [[row[own]] if own < names else textwrap.wrap(row[own], room) or [""] for own in columns]
        rows += map(list, zip_longest(*texts, fillvalue=""))
    return rows


def wrapped(line: str, width: int | None) -> str:
    """Break a line that is longer than a terminal is wide; what follows is indented."""
    if width is None or len(line) <= width:
        return line
    indent = " " * (len(line) - len(line.lstrip()) + 2)
    return textwrap.fill(line, width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


def markdown_lines(table: Table) -> list[str]:
    """Lay a table out in Markdown."""
    header = [heading.replace("\n", " ").replace("|", "\\|") for heading in table.header]
    lines = ["| " + " | ".join(header) + " |", "|" + " --- |" * len(table.header)]
    for row in table.rows:
        lines.append("| " + " | ".join(_bold(entry) for entry in row) + " |")
    return [*lines, *(text for note in table.notes for text in ("", note))]


def _bold(entry: Entry) -> str:
    text = entry.text.replace("|", "\\|")
    return f"**{text}**" if entry.best else text
