"""Reference values: their definition, and that nodes which are the same in all prompts have no score at all."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from basisbench.attribution.projection import projected_scores
from basisbench.attribution.values import reduced
from basisbench.types import Ablation
from basisbench_baselines.methods.magnitude import Magnitude
from helpers import oracle


@given(pairs=st.integers(1, 40), same=st.floats(0, 1), seed=st.integers(0, 2**31))
def test_a_mean_of_equal_values_is_that_value_to_the_last_bit(pairs: int, same: float, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(pairs, 3, 20, generator=generator)
    equal = torch.rand(3, 20, generator=generator) < same
    values = values[:1].where(equal, values)
    mean = reduced(values, "mean")
    assert torch.equal(mean[0][equal], values[0][equal])
    torch.testing.assert_close(mean, values.double().mean(0, keepdim=True).float(), rtol=0, atol=1e-6)
    assert reduced(values, "counterfactual") is values
    assert torch.equal(reduced(values, "zero"), torch.zeros(1, 3, 20))


@pytest.mark.parametrize("ablation", ["mean", "counterfactual"])
@pytest.mark.parametrize("name", ["mlp_act", "mlp_act_rotated", "sae_resid", "transcoder"])
def test_nodes_that_are_the_same_in_all_prompts_score_zero(architecture: str, name: str, ablation: Ablation) -> None:
    """The first token is the same everywhere; rounding must not give what it makes a score, and with it a rank."""
    group, basis = oracle.contexts(architecture, "float32")[1], oracle.basis(architecture, name, "float32")
    context = group.attribution
    assert len(context.pairs) == 3, "a sum of three equal values divided by three is not always one of them"
    context.start(ablation)
    try:
        for scores in (projected_scores(context, basis, "ixg"), Magnitude().score(context, basis)):
            for part in (*scores.units, *(scores.errors or ())):
                assert not part[0].any()
            assert all(part[1:].any() for part in scores.units)
    finally:
        context.start("mean")
