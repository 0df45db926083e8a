"""What is said of steering: a claim only outside the controls' interval, tables and CSV of every number."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence

import pytest

from basisbench.plots.steering import plot_steering
from basisbench.results.display import Display
from basisbench.results.record import CellConfig, Identities
from basisbench.results.steering import Dose, Outcome, Steered, Steering, steering_csv, steering_tables
from basisbench.results.tables import plain_text


def steering(metrics: Sequence[float], draws: int = 39, unchanged: float | None = 1.0) -> Steering:
    """Return a dose-response whose controls lie between 4 and 6 at every dose but 1, where nothing changes."""
    cell = CellConfig(
        model="m", task="t", task_version="1", basis="b", family="mlp", method="relp", attribution_pairs=4,
        evaluation_pairs=4,
    )  # fmt: skip
    doses = []
    for place, metric in enumerate(metrics):
        controls = tuple(5.0 if place == unchanged else 4 + 2 * draw / (draws - 1) for draw in range(draws))
        chosen = Outcome(metric=metric, right=0.5, kl=0.25 * place)
        doses.append(
            Dose(
                dose=place, chosen=chosen, low=metric - 0.5, high=metric + 0.5, controls=controls,
                controls_kl=tuple(0.01 for _ in controls), baselines={"random": chosen}, others={"o": chosen},
                text_kl=0.125, text_controls_kl=(0.1, 0.2),
            )
        )  # fmt: skip
    full = Outcome(metric=5, right=1, kl=0)
    return Steering(
        schema_version=1, cell=cell, identities=Identities(model="a" * 64, dictionary=None, data="b" * 64),
        operation="scale", at="all",
        nodes=(Steered(layer=3, unit="error", coordinate=7, role="verb", size=2, control_size=1),),
        pairs=4, full=full, others_full={"o": full}, draws=draws, text="novel.txt", text_tokens=64, unchanged=unchanged,
        doses=tuple(doses),
    )  # fmt: skip


def test_a_cause_is_claimed_only_outside_the_interval_of_enough_controls() -> None:
    assert steering([3.9, 5, 6.1]).claim.startswith(
        "At doses 0, 2 these nodes cause it: the metric lies outside the 95%"
    )
    assert steering([3.9, 5, 6.1]).claim.endswith("moved by as much.")
    assert steering([3.9, 5, 5.9]).claim.startswith("At dose 0 these nodes cause it")
    assert steering([3.9, 5, 5.9]).claim.endswith("; at the others it lies within.")
    for within in (steering([4, 5, 6]), steering([4.1, 9, 5.9])):  # the dose that changes nothing is never tested
        assert within.claim.startswith("At no dose does the metric lie outside the 95% interval of 39 draws")
        assert "cause it, and not any like them, is not shown" in within.claim
    few = steering([0, 5, 9], draws=38)
    assert few.claim.startswith("38 draws of controls give no 95% interval (39 do)")
    assert not any(map(few.outside, few.doses))


def test_tables_and_csv_have_every_number() -> None:
    found = steering([3.9, 5, 6.1])
    text = "\n".join(plain_text(table) for table in steering_tables(found))
    for part in (
        "m, t, b: the best under relp, 3:verb:error 7, scaled",
        "3.90 [3.40, 4.40]*",
        "4.00 to 6.00",
        found.claim,
    ):
        assert part in text
    assert "5.00 [4.50, 5.50] " in text  # no star
    assert "text: novel.txt, 64 tokens" in text
    rows = list(csv.DictReader(io.StringIO(steering_csv(found))))
    assert len(rows) == 3 * (1 + 39 + 1 + 1 + 1 + 2)
    first = rows[0]
    assert (first["dose"], first["nodes"], first["on"]) == ("0.0", "chosen", "t")
    assert float(first["metric"]) == 3.9
    assert Steering.model_validate_json(found.model_dump_json()) == found


@pytest.mark.parametrize("unchanged", [1.0, None])
def test_the_picture_has_the_band_and_the_doses(unchanged: float | None) -> None:
    found = steering([3.9, 5, 6.1], unchanged=unchanged)
    left, right = plot_steering(found, Display()).axes
    chosen = left.containers[0].lines[0]
    assert list(chosen.get_xdata()) == [0, 1, 2]
    assert list(chosen.get_ydata()) == [3.9, 5, 6.1]
    band = left.collections[0].get_paths()[0].vertices
    assert (band[:, 1].min(), band[:, 1].max()) == (4, 6)
    assert right.get_yscale() == "log"
