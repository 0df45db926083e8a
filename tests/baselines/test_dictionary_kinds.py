"""Every kind of SAELens dictionary as a basis: SAELens's numbers, no state, a decoder that is affine in the units."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from sae_lens.registry import SAE_CLASS_REGISTRY
from torch import Tensor

from basisbench.errors import BasisError
from basisbench.protocols import UnitwiseBasis
from basisbench.types import Site
from basisbench_baselines.bases.saelens import DictionaryBasis
from basisbench_baselines.dictionaries.fast import independent_units
from basisbench_baselines.dictionaries.saelens_adapter import AdaptedDictionary, adapt
from helpers.random_dictionaries import UNITS, D, make

SITE = Site(0, "blocks.0.hook_resid_post", "blocks.0.hook_resid_post")
SAES = ("standard", "gated", "topk", "abstopk", "jumprelu", "matching_pursuit")
TRANSCODERS = ("transcoder", "jumprelu_transcoder", "skip_transcoder", "jumprelu_skip_transcoder")


def twin(kind: str, **settings: Any) -> tuple[Any, Any]:
    """Return a dictionary as SAELens has it, and the same adapted."""
    return make(kind, **settings), adapt(make(kind, **settings))


def basis_of(dictionary: Any) -> DictionaryBasis:
    return DictionaryBasis("b", "resid", (SITE,), (dictionary,))


def samples(seed: int = 5) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 0.7 + 1.5 * torch.randn(3, 4, D, generator=generator, dtype=torch.float64)


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)


def test_the_kinds_here_are_all_of_saelens() -> None:
    """A kind that SAELens adds is refused until it is looked at; one reads other positions and stays refused."""
    assert set(SAE_CLASS_REGISTRY) == {*SAES, *TRANSCODERS, "temporal"}


@pytest.mark.parametrize("shifted", [False, True])
@pytest.mark.parametrize("normalisation", ["none", "layer_norm", "constant_norm_rescale"])
@pytest.mark.parametrize("kind", SAES)
def test_an_autoencoder_reconstructs_what_saelens_does(kind: str, normalisation: str, shifted: bool) -> None:
    theirs, ours = twin(kind, normalisation=normalisation, shifted=shifted)
    basis, x = basis_of(ours), samples()
    expected = theirs(x)  # encode and decode in one call, while its state lives
    for context in (torch.inference_mode(), torch.enable_grad()):
        with context:
            units = basis.encode(SITE, x)
            close(basis.decode(SITE, units), expected)
    further = {"none": 0, "layer_norm": 2, "constant_norm_rescale": 1}[normalisation]
    assert units.shape[-1] == UNITS + further
    assert 0.02 < (units[..., :UNITS] != 0).double().mean() < 0.9
    features = theirs.encode(x)
    if normalisation == "layer_norm":
        std = x.std(-1, keepdim=True)
        close(units, torch.cat([features * std, std, x.mean(-1, keepdim=True)], dim=-1))
    elif normalisation == "constant_norm_rescale":
        size = x.norm(dim=-1, keepdim=True) / D**0.5
        close(units, torch.cat([features * size, size], dim=-1))
    else:
        close(units, features)


@pytest.mark.parametrize("normalisation", ["none", "layer_norm"])
@pytest.mark.parametrize("kind", TRANSCODERS)
def test_a_transcoder_writes_what_saelens_does(kind: str, normalisation: str) -> None:
    """SAELens normalises what a transcoder reads, and leaves what it writes and its skip connection alone."""
    if "skip" in kind and normalisation != "none":
        with pytest.raises(BasisError, match="normalises its input is not supported"):
            adapt(make(kind, normalisation=normalisation))
        return
    theirs, ours = twin(kind, normalisation=normalisation)
    basis, x = basis_of(ours), samples()
    for context in (torch.inference_mode(), torch.enable_grad()):
        with context:
            units = basis.encode(SITE, x)
            close(basis.decode(SITE, units), theirs(x))
    close(units[..., :UNITS], theirs.encode(x))
    if "skip" in kind:
        close(units[..., UNITS:], x)
    assert units.shape[-1] == UNITS + D * ("skip" in kind)


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("standard", {"normalisation": "layer_norm"}),
        ("topk", {"normalisation": "layer_norm", "shifted": True}),
        ("topk", {"normalisation": "constant_norm_rescale"}),
        ("topk", {"rescale_acts_by_decoder_norm": True}),
        ("topk", {"rescale_acts_by_decoder_norm": True, "normalisation": "layer_norm"}),
        ("jumprelu", {"normalisation": "layer_norm"}),
        ("gated", {}),
        ("abstopk", {}),
        ("matching_pursuit", {"shifted": True}),
        ("skip_transcoder", {}),
        ("jumprelu_skip_transcoder", {}),
    ],
)
def test_the_decoder_is_affine_and_nothing_depends_on_the_batch(kind: str, settings: dict[str, Any]) -> None:
    theirs, ours = twin(kind, **settings)
    basis, x = basis_of(ours), samples()
    with torch.inference_mode():
        f, g = basis.encode(SITE, x), basis.encode(SITE, samples(6))
        at_zero = basis.decode(SITE, torch.zeros_like(f))
        mixed = basis.decode(SITE, 0.3 * f + 2 * g) - at_zero
        close(mixed, 0.3 * (basis.decode(SITE, f) - at_zero) + 2 * (basis.decode(SITE, g) - at_zero))
        # Encoding something else in between leaves no trace; one row alone is what it is among others.
        close(basis.decode(SITE, f), theirs(x))
        for row in range(len(x)):
            for position in range(x.shape[1]):
                alone = basis.encode(SITE, x[row : row + 1, position : position + 1])
                close(alone[0, 0], f[row, position])


@pytest.mark.parametrize("shifted", [False, True])
@pytest.mark.parametrize("kind", ["standard", "jumprelu", "gated", "topk"])
def test_a_dictionary_of_a_centred_stream_encodes_the_centred_activation(kind: str, shifted: bool) -> None:
    theirs, ours = make(kind, shifted=shifted), adapt(make(kind, shifted=shifted), centred=True)
    basis, x = basis_of(ours), samples()
    mean = x.mean(-1, keepdim=True)
    for context in (torch.inference_mode(), torch.enable_grad()):
        with context:
            units = basis.encode(SITE, x)
            close(units, torch.cat([theirs.encode(x - mean), mean], dim=-1))
            close(x - basis.decode(SITE, units), (x - mean) - theirs(x - mean))


@pytest.mark.parametrize("kind", TRANSCODERS)
def test_a_transcoder_of_the_activation_before_a_gain_divides_by_it(kind: str) -> None:
    gain = torch.linspace(-2, 3, D, dtype=torch.float64)
    theirs, ours = make(kind), adapt(make(kind), gain=gain)
    basis, x = basis_of(ours), samples()
    for context in (torch.inference_mode(), torch.enable_grad()):
        with context:
            units = basis.encode(SITE, x * gain)
            close(units[..., :UNITS], theirs.encode(x))
            close(basis.decode(SITE, units), theirs(x))


@pytest.mark.parametrize(
    "kind", ["skip_transcoder", "jumprelu_skip_transcoder", "standard centred", "jumprelu centred"]
)
def test_further_units_that_are_linear_can_be_computed_alone(kind: str) -> None:
    ours = adapt(make(kind.split()[0], shifted="centred" in kind), centred="centred" in kind)
    basis, x = basis_of(ours), samples() - 1.5
    assert isinstance(basis, UnitwiseBasis)
    with torch.inference_mode():
        units = basis.encode(SITE, x)
        assert (units < 0).any(), "a linear unit has no threshold"
        some = torch.tensor([3, units.shape[-1] - 1, 17, 0])
        part = basis.part(SITE, some)
        assert part is not None
        close(part.encode(x), units[..., some])
        change = torch.zeros_like(units)
        change[..., some] = units[..., some]
        written = basis.decode(SITE, change) - basis.decode(SITE, torch.zeros_like(units))
        close(part.decode(units[..., some]), written)
        gradient = torch.randn(written.shape, dtype=torch.float64)
        close(part.project(gradient), gradient @ ours.w_dec[some].T)


def test_units_that_depend_on_each_other_have_no_parts() -> None:
    for kind, settings in (("topk", {}), ("gated", {}), ("standard", {"normalisation": "layer_norm"})):
        ours = adapt(make(kind, **settings))
        assert independent_units(ours) is None
        assert basis_of(ours).part(SITE, torch.tensor([1])) is None


def test_an_input_of_zeros_has_features_of_no_direction() -> None:
    x = torch.zeros(2, D, dtype=torch.float64)
    for normalisation in ("layer_norm", "constant_norm_rescale"):
        basis = basis_of(adapt(make("standard", normalisation=normalisation)))
        with torch.inference_mode():
            assert torch.equal(basis.decode(SITE, basis.encode(SITE, x)), x)


@pytest.mark.parametrize("shape", [(D,), (2, D), (2, 3, D), (2, 1, 3, D)])
def test_a_wide_sparse_code_is_decoded_by_rows_in_any_shape(shape: tuple[int, ...]) -> None:
    from sae_lens import TopKSAE, TopKSAEConfig

    module: Any = TopKSAE(TopKSAEConfig(d_in=D, d_sae=5000, k=7, dtype="float64", normalize_activations="layer_norm"))
    torch.nn.init.normal_(module.b_dec)
    basis = basis_of(adapt(module.eval().requires_grad_(False)))
    x = torch.randn(shape, dtype=torch.float64)
    with torch.inference_mode():
        units = basis.encode(SITE, x)
        close(basis.decode(SITE, units), units @ basis.dictionaries[0].w_dec)
        close(basis.decode(SITE, torch.zeros_like(units)), torch.zeros_like(x))


def test_saelens_takes_heads_side_by_side_in_this_order() -> None:
    """`reshape_activations: hook_z` flattens (head, d_head); a site has just that."""
    from sae_lens.saes.sae import SAEMetadata

    facts = {"metadata": SAEMetadata(hook_name="blocks.0.attn.hook_z"), "reshape_activations": "hook_z"}
    theirs, ours = twin("standard", **facts)
    x = samples()
    with torch.inference_mode():
        expected = theirs(x.unflatten(-1, (3, 4))).flatten(-2)
        basis = basis_of(ours)
        close(basis.decode(SITE, basis.encode(SITE, x)), expected)


@pytest.mark.parametrize(
    ("kind", "settings", "expected"),
    [
        ("standard", {"normalisation": "expected_average_only_in"}, "fold_activation_norm_scaling_factor"),
        ("standard", {"normalisation": "covariance_whitening"}, "fold_activation_whitening"),
        ("temporal", {"n_heads": 2, "bottleneck_factor": 2}, "it reads other positions too"),
    ],
)
def test_what_cannot_be_a_basis_says_why_in_one_line(kind: str, settings: dict[str, Any], expected: str) -> None:
    with pytest.raises(BasisError) as caught:
        adapt(make(kind, **settings))
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


def test_batchtopk_and_matryoshka_dictionaries_are_saved_with_a_threshold() -> None:
    """At inference they have one threshold for every token: nothing depends on the batch."""
    from sae_lens import BatchTopKTrainingSAEConfig, MatryoshkaBatchTopKTrainingSAEConfig

    for config in (BatchTopKTrainingSAEConfig, MatryoshkaBatchTopKTrainingSAEConfig):
        assert config(d_in=D, d_sae=UNITS).get_inference_config_class().architecture() == "jumprelu"  # type: ignore[call-arg]


def test_a_plain_dictionary_is_left_as_it_is() -> None:
    module = make("jumprelu")
    assert adapt(module) is module
    assert isinstance(adapt(make("jumprelu", normalisation="layer_norm")), AdaptedDictionary)
