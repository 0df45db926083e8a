"""Which nodes are steered: their names by role, and random nodes like them.

1. `LAYER:ROLE:UNIT` names a node: a unit, or `error N` for a coordinate of the error, of one layer, wherever its role
   is. A role of several tokens means all of them, `subject 2/3` the second of three; `last` is the last position, `all`
   every position behind a beginning-of-sequence token.
2. A draw of controls has, for each node, another of the same layer, roles and kind, of like activation: one of those
   whose mean |value| there is nearest to the node's, by ratio. No draw has a node twice, and no control is a node.
   `circuits.dose_response` moves it by as much as the node that it stands for, prompt by prompt.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar

from basisbench.attribution.error_nodes import error_axes, to_nodes
from basisbench.circuits.merged import RolePosition, merge, rank_merged
from basisbench.errors import BasisBenchError, unknown_name
from basisbench.pairs.tokens import BOS_ROLE
from basisbench.results.circuit_nodes import place_name
from basisbench.types import Scores

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Generator, Tensor

    from basisbench.circuits.circuit import Reference
    from basisbench.circuits.moves import Node
    from basisbench.protocols import Basis, ScoringContext
    from basisbench.results.record import CellConfig
    from basisbench.types import ErrorPolicy, Site

LAST, ALL = "last", "all"
"""Roles of the last position, and of every one."""


@dataclass(frozen=True)
class SteeredNode:
    """A unit of one layer at some positions by role.

    Attributes:
        layer: the layer.
        index: of its site in the basis.
        unit: the unit; -1 - j is coordinate j of the error.
        role: the role by which it is called, and
        token: which token of it; empty where all are meant, or there is one.
        places: the positions.
    """

    layer: int
    index: int
    unit: int
    role: str
    token: str
    places: tuple[RolePosition, ...]

    def positions(self, group: str) -> list[int]:
        """Return its positions in an aligned group."""
        return [place.positions[group] for place in self.places if group in place.positions]


def named_node(
    name: str, basis: Basis, places: Sequence[RolePosition], roles: Mapping[str, Sequence[str]], like: Scores
) -> SteeredNode:
    """Return the node of a name.

    Args:
        name: `LAYER:ROLE:UNIT`.
        basis: the basis.
        places: all positions by role.
        roles: role of each position, by aligned group.
        like: scores of all nodes in one aligned group, for their numbers.

    Raises:
        BasisBenchError: it is no such name, or there is no such layer, role or unit.
    """
    found = re.fullmatch(r"\s*(\d{1,4}):(.+):(?:(\d{1,9})|error ?(\d{1,9}))\s*", name)
    if found is None:
        raise BasisBenchError(
            f"node '{name:.60}': expected LAYER:ROLE:UNIT, for example 3:{places[-1].role}:74 or 3:last:'error 7'"
        )
    layer, role = int(found[1]), found[2].strip()
    layers = [site.layer for site in basis.sites]
    if layer not in layers:
        raise BasisBenchError(f"node '{name}': basis '{basis.name}' has the layers {layers[0]} to {layers[-1]}")
    index = layers.index(layer)
    own = [place for place in places if called(place, role, roles)]
    if not own:
        known = {LAST, ALL, *(place.role for place in places), *(place_name(each.role, each.token) for each in places)}
        raise unknown_name("role", role, known)
    tables = like.units if found[3] else like.errors
    if tables is None:
        raise BasisBenchError(f"node '{name}': basis '{basis.name}' has no error nodes here")
    number, count = int(found[3] or found[4]), int(tables[index].shape[-1])
    if number >= count:
        what = "units" if found[3] else "error nodes"
        raise BasisBenchError(f"node '{name}': layer {layer} of basis '{basis.name}' has {count} {what}, from 0")
    return SteeredNode(layer, index, number if found[3] else -1 - number, role, "", tuple(own))


def called(place: RolePosition, role: str, roles: Mapping[str, Sequence[str]]) -> bool:
    """Return whether a position is one that a role names: a role, one of its tokens, `last` or `all`.

    Args:
        place: the position.
        role: the name.
        roles: role of each position, by aligned group.
    """
    if role == LAST:
        return all(position == len(roles[group]) - 1 for group, position in place.positions.items())
    if role == ALL:
        return place.role != BOS_ROLE
    return role in (place.role, place_name(place.role, place.token))


def best_nodes(
    scores: Mapping[str, Scores],
    pairs: Mapping[str, int],
    cell: CellConfig,
    basis: Basis,
    count: int,
    places: Sequence[RolePosition],
) -> tuple[SteeredNode, ...]:
    """Return the nodes of the largest |score| at some positions, merged by role, best first.

    Args:
        scores: by aligned group.
        pairs: attribution pairs of each.
        cell: what was asked.
        basis: the basis.
        count: how many; those without a score are left out.
        places: the positions.
    """
    top = rank_merged(merge(scores, pairs, places), cell).top(count)
    return tuple(
        SteeredNode(basis.sites[index].layer, index, unit, places[row].role, places[row].token, (places[row],))
        for index, row, unit, value in top
        if value
    )


def group_nodes(nodes: Sequence[SteeredNode], group: str) -> tuple[Node, ...]:
    """Return the distinct nodes of an aligned group, as (site index, position, unit)."""
    found = ((node.index, position, node.unit) for node in nodes for position in node.positions(group))
    return tuple(dict.fromkeys(found))


def beside(nodes: Sequence[SteeredNode], controls: Sequence[SteeredNode], group: str) -> tuple[Node, ...]:
    """Return the controls of the nodes of an aligned group, in the order of `group_nodes`."""
    found: dict[Node, Node] = {}
    for node, control in zip(nodes, controls, strict=True):
        for position in node.positions(group):
            found.setdefault((node.index, position, node.unit), (control.index, position, control.unit))
    return tuple(found.values())


def places_of(nodes: Sequence[SteeredNode]) -> int:
    """Return how many nodes there are where each is at one role."""
    return len({(node.index, node.unit, place.role, place.token) for node in nodes for place in node.places})


def node_references(
    nodes: Sequence[Node], basis: Basis, policy: ErrorPolicy, reference: Reference
) -> Float[Tensor, "row_or_1 node"]:
    """Return what each node is when it is ablated."""
    import torch

    found = []
    for index, position, unit in nodes:
        if unit >= 0:
            found.append(reference.units[index][:, position, unit])
            continue
        error = (reference.errors or ())[index][:, position]
        found.append(to_nodes(error, error_axes(policy, basis.sites[index], error))[:, -1 - unit])
    return torch.stack(found, -1)


@dataclass(frozen=True)
class MeanSize:
    """Score a node by its mean |value| on the clean prompts, or |change| to the counterfactual ones, for controls.

    Attributes:
        change: whether it is the change that controls are to be like.
    """

    change: bool = False
    summary: ClassVar[str] = "mean absolute value or change"
    mean_over_pairs: ClassVar[bool] = True

    @property
    def name(self) -> str:
        """What cells call it."""
        return "change" if self.change else "activation"

    def score(self, context: ScoringContext, basis: Basis) -> Scores:
        """Return the mean over the pairs of the group."""
        import torch

        with torch.no_grad():
            found = [self._values(context, basis, site) for site in basis.sites]
            units = tuple(own.abs().mean(0) for own, _ in found)
            errors = tuple(
                context.error_nodes(site, error).abs().mean(0)
                for site, (_, error) in zip(basis.sites, found, strict=True)
                if error is not None
            )
        return Scores(units, None if basis.exact else errors)

    def _values(self, context: ScoringContext, basis: Basis, site: Site) -> tuple[Tensor, Tensor | None]:
        units, error = context.coordinates(basis, site, "clean")
        if not self.change:
            return units, error
        other, other_error = context.coordinates(basis, site, "counterfactual")
        return other - units, None if error is None or other_error is None else other_error - error


@dataclass(frozen=True, eq=False)
class Activations:
    """The mean |value| of every node on the clean attribution prompts, or what else `MeanSize` gives.

    Attributes:
        groups: by aligned group.
        pairs: attribution pairs of each.
    """

    groups: Mapping[str, Scores]
    pairs: Mapping[str, int]

    def of(self, node: SteeredNode) -> float:
        """Return the mean |value| of a node over its positions."""
        return float(self.likes(node)[node.unit if node.unit >= 0 else -1 - node.unit])

    def likes(self, node: SteeredNode) -> Float[Tensor, " unit"]:
        """Return that of all nodes of its kind there: units, or coordinates of the error."""
        key = node.index, node.unit >= 0, tuple(map(_key, node.places))
        if key not in self._known:
            rows, weight = [], 0
            for group, scores in self.groups.items():
                table = scores.units if node.unit >= 0 else scores.errors or ()
                for position in node.positions(group):
                    rows.append(table[node.index][position].double() * self.pairs[group])
                    weight += self.pairs[group]
            self._known[key] = (sum(rows[1:], rows[0]) / weight).cpu()
        return self._known[key]

    @cached_property
    def _known(self) -> dict[tuple[int, bool, tuple[tuple[str, str], ...]], Tensor]:
        return {}

    def controls(self, nodes: Sequence[SteeredNode], draws: int, generator: Generator) -> list[tuple[SteeredNode, ...]]:
        """Draw sets of random nodes that are like some nodes: one like each, in the same order.

        A node's controls are of the `draws` nearest, a different one in each draw where no other node is in the way.

        Args:
            nodes: the nodes.
            draws: how many sets.
            generator: source of the draws, on the CPU.

        Raises:
            BasisBenchError: there are too few other nodes.
        """
        import torch

        orders: list[list[int]] = []
        for node in nodes:
            near = [other for other in nodes if _overlap(node, other)]
            values = self.likes(node)
            shuffled = torch.randperm(len(values), generator=generator)
            own = values[node.unit if node.unit >= 0 else -1 - node.unit]
            least = values.max() * 1e-6 + 1e-30
            apart = ((values[shuffled] + least).log() - (own + least).log()).abs()
            ranked = shuffled[apart.argsort(stable=True)].tolist()
            taken = {other.unit if other.unit >= 0 else -1 - other.unit for other in near}
            nearest = [unit for unit in ranked if unit not in taken][: draws + len(near) - 1]
            if len(nearest) < draws + len(near) - 1:
                raise BasisBenchError(
                    f"{len(nearest)} other nodes at layer {node.layer}, role {node.role}, are too few for "
                    f"{draws} draws of controls beside {len(near)} chosen there; ask for fewer draws or fewer nodes"
                )
            orders.append([nearest[place] for place in torch.randperm(len(nearest), generator=generator).tolist()])
        return [self._draw(nodes, orders, draw) for draw in range(draws)]

    def _draw(
        self, nodes: Sequence[SteeredNode], orders: Sequence[Sequence[int]], draw: int
    ) -> tuple[SteeredNode, ...]:
        drawn: list[SteeredNode] = []
        at: dict[tuple[int, int], list[SteeredNode]] = {}
        for node, order in zip(nodes, orders, strict=True):
            start = draw % len(order)
            for unit in (*order[start:], *order[:start]):
                other = replace(node, unit=unit if node.unit >= 0 else -1 - unit)
                taken = at.setdefault((node.index, other.unit), [])
                if not any(_overlap(other, each) for each in taken):
                    break
            taken.append(other)
            drawn.append(other)
        return tuple(drawn)


def _overlap(one: SteeredNode, other: SteeredNode) -> bool:
    """Return whether two nodes are of one layer and kind, at some role of both."""
    alike = one.index == other.index and (one.unit >= 0) == (other.unit >= 0)
    return alike and bool({*map(_key, one.places)} & {*map(_key, other.places)})


def _key(place: RolePosition) -> tuple[str, str]:
    return place.role, place.token
