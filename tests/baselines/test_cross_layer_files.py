"""circuit-tracer's files are read as it reads them, and whatever is wrong with them is said in one line.

Format: circuit_tracer/transcoder/cross_layer_transcoder.py at commit 4bb8c0ea10bde09727e14565ec8469656880da53. Hooks:
replacement_model_transformerlens.py there, transformer_lens 3.9.0 components/transformer_block.py and
components/{rms_norm,layer_norm}.py, model_bridge/generalized_components/block.py.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from torch import Tensor

from basisbench.attribution.context import GroupContext
from basisbench.attribution.fit import measure_fit
from basisbench.errors import BasisError
from basisbench.models.model import Model
from basisbench.protocols import BasisSpec
from basisbench.registry import load_registry
from helpers import cross_layer_oracle as cross
from helpers import oracle

pytestmark = pytest.mark.usefixtures("double_precision")


def with_folder(model: Model, folder: Path) -> Model:
    return replace(model, spec=replace(model.spec, dictionaries={"clt": folder}))


@pytest.fixture
def copied(tmp_path: Path) -> tuple[Model, Path]:
    folder = tmp_path / "clt"
    shutil.copytree(cross.folder("llama"), folder)
    return with_folder(cross.model("llama"), folder), folder


def spec() -> BasisSpec:
    return load_registry().get("basis", "clt")


def _configure(folder: Path, **values: str) -> None:
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | values))


def _change(path: Path, change: Callable[[dict[str, Tensor]], object]) -> None:
    tensors = load_file(path)
    change(tensors)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)


# --- what is read


class CircuitTracer:
    """What circuit-tracer's own class computes from these files, in its own words.

    `load_clt` reads W_enc_{i}, b_enc_{i}, b_dec_{i}, threshold_{i}; with a threshold_0 it is JumpReLU, else ReLU.
    `encode_layer`: einsum("...d,fd->...f", x, W_enc[i]) + b_enc[i], kept where it exceeds the threshold.
    `select_decoder_vectors` and `compute_reconstruction`: an active feature of layer i adds its activation times
    W_dec_{i}[feature, t] at layer i + t; b_dec[m] is added once at each layer m.
    """

    def __init__(self, folder: Path, layers: int) -> None:
        self.tensors: dict[str, Tensor] = {}
        for path in sorted(folder.glob("*.safetensors")):
            self.tensors |= load_file(path)
        self.layers = layers

    def encode_layer(self, x: Tensor, layer: int) -> Tensor:
        features = torch.einsum("...d,fd->...f", x, self.tensors[f"W_enc_{layer}"]) + self.tensors[f"b_enc_{layer}"]
        if "threshold_0" in self.tensors:
            return features * (features > self.tensors[f"threshold_{layer}"])
        return torch.nn.functional.relu(features)

    def decode(self, features: list[Tensor]) -> Tensor:
        """Reconstructions, ``layer pos d``."""
        output = torch.zeros(self.layers, len(features[0]), oracle.D_MODEL, dtype=torch.float64)
        for layer, part in enumerate(features):
            for position, feature in part.nonzero().tolist():
                for offset in range(self.layers - layer):
                    vector = self.tensors[f"W_dec_{layer}"][feature, offset]
                    output[layer + offset, position] += part[position, feature] * vector
        return output + torch.stack([self.tensors[f"b_dec_{layer}"] for layer in range(self.layers)])[:, None]


@pytest.mark.parametrize("jump", [True, False], ids=["jumprelu", "relu"])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_features_and_reconstructions_are_circuit_tracers(jump: bool, dtype: str) -> None:
    basis = cross.basis("llama", dtype, jump=jump)
    twin = CircuitTracer(cross.folder("llama", jump=jump), cross.LAYERS)
    atol = 1e-12 if dtype == "float64" else 1e-4
    x = torch.randn(cross.LAYERS, 7, oracle.D_MODEL, generator=torch.manual_seed(0), dtype=torch.float64)
    expected = [twin.encode_layer(x[layer], layer) for layer in range(cross.LAYERS)]
    rebuilt = twin.decode(expected)
    real = getattr(torch, dtype)
    for context in (torch.no_grad(), torch.enable_grad()):
        with context:
            for layer, site in enumerate(basis.sites):
                features = basis.encode(site, x[layer].to(real))
                torch.testing.assert_close(features.double(), expected[layer], rtol=0, atol=atol)
                assert 0.1 < (features > 0).double().mean() < 0.9
                output = basis.decode(site, expected[layer].to(real))
                for source in range(layer):
                    output = output + basis.spread(basis.sites[source], expected[source].to(real), site)
                torch.testing.assert_close(output.double(), rebuilt[layer], rtol=0, atol=atol)


def test_a_part_is_some_units(architecture: str) -> None:
    basis: Any = cross.basis(architecture)
    generator = torch.Generator().manual_seed(0)
    for site in basis.sites:
        x = torch.randn(4, 3, oracle.D_MODEL, generator=generator, dtype=torch.float64)
        units = torch.tensor([7, 0, 12])
        part = basis.part(site, units)
        with torch.no_grad():
            code = basis.encode(site, x)
            torch.testing.assert_close(part.encode(x), code[..., units], rtol=0, atol=1e-12)
            alone = torch.zeros_like(code)
            alone[..., units] = code[..., units]
            own = basis.decode(site, alone) - basis.decode(site, torch.zeros_like(code))
            torch.testing.assert_close(part.decode(code[..., units]), own, rtol=0, atol=1e-12)
            for target in basis.sites[site.layer :]:
                written = part.spread(code[..., units], target)
                torch.testing.assert_close(written, basis.spread(site, alone, target), rtol=0, atol=1e-12)


@pytest.mark.slow
def test_sites_are_named_as_everywhere(architecture: str) -> None:
    model = cross.model(architecture)
    for layer, site in enumerate(cross.basis(architecture).sites):
        assert (site.read, site.write) == (model.hook("mlp_in", layer), model.hook("mlp_out", layer))
    for layer, site in enumerate(cross.basis(architecture, read="hook_resid_mid").sites):
        assert (site.read, site.write) == (f"blocks.{layer}.hook_resid_mid", model.hook("mlp_out", layer))


def test_the_output_of_the_mlp_itself_has_the_name_of_the_family_where_it_is_the_same(
    copied: tuple[Model, Path],
) -> None:
    model, folder = copied
    _configure(folder, feature_output_hook="mlp.hook_out")
    basis = cross.build(model)
    assert [site.write for site in basis.sites] == [model.hook("mlp_out", layer) for layer in range(cross.LAYERS)]


def test_hooks_are_the_activations_that_circuit_tracer_reads(architecture: str) -> None:
    """HookedTransformer: hook_resid_mid = resid_pre + attn_out, before ln2. ReplacementMLP.hook_in: the MLP's input."""
    model, slow = cross.model(architecture), cross.slow_model(architecture)
    pairs = oracle.two_groups().attribution[0]
    context = GroupContext(model, pairs, 0)
    block = "model.layers.1" if architecture == "llama" else "transformer.h.1"
    attention = {"llama": "self_attn", "gpt2": "attn"}[architecture]
    for index, prompt in enumerate(pairs.clean):
        seen = slow.watched(
            prompt,
            {"pre": (block, "in"), "attn": (f"{block}.{attention}", "out"), "mlp": (f"{block}.mlp", "in")},
        )
        found = context.activation("blocks.1.hook_resid_mid", "clean")[index]
        torch.testing.assert_close(found, seen["pre"] + seen["attn"], rtol=0, atol=1e-12)
        torch.testing.assert_close(context.activation("blocks.1.mlp.hook_in", "clean")[index], seen["mlp"])


