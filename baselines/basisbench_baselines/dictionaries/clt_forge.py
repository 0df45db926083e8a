"""Read cross-layer transcoders of CLT-Forge (`clt_cfg.json`, `clt_weights.safetensors`).

Source: `src/clt_forge/clt.py`, `training/activations_store.py` and `attribution/loading.py` of
github.com/LLM-Interp/CLT-Forge at commit dcf4cc829b0d00fc4a16912e05aa2595cbf4aedc:

- `W_enc` [layer, d, unit], `b_enc` [layer, unit], `log_threshold` [layer, unit]; one row of `W_dec` [pair, unit, d] and
  `b_dec` [pair, d] per pair of a layer and a later one (or itself), in the order of `torch.triu_indices`; one per layer
  where `cross_layer_decoders` is false. All biases of a target are added up.
- `estimated_norm_scaling_factor_in` and `_out` [layer]: the input is multiplied by the one, the output divided by the
  other.
- Where units were shared among processes there is one file for each, `rank{i}_clt_weights.safetensors`.
- It reads ln2.hook_normalized and writes hook_mlp_out of a model with unprocessed weights, in a TransformerLens before
  version 3: of an RMSNorm that is before the gain, of a LayerNorm it is what the MLP reads.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from basisbench.errors import BasisError, whole_message
from basisbench.models.onednn import largest_bytes
from basisbench_baselines.dictionaries.circuit_tracer_layer import LayerFiles
from basisbench_baselines.dictionaries.placement import mlp_gain
from basisbench_baselines.dictionaries.weight_files import read_shapes

if TYPE_CHECKING:
    from torch import Tensor

    from basisbench.models.model import Model

CONFIG = "clt_cfg.json"
WEIGHTS = "clt_weights.safetensors"


def weight_names(names: Mapping[str, object] | list[str]) -> list[str]:
    """Return the weight files among file names, in the order of their units."""
    shards = [name for name in names if name.startswith("rank") and name.endswith(f"_{WEIGHTS}")]
    return [WEIGHTS] if WEIGHTS in names else sorted(shards, key=lambda name: (len(name), name))


@dataclass(frozen=True, eq=False)
class ForgeLayer(LayerFiles):
    """One layer of CLT-Forge's files, as one of circuit-tracer's.

    Attributes:
        files: the weight files, one for each share of the units.
        layers: how many layers there are.
        crossing: whether units write to later layers.
    """

    files: tuple[Path, ...] = ()
    layers: int = 0
    crossing: bool = True

    def _read(self, name: str, index: slice | int) -> list[Tensor]:
        """Return part of a tensor along its first axis, of every file."""
        from safetensors import safe_open

        parts = []
        for path in self.files:
            with safe_open(path, framework="pt", device=str(self.device)) as file:
                parts.append(file.get_slice(name)[index].to(self.dtype))
        return parts

    def _tensor(self, _kind: str, name: str) -> Tensor:
        import torch

        if name == "W_enc":
            scale = self._read("estimated_norm_scaling_factor_in", slice(None))[0][self.layer]
            return torch.cat(self._read("W_enc", self.layer), dim=1).T * scale
        if name == "b_enc":
            return torch.cat(self._read("b_enc", self.layer))
        if name == "threshold":
            return torch.cat(self._read("log_threshold", self.layer)).exp()
        scales = self._read("estimated_norm_scaling_factor_out", slice(None))[0]
        sources, targets = torch.triu_indices(self.layers, self.layers)
        if not self.crossing:
            sources = targets = torch.arange(self.layers)
        if name == "b_dec":
            rows = self._read("b_dec", slice(None))[0]
            return rows[(targets == self.layer).to(rows.device)].sum(0) / scales[self.layer]
        first, count = int((sources < self.layer).sum()), int((sources == self.layer).sum())
        decoder = torch.cat(self._read("W_dec", slice(first, first + count)), dim=1).transpose(0, 1)
        later = self.layers - self.layer - count
        if later:
            decoder = torch.cat([decoder, decoder.new_zeros(len(decoder), later, decoder.shape[-1])], dim=1)
        return decoder / scales[self.layer :, None]


def open_layers(folder: Path, model: Model) -> tuple[Mapping[str, Any], tuple[LayerFiles, ...]]:
    """Return the configuration, and the files of each layer with their shapes checked; no weight is read yet.

    Raises:
        BasisError: a file is missing or is not what the format says, or it was made for another model.
    """
    import torch

    config = _config(folder / CONFIG)
    files = tuple(folder / name for name in weight_names([path.name for path in folder.iterdir()]))
    if not files:
        raise BasisError(f"{folder / WEIGHTS} is missing; expected CLT-Forge's weights beside {CONFIG}")
    layers, width, crossing = (
        model.layers,
        int(model.bridge.cfg.d_model),
        bool(config.get("cross_layer_decoders", True)),
    )
    if (config.get("n_layers"), config.get("d_in")) != (layers, width):
        raise BasisError(
            f"{folder / CONFIG} has {config.get('n_layers')} layers of width {config.get('d_in')}, but '{model.name}' "
            f"has {layers} of width {width}; it was trained for another model"
        )
    pairs = layers * (layers + 1) // 2 if crossing else layers
    units = sum(_units(path, layers, pairs, width) for path in files)
    dtype = torch.float64 if model.dtype == torch.float64 else torch.float32
    sizes = [(units * (width * (layers - layer + 1) + 2) + width) * dtype.itemsize for layer in range(layers)]
    pack = sum(sizes) <= largest_bytes()
    gains = [
        mlp_gain(model, layer) if model.component(f"blocks.{layer}.ln2").uses_rms_norm else None
        for layer in range(layers)
    ]
    return config, tuple(
        ForgeLayer(
            folder, layer, True, model.device, dtype, pack, sizes[layer], gains[layer],
            files=files, layers=layers, crossing=crossing,
        )
        for layer in range(layers)
    )  # fmt: skip


def _config(path: Path) -> Mapping[str, Any]:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise BasisError(f"{path} cannot be read as JSON ({whole_message(error)})") from error
    if not isinstance(config, dict):
        raise BasisError(f"{path} holds no object, expected the configuration of CLT-Forge")
    return config


def _units(path: Path, layers: int, pairs: int, width: int) -> int:
    """Return how many units of each layer a file holds, after checking its shapes."""
    found = read_shapes(path)
    units = int(found.get("b_enc", (0, 0))[-1])
    expected = {
        "W_enc": (layers, width, units), "b_enc": (layers, units), "log_threshold": (layers, units),
        "W_dec": (pairs, units, width), "b_dec": (pairs, width),
        "estimated_norm_scaling_factor_in": (layers,), "estimated_norm_scaling_factor_out": (layers,),
    }  # fmt: skip
    for name, shape in expected.items():
        if found.get(name) != shape:
            there = f"has shape {list(found[name])}" if name in found else "is missing"
            raise BasisError(f"{name} in {path} {there}, expected {list(shape)}")
    return units
