"""A basis on some of its layers, and which layers the bases of a run share.

Published dictionaries do not always cover every layer. A basis that misses layers has fewer nodes and leaves more of
the model alone, so that its curve says nothing beside one over all layers. The rule: inside a site family, every basis
of a run is restricted to the layers that all of them cover; F(0), the empty circuit, is taken over these layers too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from basisbench.errors import BasisError
from basisbench.protocols import Basis, StreamedBasis
from basisbench.results.conditions import layers_text
from basisbench.types import Family, Site

if TYPE_CHECKING:
    from torch import Tensor

_OWN = ("name", "family", "exact", "parameter_bytes", "encode", "decode")
_PROMISES = ("part", "spread", "page", "trained")
"""What makes a basis a `UnitwiseBasis`, a `CrossLayerBasis` or a `PublishedBasis`, and how it was trained."""


class LayerSubset:
    """A basis on some of its layers; everything else is the basis's own, what it promises besides too.

    What units of other layers write becomes part of the error where a basis writes to later layers.

    Args:
        basis: the whole basis.
        sites: the sites that are left.
    """

    name: str
    family: Family
    exact: bool
    parameter_bytes: int
    encode: Callable[[Site, Tensor], Tensor]
    decode: Callable[[Site, Tensor], Tensor]

    def __init__(self, basis: Basis, sites: Sequence[Site]) -> None:
        self.basis, self.sites = basis, sites
        for member in (*_OWN, *(promise for promise in _PROMISES if hasattr(basis, promise))):
            setattr(self, member, getattr(basis, member))

    @property
    def sources(self) -> Mapping[str, str]:
        """Repositories that its weights came from, with their commits."""
        return getattr(self.basis, "sources", {})

    @property
    def streams(self) -> bool:
        """Whether its weights do not fit into memory at once."""
        return isinstance(self.basis, StreamedBasis) and self.basis.streams

    def keep_less(self) -> bool:
        """Keep fewer weights in memory, if the basis can."""
        return isinstance(self.basis, StreamedBasis) and self.basis.keep_less()


def restrict(basis: Basis, layers: Sequence[int] | None) -> Basis:
    """Return a basis on some of its layers; the basis itself where that is all of them.

    Args:
        basis: the basis.
        layers: the layers to keep; None for all.

    Raises:
        BasisError: the basis has no site in one of the layers.
    """
    if layers is None:
        return basis
    wanted = set(layers)
    sites = tuple(site for site in basis.sites if site.layer in wanted)
    if missing := sorted(wanted - {site.layer for site in sites}):
        raise BasisError(
            f"basis '{basis.name}' has no site in layer {layers_text(missing)}, only in layers "
            f"{layers_text(sorted({site.layer for site in basis.sites}))}; restrict the run to layers that every basis "
            "of the family has"
        )
    return basis if len(sites) == len(basis.sites) else LayerSubset(basis, sites)
