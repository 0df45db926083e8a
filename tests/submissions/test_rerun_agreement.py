"""The draw of cells and sizes, and the comparison of a record with its re-run: without a model."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from basisbench.results.frame import summarise
from basisbench.results.record import Record
from basisbench.submissions.rerun_agreement import TOLERANCES, compare_identities, compare_records, tolerance_for
from basisbench.submissions.sampling import detection, draw_seed, sample_cells, sample_sizes
from helpers.synthetic_records import synthetic_record, synthetic_suite
from helpers.verifications import FLOAT32


def moved(record: Record, **changes: Any) -> Record:
    """Return the record with some fields of its curve or endpoints replaced, checked as any record is."""
    content = record.model_dump()
    for place, value in changes.items():
        part, _, field = place.partition("__")
        content[part] = {**content[part], field: value} if field else value
    return Record.model_validate(content)


def shifted(rows: Any, row: int, amount: float, examples: slice = slice(None)) -> Any:
    """Return rows with some values of one of them moved."""
    given = next(index for index in range(row, len(rows)) if rows[index] is not None)  # a complement on the grid
    values = [row if row is None else np.array(row) for row in rows]
    values[given][examples] += amount
    return tuple(row if row is None else tuple(row.tolist()) for row in values)


@given(
    cells=st.sets(st.integers(0, 2**96 - 1).map("{:024x}".format), min_size=1, max_size=30),
    count=st.integers(1, 40),
    seed=st.integers(0),
)
def test_a_draw_depends_on_nothing_but_the_cells_and_the_seed(cells: set[str], count: int, seed: int) -> None:
    drawn = sample_cells(cells, count, seed)
    assert drawn == sample_cells(sorted(cells, reverse=True), count, seed)
    assert len(drawn) == len(set(drawn)) == min(count, len(cells))
    assert set(drawn) <= cells
    assert set(sample_cells(cells, "all", seed)) == cells


def test_every_cell_is_as_likely_to_be_drawn() -> None:
    cells = [f"{index:024x}" for index in range(20)]
    counts = Counter(cell for seed in range(2000) for cell in sample_cells(cells, 5, seed))
    # 500 expected, standard deviation 19; the largest of twenty lies within four of them.
    assert all(abs(counts[cell] - 500) < 4 * 19.4 for cell in cells)
    assert len({draw_seed() for _ in range(100)}) == 100


def test_detection_is_what_drawing_gives() -> None:
    cells = [f"{index:024x}" for index in range(200)]
    forged = set(cells[:20])
    found = np.mean([bool(forged & set(sample_cells(cells, 10, seed))) for seed in range(2000)])
    assert detection(0.1, 10) == pytest.approx(1 - 0.9**10)
    # Drawing without replacement finds a little more; three standard errors are 0.032.
    assert detection(0.1, 10) - 0.032 < found < detection(0.1, 10) + 0.05
    assert detection(0.0, 10) == 0.0
    assert detection(1.0, 1) == 1.0


def deciding(record: Record) -> set[int]:
    """Return the sizes that nodes_to and settled_to hang on: each, and the measured size before it."""
    summary, sizes = summarise([record]).iloc[0], record.curve.sizes
    found = {int(summary[f"{kind}_to_{share}"]) for kind in ("nodes", "settled") for share in (80, 90)}
    return found | {sizes[sizes.index(size) - 1] for size in found}


def test_sizes_that_summaries_hang_on_are_always_drawn() -> None:
    for record in synthetic_suite(tasks=("ioi",), methods=("relp", "random"), examples=20):
        inner = record.curve.sizes[1:-1]
        always = deciding(record) & set(inner)
        assert len(always) >= 4
        for seed in range(5):
            assert sample_sizes(record, "all", seed) == inner
            for points in (1, 10):
                drawn = sample_sizes(record, points, seed)
                assert drawn == tuple(sorted(set(drawn)))
                assert len(drawn) == max(points, len(always))
                assert always <= set(drawn) <= set(inner)
        assert sample_sizes(record, 100, 0) == inner
        assert len({sample_sizes(record, 10, seed) for seed in range(20)}) > 5


def test_a_record_agrees_with_itself() -> None:
    record = synthetic_record("ioi", "transcoder", examples=20)
    cell = compare_records(record, record, record.identities, FLOAT32)
    assert cell.passed
    assert cell.problems == ()
    assert cell.largest == 0.0
    assert cell.circuit is not None
    assert cell.circuit.values == 20 * len(record.curve.sizes)


@pytest.mark.parametrize(("gap", "unit"), [(6.0, 1.0), (0.5, 0.5), (0.01, 0.1)])
def test_a_deviation_is_placed_and_in_units_of_the_gap(gap: float, unit: float) -> None:
    record = synthetic_record("ioi", "mlp_act", examples=20)
    content = record.model_dump()
    shift = np.mean(record.endpoints.empty) - np.mean(record.endpoints.full) + gap
    content["endpoints"]["full"] = tuple(value + shift for value in record.endpoints.full)
    content["endpoints"]["accuracy"] = sum(value > 0 for value in content["endpoints"]["full"]) / 20
    record = Record.model_validate(content)
    row, index = 7, int(np.argmax(np.abs(record.curve.circuit[7])))
    value = record.curve.circuit[row][index]
    assert abs(value) > 1
    moved_value = shifted(record.curve.circuit, row, 0.2, slice(index, index + 1))
    cell = compare_records(moved(record, curve__circuit=moved_value), record, record.identities, FLOAT32)
    assert cell.circuit is not None
    assert (cell.circuit.size, cell.circuit.example) == (record.curve.sizes[row], index)
    # What rounding to five digits can make is taken off.
    assert cell.circuit.largest == pytest.approx((0.2 - 1e-4 * abs(value + 0.2)) / unit, rel=1e-3)
    assert cell.circuit.outside == 1
    assert cell.circuit.mean == pytest.approx(0.2 / 20 / unit, rel=0.02)


def compared(record: Record, **changes: Any) -> Any:
    """Compare a record with a re-run whose curve differs."""
    return compare_records(record, moved(record, **changes), record.identities, FLOAT32)


def test_switched_units_pass_and_a_moved_mean_does_not() -> None:
    record = synthetic_record("ioi", "sae_mlp_out", examples=100)
    circuit, rows = record.curve.circuit, len(record.curve.sizes)
    # Two examples of a hundred, at every size: units at their thresholds.
    few = circuit
    for row in range(rows):
        few = shifted(few, row, 0.02, slice(0, 2))
    cell = compared(record, curve__circuit=few)
    assert cell.passed
    assert cell.circuit.outside == 2 * rows
    assert cell.circuit.tied == ()
    # A third one at one end of the curve, where no two nodes can have changed places.
    assert not compared(record, curve__circuit=shifted(circuit, 0, 0.02, slice(0, 3))).passed
    # One example by as much as moves the mean.
    cell = compared(record, curve__circuit=shifted(circuit, rows // 2, 5.0, slice(0, 1)))
    assert not cell.passed
    assert cell.problems[0].startswith(
        f"curve.circuit: at size {record.curve.sizes[rows // 2]} 1 of 100 values deviate"
    )


def test_nodes_that_changed_places_pass_at_one_size_in_four_and_by_little() -> None:
    record = synthetic_record("ioi", "mlp_act", examples=100)
    circuit, sizes = record.curve.circuit, record.curve.sizes
    group = slice(0, 25)
    cell = compared(record, curve__circuit=shifted(circuit, 5, 0.02, group))
    assert cell.passed
    assert (cell.circuit.tied, cell.complement.tied) == ((sizes[5],), ())
    assert not compared(record, curve__circuit=shifted(circuit, 5, 0.5, group)).passed
    assert not compared(record, curve__circuit=shifted(circuit, 0, 0.02, group)).passed
    # Two moved values whose mean stays where it was.
    opposite = shifted(shifted(circuit, 5, 5.0, slice(3, 4)), 5, -5.0, slice(4, 5))
    assert not compared(record, curve__circuit=opposite).passed
    many = circuit
    for row in range(1, 1 + len(sizes) // 4):
        many = shifted(many, row, 0.02, group)
    assert compared(record, curve__circuit=many).passed
    # The complement at the same sizes is the same change of places; at another one it is one more.
    assert compared(
        record, curve__circuit=many, curve__complement=shifted(record.curve.complement, 1, 0.02, group)
    ).passed
    cell = compared(record, curve__circuit=many, curve__complement=shifted(record.curve.complement, 9, 0.02, group))
    assert not cell.passed
    assert f"nearly equal scores explain {len(sizes) // 4} of {len(sizes)} sizes" in cell.problems[0]


def test_endpoints_may_not_move_at_all() -> None:
    record = synthetic_record("ioi", "mlp_act", examples=100)
    for name in ("full", "empty"):
        (values,) = shifted((getattr(record.endpoints, name),), 0, 0.02, slice(7, 8))
        cell = compared(record, **{f"endpoints__{name}": values})
        assert cell.problems[0].startswith(f"endpoints.{name}: 1 of 100 values deviate by more than 0.001")


def test_tolerances_are_narrower_where_weights_are_finer() -> None:
    assert tolerance_for("float64") == TOLERANCES["float64"]
    assert tolerance_for("bfloat16").value > tolerance_for("float32").value >= tolerance_for("float64").value
    assert tolerance_for("bfloat16").share < 1


def test_other_identities_are_told_in_one_line_each() -> None:
    record = synthetic_record("ioi", "transcoder", examples=12)
    here = record.identities.model_copy(update={"model": "0" * 64, "dictionary": None})
    problems = compare_identities(record, here)
    assert len(problems) == 2
    assert problems[0].startswith(f"identities.model: the record has {record.identities.model[:12]}, here ")
    assert "give none: not re-run" in problems[1]
    assert compare_identities(record, record.identities) == ()


def test_near_ties_at_the_end_of_the_top_nodes_are_no_difference(full_record: Record) -> None:
    *others, last = full_record.top_nodes
    tied = last.model_copy(update={"unit": 99_999})
    cell = compare_records(full_record, moved(full_record, top_nodes=(*others, tied)), full_record.identities, FLOAT32)
    assert cell.passed
    first = full_record.top_nodes[0].model_copy(update={"unit": 99_999})
    for forged in (
        (first, *full_record.top_nodes[1:]),
        full_record.top_nodes[:-1],
        (),
        (full_record.top_nodes[0],) * 20,
    ):
        record = moved(full_record, top_nodes=forged)
        cell = compare_records(record, full_record, full_record.identities, FLOAT32)
        assert not cell.passed
        assert cell.problems[0].startswith("top_nodes: ")
