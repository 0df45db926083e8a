"""What is said of swapped nodes: a claim only beyond the controls' interval, and gates in words."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from basisbench.results.interval import Interval
from basisbench.results.record import CellConfig, Identities
from basisbench.results.swapping import Answers, Swap, SwappedNode, SwapSize, swap_tables
from basisbench.results.tables import plain_text


def swapped(metrics: Sequence[float], draws: int = 39, right: float = 1) -> Swap:
    """Return swaps of sizes 1, 2, ... whose controls lie between 4 and 6, on a way from 5 to -5."""
    cell = CellConfig(
        model="m", task="t", task_version="1", basis="b", family="mlp", method="relp", attribution_pairs=4,
        evaluation_pairs=4,
    )  # fmt: skip
    controls = tuple(
        Answers(metric=4 + 2 * draw / (draws - 1), own=1, other=0, alike=0.75 + draw / 1000) for draw in range(draws)
    )
    sizes = []
    for place, metric in enumerate(metrics):
        way = Interval(value=(5 - metric) / 10, low=0, high=1) if metric < 5 else None
        chosen = Answers(metric=metric, own=0.25, other=0.5, alike=0.125)
        other = Interval(value=0.5, low=0.375, high=0.625)
        sizes.append(
            SwapSize(
                nodes=place + 1, swapped=chosen, way=way, other=other,
                controls=controls if place + 1 < len(metrics) else (), baselines={"random": chosen},
            )
        )  # fmt: skip
    nodes = [SwappedNode(layer=layer, unit=7, role="cue", token="2/2") for layer in (3, 5, 9)]
    return Swap(
        schema_version=1, cell=cell, identities=Identities(model="a" * 64, dictionary=None, data="b" * 64),
        roles=("cue 2/2",), pairs=4, candidates=("a", "b"), full=Answers(metric=5, own=1, other=0), right=right,
        counterfactual=Answers(metric=-5, own=0, other=1), draws=draws, nodes=tuple(nodes), sizes=tuple(sizes),
    )  # fmt: skip


def test_carrying_is_claimed_only_beyond_the_interval_of_enough_controls() -> None:
    # The last size is all nodes together, which have no controls; above the interval is no way to the other answer.
    assert swapped([3.9, 5, 6.1, -4]).claim == (
        "At size 1 the answer goes further than the 95% interval of 39 draws of random nodes of the same layers and "
        "roles and of like change; at the others it does not."
    )
    assert swapped([3.9, 3.8, -4]).claim.endswith("of like change.")
    assert swapped([4.1, -4]).claim.endswith("that these nodes carry it is not shown.")
    assert swapped([3.9, -4], draws=38).claim.startswith("38 draws of controls give no 95% interval")


@pytest.mark.parametrize("right", [1, 0.5])
def test_tables_have_every_number_and_say_where_the_model_cannot_do_it(right: float) -> None:
    where, sizes = swap_tables(swapped([3.9, 5, -4], right=right))
    assert [entry.text for entry in where.rows[0]] == ["cue 2/2", "3", "3 to 9", "5"]
    assert [[row[0].text, row[1].text, row[1].best] for row in sizes.rows] == [
        ["nothing", "5.00", False], ["1 node", "3.90", True], ["2 nodes", "5.00", False], ["all 3", "-4.00", False],
        ["the prompt", "-5.00", False],
    ]  # fmt: skip
    told = plain_text(sizes, None)
    for part in (
        "0.11 [0.00, 1.00]",
        "0.50 [0.38, 0.62]",
        "4.00 to 6.00",
        "0.75 to 0.79",
        "0.12",
        "swapped at cue 2/2",
    ):
        assert part in told
    assert ("the model is right in 0.50 < 0.75" in told) == (right < 0.75)
    assert "[" not in sizes.rows[2][4].text, "no way where its interval holds 0"
