"""Swapping a circuit's nodes: do they carry what the answer hangs on, so that another prompt's values bring its answer?

1. Nodes are ranked on the attribution pairs by the effect of moving them to their counterfactual values, merged by
   role, at the positions where the two prompts differ and behind, but for the last: there the answer itself is.
2. On each evaluation pair the k best are set to what they are on the counterfactual prompt (`circuits.swapping`).
3. So are draws of other nodes of the same layers and roles that change as much, and as many of the best nodes under
   other methods; and all nodes together, which is as far as the basis reaches from these positions.

Lindsey et al. 2025, "On the Biology of a Large Language Model", swap the features of one state for another's; here
nodes are not told by hand.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from basisbench.attribution.context import seeded_generator
from basisbench.circuits.merged import RolePosition, places
from basisbench.circuits.moves import refuse_policy
from basisbench.circuits.ranking import node_name
from basisbench.circuits.steered_nodes import (
    ALL,
    LAST,
    Activations,
    MeanSize,
    SteeredNode,
    best_nodes,
    called,
)
from basisbench.circuits.swapping import distances, other_prompts, swapped_values
from basisbench.errors import BasisBenchError, hold, unknown_name
from basisbench.explore.steps import NodeScores, score
from basisbench.pairs.tokens import token_texts
from basisbench.protocols import BasisSpec, Method
from basisbench.registry import load_registry
from basisbench.results.bootstrap import Weights, interval_ends, resample_weights
from basisbench.results.circuit_nodes import place_name
from basisbench.results.interval import Interval
from basisbench.results.swapping import Answers, Swap, SwappedNode, SwapSize
from basisbench.runs.cell_record import clusters_of_groups
from basisbench.runs.session import Session
from basisbench.types import ErrorPolicy

if TYPE_CHECKING:
    from collections.abc import Mapping

    from jaxtyping import Float, Int
    from torch import Tensor

    from basisbench.protocols import Basis

SIZES = (1, 10, 100)
"""Sizes where none are given."""


def swap(
    pairs: Session,
    basis: str | BasisSpec,
    sizes: Sequence[int] = SIZES,
    *,
    roles: Sequence[str] | None = None,
    method: str | Method = "relp",
    error_policy: ErrorPolicy = "coordinates",
    layers: str | Sequence[int] | None = None,
    draws: int = 39,
    baselines: Sequence[str | Method] = ("random", "magnitude"),
) -> Swap:
    """Set the best nodes of a prompt to what they are on the other prompt of its pair (docs/known-functions.md).

    Args:
        pairs: what `load_pairs` returns, of one-token answers.
        basis: name of a registered basis, or a spec.
        sizes: how many of the best nodes.
        roles: where nodes are swapped: roles, or tokens of a role such as "cue 2/2"; where the prompts differ and
            behind, without the last position, when None.
        method: what ranks the nodes.
        error_policy: which coordinates of the error are nodes; errors are live whatever it is.
        layers: layers that the basis is restricted to, for example "10-20"; all that it covers when None.
        draws: draws of controls: 39 or more give a 95% interval.
        baselines: methods whose best nodes, as many, are swapped likewise.

    Returns:
        `sizes`, each with the answers of the chosen nodes, of each draw and each baseline; last, all nodes together.

    Raises:
        BasisBenchError: there is no such role, method or basis, nothing to swap, or too few other nodes for the draws.
    """
    wanted = _checked(pairs, sizes, draws, error_policy)
    registry = load_registry()
    spec = registry.get("basis", basis) if isinstance(basis, str) else basis
    ways = [registry.get("method", each) if isinstance(each, str) else each for each in (method, *baselines)]

    def scored(way: Method) -> NodeScores:
        return score(pairs, spec, way, ablation="counterfactual", error_policy=error_policy, layers=layers)

    scores = scored(ways[0])
    cell, counts = scores.cell, pairs.pair_counts
    built = pairs.basis(spec, cell.layers).basis
    where = _where(pairs, scores.roles, roles)

    def best(found: NodeScores, count: int) -> tuple[SteeredNode, ...]:
        return best_nodes(found.groups, counts, found.cell, built, count, where)

    everything = best(scores, 10**7)
    if not everything:
        raise BasisBenchError(f"swap: no node at {', '.join(_names(where))} has a score under {ways[0].name}")
    changes = Activations(scored(MeanSize(change=True)).groups, counts)
    ties = seeded_generator(pairs.seed, cell.task, "merged", "controls of swaps")
    beside = {way.name: scored(way) for way in ways[1:] if way.name != ways[0].name}
    fitting = [size for size in wanted if size < len(everything)]
    sets: list[list[tuple[SteeredNode, ...]]] = [
        [
            everything[:size],
            *changes.controls(everything[:size], draws, ties),
            *(best(o, size) for o in beside.values()),
        ]
        for size in fitting
    ]
    measured = _Measured(pairs, built, error_policy)
    found = [measured.answers(own) for own in sets]
    last, unhooked = measured.answers([everything, ()], alike=False)
    other = measured.other_prompts()
    ends = _Ends(measured.weights, unhooked, other)
    return Swap(
        schema_version=1,
        cell=cell,
        identities=pairs.identity(spec, ways[0], cell.layers),
        roles=_names(where),
        pairs=len(unhooked.metric),
        candidates=tuple(token_texts(pairs.model.tokenizer, measured.words.tolist())),
        full=unhooked.told(),
        right=float((unhooked.metric > 0).mean()),
        counterfactual=other.told(),
        draws=draws,
        nodes=tuple(_told(node, cell.error_policy) for node in everything[: max(fitting, default=len(everything))]),
        sizes=(
            *(
                SwapSize(
                    nodes=size,
                    **ends.of(rows[0]),
                    controls=tuple(row.told() for row in rows[1 : 1 + draws]),
                    baselines={name: row.told() for name, row in zip(beside, rows[1 + draws :], strict=True)},
                )
                for size, rows in zip(fitting, found, strict=True)
            ),
            SwapSize(nodes=len(everything), **ends.of(last), controls=(), baselines={}),
        ),
    )


def _checked(pairs: Session, sizes: Sequence[int], draws: int, error_policy: str) -> list[int]:
    """Refuse what cannot be asked; return the sizes, ascending."""
    hold("pairs", pairs, isinstance(pairs, Session), "what load_pairs returns")
    if pairs.metric != "logit":
        raise BasisBenchError("swap: answers of several tokens (metric logprob) cannot be swapped; use metric logit")
    refuse_policy("swap", error_policy)
    hold("draws", draws, isinstance(draws, int) and 1 <= draws <= 1000, "a whole number from 1 to 1000")
    given = list(sizes) if isinstance(sizes, Sequence) and not isinstance(sizes, str) else [sizes]
    for size in given:
        hold("sizes", size, isinstance(size, int) and 1 <= size <= 10**6, "whole numbers from 1 to a million")
    return sorted(set(given))


def _where(pairs: Session, known: Mapping[str, Sequence[str]], asked: Sequence[str] | None) -> tuple[RolePosition, ...]:
    """Return the positions at which nodes are swapped."""
    found = places(known)
    if asked is None:
        ends = {key: len(own) - 1 for key, own in known.items()}
        firsts = {}
        for group in pairs.groups:
            batch = group.attribution.batch
            differs = (batch.clean != batch.counterfactual).any(0).nonzero()
            firsts[group.attribution.pairs.group] = int(differs[0]) if len(differs) else batch.clean.shape[1]
        inner = tuple(
            place for place in found if all(firsts[key] <= at < ends[key] for key, at in place.positions.items())
        )
        if not inner:
            raise BasisBenchError("swap: no position before the last where the prompts differ; name roles to swap at")
        return inner
    for role in asked:
        if not any(called(place, role, known) for place in found):
            names = {LAST, ALL, *(place.role for place in found), *_names(found)}
            raise unknown_name("role", str(role), names)
    return tuple(place for place in found if any(called(place, role, known) for role in asked))


def _names(where: Sequence[RolePosition]) -> tuple[str, ...]:
    return tuple(place_name(place.role, place.token) for place in where)


def _told(node: SteeredNode, policy: ErrorPolicy) -> SwappedNode:
    unit, coordinate = node_name(node.unit, policy)
    return SwappedNode(layer=node.layer, unit=unit, coordinate=coordinate, role=node.role, token=node.token)


@dataclass(frozen=True, eq=False)
class _Row:
    """What one set of nodes does, pair by pair."""

    metric: Float[np.ndarray, " pair"]
    own: Float[np.ndarray, " pair"]
    other: Float[np.ndarray, " pair"]
    alike: float | None = None

    def told(self) -> Answers:
        means = (float(values.mean()) for values in (self.metric, self.own, self.other))
        return Answers(**dict(zip(("metric", "own", "other"), means, strict=True)), alike=self.alike)


@dataclass(frozen=True, eq=False)
class _Measured:
    """Sets of nodes on all evaluation pairs of a task."""

    pairs: Session
    basis: Basis
    policy: ErrorPolicy

    @cached_property
    def words(self) -> Int[Tensor, " word"]:
        """Ids of the words that are answers or foils of some evaluation pair."""
        import torch

        batches = [group.evaluation.batch for group in self.pairs.groups]
        ids: Tensor = torch.cat([ids.flatten() for batch in batches for ids in (batch.answers, batch.foils)])
        words: Tensor = ids.unique()
        return words

    @cached_property
    def weights(self) -> Weights:
        """Resamples of the pairs."""
        count = sum(len(group.evaluation.pairs) for group in self.pairs.groups)
        return resample_weights(count, clusters_of_groups(self.pairs.groups))

    def answers(self, sets: Sequence[Sequence[SteeredNode]], *, alike: bool = True) -> list[_Row]:
        """Return what each set of nodes does."""
        groups = self.pairs.groups
        found = [swapped_values(group, self.basis, self.policy, sets, self.words) for group in groups]
        likeness = self._likeness(sets) if alike else [None] * len(sets)
        return [
            self._row([(each.metric[at], _known(each.likeliest)[at]) for each in found], likeness[at])
            for at in range(len(sets))
        ]

    def other_prompts(self) -> _Row:
        """Return what the unhooked model does on the counterfactual prompts."""
        return self._row([other_prompts(group, self.words) for group in self.pairs.groups], None)

    def _row(self, found: Sequence[tuple[Tensor, Tensor]], alike: float | None) -> _Row:
        import torch

        parts: list[tuple[Tensor, Tensor, Tensor]] = []
        for group, (values, likeliest) in zip(self.pairs.groups, found, strict=True):
            batch = group.evaluation.batch
            told = [(likeliest.unsqueeze(-1) == ids).any(-1) for ids in (batch.answers, batch.foils)]
            parts.append((values, told[0], told[1]))
        metric, own, other = (torch.cat(each).double().cpu().numpy() for each in zip(*parts, strict=True))
        return _Row(metric, own, other, alike)

    def _likeness(self, sets: Sequence[Sequence[SteeredNode]]) -> list[float | None]:
        """Return for each set the distance of two prompts of one answer over that of two of different answers."""
        sums, weight = np.zeros(len(sets)), np.zeros(len(sets))
        for group in self.pairs.groups:
            one, two, couples = distances(group, self.basis, self.policy, sets)
            if not couples:
                continue
            here = (two > 0).cpu().numpy()
            sums[here] += couples * (one / two).double().cpu().numpy()[here]
            weight[here] += couples
        return [float(total / count) if count else None for total, count in zip(sums, weight, strict=True)]


def _known(likeliest: Tensor | None) -> Tensor:
    if likeliest is None:
        raise RuntimeError("no words were asked for")
    return likeliest


@dataclass(frozen=True, eq=False)
class _Ends:
    """The two ends of the way: the clean prompt's metric and the other prompt's."""

    weights: Weights
    full: _Row
    other: _Row

    def of(self, row: _Row) -> dict[str, Any]:
        """Return how far a set of nodes goes, and how often it brings the other answer, with intervals."""
        rows = self.weights @ (self.full.metric - self.other.metric)
        low, high = interval_ends(rows[1:])
        way = None
        if low > 0 or high < 0:
            way = Interval.of_rows(self.weights @ (self.full.metric - row.metric) / rows)
        return {"swapped": row.told(), "way": way, "other": Interval.of_rows(self.weights @ row.other)}
