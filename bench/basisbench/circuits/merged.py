"""Scores of several aligned groups as one: a node is a unit at a role, in whichever group and position the role is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from basisbench.attribution.context import seeded_generator
from basisbench.circuits.ranking import Ranking, rank
from basisbench.results.circuit_nodes import role_tokens
from basisbench.types import Scores

if TYPE_CHECKING:
    from torch import Tensor

    from basisbench.results.record import CellConfig


@dataclass(frozen=True)
class RolePosition:
    """A position by role.

    Attributes:
        role: the role, and
        token: which token of it, in words (`results.circuit_nodes.role_tokens`).
        positions: where it is, by aligned group; groups that have no such token are left out.
    """

    role: str
    token: str
    positions: Mapping[str, int]


def places(roles: Mapping[str, Sequence[str]]) -> tuple[RolePosition, ...]:
    """Return the places of some aligned groups, in the order of the prompt counted from its end.

    Args:
        roles: role of each position, by aligned group.
    """
    found: dict[tuple[str, str], dict[str, int]] = {}
    from_end: dict[tuple[str, str], list[int]] = {}
    for group, own in roles.items():
        for position, name in enumerate(role_tokens(own)):
            found.setdefault(name, {})[group] = position
            from_end.setdefault(name, []).append(position - len(own))
    ordered = sorted(found, key=lambda name: sum(from_end[name]) / len(from_end[name]))
    return tuple(RolePosition(*name, found[name]) for name in ordered)


def merge(scores: Mapping[str, Scores], pairs: Mapping[str, int], wanted: Sequence[RolePosition]) -> Scores:
    """Average scores over the aligned groups that have a place, weighted by pairs.

    Args:
        scores: by aligned group; means over its pairs.
        pairs: pairs of each group.
        wanted: the places.

    Returns:
        Scores with a row per place instead of one per position; NaN where no group has the place.
    """
    import torch

    def merged(tables: Mapping[str, Tensor]) -> Tensor:
        first = next(iter(tables.values()))
        rows = torch.full((len(wanted), first.shape[-1]), float("nan"), dtype=first.dtype, device=first.device)
        for row, place in zip(rows, wanted, strict=True):
            here = {group: position for group, position in place.positions.items() if group in tables}
            total = sum(pairs[group] for group in here)
            if total:
                row[:] = sum(tables[group][position] * (pairs[group] / total) for group, position in here.items())
        return rows

    first = next(iter(scores.values()))
    sites = range(len(first.units))
    units = tuple(merged({group: own.units[site] for group, own in scores.items()}) for site in sites)
    if first.errors is None:
        return Scores(units, None)
    return Scores(
        units, tuple(merged({group: (own.errors or ())[site] for group, own in scores.items()}) for site in sites)
    )


def known(merged: Scores) -> Scores:
    """Return what `merge` returns with 0 at a place that no group has, which comes last in a ranking.

    Args:
        merged: merged scores.
    """
    import torch

    units = tuple(map(torch.nan_to_num, merged.units))
    return Scores(units, None if merged.errors is None else tuple(map(torch.nan_to_num, merged.errors)))


def rank_merged(merged: Scores, cell: CellConfig) -> Ranking:
    """Rank merged nodes; a place that none of the groups has comes last.

    Args:
        merged: what `merge` returns.
        cell: what was asked: its error policy, and the seed of the order of nodes of equal |score|.
    """
    ties = seeded_generator(cell.seed, cell.task, "merged", "ties")
    return rank(known(merged), policy=cell.error_policy, ties=ties)
