"""A cross-layer transcoder in training, and what it leaves in circuit-tracer's format.

Its centring and scaling, hook by hook, are folded into the saved weights; there, what a unit writes has unit norm, all
targets together. A layer that was not chosen has one unit that is never active: the format wants every layer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from basisbench_baselines.training.cross_layer_class import CrossLayerInTraining, CrossLayerTrainingConfig
from basisbench_baselines.training.cross_layer_files import CrossLayerWeights, save_cross_layer
from basisbench_baselines.training.dictionary import InTraining, Placed, sae_shape, seeded_weights

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from basisbench.models.model import Model
    from basisbench_baselines.training.scaling import Scaling
    from basisbench_baselines.training.settings import Settings

_TOKENS_AT_ONCE = 2048


class CrossLayer(InTraining):
    """A cross-layer transcoder in training.

    Args:
        placed: the layers that it reads and writes, in order.
        scales: constants of every hook.
        settings: of the training.
        seed: of the first weights.
        bfloat16: whether matrix products are in bfloat16; weights and optimizer are in float32.
    """

    def __init__(
        self,
        placed: Sequence[Placed],
        scales: Mapping[str, Scaling],
        settings: Settings,
        seed: int,
        *,
        bfloat16: bool = False,
    ) -> None:
        self.placed = placed
        self.names = [each.name for each in placed]
        self.reads, self.writes = ([scales[hook] for hook in hooks] for hooks in self._hooks())
        shape = sae_shape(self.reads[0], settings)
        shape["d_sae"] *= len(placed)
        config = CrossLayerTrainingConfig(**shape, d_out=len(self.writes[0].mean), layers=len(placed))
        with seeded_weights(settings, seed):
            sae = CrossLayerInTraining(config)
        super().__init__(placed[0].kind, sae, settings, bfloat16=bfloat16)

    def _hooks(self) -> tuple[list[str], list[str]]:
        return [each.read for each in self.placed], [each.write for each in self.placed]

    def _input(self, batch: Mapping[str, Float[Tensor, "token d"]]) -> Float[Tensor, "token d_both"]:
        scales = [*self.reads, *self.writes]
        hooks = [hook for part in self._hooks() for hook in part]
        return torch.cat([scale.apply(batch[hook].float()) for scale, hook in zip(scales, hooks, strict=True)], dim=-1)

    @torch.no_grad()
    def weights(self) -> CrossLayerWeights:
        """Return it as it is now, a function of raw activations; one entry per chosen layer."""
        sae = self.trainer.sae
        units, width = sae.cfg.d_sae // len(self.placed), sae.cfg.d_out
        stretches = torch.tensor([write.scale for write in self.writes], device=sae.W_dec.device)
        found: list[tuple[Tensor, ...]] = []
        for layer, (rows, read) in enumerate(zip(sae.decoders(), self.reads, strict=True)):
            own = slice(layer * units, (layer + 1) * units)
            decoder = rows.unflatten(1, (-1, width)) * stretches[layer:, None]
            stretch = decoder.flatten(1).norm(dim=1)
            encoder = (sae.W_enc[:, own] * (stretch / read.scale)).T
            bias = sae.b_enc[own] * stretch - encoder @ read.mean
            threshold = self.threshold[layer].float() * stretch / rows.norm(dim=1)
            write = self.writes[layer]
            output = sae.b_dec[layer * width : (layer + 1) * width] * write.scale + write.mean
            found.append((encoder, bias, threshold, decoder / stretch[:, None, None], output))
        return CrossLayerWeights(*(tuple(part.contiguous() for part in parts) for parts in zip(*found, strict=True)))

    def save(self, folder: Path, model: Model, settings: Settings) -> None:  # noqa: ARG002 -- as the others
        """Write it as it is now, in circuit-tracer's format."""
        layers = [each.layer for each in self.placed]
        hooks = self.placed[0].read, self.placed[0].write
        save_cross_layer(folder, self.weights().among(layers, model.layers), hooks, model.spec.path or model.name)

    @torch.no_grad()
    def measure(
        self, model: Model, settings: Settings, held_out: Mapping[str, Float[Tensor, "token d"]]
    ) -> dict[str, dict[str, float]]:
        """Return by layer fraction of variance unexplained, L0, silent units of what `save` writes, and dead ones."""
        del model, settings
        weights = self.weights()
        layers = range(len(self.placed))
        error, active = [0.0 for _ in layers], [0.0 for _ in layers]
        fired = [torch.zeros_like(bias, dtype=torch.bool) for bias in weights.encoder_bias]
        tokens = len(held_out[self.placed[0].read])
        for start in range(0, tokens, _TOKENS_AT_ONCE):
            part = slice(start, start + _TOKENS_AT_ONCE)
            features: list[Tensor] = []
            for layer, each in enumerate(self.placed):
                features.append(weights.encode(layer, held_out[each.read][part].float()))
                on = features[-1] > 0
                active[layer] += float(on.sum())
                fired[layer] |= on.any(0)
                left = held_out[each.write][part].float() - weights.decode(features)
                error[layer] += float(left.square().sum(dtype=torch.float64))
        found: dict[str, dict[str, float]] = {}
        for layer, (each, dead) in enumerate(zip(self.placed, self.dead.view(len(layers), -1), strict=True)):
            y = held_out[each.write].float()
            variance = float((y - y.mean(0)).square().sum(dtype=torch.float64))
            found[each.name] = {
                "fvu": error[layer] / variance,
                "l0": active[layer] / tokens,
                "silent": int((~fired[layer]).sum()),
                "dead": int(dead.sum()),
            }
        return found
