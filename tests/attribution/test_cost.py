"""What a cell costs does not depend on which cells came before it: shared work is charged to each that uses it."""

from __future__ import annotations

from functools import cache
from typing import Any, get_args

import pytest

from basisbench.models.load import load_model
from basisbench.registry import load_registry
from basisbench.results.record import CellConfig
from basisbench.runs.session import open_session
from basisbench.types import Ablation

PAIRS = 8
CELLS = ("mlp_out:random", "mlp_act:relp", "mlp_out:ixg", "clt:random", "transcoder:magnitude", "attn_z:random")


@cache
def model_of(name: str) -> Any:
    return load_model(load_registry().get("model", name))


def costs(cells: tuple[str, ...], ablation: Ablation) -> dict[str, float]:
    registry = load_registry()
    task = registry.get("task", "sva_simple")
    session = open_session(model_of("pocket-llama"), task, attribution_pairs=PAIRS, evaluation_pairs=PAIRS, seed=0)
    found: dict[str, float] = {}
    for name in cells:
        basis, method = name.split(":")
        spec = registry.get("basis", basis)
        cell = CellConfig(
            model="pocket-llama", task=task.name, task_version=task.version, basis=basis, family=spec.family,
            method=method, ablation=ablation, attribution_pairs=PAIRS, evaluation_pairs=PAIRS,
        )  # fmt: skip
        found[name] = session.run(cell, spec, registry.get("method", method)).cost.forward_equivalents
    return found


@pytest.mark.slow
@pytest.mark.parametrize("ablation", get_args(Ablation))
def test_forward_equivalents_do_not_depend_on_the_order_of_cells(ablation: Ablation) -> None:
    orders = [CELLS, tuple(reversed(CELLS)), (*CELLS[2:], *CELLS[:2])]
    alone = {name: costs((name,), ablation)[name] for name in CELLS}
    for order in orders:
        assert costs(order, ablation) == alone
