"""Circuits hold exactly k nodes, in the order of a ranking written as plain Python; ties are random by seed."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from basisbench.circuits.circuit import CircuitMask
from basisbench.circuits.ranking import Ranking, pooled_scores, rank
from basisbench.runs.cell_record import pooled_error_share
from basisbench.types import ErrorPolicy, Scores
from helpers import oracle

Node = oracle.Node


@st.composite
def drawn_scores(draw: st.DrawFn, positions: int | None = None) -> Scores:
    """Draw scores of a few sites of different width with many ties, zeros and both signs; errors of 1 or 3 nodes."""
    length = positions or draw(st.integers(1, 4))
    widths = draw(st.lists(st.integers(1, 4), min_size=1, max_size=3))
    value = st.sampled_from([0.0, -0.0, 1.0, -1.0, 0.5, -0.5, 2.0])

    def tensor(*shape: int) -> torch.Tensor:
        size = int(torch.tensor(shape).prod())
        return torch.tensor(draw(st.lists(value, min_size=size, max_size=size))).view(shape)

    units = tuple(tensor(length, width) for width in widths)
    nodes = draw(st.sampled_from([0, 1, 3]))
    return Scores(units, tuple(tensor(length, nodes) for _ in widths) if nodes else None)


def error_name(node: int) -> str:
    return f"error {node}"


def nodes_of(scores: Scores, policy: ErrorPolicy) -> dict[Node, float]:
    """Return every ranked node's score, in the order that breaks ties."""
    found: dict[Node, float] = {}
    for site, units in enumerate(scores.units):
        for position, row in enumerate(units.tolist()):
            for unit, value in enumerate(row):
                found[site, position, unit] = value
            if policy in RANKED and scores.errors is not None:
                for node, value in enumerate(scores.errors[site][position].tolist()):
                    found[site, position, error_name(node)] = value
    return found


def kept(keep: CircuitMask, circuit: int, *, errors: bool) -> set[Node]:
    """Return the nodes that are kept in one circuit."""
    found: set[Node] = set()
    for site, units in enumerate(keep.units):
        found |= {(site, position, unit) for position, unit in units[circuit].nonzero().tolist()}
    if errors:
        for site, flags in enumerate(keep.errors):
            found |= {(site, position, error_name(node)) for position, node in flags[circuit].nonzero().tolist()}
    return found


POLICIES: Sequence[ErrorPolicy] = ("coordinates", "rotated", "node", "keep", "ablate")
RANKED = POLICIES[:3]


@pytest.mark.slow
@given(drawn_scores(), st.sampled_from(POLICIES))
@settings(max_examples=150)
def test_a_circuit_is_the_k_best_nodes_and_its_complement_the_others(scores: Scores, policy: ErrorPolicy) -> None:
    mapping = nodes_of(scores, policy)
    order = oracle.ranked(mapping, list(mapping))
    ranking = rank(scores, policy=policy)
    ranked_errors = policy in RANKED and scores.errors is not None
    assert ranking.nodes == len(order)
    sizes = list(range(len(order) + 1))
    keep = ranking.mask(sizes + sizes, [False] * len(sizes) + [True] * len(sizes))
    for size in sizes:
        circuit = kept(keep, size, errors=ranked_errors)
        complement = kept(keep, len(sizes) + size, errors=ranked_errors)
        assert circuit == set(order[:size])
        assert complement == set(order[size:])
        assert ranking.error_count(size) == sum(isinstance(unit, str) for _, _, unit in order[:size])
        units = {(site, unit) for site, _, unit in order[:size] if isinstance(unit, int)}
        assert ranking.distinct_units(size) == len(units)
    sizes_of_scores = {node: abs(score) for node, score in mapping.items()}
    total = sum(sizes_of_scores.values())
    in_errors = sum(size for (_, _, unit), size in sizes_of_scores.items() if isinstance(unit, str))
    assert ranking.error_share == (pytest.approx(in_errors / total) if total else None)
    assert ranking.error_nodes == sum(isinstance(unit, str) for _, _, unit in order)
    assert ranking.scored_nodes == sum(mapping[node] != 0 for node in order)
    assert all(mapping[node] == 0 for node in order[ranking.scored_nodes :])
    assert keep.rotated == (policy == "rotated")
    assert ranking.scores.tolist() == [mapping[node] for node in order]
    if not ranked_errors:
        assert {bool(flag) for flags in keep.errors for flag in flags.flatten()} == {policy != "ablate"}


@given(drawn_scores(), st.sampled_from(POLICIES), st.integers(0, 30))
@settings(max_examples=60)
def test_the_top_nodes_are_listed_in_order_with_their_signed_scores(
    scores: Scores, policy: ErrorPolicy, count: int
) -> None:
    mapping = nodes_of(scores, policy)
    expected = [
        (site, position, -1 - int(unit[6:]) if isinstance(unit, str) else unit, mapping[site, position, unit])
        for site, position, unit in oracle.ranked(mapping, list(mapping))[:count]
    ]
    assert rank(scores, policy=policy).top(count) == expected


