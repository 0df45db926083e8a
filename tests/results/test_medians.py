"""Medians over a suite's tasks: who has one, what changes nobody's, and their intervals."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

from basisbench.results.bootstrap import DRAWS
from basisbench.results.compare import render_text
from basisbench.results.display import Display
from basisbench.results.frame import summarise
from basisbench.results.headlines import headline_tables
from basisbench.results.marks import mark_best
from basisbench.results.medians import _medians, draw_tasks, median_table
from basisbench.results.metrics import METRICS, STATISTICS
from basisbench.results.record import Record
from basisbench.results.record_fields import SuiteTasks
from helpers.synthetic_records import TASKS, changed, synthetic_record

FOUR = TASKS[:4]
SUITE = SuiteTasks(name="small", tasks=FOUR)
BASES = ("mlp_act", "mlp_out", "mlp_act_rotated")
MARKS = [f"{name}_best" for name in METRICS]


def suite_of(
    tasks: tuple[str, ...] = FOUR, bases: tuple[str, ...] = BASES, suite: SuiteTasks | None = SUITE
) -> list[Record]:
    return [synthetic_record(task, basis, suite=suite) for task in tasks for basis in bases]


def medians_of(records: list[Record]) -> pd.DataFrame:
    return median_table(summarise(records)).drop(columns="draws").set_index("basis")


def test_a_median_is_over_the_tasks_of_the_suite() -> None:
    records = suite_of()
    summary, medians = summarise(records), medians_of(records)
    assert set(medians["tasks"]) == set(medians["tasks_found"]) == {4}
    assert set(medians["suite"]) == {"small"}
    for basis, row in medians.iterrows():
        own = summary[summary["basis"] == basis]
        for name in METRICS:
            assert row[name] == pytest.approx(float(np.median(own[name])))
        assert row["nodes_to_80_low"] <= row["nodes_to_80"] <= row["nodes_to_80_high"]
    assert medians["nodes_to_80_best"].any()
    assert not medians.loc["mlp_act_rotated", "nodes_to_80_best"]


def test_a_folder_that_adds_a_task_takes_no_marks_away() -> None:
    """Whoever comes with a larger suite has medians over its own set of tasks, and the others keep theirs."""
    records = suite_of()
    before = medians_of(records)
    larger = SuiteTasks(name="larger", tasks=(*FOUR, "user_age"))
    more = [synthetic_record(task, "mlp_act_rotated", name="mine", suite=larger) for task in larger.tasks]
    table = median_table(summarise([*records, *more])).drop(columns="draws")
    mine = table[table["suite"] == "larger"].set_index("basis")
    assert set(mine.index[mine["tasks_found"] == 5]) == {"mine"}
    small = table[table["suite"] == "small"].set_index("basis")
    assert small.loc["mine", "tasks_found"] == 4, "its cells of these tasks count here"
    assert not small.loc["mine", "nodes_to_80_best"]
    pd.testing.assert_frame_equal(small.drop("mine")[[*METRICS, *MARKS]], before[[*METRICS, *MARKS]])


def test_a_part_of_a_suite_has_no_medians_of_its_own_where_a_larger_part_was_run() -> None:
    def small(tasks: tuple[str, ...], method: str) -> list[Record]:
        part = SuiteTasks(name="small", tasks=tasks)
        return [synthetic_record(task, "mlp_act", method, suite=part) for task in tasks]

    records = [*small(FOUR, "relp"), *small(FOUR[:2], "ixg"), *small(FOUR[1:3], "ig")]
    assert set(medians_of(records)["suite_tasks"]) == {", ".join(sorted(FOUR))}
    # Neither is a part of the other, and a suite of another name is not this one.
    apart = [*small(FOUR[:3], "relp"), *small(FOUR[1:4], "ixg")]
    assert medians_of(apart)["suite_tasks"].nunique() == 2
    other = [each.model_copy(update={"suite": SuiteTasks(name="other", tasks=FOUR[:2])}) for each in records[4:6]]
    assert medians_of([*records[:4], *other])["suite_tasks"].nunique() == 2


@pytest.mark.slow
def test_an_extra_task_of_one_folder_changes_nothing_without_suites() -> None:
    """Records of schema 1 say no suite: the set of tasks that most bases have is taken."""
    records = suite_of(suite=None)
    extra = synthetic_record("user_age", "mlp_act")
    pd.testing.assert_frame_equal(medians_of(records), medians_of([*records, extra]))


@pytest.mark.slow
def test_a_basis_that_lacks_a_task_has_no_median_and_is_no_rival() -> None:
    records = suite_of()
    whole = medians_of(records)
    some = [synthetic_record(task, "transcoder", suite=SUITE) for task in FOUR[:3]]
    medians = medians_of([*records, *some])
    row = medians.loc["transcoder"]
    assert math.isnan(row["nodes_to_80"])
    assert row["no_mark"] == "3/4 tasks"
    assert not row[MARKS].any()
    pd.testing.assert_frame_equal(medians.drop("transcoder")[[*METRICS, *MARKS]], whole[[*METRICS, *MARKS]])
    assert "3/4 tasks" in render_text(summarise([*records, *some]))


@pytest.mark.slow
def test_a_task_below_a_gate_is_left_out_for_all() -> None:
    weak = [synthetic_record(FOUR[3], basis, gap=0.3, suite=SUITE) for basis in BASES]
    summary = summarise([*suite_of(FOUR[:3]), *weak])
    medians = median_table(summary)
    assert set(medians["tasks"]) == {3}
    own = summary[(summary["basis"] == "mlp_act") & (summary["task"] != FOUR[3])]
    assert medians.set_index("basis").loc["mlp_act", "nodes_to_80"] == np.median(own["nodes_to_80"])
    (table,) = headline_tables(medians, Display(), ("nodes_to_80",), intervals=True)
    (note,) = table.notes
    reason = summary.loc[summary["task"] == FOUR[3], "gate"].iloc[0]
    assert reason
    assert note == f"Left out: {FOUR[3]}: {reason}."
    assert f"{FOUR[3]} !" in render_text(summary)


def test_neurons_decide_the_gate_of_all_bases() -> None:
    """A record that contradicts them takes no task from the others."""
    records = suite_of(bases=("mlp_act", "mlp_out"))
    liar = [synthetic_record(task, "transcoder", gap=0.3 if task == FOUR[0] else 6.0, suite=SUITE) for task in FOUR]
    assert set(medians_of([*records, *liar])["tasks"]) == {4}


def test_the_interval_spans_tasks() -> None:
    """Three tasks without any doubt of their own: the median of three draws is the least with a chance of 7 in 27."""
    cells = summarise([synthetic_record(task, suite=SUITE) for task in FOUR[:3]]).set_index("task")
    for place, draws in enumerate(cells["draws"]):
        draws.rows["area_faithfulness"][:] = place
    found = _medians(cells, draw_tasks(FOUR[:3]))["draws"].rows["area_faithfulness"]  # type: ignore[union-attr] # there are some
    shares = [(found[1:] == value).mean() for value in range(3)]
    assert shares == pytest.approx([7 / 27, 13 / 27, 7 / 27], abs=4 * math.sqrt(0.25 / DRAWS))


def test_the_interval_spans_clusters() -> None:
    """One task: its own interval, drawn again."""
    record = synthetic_record(suite=SuiteTasks(name="one", tasks=("ioi",)))
    row, own = median_table(summarise([record])).iloc[0], summarise([record]).iloc[0]
    assert row["area_faithfulness"] == own["area_faithfulness"]
    for end in ("low", "high"):
        assert row[f"area_faithfulness_{end}"] == pytest.approx(own[f"area_faithfulness_{end}"], abs=0.01)
        assert row[f"area_faithfulness_{end}"] != row["area_faithfulness"]


def test_the_median_over_one_task_has_the_interval_and_marks_of_the_task() -> None:
    summary = summarise(suite_of(FOUR[:1], suite=SuiteTasks(name="one", tasks=FOUR[:1])))
    medians = median_table(summary).set_index("basis")
    own = mark_best(summary, ["family"]).set_index("basis")
    for name in STATISTICS:
        for column in (name, f"{name}_low", f"{name}_high", f"{name}_best"):
            assert medians[column].to_dict() == own[column].to_dict(), column


def test_what_is_not_reached_is_infinite_in_medians() -> None:
    records = [synthetic_record(task, ceiling=0.5 if task in FOUR[:3] else 1.0, suite=SUITE) for task in FOUR]
    row = median_table(summarise(records)).iloc[0]
    assert row["nodes_to_80"] == math.inf
    assert row["nodes_to_80_reached"] == 1
    reached = summarise(records[3:])["nodes_to_80"].item()
    known = [*(record.counts.nodes_max for record in records[:3]), reached]
    assert row["nodes_to_80_bound"] == np.median(known), "all nodes where it is not reached, what it takes where it is"


def test_a_control_has_a_median_and_no_mark() -> None:
    records = suite_of(bases=("mlp_act", "mlp_out", "transcoder"))
    controlled = [changed(r, record={"control": True}) if r.cell.basis == "transcoder" else r for r in records]
    row = medians_of(controlled).loc["transcoder"]
    assert math.isfinite(row["nodes_to_80"])
    assert row["no_mark"] == "control"
    assert not row[MARKS].any()


@pytest.mark.slow
def test_few_clusters_count_where_tasks_are_few_too() -> None:
    few = {"clusters": {"template": tuple(index % 4 for index in range(100))}}
    records = [changed(record, record=few) for record in suite_of()]
    assert set(medians_of(records)["no_mark"]) == {f"few levels of template, {sorted(FOUR)[0]}"}
    eight = SuiteTasks(name="eight", tasks=TASKS[:8])
    records = [changed(record, record=few) for record in suite_of(TASKS[:8], ("mlp_act", "mlp_act_rotated"), eight)]
    assert set(medians_of(records)["no_mark"]) == {""}


def test_two_versions_of_a_task_are_not_mixed() -> None:
    records = suite_of()
    newer = synthetic_record(FOUR[0], "mlp_act", task_version="2", suite=SUITE)
    pd.testing.assert_frame_equal(medians_of(records), medians_of([*records, newer]))
