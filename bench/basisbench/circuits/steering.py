"""Steering: chosen nodes are moved in a pass that is live otherwise, several cases to a pass.

In one case the value f of each chosen node becomes factor * f + offset. For a basis with sites m = 0, 1, ... in the
order of a pass:

1. At the read hook of site m the activation of this very pass is encoded. So every node is recomputed, and a chosen one
   that stands behind others is moved from what these have made of it.
2. Each chosen unit moves by delta_i = (factor_i - 1) f_i + offset_i, and each chosen coordinate of the error
   e_m = y_m - R_m(f) likewise, with y_m the live activation at the write hook and R_m as in `circuits.plain`.
3. y_m becomes y_m + sum over i of delta_i W_dec[i] + the error's deltas; units of earlier sites add what they write
   here, where the basis writes across layers. Decoders are affine, so this is R_m(f') + e'_m with the error live.

What is not chosen adds nothing: at factor 1 and offset 0 the logits are the unhooked model's, bit for bit where both
are computed by the same pass.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, cast

from basisbench.attribution.error_nodes import error_axes, to_nodes
from basisbench.attribution.node_writes import error_row, unit_rows
from basisbench.attribution.reconstruction import EarlierWrites
from basisbench.circuits.moves import Moves, Node
from basisbench.circuits.plain import Writer, site_edits
from basisbench.models.model import at_least_float32
from basisbench.protocols import CrossLayerBasis, CrossLayerPart, UnitwiseBasis

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from basisbench.models.start_at_layer import BlockInputs
    from basisbench.protocols import Basis, BasisPart
    from basisbench.types import ErrorPolicy


def steered_logits(
    inputs: BlockInputs, basis: Basis, policy: ErrorPolicy, moves: Moves, *, keep: int = 1
) -> Float[Tensor, "case row last vocab"]:
    """Return the logits at the last positions in each case.

    Args:
        inputs: what enters the blocks of the model for the rows (`models.start_at_layer`).
        basis: the basis.
        policy: along which axes coordinates of the error are nodes: "coordinates" or "rotated".
        moves: the cases, with a node at least.
        keep: how many of the last positions.
    """
    return _run(inputs, _Pass(basis, policy, moves), keep)


def clean_values(
    inputs: BlockInputs, basis: Basis, policy: ErrorPolicy, nodes: Sequence[Node]
) -> Float[Tensor, "row node"]:
    """Return the value of each of some nodes in the unhooked model; the arguments are those of `steered_logits`."""
    import torch

    zero = torch.zeros(1, len(nodes), device=inputs.model.device)
    seen = _Pass(basis, policy, Moves(tuple(nodes), zero + 1, zero.unsqueeze(0)))
    _run(inputs, seen, 1)
    found = []
    for index, position, unit in nodes:
        table = (seen.units if unit >= 0 else seen.errors)[index]
        column = table.columns.index(unit if unit >= 0 else -1 - unit)
        found.append(at_least_float32(seen.values[index, unit >= 0][:, table.positions.index(position), column]))
    return torch.stack(found, -1)


def _run(inputs: BlockInputs, shared: _Pass, keep: int) -> Float[Tensor, "case row last vocab"]:
    cases, basis = len(shared.moves.factor), shared.basis
    first = min(basis.sites[index].layer for index in shared.sites)
    writers = [_SiteWriter(shared, index) if index in shared.sites else None for index in range(len(basis.sites))]
    edits = site_edits(inputs.model, basis, cast("list[Writer | None]", writers))
    logits = inputs.repeated(cases, first).last_logits_from(first, edits, keep=keep)
    by_case: Tensor = logits.unflatten(0, (cases, -1))
    return by_case


@dataclass(frozen=True, eq=False)
class _Table:
    """The nodes of one site, units or coordinates of the error, as a dense table of positions and columns."""

    positions: list[int]
    columns: list[int]
    factor: Float[Tensor, "case 1 pos column"]
    offset: Float[Tensor, "case row_or_1 pos column"]

    def deltas(self, values: Float[Tensor, "both pos column"]) -> Float[Tensor, "both pos column"]:
        """Return how far each value is moved; the first axis has every row once per case, case by case."""
        by_case = at_least_float32(values).unflatten(0, (len(self.factor), -1))
        moved: Tensor = (self.factor - 1) * by_case + self.offset
        return moved.flatten(0, 1)


@dataclass(frozen=True, eq=False)
class _Pass:
    """What the sites of one pass share."""

    basis: Basis
    policy: ErrorPolicy
    moves: Moves
    values: dict[tuple[int, bool], Float[Tensor, "both _pos _column"]] = field(default_factory=dict)
    deltas: dict[int, Float[Tensor, "both _pos _column"]] = field(default_factory=dict)

    @cached_property
    def units(self) -> dict[int, _Table]:
        """Tables of units, by index of the site."""
        return self._tables(lambda unit: unit if unit >= 0 else None)

    @cached_property
    def errors(self) -> dict[int, _Table]:
        """Tables of coordinates of the error."""
        return self._tables(lambda unit: -1 - unit if unit < 0 else None)

    @cached_property
    def sites(self) -> list[int]:
        """The sites at which something is read or written."""
        own = {*self.units, *self.errors}
        if not isinstance(self.basis, CrossLayerBasis):
            return sorted(own)
        written = range(min(self.units), len(self.basis.sites)) if self.units else ()
        read = range(max(self.errors) + 1) if self.errors else ()
        return sorted({*own, *written, *read})

    @cached_property
    def earlier(self) -> EarlierWrites | None:
        """What live units of earlier sites write, where an error depends on it."""
        if not (self.errors and isinstance(self.basis, CrossLayerBasis)):
            return None

        def unread(site: object) -> Tensor:
            raise RuntimeError(f"{site} was not read before what depends on it")

        return EarlierWrites(self.basis, unread)

    def whole(self, index: int) -> bool:
        """Return whether all units of a site are needed: for the error there, or at a later site."""
        return index in self.errors or (self.earlier is not None and index < max(self.errors))

    def part(self, index: int) -> BasisPart | None:
        """Return the chosen units of a site by themselves; None where they cannot be computed so."""
        if index not in self._parts:
            import torch

            units = torch.tensor(self.units[index].columns, device=self.moves.factor.device)
            promised = isinstance(self.basis, UnitwiseBasis)
            self._parts[index] = (
                cast("UnitwiseBasis", self.basis).part(self.basis.sites[index], units) if promised else None
            )
        return self._parts[index]

    @cached_property
    def _parts(self) -> dict[int, BasisPart | None]:
        return {}

    @cached_property
    def widths(self) -> dict[int, Tensor]:
        """A row of zero coordinates of each site, as it was read."""
        return {}

    @cached_property
    def _rows(self) -> dict[int, dict[int, dict[str, Tensor]]]:
        return {}

    def written(self, index: int, to: int) -> Float[Tensor, "both pos d_write"]:
        """Return what the moves of a site's units add at the write hook of the same site or a later one."""
        import torch

        table, deltas, part = self.units[index], self.deltas[index], self.part(index)
        if part is not None:
            if index == to:
                return part.decode(deltas)
            return cast("CrossLayerPart", part).spread(deltas, self.basis.sites[to])
        if index not in self._rows:
            self._rows[index] = unit_rows(self.basis, index, table.columns, self.widths[index])
        rows = torch.stack([self._rows[index][unit][self.basis.sites[to].write] for unit in table.columns])
        return deltas @ rows.to(deltas.dtype)

    def _tables(self, column_of: Callable[[int], int | None]) -> dict[int, _Table]:
        found: dict[int, list[tuple[int, int, int]]] = {}
        for number, (index, position, unit) in enumerate(self.moves.nodes):
            column = column_of(unit)
            if column is not None:
                found.setdefault(index, []).append((number, position, column))
        return {index: self._table(own) for index, own in found.items()}

    def _table(self, own: Sequence[tuple[int, int, int]]) -> _Table:
        positions, columns = (sorted({node[axis] for node in own}) for axis in (1, 2))
        numbers = [number for number, _, _ in own]
        places = [positions.index(position) for _, position, _ in own]
        at = {column: place for place, column in enumerate(columns)}
        within = [at[column] for _, _, column in own]
        (cases, rows, _), size = self.moves.offset.shape, (len(positions), len(columns))
        factor, offset = self.moves.factor.new_ones(cases, 1, *size), self.moves.offset.new_zeros(cases, rows, *size)
        factor[:, 0, places, within] = self.moves.factor[:, numbers]
        offset[:, :, places, within] = self.moves.offset[:, :, numbers]
        return _Table(positions, columns, factor, offset)


