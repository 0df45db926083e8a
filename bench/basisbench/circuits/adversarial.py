"""Halves of what a circuit leaves out that move its metric furthest down and up: a greedy search over blocks of nodes.

1. The nodes outside the circuit are dealt to blocks like cards, in the order of the ranking: those of the largest
   |score| lie in different blocks, whatever their sign.
2. Beside the circuit alone, each block is made live in turn. Those that lower the metric most are taken in, a fifth of
   half of all blocks; then each of the others is tried beside these; and so on until half of the blocks are live.
3. The same for the blocks that raise it most.

After the greedy search for incomplete circuits of Wang et al. (arXiv 2211.00593, section 4), which tries random nodes.
Aligned groups are searched one by one: the mean over all of their examples is lowest where each group's is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

from basisbench.circuits.evaluate import evaluate

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int
    from torch import Tensor

    from basisbench.circuits.group import GroupPair
    from basisbench.circuits.ranking import Ranking
    from basisbench.protocols import Basis
    from basisbench.types import Ablation

ROUNDS = 5
"""How often the blocks that are left are tried anew in one direction."""


def adversarial_halves(
    group: GroupPair, basis: Basis, ablation: Ablation, ranking: Ranking, size: int, blocks: int
) -> Float[Tensor, "2 pair"]:
    """Return the metric of each evaluation pair with the two halves live that the search found, the lower one first.

    Args:
        group: the aligned group.
        basis: the basis.
        ablation: what nodes are set to that are not live.
        ranking: of the group's nodes.
        size: nodes in the circuit.
        blocks: into how many the nodes that it leaves out are cut, at least 2; fewer where there are fewer nodes.
    """
    import torch

    count = min(blocks, max(0, ranking.nodes - size))
    part = blocks_of(ranking, size, count)

    def measured(live: Bool[Tensor, "half block"]) -> Float[Tensor, "half pair"]:
        whole = torch.cat([live, live.new_ones(len(live), 1)], 1).to(part.device)  # the circuit itself is always live
        return evaluate(
            group,
            basis,
            ablation,
            lambda some: ranking.keeping(lambda places: whole[some][:, part[places.long()].long()], len(whole[some])),
            len(whole),
        ).metric

    halves = search(lambda live: measured(live).to("cpu", torch.float64).mean(1), count)
    found = measured(torch.stack(halves))
    return found[found.mean(1).argsort(stable=True)]


def blocks_of(ranking: Ranking, size: int, count: int) -> Int[Tensor, " node"]:
    """Return the block of each place of a ranking, dealt one after the other; `count` for the circuit's own nodes."""
    import torch

    places = torch.arange(ranking.nodes, device=ranking.scores.device)
    dealt = (places - size) % max(1, count)
    return dealt.where(places >= size, count).to(torch.int16)


def search(
    value: Callable[[Bool[Tensor, "half block"]], Float[Tensor, " half"]], blocks: int
) -> tuple[Bool[Tensor, " block"], Bool[Tensor, " block"]]:
    """Return the blocks of the half that is found to have the lowest value, and those of the highest.

    Args:
        value: of several sets of live blocks.
        blocks: how many there are; a half is as many, rounded down.
    """
    import torch

    alone = torch.eye(blocks, dtype=torch.bool)
    taken = taken_in(blocks)
    first = value(alone) if taken else torch.zeros(0)

    def furthest(sign: int) -> Bool[Tensor, " block"]:
        live = torch.zeros(blocks, dtype=torch.bool)
        for number in taken:
            left = (~live).nonzero().flatten()
            values = value(live | alone[left]) if live.any() else first
            live[left[(sign * values).argsort(descending=True, stable=True)[:number]]] = True
        return live

    return furthest(-1), furthest(1)


def taken_in(blocks: int) -> Sequence[int]:
    """Return how many blocks are taken in in each round; together they are half of them."""
    half = blocks // 2
    ends = [half * number // ROUNDS for number in range(ROUNDS + 1)]
    return [end - start for start, end in pairwise(ends) if end > start]


def search_passes(blocks: int) -> int:
    """Return how many passes the search takes for each pair: 352 for 50 blocks."""
    left, passes = blocks, 2  # the halves themselves
    for index, number in enumerate(taken_in(blocks)):
        passes += left if index == 0 else 2 * left  # the first round is that of both directions
        left -= number
    return passes
