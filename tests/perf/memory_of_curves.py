"""Peak memory of a process that measures curves."""

from __future__ import annotations

from functools import partial

import torch

from basisbench.circuits.ranking import rank
from basisbench.models.memory import peak_memory, reset_peak_memory
from basisbench.protocols import BasisSpec
from basisbench.registry import load_registry
from basisbench.results.record import CellConfig
from basisbench.runs.session import Session
from basisbench.types import PairSet
from helpers.passes import measure_group
from workload import Shape, open_group, random_dictionaries, random_model


def _cell(shape: Shape, basis: str) -> CellConfig:
    return CellConfig(
        model="m", task="random", task_version="1", basis=basis, family="mlp", method="ixg",
        attribution_pairs=shape.pairs, evaluation_pairs=shape.pairs,
    )  # fmt: skip


def peak_of_sizes(shape: Shape, sizes: int) -> int:
    """Return the peak resident bytes while one curve of some sizes is measured."""
    torch.set_num_threads(2)
    model = random_model(shape)
    group, method = open_group(model, shape), load_registry().get("method", "ixg")
    basis = random_dictionaries(model, shape, group.attribution)
    ranking = rank(method.score(group.attribution, basis), policy="coordinates")
    steps = tuple(max(round(ranking.nodes ** (index / sizes)), index) for index in range(sizes))
    reset_peak_memory(model.device)
    measure_group(_cell(shape, basis.name), basis, group, ranking, steps)
    return peak_memory(model.device)


def peak_of_bases(shape: Shape, bases: int) -> int:
    """Return the peak resident bytes while a session runs a cell of each of some dictionary bases of one shape."""
    torch.set_num_threads(2)
    model = random_model(shape)
    group, method = open_group(model, shape), load_registry().get("method", "ixg")
    sets = [PairSet((context.pairs,)) for context in (group.attribution, group.evaluation)]
    session = Session(model, *sets, (group,))
    peaks = []
    for seed in range(bases):
        build = partial(random_dictionaries, shape=shape, group=group.attribution, name=f"sae_{seed}", seed=seed)
        spec = BasisSpec(f"sae_{seed}", "mlp", "random", build)
        session.run(_cell(shape, spec.name), spec, method)
        peaks.append(peak_memory(model.device))  # the session starts a new measurement for each cell
    return max(peaks)
