"""Whatever size is altered, a forgery that moves what tables show by more than 5% is found; honest noise is not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from basisbench.results.bisection import faithfulness_of, next_sizes, scored_nodes
from basisbench.results.columns import normalised
from basisbench.results.metrics import STATISTICS
from basisbench.results.record import Record
from basisbench.submissions.rerun_agreement import compare_records
from helpers.synthetic_records import changed, synthetic_record
from helpers.verifications import FLOAT32

TABLES = ("nodes_to_80", "nodes_to_90", "settled_to_80", "settled_to_90")
CELLS = [("ioi", "mlp_act", "relp"), ("sva_rc", "transcoder", "ixg"), ("user_age", "resid", "magnitude")]


def summaries(record: Record) -> dict[str, float]:
    cell = normalised(record)
    return {name: float(STATISTICS[name](cell)[0]) for name in TABLES}


def faithfulness(record: Record) -> list[float]:
    ends = record.endpoints
    return [faithfulness_of(row, ends.full, ends.empty) for row in record.curve.circuit]


def with_row(record: Record, row: int, target: float) -> Record:
    """Return a record with one row of its circuit moved so that the size has a faithfulness, by all examples alike."""
    content = record.model_dump()
    gap = float(np.mean(record.endpoints.full) - np.mean(record.endpoints.empty))
    amount = (target - faithfulness(record)[row]) * gap
    rows = list(content["curve"]["circuit"])
    rows[row] = tuple(value + amount for value in rows[row])
    content["curve"]["circuit"] = tuple(rows)
    return Record.model_validate(content)


def problems(recorded: Record, found: Record) -> tuple[str, ...]:
    return compare_records(recorded, found, recorded.identities, FLOAT32).problems


def test_values_drawn_together_narrow_no_interval() -> None:
    """The means stay what they are, so that no summary but the interval moves."""
    honest = synthetic_record("sva_rc", "transcoder", "ixg", examples=100)
    content = honest.model_dump()
    full, empty = np.array(honest.endpoints.full), np.array(honest.endpoints.empty)
    content["curve"]["circuit"] = tuple(
        tuple((empty + share * (full - empty)).tolist()) if size else row
        for size, row, share in zip(honest.curve.sizes, honest.curve.circuit, faithfulness(honest), strict=True)
    )
    forged = Record.model_validate(content)
    assert moved_by(summaries(forged), summaries(honest)) < 0.05
    assert any("end of the interval" in text for text in problems(forged, honest))
    assert problems(honest, honest) == ()


def moved_by(claimed: dict[str, float], true: dict[str, float]) -> float:
    """Return the largest relative change of a summary."""
    return max(0.0 if claimed[name] == true[name] else abs(claimed[name] - true[name]) / true[name] for name in TABLES)


@pytest.mark.slow
@pytest.mark.parametrize("cell", CELLS, ids=["-".join(cell) for cell in CELLS])
def test_a_row_moved_across_a_threshold_is_found_at_every_size(cell: tuple[str, str, str]) -> None:
    """By as little as it takes: every size, honestly 0.2% below or above a threshold, is put on its other side."""
    base = synthetic_record(*cell, examples=24)
    forged = 0
    for row in range(1, len(base.curve.sizes) - 1):
        for threshold in ((0.8, 1.2), (0.9, 1.1))[row % 2]:  # one that is reached, one below which it settles
            for side in (-1, 1):
                honest = with_row(base, row, threshold + side * 0.002)
                forgery = with_row(honest, row, threshold - side * 0.0002)
                if moved_by(summaries(forgery), summaries(honest)) <= 0.05:
                    continue
                forged += 1
                assert problems(forgery, honest), (row, threshold, side)
    assert forged >= 15, "there were forgeries to find"


def test_the_forgery_that_passed_before_is_found() -> None:
    """One early size that nearly reaches 80% was raised by less than 1%: `nodes_to_80` fell by a factor of 20."""
    base = synthetic_record("sva_rc", "transcoder", "ixg", examples=100)
    honest = with_row(base, base.curve.sizes.index(5), 0.795)
    forgery = with_row(honest, base.curve.sizes.index(5), 0.8024)
    rows = [np.mean(record.curve.circuit[3]) for record in (honest, forgery)]
    assert 1 < rows[1] / rows[0] < 1.01
    claimed, true = summaries(forgery)["nodes_to_80"], summaries(honest)["nodes_to_80"]
    assert (claimed, true > 20 * claimed) == (5.0, True)
    assert any(text == f"nodes_to_80: the record gives 5, the re-run {true:.5g}" for text in problems(forgery, honest))


def test_many_rows_moved_within_the_tolerance_of_values_move_no_summary_by_more() -> None:
    """A forger who takes all that the tolerance of means allows, everywhere, is found or gains less than 5%."""
    for cell in CELLS:
        honest = synthetic_record(*cell, examples=100)
        for amount in (-0.0019, 0.0019):
            content = honest.model_dump()
            rows = content["curve"]["circuit"]
            content["curve"]["circuit"] = (rows[0], *(tuple(v + amount for v in row) for row in rows[1:-1]), rows[-1])
            forgery = Record.model_validate(content)
            if not problems(forgery, honest):
                assert moved_by(summaries(forgery), summaries(honest)) <= 0.05
                areas = [STATISTICS["area_faithfulness"](normalised(record))[0] for record in (forgery, honest)]
                assert areas[0] == pytest.approx(areas[1], rel=0.05)


def test_noise_of_another_machine_is_no_problem() -> None:
    """Rounding everywhere, units at their thresholds in a few examples, and a tie between two sizes of the grid."""
    generator = np.random.default_rng(0)
    for cell in CELLS:
        record = synthetic_record(*cell, examples=100)
        for _ in range(7):
            content: dict[str, Any] = record.model_dump()
            for name in ("circuit", "complement"):
                rows = [None if row is None else np.array(row) for row in content["curve"][name]]
                for row in rows[1:-1]:
                    if row is not None:
                        row += generator.normal(0, 1e-5, len(row))
                        if generator.random() < 0.1:
                            row[generator.integers(len(row))] += generator.choice([-0.12, 0.12])
                tied = rows[generator.integers(1, 6)]
                assert tied is not None
                tied[25:50] += 0.01
                content["curve"][name] = tuple(None if row is None else tuple(row.tolist()) for row in rows)
            assert problems(record, Record.model_validate(content)) == ()


def test_a_size_that_was_not_run_again_is_taken_from_the_record() -> None:
    """With fewer sizes, what was run again still decides: here the size that claims to reach 80%."""
    honest = synthetic_record("ioi", "mlp_act", examples=100)
    row = honest.curve.sizes.index(10)
    forgery = with_row(honest, row, 0.81)
    curve = honest.curve
    kept = [0, row, row + 1, len(curve.sizes) - 1]
    part = curve.model_copy(
        update={
            name: tuple(getattr(curve, name)[index] for index in kept)
            for name in type(curve).model_fields
            if getattr(curve, name) is not None
        }
    )
    found = problems(forgery, honest.model_copy(update={"curve": part}))
    assert any(text.startswith("nodes_to_80: the record gives 10, the re-run ") for text in found)
    assert problems(honest, honest.model_copy(update={"curve": part})) == ()


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (
            lambda content: content["guard"].update(fvu=(0.03, 1.2, 0.04, 0.05)),
            "best marks: the record says 'passed', ",
        ),
        (
            lambda content: content["guard"].update(slope=(1.01, 0.9, 1.0, 0.98)),
            "guard.slope: deviates by more than 0.1%",
        ),
        (
            lambda content: content["guard"].update(slope=(1.01, 0.9, 1.0, 0.98)),
            "best marks: the record says 'passed', ",
        ),
        (lambda content: content["guard"].update(loss_recovered=0.9), "guard.loss_recovered: deviates"),
        (lambda content: content.update(error_share=0.32), "error_share: 0.3, the re-run has 0.32"),
        (lambda content: content.update(error_share=None), "error_share: 0.3, the re-run has nan"),
        (lambda content: content.update(control=True), "control: differs from the re-run's"),
        (lambda content: content["clusters"].update(noun=(0,) * 100), "clusters: differs from the re-run's"),
        (lambda content: content["counts"].update(area_end=10**6), "counts: differs from the re-run's"),
        (
            lambda content: content["groups"][0].update(scored_nodes=3000),
            "groups[0].scored_nodes: 50688, the re-run has",
        ),
        (lambda content: content["groups"][0].update(tokens=("a",) * 11), "groups: differs from the re-run's"),
        (lambda content: content["curve"].update(all_units=(0,) * 30), "curve.all_units: differs"),
    ],
)
def test_what_marks_and_intervals_hang_on_is_compared(change: Any, expected: str) -> None:
    recorded = changed(synthetic_record("ioi", "transcoder", examples=100), record={"error_share": 0.3})
    content = recorded.model_dump()
    content["groups"] = [dict(group) for group in content["groups"]]
    change(content)
    content["curve"]["all_units"] = content["curve"]["all_units"][: len(content["curve"]["sizes"])]
    found = problems(recorded, Record.model_validate(content))
    assert any(text.startswith(expected) for text in found), found


def test_a_record_from_before_the_share_of_errors_was_measured_is_no_other_one() -> None:
    before = synthetic_record("ioi", "transcoder", examples=100)
    again = changed(before, record={"error_share": 0.3})
    assert (before.id, problems(before, again)) == (again.id, ())
    assert problems(again, changed(before, record={"error_share": 0.305})) == ()


def test_synthetic_records_are_bisected_as_real_ones() -> None:
    record = synthetic_record(*CELLS[0], examples=100)
    values = dict(zip(record.curve.sizes, faithfulness(record), strict=True))
    assert next_sizes(values, scored_nodes(record)) == ()
