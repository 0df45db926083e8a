"""The files of each published release, as its own loader in SAELens expects them, from plain arrays."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any, Literal

import numpy as np
import torch
import yaml
from sae_lens.loading.pretrained_saes_directory import get_pretrained_saes_directory
from safetensors.torch import save
from torch import Tensor

Weights = Mapping[str, Tensor]
"""W_enc (d_read, unit), b_enc, W_dec (unit, d_write), b_dec, threshold, W_skip (d_read, d_write): what is stored."""

Format = Literal["sae_lens", "gemma_2", "gemma_3", "llama_scope", "mwhanna"]


@dataclass(frozen=True)
class Entry:
    """One dictionary of a release.

    Attributes:
        identifier: its id in SAELens's list.
        path: its path in the repository.
        layer: the layer in its hook's name.
        read: kind of site that is encoded; "resid_pre" is the stream before the layer.
        write: kind of site that is reconstructed.
    """

    identifier: str
    path: str
    layer: int
    read: str
    write: str

    @property
    def hook(self) -> str:
        """The hook's name, for the kinds that SAELens's own files name."""
        return f"blocks.{self.layer}.hook_{self.read}"


@dataclass(frozen=True)
class ReleaseReplica:
    """One release: what its files are called and what they say.

    Attributes:
        name: its name in SAELens's list.
        model: key of the tiny model.
        format: file format.
        read: kind of site that is encoded.
        write: kind of site that is reconstructed.
        pattern: shell pattern of the ids to write, with the layer left open.
        config: further fields of the configuration.
        units: units per dictionary.
        embedding: whether there is one before the first block, too.
    """

    name: str
    model: str
    format: Format
    read: str
    write: str
    pattern: str
    config: Mapping[str, Any] = field(default_factory=dict)
    units: int = 24
    embedding: bool = False

    @property
    def repository(self) -> str:
        """Where it is published."""
        return str(get_pretrained_saes_directory()[self.name].repo_id)

    @property
    def skip(self) -> bool:
        """Whether there is a skip connection."""
        return bool(self.config.get("affine_connection"))

    def entries(self, layers: Sequence[int]) -> list[Entry]:
        """Return the dictionaries of some layers."""
        paths = get_pretrained_saes_directory()[self.name].saes_map
        found = []
        for layer in layers:
            pattern = self.pattern.format(layer)
            (identifier,) = (name for name in paths if fnmatchcase(name, pattern))
            found.append(Entry(identifier, paths[identifier], layer, self.read, self.write))
        if self.embedding:
            first = "blocks.0.hook_resid_pre"
            found.append(Entry(first, paths[first], 0, "resid_pre", "resid_pre"))
        if self.read == "resid_pre" and 11 in layers:  # the stream before each block, and after the last one
            last = "blocks.11.hook_resid_post"
            found.append(Entry(last, paths[last], 11, "resid_post", "resid_post"))
        return found

    def at(self, layer: int) -> str:
        """Return the id of the dictionary that sits in a layer, or after it."""
        if self.read == "resid_pre":
            return "blocks.11.hook_resid_post" if layer == 11 else self.pattern.format(layer + 1)
        return self.entries([layer])[0].identifier

    def files(self, entry: Entry, weights: Weights) -> dict[str, bytes]:
        """Return what the repository holds of a dictionary."""
        return _FORMATS[self.format](self, entry, weights)


def draw(release: ReleaseReplica, entry: Entry, read: Tensor, write: Tensor) -> Weights:
    """Draw an encoder, and fit the decoder, so that the dictionary explains something of its tiny model.

    Args:
        release: what for.
        entry: which dictionary; every one is different.
        read: activations at the read hook, one row each.
        write: activations at the write hook.
    """
    generator = torch.Generator().manual_seed(sum(map(ord, release.name + entry.identifier)))
    if release.config.get("normalize_activations") == "layer_norm":
        read = write = (write - write.mean(-1, keepdim=True)) / write.std(-1, keepdim=True)
    elif release.name == "gpt2-small-res-jb":
        read = write = write - write.mean(-1, keepdim=True)

    def noise(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    spread = (read - read.mean(0)).norm(dim=-1).mean()
    encoder = noise(read.shape[-1], release.units) / spread
    b_enc = 0.1 * noise(release.units) - read.mean(0) @ encoder
    threshold = 0.1 + 0.2 * noise(release.units).abs()
    weights = {"W_enc": encoder, "b_dec": write.mean(0), "threshold": threshold}
    left = write - write.mean(0)
    if release.skip:
        centred = read - read.mean(0)
        weights["W_skip"] = _ridge(centred, left)
        weights["b_dec"] = weights["b_dec"] - read.mean(0) @ weights["W_skip"]
        left = left - centred @ weights["W_skip"]
    shift = write.mean(0) if release.format == "sae_lens" else torch.zeros(read.shape[-1])
    b_enc = b_enc + shift @ encoder
    before = (read - shift) @ encoder + b_enc
    lowest: Any = 0.0
    if release.format in ("gemma_2", "gemma_3"):
        lowest = threshold
    elif release.format == "llama_scope":
        lowest = 0.162109375
    elif "normalize_activations" in release.config and release.model == "gpt2":
        lowest = before.sort(-1, descending=True).values[:, 6:7]
    code = before.relu() * (before > lowest)
    return {**weights, "b_enc": b_enc, "W_dec": _ridge(code, left)}


def _ridge(x: Tensor, y: Tensor) -> Tensor:
    """Return the regression of y on x, shrunk towards zero so that it holds on other prompts too."""
    gram = x.T @ x
    return torch.linalg.solve(gram + gram.trace() / len(gram) * torch.eye(len(gram)), x.T @ y)


def _sae_lens(release: ReleaseReplica, entry: Entry, weights: Weights) -> dict[str, bytes]:
    early = "hook_point" in release.config
    d_in, units = weights["W_enc"].shape
    named = {"hook_point": entry.hook, "hook_point_layer": entry.layer} if early else {"hook_name": entry.hook}
    kept = {name: weights[name] for name in ("W_enc", "b_enc", "W_dec", "b_dec")}
    if early:
        kept["scaling_factor"] = torch.ones(units)  # a leftover of an early SAELens, which it still reads
    return {
        f"{entry.path}/cfg.json": _json({**release.config, **named, "d_in": d_in, "d_sae": units}),
        f"{entry.path}/sae_weights.safetensors": _tensors(kept),
        f"{entry.path}/sparsity.safetensors": _tensors({"sparsity": torch.full((units,), -5.0)}),
    }


def _gemma_2(_release: ReleaseReplica, entry: Entry, weights: Weights) -> dict[str, bytes]:
    """NumPy's own format."""
    buffer = io.BytesIO()
    np.savez(buffer, **{name: tensor.numpy() for name, tensor in weights.items()})
    return {f"{entry.path}/params.npz": buffer.getvalue()}


