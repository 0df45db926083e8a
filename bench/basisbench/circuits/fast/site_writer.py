"""What one site writes in an ablated pass: live values of kept nodes, reference values of all others.

Two ways, equal up to rounding:

1. **Dense**: encode everything, mix, decode. Decoders are affine, so where the error is kept decode(f') + y - decode(f)
   is y + decode(f' - f) - decode(0): one decoder product.
2. **Sliced** (`circuits.fast.moved_units`): start from the live activation where the error is kept and from the
   reference activation where it is not, and add only the units that are moved off it. A small circuit, and the
   complement of one, move few units. An error of which some coordinates are kept takes one encoder and one decoder
   product more, in either way.

A pass may hold only the last positions of each prompt, and its first site may see each prompt once for all
circuits (`circuits.fast.shared_work`); masks and references are aligned at the end.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import TYPE_CHECKING

from basisbench.circuits.fast.moved_units import Rows, SiteSlices, all_dense, bases, take_slices
from basisbench.models.batching import BUDGETS, slices_within

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from basisbench.circuits.circuit import CircuitMask, Reference
    from basisbench.circuits.fast.shared_work import FirstCoordinates
    from basisbench.protocols import Basis

_WIDE = 4096
"""From this many units a reference that all pairs share is decoded by itself: sparse codes are decoded row by row."""


class SiteWriter:
    """The writer of one site; holds what was read until it is written.

    Args:
        basis: the basis.
        index: which of its sites.
        reference: values of the nodes that are replaced.
        mask: the nodes that are kept, per circuit.
        pairs: pairs per circuit.
        positions: how many positions are written, at the end of each prompt.
        first: coordinates that all circuits and passes share, at the first site.
    """

    def __init__(
        self,
        basis: Basis,
        index: int,
        reference: Reference,
        mask: CircuitMask,
        pairs: int,
        positions: int,
        first: FirstCoordinates | None = None,
    ) -> None:
        self._basis, self._site, self._pairs, self._positions = basis, basis.sites[index], pairs, positions
        self._kept = mask.units[index][:, -positions:]
        self._keep_errors = mask.errors[index][:, -positions:]
        self._unit_reference = reference.units[index][:, -positions:]
        self._error_reference = None if reference.errors is None else reference.errors[index][:, -positions:]
        self._chunk_bytes = BUDGETS["units"].on(self._unit_reference.device.type)
        dtype = self._unit_reference.dtype
        from_live, self._partly = bases(basis, self._kept, self._keep_errors, positions)
        self._slices = take_slices(basis, self._site, self._kept, from_live, dtype)
        if self._slices is None and self._bytes_of_a_row() * len(self._kept) * positions > self._chunk_bytes:
            self._slices = all_dense(from_live)
        self._mask = mask
        self._reference = reference
        self._index = index
        self._read: Tensor | None = None
        self._first = first

    def read(self, activation: Tensor) -> None:
        """Keep the activation at the read hook, as (circuit or 1, pair, position, d_read)."""
        self._read = self._by_circuit(activation)

    def write(self, activation: Tensor) -> Tensor:
        """Return the activation at the write hook with kept nodes live and all others at their reference."""
        read, self._read = self._read, None
        if read is None:
            raise RuntimeError(f"{self._site.write} was reached before {self._site.read}")
        live = self._by_circuit(activation)
        written = self._dense(read, live) if self._slices is None else self._sliced(self._slices, read, live)
        # A value of the last position stands for every position, so that shapes stay what the model expects.
        # Coordinates may be of a wider type than the model's.
        return written.flatten(0, 1).to(activation.dtype).expand(-1, activation.shape[1], -1).contiguous()

    def _by_circuit(self, activation: Tensor) -> Tensor:
        by_circuit: Tensor = activation[:, -self._positions :].unflatten(0, (-1, self._pairs))
        return by_circuit

    def _dense(self, read: Tensor, live: Tensor) -> Tensor:
        """Encode everything: (circuit or 1, pair, position, d) to (circuit, pair, position, d_write)."""
        shared = self._shared(read)
        return self._mixed(
            self._basis.encode(self._site, read) if shared is None else shared,
            live,
            self._kept.unsqueeze(1),
            self._keep_errors.unsqueeze(1),
            self._unit_reference,
            self._error_reference,
        )

    def _shared(self, read: Tensor) -> Tensor | None:
        """Return the coordinates that all circuits and passes share, as (pair, position, unit)."""
        return None if self._first is None else self._first.of(read, self._kept.shape[-1])

    def _mixed(
        self,
        units: Float[Tensor, "... unit"],
        live: Float[Tensor, "... d_write"],
        kept: Tensor,
        keep_errors: Tensor,
        reference: Tensor,
        error_reference: Tensor | None,
    ) -> Float[Tensor, "... d_write"]:
        import torch

        if self._basis.exact:
            return self._basis.decode(self._site, units.where(kept, reference))
        if error_reference is None:
            raise RuntimeError(f"basis '{self._basis.name}' is not exact but has no error reference")
        if keep_errors.shape[-1] > 1:
            whole = self._basis.decode(self._site, units)
            error = self._mask.mixed_errors(self._site, live - whole, keep_errors, error_reference)
            return self._basis.decode(self._site, units.where(kept, reference)) + error
        # f' - f where the error is kept, f' elsewhere. The two factors have no pair axis unless the reference has one.
        unkept, sign = reference * ~kept, kept.to(units.dtype) - keep_errors.to(units.dtype)
        error = (live - self._at_zero).where(keep_errors, error_reference)
        if len(self._unit_reference) == 1 and self._pairs > 1 and units.shape[-1] >= _WIDE:
            # A mean over many prompts is dense, but the same for all pairs; what is left is as sparse as the code.
            shared = self._basis.decode(self._site, unkept) - self._at_zero
            return self._basis.decode(self._site, units * sign) + shared + error
        return self._basis.decode(self._site, torch.addcmul(unkept, units, sign)) + error

    @cached_property
    def _at_zero(self) -> Float[Tensor, "1 d_write"]:
        """What the decoder writes when every coordinate is zero; asked for when the weights are needed anyway."""
        return self._basis.decode(self._site, self._unit_reference.new_zeros(1, self._kept.shape[-1]))

    def _sliced(self, parts: SiteSlices, read: Tensor, live: Tensor) -> Tensor:
        circuits = len(self._kept)
        shared = self._shared(read)
        at_reference = self._reference.output(self._basis, self._index)[:, -self._positions :]
        written = live.where(parts.from_live.unsqueeze(1).unsqueeze(-1), at_reference)
        for moved in parts.slices:
            references = self._unit_reference[..., moved.units]
            known = None if shared is None else shared[..., moved.units]
            for some in self._chunks(len(moved.rows[0]), len(moved.units)):
                circuit, position = moved.rows[0][some], moved.rows[1][some]
                if known is None:
                    units = moved.part.encode(read.expand(circuits, -1, -1, -1)[circuit, :, position])
                else:
                    units = known[:, position].transpose(0, 1)
                change = (units - references[:, position].transpose(0, 1)) * moved.sign[some]
                written[circuit, :, position] += moved.part.decode(change)
        errors = self._error_reference

        def units_and_live(circuit: Tensor, position: Tensor) -> tuple[Tensor, Tensor]:
            if shared is not None:
                units = shared[:, position].transpose(0, 1)
            else:
                units = self._basis.encode(self._site, read.expand(circuits, -1, -1, -1)[circuit, :, position])
            return units, live.expand(circuits, -1, -1, -1)[circuit, :, position]

        for circuit, position in self._row_chunks(parts.dense):
            written[circuit, :, position] = self._mixed(
                *units_and_live(circuit, position),
                _rows_of(self._kept, circuit, position).unsqueeze(1),
                _rows_of(self._keep_errors, circuit, position).unsqueeze(1),
                self._unit_reference[:, position].transpose(0, 1),
                None if errors is None else errors[:, position].transpose(0, 1),
            )
        if self._partly is None or errors is None:
            return written
        # The base of a row has its whole error live or at its reference; here a part of it is.
        for circuit, position in self._row_chunks(parts.not_dense(self._partly)):
            units, here = units_and_live(circuit, position)
            error = here - self._basis.decode(self._site, units)
            reference = errors[:, position].transpose(0, 1)
            keep = _rows_of(self._keep_errors, circuit, position).unsqueeze(1)
            mixed = self._mask.mixed_errors(self._site, error, keep, reference)
            base = error.where(parts.from_live[circuit, position].view(-1, 1, 1), reference)
            written[circuit, :, position] += mixed - base
        return written

    def _row_chunks(self, rows: Rows | None) -> Iterator[Rows]:
        """Yield rows in chunks in which all units of each fit into memory."""
        if rows is None:
            return
        circuit, position = rows
        for some in self._chunks(len(circuit), self._kept.shape[-1]):
            yield circuit[some], position[some]

    def _bytes_of_a_row(self, units: int | None = None) -> int:
        """Return the size of the coordinates of all pairs in one circuit at one position."""
        return self._pairs * (units or self._kept.shape[-1]) * self._unit_reference.dtype.itemsize

    def _chunks(self, rows: int, units: int) -> Iterator[slice]:
        return slices_within(rows, self._bytes_of_a_row(units), self._chunk_bytes)


def _rows_of(mask: Tensor, circuit: Tensor, position: Tensor) -> Tensor:
    """Pick (circuit, position) rows of a mask whose position axis may be 1."""
    return mask[circuit, position if mask.shape[1] > 1 else 0]
