"""Find the site of a SAELens dictionary, and what was done to the model that it was trained on.

Sources, each held by a test that cites it:

- SAELens calls the input of Gemma Scope 2's transcoders `hook_mlp_in`. In TransformerLens that is the residual stream
  before the norm; the same config's `hf_hook_name` says `pre_feedforward_layernorm.output`, the MLP's input. The
  latter is right: it is the publisher's.
- `ln2.hook_normalized` of an RMSNorm is x / rms(x), before the norm's gain (TransformerLens 3.9,
  components/rms_norm.py), and Gemma Scope's transcoders were trained on just that: their card says that the gain was
  folded into the MLP's weights. So they read the MLP's input divided by the gain.
- SAELens on a Hugging Face model (`AutoModelForCausalLM`) and sparsify name a module, whose (first) output they read; a
  transcoder of sparsify reads the module's input. sparsify leaves the name of the body out ("layers.3.mlp").
- `center_writing_weights` subtracts from everything that is written to the residual stream its mean over d_model, where
  the model has LayerNorms (TransformerLens 3.9, weight_processing.py). The stream is then x - mean(x), exactly.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from basisbench.errors import BasisBenchError, BasisError
from basisbench.models.hooks import Place
from basisbench.models.sites import SITES
from basisbench.types import Family, Site

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from basisbench.models.model import Model
    from basisbench.models.sites import SiteKind

_HOOK = re.compile(r"blocks\.(\d+)\.(.+)")
_MODULE = re.compile(r"(?:.+\.)?(?:layers|layer|h|blocks)\.(\d+)(?:\.(.+))?")
"""A block of a Hugging Face model, or a module in it: model.layers.3, transformer.h.3.mlp, gpt_neox.layers.3."""

At: TypeAlias = str | Place
"""Where a dictionary reads or writes: a kind of site, a hook within its block, or an end of a module."""

_KINDS: Mapping[str, tuple[Family, At]] = {
    "hook_resid_pre": ("resid", "resid_post"),
    "hook_resid_post": ("resid", "resid_post"),
    "hook_mlp_out": ("mlp", "mlp_out"),
    "mlp.hook_out": ("mlp", "mlp.hook_out"),
    "mlp.hook_post": ("mlp", "mlp_act"),
    "hook_attn_out": ("attn", "attn_out"),
    "attn.hook_out": ("attn", "attn.hook_out"),
    "attn.hook_z": ("attn", "attn_z"),
    "hook_z": ("attn", "attn_z"),
}
_FAMILY_OF_MODULE: tuple[tuple[re.Pattern[str], Family], ...] = (
    (re.compile(r"mlp|feed_?forward|ffn"), "mlp"),
    (re.compile(r"attn|attention"), "attn"),
)
_MODULE_HOOKS: Mapping[str, Family | None] = {
    **{entry.hook: entry.family for entry in SITES.values()},
    "blocks.{layer}.mlp.hook_out": "mlp",
    "blocks.{layer}.attn.hook_out": "attn",
}
"""Hooks that a module's end may stand for, those of the sites first, and the family that writes there."""
_WRITES: tuple[SiteKind, ...] = ("resid_post", "mlp_out", "attn_out")
_MLP_INPUT = "pre_feedforward_layernorm.output"


@dataclass(frozen=True)
class Placement:
    """Where a dictionary reads and writes.

    Attributes:
        family: site family.
        layer: the layer; of the residual stream, the one after which it is read.
        read: where what is encoded is read.
        write: where what is reconstructed is written.
        before_gain: it was trained on the normalised activation before the gain of the norm in front of the MLP.
        centred: it was trained on a model whose writing weights were centred, if that model has LayerNorms.
    """

    family: Family
    layer: int
    read: At
    write: At
    before_gain: bool = False
    centred: bool = False

    def site(self, model: Model) -> Site:
        """Return the site in a model, after making sure that it is there.

        Raises:
            BasisError: this model, or this TransformerLens, lacks a hook.
        """
        try:
            write = hook_at(model, self.write, self.layer)
            family = _MODULE_HOOKS.get(write.replace(f".{self.layer}.", ".{layer}."), self.family)
            if family != self.family:
                raise BasisError(f"it writes at '{write}' of '{model.name}', which is no site of family {self.family}")
            return Site(self.layer, hook_at(model, self.read, self.layer), write)
        except BasisBenchError as error:
            raise BasisError(str(error)) from error

    def widths(self, model: Model) -> tuple[int, int]:
        """Return the width of what is read and of what is written."""
        site = self.site(model)
        return hook_width(site.read, self.layer, model), hook_width(site.write, self.layer, model)

    def gain(self, model: Model) -> Float[Tensor, " d_read"] | None:
        """Return what the activation must be divided by before it is encoded; None for nothing.

        Raises:
            BasisError: the model's norm is no RMSNorm, or a gain of zero hides what was trained on.
        """
        return mlp_gain(model, self.layer) if self.before_gain else None

    def is_centred(self, model: Model) -> bool:
        """Tell whether TransformerLens would have centred what this dictionary reads."""
        return self.centred and self.read in _WRITES and not model.component("blocks.0.ln1").uses_rms_norm


