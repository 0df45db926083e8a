"""What a cell's record says beside its curve: ends with restricted layers, and how large it may become."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch

from basisbench.models.load import load_model
from basisbench.registry import load_registry
from basisbench.results.record import CellConfig, Record
from basisbench.runs.session import Session, open_session
from helpers import oracle


@cache
def session_of(pairs: int) -> Session:
    registry = load_registry()
    model = load_model(registry.get("model", "pocket-llama"))
    return open_session(model, registry.get("task", "sva_rc"), attribution_pairs=pairs, evaluation_pairs=pairs, seed=0)


def record_of(session: Session, basis: str, method: str, pairs: int, **setting: Any) -> Record:
    registry = load_registry()
    cell = CellConfig(
        model="pocket-llama", task="sva_rc", task_version="1", basis=basis, family="mlp", method=method,
        attribution_pairs=pairs, evaluation_pairs=pairs, **setting,
    )  # fmt: skip
    return session.run(cell, registry.get("basis", basis), registry.get("method", method))


@pytest.mark.slow
def test_a_record_of_a_hundred_examples_is_smaller_than_96_kilobytes() -> None:
    """Of a dictionary, with everything that a cell can ask for, and a curve on which bisection adds sizes."""
    setting = {"kl": True, "subset_sizes": (20, 100), "subset_draws": 10}
    record = record_of(session_of(100), "sae_mlp_out", "relp", 100, **setting)
    assert len(record.endpoints.full) == 100
    assert len(record.curve.sizes) > len([row for row in record.curve.complement if row is not None])
    assert len(record.model_dump_json()) < 96 * 1024


@pytest.mark.slow
@pytest.mark.parametrize("ablation", ["mean", "zero"])
def test_with_some_layers_the_whole_familys_end_stands_beside(ablation: Any) -> None:
    """F(0) is that of the layers; `family_empty` is that of all, by hooks of Hugging Face's model on every prompt."""
    session = session_of(8)
    record = record_of(session, "sae_mlp_out", "ixg", 8, ablation=ablation, layers=(1, 2))
    whole = record_of(session, "mlp_out", "ixg", 8, ablation=ablation)
    slow = oracle.Naive("llama", session.model.body)
    values: dict[tuple[int, ...], list[float]] = {(1, 2): [], (0, 1, 2, 3): []}
    for group in session.groups:
        first, second = group.attribution.pairs, group.evaluation.pairs
        for layers, found in values.items():
            places = {str(layer): slow.where("mlp_out", layer) for layer in layers}
            seen = [slow.watched(prompt, places) for prompt in first.counterfactual]
            means = {key: torch.stack([one[key] for one in seen]).mean(0) for key in places}
            edits = {
                place: lambda _, value=means[key]: (value * (ablation == "mean")).unsqueeze(0)
                for key, place in places.items()
            }
            with torch.no_grad():
                found += [
                    float(slow.metric(second, index, slow.logits(second.clean[index], edits)))
                    for index in range(len(second))
                ]
    here, everywhere = values.values()
    assert record.endpoints.family_empty == pytest.approx(sum(everywhere) / len(everywhere), rel=5.1e-5, abs=1e-4)
    at_output = record.endpoints.gate_empty if ablation == "zero" else record.endpoints.empty
    assert list(at_output or ()) == pytest.approx(here, rel=5.1e-5, abs=1e-4)
    assert whole.endpoints.family_empty is None
    assert list((whole.endpoints.gate_empty if ablation == "zero" else whole.endpoints.empty) or ()) == pytest.approx(
        everywhere, rel=5.1e-5, abs=1e-4
    )
    longest = max(group.positions for group in record.groups)
    assert record.counts.area_end == 512 * 2 * longest, "MLP activations are the widest neurons of the family"
    assert whole.counts.area_end == 512 * 4 * longest
