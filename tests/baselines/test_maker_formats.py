"""Dictionaries in every maker's own files: from a folder and from a repository, with the maker's own numbers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from basisbench.registry import load_registry
from helpers import oracle
from helpers.hub_replica import HubReplica
from helpers.maker_formats import Case, cases

pytestmark = pytest.mark.usefixtures("double_precision")


def gain(layer: int) -> Tensor:
    """Return the gain of the norm in front of the MLP of the tiny Llama, so that it is known what it is divided by."""
    weight: Tensor = oracle.model("llama").body.model.layers[layer].post_attention_layernorm.weight
    return weight.detach().double()


CASES = {case.name: case for case in cases(gain)}


def holds(basis: Any, case: Case) -> None:
    """Hold sites and reconstructions against the maker's."""
    x = torch.randn(2, 5, oracle.D_MODEL, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert [site.layer for site in basis.sites] == list(range(oracle.LAYERS))
    for site in basis.sites:
        assert (site.read, site.write) == (f"blocks.{site.layer}.{case.read}", f"blocks.{site.layer}.{case.write}")
        expected = case.rebuild(site.layer, x)
        for context in (torch.no_grad(), torch.enable_grad()):
            with context:
                units = basis.encode(site, x)
                torch.testing.assert_close(basis.decode(site, units), expected, rtol=0, atol=1e-6)
        assert 0.05 < (units != 0).double().mean() < 0.95


@pytest.mark.parametrize("name", CASES)
def test_a_folder_rebuilds_what_its_maker_does(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    spec = load_registry().get("basis", f"sae:{case.write_to(tmp_path)}")
    assert spec.layers == tuple(range(oracle.LAYERS))
    basis = spec.build(oracle.model("llama"))
    assert (basis.family, basis.name) == (spec.family, spec.name)
    holds(basis, case)


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[HubReplica]:
    made = HubReplica(tmp_path / "home")
    with made.in_use():
        yield made


@pytest.mark.parametrize("name", CASES)
def test_so_does_a_repository_of_the_hub(name: str, hub: HubReplica) -> None:
    case = CASES[name]
    commit = hub.commit(case.repository, case.files)
    spec = load_registry().get("basis", f"sae:{case.repository}")
    assert spec.repositories == {case.repository: None}
    basis: Any = spec.build(oracle.model("llama"))
    assert dict(basis.sources) == {case.repository: commit}
    holds(basis, case)
