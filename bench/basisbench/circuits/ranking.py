"""From scores to circuits: the place of every node in the ranking, and what a circuit of k nodes holds.

The circuit of size k is exactly the k nodes with the largest absolute score. Nodes of equal |score|, the many whose
score is zero among them, come in a seeded random order: by layer and position they would be ranked by where they stand.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Literal

from basisbench.circuits.circuit import CircuitMask
from basisbench.types import WITHOUT_ERROR_NODES, Scores

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int
    from torch import Generator, Tensor

    from basisbench.types import ErrorPolicy


@dataclass(frozen=True, eq=False)
class Ranking:
    """The place of every node, from 0 for the largest absolute score.

    Attributes:
        units: per site, places of the units at each position (one row when positions go together).
        errors: per site, places of the error nodes at each position; None when errors are not ranked.
        scores: score of each node, best first.
        policy: what happens to errors.
    """

    units: tuple[Int[Tensor, "_pos_or_1 _unit"], ...]
    errors: tuple[Int[Tensor, "_pos_or_1 _error"], ...] | None
    scores: Float[Tensor, " node"]
    policy: ErrorPolicy

    @property
    def nodes(self) -> int:
        """Number of nodes that are ranked."""
        return len(self.scores)

    @property
    def error_nodes(self) -> int:
        """Number of error nodes among them."""
        return 0 if self.errors is None else sum(places.numel() for places in self.errors)

    @property
    def scored_nodes(self) -> int:
        """Number of nodes with a score other than zero; those behind them come in a random order."""
        return int(self.scores.count_nonzero())

    @property
    def error_share(self) -> float | None:
        """Sum of |score| over error nodes, over that of all nodes; None where no node has a score."""
        import torch

        sizes = self.scores.to("cpu", torch.float64).abs()
        total = float(sizes.sum())
        return float(sizes[self._error_places.to("cpu", torch.int64)].sum()) / total if total else None

    def mask(self, sizes: Sequence[int], complement: Sequence[bool]) -> CircuitMask:
        """Return which nodes several circuits keep, or their complements.

        Args:
            sizes: nodes per circuit.
            complement: for each circuit, whether its complement is kept instead.
        """
        import torch

        device = self.units[0].device
        size = torch.tensor(sizes, dtype=torch.int32, device=device)
        flip = torch.tensor(complement, device=device)

        def kept(places: Tensor) -> Tensor:
            shape = (-1,) + (1,) * places.ndim
            return (places < size.view(shape)) ^ flip.view(shape)

        return self.keeping(kept, len(sizes))

    def keeping(
        self, kept: Callable[[Int[Tensor, "pos unit"]], Bool[Tensor, "circuit pos unit"]], circuits: int
    ) -> CircuitMask:
        """Return circuits of which is known at which places they keep a node.

        Args:
            kept: gives for places of the ranking which of them each circuit keeps.
            circuits: how many circuits there are.
        """
        units = tuple(kept(places) for places in self.units)
        if self.errors is not None:
            errors = tuple(kept(places) for places in self.errors)
        else:
            errors = tuple(self._unranked_errors(circuits) for _ in self.units)
        return CircuitMask(units, errors, self.policy == "rotated")

    def mask_with_random_halves(self, size: int, draws: int, generator: Generator) -> CircuitMask:
        """Return the circuit of one size together with random halves of its complement, one per draw.

        Args:
            size: nodes in the circuit.
            draws: how many halves; each is drawn anew, rounded down where the complement is odd.
            generator: source of the draws, on the CPU.
        """
        import torch

        rest = max(0, self.nodes - size)
        live = torch.ones(draws, self.nodes, dtype=torch.bool)
        for row in live:
            row[size + torch.randperm(rest, generator=generator)[: rest - rest // 2]] = False
        live = live.to(self.units[0].device)
        return self.keeping(lambda places: live[:, places.long()], draws)

    def _unranked_errors(self, circuits: int) -> Bool[Tensor, "circuit 1 1"]:
        import torch

        return torch.full((circuits, 1, 1), self.policy != "ablate", device=self.units[0].device)

    @cached_property
    def first_places(self) -> Int[Tensor, " unit"]:
        """Place of each (layer, unit) at the position where it comes first."""
        import torch

        return torch.cat([places.amin(0) for places in self.units])

    @cached_property
    def _error_places(self) -> Int[Tensor, " error"]:
        import torch

        if self.errors is None:
            return self.units[0].new_zeros(0)
        return torch.cat([places.flatten() for places in self.errors])

    def error_count(self, size: int) -> int:
        """Return how many of the circuit's nodes are error nodes."""
        return int((self._error_places < size).sum())

    def distinct_units(self, size: int) -> int:
        """Return how many (layer, unit) the circuit touches, error nodes left out."""
        return int((self.first_places < size).sum())

    def top(self, count: int) -> list[tuple[int, int, int, float]]:
        """Return the best nodes as (site index, position, unit, score); -1 - j stands for node j of the error."""
        found: dict[int, tuple[int, int, int, float]] = {}
        for index, places in enumerate(self.units):
            for position, unit in (places < count).nonzero().tolist():
                place = int(places[position, unit])
                found[place] = (index, position, unit, float(self.scores[place]))
        for index, places in enumerate(self.errors or ()):
            for position, node in (places < count).nonzero().tolist():
                place = int(places[position, node])
                found[place] = (index, position, -1 - node, float(self.scores[place]))
        return [found[place] for place in sorted(found)]


