"""Ratios over seeds of a model and trainings of its dictionaries: values, intervals, and what is left out."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from basisbench.cli import main
from basisbench.results.controls import ratio, ratio_text
from basisbench.results.display import Display
from basisbench.results.findings import written_anew
from basisbench.results.frame import summarise
from basisbench.results.medians import median_table
from basisbench.results.over_models import mean_over, over_models, student
from basisbench.results.record import Record
from basisbench.results.record_fields import SuiteTasks
from basisbench.results.robustness_tables import robustness_tables
from helpers.synthetic_records import changed, synthetic_record, write_suite

TASKS = ("ioi", "sva_rc", "sva_simple")


def record(model: str, weights: str, task: str, basis: str, trained: str | None = None) -> Record:
    """Return the record of a basis on one of several models of the same examples."""
    # The name of another basis gives another curve; a ceiling would give none that is reached.
    made = synthetic_record(task, basis, model=model, examples=12, dictionary=trained, overshoot=0.1 * len(weights))
    return changed(made, identities={"model": weights * 64})


@pytest.fixture(scope="module")
def records() -> list[Record]:
    """Three models of different weights; of the third there are two trainings of dictionaries."""
    made: list[Record] = []
    for model, weights, trained in (("a", "1", "5"), ("b", "2", "6"), ("c", "3", "7"), ("c-again", "3", "8")):
        for task in TASKS:
            made += [record(model, weights, task, basis) for basis in ("mlp_act", "mlp_out")]
            made.append(record(model, weights, task, "transcoder", trained * 64))
    return made


def test_the_mean_and_its_interval_are_those_of_the_logarithms() -> None:
    logs = pd.Series([0.1, 0.3, 0.9, -0.4], index=["x", "x", "y", "z"])
    found = mean_over(logs)
    means = np.array([0.2, 0.9, -0.4])
    half = 4.3027 * means.std(ddof=1) / math.sqrt(3)
    assert found["ratio"] == pytest.approx(math.exp(means.mean()))
    assert found["ratio_low"] == pytest.approx(math.exp(means.mean() - half))
    assert found["ratio_high"] == pytest.approx(math.exp(means.mean() + half))
    assert (found["models"], found["trainings"]) == (3, 4)
    assert found["between_models"] == pytest.approx(math.exp(means.std(ddof=1)))
    assert found["between_trainings"] == pytest.approx(math.exp(math.sqrt(2 * 0.1**2 / 1)))


def test_one_training_each_says_nothing_of_trainings() -> None:
    found = mean_over(pd.Series([0.1, 0.3], index=["x", "y"]))
    assert math.isnan(float(str(found["between_trainings"])))
    assert found["ratio_low"] < found["ratio"] < found["ratio_high"]  # type: ignore[operator]


def test_what_is_not_reached_has_no_mean() -> None:
    found = mean_over(pd.Series([0.1, math.inf], index=["x", "y"]))
    assert found["ratio"] == math.inf
    assert math.isnan(float(str(found["ratio_low"])))
    assert math.isnan(float(str(found["between_models"])))


@pytest.mark.parametrize(
    ("freedom", "expected"), [(1, 12.706), (3, 3.182), (10, 2.228), (11, 2.201), (30, 2.042), (120, 1.980)]
)
def test_student(freedom: int, expected: float) -> None:
    assert student(freedom) == pytest.approx(expected, abs=1e-3)  # tables of the distribution


def test_each_ratio_is_that_of_the_medians_and_models_of_the_same_weights_are_one(records: list[Record]) -> None:
    table = over_models(records)
    assert list(table["basis"]) == ["mlp_out", "transcoder"]
    assert set(table["against"]) == {"mlp_act"}
    neurons, trained = table.iloc[0], table.iloc[1]
    assert (neurons["models"], neurons["trainings"]) == (3, 3)  # neurons are not trained again
    assert (trained["models"], trained["trainings"]) == (3, 4)
    medians = median_table(summarise(records)).set_index(["model", "basis"])
    values = []
    for model in ("a", "b", "c", "c-again"):
        one, other = (medians.loc[(model, basis), "draws"] for basis in ("transcoder", "mlp_act"))
        found = ratio(one, other, "nodes_to_80")
        assert f"{model} {ratio_text(found)}" in trained["each"]
        values.append(math.log(found.value))
    expected = math.exp((values[0] + values[1] + (values[2] + values[3]) / 2) / 3)
    assert trained["ratio"] == pytest.approx(expected)


def test_only_tasks_that_every_model_has_above_the_gates_count(records: list[Record]) -> None:
    extra = [record("a", "1", "user_age", basis) for basis in ("mlp_act", "mlp_out")]
    whole, more = over_models(records), over_models([*records, *extra])
    assert list(whole["suite_tasks"]) == list(more["suite_tasks"]) == [", ".join(sorted(TASKS))] * 2
    assert list(whole["ratio"]) == list(more["ratio"])
    # One model has another family on more tasks.
    other = [record("a", "1", task, "attn_out") for task in (*TASKS, "user_age", "user_gender")]
    assert list(over_models([*records, *other])["ratio"]) == list(whole["ratio"])
    # A suite of one model's records does not matter either.
    suite = SuiteTasks(name="of its own", tasks=("ioi", "user_age"))
    named = [each.model_copy(update={"suite": suite}) if each.cell.model == "a" else each for each in records]
    assert list(over_models(named)["ratio"]) == list(whole["ratio"])


def test_models_that_lack_a_basis_are_named(records: list[Record]) -> None:
    def without(*models: str) -> pd.Series:
        rest = [
            each
            for each in records
            if (each.cell.model, each.cell.basis, each.cell.task) not in {(m, "mlp_out", "ioi") for m in models}
        ]
        return over_models(rest).set_index("basis").loc["mlp_out"]

    two = without("b")
    assert (two["models"], two["lacking"]) == (2, "b (2 of 3 tasks)")
    assert math.isfinite(two["ratio_high"])
    one = without("b", "c", "c-again")
    assert (one["models"], one["lacking"]) == (1, "b (2 of 3 tasks); c (2 of 3 tasks); c-again (2 of 3 tasks)")
    assert math.isnan(one["ratio"])
    rest = [
        each for each in records if (each.cell.model, each.cell.basis) not in {("b", "mlp_out"), ("a", "transcoder")}
    ]
    rest = [each for each in rest if (each.cell.model[0], each.cell.basis) != ("c", "transcoder")]
    title = robustness_tables(pd.DataFrame(), pd.DataFrame(), over_models(rest), Display())[0].title
    assert "left out, on fewer than two models: transcoder" in title
    assert "not counted, mlp_out: b (0 of 3 tasks)" in title
    assert not over_models(records)["lacking"].any()


def test_the_method_that_is_asked_for_is_that_of_both_tables(
    records: list[Record], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = [changed(each, cell={"method": "ixg"}) for each in records]
    write_suite(tmp_path, [*records, *other])
    assert main(["robustness", str(tmp_path), "--method", "ixg"]) == 0
    shown = capsys.readouterr().out
    assert "Over models (mlp, ixg)" in shown
    assert "Over models (mlp, relp)" not in shown
    assert main(["robustness", str(tmp_path), "--method", "gim"]) == 2
    assert "no result has the method 'gim'" in capsys.readouterr().err


def test_names_of_dictionaries_stay_bare_where_models_have_names_of_their_own(records: list[Record]) -> None:
    assert set(summarise(records)["basis"]) == {"mlp_act", "mlp_out", "transcoder"}
    twice = [record("c", "3", "ioi", "transcoder", digit * 64) for digit in "78"]
    assert set(summarise(twice)["basis"]) == {"transcoder (77777777)", "transcoder (88888888)"}


def test_one_model_has_no_table(records: list[Record]) -> None:
    assert over_models([each for each in records if each.cell.model == "a"]).empty
    same = [each for each in records if each.cell.model in ("c", "c-again")]
    assert over_models(same).empty
    tuning = {"start": "1" * 64, "tokens": 1000, "digest": "9" * 64}
    tuned = [changed(each, record={"tuning": tuning}) for each in records if each.cell.model == "b"]
    assert over_models([*tuned, *(each for each in records if each.cell.model == "a")]).empty


def test_the_command_and_the_findings_say_it(
    records: list[Record], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_suite(tmp_path / "mine", records)
    assert main(["robustness", str(tmp_path / "mine"), "--csv", str(tmp_path / "all.csv")]) == 0
    shown = capsys.readouterr().out
    row = over_models(records).set_index("basis").loc["transcoder"]
    said = f"{row['ratio']:.2f} [{row['ratio_low']:.2f}, {row['ratio_high']:.2f}]"
    assert "Over models (mlp, relp)" in shown
    assert said in shown
    assert "c-again" in shown
    assert "Kendall" not in shown  # nothing but the model changes
    assert "between_trainings" in (tmp_path / "all.csv").read_text("utf-8").splitlines()[0]
    text = written_anew("<!-- over_models mine basis=transcoder method=relp -->?<!-- / -->", tmp_path)
    assert said in text
