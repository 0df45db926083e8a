"""Medians over the tasks of a suite, with intervals over tasks and clusters.

1. The suite fixes the tasks (`suite_tasks`), so a folder with another task changes no median. Records of schema 1 do
   not say it: the set of tasks that most bases have stands for it there.
2. Tasks below a gate are left out for a whole family.
3. A basis that lacks one of the others has no median, and changes nobody's.
4. In a resample tasks are drawn with replacement, and for each of them one of the resamples of its cells
   (`columns.Draws`); all bases get the same ones, so that their differences are paired.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from jaxtyping import Int

from basisbench.results.bootstrap import DRAWS, LEAST_LEVELS, SEED, estimate_rows
from basisbench.results.columns import TASK_SEPARATOR, Column, Draws
from basisbench.results.conditions import CONDITIONS, join_policies
from basisbench.results.marks import mark_best
from basisbench.results.metrics import METRICS, STATISTICS

SHARED = tuple(name for name in CONDITIONS if name != "layers")


def median_table(summary: pd.DataFrame) -> pd.DataFrame:
    """Return the medians over tasks of every basis and method, for every set of tasks that a suite fixes.

    Args:
        summary: what `summarise` or `compare_table` returned.

    Returns:
        A row per set of conditions, set of tasks, family, method and basis, with the columns of
        `conditions.CONDITIONS`, `family`, `method`, `basis`, `exact`, and:

        - `suite`: names of the suites that fix this set of tasks; `suite_tasks`: the set, separated by ", ".
        - `left_out`: tasks of the set that are below a gate in this family, with the reason; `tasks`: how many are
          left; `tasks_found`: how many of these the basis has, and `cells`: the ids of their cells, in order of tasks.
        - each metric of `metrics.METRICS`: the median, NaN where the basis lacks a task. Statistics also with `_low`
          and `_high`, the ends of the 95% interval, `_reached`, the number of tasks in which it is finite, and
          `_bound`, what a median that is infinite is known to exceed.
        - `no_mark`: why the basis gets no best mark; `<metric>_best`: whether it has one; `draws`: as in `summarise`.
    """
    rows: list[dict[str, Column]] = []
    for _, part in join_policies(summary).groupby(list(SHARED)):
        versions = part.groupby("task")["task_version"].agg(lambda values: values.mode().iloc[-1])
        part = part[part["task_version"] == part["task"].map(versions)]
        for tasks, suites in _task_sets(part).items():
            for _, family in part[part["task"].isin(tasks)].groupby(["family", "layers"]):
                rows += _family_rows(family, tasks, suites)
    table = pd.DataFrame(rows)
    return mark_best(table, [*CONDITIONS, "family", "method", "suite_tasks"]) if rows else table


def _task_sets(part: pd.DataFrame) -> Mapping[tuple[str, ...], str]:
    """Return the sets of tasks to take medians over, the largest first, with the names of their suites.

    A set of one task is left out where there are larger ones: it has a table of its own. So is a part of a suite, which
    was run for some of its tasks, where there is a larger part with the same tasks.
    """
    suites: dict[tuple[str, ...], set[str]] = {}
    found = {(str(name), str(tasks)) for name, tasks in zip(part["suite"], part["suite_tasks"], strict=True) if tasks}
    sets = {(name, frozenset(tasks.split(TASK_SEPARATOR))) for name, tasks in found}
    for name, tasks in sorted(found):
        own = tuple(tasks.split(TASK_SEPARATOR))
        if not any(name == other and set(own) < larger for other, larger in sets):
            suites.setdefault(own, set()).add(name)
    if not suites:
        owned = Counter(tuple(sorted(set(rows["task"]))) for _, rows in part.groupby(["family", "basis"]))
        suites = {max(owned, key=lambda tasks: (owned[tasks], len(tasks), tasks)): set()}
    largest = max(map(len, suites))
    chosen = [tasks for tasks in suites if len(tasks) > 1 or largest == 1]
    return {tasks: ", ".join(sorted(suites[tasks])) for tasks in sorted(chosen, key=lambda tasks: (-len(tasks), tasks))}


def _family_rows(family: pd.DataFrame, tasks: Sequence[str], suites: str) -> list[dict[str, Column]]:
    """Return the medians of a family's bases under each method."""
    gates = {task: _gate(cells) for task, cells in family.groupby("task")}
    below = {task: gates[task] for task in tasks if gates.get(task)}
    counted = [task for task in tasks if task not in below]
    picks = draw_tasks(counted)
    rows = []
    for (method, basis), cells in family.groupby(["method", "basis"]):
        found = cells[cells["task"].isin(counted)].drop_duplicates("task").set_index("task")
        own = found.reindex([task for task in counted if task in found.index])
        first = cells.iloc[0]
        rows.append(
            {
                **{name: first[name] for name in CONDITIONS},
                "family": first["family"],
                "method": method,
                "basis": basis,
                "exact": bool(first["exact"]),
                "suite": suites,
                "suite_tasks": TASK_SEPARATOR.join(tasks),
                "left_out": "; ".join(f"{task}: {reason}" for task, reason in below.items()),
                "tasks": len(counted),
                "tasks_found": len(own),
                "cells": " ".join(own["cell_id"]),
                "no_mark": _no_mark(own, len(counted)),
                **_medians(own, picks if len(own) == len(counted) > 0 else None),
            }
        )
    return rows


