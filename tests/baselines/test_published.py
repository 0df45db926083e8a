"""Published dictionaries by name, on a local copy of the hub's cache: hooks, layers, and the numbers they give.

Every release is read by SAELens's own loader from files in its published format. What comes out is compared with a
formula written out here, on the arrays that the files hold.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from basisbench.attribution.context import GroupContext
from basisbench.attribution.fit import measure_fit
from basisbench.models.load import load_model
from basisbench.models.model import Model
from basisbench.protocols import Basis
from basisbench.registry import load_registry
from basisbench.types import ModelSpec, Pairs
from helpers.hub_formats import CLT, Weights
from helpers.hub_releases import RELEASES
from helpers.hub_replica import MODELS, HubReplica, gemma_2_replica, replica
from helpers.oracle_models import random_pairs

pytestmark = pytest.mark.slow

SOME = next(iter(RELEASES))
HOOKS = {
    "resid_pre": "hook_resid_post",
    "resid_post": "hook_resid_post",
    "mlp_in": "mlp.hook_in",
    "mlp_in normalised": "mlp.hook_in",
    "mlp_out": "hook_mlp_out",
    "attn_z": "attn.hook_z",
    "attn_out": "hook_attn_out",
}


def hub_of(name: str) -> HubReplica:
    return gemma_2_replica() if RELEASES[name].model == "gemma-2" else replica()


def full_name(name: str) -> str:
    """Return what a user would write: releases with several dictionaries per layer need a pattern."""
    release = RELEASES[name]
    layer = "[01]" if release.model == "gemma-2" else "*"
    choice = release.pattern.format(layer)
    return f"sae:{name}" + (f":{choice}" if "width" in choice else "")


@pytest.fixture(autouse=True)
def _in_use(request: pytest.FixtureRequest) -> Iterator[None]:
    name = request.node.callspec.params.get("name", SOME) if hasattr(request.node, "callspec") else SOME
    with hub_of(name).in_use():
        yield


@cache
def model_of(key: str) -> Model:
    hub = gemma_2_replica() if key == "gemma-2" else replica()
    with hub.in_use():
        spec = ModelSpec(f"tiny {key}", str(hub.snapshot(MODELS[key].repository)), "tiny")
        return load_model(spec, dtype="float32")


@cache
def basis_of(name: str) -> Basis:
    return load_registry().get("basis", full_name(name)).build(model_of(RELEASES[name].model))


@pytest.fixture(scope="module", autouse=True)
def _freed() -> Iterator[None]:
    yield
    for kept in (basis_of, model_of):
        kept.cache_clear()


def stored(name: str, layer: int) -> Weights:
    """Return what the files of the dictionary of a layer hold, as float64."""
    weights = hub_of(name).weights[name, RELEASES[name].at(layer)]
    return {key: value.double() for key, value in weights.items()}


def formula(name: str, layer: int, x: Tensor) -> tuple[Tensor, Tensor]:
    """Return features and reconstruction, in float64, from the release's own description."""
    w = stored(name, layer)
    mean = x.mean(-1, keepdim=True)
    if name.startswith("gpt2") and "v5" in name:  # OpenAI: normalised input, 6 largest pre-activations (32 published)
        std = ((x - mean).square().sum(-1, keepdim=True) / (x.shape[-1] - 1)).sqrt()
        before = ((x - mean) / (std + 1e-5) - w["b_dec"]) @ w["W_enc"] + w["b_enc"]
        smallest = before.sort(-1, descending=True).values[..., 5:6]
        f = before.relu() * (before >= smallest)
        return f, (f @ w["W_dec"] + w["b_dec"]) * std + mean
    if name == "gpt2-small-res-jb":  # trained on the centred stream
        f = ((x - mean - w["b_dec"]) @ w["W_enc"] + w["b_enc"]).relu()
        return f, f @ w["W_dec"] + w["b_dec"] + mean
    if name.startswith("pythia"):
        f = ((x - w["b_dec"]) @ w["W_enc"] + w["b_enc"]).relu()
        return f, f @ w["W_dec"] + w["b_dec"]
    if name.startswith("mwhanna"):
        f = (x @ w["W_enc"] + w["b_enc"]).relu()
        return f, f @ w["W_dec"] + w["b_dec"]
    if name.startswith("llama"):
        return _llama(name, layer, w, x)
    if name == "gemma-scope-2b-pt-transcoders":  # after the norm, before its gain
        norm = model_of("gemma-2").body.model.layers[layer].pre_feedforward_layernorm
        x = x / (1 + norm.weight.double())
    before = x @ w["W_enc"] + w["b_enc"]
    f = before * (before > w["threshold"])
    return f, f @ w["W_dec"] + w["b_dec"] + (x @ w["W_skip"] if "W_skip" in w else 0)


