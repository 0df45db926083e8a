"""Dictionaries of the models that were built, set by the same code, in the formats of trained ones."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from basisbench_baselines.known.circuit import Mlp, bias

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor


def save_transcoders(folder: Path, mlps: Sequence[Mlp]) -> None:
    """Write layers of rectified units as SAELens transcoders: a unit reads and writes what it does in the layer.

    Args:
        folder: gets a folder per layer.
        mlps: the layers; what multiplies each unit is 1 (`circuit.rectified`).
    """
    from sae_lens import JumpReLUTranscoder, JumpReLUTranscoderConfig

    for layer, mlp in enumerate(mlps):
        if not torch.equal(mlp.up, bias(1).expand_as(mlp.up)):
            raise ValueError(f"layer {layer}: a transcoder has no units that multiply two things that they read")
        units, width = mlp.gate.shape
        config = JumpReLUTranscoderConfig(d_in=width, d_out=width, d_sae=units, apply_b_dec_to_input=False)
        config.metadata.hook_name = f"blocks.{layer}.mlp.hook_in"
        config.metadata.hook_name_out = f"blocks.{layer}.hook_mlp_out"
        with _same_draws():
            transcoder = JumpReLUTranscoder(config)
        transcoder.load_state_dict(_weights(mlp.gate, mlp.down, 0))
        transcoder.save_model(folder / f"layer_{layer}")


def save_autoencoders(folder: Path, directions: Float[Tensor, "unit d"], *, layers: int, threshold: float) -> None:
    """Write the same SAELens autoencoder of the MLP's output for every layer: a unit reads and writes a direction.

    Args:
        folder: gets a folder per layer.
        directions: of length 1.
        layers: how many layers.
        threshold: a unit whose direction is not above this is 0.
    """
    from sae_lens import JumpReLUSAE, JumpReLUSAEConfig

    units, width = directions.shape
    for layer in range(layers):
        config = JumpReLUSAEConfig(d_in=width, d_sae=units, apply_b_dec_to_input=False)
        config.metadata.hook_name = f"blocks.{layer}.hook_mlp_out"
        with _same_draws():
            autoencoder = JumpReLUSAE(config)
        autoencoder.load_state_dict(_weights(directions, directions, threshold))
        autoencoder.save_model(folder / f"layer_{layer}")


def _same_draws() -> AbstractContextManager[None]:
    """Leave torch's random numbers as they were: a module draws weights before it is given any."""
    return torch.random.fork_rng(devices=[])


def _weights(reads: Float[Tensor, "unit d"], writes: Float[Tensor, "unit d"], threshold: float) -> dict[str, Tensor]:
    units, width = reads.shape
    thresholds = torch.full((units,), float(threshold))
    biases = {"b_enc": torch.zeros(units), "b_dec": torch.zeros(width)}
    return {"W_enc": reads.T.contiguous(), "W_dec": writes, "threshold": thresholds, **biases}
