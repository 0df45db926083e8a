"""The gates on planted cells, and what bars a cell from a best mark."""

from __future__ import annotations

import math

import numpy as np
import pytest

from basisbench.results.columns import scored_nodes
from basisbench.results.frame import frame_of, summarise
from basisbench.results.gates import gate_of, no_mark
from basisbench.results.record import Record
from basisbench.results.record_fields import Endpoints
from helpers.synthetic_records import changed, synthetic_record

NOUNS = tuple(np.repeat(np.arange(25), 4).tolist())


def planted(
    full: np.ndarray, empty: np.ndarray, *, gate_empty: np.ndarray | None = None, layers: tuple[int, ...] | None = None
) -> Record:
    """A record with these ends, and one cluster factor of 25 levels."""
    base = synthetic_record(layers=layers)
    ends = Endpoints(
        full=tuple(full.tolist()),
        empty=tuple(empty.tolist()),
        accuracy=float((full > 0).mean()),
        empty_at="output",
        gate_empty=None if gate_empty is None else tuple(gate_empty.tolist()),
        family_empty=None if layers is None else -5.0,
    )
    return base.model_copy(update={"endpoints": ends, "clusters": {"noun": NOUNS}})


def test_a_model_that_fails_is_below_the_gate() -> None:
    for right, reason in ((75, ""), (74, "accuracy 0.74 < 0.75")):
        full = np.where(np.arange(100) < right, 6.0, -0.5)
        assert gate_of(planted(full, full - 5)).reason == reason


def test_a_gap_must_be_a_fifth_of_the_metric() -> None:
    """As in `sva_within_rc` of attention outputs: F(0) is 7.95 of F(M) 8.14."""
    full = np.full(100, 8.14)
    gate = gate_of(planted(full, np.full(100, 7.95)))
    assert gate.reason == "gap 2.33% of F(M) < 20%"
    assert (gate.gap, gate.share) == pytest.approx((0.19, 0.19 / 8.14), rel=1e-3)
    assert gate_of(planted(np.full(100, 10.0), np.full(100, 8.0))).reason == ""
    assert gate_of(planted(np.full(100, 10.0), np.full(100, 8.01))).reason == "gap 19.9% of F(M) < 20%"
    assert "gap -23.3% of F(M) < 20%" in gate_of(planted(full, full + 1.9)).reason


def test_a_gap_must_exceed_two_standard_errors_of_its_clusters() -> None:
    """Examples of one noun move together: 100 of them are worth 25."""
    generator = np.random.default_rng(5)
    by_noun = np.repeat(generator.normal(0, 1, 25), 4)
    by_noun -= by_noun.mean()
    error = by_noun.std() / 5
    full = np.full(100, 0.5)
    for gap, passes in ((2.3 * error, True), (1.7 * error, False)):
        gate = gate_of(planted(full, full - gap + by_noun))
        assert gate.standard_error == pytest.approx(error, rel=4 * math.sqrt(1 / 2000))
        assert (gate.reason == "") == passes, gap
    # Taken for independent examples, half of that gap would have passed.
    assert 1.7 * error > 2 * by_noun.std() / 10


def test_a_family_on_some_layers_need_not_hold_a_fifth() -> None:
    full = np.full(100, 10.0)
    record = planted(full, np.full(100, 9.0), layers=(0, 3))
    gate = gate_of(record)
    assert gate.reason == ""
    assert gate.family_share == pytest.approx(1 / 15)
    assert math.isnan(gate_of(planted(full, np.full(100, 9.0))).family_share)
    noisy = np.full(100, 9.99) + np.repeat(np.random.default_rng(0).normal(0, 1, 25), 4)
    assert "standard errors" in gate_of(planted(full, noisy, layers=(0, 3))).reason


def test_the_gap_is_taken_at_the_family_s_outputs() -> None:
    full = np.full(100, 10.0)
    assert gate_of(planted(full, np.full(100, 9.9), gate_empty=np.full(100, 1.0))).gap == pytest.approx(9.0)
    assert gate_of(planted(full, np.full(100, 1.0), gate_empty=np.full(100, 9.9))).reason != ""


def test_a_cell_below_a_gate_keeps_its_values() -> None:
    # As rough as a basis gets: values are shown, and the reason beside them.
    record = synthetic_record(gap=0.3)
    row = summarise([record]).iloc[0]
    assert "of F(M)" in row["gate"] or "accuracy" in row["gate"]
    assert row["no_mark"] == row["gate"]
    assert math.isfinite(row["nodes_to_80"])
    assert math.isfinite(row["area_faithfulness"])
    assert not row["degenerate"]
    frame = frame_of([record])
    assert frame["faithfulness"].notna().all()
    assert set(frame["gate"]) == {row["gate"]}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"record": {"control": True}}, "control"),
        ({"guard": {"fvu": (0.1, 1.0, 0.2, 0.3)}}, "FVU 1.00 in a layer"),
        ({"guard": {"slope": (1.0, 0.94, 1.0, 1.4)}}, "calibration slope 0.94 in a layer"),
        ({"record": {"clusters": {"cue": tuple(index % 7 for index in range(100))}}}, "cue has 7 levels"),
        ({"guard": {"slope": (1.0, 1.0, 1.26, 1.2)}}, "calibration slope 1.26 in a layer"),
        ({"guard": {"slope": (1.0, 0.95, 1.25, 1.2), "fvu": (0.99,) * 4}}, ""),
        ({"cell": {"error_policy": "node"}}, "errors cost one node"),
        ({"cell": {"error_policy": "keep"}}, "errors are free"),
        ({"guard": {"slope": None}}, ""),
    ],
)
def test_what_bars_a_cell_from_a_best_mark(change: dict[str, dict[str, object]], reason: str) -> None:
    record = changed(synthetic_record(basis="transcoder"), **change)
    assert no_mark(record, gate_of(record)) == reason
    assert summarise([record])["no_mark"].item() == reason


def test_scores_order_the_nodes_of_every_group() -> None:
    """The fewest of all groups; a group whose nodes all have a score bounds nothing, however few they are."""
    record = synthetic_record()
    group = record.groups[0]
    total = group.nodes

    def of(*groups: tuple[int, int | None]) -> int:
        each = tuple(
            group.model_copy(update={"key": str(index), "nodes": nodes, "scored_nodes": scored})
            for index, (nodes, scored) in enumerate(groups)
        )
        return scored_nodes(record.model_copy(update={"groups": each}))

    assert of((total, total)) == total
    assert of((total, None)) == total
    assert of((total, 1200)) == 1200
    assert of((total, 1200), (500, 500)) == 1200
    assert of((total, 1200), (500, 499)) == 499
    assert of((total, 0)) == 0