def test_the_share_of_attribution_in_errors_by_hand() -> None:
    """Two groups, of 1 and 3 evaluation pairs: 3 of 8 and 1 of 2; a group without any score says nothing."""
    one = Scores((torch.tensor([[1.0, -4.0]]),), (torch.tensor([[-2.0, 1.0]]),))
    other = Scores((torch.tensor([[-0.5, 0.0]]),), (torch.tensor([[0.5, 0.0]]),))
    silent = Scores((torch.zeros(1, 2),), (torch.zeros(1, 2),))
    ranked = [rank(scores, policy="coordinates") for scores in (one, other, silent)]
    assert [ranking.error_share for ranking in ranked] == [0.375, 0.5, None]
    assert pooled_error_share(ranked, [1, 3, 7]) == pytest.approx((0.375 + 3 * 0.5) / 4)
    assert pooled_error_share(ranked[2:], [7]) is None
    assert pooled_error_share([rank(one, policy="keep")], [1]) is None
    exact = rank(Scores(one.units, None), policy="coordinates")
    assert (exact.error_share, pooled_error_share([exact], [1])) == (0.0, None)


def test_without_a_generator_ties_come_by_layer_position_unit_error() -> None:
    scores = Scores((torch.ones(3, 2), -torch.ones(3, 4)), (torch.ones(3, 2), -torch.ones(3, 2)))
    ranking = rank(scores, policy="coordinates")
    expected = [
        (layer, position, unit)
        for layer, width in ((0, 2), (1, 4))
        for position in range(3)
        for unit in (*range(width), -1, -2)
    ]
    assert [node[:3] for node in ranking.top(1000)] == expected


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@given(drawn_scores(), st.sampled_from(POLICIES), st.integers(0, 2**31))
@settings(max_examples=60)
def test_ties_come_in_an_order_of_their_seed_and_never_before_larger_scores(
    scores: Scores, policy: ErrorPolicy, seed: int
) -> None:
    mapping = nodes_of(scores, policy)
    ranking = rank(scores, policy=policy, ties=seeded(seed))
    again = rank(scores, policy=policy, ties=seeded(seed))
    assert ranking.top(1000) == again.top(1000)
    sizes = [abs(score) for *_, score in ranking.top(1000)]
    assert sizes == sorted(map(abs, mapping.values()), reverse=True)
    found = {node[:3]: node[3] for node in ranking.top(1000)}
    named = {(site, at, f"error {-1 - unit}" if unit < 0 else unit): score for (site, at, unit), score in found.items()}
    assert named == mapping
    assert ranking.scored_nodes == sum(value != 0 for value in mapping.values())
    assert not any(sizes[ranking.scored_nodes :])


def test_another_seed_gives_another_order_of_ties_and_the_same_of_others() -> None:
    values = torch.zeros(10, 20)
    values[3, :5] = torch.tensor([5.0, -4.0, 3.0, -2.0, 1.0])
    scores = Scores((values, torch.zeros(10, 20)), None)
    orders = [[node[:3] for node in rank(scores, policy="coordinates", ties=seeded(seed)).top(400)] for seed in (1, 2)]
    assert [order[:5] for order in orders] == [[(0, 3, unit) for unit in range(5)]] * 2
    assert orders[0] != orders[1]
    # Two random orders of 395 nodes agree in one place on average.
    assert sum(one == other for one, other in zip(orders[0][5:], orders[1][5:], strict=True)) < 8


def test_where_a_tied_node_stands_says_nothing_about_its_place() -> None:
    """Each layer, position, unit and the errors have the mean place that a uniformly random order gives them."""
    length, units, errors, draws = 4, 6, 3, 400
    scores = Scores((torch.zeros(length, units),) * 3, (torch.zeros(length, errors),) * 3)
    rankings = [rank(scores, policy="coordinates", ties=seeded(seed)) for seed in range(draws)]
    places = torch.stack(
        [
            torch.stack([torch.cat(parts, 1) for parts in zip(ranking.units, ranking.errors or (), strict=True)])
            for ranking in rankings
        ]
    ).double()  # draw layer position node
    nodes = 3 * length * (units + errors)
    spread = ((nodes**2 - 1) / 12) ** 0.5
    for axes in ((2, 3), (1, 3), (1, 2)):
        mean = places.mean((0, *axes))
        among = nodes // len(mean)
        # The mean of some of the places without replacement, over draws: five standard errors.
        error = spread * ((1 - among / nodes) / among / draws) ** 0.5
        assert (mean - (nodes - 1) / 2).abs().max() < 5 * error
    # And no node stands where it likes: every place is taken by many nodes.
    assert places.flatten(1).std(0).min() > 0.8 * spread