def _llama(name: str, layer: int, w: Weights, x: Tensor) -> tuple[Tensor, Tensor]:
    """Llama Scope: bfloat16 files of a dictionary of activations times a factor; its threshold is in activations."""
    from sae_lens.loading.pretrained_saes_directory import get_pretrained_saes_directory

    factor = get_pretrained_saes_directory()[name].norm_scaling_factor[RELEASES[name].at(layer)]
    half = {
        "encoder": (w["W_enc"].float() / factor).bfloat16().double(),
        "decoder": (w["W_dec"].float() * factor).bfloat16().double(),
        "b_enc": w["b_enc"].bfloat16().double(),
        "b_dec": (w["b_dec"].float() * factor).bfloat16().double(),
    }
    before = (x * factor) @ half["encoder"] + half["b_enc"]
    f = before * (before > 0.162109375)
    return f, (f @ half["decoder"] + half["b_dec"]) / factor


def samples(width: int) -> Tensor:
    generator = torch.Generator().manual_seed(7)
    return 0.3 + 1.5 * torch.randn(4, 9, width, generator=generator, dtype=torch.float64)


def prompts(model: Model) -> Pairs:
    """Return pairs of random tokens behind the first one, which is the same everywhere."""
    drawn = np.random.default_rng(3).integers(2, model.body.config.vocab_size, (2, 24, 8))
    drawn[:, :, 0] = 0
    return replace(random_pairs(24, 8, 3), clean=drawn[0], counterfactual=drawn[1])


@pytest.mark.parametrize("name", RELEASES)
def test_hooks_layers_and_family_are_the_published_ones(name: str) -> None:
    release, basis = RELEASES[name], basis_of(name)
    model = model_of(release.model)
    assert [site.layer for site in basis.sites] == list(range(model.layers))
    for site in basis.sites:
        assert site.read == f"blocks.{site.layer}.{HOOKS[release.read]}"
        assert site.write == f"blocks.{site.layer}.{HOOKS[release.write]}"
    kind = release.write.split("_")[0]
    assert (basis.name, basis.family) == (full_name(name), kind)
    assert dict(basis.sources) == {release.repository: hub_of(name).snapshot(release.repository).name}  # type: ignore[attr-defined]


