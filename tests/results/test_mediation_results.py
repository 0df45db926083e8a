"""What is said of mediation: shares only of a shift that is there, and what intervals can tell from each other."""

from __future__ import annotations

import csv
import io

from basisbench.plots.mediation import plot_mediation
from basisbench.results.interval import Interval
from basisbench.results.mediation import (
    CircuitOverlap,
    Mediation,
    MediationSize,
    SwappedSet,
    mediation_csv,
    mediation_tables,
)
from basisbench.results.record import CellConfig, Identities
from basisbench.results.tables import plain_text


def interval(value: float, low: float, high: float) -> Interval:
    return Interval(value=value, low=low, high=high)


def swapped(name: str, share: Interval, draws: int = 1) -> SwappedSet:
    return SwappedSet(
        nodes=name, draws=draws, change=0.5, swapped=share, rest=interval(0.25, 0.2, 0.3),  # type: ignore[arg-type]
        swapped_draws=tuple(share.value + 0.01 * draw for draw in range(draws)), rest_draws=(0.25,) * draws,
    )  # fmt: skip


def mediation(refused: str = "") -> Mediation:
    cell = CellConfig(
        model="m", task="states", task_version="1", basis="b", family="mlp", method="relp", attribution_pairs=4,
        evaluation_pairs=4,
    )  # fmt: skip
    size = MediationSize(
        nodes=10,
        sets=(
            swapped("belief", interval(0.4, 0.3, 0.5)), swapped("response", interval(0.6, 0.5, 0.7)),
            swapped("random", interval(0.01, -0.01, 0.03), draws=3),
            swapped("alike", interval(0.3, 0.1, 0.5), draws=3),
        ),
        beyond={
            "response": interval(-0.2, -0.3, -0.1), "random": interval(0.39, 0.3, 0.5),
            "alike": interval(0.1, -0.1, 0.3),
        },
    )  # fmt: skip
    overlap = CircuitOverlap(
        one="belief", other="another task", level="units", compared=4, jaccard=0.25, low=0.2, high=0.3, chance=0.01
    )
    return Mediation(
        schema_version=1, belief=cell, response=cell.model_copy(update={"task": "responds"}),
        identities=Identities(model="a" * 64, dictionary=None, data="b" * 64), belief_data="c" * 64, at="after",
        roles={"g": ("boundary", "boundary")}, candidates=80, pairs=4, follows=0.75, clean=interval(2, 1, 3),
        gap=interval(4, 3, 5), belief_gap=interval(6, 5, 7), refused=refused,
        whole=None if refused else interval(0.9, 0.8, 1), every=None if refused else interval(0.7, 0.6, 0.8),
        sizes=() if refused else (size,), overlaps=(overlap,),
    )  # fmt: skip


def test_what_is_claimed_follows_the_intervals() -> None:
    (claim,) = mediation().claims
    assert claim == (
        "10 nodes of the belief carry 0.40 [0.30, 0.50] of the shift; less than the response's own nodes, "
        "-0.20 [-0.30, -0.10]; more than random nodes, 0.39 [0.30, 0.50]; not told from random nodes of like change, "
        "0.10 [-0.10, 0.30]."
    )
    none = mediation().sizes[0].model_copy(update={"sets": (swapped("belief", interval(0.1, -0.1, 0.2)),)})
    (claim,) = mediation().model_copy(update={"sizes": (none,)}).claims
    assert "carry 0.10 [-0.10, 0.20] of the shift: not told from none;" in claim
    assert list(mediation("there is no shift").claims) == ["there is no shift"]


def test_tables_and_csv_have_every_number() -> None:
    found = mediation()
    text = "\n".join(plain_text(table) for table in mediation_tables(found))
    for part in (
        "how much of the shift of responds runs through the nodes of states",
        "4.00 [3.00, 5.00]",
        "6.00 [5.00, 7.00]",
        "0.90 [0.80, 1.00]",
        "all 80 nodes there",
        "g: boundary, boundary",
        "random nodes (3 draws)",
        "0.01 to 0.03",
        "0.25 [0.20, 0.30]",
        next(found.claims),
    ):
        assert part in text
    rows = list(csv.DictReader(io.StringIO(mediation_csv(found))))
    assert [(row["set"], row["draw"]) for row in rows] == [
        ("belief", ""), ("response", ""), *((name, draw) for name in ("random", "alike") for draw in ("", *"012")),
    ]  # fmt: skip
    assert [rows[0][name] for name in ("swapped", "swapped_low", "rest_high")] == ["0.4", "0.3", "0.3"]
    assert rows[5]["swapped"] == "0.03"
    refused = mediation("there is no shift")
    text = "\n".join(plain_text(table) for table in mediation_tables(refused))
    assert "there is no shift" in text
    assert "share of the gap" not in text
    assert mediation_csv(refused).count("\n") == 1


def test_the_picture_has_every_set_with_its_interval_and_the_level_of_everything() -> None:
    found = mediation()
    figure = plot_mediation([found, found.model_copy(update={"at": "cue"})])
    panels = figure.axes
    assert [axes.get_title().replace("\n", " ") for axes in panels] == [
        "nodes of the user's turn behind the cue", "nodes of the user's turn from the cue on",
    ]  # fmt: skip
    for axes in panels:
        values = [float(line.get_ydata()[0]) for line in axes.containers for line in line.lines[:1]]
        assert values == [0.4, 0.6, 0.3, 0.01]
        levels = [list(line.get_ydata()) for line in axes.lines if len(line.get_ydata()) == 2]
        assert [0.9, 0.9] in levels
        assert [0.7, 0.7] in levels


def test_what_rounds_to_zero_has_no_sign() -> None:
    assert str(interval(-0.004, -0.006, 0.004)) == "0.00 [-0.01, 0.00]"


def test_what_was_found_is_read_back() -> None:
    found = mediation()
    assert Mediation.model_validate_json(found.model_dump_json()) == found
