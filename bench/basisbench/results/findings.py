"""Numbers of a text that come from records, and are written anew from them.

A number stands between two comments, which a reader of the rendered page does not see:

    <!-- nodes_to_80 smollm2-135m task=sva_simple basis=mlp_act method=relp -->50 [38, 81]<!-- / -->
    <!-- nodes_to_80 pocket basis=mlp_act_rotated method=relp / basis=mlp_act -->5.0 [4.1, 6.0]<!-- / -->

1. First a column of `frame.summarise`, then a folder, or several with commas between, seen from the text's own; without
   a task it is the median over the tasks of the suite (`basisbench.results.medians`).
2. The rest names the cell by columns of `frame.summarise`. Conditions that are not named are the usual ones (`USUAL`).
3. After a slash stands another cell, by what differs, and the number is the ratio of both: paired, with its interval
   over shared resamples.
4. With `choice` and `value` it is a column of `robustness.robustness`, over all tasks unless one is named, and `least`,
   `middle`, `most`, `inside` and `curve_spread` are those of `draw_spread.draw_spread`:

    <!-- tau pocket-robust choice=ablation value=zero -->0.71 [0.53, 0.93]<!-- / -->

5. `over_models` of a basis and method is what it needs over what neurons need, with its interval over models
   (`basisbench.results.over_models`):

    <!-- over_models pocket-seeds basis=transcoder method=relp -->1.1 [0.9, 1.4]<!-- / -->

6. `jaccard` of a cell and of another after a slash is what the nodes that both records name have in common:

    <!-- jaccard mine task=ioi basis=mlp_act method=relp model=tuned / model=pocket-llama -->0.82<!-- / -->
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from types import MappingProxyType

import pandas as pd

from basisbench.errors import BasisBenchError
from basisbench.results.compare import compare_table
from basisbench.results.controls import ratio, ratio_text, short_text
from basisbench.results.display import Display
from basisbench.results.draw_spread import draw_spread, jaccard, named_nodes
from basisbench.results.frame import read_results, summarise
from basisbench.results.medians import median_table
from basisbench.results.metrics import METRICS, STATISTICS
from basisbench.results.over_models import over_models
from basisbench.results.record import Record
from basisbench.results.robustness import robustness
from basisbench.results.robustness_tables import over_text, ratio_cell, tau_text
from basisbench.results.tables import interval_text, number_text

USUAL: Mapping[str, str] = MappingProxyType({
    "ablation": "mean",
    "error_policy": "coordinates",
    "score_reference": "ablation",
    "score_split": "attribution",
    "granularity": "position",
    "bos": "auto",
    "metric": "logit",
    "attribution_draw": "0",
})  # fmt: skip
"""Conditions of a cell of which nothing else is said."""

_OF_DRAWS = ("least", "middle", "most", "inside", "curve_spread")

_LIKE_A_MARK = re.compile(r"<!-- (?:/ -->|[^\n]*?=[^\n]*?-->)")

_MARKED = re.compile(r"<!-- (?P<what>[a-z][a-z0-9_]* [^\n]*?) -->(?P<text>[^\n]*?)<!-- / -->")


class RecordTables:
    """What is made of the records of some folders, once for all numbers of all texts."""

    def __init__(self) -> None:
        self.records = cache(lambda folders: read_results(list(folders)))
        self.rows = cache(lambda folders: compare_table(summarise(self.records(folders))))
        self.medians = cache(lambda folders: median_table(self.rows(folders)))
        self.changes = cache(lambda folders: robustness(self.records(folders)))
        self.over = cache(lambda folders: over_models(self.records(folders)))
        self.spread = cache(lambda folders: draw_spread(self.records(folders), Display()))


def written_anew(text: str, folder: Path, tables: RecordTables | None = None) -> str:
    """Return a text with every number between comments as the records have it.

    Args:
        text: Markdown.
        folder: where the folders that it names are.
        tables: those of texts before it; new ones when None.

    Raises:
        BasisBenchError: a comment names no cell, or several, or a column that there is not; the message has the line.
        RecordError: a folder holds no record, or a malformed one.
    """
    tables = tables or RecordTables()

    def folders(names: str) -> tuple[Path, ...]:
        return tuple((folder / name).resolve() for name in names.split(","))

    def said(what: str) -> str:
        column, names, *rest = what.split()
        where = folders(names)
        if column == "jaccard" and "/" in rest:
            return _common_text(rest, tables.rows(where), tables.records(where))
        if column in _OF_DRAWS:
            return _moved_text(tables.spread(where), _keys(" ".join(rest)), column)
        if column == "over_models":
            if tables.over(where).empty:
                raise BasisBenchError("these records are of one model, or its checkpoints; a mean needs several models")
            return over_text(_row(tables.over(where), _keys(" ".join(rest)), "ratio"))
        if any(part.startswith("choice=") for part in rest):
            asked = {"task": "", "basis": "", **_keys(" ".join(rest))}
            return _moved_text(tables.changes(where), asked, column)
        return _number(column, rest, lambda each: (tables.rows if "task" in each else tables.medians)(where))

    def number(found: re.Match[str]) -> str:
        what = found["what"]
        try:
            return f"<!-- {what} -->{said(what)}<!-- / -->"
        except BasisBenchError as error:
            line = text.count("\n", 0, found.start()) + 1
            raise BasisBenchError(f"line {line}: '{what}': {error}") from error

    _refuse_halves(text)
    return _MARKED.sub(number, text)


def _refuse_halves(text: str) -> None:
    """Hold that every comment that looks like a mark or the end of one is read as such.

    Raises:
        BasisBenchError: one is not; the message has the line.
    """
    for found in _LIKE_A_MARK.finditer(_MARKED.sub(lambda mark: "\n" * mark[0].count("\n"), text)):
        line = text.count("\n", 0, text.find(found[0])) + 1
        raise BasisBenchError(
            f"line {line}: '{found[0]}' stands alone; a number is <!-- COLUMN FOLDER KEY=VALUE ... -->number<!-- / -->"
        )


def _number(column: str, rest: Sequence[str], table_of: Callable[[Mapping[str, str]], pd.DataFrame]) -> str:
    own, _, other = f"{' '.join(rest)} ".partition(" / ")  # names of bases may hold a slash, without spaces about it
    asked = _keys(own)
    cells = [asked, {**asked, **_keys(other)}] if other else [asked]
    first, *second = (_row(table_of(each), each, column) for each in cells)
    return _text(first, column) if not second else _ratio_text(first, second[0], column)


def _common_text(rest: Sequence[str], table: pd.DataFrame, records: Sequence[Record]) -> str:
    """Return the Jaccard index of the nodes that the records of two cells name."""
    own, _, other = " ".join(rest).partition(" / ")
    asked = _keys(own)
    of_cell = {record.id: record for record in records}
    one, two = (of_cell[_row(table, each, "cell_id")["cell_id"]] for each in (asked, {**asked, **_keys(other)}))
    return f"{jaccard(named_nodes(one), named_nodes(two)):.2f}"


def _keys(text: str) -> dict[str, str]:
    pairs = [part.partition("=") for part in text.split()]
    if not pairs or not all(value for _, _, value in pairs):
        raise BasisBenchError("expected COLUMN FOLDER KEY=VALUE ..., and after a slash KEY=VALUE ...")
    return {key: value for key, _, value in pairs}


def _row(table: pd.DataFrame, asked: Mapping[str, str], column: str) -> pd.Series:
    """Return the one cell or median that is asked for, under the usual conditions unless others are named."""
    return _only(table, {**USUAL, **asked}, column)


def _only(table: pd.DataFrame, asked: Mapping[str, str], column: str) -> pd.Series:
    """Return the one row that is asked for."""
    for name in (column, *asked):
        if name not in table:
            raise BasisBenchError(f"there is no column '{name}'")
    chosen = pd.Series(data=True, index=table.index)
    for name, value in asked.items():
        chosen &= table[name].astype(str) == value
    table = table[chosen]
    if len(table) != 1:
        raise BasisBenchError(f"{len(table)} cells are so, expected one; name more or other columns")
    if pd.isna(table.iloc[0][column]):
        raise BasisBenchError("that cell has no value there")
    return table.iloc[0]


def _moved_text(table: pd.DataFrame, asked: Mapping[str, str], column: str) -> str:
    """Return a number of the one row of rankings or draws that is asked for."""
    row = _only(table, asked, column)
    if column in ("tau", "ratio"):
        return tau_text(row) if column == "tau" else _with_commas(ratio_cell(row))
    if pd.api.types.is_number(row[column]) and math.isinf(row[column]):
        return "not reached"
    return f"{row[column]:.2f}" if column in ("jaccard", "curve_spread") else _text(row, column)


def _text(row: pd.Series, column: str) -> str:
    value = row[column]
    if not pd.api.types.is_number(value):
        return str(value)
    if column not in METRICS:
        return f"{value:.2f}" if value % 1 and abs(value) < 10 else f"{value:,.0f}"
    if column not in STATISTICS:
        return _with_commas(number_text(float(value), column))
    bound = f">{number_text(row['draws'].bounds[column], column)}"
    ends = (float(row[f"{column}_low"]), float(row[f"{column}_high"]))
    return _with_commas(interval_text(float(value), *ends, column, bound))


def _ratio_text(first: pd.Series, second: pd.Series, column: str) -> str:
    if column not in STATISTICS:
        return short_text(float(first[column]) / float(second[column]))
    found = ratio(first["draws"], second["draws"], column)
    if math.isinf(found.value):  # the first does not get there: at least so many times as many
        return f">{short_text(first['draws'].bounds[column] / float(second[column]))}"
    return ratio_text(found)


def _with_commas(text: str) -> str:
    return re.sub(r"\d{5,}|(?<![\d.])\d{4}(?![\d.])", lambda found: f"{int(found[0]):,}", text)
