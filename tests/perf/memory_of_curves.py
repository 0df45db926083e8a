"""Peak memory of a process that measures curves, one basis after the other."""

from __future__ import annotations

from dataclasses import replace

import torch

from basisbench.environment import peak_memory, reset_peak_memory
from basisbench.measure import measure_group
from basisbench.ranking import rank
from basisbench.record import CellConfig
from basisbench.registry import load_registry
from workload import Shape, open_group, random_dictionaries, random_model


def peak(shape: Shape, sizes: int, bases: int) -> int:
    """Return the peak resident bytes while `bases` dictionary bases are built, scored, measured and dropped.

    Args:
        shape: the workload; its dictionaries get a quarter of the units, so that five fit beside each other if
            someone forgets to drop them.
        sizes: sizes of each curve.
        bases: how many bases, of the same shape and other weights.
    """
    torch.set_num_threads(2)
    shape = replace(shape, units=shape.units // 4)
    model = random_model(shape)
    group, method = open_group(model, shape), load_registry().get("method", "ixg")
    method.score(group.attribution, load_registry().get("basis", "mlp_out").build(model))
    reset_peak_memory(model)
    for seed in range(bases):
        basis = random_dictionaries(model, shape, group.attribution, seed=seed)
        ranking = rank(method.score(group.attribution, basis), policy="node")
        steps = tuple(max(round(ranking.nodes ** (index / sizes)), index) for index in range(sizes))
        cell = CellConfig(
            model="m", task="t", task_version="1", basis="sae_mlp_out", family="mlp", method="ixg",
            attribution_pairs=shape.pairs, evaluation_pairs=shape.pairs,
        )  # fmt: skip
        measure_group(cell, basis, group, ranking, steps)
    return peak_memory(model)