def _gemma_3(release: ReleaseReplica, entry: Entry, weights: Weights) -> dict[str, bytes]:
    names = {
        "W_enc": "w_enc", "W_dec": "w_dec", "b_enc": "b_enc", "b_dec": "b_dec", "threshold": "threshold",
        "W_skip": "affine_skip_connection",
    }  # fmt: skip
    config = {
        name: value.format(entry.layer) if isinstance(value, str) else value for name, value in release.config.items()
    }
    config |= {"width": release.units, "model_name": "gemma-v3-270m-pt", "architecture": "jump_relu", "l0": 20}
    return {
        f"{entry.path}/config.json": _json(config),
        f"{entry.path}/params.safetensors": _tensors({names[name]: tensor for name, tensor in weights.items()}),
    }


def _llama_scope(release: ReleaseReplica, entry: Entry, weights: Weights) -> dict[str, bytes]:
    d_in, units = weights["W_enc"].shape
    # The list's factor is sqrt(d) / average norm; a tiny model has another d, so another norm goes with it.
    factor = get_pretrained_saes_directory()[release.name].norm_scaling_factor[entry.identifier]
    average = d_in**0.5 / factor
    config = {
        "device": "cuda:0", "seed": 42, "dtype": "torch.bfloat16", "hook_point_in": entry.hook,
        "hook_point_out": entry.hook, "use_decoder_bias": True, "apply_decoder_bias_to_pre_encoder": False,
        "expansion_factor": 8, "d_model": d_in, "d_sae": units, "act_fn": "jumprelu",
        "jump_relu_threshold": 0.162109375 / factor, "norm_activation": "dataset-wise",
        "dataset_average_activation_norm": {"in": average, "out": average}, "sparsity_include_decoder_norm": True,
        "top_k": 50,
    }  # fmt: skip
    # Trained on activations times the factor.
    tensors = {
        "encoder.weight": weights["W_enc"].T / factor,
        "encoder.bias": weights["b_enc"],
        "decoder.weight": weights["W_dec"].T * factor,
        "decoder.bias": weights["b_dec"] * factor,
    }
    return {
        f"{entry.path}/hyperparams.json": _json(config),
        f"{entry.path}/checkpoints/final.safetensors": _tensors(
            {name: tensor.to(torch.bfloat16) for name, tensor in tensors.items()}
        ),
    }


