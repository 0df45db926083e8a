"""Transcoders that keep their largest units, which SAELens lacks: those of sparsify, and some of circuit-tracer.

f is the k largest of x @ W_enc + b_enc, and zero elsewhere; the rest is a transcoder of SAELens. sparsify applies ReLU
before it chooses, which is the same as after it; circuit-tracer does not, so negative units may be kept.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from sae_lens.registry import get_sae_class
from sae_lens.saes.transcoder import SkipTranscoder, SkipTranscoderConfig, Transcoder, TranscoderConfig
from torch import Tensor


@dataclass
class _Kept:
    """What a configuration says besides: the number of units that are kept, and whether ReLU is applied."""

    k: int = 1
    relu: bool = True


class _KeepsLargest:
    """The activation function of both."""

    cfg: _Kept

    def get_activation_fn(self) -> Callable[[Tensor], Tensor]:
        """Return the activation function."""
        return partial(_largest, k=self.cfg.k, relu=self.cfg.relu)


@dataclass
class TopKTranscoderConfig(_Kept, TranscoderConfig):  # type: ignore[misc] # SAELens has no types
    """SAELens's configuration of a transcoder, and what is kept."""

    @classmethod
    def architecture(cls) -> str:
        """Return the name of the kind."""
        return "topk_transcoder"


@dataclass
class TopKSkipTranscoderConfig(_Kept, SkipTranscoderConfig):  # type: ignore[misc] # SAELens has no types
    """The same with a skip connection."""

    @classmethod
    def architecture(cls) -> str:
        """Return the name of the kind."""
        return "topk_skip_transcoder"


class TopKTranscoder(_KeepsLargest, Transcoder):  # type: ignore[misc] # SAELens has no types
    """A transcoder that keeps its largest units."""


class TopKSkipTranscoder(_KeepsLargest, SkipTranscoder):  # type: ignore[misc] # SAELens has no types
    """A transcoder that keeps its largest units, with a skip connection."""


def _largest(before: Tensor, k: int, relu: bool) -> Tensor:
    values, units = before.topk(k, dim=-1, sorted=False)
    return torch.zeros_like(before).scatter(-1, units, values.relu() if relu else values)


_OWN: dict[str, tuple[type, type]] = {
    "topk_transcoder": (TopKTranscoder, TopKTranscoderConfig),
    "topk_skip_transcoder": (TopKSkipTranscoder, TopKSkipTranscoderConfig),
}


def classes_of(architecture: str) -> tuple[Any, Any]:
    """Return the classes of a kind of dictionary and of its configuration: SAELens's, or those of this module."""
    return _OWN.get(architecture) or get_sae_class(architecture)


def module_of(config: dict[str, Any], tensors: dict[str, Tensor], device: str, dtype: str) -> Any:
    """Return a SAELens module with these weights, as SAELens loads its own.

    Args:
        config: SAELens's configuration.
        tensors: weights by SAELens's names.
        device: where they go.
        dtype: their type.
    """
    module_class, config_class = classes_of(config["architecture"])
    module = module_class(config_class.from_dict({**config, "device": "meta", "dtype": dtype}))
    module.cfg.device = device
    real = getattr(torch, dtype)
    module.load_state_dict({name: tensor.to(device, real) for name, tensor in tensors.items()}, assign=True)
    return module.to(dtype=real, device=torch.device(device))