def mlp_gain(model: Model, layer: int) -> Float[Tensor, " d_read"]:
    """Return the gain of the RMSNorm in front of the MLP: what the MLP reads is ln2.hook_normalized times this.

    Raises:
        BasisError: the model's norm is no RMSNorm, or a gain of zero hides what was trained on.
    """
    norm = model.component(f"blocks.{layer}.ln2")
    if not norm.uses_rms_norm:
        raise BasisError(
            "it reads ln2.hook_normalized of a LayerNorm, which TransformerLens moved from behind to before the "
            "gain between versions; only RMSNorms can be read there"
        )
    # Gemma keeps the gain's distance from 1.
    offset = 1.0 if getattr(model.bridge.cfg, "rmsnorm_uses_offset", False) else 0.0
    gain: Tensor = norm.weight.detach().cpu().double() + offset
    if not gain.abs().min() > 1e-6 * gain.abs().max():
        raise BasisError(f"the gain of blocks.{layer}.ln2 is zero somewhere, so its input cannot be recovered")
    return gain


def hook_at(model: Model, at: At, layer: int) -> str:
    """Return the name of the hook at some place in a layer: the benchmark's own where both are the same activation.

    Raises:
        BasisBenchError: this model, or this TransformerLens, lacks it.
    """
    if isinstance(at, Place):
        return _module_hook(model, at, layer)
    kind = next((kind for kind in SITES if kind == at), None)
    name = model.hook(kind, layer) if kind else f"blocks.{layer}.{at}"
    place = model.place(name)
    if kind:
        return name
    same = [own for own in (model.hook(kind, layer) for kind in _PLAIN) if model.place(own) == place]
    return same[0] if same else name


_PLAIN: tuple[SiteKind, ...] = ("mlp_in", "mlp_out", "attn_out")
"""Sites that every block has, and that other hooks may stand for too."""


def _module_hook(model: Model, at: Place, layer: int) -> str:
    """Return the hook that stands for an end of a module, whose name may lack that of the body."""
    names = (at.module, f"{getattr(model.body, 'base_model_prefix', '')}.{at.module}")
    for template in _MODULE_HOOKS:
        hook = template.format(layer=layer)
        try:
            place = model.place(hook)
        except BasisBenchError:
            continue
        if place.module in names and place.end == at.end:
            return hook
    end = "input" if at.end == "in" else "output"
    raise BasisError(
        f"the {end} of module '{at.module}' is no site of '{model.name}' ({model.architecture}); a dictionary can read "
        "a whole block, its MLP or its attention, by the name that Hugging Face's model has for it"
    )


def place(architecture: str, facts: Any) -> Placement | None:
    """Return where a dictionary sits; None for the residual stream before the first block, which is no site.

    Args:
        architecture: SAELens's name of the kind of dictionary.
        facts: what its configuration says of the model, with a method `get`: SAELens's metadata, or a dictionary.

    Raises:
        BasisError: at none of the places that a basis can have, or on a model processed in an unknown way.
    """
    name = str(facts.get("hook_name"))
    if (head := facts.get("hook_head_index")) is not None:
        raise BasisError(
            f"it reads head {head} of '{name}' alone; a basis of attention reads all heads of a layer at once"
        )
    match = _HOOK.fullmatch(name)
    if match is None:
        return _module(architecture, name)
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


def _module(architecture: str, name: str) -> Placement:
    """Return where a dictionary of a module of a Hugging Face model sits; the model has the last word."""
    match = _MODULE.fullmatch(name)
    if match is None:
        raise BasisError(
            f"its configuration names the hook '{name}', expected one such as 'blocks.0.hook_mlp_out', or a module "
            "in a layer such as 'model.layers.0'"
        )
    family: Family | None = "resid"
    if match[2]:
        family = next((family for pattern, family in _FAMILY_OF_MODULE if pattern.search(match[2])), None)
    transcoder = "transcoder" in architecture
    if family is None or (transcoder and family != "mlp"):
        wanted = "an MLP" if transcoder else "a whole block, an MLP or an attention"
        raise BasisError(f"it sits at module '{name}', which is none of the sites that are compared: expected {wanted}")
    output = Place(name, "out")
    return Placement(family, int(match[1]), Place(name, "in") if transcoder else output, output)


def _transcoder(layer: int, hook: str, facts: Any, *, centred: bool) -> Placement:
    written = f"blocks.{layer}.hook_mlp_out"
    if facts.get("hook_name_out") not in (written, f"blocks.{layer}.mlp.hook_out"):
        raise BasisError(
            f"it writes at '{facts.get('hook_name_out')}', expected the MLP's output of its layer, '{written}'"
        )
    write: At = "mlp_out" if facts.get("hook_name_out") == written else "mlp.hook_out"
    if centred:
        raise BasisError(
            "it was trained to write to a model with centred writing weights; the mean that centring removed is no "
            "function of what it reads"
        )
    before_gain = hook == "ln2.hook_normalized"
    mlp_input = hook == "mlp.hook_in" or (
        hook == "hook_mlp_in" and str(facts.get("hf_hook_name")).endswith(f".{layer}.{_MLP_INPUT}")
    )
    if hook == "hook_resid_mid":
        return Placement("mlp", layer, hook, write)
    if not (before_gain or mlp_input):
        raise BasisError(
            f"it reads 'blocks.{layer}.{hook}'; a transcoder can read mlp.hook_in, hook_resid_mid, "
            f"ln2.hook_normalized, or hook_mlp_in where its configuration's hf_hook_name ends in {_MLP_INPUT}"
        )
    return Placement("mlp", layer, "mlp_in", write, before_gain=before_gain)


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


def hook_width(hook: str, layer: int, model: Model) -> int:
    """Return the width of what is read or written at a hook."""
    if hook not in (model.hook("mlp_act", layer), model.hook("attn_z", layer)):
        return int(model.bridge.cfg.d_model)
    module = model.body.get_submodule(model.place(hook).module)
    inputs = getattr(module, "in_features", None)
    return int(module.weight.shape[0] if inputs is None else inputs)
