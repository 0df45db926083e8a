"""Which hooks are asked for together: what one pass gives for one of them, it gives for the others at no cost."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from basisbench.models.sites import SiteKind

if TYPE_CHECKING:
    from basisbench.models.model import Model
    from basisbench.protocols import Basis


def in_every_layer(model: Model, hooks: Iterable[str]) -> frozenset[str]:
    """Return hooks and their likes in the other layers, which a basis will ask for next."""
    found = set(hooks)
    for start, rest in {(start, rest) for start, _, rest in (hook.partition(".") for hook in found)}:
        name = rest.partition(".")[2]
        if start == "blocks":
            found |= {f"{start}.{layer}.{name}" for layer in range(model.layers)} & model.hook_points.keys()
    return frozenset(found)


def hooks_of(basis: Basis) -> tuple[str, ...]:
    """Return the hooks that a basis reads and writes."""
    return tuple(dict.fromkeys(hook for site in basis.sites for hook in (site.read, site.write)))


def swept_with(model: Model, hook: str, *, zero: bool) -> tuple[SiteKind, ...]:
    """Return the kinds whose integrated gradients come with those of a hook at no cost, its own among them.

    Args:
        model: the model.
        hook: a write hook.
        zero: whether paths run to zero. Activations at zero give an output at the bias, not at zero: the two paths
            differ then.
    """
    layer = int(hook.split(".")[1])
    for kind in model.written_kinds():
        other = None if zero else model.affine_output(kind, layer)
        if hook in {model.hook(each, layer) for each in (kind, other) if each is not None}:
            return (kind,) if other is None else (kind, other)
    return ()
