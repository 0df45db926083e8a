"""Plausible records without a model: sigmoid curves in log k with noise, for tests of tables and pictures."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Literal

import numpy as np

from basisbench.results.bisection import faithfulness_of, next_sizes
from basisbench.results.metrics import sizes_grid
from basisbench.results.record import CellConfig, Identities, Record, write_record
from basisbench.results.record_fields import (
    Cost,
    Counts,
    Curve,
    Dropped,
    Endpoints,
    Environment,
    Group,
    Guard,
    Seconds,
    SuiteTasks,
)
from basisbench.results.schema import round_significant
from basisbench.types import Ablation, ErrorPolicy, Family, Granularity

TASKS = (
    "ioi",
    "sva_simple",
    "sva_nounpp",
    "sva_rc",
    "sva_within_rc",
    "user_gender",
    "user_occupation",
    "user_country",
    "user_age",
)
METHODS = ("ixg", "ig", "relp", "magnitude", "random")

# Family, units per layer, nodes at half faithfulness under relp, dictionary bytes.
BASES: dict[str, tuple[Family, int, float, int]] = {
    "mlp_act": ("mlp", 512, 30, 0),
    "mlp_out": ("mlp", 128, 110, 0),
    "mlp_act_rotated": ("mlp", 512, 900, 0),
    "sae_mlp_out": ("mlp", 1024, 25, 4_200_000),
    "transcoder": ("mlp", 1024, 18, 4_200_000),
    "resid": ("resid", 128, 60, 0),
    "sae_resid": ("resid", 1024, 12, 4_200_000),
    "attn_out": ("attn", 128, 40, 0),
    "sae_attn_out": ("attn", 1024, 15, 4_200_000),
}
WIDEST = {"mlp": 512, "attn": 128, "resid": 128}
"""Units per layer of the widest raw neurons of a family; write sites have 128."""

_HANDICAP = {"relp": 1.0, "ig": 3.0, "ixg": 8.0, "magnitude": 25.0, "random": 400.0}
_SECONDS = {"relp": 0.4, "ig": 3.1, "ixg": 0.3, "magnitude": 0.05, "random": 0.01}


@lru_cache(maxsize=256)
def synthetic_record(
    task: str = "ioi",
    basis: str = "mlp_act",
    method: str = "relp",
    *,
    examples: int = 100,
    ablation: Ablation = "mean",
    error_policy: ErrorPolicy = "coordinates",
    granularity: Granularity = "position",
    seed: int = 0,
    task_version: str = "1",
    model: str = "pocket-llama",
    dictionary: str | None = None,
    overshoot: float = 0.0,
    ceiling: float = 1.0,
    gap: float = 6.0,
    layers: tuple[int, ...] | None = None,
    name: str | None = None,
    suite: SuiteTasks | None = None,
) -> Record:
    """Make one record whose faithfulness climbs from 0 to 1 along a sigmoid in log k, or take the one made before.

    Args:
        task: name of the task.
        basis: a key of `BASES`.
        method: a key of the table of methods above.
        examples: evaluation examples.
        ablation: as in the cell.
        error_policy: as in the cell.
        granularity: as in the cell.
        seed: as in the cell.
        task_version: as in the cell.
        model: as in the cell.
        dictionary: digest of the weights; by default one that follows from the basis.
        overshoot: height of a bump above 1 in the middle of the curve.
        ceiling: faithfulness of the largest circuit.
        gap: mean of F(M) - F(0) in logits.
        layers: as in the cell.
        name: name of the basis in the cell; by default `basis`.
        suite: the suite that the cell was run for.
    """
    family, width, middle, dictionary_bytes = BASES[basis]
    key = f"{task}/{name or basis}/{method}"
    generator = np.random.default_rng(int(_digest(key)[:8], 16))
    positions = 8 + sum(map(ord, task)) % 6
    places = 1 if granularity == "unit" else positions
    has_error = basis.startswith(("sae", "transcoder"))
    errors = 4 * places * {"node": 1, "coordinates": 128, "rotated": 128}.get(error_policy, 0) if has_error else 0
    total = 4 * places * width + errors
    grid = sizes_grid(total)
    k = np.array(grid, dtype=np.float64)
    middle = min(middle * _HANDICAP[method] * float(generator.uniform(0.6, 1.7)), total / 4)

    # Endpoints belong to the task, not to the basis.
    of_task = np.random.default_rng(int(_digest(task)[:8], 16))
    empty = of_task.normal(-0.2, 0.5, examples)
    full = empty + of_task.normal(gap, 1.5, examples)
    noise = generator.normal(0, 2.5, (len(grid), examples))

    def measured(k: np.ndarray, noise: np.ndarray) -> np.ndarray:
        rise = _sigmoid(k, middle, total) * ceiling
        bump = overshoot * np.exp(-((np.log10(k + 1) - np.log10(middle)) ** 2) / 0.1) * (k < total)
        wobble = rise * (1 - rise) * 4
        values: np.ndarray = empty + (rise + bump)[:, None] * (full - empty) + noise * wobble[:, None]
        return values

    wobble = _sigmoid(k, middle, total) * ceiling
    wobble *= 4 * (1 - wobble)
    fall = _sigmoid(k, middle * 2, total)
    complement = empty + (1 - fall)[:, None] * (full - empty) + (noise * wobble[:, None])[::-1]
    rows = dict(zip(grid, measured(k, noise), strict=True))
    between = np.random.default_rng(int(_digest(f"{key} between")[:8], 16))
    ends = _rounded(full), _rounded(empty)
    measures = {size: faithfulness_of(_rounded(row), *ends) for size, row in rows.items()}
    while more := next_sizes(measures, total):
        for size in more:
            at = np.array([size], dtype=np.float64)
            (rows[size],) = measured(at, between.normal(0, 2.5, (1, examples)))
            measures[size] = faithfulness_of(_rounded(rows[size]), *ends)
    sizes = tuple(sorted(rows))
    complements = dict(zip(grid, map(tuple, complement.tolist()), strict=True))
    k = np.array(sizes, dtype=np.float64)
    error_share = errors / total
    return Record(
        schema_version=2,
        created=datetime(2026, 1, 22, tzinfo=UTC),
        cell=CellConfig(
            model=model,
            task=task,
            task_version=task_version,
            basis=name or basis,
            family=family,
            method=method,
            ablation=ablation,
            error_policy=error_policy,
            granularity=granularity,
            seed=seed,
            attribution_pairs=100,
            evaluation_pairs=examples,
            layers=layers,
        ),
        identities=Identities(
            model=_digest(model),
            dictionary=(dictionary or _digest(name or basis)) if has_error else None,
            data=_digest(task + task_version),
        ),
        groups=(
            Group(
                key="all",
                attribution_pairs=100,
                evaluation_pairs=examples,
                positions=positions,
                tokens=tuple(f" word{place}" for place in range(positions)),
                nodes=total,
                error_nodes=errors,
                scored_nodes=total,
            ),
        ),
        counts=Counts(
            nodes_mean=total,
            nodes_max=total,
            layers=4,
            units_per_layer=(width,) * 4,
            area_end=4 * places * WIDEST[family],
        ),
        dropped=Dropped(attribution={}, evaluation={}),
        clusters={
            factor: tuple((np.arange(examples) % levels).tolist())
            for factor, levels in (("noun", 10), ("name", 21), ("template", 8))
        },
        endpoints=Endpoints(
            full=tuple(full.tolist()),
            empty=tuple(empty.tolist()),
            accuracy=float(np.mean(full.round(3) > 0)),
            empty_at="nodes" if ablation == "zero" else "output",
            gate_empty=tuple(empty.tolist()) if ablation == "zero" else None,
            family_empty=None if layers is None else float(empty.mean()),
        ),
        curve=Curve(
            sizes=sizes,
            feature_nodes=tuple((k * (1 - error_share)).tolist()),
            error_nodes=tuple((k * error_share).tolist()),
            units=tuple(np.minimum(k * (1 - error_share), 4 * width).tolist()),
            all_units=tuple(np.ceil(np.minimum(k * (1 - error_share), 4 * width)).astype(int).tolist()),
            circuit=tuple(tuple(rows[size].tolist()) for size in sizes),
            complement=tuple(complements.get(size) for size in sizes),
        ),
        guard=Guard(
            fvu=(0.03, 0.02, 0.04, 0.05),
            l0=(21.0, 25.0, 30.0, 28.0),
            slope=(1.01, 0.99, 1.0, 0.98),
            loss_recovered=0.97,
        )
        if has_error
        else None,
        suite=suite,
        top_nodes=(),
        cost=Cost(
            seconds=Seconds(
                load=0.2 if has_error else 0.0,
                gradients=_SECONDS[method],
                scoring=0.05 + width / 5000,
                curve=float(generator.uniform(0.6, 1.4)) * (1 + width / 1000),
            ),
            forward_equivalents={"relp": 3, "ixg": 3, "ig": 30}.get(method, 2) * 100,
            dictionary_bytes=dictionary_bytes,
            peak_memory_bytes=900_000_000 + dictionary_bytes * 4,
            device="cpu",
        ),
        environment=Environment(
            packages={"torch": "2.13.0"},
            python="3.11.7",
            platform="Linux x86_64",
            processor="",
            threads=2,
            device_name="",
            dtype="float32",
        ),
    )


def synthetic_suite(
    tasks: Sequence[str] = TASKS,
    bases: Sequence[str] = tuple(BASES),
    methods: Sequence[str] = METHODS,
    examples: int = 100,
) -> Iterator[Record]:
    """Yield the cross of tasks, bases and methods; two curves overshoot the axis, one basis is censored."""
    for task in tasks:
        for basis in bases:
            for method in methods:
                ceiling = 0.7 if (basis, method) == ("transcoder", "magnitude") else 1.0
                overshoot = 1.4 if (task, basis, method) == ("sva_rc", "mlp_out", "ixg") else 0.0
                overshoot = 1.4 if (task, basis, method) == ("user_age", "sae_mlp_out", "relp") else overshoot
                yield synthetic_record(task, basis, method, examples=examples, overshoot=overshoot, ceiling=ceiling)


def write_suite(folder: Path, records: Sequence[Record]) -> None:
    """Write records the way a run does: a file per cell under `records/`."""
    for record in records:
        write_record(record, folder / "records" / f"{record.id}.json")


def with_endpoint_moved(record: Record, field: Literal["full", "empty"], amounts: Sequence[float]) -> Record:
    """Return a record with an endpoint moved, by an amount per example, and the curve so that nothing contradicts it.

    Every row moves by its share of the way between the ends: the faithfulness of each size stays what it was.
    """
    content = record.model_dump()
    full, empty = (np.mean(getattr(record.endpoints, name)) for name in ("full", "empty"))
    moved = (np.array(getattr(record.endpoints, field)) + amounts).tolist()
    content["endpoints"][field] = tuple(moved)
    if field == "full":
        content["endpoints"]["accuracy"] = sum(value > 0 for value in moved) / len(moved)
    for name in ("circuit", "complement"):
        rows = []
        for row in content["curve"][name]:
            share = 0.0 if row is None else (np.mean(row) - empty) / (full - empty)
            share = share if field == "full" else 1 - share
            rows.append(None if row is None else tuple((np.array(row) + share * np.array(amounts)).tolist()))
        content["curve"][name] = tuple(rows)
    return Record.model_validate(content)


def _sigmoid(k: np.ndarray, middle: float, total: int) -> np.ndarray:
    """A logistic curve in log k that starts at 0 for k = 0 and ends at exactly 1 for k = total."""
    raw = np.where(k > 0, 1 / (1 + (middle / np.maximum(k, 1e-9)) ** 1.3), 0.0)
    end = 1 / (1 + (middle / total) ** 1.3)
    curve: np.ndarray = raw / end
    return curve


def faithfulness(row: Iterable[float], full: Iterable[float], empty: Iterable[float]) -> float:
    """Return the faithfulness of a circuit as a run finds it: from numbers of five digits."""
    return faithfulness_of(_rounded(row), _rounded(full), _rounded(empty))


def _rounded(values: Iterable[float]) -> list[float]:
    return [round_significant(float(value)) for value in values]


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def changed(record: Record, /, **parts: Mapping[str, object]) -> Record:
    """Return a record with some fields of some of its parts changed, and checked again.

    Args:
        record: what to change.
        parts: by part (cell, guard, endpoints, counts, curve), the new values of its fields; `record` for its own.
    """
    content = record.model_dump()
    for part, values in parts.items():
        if part == "record":
            content |= values
        else:
            content[part] = {**content[part], **values}
    return Record.model_validate(content)
