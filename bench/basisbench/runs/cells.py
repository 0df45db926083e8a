"""From a suite to its cells.

1. Take the cross product of the suite's lists, and of these with each entry of `also` in place of some. No cell
   twice; a basis that leaves no error is not repeated for error policies.
2. Order them so that cells that share their pairs stand together, those of one basis among them too: they share the
   loaded model, the pairs, the gradient fields and the dictionary.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import product
from typing import Any

from pydantic import ValidationError

from basisbench.errors import BasisBenchError, BasisError
from basisbench.protocols import BasisSpec
from basisbench.registry import Registry
from basisbench.results.record import CellConfig
from basisbench.results.schema import describe_problem
from basisbench.runs.suite import Suite
from basisbench.types import Family

MOST_CELLS = 100_000
"""Cells of one run."""


def expand(suite: Suite, registry: Registry) -> tuple[CellConfig, ...]:
    """Return the cells of a suite; those that share their pairs are adjacent.

    Where some basis misses layers, its whole family is restricted to the layers that all bases cover.

    Args:
        suite: what to run.
        registry: where its names are looked up.

    Raises:
        BasisBenchError: a name is not registered, and the nearest names are suggested; there are too many cells, or a
            name that no record can hold.
    """
    models = [registry.get("model", model) for model in suite.models]
    for method in {name: None for part in suite.parts for name in part.methods}:
        registry.get("method", method)
    tasks = {name: registry.get("task", name) for name in suite.tasks}
    bases = {name: registry.get("basis", name) for name in suite.all_bases}
    layers = {
        name: shared_layers(bases.values(), None if model.shape is None else model.shape.layers, suite.layers)
        for name, model in zip(suite.models, models, strict=True)
    }
    whole = CellConfig.model_fields["error_policy"].default
    if (asked := sum(math.prod(map(len, part.crossed)) for part in suite.parts)) > MOST_CELLS:
        raise BasisBenchError(
            f"suite '{suite.name}' asks for {asked:.4g} cells, at most {MOST_CELLS} in one run; split it"
        )
    cells: dict[CellConfig, None] = {}
    for part in suite.parts:
        for model, task, (seed, draw), basis, method in product(
            part.models, part.tasks, product(part.seeds, part.attribution_draws), part.bases, part.methods
        ):
            for ablation, error_policy, score_reference, score_split, granularity in product(
                part.ablations, part.error_policies, part.score_references, part.score_splits, part.granularities
            ):
                cell = _cell(
                    model=model,
                    task=task,
                    task_version=tasks[task].version,
                    basis=basis,
                    family=bases[basis].family,
                    method=method,
                    ablation=ablation,
                    error_policy=whole if bases[basis].exact else error_policy,
                    score_reference=score_reference,
                    score_split=score_split,
                    granularity=granularity,
                    seed=seed,
                    attribution_pairs=part.attribution_pairs,
                    evaluation_pairs=suite.evaluation_pairs,
                    attribution_draw=draw,
                    bos=suite.bos,
                    metric=suite.metric,
                    kl=suite.kl,
                    subset_sizes=suite.subset_sizes,
                    subset_draws=suite.subset_draws if suite.subset_sizes else 0,
                    subset_blocks=suite.subset_blocks,
                    layers=layers[model][bases[basis].family],
                )
                cells.setdefault(cell)
    order = {name: at for at, name in enumerate(bases)}
    draws = {key: at for at, key in enumerate(dict.fromkeys(map(_pairs_drawn, cells)))}

    def place(cell: CellConfig) -> tuple[int, ...]:
        pairs = draws[_pairs_drawn(cell)]
        return suite.models.index(cell.model), suite.tasks.index(cell.task), pairs, order[cell.basis]

    return tuple(sorted(cells, key=place))


def _pairs_drawn(cell: CellConfig) -> tuple[int, ...]:
    """Return what tells the pairs of one task in a run apart."""
    return cell.seed, cell.attribution_pairs, cell.attribution_draw


def pairs_key(cell: CellConfig) -> tuple[object, ...]:
    """Return what the pairs of a cell depend on; cells in which it is the same share a session."""
    return (
        cell.model,
        cell.task,
        cell.seed,
        cell.attribution_pairs,
        cell.evaluation_pairs,
        cell.bos,
        cell.metric,
        cell.attribution_draw,
    )


def shared_layers(
    specs: Iterable[BasisSpec], model_layers: int | None = None, asked: tuple[int, ...] | None = None
) -> dict[Family, tuple[int, ...] | None]:
    """Return the layers on which the bases of a run are compared, by family.

    Args:
        specs: the bases of the run, of one model.
        model_layers: number of layers of the model, where it is known: a restriction to all of them is none.
        asked: the layers that the run is restricted to; None for all.

    Returns:
        For each family the layers that all its bases cover, of those asked for; None where that is all of them.

    Raises:
        BasisError: two bases of a family share no layer, or one has none of those asked for.
        BasisBenchError: the model has not all layers that are asked for.
    """
    if asked is not None and model_layers is not None and asked[-1] >= model_layers:
        raise BasisBenchError(f"layers: the model has {model_layers}, 0 to {model_layers - 1}; found {asked[-1]}")
    covered: dict[Family, tuple[int, ...] | None] = {}
    first: dict[Family, str] = {}
    for spec in specs:
        before = covered.setdefault(spec.family, asked)
        if spec.layers is None:
            continue
        layers = tuple(sorted(spec.layers)) if before is None else tuple(x for x in before if x in spec.layers)
        if not layers:
            have = f"layers of '{spec.name}': {', '.join(map(str, sorted(spec.layers)))}"
            if spec.family not in first:
                raise BasisError(f"basis '{spec.name}' covers none of the layers that are asked for; {have}")
            raise BasisError(
                f"bases '{first[spec.family]}' and '{spec.name}' of family {spec.family} cover no common layer"
                f"{'' if asked is None else ' of those asked for'}; run them apart, or choose other dictionaries"
            )
        first.setdefault(spec.family, spec.name)
        covered[spec.family] = layers
    whole = None if model_layers is None else tuple(range(model_layers))
    return {family: None if layers == whole else layers for family, layers in covered.items()}


def _cell(**fields: Any) -> CellConfig:
    try:
        return CellConfig(**fields)
    except ValidationError as error:  # of somebody's plug-in or file
        raise BasisBenchError(f"a cell cannot be recorded: {describe_problem(error)}") from error


CONDITIONS = (
    "ablation",
    "error_policy",
    "score_reference",
    "score_split",
    "granularity",
    "attribution_draw",
    "attribution_pairs",
)
"""Fields of a cell that say how it is done, of which a suite has lists."""


def few_cells(cells: Sequence[CellConfig], count: int) -> tuple[CellConfig, ...]:
    """Choose a few cells that between them cover as many models, bases, methods, tasks and conditions as possible.

    Args:
        cells: an expanded suite.
        count: how many to choose at most.

    Returns:
        The chosen cells in the order of the suite.
    """
    covered: set[tuple[str, object]] = set()
    chosen: list[int] = []
    left = list(range(len(cells)))
    while left and len(chosen) < count:
        best = max(left, key=lambda index: (len(_traits(cells[index]) - covered), -index))
        covered |= _traits(cells[best])
        chosen.append(best)
        left.remove(best)
    return tuple(cells[index] for index in sorted(chosen))


def _traits(cell: CellConfig) -> set[tuple[str, object]]:
    """Return what few cells should cover between them: model, basis, method, task and conditions."""
    fields = ("model", "basis", "method", "task", *CONDITIONS)
    return {(field, getattr(cell, field)) for field in fields}
