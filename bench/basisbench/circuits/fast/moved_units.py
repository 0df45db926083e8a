"""Which units a site must compute at all, when a circuit or its complement is small.

Every (circuit, position) of a site starts from a base: the live activation where the error is kept, the reference
activation where it is not (an exact basis has no error, and an error that is kept in part is put right afterwards:
both start from whichever is nearer). From the base only some units
are *moved*: the unkept ones to their reference, or the kept ones to their live value. So

    out = y + sum over unkept i of (ref_i - f_i) W_dec[i]             error kept
    out = decode(ref) + e_ref + sum over kept i of (f_i - ref_i) W_dec[i]     error at its reference

and only the moved units' columns of the encoder and rows of the decoder are needed. Rows that move too many units
are left to the dense way.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from basisbench.protocols import UnitwiseBasis

if TYPE_CHECKING:
    import torch
    from jaxtyping import Bool, Float, Int
    from torch import Tensor

    from basisbench.protocols import Basis, BasisPart
    from basisbench.types import Site

_BANDS = (0.02, 0.07, 0.2, 0.5)
"""Rows are sliced together when they move a similar share of the units: up to the first bound, the second, ..."""

_WORTH = 0.7
"""A band whose rows together move more of the units than this is left to the dense way: gathering is not free."""

Rows = tuple["Int[Tensor, ' row']", "Int[Tensor, ' row']"]
"""Circuit and position of each row."""


@dataclass(frozen=True, eq=False)
class Slice:
    """Rows that move few units, and these units.

    Attributes:
        rows: circuit and position of each row.
        units: the units that any of them moves.
        sign: 1 for a unit moved to its live value, -1 for one moved to its reference, 0 for one not moved.
        part: these units of the basis.
    """

    rows: Rows
    units: Int[Tensor, " part"]
    sign: Float[Tensor, "row 1 part"]
    part: BasisPart


@dataclass(frozen=True, eq=False)
class SiteSlices:
    """How one site is computed.

    Attributes:
        from_live: True where the base is the live activation, False where it is the reference.
        slices: what is moved off the base.
        dense: circuit and position of the rows that need every unit; None without any.
    """

    from_live: Bool[Tensor, "circuit pos"]
    slices: tuple[Slice, ...]
    dense: Rows | None

    def not_dense(self, rows: Bool[Tensor, "circuit pos"]) -> Rows:
        """Return those of the rows that are not dense."""
        if self.dense is not None:
            rows = rows.clone()
            rows[self.dense] = False
        return rows_of(rows)


def take_slices(
    basis: Basis,
    site: Site,
    kept: Bool[Tensor, "circuit _pos_or_1 unit"],
    from_live: Bool[Tensor, "circuit pos"],
    dtype: torch.dtype,
) -> SiteSlices | None:
    """Decide how a site is computed; None when every row is computed densely.

    Args:
        basis: the basis.
        site: one of its sites.
        kept: the units that are kept.
        from_live: True where the base is the live activation (`bases`).
        dtype: type of the coordinates.
    """
    if not isinstance(basis, UnitwiseBasis):
        return None
    moved = kept ^ from_live.unsqueeze(-1)
    counts = moved.sum(-1)
    slices, done = sliced_rows(basis, site, moved, counts, from_live, dtype)
    if not done.any():
        return None
    dense = rows_of(~done)
    return SiteSlices(from_live, slices, dense if len(dense[0]) else None)


def bases(
    basis: Basis,
    kept: Bool[Tensor, "circuit _pos_or_1 unit"],
    keep_errors: Bool[Tensor, "circuit _pos_or_1 error_or_1"],
    positions: int,
) -> tuple[Bool[Tensor, "circuit pos"], Bool[Tensor, "circuit pos"] | None]:
    """Return where rows start from the live activation, and where an error is kept in part; None for nowhere.

    Args:
        basis: the basis.
        kept: the units that are kept at a site.
        keep_errors: the errors that are kept there; ignored for an exact basis.
        positions: positions that are written.
    """
    nearer_live = (2 * kept.sum(-1) > kept.shape[-1]).expand(-1, positions)
    if basis.exact:
        return nearer_live, None
    whole = keep_errors.all(-1).expand(-1, positions)
    if keep_errors.shape[-1] == 1:
        return whole, None
    partly = keep_errors.any(-1).expand(-1, positions) & ~whole
    return (nearer_live.where(partly, whole), partly) if partly.any() else (whole, None)


def sliced_rows(
    basis: UnitwiseBasis,
    site: Site,
    moved: Bool[Tensor, "circuit pos unit"],
    counts: Int[Tensor, "circuit pos"],
    from_live: Bool[Tensor, "circuit pos"],
    dtype: torch.dtype,
) -> tuple[tuple[Slice, ...], Bool[Tensor, "circuit pos"]]:
    """Return slices for the rows that move few units, and the rows that are done with them.

    Args:
        basis: the basis.
        site: one of its sites.
        moved: the units that are moved off the base.
        counts: how many they are; rows of 0 need nothing.
        from_live: True where the base is the live activation.
        dtype: type of the coordinates.
    """
    width = moved.shape[-1]
    slices: list[Slice] = []
    done = counts == 0
    for bound in _BANDS:
        band = ~done & (counts <= bound * width)
        rows = rows_of(band)
        if not len(rows[0]):
            continue
        mask = moved[rows]
        units = mask.any(0).nonzero().squeeze(-1)
        part = basis.part(site, units) if len(units) <= _WORTH * width else None
        if part is None:
            continue
        sign = mask[:, units].to(dtype) * (1 - 2 * from_live[rows].to(dtype)).unsqueeze(-1)
        slices.append(Slice(rows, units, sign.unsqueeze(1), part))
        done |= band
    return tuple(slices), done


def all_dense(from_live: Bool[Tensor, "circuit pos"]) -> SiteSlices:
    """Return the plan in which every row needs every unit, so that it can be worked off in chunks."""
    import torch

    return SiteSlices(from_live, (), rows_of(torch.ones_like(from_live)))


def rows_of(mask: Bool[Tensor, "circuit pos"]) -> Rows:
    """Return circuit and position of the rows that are True."""
    circuit, position = mask.nonzero(as_tuple=True)
    return circuit, position
