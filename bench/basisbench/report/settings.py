"""What the page compares: settings with their rows, best marks and medians, and which cells stand beside which.

1. A setting is a set of conditions (`basisbench.results.conditions`). A basis without errors is in the settings of all
   error policies of the dictionaries beside it, so a cell may be in several.
2. Marks and medians are those of tables (`basisbench.results.marks`, `basisbench.results.medians`).
3. Cells that differ in one thing that changes how a circuit is found or counted (`BESIDE`) stand beside each other on a
   cell's own page; no table mixes them.
"""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from basisbench.results.columns import TASK_SEPARATOR
from basisbench.results.compare import beside_node
from basisbench.results.conditions import CONDITIONS, join_policies, split_conditions
from basisbench.results.display import Display, family_order
from basisbench.results.marks import mark_best
from basisbench.results.medians import median_table

UNDER_NODE = ("nodes_to_80_node", "nodes_to_80_node_low", "nodes_to_80_node_high")

BESIDE = ("error_policy", "score_split", "score_reference", "bos", "metric", "attribution_draw")
"""Columns in which cells beside each other differ."""

_SPECIAL = {
    ("error_policy", "node"): "errors as one node each",
    ("error_policy", "ablate"): "errors at reference",
    ("score_split", "evaluation"): "held in",
    ("score_split", "attribution"): "held out",
    ("score_split", "other_templates"): "scores of other templates",
}


_TOLD = {
    "error_policy": "error policy {}",
    "score_split": "scores on the {} pairs",
    "score_reference": "scores for the {} value",
    "ablation": "{} ablation",
    "model": "{}",
    "seed": "seed {}",
    "attribution_draw": "attribution draw {}",
    "granularity": "granularity {}",
    "bos": "bos {}",
    "metric": "metric {}",
    "layers": "layers {}",
    "basisbench": "BasisBench {}",
    "model_hash": "weights {}",
    "attribution_pairs": "{} attribution pairs",
    "evaluation_pairs": "{} evaluation pairs",
    "ranking": "ranking {}",
    "ties": "ties by {}",
    "size_grid": "sizes {}",
}
"""How a short title names a condition, what a reader looks for first."""


def short_titles(settings: Sequence[tuple[str, pd.DataFrame]]) -> list[str]:
    """Return for each setting the conditions in which settings differ; its title where they differ in none."""
    values = [{name: " and ".join(map(str, dict.fromkeys(rows[name]))) for name in _TOLD} for _, rows in settings]
    differing = [name for name in _TOLD if len({own[name] for own in values}) > 1]
    return [
        ", ".join(_TOLD[name].format(own[name]) for name in differing) or title
        for (title, _), own in zip(settings, values, strict=True)
    ]


def settings_of(table: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """Return the settings: a title, and the rows of the table that belong to it with best marks.

    Args:
        table: rows of `summarise` with `task_label`, and `row`, the number of each.

    Returns:
        Rows also have `compare.beside_node`'s columns.
    """
    marked = mark_best(join_policies(table), [*CONDITIONS, "task_label", "family", "method"])
    return split_conditions(beside_node(marked, ["task_label", "source"]), repeated=True)


def medians_of(table: pd.DataFrame, settings: Sequence[tuple[str, pd.DataFrame]], display: Display) -> pd.DataFrame:
    """Return the medians over the tasks of suites, in the order of tables.

    Returns:
        Rows of `medians.median_table` with `setting`, a number; `source` and `status` of the basis; `tasks_asked`, how
        many tasks the suite has; `compare.beside_node`'s columns.
    """
    keys = [*CONDITIONS, "family"]
    places = {key: number for number, (_, rows) in enumerate(settings) for key in _keys(rows[keys])}
    medians = beside_node(median_table(table), ["suite_tasks"])
    name = ["model_hash", "basis"]
    owners = table.drop_duplicates(name).set_index(name).reindex(pd.MultiIndex.from_frame(medians[name]))
    medians = medians.assign(
        setting=[places[key] for key in _keys(medians[keys])],
        source=owners["source"].to_numpy(),
        status=owners["status"].to_numpy(),
        tasks_asked=[len(str(tasks).split(TASK_SEPARATOR)) for tasks in medians["suite_tasks"]],
    )
    order = sorted(
        range(len(medians)),
        key=lambda row: (
            medians["setting"].iloc[row],
            -medians["tasks_asked"].iloc[row],
            family_order(medians["family"].iloc[row]),
            display.method_order(medians["method"].iloc[row]),
            display.basis_order(medians["basis"].iloc[row]),
        ),
    )
    return medians.iloc[order].reset_index(drop=True)


def _keys(rows: pd.DataFrame) -> list[tuple[object, ...]]:
    return list(rows.itertuples(index=False, name=None))


def beside(table: pd.DataFrame) -> dict[int, list[tuple[str, str, int]]]:
    """Return for each row of a table the rows that stand beside it: what differs, in words, and the row's number."""
    found: dict[int, list[tuple[str, str, int]]] = {}
    own = [*CONDITIONS, "task", "task_version", "family", "method", "basis", "source"]
    for column in BESIDE:
        if table[column].nunique() < 2:
            continue
        for _, rows in table.groupby([name for name in own if name != column], sort=False):
            if rows[column].nunique() < 2:
                continue
            named = [
                (_SPECIAL.get((column, value), _TOLD[column].format(value)), int(row))
                for value, row in zip(rows[column], rows["row"], strict=True)
            ]
            for value, row in zip(rows[column], rows["row"], strict=True):
                others = [entry for entry, other in zip(named, rows[column], strict=True) if other != value]
                found.setdefault(int(row), []).extend((column, *entry) for entry in others)
    return found
