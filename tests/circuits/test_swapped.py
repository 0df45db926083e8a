"""Swapped nodes against one slow run per prompt, at their ends, and the controls beside them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from basisbench.attribution.context import GroupContext
from basisbench.circuits.group import GroupPair
from basisbench.circuits.placed_nodes import NEAREST, PlacedNodes
from basisbench.circuits.swapped import Swaps, matched, shared_positions, swap_positions, swapped_places
from basisbench.errors import BasisBenchError
from basisbench.types import Pairs
from helpers import oracle

pytestmark = pytest.mark.usefixtures("double_precision")

PLACES = (1, 3)


def some_nodes(policy: str, twin: oracle.NaiveBasis, seed: int) -> PlacedNodes:
    """Draw a set of nodes at two places: about a third of them."""
    generator = torch.Generator().manual_seed(seed)

    def draw(width: int) -> torch.Tensor:
        return torch.rand(len(PLACES), width, generator=generator) < 0.3

    names = oracle.error_names(policy) if twin.has_error else []
    return PlacedNodes(
        tuple(draw(width) for width in twin.units), tuple(draw(len(names)) for _ in twin.units) if names else None
    )


@pytest.mark.parametrize(("name", "policy"), [
    ("mlp_act", "coordinates"), ("sae_mlp_out", "coordinates"), ("transcoder", "rotated"), ("sae_resid", "keep"),
])  # fmt: skip
@pytest.mark.parametrize("fast", [True, False])
def test_swapped_and_kept_alone_equal_one_slow_run_for_each_prompt(
    architecture: str, name: str, policy: str, fast: bool
) -> None:
    group, basis = oracle.contexts(architecture)[0], oracle.basis(architecture, name)
    twin = oracle.naive_basis(architecture, name)
    length = group.evaluation.pairs.length
    chosen = some_nodes(policy, twin, 5)
    names = oracle.error_names(policy) if chosen.errors is not None else []
    everything = oracle.all_nodes(twin, length, policy)

    def has(node: oracle.Node) -> bool:
        layer, position, unit = node
        if position not in PLACES:
            return False
        row = PLACES.index(position)
        if isinstance(unit, str):
            assert chosen.errors is not None
            return bool(chosen.errors[layer][row, names.index(unit)])
        return bool(chosen.units[layer][row, unit])

    swapped = {node for node in everything if not has(node)}
    alone = {node for node in everything if has(node) or node[1] not in PLACES}
    slow = oracle.naive_circuits(
        oracle.naive(architecture), twin, group.attribution.pairs, group.evaluation.pairs, "counterfactual",
        [oracle.with_free_errors(circuit, policy, length) for circuit in (swapped, alone)],
    )  # fmt: skip
    swaps = Swaps(PLACES, length, (chosen, chosen), (False, True), policy == "rotated")
    torch.testing.assert_close(swaps.metric(group, basis, fast=fast), slow, rtol=0, atol=1e-9)
    assert (slow[0] - slow[1]).abs().min() > 1e-6


def test_none_swapped_is_the_clean_run_and_all_of_them_are_none_kept_alone(architecture: str) -> None:
    group, basis = oracle.contexts(architecture)[0], oracle.basis(architecture, "resid")
    length, width = group.evaluation.pairs.length, oracle.D_MODEL
    no, yes = (
        PlacedNodes(tuple(torch.full((len(PLACES), width), each) for _ in range(oracle.LAYERS)), None)
        for each in (False, True)
    )
    found = Swaps(PLACES, length, (no, yes, yes, no), (False, True, False, True)).metric(group, basis)
    torch.testing.assert_close(found[0], group.full, rtol=0, atol=1e-9)
    torch.testing.assert_close(found[1], group.full, rtol=0, atol=1e-9)
    assert torch.equal(found[2], found[3])
    assert (found[2] - group.full).abs().min() > 1e-6


def test_everything_swapped_from_the_first_difference_on_is_the_counterfactual_prompt(architecture: str) -> None:
    group = oracle.contexts(architecture)[0]
    pairs, slow = group.evaluation.pairs, oracle.naive(architecture)
    expected = torch.stack(
        [slow.metric(pairs, row, slow.logits(ids)[0]) for row, ids in enumerate(pairs.counterfactual)]
    )
    for positions in (None, range(1, pairs.length)):
        torch.testing.assert_close(swapped_places(group, positions), expected, rtol=0, atol=1e-9)
    torch.testing.assert_close(swapped_places(group, []), group.full, rtol=0, atol=1e-9)


def test_everything_swapped_behind_the_cue_is_the_whole_residual_stream_there(architecture: str) -> None:
    """Where tokens are equal, the nodes of the basis `resid` are all there is."""
    group = framed(architecture, 2)
    positions = swap_positions(group, group, "after")
    assert positions == (3, 4)
    every = PlacedNodes(tuple(torch.ones(2, oracle.D_MODEL, dtype=torch.bool) for _ in range(oracle.LAYERS)), None)
    swaps = Swaps(positions, group.evaluation.pairs.length, (every,), (False,))
    found = swaps.metric(group, oracle.basis(architecture, "resid"))[0]
    torch.testing.assert_close(found, swapped_places(group, positions), rtol=0, atol=1e-9)
    assert (found - group.full).abs().min() > 1e-9


def framed(architecture: str, reply: int, users: int = 0) -> GroupPair:
    """Return a group whose prompts are: start, a statement, a cue, two more words of the user, a header, a reply."""
    roles = ("bos", "statement", "cue", "boundary", "boundary", "assistant_header", *("reply",) * reply)

    def prompts(seed: int, split: Any) -> Pairs:
        count = 6
        draw = np.random.default_rng([seed, users])
        clean = np.tile(draw.integers(2, 31, 9)[: len(roles)], (count, 1))
        clean[:, 0], clean[:, 1], clean[:, 2] = 0, draw.integers(2, 31), 2 + np.arange(count)
        clean[:, 5], clean[:, 6:] = 7, 8 + reply + np.arange(reply)
        other = clean.copy()
        other[:, 2] += 9
        base = oracle.random_pairs(count, len(roles), seed, split=split)
        return replace(base, group=f"g{reply}", roles=roles, clean=clean, counterfactual=other)

    first, second = prompts(1, "attribution"), prompts(2, "evaluation")
    model = oracle.model(architecture)
    return GroupPair(GroupContext(model, first, 0), GroupContext(model, second, 0))


def test_places_are_what_both_frames_share() -> None:
    belief, response, stranger = framed("llama", 2), framed("llama", 3), framed("llama", 3, users=1)
    assert shared_positions(belief, response) == 6
    assert swap_positions(belief, response, "after") == (3, 4)
    assert swap_positions(belief, response, "cue") == (2, 3, 4)
    assert swap_positions(belief, response, "header") == (3, 4, 5)
    assert swap_positions(response, response, "header") == (3, 4, 5, 6, 7)
    assert shared_positions(belief, stranger) == 1
    assert matched([stranger, belief], [response]) == [belief]
    with pytest.raises(BasisBenchError, match="no aligned group of 'stub' has the users of group g3 of 'stub'"):
        matched([belief], [stranger])
    fewer = GroupPair(
        response.attribution, GroupContext(oracle.model("llama"), response.evaluation.pairs.part(slice(4)), 0)
    )
    assert shared_positions(belief, fewer) == 0


def planted(*rows: list[int]) -> PlacedNodes:
    tables = tuple(torch.zeros(2, 60, dtype=torch.bool) for _ in range(2))
    for site, place, unit in rows:
        tables[site][place, unit] = True
    return PlacedNodes(tables, None)


def test_random_nodes_are_as_many_others_of_each_layer_and_place() -> None:
    chosen = planted([0, 0, 3], [0, 0, 4], [0, 1, 5], [1, 1, 0])
    generator = torch.Generator().manual_seed(0)
    draws = [chosen.random(generator) for _ in range(400)]
    for drawn in draws:
        for own, other in zip(chosen.tables, drawn.tables, strict=True):
            assert torch.equal(own.sum(1), other.sum(1))
            assert not (own & other).any()
    often = sum(drawn.units[0][0].long() for drawn in draws)
    assert often[[3, 4]].tolist() == [0, 0]
    assert int(often.sum()) == 800
    assert int(often[[unit for unit in range(60) if unit not in (3, 4)]].min()) >= 1  # 13.8 expected of each


def test_nodes_of_like_change_are_the_nearest_others() -> None:
    chosen = planted([0, 0, 30], [0, 0, 31], [1, 1, 59])
    changes = [torch.arange(60.0).mul(0.1).exp().expand(2, 60)] * 2
    generator = torch.Generator().manual_seed(0)
    draws = [chosen.alike(changes, generator) for _ in range(300)]
    for drawn in draws:
        assert [own.sum(1).tolist() for own in drawn.tables] == [[2, 0], [0, 1]]
        assert not any((own & other).any() for own, other in zip(chosen.tables, drawn.tables, strict=True))
    seen = [unit for unit, often in enumerate(sum(drawn.units[1][1].long() for drawn in draws).tolist()) if often]
    assert seen == list(range(59 - NEAREST, 59))
    near = [unit for unit, often in enumerate(sum(drawn.units[0][0].long() for drawn in draws).tolist()) if often]
    assert 19 <= min(near) <= 22
    assert 39 <= max(near) <= 42
    assert chosen.mean([torch.full((2, 60), 2.0), torch.full((2, 60), 5.0)]) == 3.0


def test_too_few_others_are_told() -> None:
    crowded, changes = planted(*([0, 0, unit] for unit in range(31))), [torch.ones(2, 60)] * 2
    for draw in (crowded.random, lambda generator: crowded.alike(changes, generator)):
        with pytest.raises(BasisBenchError, match="31 of the 60 nodes of one layer and position are in the set"):
            draw(torch.Generator())


def test_overlap_counts_what_is_common() -> None:
    one, other = planted([0, 0, 3], [0, 1, 3], [1, 0, 7]), planted([0, 1, 3], [1, 1, 7], [1, 1, 8])
    assert one.overlap(other)[0] == 1 / 5
    assert one.distinct.overlap(other.distinct)[0] == 2 / 3
    assert one.distinct.total == 120
    assert one.overlap(one) == (1.0, pytest.approx(one.overlap(other)[1]))