@dataclass(eq=False)
class _SiteWriter:
    """One site in one pass."""

    shared: _Pass
    index: int
    live: Tensor | None = None

    def read(self, activation: Float[Tensor, "both pos d_read"]) -> None:
        """Encode what the moves of this site depend on."""
        shared, index = self.shared, self.index
        site, table = shared.basis.sites[index], shared.units.get(index)
        if shared.whole(index):
            self.live = shared.basis.encode(site, activation)
            if shared.earlier is not None:
                shared.earlier.offer(site, self.live)
        if table is None:
            return
        part = None if self.live is not None else shared.part(index)
        if part is not None:
            values = part.encode(activation[:, table.positions])
        else:
            units = self.live[:, table.positions] if self.live is not None else None
            if units is None:
                units = shared.basis.encode(site, activation[:, table.positions])
            shared.widths[index] = units[:1, 0]
            values = units[..., table.columns]
        shared.values[index, True], shared.deltas[index] = values, table.deltas(values)

    def write(self, activation: Float[Tensor, "both pos d_write"]) -> Float[Tensor, "both pos d_write"]:
        """Return the activation with everything that is moved."""
        shared, index = self.shared, self.index
        changes = []
        across = isinstance(shared.basis, CrossLayerBasis)
        for source, table in shared.units.items():
            if source == index or (across and source < index):
                changes.append((table.positions, shared.written(source, index)))
        if index in shared.errors:
            changes.append((shared.errors[index].positions, self._error_change(shared.errors[index], activation)))
        if not changes:
            return activation
        steered = activation.clone()
        for positions, change in changes:
            steered[:, positions] = (steered[:, positions].to(change.dtype) + change).to(activation.dtype)
        return steered

    def _error_change(self, table: _Table, activation: Tensor) -> Float[Tensor, "both pos d_write"]:
        import torch

        shared, site = self.shared, self.shared.basis.sites[self.index]
        if self.live is None:
            raise RuntimeError(f"{site.write} was reached before {site.read}")
        rebuilt = shared.basis.decode(site, self.live[:, table.positions])
        if shared.earlier is not None and (earlier := shared.earlier.at(site)) is not None:
            rebuilt = rebuilt + earlier[:, table.positions]
        error = activation[:, table.positions] - rebuilt
        values = to_nodes(error, error_axes(shared.policy, site, error))[..., table.columns]
        rows = torch.stack([error_row(shared.policy, site, column, error) for column in table.columns])
        shared.values[self.index, False], deltas = values, table.deltas(values)
        return deltas @ rows.to(deltas.dtype)
