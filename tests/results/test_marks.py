"""Best marks: everybody who cannot be told from the best, nobody where all are alike, and nobody with a reason."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

from basisbench.results.columns import normalised
from basisbench.results.compare import BEST_WITHIN, compare_table
from basisbench.results.frame import summarise
from basisbench.results.metrics import METRICS, STATISTICS
from basisbench.results.record import Record
from helpers.synthetic_records import changed, synthetic_record

MARKS = [f"{name}_best" for name in METRICS]


def rival(name: str, better: float, *, noise: float = 0.0, of: Record | None = None) -> Record:
    """The same cell of another basis, whose circuits do better by a share of the gap at every size but the ends."""
    base = synthetic_record() if of is None else of
    full, empty = np.array(base.endpoints.full), np.array(base.endpoints.empty)
    generator = np.random.default_rng(sum(map(ord, name)))
    rows = np.array(base.curve.circuit)
    rows[1:-1] += better * (full - empty).mean() + generator.normal(0, noise, rows[1:-1].shape)
    circuit = tuple(map(tuple, rows.tolist()))
    return changed(base, cell={"basis": name}, curve={"circuit": circuit})


def best(records: list[Record], metric: str = "area_faithfulness") -> set[str]:
    table = compare_table(summarise(records))
    return set(table.loc[table[f"{metric}_best"], "basis"])


def test_whoever_cannot_be_told_from_the_best_is_marked_with_it() -> None:
    far = rival("far", -0.3)
    assert best([rival("a", 0.0), rival("b", -0.2), far]) == {"a"}
    assert best([rival("a", 0.0), rival("twin", 0.0), far]) == {"a", "twin"}
    # The values of `noisy` differ from the best by less than their paired doubt.
    noisy = [rival("a", 0.0), rival("noisy", -0.002, noise=1.0), far]
    values = summarise(noisy)["area_faithfulness"]
    assert values[0] != values[1]
    assert best(noisy) == {"a", "noisy"}


def test_pairing_tells_apart_what_two_intervals_cannot() -> None:
    """A small but steady difference, within the spread of examples."""
    records = [rival("a", 0.0, noise=4.0), rival("b", -0.03, of=rival("a", 0.0, noise=4.0))]
    summary = summarise(records)
    assert summary["area_faithfulness_low"][0] < summary["area_faithfulness_high"][1], "intervals overlap"
    assert best(records) == {"a"}
    # With other clusters their resamples are others: intervals that overlap tell nothing.
    nouns = {"clusters": {"noun": tuple(index % 9 for index in range(100))}}
    assert best([records[0], changed(records[1], record=nouns)]) == set()
    assert best([records[0], changed(rival("far", -0.5), record=nouns)]) == {"a"}


def test_where_all_are_alike_nobody_is_marked() -> None:
    assert best([rival("a", 0.0), rival("twin", 0.0)]) == set()
    assert best([rival("alone", 0.0)]) == set()


@pytest.mark.parametrize(
    "change",
    [
        {"record": {"control": True}},
        {"guard": {"fvu": (1.2, 0.1, 0.1, 0.1)}},
        pytest.param({"guard": {"slope": (0.71, 1.0, 1.0, 1.0)}}, marks=pytest.mark.slow),
        pytest.param({"guard": {"slope": (1.0, 1.0, 1.67, 1.0)}}, marks=pytest.mark.slow),
    ],
)
def test_a_basis_with_a_reason_against_it_is_no_rival(change: dict[str, dict[str, object]]) -> None:
    dictionary = synthetic_record(basis="transcoder")
    winner = rival("winner", 0.3, of=dictionary)
    others = [rival("second", 0.1, of=dictionary), rival("third", 0.0, of=dictionary)]
    assert best([winner, *others]) == {"winner"}
    barred = changed(winner, **change)
    assert best([barred, *others]) == {"second"}
    assert best([barred, others[0]]) == set(), "nobody is left to be better than"


@pytest.mark.parametrize("reason", ["gate", "few clusters"])
def test_a_task_that_says_nothing_has_no_best(reason: str) -> None:
    base = synthetic_record(gap=0.3 if reason == "gate" else 6.0)
    if reason == "few clusters":
        base = changed(base, record={"clusters": {"template": tuple(index % 4 for index in range(100))}})
    table = compare_table(summarise([rival("a", 0.5, of=base), rival("b", 0.0, of=base)]))
    assert not table[MARKS].to_numpy().any()
    assert (table["no_mark"] != "").all()


def test_reaching_a_target_beats_not_reaching_it() -> None:
    records = [synthetic_record(basis="mlp_out"), synthetic_record(basis="transcoder", ceiling=0.5)]
    assert best(records, "nodes_to_80") == {"mlp_out"}
    assert best([synthetic_record(basis=name, ceiling=0.5) for name in ("mlp_out", "mlp_act")], "nodes_to_80") == set()


def test_a_target_that_only_random_order_reaches_is_no_victory() -> None:
    quick, slow = synthetic_record(basis="mlp_act"), synthetic_record(basis="mlp_out")
    nodes = summarise([quick, slow]).set_index("basis")["nodes_to_80"]
    first, second = (quick, slow) if nodes["mlp_act"] < nodes["mlp_out"] else (slow, quick)
    hidden = first.model_copy(update={"groups": (first.groups[0].model_copy(update={"scored_nodes": 5}),)})
    assert best([first, second], "nodes_to_80") == {first.cell.basis}
    assert best([hidden, second], "nodes_to_80") == {second.cell.basis}


def slow_marks(records: list[Record], metric: str) -> set[str]:
    """Who is marked, by a loop over resamples."""
    sign = 1 if METRICS[metric].direction == "lower" else -1
    values = {record.id: sign * float(summarise([record])[metric].item()) for record in records}
    leader = min(records, key=lambda record: values[record.id])
    rows = {record.id: STATISTICS[metric](normalised(record)) for record in records}
    alike = []
    for record in records:
        pairs = list(zip(rows[record.id], rows[leader.id], strict=True))
        differences = [0.0 if math.isinf(a) and math.isinf(b) else a - b for a, b in pairs]
        ordered = sorted(differences[1:])
        if min(ordered[24], differences[0]) <= 0 <= max(ordered[975], differences[0]):
            alike.append(record)
    if len(alike) == len(records):
        return set()
    return {record.cell.basis for record in alike if math.isfinite(values[record.id])}


@pytest.mark.slow
@pytest.mark.parametrize("metric", list(STATISTICS))
def test_marks_equal_a_loop_over_resamples(metric: str) -> None:
    for task in ("ioi", "sva_rc"):
        records = [
            synthetic_record(task, basis, ceiling=0.75 if basis == "transcoder" else 1.0)
            for basis in ("mlp_act", "mlp_out", "sae_mlp_out", "transcoder")
        ]
        assert best(records, metric) == slow_marks(records, metric)


def test_seconds_are_measured_once_and_the_least_are_best() -> None:
    table = compare_table(summarise([synthetic_record(basis=name) for name in ("mlp_act", "mlp_out")]))
    fastest = table["basis"][table["seconds"].idxmin()]
    assert set(table.loc[table["seconds_best"], "basis"]) == {fastest}


def test_marks_stay_within_their_group() -> None:
    records = [synthetic_record(task, basis) for task in ("ioi", "sva_rc") for basis in ("mlp_act", "mlp_out", "resid")]
    table = compare_table(summarise(records))
    assert table[MARKS].to_numpy().any()
    for _, group in table.groupby(list(BEST_WITHIN)):
        alone = compare_table(group.drop(columns=MARKS))
        pd.testing.assert_frame_equal(alone[MARKS].reset_index(drop=True), group[MARKS].reset_index(drop=True))