@pytest.mark.slow
@pytest.mark.parametrize("name", RELEASES)
def test_features_and_reconstruction_are_those_of_the_formula(name: str) -> None:
    basis = basis_of(name)
    for site in (basis.sites[0], basis.sites[-1]):
        width = len(stored(name, site.layer)["W_enc"])
        x = samples(width)
        f, expected = formula(name, site.layer, x)
        assert 0 < (f != 0).double().mean() < 0.9
        scale = expected.abs().max()
        for context in (torch.inference_mode(), torch.enable_grad()):
            with context:
                units = basis.encode(site, x.float())
                decoded = basis.decode(site, units)
            assert units.dtype == torch.float32
            features = units[..., : f.shape[-1]].double()
            if "v5" in name:  # in units of the activation
                features = features / x.std(-1, keepdim=True)
            torch.testing.assert_close(features, f, rtol=1e-4, atol=1e-4)
            torch.testing.assert_close(decoded.double() / scale, expected / scale, rtol=0, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", RELEASES)
def test_the_error_and_its_share_of_the_variance_are_those_of_saelens_alone(name: str) -> None:
    """The guard's figure against SAELens's forward pass on the activation that the release was trained on."""
    release, basis = RELEASES[name], basis_of(name)
    model = model_of(release.model)
    group = GroupContext(model, prompts(model), 0)
    fit = measure_fit(basis, [group])
    for site, found in zip(basis.sites, fit.fvu, strict=True):
        if site not in (basis.sites[0], basis.sites[-1]):
            continue
        read, write = (
            torch.cat([group.activation(hook, side)[:, 1:].flatten(0, 1) for side in ("clean", "counterfactual")])
            for hook in (site.read, site.write)
        )
        error = _saelens_error(name, site.layer, model, read, write)
        expected = error.square().sum() / (write - write.mean(0)).square().sum()
        assert 0 < found < 1
        assert found == pytest.approx(float(expected), rel=1e-4)


def _saelens_error(name: str, layer: int, model: Model, read: Tensor, write: Tensor) -> Tensor:
    """Return what SAELens's own forward pass leaves over; its state lives from encode to decode of one call."""
    from sae_lens import SAE

    from basisbench_baselines.dictionaries.hub_snapshot import pinned, quiet, resolve

    release = RELEASES[name]
    with pinned(resolve(release.repository, None)), quiet():
        sae: Any = SAE.from_pretrained(name, release.at(layer))
    sae.turn_off_forward_pass_hook_z_reshaping()
    with torch.no_grad():
        if name == "gpt2-small-res-jb":
            write = write - write.mean(-1, keepdim=True)
            return write - sae(write)
        if name == "gemma-scope-2b-pt-transcoders":
            read = read / (1 + model.body.model.layers[layer].pre_feedforward_layernorm.weight)
        return write - sae(read)


@pytest.mark.parametrize("name", ["gpt2-small-mlp-out-v5-32k", "gemma-scope-2-270m-pt-transcoders-all"])
def test_one_prompt_alone_gets_what_it_gets_in_a_batch(name: str) -> None:
    basis = basis_of(name)
    site = basis.sites[3]
    x = samples(16).float()
    with torch.no_grad():
        together = basis.encode(site, x)
        reconstructed = basis.decode(site, together)
        for row in range(len(x)):
            alone = basis.encode(site, x[row : row + 1])
            torch.testing.assert_close(alone[0], together[row], rtol=1e-5, atol=1e-5)
            torch.testing.assert_close(basis.decode(site, alone)[0], reconstructed[row], rtol=1e-5, atol=1e-5)


def test_weights_are_read_when_a_layer_is_first_used_and_can_be_let_go() -> None:
    basis: Any = load_registry().get("basis", full_name("pythia-70m-deduped-mlp-sm")).build(model_of("pythia"))
    assert basis.dictionaries.loaded == ()
    x = samples(16).float()
    with torch.no_grad():
        first = basis.encode(basis.sites[2], x)
        assert basis.dictionaries.loaded == (2,)
        assert not basis.keep_less(), "the only one that is in memory is needed"
        basis.encode(basis.sites[1], x)
        assert basis.keep_less()
        assert basis.dictionaries.loaded == (1,)
        assert torch.equal(basis.encode(basis.sites[2], x), first)
    size = sum(tensor.numel() for tensor in stored("pythia-70m-deduped-mlp-sm", 0).values()) - 24  # no threshold
    assert basis.parameter_bytes == 4 * size * len(basis.sites)


def test_a_model_in_half_precision_gets_dictionaries_in_float32() -> None:
    spec = ModelSpec("half", str(replica().snapshot(MODELS["pythia"].repository)), "tiny")
    model = load_model(spec, dtype="bfloat16")
    basis: Any = load_registry().get("basis", full_name("pythia-70m-deduped-mlp-sm")).build(model)
    x = samples(16).bfloat16()
    f, expected = formula("pythia-70m-deduped-mlp-sm", 1, x.double())
    for context in (torch.no_grad(), torch.enable_grad()):
        with context:
            units = basis.encode(basis.sites[1], x)
            decoded = basis.decode(basis.sites[1], units)
        assert units.dtype == decoded.dtype == torch.float32
        torch.testing.assert_close(units.double(), f, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(decoded.double(), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_the_cross_layer_transcoder_of_gemma_2_reads_before_the_norm_and_writes_after_the_post_norm(
    gemma_2: HubReplica,
) -> None:
    """hook_resid_mid and hook_mlp_out of TransformerLens 3.9, components/transformer_block.py, by their modules."""
    model = model_of("gemma-2")
    basis: Any = load_registry().get("basis", f"clt:{CLT}").build(model)
    assert dict(basis.sources) == {CLT: gemma_2.snapshot(CLT).name}
    assert [(site.read, site.write) for site in basis.sites] == [
        (f"blocks.{layer}.hook_resid_mid", f"blocks.{layer}.hook_mlp_out") for layer in range(2)
    ]
    place = model.place(basis.sites[1].read)
    assert (place.module, place.end) == ("model.layers.1.pre_feedforward_layernorm", "in")
    place = model.place(basis.sites[1].write)
    assert (place.module, place.end) == ("model.layers.1.post_feedforward_layernorm", "out")
    files = gemma_2.snapshot(CLT)
    stored = {key: value for path in files.glob("W_*") for key, value in load_file(path).items()}
    x = [samples(16).float(), 2 * samples(16).float()]
    f = [(x[i] @ stored[f"W_enc_{i}"].T + stored[f"b_enc_{i}"]).relu() for i in range(2)]
    with torch.no_grad():
        for i, site in enumerate(basis.sites):
            torch.testing.assert_close(basis.encode(site, x[i]), f[i], rtol=1e-4, atol=1e-4)
        rebuilt = basis.decode(basis.sites[1], f[1]) + basis.spread(basis.sites[0], f[0], basis.sites[1])
    expected = f[0] @ stored["W_dec_0"][:, 1] + f[1] @ stored["W_dec_1"][:, 0] + stored["b_dec_1"]
    torch.testing.assert_close(rebuilt, expected, rtol=1e-4, atol=1e-4)
    fit = measure_fit(basis, [GroupContext(model, prompts(model), 0)])
    assert all(0 < share < 1 for share in fit.fvu)


@pytest.fixture
def gemma_2() -> Iterator[HubReplica]:
    """The copy of Gemma 2's repositories, in use."""
    with gemma_2_replica().in_use():
        yield gemma_2_replica()
