"""Write finished dictionaries as SAELens files; `SAE.load_from_disk(folder)` reads them.

A sparse autoencoder becomes SAELens's "jumprelu", a transcoder its "jumprelu_transcoder". Both are saved in
float32, without run-time normalisation, and without subtracting the decoder bias from the input.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from basisbench_baselines.pocket.training.activations import DictionarySite
from basisbench_baselines.pocket.training.dictionary_trainer import DictionaryWeights

if TYPE_CHECKING:
    from sae_lens import SAE

MODEL_NAME = "pocket-llama"


def to_sae_lens(site: DictionarySite, weights: DictionaryWeights) -> SAE:
    """Return a dictionary as a SAELens module."""
    from sae_lens import JumpReLUSAE, JumpReLUSAEConfig, JumpReLUTranscoder, JumpReLUTranscoderConfig
    from sae_lens.saes.sae import SAEMetadata

    units, d_write = weights.decoder.shape
    d_read = weights.encoder.shape[0]
    metadata = SAEMetadata(model_name=MODEL_NAME, hook_name=site.read, hook_layer=site.layer, prepend_bos=True)
    if site.read == site.write:
        sae: SAE = JumpReLUSAE(
            JumpReLUSAEConfig(d_in=d_read, d_sae=units, apply_b_dec_to_input=False, metadata=metadata)
        )
    else:
        metadata.hook_name_out, metadata.hook_layer_out = site.write, site.layer
        sae = JumpReLUTranscoder(
            JumpReLUTranscoderConfig(
                d_in=d_read, d_out=d_write, d_sae=units, apply_b_dec_to_input=False, metadata=metadata
            )
        )
    tensors = {
        "W_enc": weights.encoder,
        "b_enc": weights.encoder_bias,
        "threshold": weights.threshold,
        "W_dec": weights.decoder,
        "b_dec": weights.decoder_bias,
    }
    sae.load_state_dict(tensors)
    return sae


def save_dictionary(folder: Path, site: DictionarySite, weights: DictionaryWeights) -> None:
    """Save a dictionary as a SAELens folder; a folder of that name is replaced once the new one is complete."""
    temporary = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    to_sae_lens(site, weights).save_model(temporary)
    shutil.rmtree(folder, ignore_errors=True)
    temporary.rename(folder)


def load_weights(folder: Path) -> DictionaryWeights:
    """Read a saved dictionary back as plain tensors."""
    from sae_lens import SAE

    with torch.no_grad():
        tensors = SAE.load_from_disk(folder).state_dict()
    return DictionaryWeights(
        tensors["W_enc"], tensors["b_enc"], tensors["threshold"], tensors["W_dec"], tensors["b_dec"]
    )
