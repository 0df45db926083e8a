"""Lines beside those of dictionaries, the end of scores, panels below a gate, distinct units on the axis."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.lines import Line2D

from basisbench.errors import BasisBenchError
from basisbench.plots.curves import plot_curves
from basisbench.plots.panels import BESIDE_LABEL, FAINT, RANDOM_LABEL
from basisbench.plots.style import COLOURS
from basisbench.results.frame import frame_of
from basisbench.results.policies import split_with_policies
from basisbench.results.record import Record
from basisbench.types import ErrorPolicy
from helpers.altered_records import scored_to, with_cell, without_effect
from helpers.drawn_figures import DISPLAY, drawn, legend_labels, line
from helpers.synthetic_records import synthetic_record

pytestmark = pytest.mark.filterwarnings("error")

POLICIES: tuple[ErrorPolicy, ...] = ("coordinates", "node", "ablate")


def records() -> list[Record]:
    """Neurons under coordinates alone, a dictionary under three policies, each with a ceiling of its own."""
    neurons = synthetic_record("ioi", "mlp_act", error_policy="coordinates")
    return [neurons] + [
        synthetic_record("ioi", "transcoder", error_policy=policy, ceiling=ceiling)
        for policy, ceiling in zip(POLICIES, (1.0, 0.9, 0.6), strict=True)
    ]


def lines_of(axes: Axes, basis: str) -> list[Line2D]:
    colour = COLOURS[DISPLAY.basis_styles[basis].colour].lower()
    return [item for item in axes.get_lines() if to_hex(item.get_color()) == colour]


def test_other_policies_stand_beside_a_dictionary_s_own_line() -> None:
    frame = frame_of(records())
    figure = plot_curves(frame, quantity="faithfulness")
    (axes,) = drawn(figure)
    assert legend_labels(figure) == ["mlp_act", "transcoder", "ideal", *BESIDE_LABEL.values()]
    own, thin, ceiling = lines_of(axes, "transcoder")
    rows = {policy: frame[(frame["basis"] == "transcoder") & (frame["error_policy"] == policy)] for policy in POLICIES}
    np.testing.assert_array_equal(own.get_ydata(), rows["coordinates"]["faithfulness"])
    np.testing.assert_array_equal(thin.get_ydata(), rows["node"]["faithfulness"])
    np.testing.assert_array_equal(thin.get_xdata(), rows["node"]["size"])
    assert list(np.asarray(ceiling.get_ydata())) == [rows["ablate"]["faithfulness"].iloc[-1]] * 2
    assert own.get_linewidth() > thin.get_linewidth() == ceiling.get_linewidth()
    assert len(lines_of(axes, "mlp_act")) == 1
    assert len(axes.collections) == 2, "bands belong to the lines of the legend"


def test_a_level_of_faithfulness_is_none_of_completeness() -> None:
    figure = plot_curves(frame_of(records()), quantity="completeness")
    assert len(lines_of(drawn(figure)[0], "transcoder")) == 2
    assert BESIDE_LABEL["ablate"] not in legend_labels(figure)


def test_print_says_it_in_the_caption() -> None:
    figure = plot_curves(frame_of(records()), quantity="faithfulness", style="paper")
    assert legend_labels(figure) == ["mlp_act", "transcoder", "ideal"]
    assert "Thin: a dictionary's errors as one node" in figure.get_label()
    assert "Dotted levels" in figure.get_label()
    assert "Faint" not in figure.get_label()


@pytest.mark.slow
def test_policies_share_a_folder_only_where_one_has_all_of_the_other() -> None:
    cells = records()
    for some, titles in (
        (cells, ["coordinates"]),
        (cells[2:], ["node", "ablate"]),
        ([*cells, synthetic_record("ioi", "transcoder", "ig", error_policy="node")], ["coordinates", "node"]),
        ([*cells, synthetic_record("ioi", "transcoder", error_policy="keep")], ["coordinates", "keep"]),
        ([*cells, with_cell(cells[2], score_split="evaluation")], ["coordinates", "node"]),
    ):
        parts = split_with_policies(frame_of(some))
        assert [part.rows["error_policy"].iloc[0] for part in parts] == titles
        for part in parts:
            beside = set(part.beside["error_policy"])
            assert beside == ({"node", "ablate"} if part.rows["error_policy"].iloc[0] == "coordinates" else set())
    held_in = parts[1].rows
    assert list(held_in["score_split"].unique()) == ["evaluation"], "held-in curves never stand beside held-out ones"


def test_a_line_is_faint_beyond_the_nodes_that_have_a_score() -> None:
    record = scored_to(synthetic_record("ioi", "mlp_out"), 700)
    frame = frame_of([synthetic_record("ioi", "mlp_act"), record])
    figure = plot_curves(frame, quantity="faithfulness")
    (axes,) = drawn(figure)
    own, beyond, tick = lines_of(axes, "mlp_out")
    rows = frame[frame["basis"] == "mlp_out"]
    sizes = rows["size"].to_numpy()
    np.testing.assert_array_equal(own.get_xdata(), sizes[sizes <= 700])
    np.testing.assert_array_equal(line(axes, "mlp_out")[0], own.get_xdata())
    last = sizes[sizes <= 700].max()
    np.testing.assert_array_equal(beyond.get_xdata(), sizes[sizes >= last])
    assert beyond.get_alpha() == FAINT
    assert (tick.get_marker(), list(np.asarray(tick.get_xdata()))) == ("|", [last])
    assert len(lines_of(axes, "mlp_act")) == 1
    assert RANDOM_LABEL in legend_labels(figure)


def test_sizes_without_a_complement_are_left_out_of_completeness() -> None:
    record = synthetic_record("ioi", "mlp_act")
    content = record.model_dump()
    content["curve"]["complement"] = (*content["curve"]["complement"][:4], None, *content["curve"]["complement"][5:])
    frame = frame_of([Record.model_validate(content)])
    (axes,) = drawn(plot_curves(frame, quantity="completeness"))
    measured = frame["completeness"].notna()
    assert not measured.iloc[4]
    np.testing.assert_array_equal(line(axes, "mlp_act")[0], frame.loc[measured, "size"])
    np.testing.assert_array_equal(line(axes, "mlp_act")[1], frame.loc[measured, "completeness"])


@pytest.mark.slow
def test_a_panel_below_a_gate_is_grey_and_says_why_in_logits() -> None:
    cells = [synthetic_record("ioi"), synthetic_record("sva_rc", gap=0.2), without_effect(synthetic_record("user_age"))]
    figure = plot_curves(frame_of(cells), quantity="faithfulness")
    fine, below, flat = drawn(figure)
    assert to_hex(fine.get_facecolor()) == "#ffffff"
    assert to_hex(below.get_facecolor()) == to_hex(flat.get_facecolor()) != "#ffffff"
    assert not fine.texts
    (note,) = below.texts
    assert "below a gate: accuracy 0." in note.get_text()
    assert "F(M) 0." in note.get_text()
    assert "logits" in note.get_text()
    assert len(line(below, "mlp_act")[0]) > 10, "its curve is drawn all the same"
    assert "not defined, F(M) = F(0)" in flat.texts[0].get_text()
    assert "Grey: too little to explain" in figure.legends[0].get_title().get_text()


def test_distinct_units_on_the_axis() -> None:
    frame = frame_of([synthetic_record("ioi")])
    (axes,) = drawn(plot_curves(frame, quantity="faithfulness", x="all_units"))
    np.testing.assert_array_equal(line(axes, "mlp_act")[0], frame["all_units"])
    assert axes.get_xlabel() == "distinct units in the circuits of all aligned groups"
    with pytest.raises(BasisBenchError, match="records of schema 1 do not count"):
        plot_curves(frame.assign(all_units=np.nan), x="all_units")