@pytest.mark.parametrize("size", [100, 5000])
def test_the_sort_is_stable_in_large_rankings_too(size: int) -> None:
    # Sorting is only stable by luck for a few elements.
    generator = torch.Generator().manual_seed(0)
    values = torch.randint(-2, 3, (4, size), generator=generator).float()
    ranking = rank(Scores((values,), None), policy="coordinates")
    order = sorted(range(4 * size), key=lambda index: (-abs(float(values.flatten()[index])), index))
    assert torch.equal(ranking.units[0].flatten()[order], torch.arange(4 * size))


def test_a_ranking_of_one_position_keeps_units_at_all_positions() -> None:
    ranking = rank(Scores((torch.tensor([[3.0, 1.0, 2.0]]),), None), policy="node")
    keep = ranking.mask([2], [False])
    assert keep.units[0].tolist() == [[[True, False, True]]]


def test_sizes_beyond_the_last_node_keep_everything() -> None:
    ranking: Ranking = rank(Scores((torch.ones(2, 3),), (torch.ones(2, 4),)), policy="coordinates")
    assert kept(ranking.mask([99], [False]), 0, errors=True) == kept(ranking.mask([0], [True]), 0, errors=True)
    assert not kept(ranking.mask([99], [True]), 0, errors=True)
    assert ranking.error_count(99) == 8
    assert ranking.distinct_units(99) == 3


@given(drawn_scores(), st.sampled_from(POLICIES), st.integers(0, 40), st.integers(0, 5))
@settings(max_examples=80)
def test_random_halves_hold_the_circuit_and_half_of_the_others(
    scores: Scores, policy: ErrorPolicy, size: int, seed: int
) -> None:
    mapping = nodes_of(scores, policy)
    order = oracle.ranked(mapping, list(mapping))
    ranked_errors = policy in RANKED and scores.errors is not None
    ranking = rank(scores, policy=policy)
    draws = 6
    keep = ranking.mask_with_random_halves(size, draws, torch.Generator().manual_seed(seed))
    again = ranking.mask_with_random_halves(size, draws, torch.Generator().manual_seed(seed))
    circuit, rest = set(order[:size]), set(order[size:])
    for draw in range(draws):
        live = kept(keep, draw, errors=ranked_errors)
        assert live == kept(again, draw, errors=ranked_errors)
        assert circuit <= live
        assert len(live & rest) == len(rest) // 2
    if not ranked_errors:
        assert {bool(flag) for flags in keep.errors for flag in flags.flatten()} == {policy != "ablate"}


def test_each_node_of_the_complement_is_in_about_half_of_the_halves() -> None:
    ranking = rank(Scores((torch.arange(24.0).view(4, 6),), None), policy="node")
    keep = ranking.mask_with_random_halves(4, 400, torch.Generator().manual_seed(0))
    share = keep.units[0].float().mean(0).flatten()
    assert share[-4:].tolist() == [1.0] * 4
    # Six standard deviations around a half.
    assert (share[:-4] - 0.5).abs().max() < 0.15


@given(st.data())
@settings(max_examples=60)
def test_pooled_scores_are_the_sum_over_positions_averaged_over_pairs(data: st.DataObject) -> None:
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 1000)))
    counts = data.draw(st.lists(st.integers(1, 7), min_size=1, max_size=3))
    lengths = [data.draw(st.integers(1, 4)) for _ in counts]
    with_errors = data.draw(st.booleans())
    widths = (2, 3)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    groups = [
        Scores(
            tuple(draw(length, width) for width in widths),
            tuple(draw(length, 2) for _ in widths) if with_errors else None,
        )
        for length in lengths
    ]
    pooled = pooled_scores(groups, counts)
    for site, width in enumerate(widths):
        for unit in range(width):
            total = 0.0
            for group, count, length in zip(groups, counts, lengths, strict=True):
                total += count * sum(float(group.units[site][position, unit]) for position in range(length))
            assert float(pooled.units[site][0, unit]) == pytest.approx(total / sum(counts), rel=1e-12, abs=1e-12)
        assert pooled.units[site].shape == (1, width)
        if with_errors:
            assert pooled.errors is not None
            assert pooled.errors[site].shape == (1, 2)
            for node in range(2):
                total = sum(
                    count * float(group.errors[site][:, node].sum())
                    for group, count in zip(groups, counts, strict=True)
                    if group.errors is not None
                )
                assert float(pooled.errors[site][0, node]) == pytest.approx(total / sum(counts), rel=1e-12, abs=1e-12)
    if not with_errors:
        assert pooled.errors is None


@given(drawn_scores(positions=3), st.sampled_from(POLICIES))
@settings(max_examples=60)
def test_the_sign_of_a_score_does_not_move_a_node(scores: Scores, policy: ErrorPolicy) -> None:
    flipped = Scores(
        tuple(-units for units in scores.units),
        None if scores.errors is None else tuple(-errors for errors in scores.errors),
    )
    one, other = rank(scores, policy=policy), rank(flipped, policy=policy)
    for first, second in itertools.chain(
        zip(one.units, other.units, strict=True), zip(one.errors or (), other.errors or (), strict=True)
    ):
        assert torch.equal(first, second)
