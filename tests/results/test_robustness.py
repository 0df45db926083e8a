"""Rankings when a choice is changed: what is planted is found, and every number is that of a slow, obvious twin."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from basisbench.cli import main
from basisbench.errors import RecordError
from basisbench.results.display import Display
from basisbench.results.draw_spread import draw_spread
from basisbench.results.frame import load_results, summarise
from basisbench.results.medians import draw_tasks
from basisbench.results.record import Record
from basisbench.results.robustness import SUMMARIES, robustness
from basisbench.results.robustness_tables import robustness_tables
from basisbench.results.tables import plain_text
from basisbench.results.templates import on_templates
from helpers.synthetic_records import changed, synthetic_record, with_endpoint_moved, write_suite

TASKS = ("ioi", "sva_rc", "user_age")
BASES = ("mlp_act", "mlp_out", "mlp_act_rotated")
EXAMPLES = 40
BACKWARDS = {"mlp_act": "mlp_act_rotated", "mlp_out": "mlp_out", "mlp_act_rotated": "mlp_act"}
"""Whose curve each basis has where the order is turned."""


def cross(**settings: object) -> list[Record]:
    return [
        synthetic_record(task, basis, examples=EXAMPLES, **settings)  # type: ignore[arg-type] # by name
        for task in TASKS
        for basis in BASES
    ]


def of_change(found: pd.DataFrame, choice: str, value: object) -> pd.DataFrame:
    return found[(found["choice"] == choice) & (found["value"] == str(value))]


def whole(found: pd.DataFrame, choice: str, value: object) -> pd.Series:
    """Return the row of a change over all tasks."""
    rows = of_change(found, choice, value)
    rows = rows[(rows["task"] == "") & (rows["basis"] == "")]
    assert len(rows) == 1
    return rows.iloc[0]


@pytest.fixture(scope="module")
def turned() -> list[Record]:
    """Records of a reference, of the same curves under another ablation, and of the opposite order under a third."""
    backwards = [
        synthetic_record(task, BACKWARDS[basis], name=basis, examples=EXAMPLES, ablation="counterfactual")
        for task in TASKS
        for basis in BASES
    ]
    return [*cross(), *cross(ablation="zero"), *backwards, *cross(method="ixg")]


@pytest.fixture(scope="module")
def found(turned: list[Record]) -> pd.DataFrame:
    """What changes of a choice do to the rankings of these records; to be read only."""
    return robustness(turned)


def test_the_same_curves_are_the_same_ranking_and_a_planted_turn_is_found(found: pd.DataFrame) -> None:
    same = whole(found, "ablation", "zero")
    assert (same["reference"], same["tasks"], same["bases"], same["pairs"]) == ("mean", 3, 3, 9)
    assert (same["tau"], same["tau_low"], same["tau_high"]) == (1, 1, 1)
    assert (same["best_stays"], same["turned"], same["turned_surely"], same["turns"]) == (3, 0, 0, "")
    other = whole(found, "ablation", "counterfactual")
    assert other["tau"] == pytest.approx(-1)
    assert (other["best_stays"], other["turned"], other["told"], other["turned_surely"]) == (0, 9, 9, 9)
    assert other["turns"].split("; ").count("mlp_act before mlp_act_rotated") == 3
    tasks = of_change(found, "ablation", "counterfactual")
    assert list(tasks[tasks["task"] != ""]["task"]) == sorted(TASKS)
    ratios = tasks[tasks["basis"] != ""].set_index("basis")
    assert ratios.at["mlp_act", "ratio"] == pytest.approx(
        ratios.at["mlp_act", "after"] / ratios.at["mlp_act", "before"]
    )
    assert ratios.at["mlp_act", "ratio_low"] > 5
    assert ratios.at["mlp_act_rotated", "ratio_high"] < 0.2
    assert set(found[found["choice"] == "summary"]["value"]) == set(SUMMARIES)


def naive_tau(a: Sequence[float], b: Sequence[float]) -> float:
    def order(x: float, y: float) -> int:
        return 0 if x == y else 1 if x > y else -1

    pairs = [(order(a[i], a[j]), order(b[i], b[j])) for i, j in combinations(range(len(a)), 2)]
    untied = math.sqrt(sum(x * x for x, _ in pairs) * sum(y * y for _, y in pairs))
    return sum(x * y for x, y in pairs) / untied if untied else 0.0


@pytest.mark.slow
def test_tau_and_ratio_are_those_of_every_drawn_task_and_resample(turned: list[Record], found: pd.DataFrame) -> None:
    rows = summarise(turned).set_index(["method", "ablation", "task", "basis"])["draws"]

    def drawn(method: str, task: str, basis: str) -> np.ndarray:
        values: np.ndarray = rows[method, "mean", task, basis].rows["nodes_to_80"]
        return values

    picked, resamples = draw_tasks(sorted(TASKS))
    taus, ratios = [], []
    for tasks, draws in zip(picked, resamples, strict=True):
        own = list(zip([sorted(TASKS)[at] for at in tasks], draws, strict=True))
        taus.append(
            np.mean(
                [
                    naive_tau(
                        *([drawn(method, task, basis)[draw] for basis in sorted(BASES)] for method in ("relp", "ixg"))
                    )
                    for task, draw in own
                ]
            )
        )
        before, after = (
            np.median([drawn(method, task, "mlp_out")[draw] for task, draw in own]) for method in ("relp", "ixg")
        )
        ratios.append(after / before)
    row = whole(found, "method", "ixg")
    value = np.mean(
        [
            naive_tau(*([drawn(method, task, basis)[0] for basis in sorted(BASES)] for method in ("relp", "ixg")))
            for task in TASKS
        ]
    )
    assert row["tau"] == pytest.approx(value)
    ordered = sorted(taus)
    assert row["tau_low"] == pytest.approx(min(ordered[24], value))
    assert row["tau_high"] == pytest.approx(max(ordered[975], value))
    moved = of_change(found, "method", "ixg").set_index("basis").loc["mlp_out"]
    assert moved["ratio"] == moved["after"] / moved["before"]
    assert moved["ratio_low"] == pytest.approx(min(sorted(ratios)[24], moved["ratio"]))
    assert moved["ratio_high"] == pytest.approx(max(sorted(ratios)[975], moved["ratio"]))


def test_the_reference_is_what_most_cells_have_or_the_method_that_is_given(
    turned: list[Record], found: pd.DataFrame
) -> None:
    assert set(found["conditions"]) == {"attribution method relp, ablation mean"}
    other = robustness(turned, method="ixg")
    assert set(other["conditions"]) == {"attribution method ixg, ablation mean"}
    assert set(other["choice"]) == {"method", "summary"}  # other ablations differ from it in two choices
    assert whole(other, "method", "relp")["tau"] == pytest.approx(whole(found, "method", "ixg")["tau"])
    with pytest.raises(RecordError, match="no result has the method 'gim'; there are ixg, relp"):
        robustness(turned, method="gim")


def in_two_wordings(record: Record) -> Record:
    """Return a record whose first ten examples are of one template, and the others of another."""
    group = record.groups[0]
    groups = [
        group.model_copy(update={"key": key, "evaluation_pairs": pairs}).model_dump()
        for key, pairs in (("b:1,2", 10), ("a:1,3", EXAMPLES - 10))
    ]
    return changed(record, record={"groups": groups})


def naive_nodes_to_80(record: Record, examples: Sequence[int]) -> float:
    """Return the fewest nodes of the sizes measured that restore 80% on some examples."""
    full, empty = (np.mean([ends[at] for at in examples]) for ends in (record.endpoints.full, record.endpoints.empty))
    for size, row in zip(record.curve.sizes, record.curve.circuit, strict=True):
        if (np.mean([row[at] for at in examples]) - empty) / (full - empty) >= 0.8:
            return size
    return math.inf


@pytest.mark.slow
def test_halves_of_the_templates_are_their_own_examples_alone() -> None:
    records = [in_two_wordings(record) for record in cross()]
    found = robustness([*records, *cross(ablation="zero")])
    halves = {"first": range(10, EXAMPLES), "second": range(10)}  # by the names of templates
    for half, examples in halves.items():
        rows = of_change(found, "templates", half)
        assert set(rows["reference"]) == {"all"}
        row = whole(found, "templates", half)
        assert (row["tasks"], row["bases"], row["other_examples"]) == (3, 3, 3)
        assert math.isnan(row["jaccard"])
        values = {
            (record.cell.task, record.cell.basis): (
                naive_nodes_to_80(record, range(EXAMPLES)),
                naive_nodes_to_80(record, examples),
            )
            for record in records
        }
        assert any(before != after for before, after in values.values())
        taus = [
            naive_tau(*zip(*(values[task, basis] for basis in sorted(BASES)), strict=True))  # type: ignore[arg-type]
            for task in TASKS
        ]
        assert row["tau"] == pytest.approx(np.mean(taus))
        for basis in BASES:
            own = rows[rows["basis"] == basis].iloc[0]
            before, after = (np.median([values[task, basis][side] for task in TASKS]) for side in (0, 1))
            assert (own["before"], own["after"]) == (before, after)


def test_a_record_on_some_templates_has_their_examples_and_numbers_levels_anew() -> None:
    record = in_two_wordings(synthetic_record("ioi", "mlp_act", examples=EXAMPLES))
    some = on_templates(record, {"a"})
    assert [group.key for group in some.groups] == ["a:1,3"]
    assert some.endpoints.full == record.endpoints.full[10:]
    assert [row[0] for row in some.curve.circuit] == [row[10] for row in record.curve.circuit]
    assert [row and row[-1] for row in some.curve.complement] == [row and row[-1] for row in record.curve.complement]
    assert some.endpoints.accuracy == np.mean(np.array(record.endpoints.full[10:]) > 0)
    for factor, levels in some.clusters.items():
        expected: dict[int, int] = {}
        assert list(levels) == [expected.setdefault(level, len(expected)) for level in record.clusters[factor][10:]]
    assert on_templates(record, {"a", "b"}) == record.model_copy(update={"subset_checks": ()})


@pytest.mark.slow
def test_controls_tasks_below_a_gate_and_two_changes_at_once_are_left_out() -> None:
    by_unit = [*cross(granularity="unit"), *cross(granularity="unit", ablation="zero")]
    records = [*cross(), *cross(method="ixg"), *by_unit]  # the latter differ in two choices
    found = robustness(records)
    assert set(found["choice"]) == {"granularity", "method", "summary"}
    assert whole(found, "granularity", "unit")["tasks"] == 3
    controls = [
        changed(record, record={"control": True}) if record.cell.basis == "mlp_act_rotated" else record
        for record in records
    ]
    assert whole(robustness(controls), "granularity", "unit")["bases"] == 2
    weak = [synthetic_record("sva_simple", basis, examples=EXAMPLES, gap=0.01) for basis in BASES]
    weak += [synthetic_record("sva_simple", basis, examples=EXAMPLES, gap=0.01, granularity="unit") for basis in BASES]
    assert whole(robustness([*records, *weak]), "granularity", "unit")["tasks"] == 3
    with pytest.raises(RecordError, match=r"nothing to compare: .*basisbench run robust"):
        robustness(cross())


@pytest.mark.slow
def test_what_is_not_reached_stands_behind_all_that_is_and_has_no_ratio() -> None:
    low = [synthetic_record(task, "mlp_act", examples=EXAMPLES, ablation="zero", ceiling=0.6) for task in TASKS]
    rest = [record for record in cross(ablation="zero") if record.cell.basis != "mlp_act"]
    found = robustness([*cross(), *low, *rest])
    row = whole(found, "ablation", "zero")
    assert row["tau"] == pytest.approx((1 - 2) / 3)  # the first of three has become the last
    assert row["best_stays"] == 0
    moved = of_change(found, "ablation", "zero").set_index("basis").loc["mlp_act"]
    assert math.isinf(moved["after"])
    assert moved["ratio_low"] > 1
    text = plain_text(robustness_tables(found, pd.DataFrame(), pd.DataFrame(), Display())[1])
    assert f"{moved['before']:.0f} to not" in text
    none = [
        synthetic_record(task, basis, examples=EXAMPLES, ablation="zero", ceiling=0.6)
        for task in TASKS
        for basis in BASES
    ]
    row = whole(robustness([*cross(), *none]), "ablation", "zero")
    assert math.isnan(row["tau"])
    assert (row["best_stays"], row["turned"]) == (0, 0)


@pytest.mark.slow
def test_other_evaluation_pairs_are_told_and_rounding_is_none() -> None:
    other = [with_endpoint_moved(record, "full", [1e-4] * EXAMPLES) for record in cross(ablation="zero")]
    assert whole(robustness([*cross(), *other]), "ablation", "zero")["other_examples"] == 0
    other = [with_endpoint_moved(record, "full", [0.5, *[0.0] * (EXAMPLES - 1)]) for record in cross(ablation="zero")]
    assert whole(robustness([*cross(), *other]), "ablation", "zero")["other_examples"] == 3


def named(record: Record, units: Sequence[int]) -> list[dict[str, object]]:
    group = record.groups[0].key
    return [
        {"group": group, "layer": 0, "position": 1, "role": "subject", "unit": unit, "score": 9.0 - at}
        for at, unit in enumerate(units)
    ]


def draws_of(record: Record, named_units: Sequence[Sequence[int]]) -> list[Record]:
    """Return a record as three draws of attribution pairs, whose curves and best nodes differ."""
    found = []
    for draw, units in enumerate(named_units):
        own = synthetic_record("ioi", record.cell.basis, examples=EXAMPLES, ceiling=1 - 0.04 * draw)
        own = changed(own, cell={"attribution_draw": draw}, record={"top_nodes": named(own, units)})
        found.append(own)
    return found


def test_draws_are_summed_up_by_hand(tmp_path: Path) -> None:
    records = draws_of(synthetic_record("ioi", "mlp_act", examples=EXAMPLES), [(1, 2, 3), (1, 2, 4), (5, 2, 1)])
    records += [synthetic_record("ioi", "mlp_out", examples=EXAMPLES)]
    table = draw_spread(records, Display())
    assert list(table["basis"]) == ["mlp_act"]
    row = table.iloc[0]
    write_suite(tmp_path, records[:3])
    frame = load_results(tmp_path)
    curves = [
        dict(zip(part["size"], part["faithfulness"], strict=True)) for _, part in frame.groupby("attribution_draw")
    ]
    shared = set(curves[0]) & set(curves[1]) & set(curves[2])
    apart = {size: max(c[size] for c in curves) - min(c[size] for c in curves) for size in shared}
    assert row["curve_spread"] == pytest.approx(max(apart.values()))
    assert apart[row["spread_size"]] == max(apart.values())
    nodes = summarise(records[:3]).sort_values("attribution_draw")
    values = list(nodes["nodes_to_80"])
    assert (row["draws"], row["first"], row["least"], row["most"]) == (3, values[0], min(values), max(values))
    assert row["middle"] == sorted(values)[1]
    low, high = nodes.iloc[0][["nodes_to_80_low", "nodes_to_80_high"]]
    assert row["inside"] == sum(low <= value <= high for value in values[1:])
    assert row["jaccard"] == pytest.approx((2 / 4 + 2 / 4 + 2 / 4) / 3)
    assert draw_spread(records[:1], Display()).empty


@pytest.mark.slow
def test_best_nodes_are_compared_where_they_are_of_one_kind() -> None:
    def both(task: str, **changes: object) -> list[Record]:
        records = []
        for basis, units in (("mlp_act", (1, 2)), ("mlp_out", (1, 3))):
            own = synthetic_record(task, basis, examples=EXAMPLES)
            records.append(changed(own, record={"top_nodes": named(own, units)}))
            kept = units if basis == "mlp_act" else (3, 4)
            records.append(changed(own, cell=changes, record={"top_nodes": named(own, kept)}))
        return records

    found = robustness([record for task in TASKS for record in both(task, score_reference="counterfactual")])
    assert whole(found, "score_reference", "counterfactual")["jaccard"] == pytest.approx((1 + 1 / 3) / 2)
    found = robustness([record for task in TASKS for record in both(task, granularity="unit")])
    assert math.isnan(whole(found, "granularity", "unit")["jaccard"])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, turned: list[Record]) -> Path:
    folder = tmp_path_factory.mktemp("robustness")
    draws = draws_of(synthetic_record("ioi", "mlp_act", examples=EXAMPLES), [(1, 2), (1, 3), (1, 2)])[1:]
    write_suite(folder, [*turned, *draws])
    return folder


@pytest.mark.slow
def test_the_command_prints_tables_and_writes_every_number(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, picture = tmp_path / "r.csv", tmp_path / "r.png"
    assert main(["robustness", str(folder), "--csv", str(file), "--plot", str(picture)]) == 0
    printed = capsys.readouterr().out
    assert "Ranking of bases of the family mlp, pocket-llama" in printed
    assert "Attribution draws" in printed
    assert "mlp_act before mlp_act_rotated" in printed
    assert picture.stat().st_size > 10_000
    rows = list(csv.DictReader(io.StringIO(file.read_text(encoding="utf-8"))))
    planted = [row for row in rows if row["value"] == "counterfactual" and row["basis"] == ""]
    assert sorted(row["task"] for row in planted) == sorted(["", *TASKS])
    assert {float(row["tau"]) for row in planted} == {-1.0}
    assert [row for row in rows if row["draws"] == "3"]
    assert (
        main(["robustness", str(folder), "--task", "ioi", "--basis", "mlp_act", "--basis", "mlp_out", "--csv", "-"])
        == 0
    )
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert {row["task"] for row in rows} == {"", "ioi"}
    assert {row["basis"] for row in rows} == {"", "mlp_act", "mlp_out"}


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--task", "iio"], "no task of these results named 'iio'; did you mean ioi"),
        (["--basis", "mlp_act", "--task", "ioi"], "nothing to compare"),
        (["--method", "gim"], "no result has the method 'gim'"),
        (["--plot", "r.jpg"], "expected a name that ends in"),
    ],
)
def test_what_cannot_be_done_is_told_in_one_line(
    folder: Path, more: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["robustness", str(folder), *more]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1
