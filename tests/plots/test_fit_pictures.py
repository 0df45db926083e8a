"""Pictures of sparsity against fit: made-up dictionaries of two kinds and widths."""

from __future__ import annotations

from pathlib import Path

import pytest

from basisbench.plots.fit import dictionaries_of, plot_fit
from basisbench.plots.look import look_of
from basisbench.plots.pictures import plot_results
from basisbench.plots.style import basis_styles
from basisbench.results.frame import summarise
from basisbench.results.policies import split_with_policies
from basisbench.results.record import Record
from basisbench.types import ErrorPolicy
from helpers.drawn_figures import DISPLAY, drawn, legend_labels
from helpers.synthetic_records import changed, synthetic_record

pytestmark = pytest.mark.filterwarnings("error")

FITS = (0.02, 0.08, 0.3, 0.6)
POLICIES: tuple[ErrorPolicy, ...] = ("coordinates", "ablate")


def dictionary(kind: str, fit: float, policy: ErrorPolicy, units: int = 1024) -> Record:
    """Return a cell of a dictionary; without errors one that fits badly does not reach 80%."""
    record = synthetic_record(
        "ioi", "transcoder" if kind == "transcoder" else "sae_mlp_out", name=f"sae:mine/{fit}-{units}/{kind}",
        examples=24, error_policy=policy, ceiling=0.7 if policy == "ablate" and fit > 0.5 else 1.0,
    )  # fmt: skip
    own: dict[str, object] = {"training": {"first_position": 0, "kind": kind}}
    if policy == "coordinates":
        own["error_share"] = fit / 2
    counts = {"units_per_layer": (units,) * 4}
    return changed(record, record=own, guard={"fvu": (fit,) * 4}, counts=counts)


def records() -> list[Record]:
    neurons = [synthetic_record("ioi", basis, examples=24) for basis in ("mlp_act", "mlp_out")]
    cells = [dictionary("SAE", fit, policy) for fit in FITS for policy in POLICIES]
    wide = [dictionary("SAE", 0.05, policy, 4096) for policy in POLICIES]
    few = [dictionary("transcoder", fit, policy) for fit in FITS[:3] for policy in POLICIES]
    return [*neurons, *cells, *wide, *few]


def kinds(cells: list[Record]) -> dict[str, tuple[str, int]]:
    return {each.id: (each.training.kind, each.counts.units_per_layer[0]) for each in cells if each.training}


def test_points_are_the_cells_in_order_of_their_fit_and_too_few_of_a_kind_are_none() -> None:
    cells = records()
    (part,) = split_with_policies(summarise(cells))
    rows = dictionaries_of(part, kinds(cells), DISPLAY)
    assert set(rows["kind"]) == {"SAE"}, "three transcoders are no trend"
    styles = basis_styles([record.cell.basis for record in cells], DISPLAY)
    figure = plot_fit(rows, part, styles, DISPLAY)
    panels = drawn(figure)
    assert [axes.get_title().partition(":")[0] for axes in panels] == [*POLICIES, "errors' share"]
    summary = summarise(cells).set_index("cell_id")
    for policy, axes in zip(POLICIES, panels, strict=False):
        for record in cells:
            value = float(summary.loc[record.id, "nodes_to_80"])
            if record.training is None:
                assert any(set(item.get_ydata()) == {value} for item in axes.get_lines())
            elif record.cell.error_policy == policy and record.training.kind == "SAE":
                fit = record.guard.fvu[0] if record.guard else 0.0
                alone = [item for item in axes.get_lines() if item.get_linestyle() == "None"]
                marks = [item for item in alone if list(item.get_xdata()) == [pytest.approx(fit)]]
                hollow = [item.get_markerfacecolor() == "white" for item in marks]
                assert hollow == [policy == "ablate" and fit > 0.5]
                assert hollow[0] or marks[0].get_ydata()[0] == value
    shares = {len(line.get_xdata()): line for line in panels[-1].get_lines()}
    assert list(shares[4].get_xdata()) == pytest.approx(FITS)
    assert list(shares[4].get_ydata()) == pytest.approx([fit / 2 for fit in FITS])
    assert legend_labels(figure) == [
        *("mlp_act", "mlp_out", "SAE of 1,024 units a layer", "SAE of 4,096 units a layer"),
        "hollow, at >N: not reached",
    ]


@pytest.mark.slow
def test_a_folder_has_one_where_there_are_several_and_print_says_what_it_shows(tmp_path: Path) -> None:
    cells = records()
    files = plot_results(cells, tmp_path / "many")
    assert "fit_mlp_ioi.png" in {path.name for path in files}
    neurons_and_few = [cell for cell in cells if not cell.training or cell.training.kind == "transcoder"]
    assert not [path for path in plot_results(neurons_and_few, tmp_path / "few") if path.name.startswith("fit_")]
    (part,) = split_with_policies(summarise(cells))
    styles = basis_styles([record.cell.basis for record in cells], DISPLAY)
    rows = dictionaries_of(part, kinds(cells), DISPLAY)
    figure = plot_fit(rows, part, styles, DISPLAY, look=look_of("paper", "page"))
    assert "fraction of variance unexplained on the task's prompts" in figure.get_label()
    assert "The last panel" in figure.get_label()
