"""What a cross-layer basis writes at a site from earlier ones, in a run whose activations are known.

The reconstruction at site m is decode(f_m) plus, for every earlier site l, spread(l, f_l, m), and the error is what
that sum leaves over (protocols.CrossLayerBasis). Sites are asked for in order, and coordinates are large: each site's
writes are added to running sums as it is reached, and its coordinates are forgotten.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from basisbench.protocols import CrossLayerBasis
    from basisbench.types import Site


class EarlierWrites:
    """What the units of earlier sites write at each site, in a run whose activations are known.

    Sums are kept and coordinates are not; when sites are asked for in order, each is encoded once.

    Args:
        basis: the basis.
        encoded: gives the coordinates of a site.
    """

    def __init__(self, basis: CrossLayerBasis, encoded: Callable[[Site], Float[Tensor, "*b unit"]]) -> None:
        self._basis, self._encoded = basis, encoded
        self._index = {site: index for index, site in enumerate(basis.sites)}
        self._sums: dict[int, Tensor] = {}
        self._done = 0

    def at(self, site: Site) -> Float[Tensor, "*b d_write"] | None:
        """Return what all earlier sites write here; None at the first site."""
        while self._done < self._index[site]:
            source = self._basis.sites[self._done]
            self.offer(source, self._encoded(source))
        return self._sums.get(self._index[site])

    def offer(self, site: Site, units: Float[Tensor, "*b unit"]) -> None:
        """Add what a site's units write at later sites, if it is the next that is waited for."""
        if self._index[site] != self._done:
            return
        targets = range(self._done + 1, len(self._basis.sites))
        written = {target: self._basis.spread(site, units, self._basis.sites[target]) for target in targets}
        # All or nothing: a sum that was left half done by an error would be wrong when the work is tried again.
        sums = {target: value + self._sums[target] if self._done else value for target, value in written.items()}
        self._sums.update(sums)
        self._done += 1
