"""Raw neurons: the coordinates are the activation itself; no matrix product, no error."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, NoReturn

from basisbench.errors import BasisError
from basisbench.protocols import BasisSpec
from basisbench.types import Family, Site, Style

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from basisbench.models.model import Model
    from basisbench.models.sites import SiteKind


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

    def encode(self, site: Site, x: Float[Tensor, "*b d"]) -> Float[Tensor, "*b d"]:
        """Return the activation itself."""
        return x if site in self.sites else self._refuse(site)

    def decode(self, site: Site, f: Float[Tensor, "*b d"]) -> Float[Tensor, "*b d"]:
        """Return the coordinates themselves."""
        return f if site in self.sites else self._refuse(site)

    def _refuse(self, site: Site) -> NoReturn:
        raise BasisError(f"basis '{self.name}' has no site that reads {site.read} and writes {site.write}")


def neurons_at(name: str, family: Family, kind: SiteKind, model: Model) -> Neurons:
    """Build the neuron basis of a kind of site over all layers."""
    return _neurons(name, family, [model.hook(kind, layer) for layer in range(model.layers)])


def neurons_at_hook(name: str, family: Family, hook: str, model: Model) -> Neurons:
    """Build the neuron basis of any hook, to compare a dictionary with the neurons of its own site.

    Args:
        name: name of the basis.
        family: its site family.
        hook: hook name with `{layer}` for the layer's index, for example "blocks.{layer}.hook_resid_mid".
        model: the model.

    Raises:
        BasisBenchError: the model has no such hook, or no module begins or ends there.
    """
    hooks = [hook.format(layer=layer) for layer in range(model.layers)]
    for each in hooks:
        model.place(each)
    return _neurons(name, family, hooks)


def _neurons(name: str, family: Family, hooks: Sequence[str]) -> Neurons:
    return Neurons(name, family, tuple(Site(layer, hook, hook) for layer, hook in enumerate(hooks)))


def hook_spec(name: str, family: Family, hook: str) -> BasisSpec:
    """Return the neuron basis of any hook, for a listing; see `neurons_at_hook`."""
    build = partial(neurons_at_hook, name, family, hook)
    return BasisSpec(name, family, f"neurons at {hook}", build=build, order=0, exact=True)


def _spec(name: str, family: Family, kind: SiteKind, summary: str, order: int, style: Style) -> BasisSpec:
    return BasisSpec(
        name,
        family,
        summary,
        build=partial(neurons_at, name, family, kind),
        order=order,
        style=style,
        units=lambda shape: shape.mlp_width if kind == "mlp_act" else shape.width,
        exact=True,
    )


_HEADS = "neurons of the attention heads, side by side: input of the output projection"

PROVIDES: tuple[BasisSpec, ...] = (
    _spec("mlp_act", "mlp", "mlp_act", "MLP activations: input of the down projection", 1, Style("blue", "solid", "o")),
    _spec("mlp_out", "mlp", "mlp_out", "neurons of the MLP's output", 2, Style("vermillion", "dashed", "s")),
    _spec("attn_z", "attn", "attn_z", _HEADS, 4, Style("vermillion", "solid", "v")),
    _spec("attn_out", "attn", "attn_out", "neurons of the attention's output", 5, Style("orange", "solid", "s")),
    _spec(
        "resid",
        "resid",
        "resid_post",
        "neurons of the residual stream after each block",
        3,
        Style("black", "solid", "o"),
    ),
)
