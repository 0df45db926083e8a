"""Dictionaries of the models that were built, set by the same code, in the formats of trained ones."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from basisbench_baselines.known.circuit import Mlp, bias


def save_transcoders(folder: Path, mlps: Sequence[Mlp]) -> None:
    """Write layers of rectified neurons as SAELens transcoders: a unit reads and writes what a neuron does.

    Args:
        folder: gets a folder per layer.
        mlps: the layers; what multiplies each neuron is 1 (`circuit.rectified`).
    """
    from sae_lens import JumpReLUTranscoder, JumpReLUTranscoderConfig

    for layer, mlp in enumerate(mlps):
        assert torch.equal(mlp.up, bias(1).expand_as(mlp.up))
        units, width = mlp.gate.shape
        config = JumpReLUTranscoderConfig(d_in=width, d_out=width, d_sae=units, apply_b_dec_to_input=False)
        config.metadata.hook_name = f"blocks.{layer}.mlp.hook_in"
        config.metadata.hook_name_out = f"blocks.{layer}.hook_mlp_out"
        with torch.random.fork_rng(devices=[]):  # it draws weights before it is given any
            transcoder = JumpReLUTranscoder(config)
        nothing = torch.zeros(units)
        weights = {"W_enc": mlp.gate.T, "b_enc": nothing, "threshold": nothing, "W_dec": mlp.down}
        transcoder.load_state_dict({**weights, "b_dec": torch.zeros(width)})
        transcoder.save_model(folder / f"layer_{layer}")
