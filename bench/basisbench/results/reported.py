"""Values that others reported for a suite, and our records beside them.

They are data: `results/reported_values/NAME.yaml`. Ours are read at the same circuit size, interpolated in log k
between the sizes of our curve; intervals are 95% over clusters of evaluation examples.
"""

from __future__ import annotations

import math
from importlib.resources import files
from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
import yaml
from pydantic import Field, ValidationError

from basisbench.errors import RecordError, unknown_name
from basisbench.results.schema import Frozen, describe_problem
from basisbench.results.tables import Entry, Table, plain_text

MEASURES = ("faithfulness", "completeness")
SETTINGS = ("error_policy", "score_reference", "score_split")
"""Conditions in which our cells of one reported value may differ."""


class ReportedValue(Frozen):
    """One reported point of a curve."""

    task: str = Field(min_length=1, description="our name of the task")
    basis: str = Field(min_length=1, description="our name of the basis")
    method: str = Field(min_length=1, description="our name of the method")
    size: int = Field(ge=1, description="nodes in the circuit")
    faithfulness: float = Field(description="as reported")
    completeness: float = Field(description="as reported")


class Reported(Frozen):
    """What others reported for a suite."""

    model: str = Field(min_length=1, description="our name of the model; records of other models are left aside")
    source: str = Field(min_length=1, description="who reported it, under which conditions")
    values: Annotated[tuple[ReportedValue, ...], Field(min_length=1)]
    statements: tuple[str, ...] = Field(default=(), description="what was said in words")


def read_reported(suite: str) -> Reported:
    """Read the values reported for a suite.

    Args:
        suite: name of the suite.

    Raises:
        BasisBenchError: nothing is kept for a suite of that name.
        RecordError: the file is malformed.
    """
    folder = Path(str(files("basisbench.results") / "reported_values"))
    known = {path.stem: path for path in folder.glob("*.yaml")}
    if suite not in known:
        raise unknown_name("table of reported values", suite, known)
    try:
        return Reported.model_validate(yaml.safe_load(known[suite].read_text(encoding="utf-8")))
    except ValidationError as error:
        raise RecordError(f"{known[suite]}: {describe_problem(error)}") from error


def beside_reported(results: pd.DataFrame, reported: Reported) -> pd.DataFrame:
    """Put our values beside the reported ones.

    Args:
        results: what `load_results` returned.
        reported: the reported values.

    Returns:
        A row per reported value and cell of ours: `task`, `basis`, `method`, `size`; `error_policy`, `score_reference`
        and `score_split` of our cell; and for each measure `<measure>_reported`, `<measure>`, `<measure>_low` and
        `<measure>_high`. A value without any record of ours has one row with NaN.
    """
    ours = results[results["model"] == reported.model] if len(results) else results
    rows: list[dict[str, object]] = []
    for value in reported.values:
        row: dict[str, object] = {name: getattr(value, name) for name in ("task", "basis", "method", "size")}
        row |= {f"{measure}_reported": getattr(value, measure) for measure in MEASURES}
        chosen = ours
        for name in ("task", "basis", "method"):
            chosen = chosen[chosen[name] == row[name]] if len(chosen) else chosen
        cells = list(chosen.groupby("cell_id", sort=False)) if len(chosen) else []
        for _, cell in cells:
            rows.append({**row, **{name: cell[name].iloc[0] for name in SETTINGS}, **_at(cell, value.size)})
        if not cells:
            rows.append({**row, **dict.fromkeys(SETTINGS, ""), **_at(None, value.size)})
    return pd.DataFrame(rows)


def _at(cell: pd.DataFrame | None, size: int) -> dict[str, float]:
    """Return a cell's measures at a size, interpolated in log k; NaN beyond its curve."""
    columns = [f"{measure}{end}" for measure in MEASURES for end in ("", "_low", "_high")]
    if cell is None:
        return dict.fromkeys(columns, math.nan)
    curve = cell[cell["size"] > 0].sort_values("size")
    logs = np.log(curve["size"].to_numpy(dtype=float))
    values = {name: curve[name].to_numpy(dtype=float) for name in columns}
    known = {name: ~np.isnan(row) for name, row in values.items()}  # complements are not measured at every size
    return {
        name: float(np.interp(math.log(size), logs[known[name]], row[known[name]], left=math.nan, right=math.nan))
        if known[name].any()
        else math.nan
        for name, row in values.items()
    }


def render_reported(results: pd.DataFrame, reported: Reported, width: int | None = None) -> str:
    """Write the comparison as text.

    Args:
        results: what `load_results` returned.
        reported: the reported values.
        width: of the terminal, None for no limit.
    """
    table = beside_reported(results, reported)
    heads = ("task", "basis", "method", "errors", "scores to", "scores on", "nodes", "measure", "reported", "ours")
    rows = [
        (
            str(row.task), str(row.basis), str(row.method), *(str(getattr(row, name)) for name in SETTINGS),
            str(row.size), measure,
            f"{getattr(row, f'{measure}_reported'):.2f}", _ours(row, measure),
        )
        for row in table.itertuples()
        for measure in MEASURES
    ]  # fmt: skip
    title = f"{reported.model}; reported by {reported.source.strip()}"
    said = ("", "reported in words:", *(f"- {statement}" for statement in reported.statements))
    return plain_text(Table(title, heads, tuple(tuple(map(Entry, row)) for row in rows), said), width)


def _ours(row: object, measure: str) -> str:
    value, low, high = (getattr(row, f"{measure}{end}") for end in ("", "_low", "_high"))
    return "no record" if math.isnan(value) else f"{value:.2f} [{low:.2f}, {high:.2f}]"
