"""A basis on some of its layers: nodes, endpoints and curves are those of a basis that never had the others."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from basisbench.attribution.context import GroupContext
from basisbench.attribution.projection import projected_scores
from basisbench.circuits.circuit import CircuitMask
from basisbench.circuits.group import GroupPair
from basisbench.circuits.ranking import rank
from basisbench.errors import BasisBenchError, BasisError
from basisbench.protocols import Basis, BasisSpec, CrossLayerBasis, PublishedBasis, UnitwiseBasis
from basisbench.results.metrics import sizes_grid
from basisbench.runs.cells import shared_layers
from basisbench.runs.layer_subset import LayerSubset, restrict
from basisbench.types import Ablation, Site
from helpers import oracle
from helpers.passes import edits_of, measure_group


def spec(name: str, family: Any, layers: tuple[int, ...] | None) -> BasisSpec:
    return BasisSpec(name, family, "", build=lambda _model: None, layers=layers)  # type: ignore[arg-type, return-value]


@pytest.mark.parametrize("name", ["mlp_act", "sae_resid", "transcoder", "mlp_act_rotated"])
def test_the_sites_that_are_left_are_the_bases_own(name: str) -> None:
    whole = oracle.basis("gpt2", name)
    some = restrict(whole, [1])
    assert isinstance(some, Basis)
    assert list(some.sites) == [whole.sites[1]]
    assert (some.name, some.family, some.exact) == (whole.name, whole.family, whole.exact)
    assert some.parameter_bytes == whole.parameter_bytes
    assert isinstance(some, UnitwiseBasis) == isinstance(whole, UnitwiseBasis)
    assert isinstance(some, PublishedBasis) == isinstance(whole, PublishedBasis) == (not whole.exact)
    assert not isinstance(some, CrossLayerBasis)
    context = GroupContext(oracle.model("gpt2"), oracle.two_groups().attribution[0], 0)
    site = whole.sites[1]
    found, expected = context.coordinates(some, site, "clean"), context.coordinates(whole, site, "clean")
    assert torch.equal(found[0], expected[0])
    assert torch.equal(some.decode(site, found[0]), whole.decode(site, found[0]))
    if isinstance(some, UnitwiseBasis) and isinstance(whole, UnitwiseBasis):
        units = torch.tensor([2, 0])
        with torch.no_grad():
            parts = [basis.part(site, units) for basis in (some, whole)]
            x = context.activation(site.read, "clean")
            if parts[0] is not None and parts[1] is not None:
                assert torch.equal(parts[0].encode(x), parts[1].encode(x))
            assert (parts[0] is None) == (parts[1] is None)


def test_all_layers_are_no_restriction() -> None:
    whole = oracle.basis("gpt2", "mlp_act")
    assert restrict(whole, None) is whole
    assert restrict(whole, range(oracle.LAYERS)) is whole


def test_a_layer_that_the_basis_lacks_is_told() -> None:
    with pytest.raises(BasisError, match="'mlp_act' has no site in layer 7, only in layers 0-1"):
        restrict(oracle.basis("gpt2", "mlp_act"), [0, 7])


def test_a_basis_that_writes_across_layers_stays_one() -> None:
    class Across:
        name, family, exact, parameter_bytes = "clt", "mlp", False, 0
        sites = tuple(Site(layer, "r", "w") for layer in range(3))

        def encode(self, _site: Site, x: Any) -> Any:
            return x

        def decode(self, _site: Site, f: Any) -> Any:
            return f

        def spread(self, site: Site, f: Any, to: Site) -> Any:
            return (site.layer, to.layer, f)

    some = restrict(Across(), [0, 2])  # type: ignore[arg-type]
    assert isinstance(some, CrossLayerBasis)
    assert not isinstance(some, UnitwiseBasis)
    assert some.spread(some.sites[0], torch.zeros(1), some.sites[1])[:2] == (0, 2)


def test_weights_that_do_not_fit_are_the_basis_own_matter() -> None:
    whole = oracle.basis("gpt2", "mlp_act")
    asked: list[bool] = []
    members = {
        "name": "lazy", "family": "mlp", "sites": whole.sites, "exact": True, "parameter_bytes": 0,
        "encode": str, "decode": str, "streams": True, "sources": {"a/b": "c"},
        "keep_less": lambda _self: asked.append(True) or True,
    }  # fmt: skip
    some = LayerSubset(type("Lazy", (), members)(), whole.sites[:1])
    assert some.streams
    assert some.keep_less()
    assert asked == [True]
    assert some.sources == {"a/b": "c"}
    neurons = LayerSubset(whole, whole.sites[:1])  # they have nothing to let go of
    assert not neurons.streams
    assert not neurons.keep_less()


def test_the_bases_of_a_family_share_the_layers_that_all_of_them_cover() -> None:
    bases = [
        spec("neurons", "mlp", None),
        spec("a", "mlp", (0, 1, 2, 5)),
        spec("b", "mlp", (1, 2, 3, 5)),
        spec("resid", "resid", None),
        spec("c", "attn", tuple(range(6))),
    ]
    assert shared_layers(bases) == {"mlp": (1, 2, 5), "resid": None, "attn": (0, 1, 2, 3, 4, 5)}
    assert shared_layers(bases, 6) == {"mlp": (1, 2, 5), "resid": None, "attn": None}
    assert shared_layers([]) == {}


def test_bases_without_a_common_layer_are_told() -> None:
    with pytest.raises(BasisError, match="'a' and 'b' of family mlp cover no common layer"):
        shared_layers([spec("a", "mlp", (0, 1)), spec("n", "mlp", None), spec("b", "mlp", (2,))])


def test_a_run_is_restricted_to_the_layers_that_are_asked_for() -> None:
    bases = [spec("neurons", "mlp", None), spec("a", "mlp", (1, 2, 3, 5)), spec("resid", "resid", None)]
    assert shared_layers(bases, 6, (2, 3, 4)) == {"mlp": (2, 3), "resid": (2, 3, 4)}
    assert shared_layers(bases[::2], 6, tuple(range(6))) == {"mlp": None, "resid": None}
    with pytest.raises(BasisError, match="basis 'a' covers none of the layers that are asked for; layers of 'a': 1, 2"):
        shared_layers(bases, 6, (0, 4))
    with pytest.raises(BasisBenchError, match="layers: the model has 6, 0 to 5; found 6"):
        shared_layers(bases, 6, (2, 6))


@pytest.mark.parametrize("ablation", ["mean", "counterfactual"])
def test_the_empty_circuit_is_one_number_for_every_basis_on_the_same_layers(ablation: Ablation) -> None:
    group = oracle.contexts("gpt2")[0]
    whole = group.empty(oracle.basis("gpt2", "mlp_out"), ablation)
    for layer in range(oracle.LAYERS):
        bases = [restrict(oracle.basis("gpt2", name), [layer]) for name in ("mlp_out", "mlp_act", "sae_mlp_out")]
        found = [group.empty(basis, ablation) for basis in bases]
        edited = [logits(group, basis, ablation, kept=False) for basis in bases]
        for empty, values in zip(found, edited, strict=True):
            torch.testing.assert_close(empty, group.evaluation.batch.metric(values), rtol=0, atol=1e-11)
            torch.testing.assert_close(empty, found[0], rtol=0, atol=1e-11)
        assert (found[0] - whole).abs().max() > 1e-3


@pytest.mark.parametrize("name", ["mlp_act", "sae_mlp_out", "transcoder", "sae_resid", "attn_out"])
def test_a_layer_that_is_left_out_is_left_alone(name: str) -> None:
    """The same as keeping everything in it: every node, and the error live."""
    group, whole = oracle.contexts("gpt2")[0], oracle.basis("gpt2", name)
    for layer in range(oracle.LAYERS):
        some = restrict(whole, [layer])
        found = logits(group, some, "mean", kept=False)
        expected = logits(group, whole, "mean", kept=[site.layer != layer for site in whole.sites])
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-11)


def logits(group: GroupPair, basis: Basis, ablation: Ablation, *, kept: bool | list[bool]) -> Tensor:
    """Return logits with all nodes and errors of each site kept, or none of them."""
    reference = group.reference(basis, ablation)
    flags = kept if isinstance(kept, list) else [kept] * len(basis.sites)
    mask = CircuitMask(
        tuple(torch.full((1, 1, units.shape[-1]), flag) for units, flag in zip(reference.units, flags, strict=True)),
        tuple(torch.full((1, 1, 1), flag) for flag in flags),
    )
    model, tokens = group.evaluation.model, group.evaluation.batch.clean
    with torch.inference_mode():
        return model.logits(tokens, edits_of(group, basis, ablation, mask))


def test_a_restricted_basis_is_scored_and_measured_by_the_harness() -> None:
    group = oracle.contexts("gpt2")[0]
    some = restrict(oracle.basis("gpt2", "sae_mlp_out"), [1])
    scores = projected_scores(group.attribution, some, "ixg")
    whole = projected_scores(group.attribution, oracle.basis("gpt2", "sae_mlp_out"), "ixg")
    assert torch.equal(scores.units[0], whole.units[1])
    ranking = rank(scores, policy="coordinates")
    sizes = sizes_grid(ranking.nodes)
    curve = measure_group(oracle.cell("sae_mlp_out"), some, group, ranking, sizes)
    assert curve.circuit[0] == curve.empty
    torch.testing.assert_close(torch.tensor(curve.circuit[-1]), torch.tensor(curve.full), rtol=0, atol=1e-9)
    assert {site.layer for site in some.sites} == {1}
