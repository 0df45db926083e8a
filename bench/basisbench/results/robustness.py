"""Does the ranking of bases hang on a choice: what is left of it when one choice is changed and the others stay.

1. Per model and family the *reference* has of every choice (`CHOICES`) the value that most cells have. Cells that
   differ from it in one choice alone are a *change*; those that differ in more are left out. Another summary of the
   same curves (`SUMMARIES`) is a change too, and so is each half of the task's templates (`TEMPLATES`): the same
   question in fewer wordings.
2. On each task the bases that both have, controls left out, are ranked by nodes to 80% under the reference and under
   the change: Kendall's tau-b of the two rankings. What is not reached stands behind all that is. Tasks below a gate
   are left out.
3. Over tasks it is the mean. Its interval draws tasks with replacement, and for each of them one of the resamples of
   its clusters, the same for both rankings (`medians.draw_tasks`).
4. Two bases *turn* where their order is the opposite; beyond doubt, where the paired interval of their difference
   leaves out 0 both times.
5. How far numbers move, whatever becomes of the ranking: a basis's median of nodes to 80% under the change over that
   under the reference, with the interval of the same draws.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import combinations
from types import MappingProxyType

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from basisbench.errors import RecordError
from basisbench.results.agreement import kendall_tau
from basisbench.results.bootstrap import difference_of_rows, estimate_rows, ratio_of_rows
from basisbench.results.columns import Column, Draws
from basisbench.results.conditions import CONDITIONS, join_policies, place_of
from basisbench.results.display import Display
from basisbench.results.draw_spread import Node, jaccard, named_nodes
from basisbench.results.frame import PathLike, records_of, summarise
from basisbench.results.medians import draw_tasks
from basisbench.results.metrics import METRICS
from basisbench.results.record import Record
from basisbench.results.templates import halves_of_templates, on_templates

CHOICES: Mapping[str, str] = MappingProxyType({
    "method": "attribution method",
    "ablation": "ablation",
    "error_policy": "error policy",
    "score_reference": "scores for",
    "score_split": "scores on the pairs of",
    "granularity": "granularity",
    "bos": "beginning of sequence",
    "metric": "metric",
    "attribution_pairs": "attribution pairs",
    "attribution_draw": "attribution draw",
    "seed": "seed",
})  # fmt: skip
"""Columns that are changed one at a time, with what they are called."""

MEASURE = "nodes_to_80"
"""What bases are ranked by."""

SUMMARIES = ("nodes_to_90", "bits_to_80", "settled_to_80", "area_faithfulness")
"""What they could be ranked by instead, from the same records."""

SUMMARY = "summary"
"""The choice that is a summary."""


TEMPLATES = "templates"
"""The choice that is a half of each task's templates: the examples of these alone, from the same records."""

_HALVES = ("first", "second")


def choice_name(choice: str) -> str:
    """Return what a choice is called in tables and pictures."""
    return {SUMMARY: "ranked by", TEMPLATES: "half of the templates"}.get(choice) or CHOICES[choice]


