"""How much two circuits have in common, and how much chance would give them.

Two circuits are compared in what can be the same in both: nodes (layer, unit, role) within a task and a basis, units
(layer, unit) across tasks, whose roles differ, and places (layer, role) across bases, whose units differ; across both,
layers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

from basisbench.results.circuit_nodes import CONDITIONS, CircuitNode, CircuitNodes, place_name, unit_name
from basisbench.results.tables import Entry, Table

Level = Literal["nodes", "units", "places", "layers"]


@dataclass(frozen=True)
class Overlap:
    """What two circuits have in common.

    Attributes:
        level: what is compared.
        sizes: how many of these each circuit has.
        common: how many both have.
        total: how many there are to choose from; None where records do not tell.
    """

    level: Level
    sizes: tuple[int, int]
    common: int
    total: int | None

    @property
    def jaccard(self) -> float:
        """Common ones over all that either circuit has, from 0 to 1; NaN of two empty circuits."""
        return jaccard_index(*self.sizes, self.common)

    @property
    def chance(self) -> float:
        """Expected Jaccard index of two sets of these sizes, drawn at random; NaN where `total` is unknown."""
        return math.nan if self.total is None else chance_jaccard(*self.sizes, self.total)


def jaccard_index(first: int, second: int, common: int) -> float:
    """Return the share of what two sets of these sizes have in common of all that either has; NaN of empty ones."""
    either = first + second - common
    return common / either if either else math.nan


def chance_jaccard(first: int, second: int, total: int) -> float:
    """Return the expected Jaccard index of two random subsets: the overlap is hypergeometric.

    E[J] = sum over x of P(x) x / (first + second - x), with
    P(x) = C(first, x) C(total - first, second - x) / C(total, second).

    Args:
        first: size of one subset.
        second: size of the other.
        total: size of the set that both are drawn from.
    """
    if first == second == 0:
        return math.nan

    def log_choose(n: int, k: int) -> float:
        return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)

    return sum(
        math.exp(log_choose(first, x) + log_choose(total - first, second - x) - log_choose(total, second))
        * x
        / (first + second - x)
        for x in range(max(1, first + second - total), min(first, second) + 1)
    )


def overlap(one: CircuitNodes, other: CircuitNodes) -> Overlap | None:
    """Compare two circuits; None where nothing can be the same in both: another site family, or models unlike.

    Of two models the nodes of one basis and task are compared, where they are as many: the second may be the first,
    tuned. Of models that have nothing in common these are in common by chance.
    """
    a, b = one.cell, other.cell
    if a.family != b.family:
        return None
    same_basis = a.basis == b.basis and one.identities.dictionary == other.identities.dictionary
    same_task = (a.task, a.task_version) == (b.task, b.task_version)
    if one.identities.model != other.identities.model:
        alike = one.candidates is not None and (one.candidates, one.roles) == (other.candidates, other.roles)
        if not (same_basis and same_task and alike):
            return None
    level: Level = ("nodes" if same_task else "units") if same_basis else "places" if same_task else "layers"
    first, second = ({_key(node, level) for node in each.nodes} for each in (one, other))
    return Overlap(level, (len(first), len(second)), len(first & second), _total(one, other, level))


def _key(node: CircuitNode, level: Level) -> tuple[object, ...]:
    unit, place = unit_name(node), place_name(node.role, node.token)
    return {
        "nodes": (node.layer, unit, place),
        "units": (node.layer, unit),
        "places": (node.layer, place),
        "layers": (node.layer,),
    }[level]


def _total(one: CircuitNodes, other: CircuitNodes, level: Level) -> int | None:
    layers = len({*one.layers, *other.layers})
    if level == "layers":
        return layers
    if one.candidates is None or other.candidates is None:  # a record names the roles and units of its best nodes only
        return None
    places = layers * len({*one.roles, *other.roles})
    return {"nodes": one.candidates, "units": one.candidates // len(one.roles), "places": places}[level]


_NAMED = ("model", "task", "basis", "method", *CONDITIONS)


def overlap_table(found: Sequence[CircuitNodes]) -> Table | None:
    """Return the overlap of every two circuits that can be compared; None where there are none."""
    differing = [name for name in _NAMED if len({getattr(each.cell, name) for each in found}) > 1] or ["task"]
    rows = []
    for one, other in combinations(found, 2):
        both = overlap(one, other)
        if both is None:
            continue
        names = (" ".join(str(getattr(each.cell, name)) for name in differing) for each in (one, other))
        numbers = (f"{both.jaccard:.2f}", "-" if math.isnan(both.chance) else f"{both.chance:.3f}")
        texts = (*names, both.level, f"{both.common} of {both.sizes[0]}, {both.sizes[1]}", *numbers)
        rows.append(tuple(Entry(text) for text in texts))
    header = ("one", "other", "compared", "in common", "Jaccard", "by chance")
    return Table("Overlap of circuits", header, tuple(rows)) if rows else None
