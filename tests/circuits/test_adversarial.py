"""Adversarial halves: the search against every half there is, blocks and passes counted one by one."""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from basisbench.circuits.adversarial import ROUNDS, adversarial_halves, blocks_of, search, search_passes
from basisbench.circuits.ranking import rank
from basisbench.types import Scores
from helpers import oracle

Value = Sequence[Sequence[float]]
"""What a set of live blocks is worth: the sum over all pairs of its blocks, each with itself included."""


def worth(pairs: Value, live: Sequence[int]) -> float:
    return sum(pairs[one][other] for one in live for other in live)


def drawn(blocks: int, seed: int, interaction: float) -> Value:
    draw = random.Random(seed)
    return [[draw.gauss(0, 1 if one == other else interaction) for other in range(blocks)] for one in range(blocks)]


def found(pairs: Value) -> tuple[list[int], list[int], int]:
    """Return the blocks of both halves, and how many sets were asked for."""
    asked = 0

    def value(live: Tensor) -> Tensor:
        nonlocal asked
        asked += len(live)
        return torch.tensor([worth(pairs, row.nonzero().flatten().tolist()) for row in live], dtype=torch.float64)

    lowest, highest = (half.nonzero().flatten().tolist() for half in search(value, len(pairs)))
    return lowest, highest, asked + 2


def slowly(pairs: Value, sign: int) -> list[int]:
    """The definition as a loop: five times a fifth of the half, those that move the value furthest by themselves."""
    half, live = len(pairs) // 2, list[int]()
    for number in range(1, ROUNDS + 1):
        left = [block for block in range(len(pairs)) if block not in live]
        left.sort(key=lambda block: -sign * worth(pairs, [*live, block]))
        live += left[: half * number // ROUNDS - len(live)]
    return sorted(live)


@given(st.integers(0, 14), st.integers(0, 10**6), st.sampled_from([0.0, 0.3, 2.0]))
@settings(max_examples=60)
def test_the_search_is_its_definition(blocks: int, seed: int, interaction: float) -> None:
    pairs = drawn(blocks, seed, interaction)
    lowest, highest, asked = found(pairs)
    assert (lowest, highest) == (slowly(pairs, -1), slowly(pairs, 1))
    assert asked == search_passes(blocks)


@given(st.integers(0, 10), st.integers(0, 10**6))
@settings(max_examples=30)
def test_where_blocks_do_not_interact_no_half_is_lower_or_higher(blocks: int, seed: int) -> None:
    """Every half there is is tried."""
    pairs = drawn(blocks, seed, 0)
    every = [worth(pairs, live) for live in itertools.combinations(range(blocks), blocks // 2)]
    lowest, highest, _ = found(pairs)
    assert [worth(pairs, lowest), worth(pairs, highest)] == pytest.approx([min(every), max(every)])


def test_where_blocks_interact_it_is_near_the_furthest_half_and_beyond_twenty_random_ones() -> None:
    beyond = share = 0.0
    for seed in range(40):
        pairs = drawn(12, seed, 0.3)
        every = sorted(worth(pairs, live) for live in itertools.combinations(range(12), 6))
        random_ones = random.Random(seed).sample(every, 20)
        lowest, highest, _ = found(pairs)
        beyond += worth(pairs, highest) > max(random_ones)
        share += (worth(pairs, highest) - worth(pairs, lowest)) / (every[-1] - every[0])
    assert beyond >= 36
    assert share / 40 > 0.9


def test_passes_by_hand() -> None:
    assert search_passes(50) == 50 + 2 * (45 + 40 + 35 + 30) + 2
    assert search_passes(4) == 4 + 2 * 3 + 2
    assert [search_passes(few) for few in (0, 1)] == [2, 2]


@given(st.lists(st.sampled_from([-2.0, -1.0, 0.0, 0.5, 3.0]), min_size=1, max_size=23), st.integers(0, 30), st.data())
@settings(max_examples=60)
def test_blocks_are_dealt_like_cards(values: list[float], size: int, data: st.DataObject) -> None:
    ranking = rank(Scores((torch.tensor([values]),), None), policy="coordinates")
    rest = max(0, len(values) - size)
    count = data.draw(st.integers(min(1, rest), rest))
    part = blocks_of(ranking, size, count).tolist()
    assert part[:size] == [count] * min(size, len(values)), "the circuit itself is in none"
    waiting = list(range(count))
    for block in part[size:]:
        assert block == waiting[0]
        waiting = [*waiting[1:], waiting[0]]


@pytest.mark.usefixtures("double_precision")
@pytest.mark.parametrize("name", ["mlp_act", "transcoder"])
def test_halves_of_a_tiny_model_are_those_of_a_slow_twin(name: str) -> None:
    """Every half of four blocks, each in a pass of its own by hooks: the search finds the two that move furthest."""
    slow, twin = oracle.naive("llama"), oracle.naive_basis("llama", name)
    group, basis = oracle.contexts("llama")[1], oracle.basis("llama", name)
    attribution, evaluation = group.attribution.pairs, group.evaluation.pairs
    scores = oracle.random_scores(twin, evaluation.length, 5)
    mapping = oracle.score_of_nodes(scores, twin)
    order = oracle.ranked(mapping, list(mapping))
    ranking = rank(scores, policy="coordinates")
    size, blocks = 12, 4
    cut = [order[size:][block::blocks] for block in range(blocks)]
    halves = [{*order[:size], *cut[one], *cut[other]} for one, other in itertools.combinations(range(blocks), 2)]
    expected = oracle.naive_circuits(slow, twin, attribution, evaluation, "mean", halves)
    by_mean = expected[expected.mean(1).argsort()]
    measured = adversarial_halves(group, basis, "mean", ranking, size, blocks)
    torch.testing.assert_close(measured, by_mean[[0, -1]], rtol=0, atol=1e-10)
    assert float(measured[1].mean() - measured[0].mean()) > 1e-3


@pytest.mark.usefixtures("double_precision")
def test_beside_all_nodes_nothing_is_moved_and_beside_all_but_one_that_one_is_ablated() -> None:
    group, basis = oracle.contexts("llama")[1], oracle.basis("llama", "mlp_act")
    ranking = rank(
        oracle.random_scores(oracle.naive_basis("llama", "mlp_act"), group.evaluation.pairs.length, 5),
        policy="coordinates",
    )
    for size in (ranking.nodes, ranking.nodes + 7):
        whole = adversarial_halves(group, basis, "mean", ranking, size, 50)
        torch.testing.assert_close(whole, group.full.expand(2, -1), rtol=0, atol=1e-10)
    one_less = adversarial_halves(group, basis, "mean", ranking, ranking.nodes - 1, 50)
    assert torch.equal(one_less[0], one_less[1])
    assert float((one_less[0] - group.full).abs().max()) > 0