def _mwhanna(_release: ReleaseReplica, entry: Entry, weights: Weights) -> dict[str, bytes]:
    d_in, units = weights["W_enc"].shape
    stored = {name: weights[name] for name in ("b_enc", "W_dec", "b_dec")} | {"W_enc": weights["W_enc"].T}
    wandb = {"d_model": {"value": d_in}, "d_feature": {"value": units}, "batch_size": {"value": 4096}}
    base = {
        "model_name": "Qwen/Qwen3-0.6B", "model_kind": "transcoder_set", "feature_input_hook": "mlp.hook_in",
        "feature_output_hook": "hook_mlp_out",
    }  # fmt: skip
    return {
        entry.path: _tensors(stored),
        "config.yaml": yaml.safe_dump(base).encode(),
        "wandb-config.yaml": yaml.safe_dump(wandb).encode(),
    }


def _json(content: Any) -> bytes:
    return json.dumps(content).encode()


def _tensors(tensors: Mapping[str, Tensor]) -> bytes:
    return save({name: tensor.contiguous() for name, tensor in tensors.items()})


_FORMATS = {
    "sae_lens": _sae_lens,
    "gemma_2": _gemma_2,
    "gemma_3": _gemma_3,
    "llama_scope": _llama_scope,
    "mwhanna": _mwhanna,
}

# --- a cross-layer transcoder

CLT = "mntss/clt-gemma-2-2b-426k"


def cross_layer_files(seen: Sequence[tuple[Tensor, Tensor]], model: str) -> dict[str, bytes]:
    """Return circuit-tracer's files of a cross-layer transcoder that explains something of a tiny model.

    What SAELens 6.54 says of this repository (get_mntss_clt_layer_config_from_hf, and its own test of it): config.yaml
    with model_name google/gemma-2-2b, feature_input_hook hook_resid_mid, feature_output_hook hook_mlp_out; ReLU; and
    W_enc_{i}.safetensors and W_dec_{i}.safetensors of tensors named alike, b_enc_{i} and b_dec_{i} in the former.

    Args:
        seen: per layer, the residual stream in front of the MLP's norm and the MLP's output, one row each.
        model: repository of the model.
    """
    generator = torch.Generator().manual_seed(len(CLT))
    layers, units = len(seen), 24
    config = {
        "model_name": model, "model_kind": "cross_layer_transcoder", "feature_input_hook": "hook_resid_mid",
        "feature_output_hook": "hook_mlp_out", "scan": CLT,
    }  # fmt: skip
    encoders, biases, codes = [], [], []
    for read, _ in seen:
        spread = (read - read.mean(0)).norm(dim=-1).mean()
        encoders.append(torch.randn(units, read.shape[-1], generator=generator) / spread)
        biases.append(0.1 * torch.randn(units, generator=generator) - encoders[-1] @ read.mean(0))
        codes.append((read @ encoders[-1].T + biases[-1]).relu())
    decoders = [torch.zeros(units, layers - layer, seen[layer][1].shape[-1]) for layer in range(layers)]
    files = {"config.yaml": yaml.safe_dump(config).encode()}
    for target, (_, write) in enumerate(seen):
        rows = _ridge(torch.cat(codes[: target + 1], 1), write - write.mean(0))
        for source, part in enumerate(rows.split(units)):
            decoders[source][:, target - source] = part
    for i, (_, write) in enumerate(seen):
        encoder = {f"W_enc_{i}": encoders[i], f"b_enc_{i}": biases[i], f"b_dec_{i}": write.mean(0)}
        files |= {
            f"W_enc_{i}.safetensors": _tensors(encoder),
            f"W_dec_{i}.safetensors": _tensors({f"W_dec_{i}": decoders[i]}),
        }
    return files
