"""Some units of a basis whose decoder is a matrix.

Their rows are picked when they are first needed, and nothing else of the basis is held on to: it may be let go of
meanwhile, to make room for another layer.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING

from basisbench.models.onednn import LinearMap, passing_linear_map

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor


class RowsPart:
    """Implements `basisbench.protocols.BasisPart`.

    Args:
        units: which units.
        encoder: makes the encoder of some units.
        decoder: gives the decoder rows of some units.
    """

    def __init__(
        self, units: Int[Tensor, " part"], encoder: Callable[[Tensor], LinearMap], decoder: Callable[[Tensor], Tensor]
    ) -> None:
        self._units, self._make_encoder, self._make_rows = units, encoder, decoder

    @cached_property
    def _encoder(self) -> LinearMap:
        return self._make_encoder(self._units)

    @cached_property
    def _rows(self) -> Float[Tensor, "part d_write"]:
        return self._make_rows(self._units)

    def encode(self, x: Float[Tensor, "*b d_read"]) -> Float[Tensor, "*b part"]:
        """Return the coordinates of these units."""
        return self._encoder(x)

    def decode(self, f: Float[Tensor, "*b part"]) -> Float[Tensor, "*b d_write"]:
        """Return what these coordinates add to the reconstruction."""
        return passing_linear_map(self._rows.T, None)(f)

    def project(self, gradient: Float[Tensor, "*b d_write"]) -> Float[Tensor, "*b part"]:
        """Return the product of a gradient with each unit's decoder row."""
        return passing_linear_map(self._rows, None)(gradient)
