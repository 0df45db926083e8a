"""A dictionary that does not fit is refused in one line that names the basis and the hook; a good one passes."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from basisbench.attribution.context import GroupContext
from basisbench.attribution.fit import calibration_slope, fraction_unexplained, measure_fit
from basisbench.errors import BasisError
from basisbench.models.model import Model
from basisbench.protocols import Basis, Training
from helpers import oracle

pytestmark = pytest.mark.usefixtures("double_precision")


def groups(architecture: str) -> list[GroupContext]:
    return [pair.attribution for pair in oracle.contexts(architecture)]


def with_folder(model: Model, name: str, folder: Path) -> Model:
    """Return the model with another folder of dictionaries for one basis."""
    spec = replace(model.spec, dictionaries={**model.spec.dictionaries, name: folder})
    return replace(model, spec=spec)


def copied(architecture: str, name: str, tmp_path: Path) -> tuple[Model, Path]:
    folder = tmp_path / "dictionaries"
    shutil.copytree(oracle.dictionary_folder(architecture, name), folder)
    return with_folder(oracle.model(architecture), name, folder), folder


def build(name: str, model: Model) -> Basis:
    return oracle.basis_spec(name).build(model)


def rewritten(folder: Path, change: Any) -> None:
    """Load a dictionary, change it and save it again."""
    from sae_lens import SAE

    dictionary = SAE.load_from_disk(folder)
    with torch.no_grad():
        change(dictionary)
    dictionary.save_model(folder)


@pytest.mark.parametrize("name", oracle.DICTIONARIES)
def test_a_dictionary_that_fits_passes(architecture: str, name: str) -> None:
    fit = measure_fit(oracle.basis(architecture, name), groups(architecture))
    assert len(fit.fvu) == len(fit.l0) == oracle.LAYERS
    assert all(0 < value < 1 for value in fit.fvu)
    assert all(0 < value < 24 for value in fit.l0)


@pytest.mark.parametrize(("name", "trained_from"), [("sae_resid", 0), ("transcoder", 0), ("transcoder", 4)])
def test_it_is_what_a_prompt_at_a_time_gives(architecture: str, name: str, trained_from: int) -> None:
    """BOS is left out, and what was not trained on; of the group of four tokens the last position is left."""
    slow, twin = oracle.naive(architecture), oracle.naive_basis(architecture, name)
    basis = oracle.basis(architecture, name)
    fit = measure_fit(replace(basis, trained=Training(trained_from)), groups(architecture))
    prompts = [
        prompt
        for pairs in oracle.two_groups().attribution
        for side in (pairs.clean, pairs.counterfactual)
        for prompt in side
    ]
    for layer in range(oracle.LAYERS):
        values = [slow.values(twin, prompt) for prompt in prompts]
        starts = [min(max(1, trained_from), len(prompt) - 1) for prompt in prompts]
        measured = list(zip(values, starts, strict=True))
        rebuilt = [row for one, start in measured for row in twin.decode(layer, one.units[layer])[start:]]
        errors = [row for one, start in measured for row in one.errors[layer][start:]]
        y = [r + e for r, e in zip(rebuilt, errors, strict=True)]
        mean_y, mean_r = (sum(rows[1:], rows[0]) / len(rows) for rows in (y, rebuilt))
        squared, variance, along, spread, active = (0.0,) * 5
        for row, r, e in zip(y, rebuilt, errors, strict=True):
            squared += float(e @ e)
            variance += float((row - mean_y) @ (row - mean_y))
            along += float((row - mean_y) @ (r - mean_r))
            spread += float((r - mean_r) @ (r - mean_r))
        active = sum(float((one.units[layer][start:] != 0).sum()) for one, start in measured)
        assert fit.fvu[layer] == pytest.approx(squared / variance, rel=1e-9)
        assert fit.slope[layer] == pytest.approx(along / spread, rel=1e-9)
        assert fit.l0[layer] == pytest.approx(active / len(y), rel=1e-9)


def test_a_reconstruction_that_does_not_vary_is_calibrated() -> None:
    y = torch.randn(50, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    constant = (y.mean(0) * 3).expand_as(y)
    assert calibration_slope(y, constant) == 1
    assert calibration_slope(y, constant.float().double() * (1 + 1e-8 * y)) == 1
    assert calibration_slope(y, torch.zeros_like(y)) == 1
    assert calibration_slope(y, 2 * y + 5) == pytest.approx(0.5)
    assert fraction_unexplained(y, y - y.mean(0)) == pytest.approx(1)
    assert fraction_unexplained(torch.ones(5, 3), torch.zeros(5, 3)) == 0


@pytest.mark.parametrize("layer", range(oracle.LAYERS))
@pytest.mark.parametrize("name", oracle.DICTIONARIES)
def test_a_dictionary_of_zeros_is_refused(architecture: str, name: str, layer: int, tmp_path: Path) -> None:
    model, folder = copied(architecture, name, tmp_path)
    rewritten(folder / f"layer_{layer}", lambda sae: (sae.W_dec.zero_(), sae.b_dec.zero_()))
    _refused(build(name, model), architecture, model, layer)


@pytest.mark.parametrize("layer", range(oracle.LAYERS))
@pytest.mark.parametrize("name", oracle.DICTIONARIES)
def test_a_dictionary_of_garbage_is_refused(architecture: str, name: str, layer: int, tmp_path: Path) -> None:
    model, folder = copied(architecture, name, tmp_path)
    generator = torch.Generator().manual_seed(0)

    def scramble(sae: Any) -> None:
        sae.W_dec.copy_(3 * torch.randn(sae.W_dec.shape, generator=generator, dtype=torch.float64))
        sae.b_enc.copy_(1 + torch.rand(sae.b_enc.shape, generator=generator, dtype=torch.float64))

    rewritten(folder / f"layer_{layer}", scramble)
    _refused(build(name, model), architecture, model, layer)


def test_a_dictionary_of_not_a_number_is_refused(architecture: str, tmp_path: Path) -> None:
    model, folder = copied(architecture, "sae_resid", tmp_path)
    rewritten(folder / "layer_1", lambda sae: sae.b_dec.fill_(torch.nan))
    _refused(build("sae_resid", model), architecture, model, 1)


def _refused(basis: Basis, architecture: str, model: Model, layer: int) -> None:
    with pytest.raises(BasisError) as caught:
        measure_fit(basis, groups(architecture))
    message = str(caught.value)
    assert f"'{basis.name}'" in message
    assert (
        model.hook(
            "mlp_out" if basis.family == "mlp" else "attn_out" if basis.family == "attn" else "resid_post", layer
        )
        in message
    )
    assert "explains nothing" in message
    assert "\n" not in message


def test_a_missing_layer_is_refused(architecture: str, tmp_path: Path) -> None:
    model, folder = copied(architecture, "sae_mlp_out", tmp_path)
    shutil.rmtree(folder / "layer_1")
    _not_built("sae_mlp_out", model, "layer_1", "missing")


def test_a_missing_folder_is_refused(architecture: str, tmp_path: Path) -> None:
    model = with_folder(oracle.model(architecture), "sae_mlp_out", tmp_path / "nowhere")
    _not_built("sae_mlp_out", model, "layer_0", "missing")


def test_a_model_without_dictionaries_says_so(architecture: str) -> None:
    model = oracle.model(architecture)
    bare = replace(model, spec=replace(model.spec, dictionaries={"sae_resid": Path("x")}))
    _not_built("transcoder", bare, model.name, "sae_resid")
    with pytest.raises(BasisError, match="no dictionaries for basis 'transcoder'"):
        oracle.basis_spec("transcoder").fingerprint(bare.spec)


@pytest.mark.parametrize("name", ["sae_resid", "transcoder"])
def test_a_dictionary_of_another_width_is_refused(architecture: str, name: str, tmp_path: Path) -> None:
    model, folder = copied(architecture, name, tmp_path)
    path = folder / "layer_1"
    shutil.rmtree(path)
    _narrow(name).save_model(path)
    _not_built(name, model, "layer_1", "16 to 8" if name == "transcoder" else "width 8", "has width 16")


def _narrow(name: str) -> Any:
    from sae_lens import StandardSAE, StandardSAEConfig, Transcoder, TranscoderConfig

    if name == "transcoder":
        return Transcoder(TranscoderConfig(d_in=16, d_out=8, d_sae=12, apply_b_dec_to_input=False))
    return StandardSAE(StandardSAEConfig(d_in=8, d_sae=12))


@pytest.mark.parametrize("damage", ["weights", "truncated", "config", "no weights", "no config", "shapes", "kind"])
def test_a_damaged_file_is_refused(architecture: str, damage: str, tmp_path: Path) -> None:
    model, folder = copied(architecture, "sae_mlp_out", tmp_path)
    weights, config = folder / "layer_1" / "sae_weights.safetensors", folder / "layer_1" / "cfg.json"
    assert weights.is_file()
    assert config.is_file()
    if damage == "weights":
        weights.write_bytes(b"not a dictionary\n" * 10)
    elif damage == "truncated":
        weights.write_bytes(weights.read_bytes()[:-100])
    elif damage == "config":
        config.write_text("{\n")
    elif damage == "no weights":
        weights.unlink()
    elif damage == "no config":
        config.unlink()
    else:
        change = {"d_sae": 7} if damage == "shapes" else {"architecture": "nonsense"}
        config.write_text(json.dumps(json.loads(config.read_text()) | change))
    _not_built("sae_mlp_out", model, "layer_1")


@pytest.mark.parametrize("normalisation", ["expected_average_only_in", "covariance_whitening"])
def test_a_normalisation_that_the_files_do_not_give_is_refused(
    architecture: str, normalisation: str, tmp_path: Path
) -> None:
    model, folder = copied(architecture, "sae_resid", tmp_path)
    config = folder / "layer_0" / "cfg.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"normalize_activations": normalisation}))
    _not_built("sae_resid", model, "layer_0", normalisation)


def _not_built(name: str, model: Model, *mentioned: str) -> None:
    with pytest.raises(BasisError) as caught:
        build(name, model)
    message = str(caught.value)
    assert f"'{name}'" in message
    for text in mentioned:
        assert text in message
    assert "\n" not in message


def test_the_fingerprint_follows_the_files(architecture: str, tmp_path: Path) -> None:
    model, folder = copied(architecture, "sae_attn_out", tmp_path)
    fingerprint = oracle.basis_spec("sae_attn_out").fingerprint
    first = fingerprint(model.spec)
    assert first == fingerprint(oracle.model(architecture).spec)
    rewritten(folder / "layer_0", lambda sae: sae.b_dec.add_(1e-9))
    assert fingerprint(model.spec) != first
    assert oracle.basis_spec("mlp_act").fingerprint(model.spec) is None


def test_dictionaries_take_the_type_of_the_model(architecture: str) -> None:
    from basisbench.models.load import load_model

    model = load_model(oracle.model(architecture).spec, dtype="float32")
    basis = build("transcoder", model)
    context = GroupContext(model, oracle.two_groups().attribution[0], 0)
    units, error = context.coordinates(basis, basis.sites[1], "clean")
    assert error is not None
    assert (units.dtype, error.dtype) == (torch.float32, torch.float32)
    size = sum(
        parameter.numel() for sae in oracle.dictionaries(architecture, "transcoder") for parameter in sae.parameters()
    )
    assert basis.parameter_bytes == 4 * size