def over_tasks(found: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of changes over all tasks, of what `robustness` returned."""
    return found[(found["task"] == "") & (found["basis"] == "")]


_FIXED = [name for name in CONDITIONS if name not in CHOICES]


@dataclass(frozen=True, eq=False)
class _Ranking:
    """The bases of one task under one set of conditions.

    Attributes:
        rows: per basis its value, then the resampled ones; the smaller the better.
        bounds: what "not reached" is known to exceed.
    """

    rows: Float[np.ndarray, "basis row"]
    bounds: Sequence[float]

    def order(self, first: int, second: int) -> tuple[int, bool]:
        """Return which of two bases has the smaller value (-1: the first, 0: neither), and whether beyond doubt."""
        a, b = self.rows[first], self.rows[second]
        found = difference_of_rows(a, b, self.bounds[first], self.bounds[second])
        return int(a[0] > b[0]) - int(a[0] < b[0]), found.excludes_zero

    @property
    def best(self) -> set[int]:
        """The bases of the smallest value; none where nobody reaches the target."""
        values = self.rows[:, 0]
        return set(np.flatnonzero(values == values.min())) if np.isfinite(values.min()) else set()


@dataclass(frozen=True, eq=False)
class _OnTask:
    """What a change does on one task.

    Attributes:
        task: its name.
        bases: that both have, in the order of tables.
        before: under the reference.
        after: under the change.
        jaccard: of the best nodes that records name, mean over bases; NaN where they cannot be compared.
        same_examples: whether both are of the same evaluation pairs.
    """

    task: str
    bases: Sequence[str]
    before: _Ranking
    after: _Ranking
    jaccard: float
    same_examples: bool

    def tau(self) -> Float[np.ndarray, " row"]:
        """Return Kendall's tau-b of the values and of each resample."""
        return kendall_tau(self.before.rows.T, self.after.rows.T)

    def turns(self) -> tuple[int, int, list[str]]:
        """Return how many pairs the reference tells apart, how many turn, and which turn beyond doubt."""
        told, turned, sure = 0, 0, []
        for first, second in combinations(range(len(self.bases)), 2):
            (old, clear_before), (new, clear_after) = (each.order(first, second) for each in (self.before, self.after))
            told += clear_before
            turned += old * new < 0
            if old * new < 0 and clear_before and clear_after:
                names = (self.bases[first], self.bases[second])
                sure.append(" before ".join(names if old < 0 else names[::-1]))
        return told, turned, sure


def robustness(
    results: PathLike | Sequence[PathLike] | Sequence[Record],
    display: Display | None = None,
    *,
    method: str | None = None,
) -> pd.DataFrame:
    """Change one choice at a time, and say how the ranking of bases moves.

    Args:
        results: paths as `load_results` takes them, or records already read.
        display: order of bases and methods.
        method: method of the reference; by default the one of most cells.

    Returns:
        A row per change and task, per change over all tasks (`task` is then ""), and per change and basis over all
        tasks (`basis` is then not ""):

        - `model`, `model_hash`, `family`; `conditions`: the reference in words, as far as records differ in it.
        - `choice`: a key of `CHOICES`, "templates" or "summary"; `reference`, `value`: what it was and what it is, as
          text.
        - `task`, `tasks`: of one, or of how many; `bases`: how many are ranked (the most, over tasks).
        - `tau`, `tau_low`, `tau_high`: Kendall's tau-b with its 95% interval; NaN where all bases tie. An undefined tau
          counts as 0 in resamples and in the mean over tasks.
        - `best_stays`: tasks on which the best basis is the same.
        - `pairs`, `told`: pairs of bases, and those that the reference tells apart; `turned`, `turned_surely`: those
          that turn, and those that do beyond doubt; `turns`: these, the reference's order, separated by "; ".
        - `jaccard`: of the best nodes that records name (20), mean over bases and tasks; NaN for other kinds of nodes.
        - `other_examples`: tasks whose evaluation pairs are others too.
        - `basis`, `before`, `after`: medians of nodes to 80%; `ratio`, `ratio_low`, `ratio_high`: after over before.

    Raises:
        RecordError: no record is found, one is malformed, there is no such method, or nothing is changed.
    """
    found = changes_of(records_of(results), display or Display(), method=method)
    if found.empty:
        raise RecordError(
            "nothing to compare: no two bases have cells that differ in one choice alone (basisbench run robust)"
        )
    return found


def changes_of(records: Sequence[Record], display: Display, *, method: str | None = None) -> pd.DataFrame:
    """Return what `robustness` does; no rows where no choice is changed.

    Raises:
        RecordError: a record is malformed, or there is no such method.
    """
    facts = {record.id: _Facts.of(record) for record in records}
    by_id = {record.id: record for record in records}
    summary = summarise(records)
    if method is not None and method not in set(summary["method"]):
        raise RecordError(f"no result has the method '{method}'; there are {', '.join(sorted(set(summary['method'])))}")
    shown = join_policies(summary[~summary["control"] & ~summary["degenerate"]])
    rows: list[dict[str, Column]] = []
    for _, part in shown.groupby([*_FIXED, "family"]):
        rows += _rows_of(part, by_id, facts, display, method)
    return pd.DataFrame(rows)


@dataclass(frozen=True, eq=False)
class _Facts:
    """What tells whether two cells are of the same examples, and the nodes that a record names."""

    full: Float[np.ndarray, " example"]
    clusters: Mapping[str, Sequence[int]]
    kinds: tuple[str, ...]
    nodes: frozenset[Node]

    @classmethod
    def of(cls, record: Record) -> _Facts:
        kinds = (record.cell.granularity, *sorted(group.key for group in record.groups))
        return cls(np.array(record.endpoints.full), record.clusters, kinds, named_nodes(record))

    def same_examples(self, other: _Facts) -> bool:
        """Return whether both are of the same evaluation pairs; F(M) of two runs is the same up to rounding."""
        alike = self.clusters == other.clusters and len(self.full) == len(other.full)
        return alike and bool(np.allclose(self.full, other.full, rtol=0, atol=1e-2))

    def jaccard(self, other: _Facts) -> float:
        """Return the Jaccard index of the nodes that both name; NaN where their kinds differ, and of none."""
        return jaccard(self.nodes, other.nodes) if self.kinds == other.kinds else math.nan


def reference_of(part: pd.DataFrame, display: Display, method: str | None = None) -> dict[str, object]:
    """Return the value of every choice that most cells have; where several have as many, the first in order.

    Args:
        part: rows of one model and family.
        display: order of methods.
        method: the method, where it is given.
    """
    cells = part.drop_duplicates("cell_id")
    found: dict[str, object] = {}
    for name in CHOICES:
        counts = cells[name].value_counts()
        most = [value for value, count in counts.items() if count == counts.max()]
        if name == "method":
            found[name] = min(map(str, most), key=display.method_order)
        else:
            found[name] = min(most, key=partial(place_of, name))
    return found | ({"method": method} if method is not None else {})


def _rows_of(
    part: pd.DataFrame,
    records: Mapping[str, Record],
    facts: Mapping[str, _Facts],
    display: Display,
    method: str | None,
) -> list[dict[str, Column]]:
    """Return the rows of all changes of one model and family."""
    reference = reference_of(part, display, method)
    differs = pd.DataFrame({name: part[name] != value for name, value in reference.items()})
    base, one = part[differs.sum(axis=1) == 0], part[differs.sum(axis=1) == 1]
    first = part.iloc[0]
    shared: dict[str, Column] = {name: str(first[name]) for name in ("model", "model_hash", "family")}
    told = (name for name in CHOICES if part[name].nunique() > 1)
    shared["conditions"] = ", ".join(f"{CHOICES[name]} {reference[name]}" for name in told)
    rows: list[dict[str, Column]] = []
    for name, usual in reference.items():
        changed = one[differs.loc[one.index, name]]
        for value in sorted(changed[name].unique(), key=lambda value: place_of(name, value)):
            tasks = _tasks_of(base, changed[changed[name] == value], MEASURE, facts, facts, display)
            what: dict[str, Column] = {"choice": name, "reference": str(usual), "value": str(value)}
            rows += _change_rows({**shared, **what}, tasks, moved=True)
    if not rows:
        return []
    for half, name in enumerate(_HALVES):
        some = [each for each in (_half(records[cell], half) for cell in base["cell_id"].unique()) if each is not None]
        if some:
            what = {"choice": TEMPLATES, "reference": "all", "value": name}
            own = {record.id: _Facts.of(record) for record in some}
            tasks = _tasks_of(base, _as_in(base, summarise(some)), MEASURE, facts, own, display)
            rows += _change_rows({**shared, **what}, tasks, moved=True)
    for name in SUMMARIES:
        what = {"choice": SUMMARY, "reference": MEASURE, "value": name}
        rows += _change_rows({**shared, **what}, _tasks_of(base, base, name, facts, facts, display), moved=False)
    return rows


def _half(record: Record, half: int) -> Record | None:
    """Return a record on one half of its templates; None where it has one template only."""
    halves = halves_of_templates([group.key for group in record.groups])
    return on_templates(record, halves[half]) if all(halves) else None


def _as_in(base: pd.DataFrame, frame: pd.DataFrame) -> pd.DataFrame:
    """Return a frame of the same cells with the names of bases that they have among all cells."""
    frame = frame[~frame["degenerate"]]
    return frame.assign(basis=frame["cell_id"].map(base.drop_duplicates("cell_id").set_index("cell_id")["basis"]))


def _tasks_of(
    base: pd.DataFrame,
    changed: pd.DataFrame,
    measure: str,
    facts: Mapping[str, _Facts],
    changed_facts: Mapping[str, _Facts],
    display: Display,
) -> list[_OnTask]:
    """Return what a change does on every task that both have, of at least two bases and above the gates."""
    found: list[_OnTask] = []
    for (task, version), cells in base.groupby(["task", "task_version"]):
        others = changed[(changed["task"] == task) & (changed["task_version"] == version)]
        names = sorted({*cells["basis"]} & {*others["basis"]}, key=display.basis_order)
        own, other = (rows.drop_duplicates("basis").set_index("basis").loc[names] for rows in (cells, others))
        if len(names) < 2 or own["gate"].ne("").any() or other["gate"].ne("").any():
            continue
        pairs = [(facts[x], changed_facts[y]) for x, y in zip(own["cell_id"], other["cell_id"], strict=True)]
        indices = [x.jaccard(y) for x, y in pairs]
        found.append(
            _OnTask(
                task=str(task),
                bases=names,
                before=_ranking(own["draws"], MEASURE),
                after=_ranking(other["draws"], measure),
                jaccard=math.nan if any(map(math.isnan, indices)) else sum(indices) / len(indices),
                same_examples=all(x.same_examples(y) for x, y in pairs),
            )
        )
    return found


def _ranking(draws: Sequence[Draws], measure: str) -> _Ranking:
    sign = 1.0 if METRICS[measure].direction == "lower" else -1.0
    return _Ranking(np.stack([sign * each.rows[measure] for each in draws]), [each.bounds[measure] for each in draws])


def _change_rows(shared: Mapping[str, Column], tasks: Sequence[_OnTask], *, moved: bool) -> list[dict[str, Column]]:
    """Return the rows of one change: of each task, of all, and of each basis where its numbers may have moved."""
    if not tasks:
        return []
    own = [_ranking_row(shared, [each]) | {"task": each.task} for each in tasks]
    rows = [*own, _ranking_row(shared, tasks)]
    bases = list(dict.fromkeys(name for each in tasks for name in each.bases)) if moved else []
    return [*rows, *(_basis_row(shared, tasks, name) for name in bases)]


def _ranking_row(shared: Mapping[str, Column], tasks: Sequence[_OnTask]) -> dict[str, Column]:
    taus = np.stack([each.tau() for each in tasks])
    known = np.nan_to_num(taus, nan=0.0)
    drawn = known[_picks(tasks)].mean(axis=1)
    value = math.nan if np.isnan(taus[:, 0]).all() else known[:, 0].mean()
    number = estimate_rows(np.append(value, drawn))
    told, turned, sure = zip(*(each.turns() for each in tasks), strict=True)
    indices = [each.jaccard for each in tasks]
    return {
        **shared,
        "task": "",
        "tasks": len(tasks),
        "bases": max(len(each.bases) for each in tasks),
        "tau": number.value,
        "tau_low": number.low,
        "tau_high": number.high,
        "best_stays": sum(bool(each.before.best & each.after.best) for each in tasks),
        "pairs": sum(math.comb(len(each.bases), 2) for each in tasks),
        "told": sum(told),
        "turned": sum(turned),
        "turned_surely": sum(map(len, sure)),
        "turns": "; ".join(name for names in sure for name in names),
        "jaccard": math.nan if any(map(math.isnan, indices)) else sum(indices) / len(indices),
        "other_examples": sum(not each.same_examples for each in tasks),
        "basis": "",
    }


def _basis_row(shared: Mapping[str, Column], tasks: Sequence[_OnTask], basis: str) -> dict[str, Column]:
    """Return how far the median of nodes to 80% of a basis moves, over the tasks that have it."""
    own = [(each, each.bases.index(basis)) for each in tasks if basis in each.bases]
    picks = _picks([each for each, _ in own])
    medians, bounds = [], []
    for side in ("before", "after"):
        rankings: list[_Ranking] = [getattr(each, side) for each, _ in own]
        rows = np.stack([ranking.rows[at] for ranking, (_, at) in zip(rankings, own, strict=True)])
        known = np.array([ranking.bounds[at] for ranking, (_, at) in zip(rankings, own, strict=True)])
        medians.append(np.append(np.median(rows[:, 0]), np.median(rows[picks], axis=1)))
        bounds.append(float(np.median(np.where(np.isinf(rows[:, 0]), known, rows[:, 0]))))
    found = ratio_of_rows(medians[1], medians[0], bounds[1], bounds[0])
    return {
        **shared,
        "task": "",
        "tasks": len(own),
        "basis": basis,
        "before": float(medians[0][0]),
        "after": float(medians[1][0]),
        "ratio": found.value,
        "ratio_low": found.low,
        "ratio_high": found.high,
    }


def _picks(tasks: Sequence[_OnTask]) -> tuple[Int[np.ndarray, "draw task"], Int[np.ndarray, "draw task"]]:
    return draw_tasks([each.task for each in tasks])