def _gate(cells: pd.DataFrame) -> str:
    """Return why a task is below a gate in a family: what most cells say, those of neurons where there are any."""
    judges = cells[cells["exact"]] if cells["exact"].any() else cells
    return str(judges["gate"].mode().iloc[0])


def _no_mark(cells: pd.DataFrame, tasks: int) -> str:
    """Return why the median of these cells gets no best mark; "" where it may get one.

    Over at least 8 tasks the interval stands on their spread; over fewer, each task's own interval must be reliable.
    """
    if len(cells) < tasks or not tasks:
        return f"{len(cells)}/{tasks} tasks"
    for task, reason in zip(cells.index, cells["unfit"], strict=True):
        if reason:
            return f"{reason}, {task}" if reason != "control" else str(reason)
    few = cells.index[cells["few_clusters"] != ""]
    return f"few levels of {cells['few_clusters'][few[0]]}, {few[0]}" if len(few) and tasks < LEAST_LEVELS else ""


def _medians(cells: pd.DataFrame, picks: tuple[np.ndarray, np.ndarray] | None) -> dict[str, Column]:
    """Return the median of every metric over the cells of all tasks; NaN without them."""
    columns: dict[str, Column] = {}
    drawn: dict[str, np.ndarray] = {}
    bounds: dict[str, float] = {}
    for name in METRICS:
        values = cells[name].to_numpy(dtype=float)
        columns[name] = float("nan") if picks is None else float(np.median(values))
        if name not in STATISTICS:
            continue
        ends = (float("nan"), float("nan"))
        if picks is not None:
            rows = np.stack([draws.rows[name] for draws in cells["draws"]])
            drawn[name] = np.append(np.median(values), np.median(rows[picks], axis=1))
            known = [draws.bounds[name] for draws in cells["draws"]]
            bounds[name] = float(np.median(np.where(np.isinf(values), known, values)))
            number = estimate_rows(drawn[name])
            ends = (number.low, number.high)
        columns |= {f"{name}_low": ends[0], f"{name}_high": ends[1]}
        columns |= {f"{name}_reached": int(np.isfinite(values).sum()), f"{name}_bound": bounds.get(name, float("nan"))}
    pairing = hashlib.sha256("".join(draws.pairing for draws in cells["draws"]).encode()).hexdigest()
    return columns | {"draws": Draws(pairing, drawn, bounds)}


def draw_tasks(tasks: Sequence[str]) -> tuple[Int[np.ndarray, "draw task"], Int[np.ndarray, "draw task"]]:
    """Draw tasks with replacement, and for each one of the resamples of its cells (row 0 is no resample).

    Each resample comes once in a place, in random order: the median over one task has the interval and the marks that
    the task itself has.
    """
    seed = int.from_bytes(hashlib.sha256(TASK_SEPARATOR.join(tasks).encode()).digest()[:8])
    generator = np.random.default_rng([SEED, seed])
    drawn = generator.integers(0, max(len(tasks), 1), size=(DRAWS, len(tasks)))
    resamples = [1 + generator.permutation(DRAWS) for _ in tasks]
    return drawn, np.stack(resamples, axis=1) if resamples else drawn
