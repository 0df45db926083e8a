"""A method's own gradients are those of the shared fields where linear layers run with oneDNN's weights too."""

from __future__ import annotations

import pytest
import torch

from basisbench.attribution.context import GroupContext
from basisbench.models import onednn
from basisbench.models.load import load_model
from basisbench.pairs.alignment import load_splits
from basisbench.registry import load_registry
from basisbench.types import ModelSpec, Site


@pytest.mark.slow
@pytest.mark.parametrize("rule", ["ixg", "relp"])
def test_own_gradients_are_those_of_the_field(
    tiny_llama: ModelSpec, rule: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onednn, "onednn_is_worth_it", lambda *_: True)
    model = load_model(tiny_llama)
    task = load_registry().get("task", "sva_simple")
    pairs = load_splits(task, model.tokenizer, attribution=8, evaluation=8, seed=0)[0][0]
    context = GroupContext(model, pairs, 0)
    hooks = [model.hook("mlp_out", layer) for layer in range(model.layers)]
    own = context.gradients(hooks, rules=rule)
    for layer, hook in enumerate(hooks):
        field = context.gradient_field(rule, Site(layer, hook, hook))
        torch.testing.assert_close(own[hook], field, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(context.metric(), context.clean_metric(), rtol=1e-4, atol=1e-5)
