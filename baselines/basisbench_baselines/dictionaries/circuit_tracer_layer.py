"""Compute one layer of a cross-layer transcoder, its weights read from its files when they are first used.

The format of the files is `dictionaries.circuit_tracer_files`'s. Codes are sparse: decoding leaves out inactive units.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING

from basisbench.models.onednn import LinearMap, linear_map, passing_linear_map

if TYPE_CHECKING:
    import torch
    from jaxtyping import Float, Int
    from torch import Tensor

_WORTH = 0.5
"""Up to this share of units that are active in any row, only their rows are taken: picking them is not free."""


@dataclass(frozen=True, eq=False)
class LayerFiles:
    """The two files of one layer; tensors are read when they are first used.

    Attributes:
        folder: where the files are.
        layer: which layer.
        jump: whether there are thresholds.
        device: where tensors go.
        dtype: what is computed in; decoders stay in the type of the file, unless they are packed.
        pack: whether packed copies may be made.
        nbytes: bytes of its weights, once each, in the types that they are kept in.
        gain: what the activation is divided by before it is encoded; None for nothing.
    """

    folder: Path
    layer: int
    jump: bool
    device: torch.device
    dtype: torch.dtype
    pack: bool
    nbytes: int
    gain: Float[Tensor, " d"] | None = None

    def _tensor(self, kind: str, name: str) -> Tensor:
        from safetensors import safe_open

        path = self.folder / f"W_{kind}_{self.layer}.safetensors"
        # On a CPU the tensor is the file itself, mapped into memory: no copy as long as its type is kept.
        with safe_open(path, framework="pt", device=str(self.device)) as file:
            tensor: Tensor = file.get_tensor(f"{name}_{self.layer}")
        return tensor

    def drop(self) -> None:
        """Free all tensors; they are read again when they are next used."""
        for name in ("w_enc", "b_enc", "b_dec", "threshold", "w_dec", "encoder", "decoders"):
            self.__dict__.pop(name, None)

    @cached_property
    def w_enc(self) -> Float[Tensor, "unit d"]:
        """Encoder, one row per unit."""
        weights = self._tensor("enc", "W_enc").to(self.dtype)
        return weights if self.gain is None else weights / self.gain.to(weights)

    @cached_property
    def b_enc(self) -> Float[Tensor, " unit"]:
        """Encoder bias."""
        return self._tensor("enc", "b_enc").to(self.dtype)

    @cached_property
    def b_dec(self) -> Float[Tensor, " d"]:
        """Decoder bias of this layer, whichever units write to it."""
        return self._tensor("enc", "b_dec").to(self.dtype)

    @cached_property
    def threshold(self) -> Float[Tensor, " unit"] | None:
        """Threshold of each unit; None for ReLU."""
        return self._tensor("enc", "threshold").to(self.dtype) if self.jump else None

    @cached_property
    def w_dec(self) -> Float[Tensor, "unit target d"]:
        """Decoder, in the type of the file; target t is the t-th layer after this one."""
        return self._tensor("dec", "W_dec")

    @cached_property
    def encoder(self) -> LinearMap:
        """Map the activation that is read to pre-activations."""
        return linear_map(self.w_enc, self.b_enc, pack=self.pack)

    @cached_property
    def decoders(self) -> tuple[LinearMap, ...]:
        """For each target, the map from coordinates to what they add there; no bias."""
        targets = range(self.w_dec.shape[1])
        if self.pack:
            return tuple(linear_map(self.w_dec[:, target].T.to(self.dtype), None) for target in targets)
        # One target at a time is widened, while it is used.
        return tuple(partial(_product, self.w_dec[:, target]) for target in targets)

    def encode(self, x: Float[Tensor, "*b d"]) -> Float[Tensor, "*b unit"]:
        """Return the activations of the layer's units; half precision is widened."""
        return self.activated(self.encoder(x.to(self.dtype)), self.threshold)

    def activated(self, before: Float[Tensor, "*b unit"], threshold: Tensor | None) -> Float[Tensor, "*b unit"]:
        """Return the activations; in place without gradients, for the pre-activation is nobody else's."""
        import torch

        if torch.is_grad_enabled():
            return before.relu() if threshold is None else before * (before > threshold)
        return before.relu_() if threshold is None else before.masked_fill_(before <= threshold, 0)

    def encoder_of(self, units: Int[Tensor, " part"]) -> LinearMap:
        """Return the encoder of some units, activation included."""
        linear = passing_linear_map(self.w_enc[units], self.b_enc[units])
        threshold = None if self.threshold is None else self.threshold[units]
        return lambda x: self.activated(linear(x.to(self.dtype)), threshold)

    def decoder_rows(self, units: Int[Tensor, " part"]) -> Float[Tensor, "part target d"]:
        """Return what some units write at each target."""
        return self.w_dec[units].to(self.dtype)


def _product(rows: Float[Tensor, "unit d"], f: Float[Tensor, "*b unit"]) -> Float[Tensor, "*b d"]:
    """Return f @ rows, with the rows of units that are zero throughout left out: codes are sparse."""
    active = (f != 0).flatten(0, -2).any(0).nonzero().squeeze(-1)
    if len(active) <= _WORTH * f.shape[-1]:
        f, rows = f[..., active], rows[active]
    return f @ rows.to(f.dtype)
