"""A basis on some of its layers, and which layers the bases of a run share.

Published dictionaries do not always cover every layer. A basis that misses layers has fewer nodes and leaves more of
the model alone, so that its curve says nothing beside one over all layers. The rule: inside a site family, every basis
of a run is restricted to the layers that all of them cover; F(0), the empty circuit, is taken over these layers too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from basisbench.errors import BasisError
from basisbench.protocols import Basis, BasisPart, CrossLayerBasis, StreamedBasis, UnitwiseBasis
from basisbench.types import Family, Site

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor


@dataclass(frozen=True, eq=False)
class LayerSubset:
    """A basis on some of its layers; everything else is the basis's own.

    Attributes:
        basis: the whole basis.
        sites: the sites that are left.
    """

    basis: Basis
    sites: Sequence[Site]

    @property
    def name(self) -> str:
        """Name of the whole basis."""
        return self.basis.name

    @property
    def family(self) -> Family:
        """Its site family."""
        return self.basis.family

    @property
    def exact(self) -> bool:
        """Whether it reconstructs without error."""
        return self.basis.exact

    @property
    def parameter_bytes(self) -> int:
        """Bytes of the whole basis's weights."""
        return self.basis.parameter_bytes

    @property
    def sources(self) -> Mapping[str, str]:
        """Repositories that its weights came from, with their commits."""
        return getattr(self.basis, "sources", {})

    def encode(self, site: Site, x: Float[Tensor, "*b d_read"]) -> Float[Tensor, "*b unit"]:
        """Return coordinates at one of the sites."""
        return self.basis.encode(site, x)

    def decode(self, site: Site, f: Float[Tensor, "*b unit"]) -> Float[Tensor, "*b d_write"]:
        """Return the reconstruction at one of the sites."""
        return self.basis.decode(site, f)

    @property
    def streams(self) -> bool:
        """Whether its weights do not fit into memory at once."""
        return isinstance(self.basis, StreamedBasis) and self.basis.streams

    def keep_less(self) -> bool:
        """Keep fewer weights in memory, if the basis can."""
        return isinstance(self.basis, StreamedBasis) and self.basis.keep_less()


class _UnitwiseSubset(LayerSubset):
    """Layers of a basis some of whose units can be computed alone."""

    def part(self, site: Site, units: Int[Tensor, " part"]) -> BasisPart | None:
        """Return some units of a site."""
        return self.basis.part(site, units) if isinstance(self.basis, UnitwiseBasis) else None


class _CrossLayerSubset(LayerSubset):
    """Layers of a basis that writes to later layers: what units of other layers wrote becomes part of the error."""

    def spread(self, site: Site, f: Float[Tensor, "*b unit"], to: Site) -> Float[Tensor, "*b d_write"]:
        """Return what the units of one site add at another."""
        if not isinstance(self.basis, CrossLayerBasis):
            raise TypeError(f"basis '{self.name}' does not write across layers")
        return self.basis.spread(site, f, to)


class _UnitwiseCrossLayerSubset(_CrossLayerSubset, _UnitwiseSubset):
    """Both."""


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
            f"basis '{basis.name}' has no site in layer {', '.join(map(str, missing))}; restrict the run to layers "
            "that every basis of the family has"
        )
    if len(sites) == len(basis.sites):
        return basis
    unitwise, across = isinstance(basis, UnitwiseBasis), isinstance(basis, CrossLayerBasis)
    if across:
        return (_UnitwiseCrossLayerSubset if unitwise else _CrossLayerSubset)(basis, sites)
    return (_UnitwiseSubset if unitwise else LayerSubset)(basis, sites)
