"""Exact activation patching: what has no effect, batches, and what it leaves behind (its twin: test_score_oracle)."""

from __future__ import annotations

import pytest
import torch

from basisbench.circuits.group import GroupPair
from basisbench_baselines.methods.patching import ActivationPatching
from helpers import oracle

pytestmark = pytest.mark.usefixtures("double_precision")


@pytest.mark.parametrize("name", oracle.BASES)
def test_a_node_that_is_the_same_in_both_prompts_has_no_effect(architecture: str, group: GroupPair, name: str) -> None:
    with oracle.asking(group.attribution, oracle.Question(score_reference="counterfactual")) as context:
        scores = ActivationPatching().score(context, oracle.basis(architecture, name))
    # The first token is the same in all prompts, and nothing before it can differ.
    for part in (*scores.units, *(scores.errors or ())):
        assert not part[0].any()
        assert part[1:].any()


def test_the_size_of_a_batch_does_not_matter(architecture: str, monkeypatch: pytest.MonkeyPatch) -> None:
    group = oracle.contexts(architecture)[0]
    basis = oracle.basis(architecture, "transcoder")
    many = ActivationPatching().score(group.attribution, basis)
    monkeypatch.setattr("basisbench.attribution.method_passes._TOKENS_PER_PATCH", 130)
    few = ActivationPatching().score(group.attribution, basis)
    for one, other in zip([*many.units, *(many.errors or ())], [*few.units, *(few.errors or ())], strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)


def test_an_exact_basis_has_no_error_node(architecture: str) -> None:
    group, basis = oracle.contexts(architecture)[0], oracle.basis(architecture, "mlp_act")
    assert ActivationPatching().score(group.attribution, basis).errors is None
    with pytest.raises(ValueError, match="no error node"):
        group.attribution.patched_metric(basis, basis.sites[0], [1], [-1])


def test_no_hook_is_left(architecture: str) -> None:
    group, basis = oracle.contexts(architecture)[0], oracle.basis(architecture, "transcoder")
    before = oracle.hooks_of(group.attribution.model)
    ActivationPatching().score(group.attribution, basis)
    assert oracle.hooks_of(group.attribution.model) == before
