"""Some nodes of a basis in one aligned group, and the three things that edges ask of each.

1. What it writes: moving its coordinate by one adds its decoder row at its position, at the write hook of its site, and
   of later ones where the basis writes across layers. A coordinate of the error adds its own axis.
2. Its value, as a function of what its site reads: the coordinate that `encode` gives (a neuron's activation, a
   feature's after its nonlinearity), or the coordinate of what the reconstruction leaves over at the write hook.
3. Its coordinate in tables of all coordinates: in the clean run, or at the reference.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from basisbench.attribution.error_nodes import error_axes, to_nodes
from basisbench.attribution.node_writes import error_row, unit_rows
from basisbench.errors import BasisBenchError
from basisbench.protocols import CrossLayerBasis

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from basisbench.protocols import Basis
    from basisbench.types import ErrorPolicy


@dataclass(frozen=True, eq=False)
class ChosenNodes:
    """Nodes that edges run between.

    Attributes:
        basis: the basis, whose decoder is affine.
        policy: the error policy; where the basis is not exact, one under which each coordinate of the error is a node.
        nodes: (index of the site, position, unit) of each; unit -1 - j is coordinate j of the error.
        widths: units of each site.

    Raises:
        BasisBenchError: under the policy an error is no node, or one node of many coordinates.
    """

    basis: Basis
    policy: ErrorPolicy
    nodes: tuple[tuple[int, int, int], ...]
    widths: tuple[int, ...]

    def __post_init__(self) -> None:
        if not self.basis.exact and self.policy not in ("coordinates", "rotated"):
            raise BasisBenchError(
                f"edges: under the error policy '{self.policy}' what basis '{self.basis.name}' leaves out is not in "
                "nodes of one coordinate each; choose the error policy 'coordinates' or 'rotated'"
            )

    def __len__(self) -> int:
        return len(self.nodes)

    def at(self, index: int) -> list[int]:
        """Return the numbers of the nodes of a site."""
        return [number for number, (site, _, _) in enumerate(self.nodes) if site == index]

    @cached_property
    def target_sites(self) -> list[int]:
        """Indices of the sites that have nodes, in the order of a pass."""
        return sorted({site for site, _, _ in self.nodes})

    def pick(
        self,
        units: Mapping[int, Float[Tensor, "pair_or_1 pos _unit"]],
        errors: Mapping[int, Float[Tensor, "pair_or_1 pos _d_write"] | None],
    ) -> Float[Tensor, "pair_or_1 node"]:
        """Return each node's coordinate, from the coordinates and the errors of its site."""
        import torch

        found: list[Tensor] = []
        for index, position, unit in self.nodes:
            error = errors[index]
            if unit >= 0:
                found.append(units[index][:, position, unit])
            elif error is None:
                raise BasisBenchError(f"edges: basis '{self.basis.name}' is exact; it has no error node")
            else:
                axes = error_axes(self.policy, self.basis.sites[index], error)
                found.append(to_nodes(error[:, position], axes)[:, -1 - unit])
        return torch.stack(found, -1)

    def written(
        self, index: int, moves: Float[Tensor, "*b node"], like: Float[Tensor, "... pos d_write"]
    ) -> Float[Tensor, "*b pos d_write"]:
        """Return what is added at a site's write hook when every node's coordinate moves by an amount.

        Args:
            index: of the site that is written at.
            moves: of each node, by any leading axes.
            like: an activation at the write hook, for its positions, width and type.
        """
        import torch

        added: list[Tensor] = []
        for here, rows in self._rows_at(index, like):
            if here:
                added.append((moves[..., here].to(rows.dtype) @ rows).to(like.dtype))
            else:
                added.append(like.new_zeros((*moves.shape[:-1], like.shape[-1])))
        return torch.stack(added, -2)

    def _rows_at(self, index: int, like: Tensor) -> list[tuple[list[int], Float[Tensor, "here d_write"]]]:
        """Return, for each position, the nodes that write there at a site, and what each writes."""
        import torch

        across, key = isinstance(self.basis, CrossLayerBasis), (index, like.shape[-2])
        if key not in self._by_position:
            places: list[tuple[list[int], Tensor]] = []
            for position in range(like.shape[-2]):
                here = [
                    number
                    for number, (site, place, unit) in enumerate(self.nodes)
                    # An error is written at its own site alone.
                    if place == position and (site == index or (across and site < index and unit >= 0))
                ]
                with torch.inference_mode(False), torch.no_grad():  # they are used under gradients too
                    rows = [self._row(number, index, like) for number in here]
                    places.append((here, torch.stack(rows) if rows else like.new_zeros((0, like.shape[-1]))))
            self._by_position[key] = places
        return self._by_position[key]

    @cached_property
    def _by_position(self) -> dict[tuple[int, int], list[tuple[list[int], Tensor]]]:
        return {}

    @cached_property
    def _unit_rows(self) -> dict[int, dict[int, dict[str, Tensor]]]:
        return {}

    def _row(self, number: int, to: int, like: Tensor) -> Float[Tensor, " d_write"]:
        """Return what a node writes at a site per unit of its coordinate."""
        index, _, unit = self.nodes[number]
        if unit < 0:
            return error_row(self.policy, self.basis.sites[index], -1 - unit, like)
        if index not in self._unit_rows:
            units = [own for site, _, own in self.nodes if site == index and own >= 0]
            self._unit_rows[index] = unit_rows(self.basis, index, units, like.new_zeros(1, self.widths[index]))
        return self._unit_rows[index][unit][self.basis.sites[to].write]

    def values(
        self,
        numbers: Sequence[int],
        reads: Mapping[int, Float[Tensor, "pair target _d_read"]],
        written: Float[Tensor, "pair target d_write"],
    ) -> Float[Tensor, "pair target"]:
        """Return the values of some nodes of one site, each from an activation of its own.

        Args:
            numbers: of the nodes.
            reads: by index of the site, what is read there at each node's position: of the nodes' own site, and where
                `needs_earlier_reads` of all earlier ones too.
            written: what the model itself has at the write hook, at each node's position.
        """
        import torch

        index = self.nodes[numbers[0]][0]
        site = self.basis.sites[index]
        chosen = torch.tensor([self.nodes[number][2] for number in numbers], device=written.device)
        units = self.basis.encode(site, reads[index])
        values = units.gather(-1, chosen.clamp_min(0).expand(len(units), -1).unsqueeze(-1)).squeeze(-1)
        if (chosen >= 0).all():
            return values
        rebuilt = self.basis.decode(site, units)
        if isinstance(self.basis, CrossLayerBasis):
            for earlier in range(index):
                source = self.basis.sites[earlier]
                rebuilt = rebuilt + self.basis.spread(source, self.basis.encode(source, reads[earlier]), site)
        error = written - rebuilt
        nodes = to_nodes(error, error_axes(self.policy, site, error))
        left = nodes.gather(-1, (-1 - chosen).clamp_min(0).expand(len(units), -1).unsqueeze(-1)).squeeze(-1)
        return values.where(chosen >= 0, left.to(values.dtype))

    def needs_earlier_reads(self, numbers: Sequence[int]) -> bool:
        """Return whether the values depend on what earlier sites read: errors of a basis that writes across layers."""
        errors = any(self.nodes[number][2] < 0 for number in numbers)
        return errors and isinstance(self.basis, CrossLayerBasis)