def test_one_pass_gives_a_hook_of_every_layer(architecture: str) -> None:
    model = cross.model(architecture)
    context = GroupContext(model, oracle.two_groups().attribution[0], 0)
    context.activation("blocks.0.hook_resid_mid", "clean")
    before = model.meter.forward_equivalents
    for layer in range(cross.LAYERS):
        context.activation(f"blocks.{layer}.hook_resid_mid", "clean")
    assert model.meter.forward_equivalents == before


def test_weights_are_read_when_they_are_first_used(copied: tuple[Model, Path]) -> None:
    model, folder = copied
    basis = cross.build(model)
    sizes = [tensor.numel() for path in folder.glob("*.safetensors") for tensor in load_file(path).values()]
    assert basis.parameter_bytes == 8 * sum(sizes)
    for path in folder.glob("W_*_2.safetensors"):
        path.unlink()
    x = torch.zeros(1, oracle.D_MODEL, dtype=torch.float64)
    for site in basis.sites[:2]:
        basis.decode(site, basis.encode(site, x))
    with pytest.raises(FileNotFoundError):
        basis.encode(basis.sites[2], x)


def test_weights_that_were_let_go_are_read_again(copied: tuple[Model, Path]) -> None:
    model, folder = copied
    basis: Any = cross.build(model)
    x = torch.ones(1, oracle.D_MODEL, dtype=torch.float64)
    first = basis.encode(basis.sites[0], x)
    basis.files[0].drop()
    assert torch.equal(basis.encode(basis.sites[0], x), first)
    basis.files[0].drop()
    _change(folder / "W_enc_0.safetensors", lambda tensors: tensors["b_enc_0"].add_(1))
    assert not torch.equal(basis.encode(basis.sites[0], x), first)


