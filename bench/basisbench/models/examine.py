"""Which architectures are known to work, and what a model must show before anything is measured on it.

1. TransformerLens can wrap it: its names are the names of the sites.
2. Every kind of site is the beginning or the end of a module, in every layer; a mixture of experts may lack the MLP's
   activations.
3. Every norm, every attention and every MLP has the parts that RelP's rules need; experts have no rule.
4. An architecture that is not in `ARCHITECTURES` must also keep, on one batch, what the sites promise: blocks add the
   outputs of attention and MLP to the residual stream, and the head gives the model's logits. It then runs with a
   warning, and without the shortcuts that were only tested on the architectures below.

A model that lacks a part is refused, with the name of the part and the file to add it to.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from basisbench.errors import BasisBenchError
from basisbench.models.sites import SITES, SiteKind, refused

if TYPE_CHECKING:
    from torch import Tensor

    from basisbench.models.hooks import Place
    from basisbench.models.model import Model

_log = logging.getLogger(__name__)

_OF_EXPERTS: SiteKind = "mlp_act"
"""What a mixture of experts has inside a module: which experts' activations there are changes from token to token."""

_ROUNDING = 1e-3
_HALF_PRECISION_ROUNDING = 5e-2
"""Largest difference on the probe, as a share of the largest value."""


def examine(model: Model) -> None:
    """Check that a model has every part that the harness relies on; warn where its architecture is not a tested one.

    Raises:
        BasisBenchError: a rule is missing, or the sites do not add up; names what, and where to add it.
    """
    from basisbench.models.relp import RELP, backward_rules

    if not model.without:
        with backward_rules(model, RELP):  # raises where a part has no rule
            pass
    if model.verified:
        return
    wrong = _broken_promise(model)
    if wrong:
        raise refused(model.name, model.architecture, wrong)
    _log.warning(
        "model '%s': BasisBench is not tested on architecture %s; its sites were found and add up on one batch; curves "
        "take the slower road, without shortcuts; check scores with exact patching%s",
        model.name,
        model.architecture,
        "".join(f"; it has no {kind}, nor RelP: {reason}" for kind, reason in model.without.items()),
    )


def missing_sites(model: Model) -> dict[SiteKind, str]:
    """Return the kinds of site that a model does without, and why: a mixture of experts has no MLP activations.

    Raises:
        BasisBenchError: another site is missing; names it, and where to add it.
    """
    missing = _missing_site(model, tuple(SITES))
    if missing is None:
        return {}
    if _missing_site(model, tuple(kind for kind in SITES if kind != _OF_EXPERTS)) is not None:
        raise refused(model.name, model.architecture, missing)
    return {_OF_EXPERTS: missing}


def _missing_site(model: Model, kinds: tuple[SiteKind, ...]) -> str | None:
    """Say which site has no place of its own in the plain model.

    TransformerLens lends a part without a module the module around it: experts the whole MLP, an MLP the whole block.
    """
    places: dict[str, Place] = {}
    wanted = {"embeddings": "embed.hook_out", "final norm": "ln_final.hook_out", "unembedding": "unembed.hook_out"}
    for layer in range(model.layers):
        wanted |= {f"{kind} of layer {layer}": model.hook(kind, layer) for kind in kinds}
    for site, hook in wanted.items():
        try:
            places[site] = model.place(hook)
        except BasisBenchError:
            return f"no module begins or ends at its {site} ({hook})"
    blocks = {places[f"resid_post of layer {layer}"].module for layer in range(model.layers)}
    for site, place in places.items():
        shared = [other for other, elsewhere in places.items() if elsewhere == place and other != site]
        if shared or (place.module in blocks and not site.startswith("resid_post")):
            return f"its {site} ({wanted[site]}) has no module of its own, only {place.module}"
    return None


def _broken_promise(model: Model) -> str | None:
    """Run one batch; say where the model does something else than its sites promise."""
    import torch

    from basisbench.models.hooks import observed

    words = int(model.body.get_input_embeddings().weight.shape[0])
    tokens = model.tokens([[(7919 * (5 * row + column) + 1) % words for column in range(5)] for row in range(2)])
    hooks = [model.hook(kind, layer) for kind in model.kinds() for layer in range(model.layers)]
    start, head = model.place("blocks.0.hook_in"), model.place("unembed.hook_out")
    places = {hook: model.place(hook) for hook in hooks} | {"start": start, "head": head}
    with torch.no_grad():
        with observed(model.body, places) as seen:
            logits = model.body(input_ids=tokens, use_cache=False).logits
        bridged = model.bridge(tokens)
    for hook in hooks:
        if hook not in seen:
            return f"a run does not pass by {hook}"
        if seen[hook].ndim != 3 or seen[hook].shape[:2] != tokens.shape:
            return f"{hook} has shape {tuple(seen[hook].shape)} and not (prompt, position, width)"
    stream = seen["start"]
    for layer in range(model.layers):
        attention, mlp = model.hook("attn_out", layer), model.hook("mlp_out", layer)
        after = seen[model.hook("resid_post", layer)]
        if not _same(stream + seen[attention] + seen[mlp], after):
            return f"in layer {layer} the residual stream is not its input plus {attention} plus {mlp}"
        stream = after
    cap = getattr(model.body.config, "final_logit_softcapping", None)
    if not _same(seen["head"] if cap is None else cap * (seen["head"] / cap).tanh(), logits):
        return "its logits are not the output of its unembedding"
    if not _same(bridged, logits):
        return "TransformerLens computes other logits for it, so that RelP would not be the model's"
    return None


def _same(one: Tensor, other: Tensor) -> bool:
    rounding = _HALF_PRECISION_ROUNDING if other.dtype.itemsize < 4 else _ROUNDING
    return bool((one - other).abs().max() <= rounding * other.abs().max())
