"""Write and read a cross-layer transcoder in circuit-tracer's format.

Per layer i `W_enc_{i}.safetensors` with `W_enc_{i}`, `b_enc_{i}`, `b_dec_{i}`, `threshold_{i}`, and
`W_dec_{i}.safetensors` with `W_dec_{i}`; `config.yaml` names the hooks. Source: `to_safetensors` and `load_clt` in
`circuit_tracer/transcoder/cross_layer_transcoder.py`, commit 4bb8c0ea10bde09727e14565ec8469656880da53.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import yaml
from safetensors.torch import load_file, save_file
from torch import Tensor

from basisbench_baselines.pocket.sae_files import MODEL_NAME
from basisbench_baselines.pocket.training.activations import DictionarySite
from basisbench_baselines.pocket.training.cross_layer_trainer import CrossLayerWeights

CONFIG = "config.yaml"


def save_cross_layer(folder: Path, sites: Sequence[DictionarySite], weights: CrossLayerWeights) -> None:
    """Save a cross-layer transcoder; a folder of that name is replaced once the new one is complete."""
    temporary = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    for layer in range(len(sites)):
        encoder = {
            f"W_enc_{layer}": weights.encoder[layer],
            f"b_enc_{layer}": weights.encoder_bias[layer],
            f"b_dec_{layer}": weights.decoder_bias[layer],
            f"threshold_{layer}": weights.threshold[layer],
        }
        save_file(encoder, temporary / f"W_enc_{layer}.safetensors")
        save_file({f"W_dec_{layer}": weights.decoder[layer]}, temporary / f"W_dec_{layer}.safetensors")
    # Hook names without the block; the same in every layer.
    config = {
        "model_name": MODEL_NAME,
        "model_kind": "cross_layer_transcoder",
        "feature_input_hook": sites[0].read.split(".", 2)[2],
        "feature_output_hook": sites[0].write.split(".", 2)[2],
    }
    (temporary / CONFIG).write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")
    shutil.rmtree(folder, ignore_errors=True)
    temporary.rename(folder)


def load_cross_layer(folder: Path, layers: int) -> CrossLayerWeights:
    """Read a saved cross-layer transcoder back as plain tensors."""
    tensors: dict[str, Tensor] = {}
    for layer in range(layers):
        for kind in ("enc", "dec"):
            tensors |= load_file(folder / f"W_{kind}_{layer}.safetensors")
    return CrossLayerWeights(
        *(
            tuple(tensors[f"{name}_{layer}"] for layer in range(layers))
            for name in ("W_enc", "b_enc", "threshold", "W_dec", "b_dec")
        )
    )