@pytest.mark.parametrize("active", [0, 1, 5, 40])
def test_a_code_is_decoded_by_the_rows_of_its_active_units(active: int) -> None:
    from basisbench_baselines.dictionaries.circuit_tracer_layer import _product

    generator = torch.manual_seed(active)
    rows = torch.randn(40, 3, 6, generator=generator).bfloat16()[:, 1]
    f = torch.zeros(2, 4, 40)
    f[..., torch.randperm(40, generator=generator)[:active]] = torch.randn(2, 4, active, generator=generator)
    torch.testing.assert_close(_product(rows, f), f @ rows.float(), rtol=0, atol=1e-5)


def test_large_decoders_stay_in_the_type_of_the_file(
    copied: tuple[Model, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, folder = copied
    model = with_folder(cross.model("llama", "float32"), folder)
    for path in folder.glob("W_dec_*.safetensors"):
        _change(path, lambda tensors: tensors.update({name: part.bfloat16() for name, part in tensors.items()}))
    packed: Any = cross.build(model)
    monkeypatch.setattr("basisbench_baselines.dictionaries.circuit_tracer_files.largest_bytes", lambda: 1000)
    basis: Any = cross.build(model)
    decoders = sum(path.stat().st_size for path in folder.glob("W_dec_*"))
    encoders = sum(part.numel() for path in folder.glob("W_enc_*") for part in load_file(path).values())
    assert basis.parameter_bytes == 4 * encoders + decoders < packed.parameter_bytes
    assert {files.w_dec.dtype for files in basis.files} == {torch.bfloat16}
    x = torch.randn(5, oracle.D_MODEL, generator=torch.manual_seed(0))
    some = torch.tensor([3, 1])
    with torch.no_grad():
        for site in basis.sites:
            code = basis.encode(site, x)
            assert code.dtype == torch.float32
            torch.testing.assert_close(code, packed.encode(site, x), rtol=0, atol=1e-5)
            torch.testing.assert_close(basis.decode(site, code), packed.decode(site, code), rtol=0, atol=1e-5)
            for target in basis.sites[site.layer :]:
                for one, other in ((basis, packed), (basis.part(site, some), packed.part(site, some))):
                    f = code if one is basis else code[..., some]
                    found = one.spread(site, f, target) if one is basis else one.spread(f, target)
                    expected = other.spread(site, f, target) if one is basis else other.spread(f, target)
                    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_the_fingerprint_follows_the_files(copied: tuple[Model, Path]) -> None:
    model, folder = copied
    first = spec().fingerprint(model.spec)
    assert first == spec().fingerprint(cross.model("llama").spec)
    (folder / "README.md").write_text("about these files")
    assert spec().fingerprint(model.spec) == first
    _change(folder / "W_dec_1.safetensors", lambda tensors: tensors["W_dec_1"].add_(1e-9))
    second = spec().fingerprint(model.spec)
    config = folder / "config.yaml"
    config.write_text(config.read_text().replace("mlp.hook_in", "hook_resid_mid"))
    assert len({first, second, spec().fingerprint(model.spec)}) == 3


def test_a_cross_layer_transcoder_that_fits_passes_the_guard(architecture: str) -> None:
    slow, basis = cross.slow(architecture), cross.basis(architecture)
    context = cross.contexts(architecture)[0].attribution
    fit = measure_fit(basis, [context], allow_poor=True)
    prompts = [*context.pairs.clean, *context.pairs.counterfactual]
    for layer in range(cross.LAYERS):
        values = [slow.values(prompt) for prompt in prompts]
        errors = torch.cat([one.errors[layer][1:] for one in values])
        outputs = torch.cat([(slow.parts.rebuilt(layer, one.units) + one.errors[layer])[1:] for one in values])
        active = torch.cat([(one.units[layer][1:] != 0).sum(-1) for one in values]).double().mean()
        unexplained = errors.pow(2).sum() / (outputs - outputs.mean(0)).pow(2).sum()
        assert fit.fvu[layer] == pytest.approx(float(unexplained), rel=1e-9)
        assert fit.l0[layer] == pytest.approx(float(active))
        rebuilt = outputs - errors
        centred = rebuilt - rebuilt.mean(0)
        slope = ((outputs - outputs.mean(0)) * centred).sum() / centred.pow(2).sum()
        assert fit.slope[layer] == pytest.approx(float(slope), rel=1e-9)


def test_decoders_that_do_not_fit_are_refused_by_the_guard(copied: tuple[Model, Path]) -> None:
    model, folder = copied
    # Only what layer 0 writes at layer 2 is wrong, so layer 2 is where it shows.
    _change(folder / "W_dec_0.safetensors", lambda tensors: tensors["W_dec_0"][:, 2].mul_(-30))
    basis = cross.build(model)
    with pytest.raises(BasisError, match=r"explains nothing at blocks\.2\.hook_mlp_out"):
        measure_fit(basis, [cross.contexts("llama")[0].attribution])


# --- by name


def test_a_folder_by_name(copied: tuple[Model, Path]) -> None:
    model, folder = copied
    bare = replace(model, spec=replace(model.spec, dictionaries={}))
    found = load_registry().get("basis", f"clt:{folder}")
    assert (found.name, found.family) == (f"clt:{folder}", "mlp")
    assert found.fingerprint(bare.spec) == spec().fingerprint(model.spec)
    basis = found.build(bare)
    assert basis.name == found.name
    assert basis.parameter_bytes == cross.basis("llama").parameter_bytes
    for name in ("clt:/nowhere", "clt:nowhere", "clt:./no/where"):
        with pytest.raises(BasisError, match=f"basis '{name}': no folder of that name"):
            load_registry().get("basis", name)


def test_a_repository_by_name(copied: tuple[Model, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A replica of the hub's cache: blobs named by their hash, snapshots of links, a reference to the commit."""
    import hashlib

    model, folder = copied
    cache, commit = tmp_path / "hub", "1234567890" * 4
    repository = cache / "models--somebody--clt-tiny"
    for part in ("blobs", "refs", f"snapshots/{commit}"):
        (repository / part).mkdir(parents=True)
    (repository / "refs" / "main").write_text(commit)
    for path in folder.iterdir():
        blob = repository / "blobs" / hashlib.sha256(path.read_bytes()).hexdigest()
        shutil.copy(path, blob)
        (repository / "snapshots" / commit / path.name).symlink_to(blob)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.file_download.constants.HF_HUB_CACHE", str(cache))
    bare = replace(model, spec=replace(model.spec, dictionaries={}))
    for name in ("clt:somebody/clt-tiny", f"clt:somebody/clt-tiny@{commit}"):
        found = load_registry().get("basis", name)
        assert found.fingerprint(bare.spec) == spec().fingerprint(model.spec)
        assert found.build(bare).parameter_bytes == cross.basis("llama").parameter_bytes
    with pytest.raises(BasisError, match="basis 'clt:somebody/other'"):
        load_registry().get("basis", "clt:somebody/other").build(bare)
