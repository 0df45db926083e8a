"""Cross-layer transcoders of CLT-Forge, and those that read the normalised stream, give their makers' numbers."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from basisbench.errors import BasisError
from basisbench.registry import load_registry
from helpers import cross_layer_oracle as cross
from helpers import oracle
from helpers.hub_replica import HubReplica

pytestmark = pytest.mark.usefixtures("double_precision")

WIDTH, UNITS = oracle.D_MODEL, 12


def gain(layer: int) -> Tensor:
    weight: Tensor = cross.model("llama").body.model.layers[layer].post_attention_layernorm.weight
    return weight.detach()


def inputs(layers: int = cross.LAYERS) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(3, 4, WIDTH, generator=generator, dtype=torch.float64) for _ in range(layers)]


def rebuilt(basis: Any, x: list[Tensor]) -> list[Tensor]:
    """Return the reconstruction at every layer."""
    units = [basis.encode(site, part) for site, part in zip(basis.sites, x, strict=True)]
    return [
        basis.decode(site, units[layer])
        + sum(basis.spread(basis.sites[source], units[source], site) for source in range(layer))
        for layer, site in enumerate(basis.sites)
    ]


def test_units_that_read_the_normalised_stream_get_it(tmp_path: Path) -> None:
    """circuit-tracer's ln2.hook_normalized: what the norm computes before its gain."""
    files = cross.files("llama")
    basis: Any = load_registry().get("basis", f"clt:{files.save(tmp_path, feature_input_hook='ln2.hook_normalized')}")
    basis = basis.build(cross.model("llama"))
    assert [site.read for site in basis.sites] == [f"blocks.{layer}.mlp.hook_in" for layer in range(cross.LAYERS)]
    x = inputs()
    units = [files.encode(layer, part / gain(layer)) for layer, part in enumerate(x)]
    with torch.no_grad():
        for layer, found in enumerate(rebuilt(basis, x)):
            torch.testing.assert_close(found, files.rebuilt(layer, units), rtol=0, atol=1e-9)
    part = basis.part(basis.sites[1], torch.tensor([4, 2]))
    torch.testing.assert_close(part.encode(x[1]), units[1][..., [4, 2]], rtol=0, atol=1e-9)


