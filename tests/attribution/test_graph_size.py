"""Prompts that fill a pass alone: blocks that are run again on the way back give what passes give that keep all."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

import pytest
import torch

from basisbench.attribution.gradients import gradient_field
from basisbench.attribution.graph_size import is_too_long
from basisbench.models.batching import BUDGETS, Budget
from basisbench.models.model import Model
from basisbench.models.start_at_layer import plain_blocks
from basisbench.types import BackwardRules
from helpers import oracle

pytestmark = pytest.mark.usefixtures("double_precision")

GIM = BackwardRules(norms="frozen", temperature=2.0, queries=0.25, keys=0.25, values=0.5)
RULES = ("ixg", "relp", GIM, "ig", "ig_inputs")


@contextmanager
def no_room() -> Iterator[None]:
    """Let one prompt be more than a gradient pass should hold."""
    with mock.patch.dict(BUDGETS, {"gradients": Budget(1, 1)}):
        yield


@contextmanager
def counted(model: Model) -> Iterator[Counter[int]]:
    """Count how often each block's MLP is run, in the plain model and in TransformerLens's view."""
    runs: Counter[int] = Counter()
    layers = range(model.layers)
    views = plain_blocks(model), [model.component(f"blocks.{layer}").original_component for layer in layers]

    def count(layer: int) -> None:
        runs[layer] += 1

    handles = [
        blocks[layer].mlp.register_forward_pre_hook(lambda *_, layer=layer: count(layer))
        for blocks in views
        for layer in layers
    ]
    try:
        yield runs
    finally:
        for handle in handles:
            handle.remove()


@oracle.on_architectures(("rule",), whole=[(rule,) for rule in RULES], part=[(rule,) for rule in ("relp", "ixg")])
def test_fields_are_those_of_passes_that_keep_everything(architecture: str, rule: str | BackwardRules) -> None:
    model = oracle.model(architecture)
    for group in oracle.contexts(architecture):
        context = group.attribution
        hooks = [model.hook(kind, layer) for layer in range(model.layers) for kind in model.written_kinds()]
        ends = {hook: context.activation(hook, "counterfactual") for hook in hooks} if rule == "ig" else {}
        assert not is_too_long(model, context.pairs.length)
        expected = gradient_field(rule, model, context.batch, hooks, ends=ends)
        with no_room(), counted(model) as runs:
            assert is_too_long(model, context.pairs.length)
            found = gradient_field(rule, model, context.batch, hooks, ends=ends)
        for hook in hooks:
            torch.testing.assert_close(found[hook], expected[hook], rtol=1e-9, atol=1e-12)
        if isinstance(rule, BackwardRules) or rule in ("ixg", "relp"):
            assert runs == {layer: 2 * len(context.pairs) for layer in range(model.layers)}


def test_a_method_s_own_passes_too() -> None:
    """What a method puts inside a block is there when the block is run again."""
    context = oracle.contexts("llama")[0].attribution
    hooks = ["embed.hook_out", "blocks.0.mlp.hook_post", "blocks.1.attn.hook_z", "blocks.1.hook_mlp_out"]
    replaced = {hook: 0.5 * context.activation(hook, "counterfactual") for hook in hooks[1:2]}
    added = {hook: torch.ones_like(context.activation(hook, "clean")) for hook in hooks[2:]}
    for rules in ("ixg", "relp", GIM):
        expected = context.gradients(hooks, replace=replaced, add=added, rules=rules)
        plain = context.gradients(hooks, rules=rules)
        with no_room():
            found = context.gradients(hooks, replace=replaced, add=added, rules=rules)
        for hook in hooks[1:]:
            assert not torch.allclose(expected[hook], plain[hook], rtol=1e-3), "what is put matters"
            torch.testing.assert_close(found[hook], expected[hook], rtol=1e-9, atol=1e-12)


def test_where_memory_has_run_out_down_to_one_prompt_its_blocks_are_run_again() -> None:
    model = oracle.model("llama")
    with mock.patch.dict(model.batching.bounds, {"gradients": 9}):
        assert is_too_long(model, 9)
        assert not is_too_long(model, 8)
    assert not is_too_long(model, 9)
