"""What a basis that writes to several sites writes in an ablated pass, from the units that move.

With f_l the coordinates at site l and W[l -> m] what they write at site m, the definition (`circuits.plain`) writes
R_m(f') + e'_m, where R_m is affine in the coordinates of all sites up to m. So:

1. Where the error is kept, this is y_m + sum over l <= m of (f'_l - f_l) W[l -> m]: an unkept unit moves to its
   reference.
2. Where it is not, it is R_m(ref) + e_ref + sum over l <= m of (f'_l - ref_l) W[l -> m]: a kept unit moves to its live
   value.
3. Where the error is kept in part, the row starts as in 1 or 2, whichever moves fewer units, and the error is put right
   afterwards: y_m - R_m(f) takes what the live units write, R_m(ref) + sum over l <= m of (f_l - ref_l) W[l -> m].
4. A unit that does not move adds nothing. One site can have both kinds of move at one position, for different targets;
   each is cut to few units as in `circuits.fast.moved_units`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, cast

from basisbench.circuits.fast.moved_units import Rows, Slice, bases, rows_of, sliced_rows
from basisbench.models.batching import BUDGETS, slices_within
from basisbench.protocols import UnitwiseBasis

if TYPE_CHECKING:
    from jaxtyping import Bool, Float
    from torch import Tensor

    from basisbench.circuits.circuit import CircuitMask, Reference
    from basisbench.circuits.fast.shared_work import FirstCoordinates
    from basisbench.protocols import CrossLayerBasis, CrossLayerPart
    from basisbench.types import Site


@dataclass(eq=False)
class CrossLayerPass:
    """What the sites of one ablated pass share.

    Attributes:
        basis: the basis.
        reference: values of the nodes that are replaced.
        mask: the nodes that are kept, per circuit.
        pairs: pairs per circuit.
        positions: per site, how many positions are written, at the end of each prompt; never more at a later site.
        first: coordinates of the first site, if passes share them.
    """

    basis: CrossLayerBasis
    reference: Reference
    mask: CircuitMask
    pairs: int
    positions: Sequence[int]
    first: FirstCoordinates | None = None
    arrived: dict[int, Tensor] = field(default_factory=dict)
    arrived_live: dict[int, Tensor] = field(default_factory=dict)

    def by_circuit(self, activation: Tensor, index: int) -> Float[Tensor, "circuit_or_1 pair pos d"]:
        """Return the positions of an activation that a site writes, circuit by circuit."""
        rows: Tensor = activation[:, -self.positions[index] :].unflatten(0, (-1, self.pairs))
        return rows

    def kept(self, index: int) -> Bool[Tensor, "circuit _pos_or_1 unit"]:
        """Return which units of a site are kept, at the positions that it writes."""
        return self.mask.units[index][:, -self.positions[index] :]

    def keep_errors(self, index: int) -> Bool[Tensor, "circuit _pos_or_1 error_or_1"]:
        """Return which error nodes of a site are kept, at the positions that it writes."""
        return self.mask.errors[index][:, -self.positions[index] :]

    def bases(self, index: int) -> tuple[Bool[Tensor, "circuit pos"], Bool[Tensor, "circuit pos"] | None]:
        """Return where a site starts from the live activation, and where its error is kept in part."""
        return bases(self.basis, self.kept(index), self.keep_errors(index), self.positions[index])

    def units(self, index: int) -> Float[Tensor, "pair_or_1 pos unit"]:
        """Return the reference coordinates of a site at the positions that it writes."""
        return self.reference.units[index][:, -self.positions[index] :]


@dataclass(frozen=True, eq=False)
class _Target:
    """A site that is written to.

    Attributes:
        index: which site.
        site: the site.
        skipped: how many of the source's positions, at the beginning, it does not write.
        from_live: True where it starts from the live activation; at the positions that it writes.
        partly: True where its error is kept in part; None for nowhere.
    """

    index: int
    site: Site
    skipped: int
    from_live: Bool[Tensor, "circuit pos"]
    partly: Bool[Tensor, "circuit pos"] | None


class CrossLayerWriter:
    """The writer of one site, from the units that are moved off the live or off the reference activation.

    What a site's moved units write waits in `CrossLayerPass.arrived` until each target is reached.

    Args:
        shared: what the sites of the pass share.
        index: which site.
    """

    def __init__(self, shared: CrossLayerPass, index: int) -> None:
        self._shared, self._index, self._site = shared, index, shared.basis.sites[index]
        self._kept, self._references = shared.kept(index), shared.units(index)
        positions = shared.positions[index]
        self._targets = [
            _Target(target, site, positions - shared.positions[target], *shared.bases(target))
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
        self._whole = self._rows_of_partly_kept_errors()
        self._read: Tensor | None = None

    def read(self, activation: Tensor) -> None:
        """Keep the activation at the read hook, as (circuit or 1, pair, position, d_read)."""
        self._read = self._shared.by_circuit(activation, self._index)

    def write(self, activation: Tensor) -> Tensor:
        """Return the activation at the write hook with kept nodes live and all others at their reference."""
        read, self._read = self._read, None
        if read is None:
            raise RuntimeError(f"{self._site.write} was reached before {self._site.read}")
        known = None
        if self._index == 0 and self._shared.first is not None:
            known = self._shared.first.of(read, self._kept.shape[-1])
        for live, moved in self._slices:
            self._send_slice(live, moved, read, known)
        self._send_dense(read, known)
        self._send_whole(read, known)
        from_live = self._targets[0].from_live.unsqueeze(1).unsqueeze(-1)
        at_reference = self._shared.reference.output(self._shared.basis, self._index)
        at_reference = at_reference[:, -self._shared.positions[self._index] :]
        live_activation = self._shared.by_circuit(activation, self._index)
        written = live_activation.where(from_live, at_reference)
        arrived = self._shared.arrived.pop(self._index, None)
        if arrived is not None:
            written = written + arrived
        if self._targets[0].partly is not None:
            written = written + self._partly_kept(live_activation, at_reference)
        # A value of the last position stands for every position, so that shapes stay what the model expects.
        return written.flatten(0, 1).to(activation.dtype).expand(-1, activation.shape[1], -1).contiguous()

    def _partly_kept(self, live: Tensor, at_reference: Tensor) -> Float[Tensor, "circuit pair pos d_write"]:
        """Return what puts errors right that are kept in part; zero elsewhere."""
        shared, target = self._shared, self._targets[0]
        errors = shared.reference.errors
        if errors is None or target.partly is None:
            raise RuntimeError(f"basis '{shared.basis.name}' is not exact but has no error reference")
        reference = errors[self._index][:, -shared.positions[self._index] :]
        error = live - (at_reference - reference) - shared.arrived_live.pop(self._index)
        keep = shared.keep_errors(self._index).unsqueeze(1)
        mixed = shared.mask.mixed_errors(self._site, error, keep, reference)
        base = error.where(target.from_live.unsqueeze(1).unsqueeze(-1), reference)
        return (mixed - base) * target.partly.unsqueeze(1).unsqueeze(-1)

    def _rows_of_partly_kept_errors(self) -> Rows:
        """Return the rows whose live units are asked for at a target, for what they leave out there."""
        wanted = self._targets[0].from_live & False
        for target in self._targets:
            if target.partly is not None:
                wanted[:, target.skipped :] |= target.partly
        return rows_of(wanted)

    def _send_whole(self, read: Tensor, known: Tensor | None) -> None:
        """Send what the live units write beyond the reference to targets whose errors are kept in part."""
        for circuit, position, units in self._live_units(self._whole, read, known):
            change = units - self._references[:, position].transpose(0, 1)
            for target in self._targets:
                if target.partly is None:
                    continue
                at = position - target.skipped
                meant = (at >= 0) & target.partly[circuit, at.clamp_min(0)]
                if meant.any():
                    written = self._spread(change[meant], target)
                    self._add(target, (circuit[meant], at[meant]), written, self._shared.arrived_live)

    def _live_units(self, rows: Rows, read: Tensor, known: Tensor | None) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Yield circuit, position and live coordinates of rows, in chunks that fit into memory."""
        circuits, all_circuit, all_position = len(self._kept), *rows
        for some in self._chunks(len(all_circuit), self._kept.shape[-1]):
            circuit, position = all_circuit[some], all_position[some]
            if known is None:
                here = read.expand(circuits, -1, -1, -1)[circuit, :, position]
                yield circuit, position, self._shared.basis.encode(self._site, here)
            else:
                yield circuit, position, known[:, position].transpose(0, 1)

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

        dtype = self._references.dtype
        for circuit, position, units in self._live_units(self._dense, read, known):
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

    def _add(
        self,
        target: _Target,
        rows: Rows,
        written: Float[Tensor, "row pair d_write"],
        arrived: dict[int, Tensor] | None = None,
    ) -> None:
        shared = self._shared
        arrived = shared.arrived if arrived is None else arrived
        if target.index not in arrived:
            shape = (len(self._kept), shared.pairs, shared.positions[target.index], written.shape[-1])
            arrived[target.index] = written.new_zeros(shape)
        circuit, position = rows
        arrived[target.index][circuit, :, position] += written

    def _chunks(self, rows: int, units: int) -> Iterator[slice]:
        budget = BUDGETS["units across layers"].on(self._references.device.type)
        return slices_within(rows, self._shared.pairs * units * self._references.dtype.itemsize, budget)