def node_name(unit: int, policy: ErrorPolicy) -> tuple[int | Literal["error"], int | None]:
    """Return how a record names what `Ranking.top` gives as a unit: the unit or "error", and the error's coordinate.

    Args:
        unit: index of the unit; -1 - j for node j of the error.
        policy: under "node" the whole error is one node, of no coordinate.
    """
    if unit >= 0:
        return unit, None
    return "error", None if policy == "node" else -1 - unit


def node_unit(unit: int | Literal["error"], coordinate: int | None) -> int:
    """Return the number of what a record names: the inverse of `node_name`; a whole error is its node 0."""
    return -1 - (coordinate or 0) if unit == "error" else unit


def pooled_scores(scores: Sequence[Scores], pairs: Sequence[int]) -> Scores:
    """Add scores over positions, and average over aligned groups weighted by pairs: one score per unit.

    Args:
        scores: scores of each group, each a mean over its pairs.
        pairs: pairs of each group.

    Returns:
        Scores with a single position.
    """
    total = sum(pairs)

    def pooled(parts: Sequence[Tensor]) -> Tensor:
        weighted = [part.sum(0, keepdim=True) * (count / total) for part, count in zip(parts, pairs, strict=True)]
        return sum(weighted[1:], weighted[0])

    sites = range(len(scores[0].units))
    units = tuple(pooled([score.units[site] for score in scores]) for site in sites)
    if scores[0].errors is None:
        return Scores(units, None)
    return Scores(units, tuple(pooled([(score.errors or ())[site] for score in scores]) for site in sites))


def _descending(sizes: Float[Tensor, " node"]) -> Int[Tensor, " node"]:
    """Return the places of values that are not negative, largest first and equal ones as they come."""
    import numpy as np
    import torch

    if sizes.dtype != torch.float32 or sizes.device.type != "cpu":
        return sizes.argsort(descending=True, stable=True)
    # Bits of such numbers are in their order: with the place behind them, whole numbers sort in a fraction of the time
    # and memory, the same way.
    keys = (~sizes.detach().numpy().view(np.uint32)).astype(np.uint64)
    keys <<= np.uint64(32)
    keys |= np.arange(len(keys), dtype=np.uint32)
    keys.sort()
    return torch.from_numpy(keys.astype(np.uint32).view(np.int32))


def rank(scores: Scores, *, policy: ErrorPolicy, ties: Generator | None = None) -> Ranking:
    """Rank the nodes of one aligned group.

    Args:
        scores: signed scores of every (site, position, unit) and error; a single position stands for all.
        policy: errors are ranked unless it keeps or ablates them all.
        ties: source of the order of nodes of equal |score|, on the CPU; by layer, position and unit when None.
    """
    import torch

    units, errors = scores.units, None if policy in WITHOUT_ERROR_NODES else scores.errors
    rows = [
        torch.cat([values, errors[index].to(values.dtype)], 1) if errors is not None else values
        for index, values in enumerate(units)
    ]
    flat = torch.cat([row.flatten() for row in rows])
    few = torch.int32  # half of what the usual type takes, and these are the largest tensors of a cell
    nodes = len(flat)
    drawn = torch.arange(nodes, dtype=few) if ties is None else torch.randperm(nodes, generator=ties, dtype=few)
    shuffled = drawn.to(flat.device)
    order = shuffled[_descending(flat[shuffled].abs_())]
    places = torch.empty(len(order), dtype=torch.int32, device=order.device)
    places[order] = torch.arange(len(order), dtype=torch.int32, device=order.device)
    by_site = [
        part.view(row.shape) for part, row in zip(places.split([row.numel() for row in rows]), rows, strict=True)
    ]
    widths = [values.shape[1] for values in units]
    return Ranking(
        tuple(part[:, :width].contiguous() for part, width in zip(by_site, widths, strict=True)),
        None
        if errors is None
        else tuple(part[:, width:].contiguous() for part, width in zip(by_site, widths, strict=True)),
        flat[order],
        policy,
    )