@dataclass
class Forge:
    """What CLT-Forge's own class holds and computes (`CLT.encode`, `CLT.decode`, and how its trainer scales)."""

    tensors: dict[str, Tensor]
    crossing: bool

    def rebuild(self, x: list[Tensor]) -> list[Tensor]:
        w = {name: value.double() for name, value in self.tensors.items()}
        layers = range(len(x))
        units = []
        for layer, part in enumerate(x):
            before = part * w["estimated_norm_scaling_factor_in"][layer] @ w["W_enc"][layer] + w["b_enc"][layer]
            units.append(before * (before > w["log_threshold"][layer].exp()))
        pairs = [(source, target) for source in layers for target in layers if source <= target]
        if not self.crossing:
            pairs = [(layer, layer) for layer in layers]
        out = [torch.zeros_like(part) for part in x]
        for row, (source, target) in enumerate(pairs):
            out[target] += units[source] @ w["W_dec"][row] + w["b_dec"][row]
        return [part / w["estimated_norm_scaling_factor_out"][layer] for layer, part in enumerate(out)]

    def save(self, folder: Path, shards: int = 1) -> Path:
        """Write the files as `CLT.save_model` does, by one process or by one for each share of the units."""
        folder.mkdir(parents=True, exist_ok=True)
        axes = {"W_enc": 2, "b_enc": 1, "W_dec": 1, "log_threshold": 1}
        for rank in range(shards):
            kept = {
                name: (value.chunk(shards, axes[name])[rank] if name in axes else value).contiguous()
                for name, value in self.tensors.items()
            }
            kept["feature_count"] = torch.zeros(cross.LAYERS, UNITS // shards, dtype=torch.long)
            save_file(kept, folder / f"{f'rank{rank}_' if shards > 1 else ''}clt_weights.safetensors")
        config = {
            "device": "cuda", "dtype": "bfloat16", "seed": 42, "model_name": "gpt2", "d_in": WIDTH, "d_latent": UNITS,
            "n_layers": cross.LAYERS, "jumprelu_bandwidth": 1.0, "jumprelu_init_threshold": 0.03,
            "normalize_decoder": False, "dead_feature_window": 250, "cross_layer_decoders": self.crossing,
            "context_size": 16, "l0_coefficient": 2.0, "ddp": False, "fsdp": False, "feature_sharding": shards > 1,
        }  # fmt: skip
        (folder / "clt_cfg.json").write_text(json.dumps(config), encoding="utf-8")
        return folder


def forge(*, crossing: bool = True, dtype: torch.dtype = torch.float32) -> Forge:
    generator = torch.Generator().manual_seed(int(crossing))
    layers = cross.LAYERS
    rows = layers * (layers + 1) // 2 if crossing else layers

    def draw(*shape: int) -> Tensor:
        return (0.4 * torch.randn(*shape, generator=generator, dtype=torch.float32)).to(dtype)

    tensors = {
        "W_enc": draw(layers, WIDTH, UNITS), "b_enc": draw(layers, UNITS), "log_threshold": draw(layers, UNITS),
        "W_dec": draw(rows, UNITS, WIDTH), "b_dec": draw(rows, WIDTH),
        "estimated_norm_scaling_factor_in": draw(layers).abs() + 0.5,
        "estimated_norm_scaling_factor_out": draw(layers).abs() + 0.5,
    }  # fmt: skip
    return Forge(tensors, crossing)


def holds(basis: Any, made: Forge, architecture: str) -> None:
    x = inputs()
    # Of a LayerNorm the hook is what the MLP reads; of an RMSNorm it is in front of the gain.
    read = [part / gain(layer) for layer, part in enumerate(x)] if architecture == "llama" else x
    with torch.no_grad():
        for found, expected in zip(rebuilt(basis, x), made.rebuild(read), strict=True):
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
    assert [(site.read, site.write) for site in basis.sites] == [
        (f"blocks.{layer}.mlp.hook_in", f"blocks.{layer}.hook_mlp_out") for layer in range(cross.LAYERS)
    ]


@pytest.mark.parametrize("scheme", ["clt", "sae"])
@pytest.mark.parametrize(("shards", "crossing"), [(1, True), (3, True), (1, False)])
def test_clt_forge_rebuilds_what_its_maker_does(tmp_path: Path, scheme: str, shards: int, crossing: bool) -> None:
    made = forge(crossing=crossing)
    spec = load_registry().get("basis", f"{scheme}:{made.save(tmp_path / 'clt', shards)}")
    basis: Any = spec.build(cross.model("llama"))
    assert (basis.name, spec.cross_layer) == (spec.name, True)
    holds(basis, made, "llama")
    first = spec.fingerprint(cross.model("llama").spec)
    made.tensors["b_dec"] += 1
    made.save(tmp_path / "clt", shards)
    assert spec.fingerprint(cross.model("llama").spec) != first


@pytest.mark.slow
def test_a_layer_norm_is_read_behind_its_gain(tmp_path: Path) -> None:
    """TransformerLens before version 3, which is what CLT-Forge trains on."""
    made = forge(dtype=torch.bfloat16)
    holds(load_registry().get("basis", f"clt:{made.save(tmp_path)}").build(cross.model("gpt2")), made, "gpt2")


@pytest.mark.parametrize("scheme", ["clt", "sae"])
def test_clt_forge_from_a_repository(tmp_path: Path, scheme: str) -> None:
    made, hub = forge(), HubReplica(tmp_path / "home")
    folder = made.save(tmp_path / "clt", 2)
    commit = hub.commit("somebody/clt", {path.name: path.read_bytes() for path in folder.iterdir()})
    with hub.in_use():
        basis: Any = load_registry().get("basis", f"{scheme}:somebody/clt").build(cross.model("llama"))
        holds(basis, made, "llama")
    assert dict(basis.sources) == {"somebody/clt": commit}


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda f: (f / "clt_weights.safetensors").unlink(), r"clt_weights\.safetensors is missing"),
        (lambda f: (f / "clt_weights.safetensors").write_bytes(b"x" * 50), "is not a safetensors file"),
        (lambda f: (f / "clt_cfg.json").write_text("[1]"), "holds no object"),
        (lambda f: (f / "clt_cfg.json").write_text("{"), "cannot be read as JSON"),
        (lambda f: (f / "clt_cfg.json").write_text('{"n_layers": 12, "d_in": 768}'), "12 layers of width 768"),
        (
            lambda f: (f / "clt_cfg.json").write_text(
                json.dumps({"n_layers": cross.LAYERS, "d_in": WIDTH, "cross_layer_decoders": False})
            ),
            r"W_dec in .* has shape \[6, 12, 16\], expected \[3, 12, 16\]",
        ),
    ],
)
def test_what_is_wrong_with_clt_forges_files_is_said(tmp_path: Path, change: Any, expected: str) -> None:
    change(forge().save(tmp_path))
    with pytest.raises(BasisError, match=expected) as caught:
        load_registry().get("basis", f"clt:{tmp_path}").build(cross.model("llama"))
    assert "\n" not in str(caught.value)
