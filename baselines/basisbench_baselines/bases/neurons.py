"""Raw neurons: the coordinates are the activation itself; no matrix product, no error."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from basisbench.protocols import BasisSpec
from basisbench.types import Family, Site

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from basisbench.model import Model, SiteKind


@dataclass(frozen=True)
class Neurons:
    """The standard basis of one kind of site.

    Attributes:
        name: name of the basis.
        family: its site family.
        sites: one per layer, read and write at the same hook.
    """

    name: str
    family: Family
    sites: Sequence[Site]
    exact: bool = True
    parameter_bytes: int = 0

    def encode(self, _site: Site, x: Float[Tensor, "*b d"]) -> Float[Tensor, "*b d"]:
        """Return the activation itself."""
        return x

    def decode(self, _site: Site, f: Float[Tensor, "*b d"]) -> Float[Tensor, "*b d"]:
        """Return the coordinates themselves."""
        return f


def neurons_at(name: str, family: Family, kind: SiteKind, model: Model) -> Neurons:
    """Build the neuron basis of a kind of site over all layers."""
    hooks = [model.hook(kind, layer) for layer in range(model.layers)]
    return Neurons(name, family, tuple(Site(layer, hook, hook) for layer, hook in enumerate(hooks)))


def _spec(name: str, family: Family, kind: SiteKind, summary: str) -> BasisSpec:
    return BasisSpec(name, family, summary, build=partial(neurons_at, name, family, kind))


PROVIDES: tuple[BasisSpec, ...] = (
    _spec("mlp_act", "mlp", "mlp_act", "MLP activations: input of the down projection"),
    _spec("mlp_out", "mlp", "mlp_out", "neurons of the MLP's output"),
    _spec("attn_out", "attn", "attn_out", "neurons of the attention's output"),
    _spec("resid", "resid", "resid_post", "neurons of the residual stream after each block"),
)
