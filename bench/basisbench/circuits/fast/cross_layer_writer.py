"""A basis that writes to several sites: its reconstructions, and what it writes in an ablated pass.

With f_l the coordinates at site l, W[l -> m] what they write at site m and b_m the bias there:

1. Reconstruction: R_m(f) = b_m + sum over l <= m of f_l W[l -> m]; error: e_m = y_m - R_m(f).
2. In an ablated pass every site is encoded live, and f'_l takes the live coordinate of a kept node and the reference
   coordinate of every other. The activation y_m becomes R_m(f') + e'_m, with e'_m = y_m - R_m(f) where the error is
   kept (live values of this same pass, earlier sites included) and the reference error elsewhere.
3. R is affine, so this is y_m + sum over l <= m of (f'_l - f_l) W[l -> m] where the error is kept, and
   R_m(ref) + e_ref + sum over l <= m of (f'_l - ref_l) W[l -> m] where it is not. A unit is *moved* off one of these
   two bases or it adds nothing: with the error kept, an unkept unit moves to its reference; else a kept unit moves to
   its live value. One site can have both kinds of move at one position, for different targets.

`PlainWriter` is step 2 as it stands; `CrossLayerWriter` is step 3, with the slices of `basisbench.circuits.fast.moved_units`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from basisbench.circuits.fast.moved_units import Rows, Slice, rows_of, sliced_rows
from basisbench.circuits.plain import Pass
from basisbench.protocols import UnitwiseBasis

if TYPE_CHECKING:
    from jaxtyping import Bool, Float
    from torch import Tensor

    from basisbench.protocols import CrossLayerPart
    from basisbench.types import Site

_CHUNK_BYTES = {"cpu": 8 * 2**20}
_DEVICE_CHUNK_BYTES = 512 * 2**20
"""Coordinates are computed in chunks of this size: on a CPU they stay in its caches."""


@dataclass(frozen=True, eq=False)
class _Target:
    """A site that is written to.

    Attributes:
        index: which site.
        site: the site.
        skipped: how many of the source's positions, at the beginning, it does not write.
        from_live: True where its error is kept; at the positions that it writes.
    """

    index: int
    site: Site
    skipped: int
    from_live: Bool[Tensor, "circuit pos"]


class CrossLayerWriter:
    """The same edits, up to rounding, from the units that are moved off the live or off the reference activation.

    What a site's moved units write waits in `Pass.arrived` until each target is reached.

    Args:
        shared: what the sites of the pass share.
        index: which site.
    """

    def __init__(self, shared: Pass, index: int) -> None:
        self._shared, self._index, self._site = shared, index, shared.basis.sites[index]
        self._kept, self._references = shared.kept(index), shared.units(index)
        positions = shared.positions[index]
        self._targets = [
            _Target(target, site, positions - shared.positions[target], shared.from_live(target))
            for target, site in list(enumerate(shared.basis.sites))[index:]
        ]
        kept = self._kept.expand(-1, positions, -1)
        self._slices: list[tuple[bool, Slice]] = []
        self._left: dict[bool, Tensor] = {}
        for live in (True, False):
            moved = ~kept if live else kept
            wanted = self._wanted(live)
            counts = moved.sum(-1) * wanted
            slices: tuple[Slice, ...] = ()
            done = counts == 0
            if isinstance(shared.basis, UnitwiseBasis):
                base = wanted if live else wanted & False
                slices, done = sliced_rows(shared.basis, self._site, moved, counts, base, self._references.dtype)
            self._slices += [(live, part) for part in slices]
            self._left[live] = ~done
        self._dense = rows_of(self._left[True] | self._left[False])
        self._read: Tensor | None = None

    def read(self, activation: Tensor) -> Tensor:
        """Keep the activation at the read hook, and leave it as it is."""
        self._read = self._shared.by_circuit(activation, self._index)
        return activation

    def write(self, activation: Tensor) -> Tensor:
        """Return the activation at the write hook with kept nodes live and all others at their reference."""
        read, self._read = self._read, None
        if read is None:
            raise RuntimeError(f"{self._site.write} was reached before {self._site.read}")
        known = None
        if self._index == 0 and self._shared.first_units is not None:
            known = self._shared.first_units.of(read, self._kept.shape[-1])
        for live, moved in self._slices:
            self._send_slice(live, moved, read, known)
        self._send_dense(read, known)
        from_live = self._targets[0].from_live.unsqueeze(1).unsqueeze(-1)
        at_reference = self._shared.reference.output(self._shared.basis, self._index)
        live_activation = self._shared.by_circuit(activation, self._index)
        written = live_activation.where(from_live, at_reference[:, -self._shared.positions[self._index] :])
        arrived = self._shared.arrived.pop(self._index, None)
        if arrived is not None:
            written = written + arrived
        # A value of the last position stands for every position, so that shapes stay what the model expects.
        return written.flatten(0, 1).to(activation.dtype).expand(-1, activation.shape[1], -1)

    def read_and_write(self, activation: Tensor) -> Tensor:
        """Do both where a basis reads and writes at one hook."""
        self.read(activation)
        return self.write(activation)

    def _wanted(self, live: bool) -> Bool[Tensor, "circuit pos"]:
        """Return where any target starts from the live activation, or from the reference."""
        wanted = self._targets[0].from_live == live
        for target in self._targets[1:]:
            wanted[:, target.skipped :] |= target.from_live == live
        return wanted

    def _send_slice(self, live: bool, moved: Slice, read: Tensor, known: Tensor | None) -> None:
        circuits = len(self._kept)
        part = cast("CrossLayerPart", moved.part)
        references = self._references[..., moved.units]
        known = None if known is None else known[..., moved.units]
        for some in self._chunks(len(moved.rows[0]), len(moved.units)):
            circuit, position = moved.rows[0][some], moved.rows[1][some]
            if known is None:
                units = part.encode(read.expand(circuits, -1, -1, -1)[circuit, :, position])
            else:
                units = known[:, position].transpose(0, 1)
            change = (units - references[:, position].transpose(0, 1)) * moved.sign[some]
            for target in self._targets:
                at = position - target.skipped
                meant = (at >= 0) & (target.from_live[circuit, at.clamp_min(0)] == live)
                if meant.all():
                    self._add(target, (circuit, at), part.spread(change, target.site))
                elif meant.any():
                    self._add(target, (circuit[meant], at[meant]), part.spread(change[meant], target.site))

    def _send_dense(self, read: Tensor, known: Tensor | None) -> None:
        import torch

        circuits, all_circuit, all_position = len(self._kept), *self._dense
        dtype = self._references.dtype
        for some in self._chunks(len(all_circuit), self._kept.shape[-1]):
            circuit, position = all_circuit[some], all_position[some]
            if known is None:
                rows = read.expand(circuits, -1, -1, -1)[circuit, :, position]
                units = self._shared.basis.encode(self._site, rows)
            else:
                units = known[:, position].transpose(0, 1)
            references = self._references[:, position].transpose(0, 1)
            kept = self._kept[circuit, position if self._kept.shape[1] > 1 else 0].to(dtype).unsqueeze(1)
            left = torch.stack([self._left[live][circuit, position] for live in (False, True)])
            change, base = units, None
            for target in self._targets:
                at = position - target.skipped
                from_live = target.from_live[circuit, at.clamp_min(0)] & (at >= 0)
                if base is None or not torch.equal(base, from_live):
                    # Both kinds of move are (f - ref) times a sign; what a slice has done is not done again.
                    wanted = left[1].where(from_live, left[0]).to(dtype)
                    sign = (kept - from_live.to(dtype).view(-1, 1, 1)) * wanted.view(-1, 1, 1)
                    change, base = torch.addcmul(-references * sign, units, sign), from_live
                inside = at >= 0
                if inside.all():
                    self._add(target, (circuit, at), self._spread(change, target))
                elif inside.any():
                    self._add(target, (circuit[inside], at[inside]), self._spread(change[inside], target))

    def _spread(self, change: Tensor, target: _Target) -> Tensor:
        return self._shared.basis.spread(self._site, change, target.site)

    def _add(self, target: _Target, rows: Rows, written: Float[Tensor, "row pair d_write"]) -> None:
        arrived, shared = self._shared.arrived, self._shared
        if target.index not in arrived:
            shape = (len(self._kept), shared.pairs, shared.positions[target.index], written.shape[-1])
            arrived[target.index] = written.new_zeros(shape)
        circuit, position = rows
        arrived[target.index][circuit, :, position] += written

    def _chunks(self, rows: int, units: int) -> Iterator[slice]:
        """Cut rows so that the coordinates of one chunk stay small."""
        most = _CHUNK_BYTES.get(self._references.device.type, _DEVICE_CHUNK_BYTES)
        size = self._shared.pairs * units * self._references.dtype.itemsize
        step = max(1, most // max(1, size))
        for start in range(0, rows, step):
            yield slice(start, start + step)
