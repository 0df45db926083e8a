"""Write and read a cross-layer transcoder in circuit-tracer's format.

Per layer i `W_enc_{i}.safetensors` with `W_enc_{i}`, `b_enc_{i}`, `b_dec_{i}`, `threshold_{i}`, and
`W_dec_{i}.safetensors` with `W_dec_{i}`; `config.yaml` names the hooks. Source: `to_safetensors` and `load_clt` in
`circuit_tracer/transcoder/cross_layer_transcoder.py`, commit 4bb8c0ea10bde09727e14565ec8469656880da53.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import yaml
from jaxtyping import Float
from safetensors.torch import load_file, save_file
from torch import Tensor

CONFIG = "config.yaml"


@dataclass(frozen=True, eq=False)
class CrossLayerWeights:
    """A finished cross-layer transcoder, laid out as circuit-tracer saves it; one entry per layer.

    Attributes:
        encoder: W_enc.
        encoder_bias: b_enc.
        threshold: a unit is active where its pre-activation exceeds this.
        decoder: W_dec; target 0 is the unit's own layer, target t the t-th layer after it.
        decoder_bias: b_dec, added once at each layer.
    """

    encoder: tuple[Float[Tensor, "unit d"], ...]
    encoder_bias: tuple[Float[Tensor, " unit"], ...]
    threshold: tuple[Float[Tensor, " unit"], ...]
    decoder: tuple[Float[Tensor, "unit target d"], ...]
    decoder_bias: tuple[Float[Tensor, " d"], ...]

    def encode(self, layer: int, x: Float[Tensor, "*b d"]) -> Float[Tensor, "*b unit"]:
        """Map the MLP input of a layer to the coordinates of its units."""
        before = x @ self.encoder[layer].T + self.encoder_bias[layer]
        return before * (before > self.threshold[layer])

    def decode(self, features: Sequence[Float[Tensor, "*b unit"]]) -> Float[Tensor, "*b d"]:
        """Map the coordinates of layers 0 to m to the reconstruction of layer m's MLP output."""
        layer = len(features) - 1
        output = self.decoder_bias[layer]
        for source, f in enumerate(features):
            output = output + f @ self.decoder[source][:, layer - source]
        return output

    def among(self, layers: Sequence[int], count: int) -> CrossLayerWeights:
        """Return the same with entries for all layers of a model, the others with one unit that is never active.

        Args:
            layers: whose entries these are, in order.
            count: layers of the model.
        """
        if len(layers) == count:
            return self
        like, width = self.encoder[0], self.decoder[0].shape[2]
        parts: list[tuple[Tensor, ...]] = []
        for layer in range(count):
            if layer not in layers:
                never = torch.ones(1).to(like)
                silent = torch.zeros(1, like.shape[1]).to(like), 0 * never, never
                parts.append((*silent, torch.zeros(1, count - layer, width).to(like), torch.zeros(width).to(like)))
                continue
            index = layers.index(layer)
            decoder = self.decoder[index].new_zeros(len(self.encoder[index]), count - layer, width)
            decoder[:, [target - layer for target in layers[index:]]] = self.decoder[index]
            own = (self.encoder, self.encoder_bias, self.threshold)
            parts.append((*(part[index] for part in own), decoder, self.decoder_bias[index]))
        return CrossLayerWeights(*zip(*parts, strict=True))


def save_cross_layer(folder: Path, weights: CrossLayerWeights, hooks: tuple[str, str], model: str) -> None:
    """Write a cross-layer transcoder into a new folder.

    Args:
        folder: the folder.
        weights: its weights, an entry for every layer of the model.
        hooks: of any layer, what is read and what is written.
        model: what the model is called.
    """
    folder.mkdir(parents=True)
    for layer in range(len(weights.encoder)):
        encoder = {
            f"W_enc_{layer}": weights.encoder[layer],
            f"b_enc_{layer}": weights.encoder_bias[layer],
            f"b_dec_{layer}": weights.decoder_bias[layer],
            f"threshold_{layer}": weights.threshold[layer],
        }
        save_file(encoder, folder / f"W_enc_{layer}.safetensors")
        save_file({f"W_dec_{layer}": weights.decoder[layer]}, folder / f"W_dec_{layer}.safetensors")
    # Hook names without the block; the same in every layer.
    read, write = (hook.split(".", 2)[2] for hook in hooks)
    config = {
        "model_name": model,
        "model_kind": "cross_layer_transcoder",
        "feature_input_hook": read,
        "feature_output_hook": write,
    }
    (folder / CONFIG).write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")


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
