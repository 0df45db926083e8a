"""Shapes are checked while the tests run: a tensor of another shape than the one declared is refused at the call."""

from __future__ import annotations

import pytest
import torch
from jaxtyping import TypeCheckError

from basisbench.attribution.batch import Batch
from basisbench.circuits.circuit import CircuitMask
from basisbench.models.onednn import linear_map
from basisbench.types import Site
from basisbench_baselines.bases.rotation import RotatedActivations

SITE = Site(0, "blocks.0.mlp.hook_post", "blocks.0.mlp.hook_post")


def test_a_weight_that_is_no_matrix_is_refused() -> None:
    assert linear_map(torch.ones(2, 3), torch.ones(2))(torch.ones(5, 3)).shape == (5, 2)
    with pytest.raises(TypeCheckError, match="weight"):
        linear_map(torch.ones(1, 2, 3), None)
    with pytest.raises(TypeCheckError, match="bias"):
        linear_map(torch.ones(2, 3), torch.ones(3))


def test_the_widths_of_a_basis_are_checked() -> None:
    basis = RotatedActivations((SITE,), (torch.eye(3),))
    assert basis.encode(SITE, torch.ones(2, 3)).shape == (2, 3)
    with pytest.raises(TypeCheckError, match="rotations"):
        RotatedActivations((SITE,), (torch.ones(3, 4),))


def test_masks_of_a_circuit_have_a_row_for_each() -> None:
    units, whole = torch.ones(2, 5, 7, dtype=torch.bool), torch.ones(2, 5, 1, dtype=torch.bool)
    for errors in (whole, whole.expand(2, 5, 9)):
        assert len(CircuitMask((units,), (errors,))) == 2
        with pytest.raises(TypeCheckError, match="errors"):
            CircuitMask((units,), (errors[:1],))


def test_a_metric_has_a_value_for_each_pair() -> None:
    tokens = torch.zeros(3, 4, dtype=torch.int64)
    batch = Batch(tokens, tokens, tokens[:, :1], tokens[:, :2])
    assert batch.metric(torch.zeros(3, 9)).shape == (3,)
    with pytest.raises(TypeCheckError, match="foils"):
        Batch(tokens, tokens, tokens[:, :1], tokens[:2, :2])
