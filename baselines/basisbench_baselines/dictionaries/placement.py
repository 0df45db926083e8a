"""Find the site of a SAELens dictionary, and what was done to the model that it was trained on.

Sources, each held by a test that cites it:

- SAELens calls the input of Gemma Scope 2's transcoders `hook_mlp_in`. In TransformerLens that is the residual stream
  before the norm; the same config's `hf_hook_name` says `pre_feedforward_layernorm.output`, the MLP's input. The
  latter is right: it is the publisher's.
- `ln2.hook_normalized` of an RMSNorm is x / rms(x), before the norm's gain (TransformerLens 3.9,
  components/rms_norm.py), and Gemma Scope's transcoders were trained on just that: their card says that the gain was
  folded into the MLP's weights. So they read the MLP's input divided by the gain.
- `center_writing_weights` subtracts from everything that is written to the residual stream its mean over d_model, where
  the model has LayerNorms (TransformerLens 3.9, weight_processing.py). The stream is then x - mean(x), exactly.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from basisbench.errors import BasisBenchError, BasisError
from basisbench.types import Family, Site

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from basisbench.models.model import Model
    from basisbench.models.sites import SiteKind

_HOOK = re.compile(r"blocks\.(\d+)\.(.+)")
_KINDS: Mapping[str, tuple[Family, SiteKind]] = {
    "hook_resid_pre": ("resid", "resid_post"),
    "hook_resid_post": ("resid", "resid_post"),
    "hook_mlp_out": ("mlp", "mlp_out"),
    "mlp.hook_post": ("mlp", "mlp_act"),
    "hook_attn_out": ("attn", "attn_out"),
    "attn.hook_z": ("attn", "attn_z"),
    "hook_z": ("attn", "attn_z"),
}
_WRITES: tuple[SiteKind, ...] = ("resid_post", "mlp_out", "attn_out")
_MLP_INPUT = "pre_feedforward_layernorm.output"


@dataclass(frozen=True)
class Placement:
    """Where a dictionary reads and writes.

    Attributes:
        family: site family.
        layer: the layer; of the residual stream, the one after which it is read.
        read: kind of the site that is encoded.
        write: kind of the site that is reconstructed.
        before_gain: it was trained on the normalised activation before the gain of the norm in front of the MLP.
        centred: it was trained on a model whose writing weights were centred, if that model has LayerNorms.
    """

    family: Family
    layer: int
    read: SiteKind
    write: SiteKind
    before_gain: bool = False
    centred: bool = False

    def site(self, model: Model) -> Site:
        """Return the site in a model, after making sure that it is there.

        Raises:
            BasisError: this model, or this TransformerLens, lacks a hook.
        """
        site = Site(self.layer, model.hook(self.read, self.layer), model.hook(self.write, self.layer))
        try:
            for hook in (site.read, site.write):
                model.place(hook)
        except BasisBenchError as error:
            raise BasisError(str(error)) from error
        return site

    def widths(self, model: Model) -> tuple[int, int]:
        """Return the width of what is read and of what is written."""
        return _width(self.read, self.layer, model), _width(self.write, self.layer, model)

    def gain(self, model: Model) -> Float[Tensor, " d_read"] | None:
        """Return what the activation must be divided by before it is encoded; None for nothing.

        Raises:
            BasisError: the model's norm is no RMSNorm, or a gain of zero hides what was trained on.
        """
        if not self.before_gain:
            return None
        norm = model.component(f"blocks.{self.layer}.ln2")
        if not norm.uses_rms_norm:
            raise BasisError(
                "it reads ln2.hook_normalized of a LayerNorm, which TransformerLens moved from behind to before the "
                "gain between versions; only RMSNorms can be read there"
            )
        # Gemma keeps the gain's distance from 1.
        offset = 1.0 if getattr(model.bridge.cfg, "rmsnorm_uses_offset", False) else 0.0
        gain: Tensor = norm.weight.detach().cpu().double() + offset
        if not gain.abs().min() > 1e-6 * gain.abs().max():
            raise BasisError(f"the gain of blocks.{self.layer}.ln2 is zero somewhere, so its input cannot be recovered")
        return gain

    def is_centred(self, model: Model) -> bool:
        """Tell whether TransformerLens would have centred what this dictionary reads."""
        return self.centred and self.read in _WRITES and not model.component("blocks.0.ln1").uses_rms_norm


def place(architecture: str, facts: Any) -> Placement | None:
    """Return where a dictionary sits; None for the residual stream before the first block, which is no site.

    Args:
        architecture: SAELens's name of the kind of dictionary.
        facts: what its configuration says of the model, with a method `get`: SAELens's metadata, or a dictionary.

    Raises:
        BasisError: at none of the places that a basis can have, or on a model processed in an unknown way.
    """
    name = facts.get("hook_name")
    match = _HOOK.fullmatch(str(name))
    if match is None:
        raise BasisError(f"its configuration names the hook '{name}', expected one such as 'blocks.0.hook_mlp_out'")
    layer, hook = int(match[1]), match[2]
    centred = _processing(facts.get("model_from_pretrained_kwargs"))
    if "transcoder" in architecture:
        return _transcoder(layer, hook, facts, centred=centred)
    if hook not in _KINDS:
        raise BasisError(f"it sits at '{name}', which is none of the sites that are compared: {', '.join(_KINDS)}")
    if hook == "hook_resid_pre":
        if layer == 0:
            return None
        layer -= 1
    family, kind = _KINDS[hook]
    return Placement(family, layer, kind, kind, centred=centred)


def _transcoder(layer: int, hook: str, facts: Any, *, centred: bool) -> Placement:
    written = f"blocks.{layer}.hook_mlp_out"
    if facts.get("hook_name_out") != written:
        raise BasisError(
            f"it writes at '{facts.get('hook_name_out')}', expected the MLP's output of its layer, '{written}'"
        )
    if centred:
        raise BasisError(
            "it was trained to write to a model with centred writing weights; the mean that centring removed is no "
            "function of what it reads"
        )
    before_gain = hook == "ln2.hook_normalized"
    mlp_input = hook == "mlp.hook_in" or (
        hook == "hook_mlp_in" and str(facts.get("hf_hook_name")).endswith(f".{layer}.{_MLP_INPUT}")
    )
    if not (before_gain or mlp_input):
        raise BasisError(
            f"it reads 'blocks.{layer}.{hook}'; a transcoder can read mlp.hook_in, ln2.hook_normalized, or hook_mlp_in "
            f"where its configuration's hf_hook_name ends in {_MLP_INPUT}"
        )
    return Placement("mlp", layer, "mlp_in", "mlp_out", before_gain=before_gain)


def _processing(arguments: Mapping[str, Any] | None) -> bool:
    """Return whether the writing weights were centred.

    Whatever is off is how the model is published.

    Raises:
        BasisError: the model was changed in another way.
    """
    arguments = arguments or {}
    on = {name for name, value in arguments.items() if value not in (False, None)}
    on -= {"device", "n_devices", "dtype", "torch_dtype", "device_map"}  # where and how finely, not what
    if unknown := sorted(on - {"center_writing_weights"}):
        raise BasisError(
            f"it was trained on a model loaded with {', '.join(f'{name}={arguments[name]!r}' for name in unknown)}"
            "; of TransformerLens's processing only center_writing_weights is known here"
        )
    return "center_writing_weights" in on


def _width(kind: SiteKind, layer: int, model: Model) -> int:
    if kind not in ("mlp_act", "attn_z"):
        return int(model.bridge.cfg.d_model)
    module = model.body.get_submodule(model.place(model.hook(kind, layer)).module)
    inputs = getattr(module, "in_features", None)
    return int(module.weight.shape[0] if inputs is None else inputs)
