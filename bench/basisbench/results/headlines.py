"""Tables above the details: medians over tasks, what there is to explain in each task, who gets no best mark."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import pandas as pd

from basisbench.results.columns import TASK_SEPARATOR
from basisbench.results.display import Display, family_order, unique
from basisbench.results.metrics import METRICS
from basisbench.results.tables import COSTS, DETAILS, Entry, Table, beside_text, interval_text, number_text, task_name

HEADLINES = {
    "nodes_to_80": "Nodes to 80% faithfulness",
    "bits_to_80": "Bits to 80% faithfulness",
    "area_faithfulness": "Area of faithfulness over log k (higher is better)",
    "cpr": "MIB's CPR, over the share of nodes (higher is better)",
    "cmd": "MIB's CMD, over the share of nodes",
    "seconds": "Seconds",
}
"""Metrics whose medians the Markdown page has, a table each."""

ADVICE = {
    "accuracy": "Accuracy below its gate: the model does not know the task; take another model, task or prompt form.",
    "of F(M) <": "Gap below 20% of F(M): the family matters little here; take another family or task.",
    "standard errors": "Gap within its errors: take more pairs (--examples), more layers, or another task.",
}
"""What to do about a gate, by what its reason has in it (`gates.gate_of`)."""

_WITH_INTERVAL = ("nodes_to_80", "area_faithfulness")


def headline_tables(medians: pd.DataFrame, display: Display, names: Sequence[str], *, intervals: bool) -> list[Table]:
    """Return medians over tasks under one set of conditions: family and basis down, methods across; a table per metric.

    Args:
        medians: rows of `medians.median_table` of one set of conditions.
        display: order of bases and methods.
        names: metrics to show, some of `HEADLINES`.
        intervals: whether intervals are written.
    """
    methods = sorted(unique(medians, "method"), key=display.method_order)
    tables: list[Table] = []
    for _, part in medians.groupby("suite_tasks", sort=False):
        cells = {(row["family"], row["basis"], row["method"]): row for _, row in part.iterrows()}
        for name in names:
            rows = [
                (*map(Entry, key), *(_entry(cells.get((*key, method)), name, intervals) for method in methods))
                for key in _bases(part, display)
            ]
            title = f"{HEADLINES[name]}, {_over(part)}"
            tables.append(Table(title, ("family", "basis", *methods), tuple(rows), _left_out(part)))
    return tables


def median_tables(medians: pd.DataFrame, display: Display) -> list[Table]:
    """Return medians over tasks of several metrics under one method: a row per basis.

    Args:
        medians: rows of `medians.median_table` of one set of conditions and one method, with `compare.beside_node`.
        display: order of bases.
    """
    headings = {name: text for name, text in (DETAILS | COSTS).items() if name != "units_to_80"}
    tables: list[Table] = []
    for _, part in medians.groupby("suite_tasks", sort=False):
        cells = {(row["family"], row["basis"]): row for _, row in part.iterrows()}
        rows = [
            (*map(Entry, key), *(_entry(cells[key], name, name in _WITH_INTERVAL) for name in headings))
            for key in _bases(part, display)
        ]
        title = f"Under {part['method'].iloc[0]}, {_over(part)}"
        tables.append(Table(title, ("family", "basis", *headings.values()), tuple(rows)))
    return tables


def task_table(part: pd.DataFrame) -> Table:
    """Return what there is to explain in each task: accuracy, gap, and why nobody gets a best mark there.

    Args:
        part: rows of one set of conditions, of `compare_table`.
    """
    families = sorted(unique(part, "family"), key=family_order)
    rows = []
    for _, task in part.groupby(["task", "task_version"]):
        first = {str(family): cells.iloc[0] for family, cells in task.groupby("family")}
        some = next(iter(first.values()))
        reasons = _by_family({family: str(row["gate"]) for family, row in first.items()})
        reasons += [f"few levels of {some['few_clusters']}"] if some["few_clusters"] else []
        texts = [task_name(some, part).removesuffix(" !"), str(some["examples"]), str(some["groups"])]
        texts += [f"{some['accuracy']:.2f}", *(_gap(first.get(family)) for family in families), "; ".join(reasons)]
        rows.append(tuple(map(Entry, texts)))
    header = ("task", "n", "groups", "accuracy", *(f"gap, {family}" for family in families), "no best mark, for")
    title = "What there is to explain: accuracy of the model; gap F(M) - F(0) in logits, with its share of |F(M)|"
    gates = " ".join(part["gate"])
    return Table(title, header, tuple(rows), tuple(text for begin, text in ADVICE.items() if begin in gates))


def unfit_lines(part: pd.DataFrame) -> list[str]:
    """Return which bases get no best mark, why, and on which tasks."""
    lines = []
    for (family, basis, reason), cells in part[part["unfit"] != ""].groupby(["family", "basis", "unfit"]):
        lines.append(f"{basis} ({family}): {reason}, {', '.join(sorted(set(cells['task'])))}")
    return lines


def _by_family(texts: Mapping[str, str]) -> list[str]:
    """Return the distinct texts, each with the families that it holds for where it does not hold for all."""
    holds = {text: [family for family in texts if texts[family] == text] for text in texts.values() if text}
    return [text if len(own) == len(texts) else f"{', '.join(own)}: {text}" for text, own in holds.items()]


def _gap(row: pd.Series | None) -> str:
    if row is None:
        return "-"
    family = float(row["family_gap_share"])
    of_all = "" if math.isnan(family) else f", {family:.0%} of all layers'"
    return f"{row['gap']:.2f} ({row['gap_share']:.0%}{of_all})"


def _bases(part: pd.DataFrame, display: Display) -> list[tuple[str, str]]:
    """Return families and bases in order."""
    found = {(str(family), str(basis)) for family, basis in zip(part["family"], part["basis"], strict=True)}
    return sorted(found, key=lambda row: (family_order(row[0]), display.basis_order(row[1])))


def _over(part: pd.DataFrame) -> str:
    """Say what the medians are over."""
    tasks = str(part["suite_tasks"].iloc[0]).split(TASK_SEPARATOR)
    suite = str(part["suite"].iloc[0])
    return f"median over {len(tasks)} tasks{f' of {suite}' if suite else ''}" if len(tasks) > 1 else f"task {tasks[0]}"


def _left_out(part: pd.DataFrame) -> tuple[str, ...]:
    """Say which tasks are below a gate, by family."""
    return tuple(f"Left out: {text}." for text in _by_family(dict(zip(part["family"], part["left_out"], strict=True))))


def _entry(row: pd.Series | None, name: str, interval: bool) -> Entry:
    """Write a median: how many tasks the basis has where it lacks some, in how many the target is reached otherwise."""
    if row is None:
        return Entry("-")
    if row["tasks_found"] < row["tasks"] or not row["tasks"]:
        return Entry(f"{row['tasks_found']}/{row['tasks']} tasks")
    value = float(row[name])
    if name not in METRICS:
        return Entry(beside_text(value, name))
    best = bool(row[f"{name}_best"])
    if f"{name}_low" not in row:  # a cost
        return Entry(number_text(value, name), best)
    low, high = (float(row[f"{name}_{end}"]) if interval else value for end in ("low", "high"))
    text = interval_text(value, low, high, name, f">{number_text(float(row[f'{name}_bound']), name)}")
    unreached = METRICS[name].unit in ("nodes", "bits") and row[f"{name}_reached"] < row["tasks"]
    return Entry(f"{text} ({row[f'{name}_reached']}/{row['tasks']})" if unreached else text, best)
