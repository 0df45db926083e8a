"""Controls of bases and of a method: what they keep, what they take away, and that they keep the contract."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch

import basisbench as bb
from basisbench.attribution.fit import measure_fit
from basisbench.checks.check import check
from basisbench.errors import BasisError
from basisbench.models.model import Model
from basisbench.registry import load_registry
from basisbench.runs.session import Session
from basisbench_baselines.bases.controls import permutation
from helpers import oracle

pytestmark = pytest.mark.slow


@cache
def model() -> Model:
    return bb.load_model("pocket-llama")


@cache
def pairs() -> Session:
    return bb.load_pairs("sva_simple", model(), attribution=12, evaluation=8)


def built(name: str) -> Any:
    return pairs().basis(load_registry().get("basis", name)).basis


def read(name: str, layer: int) -> torch.Tensor:
    """Return what a basis reads in a layer, on the attribution prompts without their BOS."""
    hook = built(name).sites[layer].read
    groups = [group.attribution for group in pairs().groups]
    rows = [group.activation(hook, side)[:, 1:] for group in groups for side in ("clean", "counterfactual")]
    return torch.cat([each.flatten(0, -2) for each in rows])


@pytest.mark.parametrize(
    "name",
    ["permuted:clt", "random:transcoder", "errors:transcoder", "errors:clt", "pca:attn_out", "rotated:resid"],
)
def test_they_keep_the_contract(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("basisbench.checks.basis._SMALL", 0)  # no other types
    spec = load_registry().get("basis", name)
    assert spec.control
    assert not [found for found in check(spec, model()) if not found.holds]


@pytest.mark.parametrize("name", ["sae_mlp_out", "transcoder", "clt"])
def test_errors_alone_are_the_neurons_of_the_write_site_node_for_node(name: str) -> None:
    session, relp, sizes = pairs(), load_registry().get("method", "relp"), [1, 10, 50, 200]
    found = []
    for basis in (f"errors:{name}", "mlp_out"):
        spec = load_registry().get("basis", basis)
        cell = oracle.cell("mlp_out", task="sva_rc", method="relp").model_copy(update={"basis": basis})
        found.append(session.run(cell, spec, relp, at=sizes))
    errors, neurons = found
    for size in sizes:
        rows = [record.curve.circuit[record.curve.sizes.index(size)] for record in found]
        assert rows[0] == pytest.approx(rows[1], abs=2e-3)
        at = errors.curve.sizes.index(size)
        assert (errors.curve.feature_nodes[at], errors.curve.error_nodes[at]) == (0, size)
    named = [[(node.group, node.layer, node.position) for node in record.top_nodes] for record in found]
    assert named[0] == named[1]
    assert [node.coordinate for node in errors.top_nodes] == [node.unit for node in neurons.top_nodes]
    assert errors.error_share == pytest.approx(1)
    assert errors.control


def test_nobody_is_warned_that_a_control_fits_badly(caplog: pytest.LogCaptureFixture) -> None:
    groups = [group.attribution for group in pairs().groups]
    fit = pairs().fit(load_registry().get("basis", "permuted:sae_mlp_out"), built("permuted:sae_mlp_out"))
    assert fit is not None
    assert max(fit.fvu) > 1
    assert not caplog.records
    measure_fit(built("permuted:sae_mlp_out"), groups, allow_poor=True)
    assert "basis 'permuted:sae_mlp_out' fits the prompts of" in caplog.text


@pytest.mark.parametrize("name", ["sae_mlp_out", "clt"])
def test_a_permuted_unit_writes_what_another_one_should(name: str) -> None:
    basis, control = built(name), built(f"permuted:{name}")
    site = basis.sites[1]
    f = basis.encode(site, read(name, 1)[:5])
    # Which kernels are faster is timed for each basis, so equal up to rounding.
    torch.testing.assert_close(control.encode(site, read(name, 1)[:5]), f, rtol=1e-4, atol=1e-5)
    order = permutation(f.shape[-1], 1)
    assert not torch.equal(order, torch.arange(f.shape[-1]))
    zero = torch.zeros_like(f[:1])
    for unit in (0, 7):
        own, other = zero.clone(), zero.clone()
        own[0, unit], other[0, order[unit]] = 1.0, 1.0
        torch.testing.assert_close(control.decode(site, own), basis.decode(site, other))
        if name == "clt":
            later = basis.sites[3]
            torch.testing.assert_close(control.spread(site, own, later), basis.spread(site, other, later))
    units = torch.tensor([3, 900])
    part = control.part(site, units)
    lone = zero.clone().expand(2, -1).clone()
    lone[torch.arange(2), units] = 1.0
    expected = control.decode(site, lone) - control.decode(site, zero)
    torch.testing.assert_close(part.decode(torch.eye(2)), expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(part.encode(read(name, 1)[:5]), f[:, units], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["sae_mlp_out", "transcoder"])
def test_a_random_dictionary_is_as_wide_and_sparse_and_is_calibrated(name: str) -> None:
    basis, control = built(name), built(f"random:{name}")
    fit = pairs().fit(load_registry().get("basis", f"random:{name}"), control)
    plain = pairs().fit(load_registry().get("basis", name), basis)
    assert fit is not None
    assert plain is not None
    assert fit.slope == pytest.approx([1] * 4, abs=2e-3)
    assert all(mine > theirs for mine, theirs in zip(fit.fvu, plain.fvu, strict=True))
    for layer, site in enumerate(basis.sites):
        x = read(name, layer)
        theirs, ours = basis.encode(site, x), control.encode(site, x)
        assert ours.shape == theirs.shape
        assert int((ours != 0).sum()) == pytest.approx(int((theirs != 0).sum()), rel=0.01)
        torch.testing.assert_close(control.weights[site][1].norm(dim=1), torch.ones(ours.shape[1]))


def test_principal_axes_are_uncorrelated_and_in_order_of_variance() -> None:
    control = built("pca:mlp_out")
    for layer, site in enumerate(control.sites):
        f = control.encode(site, read("mlp_out", layer)).double()
        covariance = (f - f.mean(0)).T @ (f - f.mean(0)) / len(f)
        variances = covariance.diagonal()
        assert (variances[:-1] - variances[1:] > -1e-5 * variances[0]).all()
        assert (covariance - torch.diag(variances)).abs().max() < 1e-4 * variances[0]


def test_rotated_activations_are_those_that_ship() -> None:
    mine, shipped = built("rotated:mlp_act"), built("mlp_act_rotated")
    assert mine.sites == shipped.sites
    assert all(torch.equal(a, b) for a, b in zip(mine.rotations, shipped.rotations, strict=True))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("permuted:mlp_act", "expected a dictionary"),
        ("random:mlp_out", "expected a dictionary"),
        ("errors:mlp_out", "expected a dictionary"),
        ("pca:transcoder", "expected neurons"),
        ("rotated:clt", "expected neurons"),
        ("permuted:permuted:transcoder", "give a basis that is not"),
        ("random:calibrated:transcoder", "give a basis that is not"),
    ],
)
def test_what_has_no_such_control_is_told(name: str, message: str) -> None:
    with pytest.raises(BasisError, match=message):
        load_registry().get("basis", name)


def test_a_cross_layer_transcoder_has_no_random_twin() -> None:
    with pytest.raises(BasisError, match="writes to several layers"):
        built("random:clt")


def test_shuffled_scores_are_relp_s_of_each_layer_and_position_in_another_order() -> None:
    relp, mine, again = (
        bb.score(pairs(), "sae_mlp_out", method) for method in ("relp", "relp_shuffled", "relp_shuffled")
    )
    for key, group in relp.groups.items():
        assert group.errors is not None
        other = mine.groups[key]
        assert other.errors is not None
        for a, b in zip((*group.units, *group.errors), (*other.units, *other.errors), strict=True):
            torch.testing.assert_close(a.sort(dim=1).values, b.sort(dim=1).values, rtol=1e-5, atol=1e-7)
            assert not torch.allclose(a, b)
        assert all(torch.equal(a, b) for a, b in zip(other.units, again.groups[key].units, strict=True))
