"""What a record says, column by column; `basisbench.results.frame` lays the columns out and documents them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from jaxtyping import Float

from basisbench.errors import RecordError
from basisbench.results.bisection import scored_nodes
from basisbench.results.bootstrap import estimate_rows, few_clusters, resample_weights
from basisbench.results.conditions import layers_text
from basisbench.results.gates import gate_of, no_mark, unfit
from basisbench.results.halves import halves_columns
from basisbench.results.metrics import (
    STATISTICS,
    CurveValues,
    Normalised,
    normalise,
    not_reached_bound,
    statistics_of,
)
from basisbench.results.record import Record

Column: TypeAlias = "float | int | str | bool | Draws | None"
Labels: TypeAlias = "Mapping[tuple[str, str, str, str | None], str]"

TASK_SEPARATOR = ", "


@dataclass(frozen=True, eq=False)
class Draws:
    """The statistics of a cell in every resample, which best marks and intervals of medians are made of.

    Attributes:
        pairing: equal for cells of the same examples with the same clusters, of whatever model; their resamples are the
            same.
        rows: by statistic, the value and then the resampled values.
        bounds: by statistic, what "not reached" is known to exceed.
    """

    pairing: str
    rows: Mapping[str, Float[np.ndarray, " row"]]
    bounds: Mapping[str, float]

    def __repr__(self) -> str:
        return f"Draws({self.pairing[:8]})"


def normalised(record: Record) -> Normalised:
    """Normalise a record's curve; row 0 is the sample, the others its resamples.

    Raises:
        RecordError: the sizes do not run 0, 1, ..., N.
    """
    curve = record.curve
    missing = (np.nan,) * len(record.endpoints.full)
    try:
        values = CurveValues(
            sizes=curve.sizes,
            total=curve.sizes[-1],
            full=np.array(record.endpoints.full),
            empty=np.array(record.endpoints.empty),
            circuit=np.array(curve.circuit).T,
            complement=np.array([missing if row is None else row for row in curve.complement]).T,
            scored=scored_nodes(record),
            area_end=record.counts.area_end,
        )
    except ValueError as error:
        raise RecordError(f"record {record.id}: curve: {error}") from error
    return normalise(values, resample_weights(len(record.endpoints.full), record.clusters))


def basis_labels(records: Iterable[Record]) -> Labels:
    """Return the label of each (model, its weights' hash, basis, dictionary hash): the name, unique or made so.

    Two trainings of dictionaries for the same weights go by the names of two models, and are told apart by those.
    """
    weights: dict[tuple[str, str, str], set[str | None]] = {}
    for record in records:
        key = (record.cell.model, record.identities.model, record.cell.basis)
        weights.setdefault(key, set()).add(record.identities.dictionary)
    return {
        (*key, digest): key[-1] if len(digests) == 1 else f"{key[-1]} ({(digest or 'no weights')[:8]})"
        for key, digests in weights.items()
        for digest in digests
    }


def identity_columns(record: Record, labels: Labels) -> dict[str, Column]:
    """Return the columns that say which cell a row belongs to, and whether there is something to explain in it."""
    cell, identities = record.cell, record.identities
    gate = gate_of(record)
    return {
        "cell_id": record.id,
        "model": cell.model,
        "model_hash": identities.model[:12],
        "tuned_tokens": 0 if record.tuning is None else record.tuning.tokens,
        "basisbench": record.basisbench,
        "task": cell.task,
        "task_version": cell.task_version,
        "family": cell.family,
        "basis": labels[cell.model, identities.model, cell.basis, identities.dictionary],
        "method": cell.method,
        "ablation": cell.ablation,
        "error_policy": cell.error_policy,
        "exact": record.guard is None,
        "granularity": cell.granularity,
        "score_reference": cell.score_reference,
        "score_split": cell.score_split,
        "bos": cell.bos,
        "metric": cell.metric,
        "ranking": cell.ranking,
        "ties": cell.ties,
        "size_grid": cell.sizes,
        "layers": layers_text(cell.layers),
        "seed": cell.seed,
        "attribution_draw": cell.attribution_draw,
        "attribution_pairs": cell.attribution_pairs,
        "evaluation_pairs": cell.evaluation_pairs,
        "examples": len(record.endpoints.full),
        "groups": len(record.groups),
        "total_nodes": record.curve.sizes[-1],
        "scored_nodes": scored_nodes(record),
        "control": record.control,
        "full_mean": float(np.mean(record.endpoints.full)),
        "empty_mean": float(np.mean(record.endpoints.empty)),
        "accuracy": record.endpoints.accuracy,
        "gap": gate.gap,
        "gap_error": gate.standard_error,
        "gap_share": gate.share,
        "family_gap_share": gate.family_share,
        "gate": gate.reason,
        "few_clusters": few_clusters(record.clusters),
        "no_mark": no_mark(record, gate),
        "unfit": unfit(record),
        "suite": "" if record.suite is None else record.suite.name,
        "suite_tasks": "" if record.suite is None else TASK_SEPARATOR.join(sorted(record.suite.tasks)),
    }


def statistic_columns(record: Record) -> dict[str, Column]:
    """Return every statistic with the ends of its interval, and what marks and medians are made of."""
    cell = normalised(record)
    rows = statistics_of(cell)
    columns: dict[str, Column] = {"degenerate": cell.degenerate}
    for name in STATISTICS:
        number = estimate_rows(rows[name])
        columns |= {name: number.value, f"{name}_low": number.low, f"{name}_high": number.high}
    curve = record.curve
    units = dict(zip(curve.sizes, curve.all_units or (), strict=False))
    columns["faithfulness_all"] = float(cell.faithfulness[0][-1])
    columns["units_to_80"] = float(units.get(rows["nodes_to_80"][0], np.nan))
    columns |= halves_columns(record, float(rows["nodes_to_80"][0]))
    same = (record.identities.data, len(record.endpoints.full), sorted(record.clusters.items()))
    columns["draws"] = Draws(
        pairing=hashlib.sha256(repr(same).encode()).hexdigest(),
        rows=rows,
        bounds={name: not_reached_bound(cell.scored, name, cell.total) for name in STATISTICS},
    )
    return columns


def cost_columns(record: Record) -> dict[str, Column]:
    """Return what the cell took, and where it ran."""
    seconds = record.cost.seconds
    return {
        "seconds_load": seconds.load,
        "seconds_gradients": seconds.gradients,
        "seconds_scoring": seconds.scoring,
        "seconds_curve": seconds.curve,
        "seconds": seconds.load + seconds.gradients + seconds.scoring + seconds.curve,
        "forward_equivalents": record.cost.forward_equivalents,
        "dictionary_bytes": record.cost.dictionary_bytes,
        "peak_memory_bytes": record.cost.peak_memory_bytes,
        "device": record.cost.device,
        "threads": record.environment.threads,
    }


def fit_columns(record: Record) -> dict[str, Column]:
    """Return how well a dictionary fits the task's prompts; NaN for neurons, and where it was not measured."""
    guard, missing = record.guard, float("nan")
    recovered = None if guard is None else guard.loss_recovered
    return {
        "fvu_mean": missing if guard is None else float(np.mean(guard.fvu)),
        "fvu_max": missing if guard is None else max(guard.fvu),
        "l0_mean": missing if guard is None else float(np.mean(guard.l0)),
        "slope_min": missing if guard is None or guard.slope is None else min(guard.slope),
        "loss_recovered": missing if recovered is None else recovered,
        "error_share": missing if record.error_share is None else record.error_share,
    }
