"""Mediation: how much of a response's shift with the user's cue runs through a belief's nodes (docs/user-model.md).

1. The response's shift: its metric on the clean less that on the counterfactual prompts. Shares of it are given where
   its interval excludes 0.
2. The belief's nodes: the k best at the places that both frames share, by the belief's attribution pairs. They are
   swapped on the response's evaluation pairs, whose cues and frame they have not seen (`circuits.swapped`).
3. Beside them as many of the response's own best, of random nodes of the same layers and positions, and of random ones
   of like change.
4. What circuits have in common: belief and response, one kind of cue and another, one attribute and another.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, product
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np

from basisbench.attribution.context import seeded_generator
from basisbench.circuits.moves import refuse_policy
from basisbench.circuits.placed_nodes import DistinctUnits, PlacedNodes, at_places, rank_places
from basisbench.circuits.ranking import Ranking
from basisbench.circuits.steered_nodes import MeanSize
from basisbench.circuits.swapped import At, Swaps, matched, swap_positions, swapped_places
from basisbench.errors import BasisBenchError, hold, unknown_name
from basisbench.explore.steps import NodeScores, score
from basisbench.protocols import BasisSpec, Method
from basisbench.registry import load_registry
from basisbench.results.bootstrap import resample_weights
from basisbench.results.interval import Interval
from basisbench.results.mediation import CircuitOverlap, Mediation, MediationSize, SetName, SwappedSet
from basisbench.runs.cell_record import clusters_of_groups
from basisbench.runs.session import Session
from basisbench.types import ErrorPolicy

if TYPE_CHECKING:
    from torch import Tensor

    from basisbench.circuits.group import GroupPair
    from basisbench.protocols import Basis

SIZES = (10, 30, 100, 300)
"""Nodes per aligned group, where none are given."""

MOST_SIZES = 20
CHOSEN: tuple[SetName, ...] = ("belief", "response")
CONTROLS: tuple[SetName, ...] = ("random", "alike")


def mediate(
    belief: Session,
    response: Session,
    basis: str | BasisSpec,
    *,
    method: str | Method = "relp",
    sizes: Sequence[int] = SIZES,
    at: At = "after",
    error_policy: ErrorPolicy = "coordinates",
    layers: str | Sequence[int] | None = None,
    draws: int = 10,
    attribution_draws: int = 3,
    others: Sequence[Session] = (),
) -> Mediation:
    """Measure what part of a response's shift runs through the nodes of a belief (docs/user-model.md).

    Both tasks have the same users, pair by pair, whose words stand in front of two continuations. Nodes are swapped:
    they take the values of the pair's counterfactual run (the natural indirect effect of Vig et al. 2020, arXiv
    2004.12265).

    Args:
        belief: what `load_pairs` returns, of the task that states what the model believes.
        response: the same of the task that responds, on the same model.
        basis: name of a registered basis, or a spec.
        method: what ranks the nodes of both tasks; they are scored by what swapping them would do.
        sizes: nodes per aligned group.
        at: places whose nodes count: "after", the user's turn behind the cue; "cue", the turn from the cue on;
            "header", all behind the cue up to where the frames part.
        error_policy: which coordinates of the error are nodes: "coordinates", "rotated", or "keep", none.
        layers: layers that the basis is restricted to, for example "10-20"; all that it covers when None.
        draws: draws of each kind of control.
        attribution_draws: draws of attribution pairs behind the range of what circuits have in common.
        others: tasks of other attributes, for what their circuits have in common with the belief's.

    Raises:
        BasisBenchError: the tasks have not the same users, there is no such basis, method or size, or there are too few
            other nodes for the draws.
    """
    wanted = _checked(belief, response, sizes, at, error_policy, draws, attribution_draws)
    registry = load_registry()
    spec = registry.get("basis", basis) if isinstance(basis, str) else basis
    way = registry.get("method", method) if isinstance(method, str) else method

    def scored(pairs: Session, way: Method = way) -> NodeScores:
        return score(pairs, spec, way, ablation="counterfactual", error_policy=error_policy, layers=layers)

    groups = matched(belief.groups, response.groups)
    places = [swap_positions(one, other, at) for one, other in zip(groups, response.groups, strict=True)]
    if not all(places):
        raise BasisBenchError(
            f"mediate: '{response.attribution[0].task}' has no position '{at}' that both frames share"
        )
    scores, own = scored(belief), scored(response)

    def ranked_at(found: NodeScores, own_groups: Sequence[GroupPair]) -> list[Ranking]:
        named = zip([group.evaluation.pairs.group for group in own_groups], places, strict=True)
        return [rank_places(found.groups[key], own_places, found.cell, key) for key, own_places in named]

    ranked = {"belief": ranked_at(scores, groups), "response": ranked_at(own, response.groups)}
    candidates = min(ranking.nodes for ranking in ranked["belief"])
    if wanted[-1] > candidates:
        raise BasisBenchError(f"sizes: {wanted[-1]} nodes asked, but there are {candidates} at the places")
    clean, other = _both(response)
    weights = resample_weights(len(clean), clusters_of_groups(response.groups))
    gap = Interval.of_rows(weights @ (clean - other))
    own_clean, own_other = _both(belief)
    own_weights = resample_weights(len(own_clean), clusters_of_groups(belief.groups))
    refused, whole, every = "", None, None
    found: list[MediationSize] = []
    if gap.excludes_zero:
        shares = _Shares(weights, clean, weights @ (clean - other))
        changes = scored(response, MeanSize(change=True))
        built = response.basis(spec, own.cell.layers).basis
        study = _Study(response, built, places, ranked, changes, wanted, draws)
        whole = shares.of(_joined(swapped_places(*each) for each in zip(response.groups, places, strict=True)))
        every, found = study.measured(shares)
    else:
        refused = (
            f"The shift of '{own.cell.task}', {gap} logits, is not told from none: no share of it is given; "
            "more pairs, or a frame whose answer follows the cue, would give one."
        )
    kept = {group.evaluation.pairs.group: own_places for group, own_places in zip(groups, places, strict=True)}
    alike = _Overlaps(belief, scored, scores, wanted[-1], attribution_draws, kept, at)
    return Mediation(
        schema_version=1,
        belief=scores.cell,
        response=own.cell,
        identities=response.identity(spec, way, own.cell.layers),
        belief_data=belief.data_hash,
        at=at,
        roles={
            pairs.group: tuple(pairs.roles[position] for position in own_places)
            for pairs, own_places in zip(response.evaluation, places, strict=True)
        },
        candidates=candidates,
        pairs=len(clean),
        follows=float((clean > other).mean()),
        clean=Interval.of_rows(weights @ clean),
        gap=gap,
        belief_gap=Interval.of_rows(own_weights @ (own_clean - own_other)),
        refused=refused,
        whole=whole,
        every=every,
        sizes=tuple(found),
        overlaps=tuple(alike.found(ranked, others)),
    )


def _checked(
    belief: Session, response: Session, sizes: Sequence[int], at: str, policy: str, draws: int, attribution_draws: int
) -> tuple[int, ...]:
    """Refuse what cannot be asked; return the sizes, ascending."""
    for name, pairs in (("belief", belief), ("response", response)):
        hold(name, pairs, isinstance(pairs, Session), "what load_pairs returns")
        if pairs.metric != "logit":
            raise BasisBenchError(
                f"{name}: answers of several tokens (metric logprob) have no shares; use metric logit"
            )
    if belief.model is not response.model:
        raise BasisBenchError("mediate: belief and response are pairs on two models; load both on one")
    if at not in get_args(At):
        raise unknown_name("place", str(at), get_args(At))
    refuse_policy("mediate", policy)
    for name, number in (("draws", draws), ("attribution_draws", attribution_draws)):
        hold(name, number, isinstance(number, int) and 1 <= number <= 1000, "a whole number from 1 to 1000")
    whole = [size for size in sizes if isinstance(size, int) and not isinstance(size, bool) and 1 <= size <= 10**6]
    right = len(whole) == len(sizes) and 1 <= len(sizes) <= MOST_SIZES
    hold("sizes", list(sizes), right, f"1 to {MOST_SIZES} whole numbers from 1 to a million")
    return tuple(sorted(set(whole)))


def _both(pairs: Session) -> tuple[np.ndarray, np.ndarray]:
    """Return the metric of the unhooked model on the clean and on the counterfactual prompts."""
    clean = _joined(group.full for group in pairs.groups)
    return clean, _joined(swapped_places(group, None) for group in pairs.groups)


def _joined(parts: Iterator[Tensor]) -> np.ndarray:
    return np.concatenate([part.double().cpu().numpy() for part in parts], axis=-1)


@dataclass(frozen=True, eq=False)
class _Shares:
    """Shares of the shift, over the same resamples."""

    weights: np.ndarray
    clean: np.ndarray
    total: np.ndarray

    def rows(self, metric: np.ndarray) -> np.ndarray:
        """Return what a metric has lost, as a share of the shift: of the sample, then of each resample."""
        found: np.ndarray = (self.weights @ (self.clean - metric)) / self.total
        return found

    def of(self, metric: np.ndarray) -> Interval:
        """Return the same with its interval."""
        return Interval.of_rows(self.rows(metric))


@dataclass(frozen=True, eq=False)
class _Study:
    """The sets of nodes, and what swapping them does."""

    response: Session
    basis: Basis
    places: Sequence[tuple[int, ...]]
    ranked: Mapping[str, Sequence[Ranking]]
    changes: NodeScores
    sizes: tuple[int, ...]
    draws: int

    def measured(self, shares: _Shares) -> tuple[Interval, list[MediationSize]]:
        """Return the share of all nodes at the places, and that of each set by size."""
        names = [*CHOSEN, *(name for name in CONTROLS for _ in range(self.draws))]
        named, by_group, metrics = list(product(self.sizes, names)), [], []
        for at, group in enumerate(self.response.groups):
            sets, changes = self._sets(at, group)
            by_group.append(changes)
            both = tuple(each for own in sets for each in (own, own))
            none = sets[0].like([own & False for own in sets[0].tables])
            swaps = Swaps(
                self.places[at],
                group.evaluation.pairs.length,
                (none, *both),
                (True, *(False, True) * len(sets)),
                self.changes.cell.error_policy == "rotated",
            )
            metrics.append(swaps.metric(group, self.basis))
        metric = _joined(iter(metrics))
        pairs = [len(group.attribution.pairs) for group in self.response.groups]
        change = np.average(np.array(by_group), axis=0, weights=pairs)
        swapped, rest = metric[1::2], metric[2::2]
        found = []
        for size in self.sizes:
            rows: dict[SetName, np.ndarray] = {}
            sets_of_size = []
            for name in dict.fromkeys(which for each, which in named if each == size):
                at_rows = [row for row, own in enumerate(named) if own == (size, name)]
                drawn = [(shares.rows(swapped[row]), shares.rows(rest[row])) for row in at_rows]
                rows[name] = np.mean([own for own, _ in drawn], axis=0)
                sets_of_size.append(
                    SwappedSet(
                        nodes=name,
                        draws=len(at_rows),
                        change=float(change[at_rows].mean()),
                        swapped=Interval.of_rows(rows[name]),
                        rest=Interval.of_rows(np.mean([own for _, own in drawn], axis=0)),
                        swapped_draws=tuple(float(own[0]) for own, _ in drawn),
                        rest_draws=tuple(float(own[0]) for _, own in drawn),
                    )
                )
            beyond = {name: Interval.of_rows(rows["belief"] - own) for name, own in rows.items() if name != "belief"}
            found.append(MediationSize(nodes=size, sets=tuple(sets_of_size), beyond=beyond))
        return shares.of(metric[0]), found

    def _sets(self, at: int, group: GroupPair) -> tuple[list[PlacedNodes], list[float]]:
        """Return the sets of one aligned group, and the mean change of the nodes of each."""
        key, cell = group.evaluation.pairs.group, self.changes.cell
        nodes = at_places(self.changes.groups[key], self.places[at], cell)
        changes = (*nodes.units, *(nodes.errors or ()))
        found = []
        for size in self.sizes:
            best = [PlacedNodes.best(self.ranked[name][at], size) for name in CHOSEN]
            generator = seeded_generator(cell.seed, cell.task, key, "swapped", size)
            found += best
            found += [best[0].random(generator) for _ in range(self.draws)]
            found += [best[0].alike(changes, generator) for _ in range(self.draws)]
        return found, [own.mean(changes) for own in found]


@dataclass(frozen=True, eq=False)
class _Overlaps:
    """What the best nodes at the places have in common."""

    belief: Session
    scored: Callable[[Session], NodeScores]
    scores: NodeScores
    count: int
    draws: int
    places: Mapping[str, tuple[int, ...]]
    at: At

    def found(self, ranked: Mapping[str, Sequence[Ranking]], others: Sequence[Session]) -> Iterator[CircuitOverlap]:
        """Yield belief beside response, kinds of cues beside each other and beside themselves, and other tasks."""
        both = list(zip(ranked["belief"], ranked["response"], strict=True))
        pairs = [(PlacedNodes.best(one, self.count), PlacedNodes.best(other, self.count)) for one, other in both]
        yield _overlap("belief", "response, same cues", "nodes", [[one.overlap(other) for one, other in pairs]])
        own = [self._units(self.belief, draw) for draw in range(self.draws)]
        across = list(product(own, own))
        if self.draws > 1:
            rows = [[a.overlap(b) for a, b in zip(one, two, strict=True)] for one, two in combinations(own, 2)]
            yield _overlap("belief", "itself, other attribution pairs", "units", rows)
        if len(own[0]) > 1:
            kinds = list(combinations(range(len(own[0])), 2))
            rows = [[one[a].overlap(two[b]) for a, b in kinds] for one, two in across]
            yield _overlap("belief", "itself, another aligned group", "units", rows)
        for session in others:
            away = [self._units(session, draw) for draw in range(self.draws)]
            rows = [[a.overlap(b) for a, b in product(one, two)] for one, two in product(own, away)]
            yield _overlap("belief", session.attribution[0].task, "units", rows)

    def _units(self, pairs: Session, draw: int) -> list[DistinctUnits]:
        """Return the distinct units of the best nodes at the places of each aligned group."""
        session = pairs.redrawn(draw) if draw else pairs
        scores = self.scores if session is self.belief else self.scored(session)
        found = []
        for group in session.groups:
            key = group.evaluation.pairs.group
            places = self.places.get(key, ())
            if pairs is not self.belief:  # where another frame would part is not known: at most its user's turn
                places = swap_positions(group, group, "cue" if self.at == "cue" else "after")
            if not places:
                continue
            ranking = rank_places(scores.groups[key], places, scores.cell, key)
            found.append(PlacedNodes.best(ranking, self.count).distinct)
        return found


def _overlap(
    one: str, other: str, level: Literal["nodes", "units"], rows: Sequence[Sequence[tuple[float, float]]]
) -> CircuitOverlap:
    """Sum up overlaps: a row for each pair of draws."""
    by_draw = [sum(found for found, _ in row) / len(row) for row in rows]
    chances = [chance for row in rows for _, chance in row]
    return CircuitOverlap(
        one=one,
        other=other,
        level=level,
        compared=sum(map(len, rows)),
        jaccard=sum(by_draw) / len(by_draw),
        low=min(by_draw),
        high=max(by_draw),
        chance=sum(chances) / len(chances),
    )
